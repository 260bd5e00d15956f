"""Files of a data set, which anybody may have written: read only where they are ordinary files, below its folder."""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path

from aweigh.errors import DataError

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
