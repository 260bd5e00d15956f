"""The feature pyramid network (Lin et al., 2017), with the two coarser levels of RetinaNet and FCOS on top.

Equal to torchvision's `FeaturePyramidNetwork` with `LastLevelP6P7` for the same weights, at any image size. Ours
differs in its parameter names, in that P6 is computed from P5 or from C5 by name, not by comparing channel counts, and
in that there may be any number of levels on top, or none.

Legend: C3..C5 are the backbone's maps at strides 8..32, P3..P7 the pyramid's at strides 8..128.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import Few, Width, checked_class
from aweigh.errors import UsageError, counted
from aweigh.layers import Norm, make_norm

Top = Literal["p5", "c5", "c5_linear", "pool"]


@checked_class()
class FPN(nn.Module):
    """Maps of a backbone, fine to coarse, in; `levels` maps of `channels` channels each, fine to coarse, out.

    in_channels, in_strides: the backbone's `.channels` and `.strides`; each stride doubles the one before, or equals
    it, as in torchvision's pyramid on MobileNet V3.
    levels: of the pyramid, as many as maps come in or more; None: two more.
    top: what P6, the first of these, is computed from by a strided convolution: `"p5"` (FCOS) or `"c5"` (RetinaNet),
    each of the next from the one before behind a ReLU; `"c5_linear"`: without (FoveaBox's authors); `"pool"`: each is
    every second cell of the one before (Faster R-CNN).
    norm: normalisation after each lateral and output convolution, which then have no bias; None as in the paper.
    only: one of its halves (the paper's tables 1 to 3): `"bottom_up"`, nothing comes down from coarser maps, or
    `"top_down"`, each level is the coarsest map made larger, without lateral connections.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        *,
        channels: Width = 256,
        levels: Few | None = None,
        top: Top = "p5",
        norm: Norm | None = None,
        only: Literal["bottom_up", "top_down"] | None = None,
    ) -> None:
        super().__init__()
        check_maps("FPN", in_channels, in_strides, may_stay=True)
        more = 2 if levels is None else levels - len(in_channels)
        if more < 0:
            raise UsageError(f"FPN gives a level for each of {counted(len(in_channels), 'map')} or more, not {levels}.")
        joined = in_channels[-1:] if only == "top_down" else in_channels
        self.lateral = nn.ModuleList(_convolution(width, channels, 1, norm) for width in joined)
        self.output = nn.ModuleList(_convolution(channels, channels, 3, norm) for _ in in_channels)
        self.top, self.only = top, only
        self.more = [f"p{6 + level}" for level in range(more)]
        width = channels if top == "p5" else in_channels[-1]
        for name in self.more if top != "pool" else ():
            self.add_module(name, nn.Conv2d(width, channels, 3, stride=2, padding=1))
            width = channels
        self.strides = (*in_strides, *(in_strides[-1] * 2 ** (level + 1) for level in range(more)))
        self.channels = (channels,) * len(self.strides)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """features: `[B, in_channels[i], H_i, W_i]`, fine to coarse. Returns `[B, channels, H_i, W_i]`, fine to coarse.

        Each map behind P5 has ceil(H/2) rows of the one it is computed from; columns likewise.
        """
        merged = self.lateral[-1](features[-1])
        pyramid = [self.output[-1](merged)]
        for level in range(len(features) - 2, -1, -1):
            if self.only == "bottom_up":
                merged = self.lateral[level](features[level])
            else:
                # To the finer map's exact size, since an odd height or width is not twice the coarser one.
                merged = F.interpolate(merged, size=features[level].shape[-2:], mode="nearest")
                if self.only is None:
                    merged = self.lateral[level](features[level]) + merged
            pyramid.insert(0, self.output[level](merged))
        coarsest = pyramid[-1] if self.top in ("p5", "pool") else features[-1]
        for name in self.more:
            if self.top == "pool":
                # A slice with steps is taken for the whole map by OpenVINO, where its shape is asked for.
                coarsest = F.max_pool2d(coarsest, 1, stride=2)
            else:
                behind_relu = name != "p6" and self.top != "c5_linear"
                coarsest = self.get_submodule(name)(F.relu(coarsest) if behind_relu else coarsest)
            pyramid.append(coarsest)
        return pyramid


def check_maps(neck: str, in_channels: Sequence[int], in_strides: Sequence[int], *, may_stay: bool = False) -> None:
    """`UsageError` unless each map has a stride that doubles the one before, or may equal it too (`may_stay`)."""
    if not in_channels or len(in_channels) != len(in_strides):
        raise UsageError(
            f"{neck} needs one stride per input map, got channels {list(in_channels)} and strides {list(in_strides)}."
        )
    if any(coarse != 2 * fine and not (may_stay and coarse == fine) for fine, coarse in pairwise(in_strides)):
        double = "double or stay" if may_stay else "double"
        raise UsageError(f"{neck} needs input strides that {double} from map to map, got {list(in_strides)}.")


def _convolution(in_channels: int, channels: int, kernel: int, norm: Norm | None) -> nn.Module:
    convolution = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=norm is None)
    return convolution if norm is None else nn.Sequential(convolution, make_norm(norm, channels))
