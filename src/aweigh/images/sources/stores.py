"""A folder or an image in object storage or another store (`s3://bucket/photos`), see `aweigh.stores`.

Nothing else is asked than the store that is named, so that this needs no `--allow-net`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from aweigh.errors import DataError
from aweigh.images.reader import SUFFIXES
from aweigh.images.sources.folders import is_called_like_an_image
from aweigh.images.sources.source import Given, Image, Images, Kind
from aweigh.images.stored import MOST_BYTES, StoredImage
from aweigh.stores import is_file, is_stored, names_below, read


def images_in_store(given: Given) -> Images:
    """An image, or those of a folder: its own by name, then, where that is asked for, those of its folders."""
    if is_called_like_an_image(given.name) and is_file(given.name):
        return Images(lambda: iter([image_in_store(given.name)]))
    names = partial(names_below, given.name, recursive=given.recursive)

    def each() -> Iterator[Image]:
        return (image_in_store(name) for name in names() if is_called_like_an_image(name))

    if next(each(), None) is None:
        held = "files, none of them" if next(names(), None) else "no file that is"
        advice = "" if given.recursive else " For folders in it: --recursive."
        raise DataError(f"The folder {given.name} holds {held} an image ({', '.join(SUFFIXES)}).{advice}")
    return Images(each, quick=False)


def image_in_store(name: str) -> StoredImage:
    """The image of this name, which is read when it is looked at."""
    parts = [part for part in name.partition("://")[2].split("/") if part not in ("", ".", "..")]
    place = Path(*(re.sub(r'[\0-\x1f:*?"<>|\\]', "_", part) for part in parts))
    return StoredImage(name, partial(read, name, most_bytes=MOST_BYTES), place)


STORE = Kind("a store", is_stored, images_in_store)
