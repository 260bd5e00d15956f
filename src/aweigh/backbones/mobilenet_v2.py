"""MobileNet V2 (Sandler et al., CVPR 2018) as timm has it, and of widths for which timm has no name.

ShuffleNet V2 compares itself with widths 0.15 and 0.6, and with 0.4 and 0.75 on smaller images (Ma et al. 2018, table
8). How these were rounded it does not say; here, as in timm, torchvision and its authors' code, channels are
multiples of 8. At 224 x 224 width 0.15 costs 30.6 M multiply-adds where the table says 39 M, width 0.6 151.0 M where
it says 141 M.
"""

from typing import Any

from torch import Tensor, nn

from aweigh.backbones.timm import TimmBackbone
from aweigh.errors import UsageError
from aweigh.layers import pointwise_conv

WIDTHS = (0.15, 0.35, 0.4, 0.5, 0.6, 0.75, 1.0, 1.4)
_NAME = "mobilenetv2_"  # timm's names go on with the width in hundredths, in three digits


class MobileNetV2(TimmBackbone):
    """Image in, feature maps out, fine to coarse. Arguments as `TimmBackbone`; name: see `name_of`."""

    @staticmethod
    def create(name: str, **options: Any) -> nn.Module:
        """timm's MobileNet V2 of the width in the name, with random weights."""
        from timm.models import efficientnet

        of_width: Any = efficientnet._gen_mobilenet_v2  # what timm's own names are made by
        model: nn.Module = of_width(f"{_NAME}100", _width(name), **options)
        return model

    def top(self, num_classes: int) -> dict[str, nn.Module]:
        """What makes a classifier of it. Dropout as torchvision has it."""
        wide = max(1280, round(1280 * _width(self.name)))
        return {
            "coarsest": Coarsest(),
            "conv_head": pointwise_conv(self.channels[-1], wide, "bn", "relu6"),
            "pool": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            "dropout": nn.Dropout(0.2),
            "fc": nn.Linear(wide, num_classes),
        }


class Coarsest(nn.Module):
    """Of the maps of a backbone the last."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        return maps[-1]


def name_of(width: float) -> str:
    """`mobilenetv2_060` for 0.6; `UsageError` for a width that is not among `WIDTHS`."""
    if width not in WIDTHS:
        raise UsageError(f"MobileNet V2 has the widths {', '.join(map(str, WIDTHS))}, got {width}.")
    return f"{_NAME}{round(100 * width):03d}"


def mobilenet_v2(width: float = 1.0, **settings: Any) -> MobileNetV2:
    """The backbone; `classifier` puts the rest round it. Settings: those of `TimmBackbone`."""
    return MobileNetV2(name_of(width), **settings)


def _width(name: str) -> float:
    return int(name.removeprefix(_NAME)) / 100
