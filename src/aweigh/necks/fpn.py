"""The feature pyramid network (Lin et al., 2017), with the two coarser levels of RetinaNet and FCOS on top.

Equal to torchvision's `FeaturePyramidNetwork` with `LastLevelP6P7` for the same weights, at any image size. Ours
differs in its parameter names, in that P6 is computed from P5 or from C5 by name, not by comparing channel counts, and
in that a top level is optional.

Legend: C3..C5 are the backbone's maps at strides 8..32, P3..P7 the pyramid's at strides 8..128.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import Width, checked_class
from aweigh.errors import UsageError
from aweigh.layers import Norm, make_norm


@checked_class()
class FPN(nn.Module):
    """Maps of a backbone, fine to coarse, in; maps of `channels` channels each, fine to coarse, out.

    in_channels, in_strides: the backbone's `.channels` and `.strides`; each stride doubles the one before, or equals
    it, as in torchvision's pyramid on MobileNet V3.
    top: what P6 is computed from, `"p5"` (FCOS) or `"c5"` (RetinaNet); `"pool"`: every second cell of the coarsest map
    as one level more (Faster R-CNN); `"none"`: no level more.
    norm: normalisation after each lateral and output convolution, which then have no bias; None as in the paper.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        *,
        channels: Width = 256,
        top: Literal["p5", "c5", "pool", "none"] = "p5",
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        if not in_channels or len(in_channels) != len(in_strides):
            raise UsageError(
                f"FPN needs one stride per input map, got channels {list(in_channels)} and strides {list(in_strides)}."
            )
        if any(coarse not in (fine, 2 * fine) for fine, coarse in pairwise(in_strides)):
            raise UsageError(f"FPN needs input strides that double or stay from map to map, got {list(in_strides)}.")
        self.lateral = nn.ModuleList(_convolution(width, channels, 1, norm) for width in in_channels)
        self.output = nn.ModuleList(_convolution(channels, channels, 3, norm) for _ in in_channels)
        self.top = top
        strides = list(in_strides)
        if top == "pool":
            strides += [2 * strides[-1]]
        elif top != "none":
            self.p6 = nn.Conv2d(channels if top == "p5" else in_channels[-1], channels, 3, stride=2, padding=1)
            self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
            strides += [2 * strides[-1], 4 * strides[-1]]
        self.channels = (channels,) * len(strides)
        self.strides = tuple(strides)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """features: `[B, in_channels[i], H_i, W_i]`, fine to coarse. Returns `[B, channels, H_i, W_i]`, fine to coarse.

        P6 has ceil(H/2) rows of the map it is computed from, P7 ceil(H/2) of P6's; columns likewise.
        """
        merged = self.lateral[-1](features[-1])
        pyramid = [self.output[-1](merged)]
        for level in range(len(features) - 2, -1, -1):
            lateral = self.lateral[level](features[level])
            # To the lateral's exact size, since an odd height or width is not twice the coarser one.
            merged = lateral + F.interpolate(merged, size=lateral.shape[-2:], mode="nearest")
            pyramid.insert(0, self.output[level](merged))
        if self.top == "pool":
            pyramid.append(pyramid[-1][:, :, ::2, ::2])
        elif self.top != "none":
            p6 = self.p6(pyramid[-1] if self.top == "p5" else features[-1])
            pyramid += [p6, self.p7(F.relu(p6))]
        return pyramid


def _convolution(in_channels: int, channels: int, kernel: int, norm: Norm | None) -> nn.Module:
    convolution = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=norm is None)
    return convolution if norm is None else nn.Sequential(convolution, make_norm(norm, channels))
