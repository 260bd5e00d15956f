"""Sources of images by what is given: a file, a folder, a pattern, an archive, a list of names, an address, a
store, a video.

Each kind has a file that ends in what it knows of itself (see `aweigh.images.sources.source`). To add one, write its
file and name it here: the first that takes a name has it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from aweigh.errors import DataError, UsageError
from aweigh.images.sources import addresses, folders, lists, stores, tars, videos, zips
from aweigh.images.sources.source import Given, Image, Images, Item, Kind
from aweigh.images.stored import StoredImage
from aweigh.video.frames import ALL_FRAMES, FrameChoice

KINDS: tuple[Kind, ...] = (
    addresses.ADDRESS,
    stores.STORE,
    videos.CAMERA,
    videos.STREAM,
    lists.STANDARD_INPUT,
    lists.LIST,
    zips.ZIP,
    tars.TAR,
    videos.VIDEO,
    videos.VIDEOS,
    folders.FOLDER,
    folders.FILE,
    folders.PATTERN,
)


def kind_of(name: str | Path) -> Kind | None:
    """Which kind of source this is; None where nothing is of that name."""
    return next((kind for kind in KINDS if kind.takes(str(name))), None)


def stands_for_several(name: str | Path) -> bool:
    """Whether this is the name of a source that may hold more than one image."""
    kind = kind_of(name)
    return kind is not None and kind.several


def images_of(
    name: str | Path, *, recursive: bool = False, allow_net: bool = False, frames: FrameChoice = ALL_FRAMES
) -> Images:
    """The images of a source. `UsageError` or `DataError` at once where there is none of that name, or no image in it.

    recursive: those in the folders of a folder too. allow_net: images may be fetched from addresses (http, https).
    frames: which of a video are meant.
    """
    if str(name) == "":
        raise UsageError("The name of an image is empty; name a file, a folder or a pattern, or . for this folder.")
    kind = kind_of(name)
    if kind is None:
        raise DataError(f"There is no file or folder {name}.")
    return kind.images(Given(str(name), recursive, allow_net, frames))


def images_of_several(names: Iterable[str | Path]) -> list[Image]:
    """The images of files, folders, patterns, archives and lists, one after the other; `UsageError` for a video."""
    images: list[Image] = []
    for item in (item for name in names for item in images_of(name).each()):
        if not isinstance(item, Path | StoredImage):
            raise UsageError(f"{item.name} is a video; name images.")
        images.append(item)
    return images


def together(sources: Sequence[Images]) -> Images:
    """The images of several sources, one after the other. A file that more than one stands for comes once."""
    if len(sources) == 1:
        return sources[0]

    def each() -> Iterator[Item]:
        seen: set[int] = set()  # hashes of paths: a path takes ten times the memory
        for source in sources:
            for image in source.each():
                if isinstance(image, Path):
                    if hash(image) in seen:
                        continue
                    seen.add(hash(image))
                yield image

    roots = [os.path.abspath(source.root) for source in sources if source.root is not None]
    root = Path(os.path.commonpath(roots)) if roots else None
    quick, live = all(source.quick for source in sources), any(source.live for source in sources)
    return Images(each, root, quick, live)
