"""A `.tar` of images, also compressed by gzip, bzip2 or xz, read in place: nothing is unpacked to the disk.

It has no list of what it holds, so its images come in the order in which they lie in it, one after the other; the bytes
of an image are read when it is its turn. What is wrong with the archive is an error in the place where it was met.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from aweigh.errors import DataError, counted
from aweigh.files import special
from aweigh.images.sources.archive import MEMBER, NESTED, TARS, check_size, image_members, is_meant, stored, unreadable
from aweigh.images.sources.source import Given, Images, Item, Kind
from aweigh.images.stored import MOST_BYTES, StoredImage

BROKEN = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, tarfile.TarError)
MOST_PASSED = 1 << 34  # bytes, ours: of a member of a compressed archive that is no image; it takes a minute to pass
OPENERS: dict[tuple[str, ...], Callable[[Path, str], Any]] = {
    (".gz", ".tgz"): gzip.open,
    (".bz2", ".tbz2"): bz2.open,
    (".xz", ".txz"): lzma.open,
}


class _Bounded:
    """A file that gives so many bytes at a time: what a damaged header asks for is not put into the memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= MOST_BYTES:
            raise tarfile.ReadError(f"{counted(count, 'byte')} at a time")
        return self._file.read(count)


def tar_images(given: Given) -> Images:
    """The images of an archive, in their order in it."""
    file = Path(given.name)
    try:
        if kind := special(file):
            raise DataError(f"{file}: this is {kind}, an archive was expected.")
        first = next(_each(file), None)
    except OSError as error:
        raise DataError(f"{file}: the archive cannot be opened ({error.strerror or error}).") from error
    image_members(file, [] if first is None else [str(first)], 0)
    if str(first) == str(file):
        cast(Any, first).read()  # it is broken from its beginning: said at once
    return Images(lambda: _each(file), quick=False)


def _each(file: Path) -> Iterator[Item]:
    try:
        with _opened(file) as content, tarfile.open(fileobj=cast(Any, _Bounded(content)), mode="r:") as archive:
            while (member := archive.next()) is not None:
                cast(Any, archive).members.clear()  # else the memory grows with each
                if not member.isdir() and is_meant(member.name):
                    yield _stored(file, archive, member)
                elif member.size > MOST_PASSED and not file.name.lower().endswith(".tar"):
                    raise tarfile.ReadError(f"{member.name} takes {counted(member.size, 'byte')}, which are not passed")
    except BROKEN as error:
        why = f"the archive cannot be read from here on ({str(error) or type(error).__name__}). Is it whole?"
        yield unreadable(str(file), f"{file}: {why} Copy it again, or unpack it.")


def _stored(file: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> StoredImage:
    """A member, with its bytes where they can be had."""
    name = MEMBER.format(archive=file, member=member.name)
    if not member.isreg():
        return unreadable(name, f"{name}: is no file but a link or a device, which is not followed.")
    try:
        check_size(name, member.size)
    except DataError as error:
        return unreadable(name, str(error))
    if member.name.lower().endswith(NESTED):
        return stored(file, member.name, bytes)
    content = archive.extractfile(member)
    data = b"" if content is None else content.read()
    if len(data) != member.size:
        raise EOFError(f"{member.name} is cut short")
    return stored(file, member.name, lambda: data)


def _opened(file: Path) -> IO[bytes]:
    ending = file.suffix.lower()
    opener = next((opener for endings, opener in OPENERS.items() if ending in endings), open)
    content: IO[bytes] = opener(file, "rb")
    return content


TAR = Kind("an archive", lambda name: name.lower().endswith(TARS) and not Path(name).is_dir(), tar_images)
