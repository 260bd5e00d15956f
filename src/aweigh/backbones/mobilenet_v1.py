"""MobileNet V1 (Howard et al. 2017, "MobileNets", arXiv 1704.04861, table 1) by timm's builder, at any width.

ShuffleNet V2 compares itself with widths 0.25, 0.5, 0.75 and 1.0 (Ma et al. 2018, table 8). Channels are multiples of
8, which those of the paper are too; ReLU6 as in its authors' code.
"""

from typing import Any

from torch import nn

from aweigh.backbones.mobilenet_v2 import Coarsest
from aweigh.backbones.timm import TimmBackbone
from aweigh.errors import UsageError

WIDTHS = (0.25, 0.5, 0.75, 1.0)
_NAME = "mobilenetv1_"  # timm's names go on with the width in hundredths, in three digits


class MobileNetV1(TimmBackbone):
    """Image in, feature maps out, fine to coarse. Arguments as `TimmBackbone`; name: see `mobilenet_v1`."""

    @staticmethod
    def create(name: str, **options: Any) -> nn.Module:
        """timm's MobileNet V1 of the width in the name, with random weights."""
        from timm.models import efficientnet

        of_width: Any = efficientnet._gen_mobilenet_v1  # what timm's own names are made by
        model: nn.Module = of_width(f"{_NAME}100", int(name.removeprefix(_NAME)) / 100, **options)
        return model

    def top(self, num_classes: int) -> dict[str, nn.Module]:
        """What makes a classifier of it. Dropout as its authors' code has it."""
        return {
            "coarsest": Coarsest(),
            "pool": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            "dropout": nn.Dropout(0.001),
            "fc": nn.Linear(self.channels[-1], num_classes),
        }


def mobilenet_v1(width: float = 1.0, **settings: Any) -> MobileNetV1:
    """The backbone; `classifier` puts the rest round it. Settings: those of `TimmBackbone`. `UsageError` for a width
    that is not among `WIDTHS`."""
    if width not in WIDTHS:
        raise UsageError(f"MobileNet V1 has the widths {', '.join(map(str, WIDTHS))}, got {width}.")
    return MobileNetV1(f"{_NAME}{round(100 * width):03d}", **settings)
