"""The image files that a folder, a pattern or the path of a file stands for.

Whatever is called like an image is one of them, also where it cannot be read (a link that leads nowhere, a pipe, a
folder called x.jpg): it is named then, and not left out in silence.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from aweigh.errors import DataError, counted
from aweigh.images.reader import SUFFIXES
from aweigh.images.sources.source import Given, Images, Kind


def folder_images(given: Given) -> Images:
    """Those directly in a folder, by name; recursive: in its folders too, folder by folder."""
    folder = Path(given.name)
    each = partial(_images_in, folder, recursive=given.recursive)
    check_holds_images(
        lambda: (os.path.join(place, name) for place in _places(folder, given.recursive) for name in os.listdir(place)),
        f"The folder {folder}",
        "" if given.recursive else f" For folders in it: --recursive, or '{folder}/**/*'.",
    )
    return Images(each, root=folder)


def _images_in(folder: Path, *, recursive: bool) -> Iterator[Path]:
    for place in _places(folder, recursive):
        try:
            names = sorted(filter(is_called_like_an_image, os.listdir(place)))
        except OSError as error:
            raise DataError(f"The folder {place}: cannot be read ({error.strerror}).") from error
        yield from (place / name for name in names)


def _places(folder: Path, recursive: bool) -> list[Path]:
    """The folders whose images are meant."""
    return sorted(_folders(folder)) if recursive else [folder]


def pattern_images(given: Given) -> Images:
    """Those that a pattern (`photos/**/*.jpg`) matches, in the order of their paths. Their names are held."""
    pattern = given.name
    try:
        files = sorted(dict.fromkeys(matches(pattern)))
    except (OSError, ValueError) as error:
        raise DataError(f"{pattern}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    check_holds_images(lambda: map(str, files), f"The pattern {pattern}", "")
    names = [str(file) for file in files if is_called_like_an_image(file.name)]
    return Images(lambda: map(Path, names), root=fixed_part(Path(pattern)))


def file_image(given: Given) -> Images:
    """A path itself, whatever it is called."""
    path = Path(given.name)
    return Images(lambda: iter([path]), root=path.parent)


def check_holds_images(paths: Callable[[], Iterable[str]], where: str, advice: str) -> None:
    """`DataError` unless one of the paths is called like an image, or where they cannot be listed."""
    others = 0
    try:
        for name in paths():
            if is_called_like_an_image(name):
                return
            others += not os.path.isdir(name)
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    held = f"{counted(others, 'file')}, none of them" if others else "no file that is"
    raise DataError(f"{where} holds {held} an image ({', '.join(SUFFIXES)}).{advice}")


def is_called_like_an_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def matches(pattern: str) -> Iterator[Path]:
    """What a pattern matches, `**` any number of folders; names that begin with a dot only where the pattern does.

    Unlike Python's `glob`, which follows links in circles, `**` enters each folder once, by whichever name comes first;
    the name without links comes first.
    """
    path, top = Path(pattern), fixed_part(Path(pattern))
    yield from _expanded(top, path.parts[len(top.parts) :])


def fixed_part(pattern: Path) -> Path:
    """What a pattern begins with before its first sign."""
    fixed = 0
    while fixed < len(pattern.parts) and not glob.has_magic(pattern.parts[fixed]):
        fixed += 1
    return Path(*pattern.parts[:fixed])


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


def is_there(name: str) -> bool:
    try:
        return os.path.lexists(name)
    except ValueError:  # it holds a zero byte, which no name does
        return False


FOLDER = Kind("a folder", os.path.isdir, folder_images)
FILE = Kind("a file", is_there, file_image, several=False)
PATTERN = Kind("a pattern", glob.has_magic, pattern_images)
