"""Files of a data set, which anybody may have written: read only where they are ordinary files, below its folder.

And the names of files to write: those of unfinished ones, and names that would be longer than a file system takes.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from aweigh.errors import DataError

LONGEST_NAME = 255  # bytes of one name that ext4, XFS, APFS and NTFS (there, characters) take
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_bytes(file: Path) -> bytes:
    """What an ordinary file holds; `DataError` for anything else, and for what cannot be read."""
    try:
        if kind := special(file):
            raise DataError(f"{file}: this is {kind}, a file was expected.")
        return file.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error


def read_text(file: Path) -> str:
    """What a text file in UTF-8 holds, or in UTF-16 with its mark, as some Windows programs write it."""
    data = read_bytes(file)
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is not text in UTF-8 ({error}). Save it as UTF-8.") from error


def special(file: Path) -> str:
    """What is not an ordinary file, in words ("a pipe": to open one can wait for ever); empty for an ordinary file."""
    mode = stat.S_IFMT(file.stat().st_mode)
    return "" if mode == stat.S_IFREG else _KINDS.get(mode, "no ordinary file")


def lies_within(path: Path, folder: Path) -> bool:
    """Whether a path without `..` is the folder or lies below it, by name or, where links lead there, in fact."""
    if Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):
        return True
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def beside(path: Path) -> Path:
    """The name that `path` has while it is being written: beside it, short whatever its length, with its suffix.

    Programs that tell a format by its suffix then write the same one; a suffix that is none of theirs is left out.
    """
    suffix = path.suffix if len(path.suffix) <= 12 else ""
    return path.with_name(f".{_digest(path.name)}.{os.getpid()}.unfinished{suffix}")


def fitting_name(stem: str, ending: str) -> str:
    """`stem + ending`, where that is too long for a file name with the end of the stem replaced by a short digest."""
    if len(os.fsencode(stem + ending)) <= LONGEST_NAME:
        return stem + ending
    kept = os.fsencode(stem)[: LONGEST_NAME - len(os.fsencode(ending)) - 9]
    whole = kept.decode("utf-8", "ignore") if _is_text(stem) else os.fsdecode(kept)
    return f"{whole}~{_digest(stem)}{ending}"


def _digest(name: str) -> str:
    return hashlib.blake2b(os.fsencode(name), digest_size=4).hexdigest()


def _is_text(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def below(name: str, folder: Path) -> Iterator[Path]:
    """The files inside a folder that a name can mean, without as few of its leading parts as may be.

    `C:\\photos\\train\\a.jpg` is `train/a.jpg` or `a.jpg` of the folder, and `../a.jpg` is its `a.jpg`.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    for first in range(len(parts)):
        if ".." in parts[first:]:
            continue
        path = folder.joinpath(*parts[first:])
        if os.path.isfile(path) and lies_within(path, folder):
            yield path
