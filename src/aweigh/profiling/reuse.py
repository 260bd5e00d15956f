"""Which earlier units a unit of ShuffleNet V2 reads, and how strongly: the paper's figure 4 from weights.

Half of a unit's channels pass it by untouched (section 3.2), so that later units read them directly. Followed through
every split and shuffle, each channel that a unit's first 1x1 convolution reads was made by one earlier unit. The
number of channels that two units share directly falls to a half with each unit between them.

Legend: L units, S sources (the stem, then every unit but the last).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from aweigh.backbones.shufflenet_v2 import LAYOUTS, ShuffleNetV2, Unit
from aweigh.errors import UsageError
from aweigh.weights.convert.shufflenet_series import from_shufflenet_series, is_shufflenet_series
from aweigh.weights.load import load_matching
from aweigh.weights.record import State


@dataclass(frozen=True)
class Reuse:
    """sources, units: their names.

    weights: `[S, L]` mean absolute weight that unit l's first 1x1 convolution gives the channels made by source s; NaN
    where it reads none of them. channels: `[S, L]` how many it reads.
    """

    sources: tuple[str, ...]
    units: tuple[str, ...]
    weights: Tensor
    channels: Tensor


@torch.no_grad()
def feature_reuse(body: ShuffleNetV2) -> Reuse:
    """What every unit of the backbone reads."""
    units = {name: module for name, module in body.named_modules() if isinstance(module, Unit)}
    sources = ("conv1", *units)[:-1]
    weights = torch.full((len(sources), len(units)), torch.nan)
    channels = torch.zeros(len(sources), len(units), dtype=torch.int64)
    makers = torch.zeros(1, body.layout.stem[-1], 1, 1, dtype=torch.int64)  # [1, C, 1, 1], as a map goes through
    for index, unit in enumerate(units.values()):
        first, last = unit.branch2[0], unit.branch2[5]
        assert isinstance(first, nn.Conv2d) and isinstance(last, nn.Conv2d)
        kept, read = unit.split(makers) if unit.splits else (makers, makers)
        strength = first.weight.abs().mean(dim=(0, 2, 3))  # [channels read]
        for source in set(read.flatten().tolist()):
            of_source = read.flatten() == source
            weights[source, index] = strength[of_source].mean()
            channels[source, index] = of_source.sum()
        if not unit.splits:
            projection = unit.branch1[2]
            assert isinstance(projection, nn.Conv2d)
            kept = makers.new_full((1, projection.out_channels, 1, 1), index + 1)
        makers = unit.join(kept, makers.new_full((1, last.out_channels, 1, 1), index + 1))
    return Reuse(sources, tuple(units), weights, channels)


def body_of(state: State, *, what: str | Path) -> ShuffleNetV2:
    """The ShuffleNet V2 backbone among the tensors of a file: of a backbone, a classifier, a detector or the authors.

    what: the file, for messages. `UsageError` where there is none.
    """
    authors = is_shufflenet_series(state)
    if authors:
        state = from_shufflenet_series(state)
    marker = "stage2.0.branch2.0.weight"  # [half, in, 1, 1]
    prefix = next((key.removesuffix(marker) for key in state if key.endswith(marker)), None)
    if prefix is None:
        raise UsageError(f"{what} holds no ShuffleNet V2: none of its tensors is called {marker}.")
    state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    half, read = state[marker].shape[:2]
    known = [key for key, layout in LAYOUTS.items() if layout.channels[0] == 2 * half and layout.stem[-1] == read]
    if not known:
        raise UsageError(f"{what} holds a ShuffleNet V2 of no known width: {marker} is {tuple(state[marker].shape)}.")
    body = ShuffleNetV2(
        known[0],
        depth=50 if known[0] == 50 else 164 if known[0] == 164 else None,
        extra_depthwise="stage2.0.before.0.weight" in state,
        squeeze="stage2.0.squeeze.fc1.weight" in state,
        form="authors" if authors or len(state["stage2.0.branch1.2.weight"]) != half else "torchvision",
    )
    report = load_matching(body, state)
    if lacking := [key for key in (*report.missing, *report.mismatched) if key.endswith("branch2.0.weight")]:
        raise UsageError(
            f"{what} holds no whole ShuffleNet V2 {known[0]}: {lacking[0]} is missing or of another shape."
        )
    return body
