"""A `.zip` of images, read in place: nothing is unpacked to the disk.

Names are told without what leads out of the archive (`..`, a leading `/`, a drive), so that no drawing lies elsewhere.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from lzma import LZMAError
from pathlib import Path

from aweigh.errors import DataError
from aweigh.files import special
from aweigh.images.sources.archive import MEMBER, check_size, image_members, is_meant, stored
from aweigh.images.sources.source import Given, Images, Item, Kind

BROKEN = (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zlib.error, LZMAError, zipfile.BadZipFile)
ENCRYPTED = 1  # a bit of the flags of a member


def zip_images(given: Given) -> Images:
    """The images of an archive, in the order of their names."""
    file = Path(given.name)
    archive = _opened(file)
    members = [member for member in archive.infolist() if not member.is_dir() and is_meant(member.filename)]
    image_members(file, (member.filename for member in members), len(archive.infolist()))
    members.sort(key=lambda member: member.filename)

    def each() -> Iterator[Item]:
        return (stored(file, member.filename, partial(_read, archive, file, member)) for member in members)

    return Images(each)


def _opened(file: Path) -> zipfile.ZipFile:
    try:
        if kind := special(file):
            raise DataError(f"{file}: this is {kind}, an archive was expected.")
        return zipfile.ZipFile(file)
    except BROKEN as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{file}: the archive cannot be opened ({why}). Is it whole? Copy it again.") from error


def _read(archive: zipfile.ZipFile, file: Path, member: zipfile.ZipInfo) -> bytes:
    name = MEMBER.format(archive=file, member=member.filename)
    if member.flag_bits & ENCRYPTED:
        raise DataError(f"{name}: is encrypted. Unpack the archive, and name the folder.")
    check_size(name, member.file_size)
    try:
        with archive.open(member) as content:
            return content.read(member.file_size + 1)  # Python reads no more than was declared, whatever is packed
    except BROKEN as error:
        raise DataError(f"{name}: cannot be read from the archive ({error}). Is it whole? Copy it again.") from error


ZIP = Kind("an archive", lambda name: name.lower().endswith(".zip") and not Path(name).is_dir(), zip_images)
