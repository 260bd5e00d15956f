"""What is known about a file of weights that others have published."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from aweigh.classes import Classes

State = dict[str, Tensor]


def as_it_is(state: State) -> State:
    """The conversion of weights whose names are ours already."""
    return state


@dataclass(frozen=True)
class PublishedWeights:
    """One published file: where it is, how to know it, who may use it, and how it becomes ours.

    url: empty for a file that comes with the package, in `weights/box`. file: its name there or in the cache. sha256:
    the digest in hexadecimal, or as much of its beginning as was published; empty where none was, and then the file is
    not downloaded but has to be given.
    source: one line, who trained it on what. metrics: as stated by the source, by name.
    builder, arguments, classes, resize: the model that loads it, and the arguments of the resize step that belongs to
    it; empty for a backbone. convert: the file's tensors under our names.
    """

    name: str
    url: str
    file: str
    sha256: str
    licence: str
    source: str
    metrics: dict[str, float] = field(default_factory=dict)
    builder: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    classes: Classes | None = None
    resize: dict[str, Any] = field(default_factory=dict)
    convert: Callable[[State], State] = as_it_is


def by_builder(*records: PublishedWeights) -> dict[str, dict[str, PublishedWeights]]:
    """Under the name of the builder that loads them, each by its own name, in their order."""
    builders = dict.fromkeys(record.builder for record in records)
    return {builder: {each.name: each for each in records if each.builder == builder} for builder in builders}
