"""Necks: feature maps to a pyramid. A new one is a file, and a line in the table."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor

from aweigh.arguments import parameters
from aweigh.errors import UsageError
from aweigh.necks.bifpn import BiFPN, Fusion
from aweigh.necks.cells import CellPyramid, fully_connected, path_aggregation, qufpn, top_down
from aweigh.necks.fpn import FPN
from aweigh.necks.hrfpn import HRFPN
from aweigh.necks.nas_fpn import NASFPN, NASFusion
from aweigh.necks.pan import PAN


class GivesMaps(Protocol):
    """What gives maps of an image, fine to coarse: a backbone, or a neck."""

    @property
    def channels(self) -> tuple[int, ...]: ...
    @property
    def strides(self) -> tuple[int, ...]: ...


class Neck(GivesMaps, Protocol):
    """An `nn.Module`: maps `[B, C_i, H_i, W_i]` of a backbone in, those of a pyramid out, both fine to coarse."""

    def __call__(self, features: list[Tensor]) -> list[Tensor]: ...


# What every pyramid detector can stand on, by `neck="..."`. Each is called with a backbone's `.channels` and `.strides`
# and, by name, `channels` (of every map) and `levels` (how many maps it gives, no fewer than come in), and where it has
# a choice `top`, `norm`, `repeats` and `fusion`.
NECKS: dict[str, Callable[..., Neck]] = {
    "fpn": FPN,
    "bottom_up": partial(FPN, only="bottom_up"),
    "top_down": partial(FPN, only="top_down"),
    "pan": PAN,
    "hrfpn": HRFPN,
    "bifpn": BiFPN,
    # Table 5 of EfficientDet
    "repeated_fpn": partial(CellPyramid, top_down, repeats=10),
    "repeated_pan": partial(CellPyramid, path_aggregation, repeats=5),
    "fully_connected": partial(CellPyramid, fully_connected, repeats=10),
    "nas_fpn": NASFPN,
    # EfficientDet's released code
    "qufpn": partial(CellPyramid, qufpn, repeats=3, fusion="fast"),
}
NeckFusion = Literal[Fusion, NASFusion]
if TYPE_CHECKING:
    NeckName = str
else:
    NeckName = Literal[tuple(NECKS)]


def make_neck(
    neck: NeckName,
    backbone: GivesMaps,
    channels: int,
    levels: int,
    *,
    repeats: int | None = None,
    fusion: NeckFusion | None = None,
    **settings: Any,
) -> Neck:
    """A neck by its name, which makes a pyramid of the maps of a backbone; what is None is as in its paper.

    repeats: how often its cell is repeated. fusion: how maps are fused, in the words of the neck. `UsageError` where it
    has no such choice. settings: `top`, `norm` and others, of which those count that the neck has.
    """
    known = parameters(NECKS[neck])
    for name, value in {"repeats": repeats, "fusion": fusion}.items():
        if value is not None and name not in known:
            able = [each for each, build in NECKS.items() if name in parameters(build)]
            raise UsageError(f"The neck {neck} has no {name}, got {value}; those that have: {', '.join(able)}.")
    given = {"repeats": repeats, "fusion": fusion, **settings}
    own = {name: value for name, value in given.items() if name in known and value is not None}
    return NECKS[neck](backbone.channels, backbone.strides, channels=channels, levels=levels, **own)
