"""Necks: feature maps to a pyramid."""

from collections.abc import Sequence
from typing import Literal

from aweigh.arguments import Width, check_value, checked
from aweigh.layers import Norm
from aweigh.necks.bifpn import BiFPN
from aweigh.necks.fpn import FPN

Neck = FPN | BiFPN
NeckName = Literal["fpn", "bifpn"]


@checked()
def make_neck(
    name: NeckName,
    in_channels: Sequence[int],
    in_strides: Sequence[int],
    *,
    channels: Width = 256,
    top: Literal["p5", "c5"] = "p5",
    norm: Norm | None = None,
) -> Neck:
    """A pyramid with two levels more than maps come in, by its name; `UsageError` for an unknown one.

    top: what the coarser levels of an FPN are computed from; a BiFPN always pools C5. norm: None is none in an FPN and
    batch normalisation in a BiFPN.
    """
    name = check_value("neck", name, NeckName)
    if name == "fpn":
        return FPN(in_channels, in_strides, channels=channels, top=top, norm=norm)
    levels = len(in_channels) + 2
    return BiFPN(in_channels, in_strides, channels=channels, levels=levels, norm=norm or "bn")
