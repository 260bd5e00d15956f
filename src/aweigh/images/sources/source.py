"""What a source of images is: a kind, recognised by what is given, and the images of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aweigh.images.stored import StoredImage
from aweigh.video.decode import VideoFile
from aweigh.video.frames import ALL_FRAMES, FrameChoice, VideoFrame
from aweigh.video.live import LiveVideo

Image = Path | StoredImage
Item = Image | VideoFile | LiveVideo  # a video stands for its frames


@dataclass(frozen=True)
class Given:
    """What the user gave. name: of the source. recursive: a folder stands for what is in its folders too. allow_net:
    images may be fetched from addresses. frames: which of a video are meant."""

    name: str
    recursive: bool = False
    allow_net: bool = False
    frames: FrameChoice = ALL_FRAMES


@dataclass(frozen=True)
class Images:
    """The images of a source, in a fixed order. They are looked up one by one while they are gone through, each time
    anew, so that the memory they take does not grow with their number.

    each: goes through them, videos as a whole. What is wrong with one of them is said where it is read. root: the
    folder that their drawings are told from, as the images lie below it; None for those that have a `place`. quick:
    whether to go through them takes no time, so that they can be counted beforehand. live: whether they come by
    themselves, so that they are looked at one by one, each at once.
    """

    each: Callable[[], Iterator[Item]]
    root: Path | None = None
    quick: bool = True
    live: bool = False

    def __iter__(self) -> Iterator[Image | VideoFrame]:
        for item in self.each():
            if isinstance(item, VideoFile | LiveVideo):
                yield from item.frames()
            else:
                yield item


@dataclass(frozen=True)
class Kind:
    """words: what a source of this kind is. takes: whether this is the name of one. images: those of one; an error at
    once where it is not there, or holds none. several: whether it may stand for more than one image."""

    words: str
    takes: Callable[[str], bool]
    images: Callable[[Given], Images]
    several: bool = True
