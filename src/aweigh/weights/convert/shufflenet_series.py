"""Weights that the authors of ShuffleNet V1 and V2 publish (megvii's ShuffleNet-Series), as ours.

Their networks read BGR pixels 0..255. Their V2 takes even and odd channels apart at the start of a unit, and lets the
projection of a stride-2 unit keep its channels. `from_shufflenet_series` gives the weights of `shufflenet_v1` and of
`ShuffleNetV2(form="authors")`, which are built like theirs and read what all our networks read: RGB, normalised by
ImageNet's mean and standard deviation. It is the same function, up to rounding.

Torchvision's form of V2 can hold the same function, with the channels of every stage in another order, where a unit's
projection keeps half of its output: `in_torchvision_order`. That is so at width 0.5 (24 = 48 / 2) and nowhere else: the
first unit of stage 2 projects 24 channels to 24 there, where torchvision's gives 58, 88 or 122. Its convolutions pad
with the mean colour, theirs with black, so that the outermost row and column of pixels are seen otherwise.
"""

import re

import torch
from torch import Tensor

from aweigh.errors import UsageError, counted
from aweigh.structures import IMAGENET_MEAN, IMAGENET_STD
from aweigh.weights.record import State

FIRST_UNITS = (0, 4, 12)  # of stages 2, 3 and 4 among their `features` (table 5 of V2's paper: 4, 8 and 4 units)
_PARTS = {"first_conv": "conv1", "conv_last": "conv5", "classifier.0": "fc"}
NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")
_BRANCHES = {"branch_proj": "branch1", "branch_main": "branch2", "branch_main_1": "reduce", "branch_main_2": "expand"}


def is_shufflenet_series(state: State) -> bool:
    """Whether tensors have the names of the authors' ShuffleNet V2."""
    return any(key.removeprefix("module.") == "features.0.branch_proj.0.weight" for key in state)


def from_shufflenet_series(state: State) -> State:
    """The tensors of the authors' V1 or V2 under our names, for input that is RGB and normalised.

    `UsageError` for a key of another network. A classifier, which has no bias there, gets one of zeros.
    """
    converted = {_our_key(key.removeprefix("module.")): value for key, value in state.items()}
    if "fc.weight" in converted:
        converted["fc.bias"] = converted["fc.weight"].new_zeros(len(converted["fc.weight"]))
    if "conv1.0.weight" not in converted or "conv1.1.running_mean" not in converted:
        raise UsageError(
            "These are no whole weights of ShuffleNet-Series: `first_conv` and its statistics are missing."
        )
    # With x the normalised image, the pixels are 255 (std x + mean): the scale goes into the weights, and what the mean
    # adds to every output into the mean that the normalisation behind subtracts.
    weight = converted["conv1.0.weight"].flip(1).double()  # [C, 3, 3, 3], BGR -> RGB
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    shift = (weight * 255 * mean).sum(dim=(1, 2, 3))
    converted["conv1.0.weight"] = (weight * 255 * std).to(converted["conv1.0.weight"])
    converted["conv1.1.running_mean"] = converted["conv1.1.running_mean"] - shift.to(converted["conv1.1.running_mean"])
    return converted


def in_torchvision_order(state: State) -> State:
    """What `from_shufflenet_series` gave, for torchvision's form; `UsageError` where that cannot hold the function."""
    state = dict(state)
    order = None  # order[j]: which of the authors' channels our channel j is, behind the stage before
    for stage in sorted({key.split(".")[0] for key in state if key.startswith("stage")}):
        projected, half = (len(state[f"{stage}.0.{name}.weight"]) for name in ("branch1.2", "branch2.5"))
        if projected != half:
            raise UsageError(
                f"Torchvision's form cannot hold these weights: the projection of {stage}.0 gives "
                f"{counted(projected, 'channel')} beside {half}. Build the network with form='authors'."
            )
        if order is not None:
            _reorder_outputs(state, f"{stage}.0.branch1.0", f"{stage}.0.branch1.1", order)
            _reorder_inputs(state, f"{stage}.0.branch1.2", order)
            _reorder_inputs(state, f"{stage}.0.branch2.0", order)
        order = channel_order(half)
        _reorder_outputs(state, f"{stage}.0.branch1.2", f"{stage}.0.branch1.3", order[0::2])
        for unit in sorted({".".join(key.split(".")[:2]) for key in state if key.startswith(f"{stage}.")}):
            _reorder_outputs(state, f"{unit}.branch2.5", f"{unit}.branch2.6", order[1::2] - half)
            if not unit.endswith(".0"):
                _reorder_inputs(state, f"{unit}.branch2.0", order[half:] // 2)
    if "conv5.0.weight" in state and order is not None:
        _reorder_inputs(state, "conv5.0", order)
    return state


def channel_order(half: int) -> Tensor:
    """`[2 half]` int64: which of the authors' channels behind a unit is the one at each of torchvision's places.

    The authors' units halve the place of a channel until it is odd, and then read it; torchvision's double it until it
    is `half` or more. So along each chain `odd, 2 odd, 4 odd, ...` below 2 half, the two run in opposite directions:
    with the chain turned round, a channel is passed on by as many units here as there, wherever it begins. The order
    is the same behind every unit of a stage.
    """
    order = torch.zeros(2 * half, dtype=torch.int64)
    for odd in range(1, 2 * half, 2):
        chain = [odd << k for k in range(((2 * half - 1) // odd).bit_length())]
        order[chain] = torch.tensor(chain[::-1])
    return order


def _our_key(key: str) -> str:
    for theirs, ours in _PARTS.items():
        if key.startswith(f"{theirs}."):
            return ours + key.removeprefix(theirs)
    found = re.fullmatch(r"features\.(\d+)\.(branch_proj|branch_main|branch_main_[12])\.(.+)", key)
    if found is None:
        raise UsageError(f"{key!r} is not one of the tensors of ShuffleNet-Series' ShuffleNet V1 or V2.")
    index, branch, rest = int(found[1]), _BRANCHES[found[2]], found[3]
    stage = max(number for number, first in enumerate(FIRST_UNITS) if first <= index)
    return f"stage{stage + 2}.{index - FIRST_UNITS[stage]}.{branch}.{rest}"


def _reorder_outputs(state: State, convolution: str, norm: str, order: Tensor) -> None:
    for key in (f"{convolution}.weight", *(f"{norm}.{name}" for name in NORM_TENSORS)):
        state[key] = state[key][order]


def _reorder_inputs(state: State, convolution: str, order: Tensor) -> None:
    state[f"{convolution}.weight"] = state[f"{convolution}.weight"][:, order]
