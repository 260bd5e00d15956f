"""The image files that a folder, a pattern or a path stands for.

Whatever is called like an image is one of them, also where it cannot be read (a link that leads nowhere, a pipe, a
folder called x.jpg): it is named then, and not left out in silence.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from aweigh.errors import DataError, UsageError, counted
from aweigh.images.reader import SUFFIXES


def image_paths(source: str | Path) -> list[Path]:
    """The images directly in a folder, those that a pattern (`photos/**/*.jpg`) matches, or the path itself.

    In the order of their names. `DataError` when there is nothing of that name, or no image in it.
    """
    if str(source) == "":
        raise UsageError("The name of an image is empty; name a file, a folder or a pattern, or . for this folder.")
    path = Path(source)
    try:
        if path.is_dir():
            return _images_among(path.iterdir(), f"The folder {path}", f" For folders in it: '{path}/**/*'.")
        if os.path.lexists(path):
            return [path]
        if glob.has_magic(str(source)):
            return _images_among(matches(str(source)), f"The pattern {source}", "")
    except (OSError, ValueError) as error:
        raise DataError(f"{source}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    raise DataError(f"There is no file or folder {path}.")


def stands_for_several(source: str | Path) -> bool:
    """Whether a name is that of a folder, or a pattern."""
    return Path(source).is_dir() or (glob.has_magic(str(source)) and not os.path.lexists(source))


def matches(pattern: str) -> Iterator[Path]:
    """What a pattern matches, `**` any number of folders; names that begin with a dot only where the pattern does.

    Unlike Python's `glob`, which follows links in circles, `**` enters each folder once, by whichever name comes first;
    the name without links comes first.
    """
    path = Path(pattern)
    fixed = 0
    while fixed < len(path.parts) and not glob.has_magic(path.parts[fixed]):
        fixed += 1
    yield from _expanded(Path(*path.parts[:fixed]), path.parts[fixed:])


def _expanded(place: Path, parts: Sequence[str]) -> Iterator[Path]:
    if not parts:
        if os.path.lexists(place):
            yield place
        return
    first, *rest = parts
    if first == "**":
        for folder in _folders(place):
            yield from _expanded(folder, rest or ["*"])
    elif glob.has_magic(first):
        for entry in _entries(place):
            hidden = entry.name.startswith(".") and not first.startswith(".")
            if not hidden and fnmatch.fnmatch(entry.name, first) and (not rest or _is_folder(entry)):
                yield from _expanded(place / entry.name, rest)
    else:
        yield from _expanded(place / first, rest)


def _folders(top: Path) -> Iterator[Path]:
    """A folder and all below it, each real one once: first those that no link leads to, then what links add."""
    waiting, linked, seen = deque([top]), deque[Path](), set[tuple[int, int]]()
    while waiting or linked:
        folder = waiting.popleft() if waiting else linked.popleft()
        try:
            status = folder.stat()
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        yield folder
        for entry in _entries(folder):
            if not entry.name.startswith(".") and _is_folder(entry):
                (linked if entry.is_symlink() else waiting).append(folder / entry.name)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; nothing where it cannot be looked into."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _images_among(found: Iterator[Path], where: str, advice: str) -> list[Path]:
    files = sorted(dict.fromkeys(found))
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not images:
        files = [file for file in files if not file.is_dir()]
        held = f"{counted(len(files), 'file')}, none of them" if files else "no file that is"
        raise DataError(f"{where} holds {held} an image ({', '.join(SUFFIXES)}).{advice}")
    return images
