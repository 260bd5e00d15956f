"""The configuration of a backbone's training on classes: defaults < TOML recipe < command line, as for detectors.

The defaults of everything that decides what is learned are the paper's (ShuffleNet V2, trained as ShuffleNet V1 was;
the numbers stand in the authors' code), but for the length of the run. This file imports no torch.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from aweigh.errors import UsageError, check_reach, did_you_mean
from aweigh.training.recipes import check_length

LEAST_SIZE = 64  # pixels: from here on the last maps have 2 x 2 cells, which batch statistics of one picture need


@dataclass(frozen=True)
class ClassifyConfig:
    """Everything the training of a backbone is decided by. The learning rate is stated for `lr_batch` pictures."""

    data: str = ""
    """Folder with train/CLASS/pictures and, if validation is not to be split off, val/CLASS/pictures."""
    width: float = 1.0
    """Width of ShuffleNet V2: 0.5, 1.0, 1.5 or 2.0."""
    activation: Literal["relu", "leaky_relu"] = "relu"
    """Activation of the network."""
    init: str = ""
    """File with weights of the body to start from; random when not given."""
    output: str = ""
    """Run folder; runs/FOLDER-shufflenet_v2_xW, numbered, when not given."""

    epochs: int = 30
    """Passes over the training pictures."""
    iterations: int = 0
    """Steps of the whole run; replaces epochs when above 0."""
    batch: int = 64
    """Pictures per step."""
    workers: int = -1
    """Processes that read pictures; 0 reads in the training process, -1 chooses by device and cores."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the forward pass; auto is bf16 on a GPU that has it, else fp32."""
    seed: int = 0
    """Seed of weights, order and augmentation."""

    lr: float = 0.5
    """Learning rate, stated for lr_batch pictures per step; it falls linearly to 0."""
    lr_batch: int = 1024
    """Pictures per step that lr is stated for; lr is scaled to the real number. 0: not scaled."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 4e-5
    """Weight decay of weights; normalisation layers and biases have none."""
    label_smoothing: float = 0.1
    """Share of the target that is spread over all classes."""
    statistics: int = 0
    """Batches of the pass that measures batch statistics anew at the end; 0 is one pass over the training pictures."""

    size: int = 224
    """Side of the square input in pixels. Validation cuts it from the middle of pictures 256 / 224 as large."""
    least_area: float = 0.08
    """Least share of a picture's area that a random crop has."""
    color: float = 0.4
    """Strength of random brightness, contrast and saturation."""
    flip: float = 0.5
    """Probability of mirroring left to right; 0 where left and right matter."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, str):
                continue
            least = 1 if entry.name in ("epochs", "batch") else LEAST_SIZE if entry.name == "size" else 0
            if entry.name != "workers" and (not math.isfinite(value) or value < least):
                raise UsageError(f"{entry.name} = {value}: expected a number from {least}.")
            check_reach(entry.name, value)
        for name in ("momentum", "label_smoothing", "least_area", "flip"):
            if getattr(self, name) > 1:
                raise UsageError(f"{name} = {getattr(self, name)}: expected a number from 0 to 1.")


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The values of a TOML recipe, checked: an unknown key or a wrong type is a `UsageError` that names it."""
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"The recipe {path} cannot be read: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"The recipe {path} is not valid TOML: {error}.") from error
    return {name: _checked(name, value, where=f"in {path}") for name, value in values.items()}


def configure(recipe: Mapping[str, Any] | None, given: Mapping[str, Any]) -> ClassifyConfig:
    """The configuration of a recipe's values and those of the command line, where `None` means "not given"."""
    said = {name: value for name, value in given.items() if value is not None}
    check_length(recipe or {}, said, "the recipe")
    return ClassifyConfig(**{**(recipe or {}), **said})


def _checked(name: str, value: Any, *, where: str) -> Any:
    types = get_type_hints(ClassifyConfig)
    if name not in types:
        raise UsageError(f"Unknown setting {name!r} {where}.{did_you_mean(name, types)}")
    wanted = types[name]
    if wanted is float and type(value) is int:
        value = float(value)
    choices = get_args(wanted)
    if not (value in choices if choices else type(value) is wanted):
        words = {str: "a text", int: "a whole number", float: "a number"}
        expected = f"one of {', '.join(choices)}" if choices else words[wanted]
        raise UsageError(f"{name} = {value!r} {where}: expected {expected}.")
    return value
