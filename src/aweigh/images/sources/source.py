"""What a source of images is: a kind, recognised by what is given, and the images of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aweigh.images.stored import StoredImage

Image = Path | StoredImage


@dataclass(frozen=True)
class Given:
    """What the user gave. name: of the source. recursive: a folder stands for what is in its folders too. allow_net:
    images may be fetched from addresses."""

    name: str
    recursive: bool = False
    allow_net: bool = False


@dataclass(frozen=True)
class Images:
    """The images of a source, in a fixed order. They are looked up one by one while they are gone through, each time
    anew, so that the memory they take does not grow with their number.

    each: goes through them. What is wrong with one of them is said where it is read. root: the folder that their
    drawings are told from, as the images lie below it; None for those that have a `place`. quick: whether to go through
    them takes no time, so that they can be counted beforehand.
    """

    each: Callable[[], Iterator[Image]]
    root: Path | None = None
    quick: bool = True

    def __iter__(self) -> Iterator[Image]:
        return self.each()


@dataclass(frozen=True)
class Kind:
    """words: what a source of this kind is. takes: whether this is the name of one. images: those of one; an error at
    once where it is not there, or holds none. several: whether it may stand for more than one image."""

    words: str
    takes: Callable[[str], bool]
    images: Callable[[Given], Images]
    several: bool = True
