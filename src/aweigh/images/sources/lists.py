"""A list of names: a file with one a line (`@list.txt`), or the standard input (`@-`, in Python also `-`).

Each line names a file, from the folder the program was started in as all names are, an address, or an image in a store
(`s3://bucket/a.jpg`), where the list itself may lie too. Empty lines are left out. The standard input is read to its
end before the first image.
"""

from __future__ import annotations

import codecs
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import IO

from aweigh.errors import DataError, counted
from aweigh.files import special
from aweigh.images.sources.addresses import ADDRESS, image_at
from aweigh.images.sources.source import Given, Image, Images, Item, Kind
from aweigh.images.sources.stores import image_in_store
from aweigh.images.sources.videos import is_called_like_a_video
from aweigh.stores import is_stored, read
from aweigh.video.decode import VideoFile

LONGEST_LINE = 1 << 16  # bytes, ours: file systems and servers take less


def listed_images(given: Given) -> Images:
    """The images that a file names, in its order."""
    file = Path(given.name.removeprefix("@"))
    if is_stored(name := given.name.removeprefix("@")):
        return _named_in(_spooled(BytesIO(read(name))), name, given)
    try:
        if kind := special(file):
            raise DataError(f"{file}: this is {kind}, a list of names was expected.")
        return _named_in(file.open("rb"), str(file), given)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: the list cannot be read ({getattr(error, 'strerror', None) or error}).") from error


def images_named_on_input(given: Given) -> Images:
    """The images that the standard input names, which are put into a file without a name until the end."""
    return _named_in(_spooled(sys.stdin.buffer), "the standard input", given)


def _spooled(content: IO[bytes]) -> IO[bytes]:
    spool = tempfile.TemporaryFile()  # noqa: SIM115
    shutil.copyfileobj(content, spool)
    return spool


def _named_in(content: IO[bytes], where: str, given: Given) -> Images:
    """The images of lines; `DataError` where there is none, and `UsageError` for an address that may not be asked."""
    named = False
    for name in _lines(content, where):
        named = True
        if ADDRESS.takes(name):
            ADDRESS.images(replace(given, name=name))
    if not named:
        raise DataError(f"{where}: there is no name in it, one on each line was expected.")

    def each() -> Iterator[Item]:
        for name in _lines(content, where):
            if is_called_like_a_video(name) and not (ADDRESS.takes(name) or is_stored(name)):
                yield VideoFile(Path(name), given.frames)
            else:
                yield named_image(name, allow_net=given.allow_net)

    return Images(each, root=_shared(content, where))


def named_image(name: str, *, allow_net: bool = False) -> Image:
    """The image that one name stands for, whatever it is called; `UsageError` for an address that may not be asked."""
    if ADDRESS.takes(name):
        return image_at(name, allow_net=allow_net)
    return image_in_store(name) if is_stored(name) else Path(name)


def _lines(content: IO[bytes], where: str) -> Iterator[str]:
    """The names, line by line. Several may go through the same file at once."""
    place = 0
    while True:
        content.seek(place)
        line = content.readline(LONGEST_LINE)
        place += len(line)
        if not line:
            return
        if len(line) == LONGEST_LINE:
            raise DataError(f"{where}: a line is longer than {counted(LONGEST_LINE, 'byte')}; is it a list of names?")
        if name := os.fsdecode(line.removeprefix(codecs.BOM_UTF8).strip(b"\r\n")):
            yield name


def _shared(content: IO[bytes], where: str) -> Path:
    """The folder that all files lie in."""
    shared = ""
    for name in _lines(content, where):
        if not ADDRESS.takes(name) and not is_stored(name):
            folder = os.path.dirname(os.path.abspath(name.replace("\0", "")))
            shared = os.path.commonpath([shared, folder]) if shared else folder
    return Path(shared)


STANDARD_INPUT = Kind("a list of names", lambda name: name in ("@-", "-"), images_named_on_input)
LIST = Kind("a list of names", lambda name: name.startswith("@") and not os.path.lexists(name), listed_images)
