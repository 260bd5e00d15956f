"""Files of a data set, which anybody may have written: read only where they are ordinary files, below its folder.

And files of ours, which are whole or not there: each is written beside its place, and renamed when it is complete.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree
from xml.parsers import expat

from aweigh.errors import DataError, UsageError

LONGEST_HEADER = 100_000_000  # bytes of the JSON of a safetensors file, as its authors have it
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


def read_json(file: Path) -> Any:
    """What a JSON file holds; `DataError` where it is none."""
    try:
        return json.loads(read_bytes(file))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read as JSON ({' '.join(str(error).split())}). Export it again.") from error


class _ForbiddenXML(Exception):
    pass


def read_xml(file: Path, root: str) -> ElementTree.Element:
    """The first element of an XML file, whose name has to be `root`; `DataError` says why there is none, without its
    file.

    A file that declares a document type is refused, by which a small one can expand without end.
    """
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()

    def forbid(*_: object) -> NoReturn:
        raise _ForbiddenXML("it declares a document type, by which a small file can expand without end")

    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = forbid
    try:
        parser.Parse(read_bytes(file), True)
        element = builder.close()
        if element.tag.lower() != root:
            raise ValueError(f"it begins with <{element.tag[:40]}>, expected <{root}>")
    except (expat.ExpatError, _ForbiddenXML, AssertionError, ValueError, LookupError) as error:
        raise DataError(str(error)) from error
    return element


def safetensors_metadata(path: str | Path) -> dict[str, str]:
    """The texts beside the tensors of a safetensors file, see `safetensors_header`."""
    return safetensors_header(path)[0]


def safetensors_header(path: str | Path) -> tuple[dict[str, str], dict[str, Any], int]:
    """Of a safetensors file the texts, of each tensor `dtype`, `shape` and `data_offsets`, and where these count from.

    They stand behind the length of the header (8 bytes, little-endian) in its JSON. `UsageError` where there is no
    file, `DataError` for another one, or one that is cut short.
    """
    if not Path(path).is_file():
        raise UsageError(f"There is no file {path}.")
    try:
        with open(path, "rb") as file:
            size, length = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, LONGEST_HEADER):
                raise ValueError(f"a header of {length:,} B in {size:,} B")
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", None) or {}
        promised = 8 + length + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
        if promised != size:
            raise ValueError(f"{size:,} B of {promised:,}")
        if not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError("metadata that are no texts")
    except (OSError, ValueError, RecursionError, TypeError, AttributeError, LookupError) as error:
        raise DataError(f"{path} is truncated or is no safetensors file ({error}).") from error
    return metadata, header, 8 + length


def special(file: Path) -> str:
    """What is not an ordinary file, in words ("a pipe": to open one can wait for ever); empty for an ordinary file."""
    mode = stat.S_IFMT(file.stat().st_mode)
    return "" if mode == stat.S_IFREG else _KINDS.get(mode, "no ordinary file")


def lies_within(path: Path, folder: Path) -> bool:
    """Whether a path without `..` is the folder or lies below it, by name or, where links lead there, in fact."""
    if Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):
        return True
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8 as a whole; names of files that are no text keep their bytes."""
    with atomic_file(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="surrogateescape")


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Where to write what becomes the file `path` at the end of the block, once it is flushed to the disk.

    Until then a file of that name stays as it was, and after an error too; nothing else is left then. It may be read by
    whoever may read other new files of this user.
    """
    path = Path(path)
    aside = beside(path)
    try:
        aside.touch()
        mode = aside.stat().st_mode  # what this user's new files get; safetensors makes them private
        yield aside
        aside.chmod(mode)
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        if error.filename in (None, str(aside)):  # the user has named the other
            error.filename = str(path)
        raise
    except Exception as error:
        code = re.search(r"os error (\d+)", str(error))
        if type(error).__name__ != "SafetensorError" or code is None:  # nothing light imports safetensors
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
    finally:
        aside.unlink(missing_ok=True)


def put_in_place(written: str | Path, path: str | Path) -> None:
    """Rename a file that is complete, on the disk of its place; one of that name is gone."""
    os.replace(written, path)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A folder to write into that becomes `path` at the end of the block, and after an error is gone.

    `UsageError` where there is something of that name, but for an empty folder.
    """
    path = Path(path)
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise UsageError(f"{path}: exists already and is not an empty folder; name a new one.")
    aside = beside(path)
    try:
        aside.mkdir(parents=True)
        yield aside
        if path.exists():
            path.rmdir()
        aside.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def numbered(path: Path) -> Path:
    """The path, or where something of that name is there, the first of `NAME-2`, `NAME-3` and so on that is not."""
    names = (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 10_000)))
    return next(name for name in names if not name.exists())


def beside(path: Path) -> Path:
    """The name that `path` has while it is being written: beside it, short whatever its length, with its suffix.

    Programs that tell a format by its suffix then write the same one; a suffix that is none of theirs is left out. No
    two calls give the same, so that processes that write the same file do not write into one.
    """
    suffix = path.suffix if len(path.suffix) <= 12 else ""
    return path.with_name(f".{_digest(path.name)}.{secrets.token_hex(4)}.unfinished{suffix}")


def remove_leftovers(folder: str | Path) -> None:
    """Remove what a process that was killed in the middle of writing has left in a run folder."""
    for path in [*Path(folder).glob(".*"), *Path(folder).glob("last/.*")]:
        # Ours (up to 0.1 without "unfinished"), and those of safetensors.
        if not re.fullmatch(r"\..+\.(\d+|\w+\.unfinished)(\.\w+)?|\.tmp\w{6}", path.name):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def fitting_name(stem: str, ending: str) -> str:
    """`stem + ending`, where that is too long for a file name with the end of the stem replaced by a short digest."""
    if len(os.fsencode(stem + ending)) <= LONGEST_NAME:
        return stem + ending
    kept = os.fsencode(stem)[: LONGEST_NAME - len(os.fsencode(ending)) - 9]
    is_text = not any("\ud800" <= letter <= "\udfff" for letter in stem)
    whole = kept.decode("utf-8", "ignore") if is_text else os.fsdecode(kept)
    return f"{whole}~{_digest(stem)}{ending}"


def _digest(name: str) -> str:
    return hashlib.blake2b(os.fsencode(name), digest_size=4).hexdigest()


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
