"""Necks: feature maps to a pyramid. A new one is a file, and a line in the table."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from torch import Tensor

from aweigh.layers import Norm
from aweigh.necks.bifpn import BiFPN
from aweigh.necks.fpn import FPN, Top
from aweigh.necks.hrfpn import HRFPN
from aweigh.necks.pan import PAN


class Neck(Protocol):
    """An `nn.Module`: maps `[B, C_i, H_i, W_i]` of a backbone in, those of a pyramid out, both fine to coarse."""

    @property
    def channels(self) -> tuple[int, ...]: ...
    @property
    def strides(self) -> tuple[int, ...]: ...
    def __call__(self, features: list[Tensor]) -> list[Tensor]: ...


def bifpn(
    in_channels: Sequence[int], in_strides: Sequence[int], *, channels: int, levels: int, top: Top, norm: Norm | None
) -> BiFPN:
    """Whatever `top` says, its coarser levels are pooled from C5; without a `norm` it has batch normalisation."""
    return BiFPN(in_channels, in_strides, channels=channels, levels=levels, norm=norm or "bn")


def hrfpn(
    in_channels: Sequence[int], in_strides: Sequence[int], *, channels: int, levels: int, top: Top, norm: Norm | None
) -> HRFPN:
    """Whatever `top` says, all its levels are pooled from the joined maps."""
    return HRFPN(in_channels, in_strides, channels=channels, levels=levels, norm=norm)


# What every pyramid detector can stand on, by `neck="..."`. Each is called with a backbone's `.channels` and `.strides`
# and, by name, `channels` (of every map), `levels` (how many maps it gives, no fewer than come in), `top` (what the
# coarser ones are computed from, as in `FPN`) and `norm` (None: as in its paper).
NECKS: dict[str, Callable[..., Neck]] = {
    "fpn": FPN,
    "bifpn": bifpn,
    "pan": PAN,
    "hrfpn": hrfpn,
}
if TYPE_CHECKING:
    NeckName = str
else:
    NeckName = Literal[tuple(NECKS)]
