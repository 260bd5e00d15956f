"""DLA-34 (Yu et al., "Deep Layer Aggregation", CVPR 2018), with all the weights that its authors publish.

The network is timm's `dla34`. Its authors' has one projection more in each tree of two levels, whose output nothing
reads; timm leaves both out. They are kept here, since the files of those authors and of CenterNet hold them and count
them: 15,270,832 parameters, of which 41,728 do nothing.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from aweigh.backbones.timm import TimmBackbone
from aweigh.layers import Norm, make_norm

# Tree of two levels -> channels it reads and gives.
TWO_LEVELS = {"body.level3": (64, 128), "body.level4": (128, 256)}


class DLA34(TimmBackbone):
    """Image in, feature maps out, fine to coarse. Arguments as `TimmBackbone`; four levels where none are named."""

    def __init__(
        self, name: str = "dla34", *, levels: Sequence[int] = (2, 3, 4, 5), norm: Norm | None = None, **options: Any
    ) -> None:
        super().__init__(name, levels=levels, norm=norm, **options)
        for tree, (read, given) in TWO_LEVELS.items():
            if int(tree[-1]) <= max(levels):
                projection = Unread(nn.Conv2d(read, given, 1, bias=False), make_norm(norm or "bn", given))
                self.set_submodule(f"{tree}.project", projection.requires_grad_(False))


class Unread(nn.Sequential):
    """Holds weights, and gives what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x
