"""Folders wherever they lie: on the disk, in object storage (`s3://`, `gs://`, `abfs://`), in HDFS.

    for name in names_below("s3://bucket/photos", recursive=True): ...
    content = read("s3://bucket/photos/a.jpg")

A name with a scheme is opened by Arrow, which knows S3, Google's, Azure's and HDFS, and else by fsspec; a name without
one is a file of this machine, which needs neither. Who one is, and where the store is, say the usual variables of the
environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `AWS_REGION` ...) and files.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from aweigh.errors import AweighError, DataError, UsageError, counted, said_if_missing
from aweigh.files import atomic_file, beside, read_bytes

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "az", "adl", "hdfs", "viewfs", "webhdfs", "oss", "oci", "sftp", "memory")
WHOLE = ("s3", "gcs", "abfs")  # Arrow's stores that show an object once all of it is there
PAUSES = (1.0, 4.0, 16.0)  # seconds before a store that does not answer is asked again, ours
ABSENT = ("NO_SUCH_KEY", "HTTP status 404", "404 Not Found")
DENIED = ("ACCESS_DENIED", "HTTP status 403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied")

Result = TypeVar("Result")


class StoreError(AweighError):
    """A store that does not answer: nothing is wrong with what lies there."""


class DeniedError(StoreError):
    """A store that gives no right to something."""


def is_stored(name: str) -> bool:
    """Whether this names something in a store, and not on this machine's disk."""
    return re.match(rf"({'|'.join(SCHEMES)})://", name) is not None


def joined(folder: str, name: str) -> str:
    """What is called `name` in a folder or below a prefix."""
    return f"{folder.rstrip('/')}/{name}" if is_stored(folder) else os.path.join(folder, name)


def read(name: str, *, most_bytes: int = sys.maxsize) -> bytes:
    """What a file holds. `DataError` where there is none, or a larger one; `StoreError` where its store does not
    answer."""
    if not is_stored(name):
        return read_bytes(Path(name))
    system, path = _opened(name)

    def content() -> bytes:
        with system.open_input_file(path) as file:
            if file.size() > most_bytes:
                raise DataError(
                    f"{name}: holds {counted(file.size(), 'byte')}, more than {counted(most_bytes, 'byte')}."
                )
            return bytes(file.read())

    return _patiently(content, name)


def write(name: str, content: bytes) -> None:
    """Write a file that is there as a whole or not at all. `StoreError` where its store does not take it."""
    if not is_stored(name):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(name) as unfinished:
            unfinished.write_bytes(content)
        return
    system, path = _opened(name)
    aside = path if system.type_name in WHOLE else str(beside(Path(path)))

    def put() -> None:
        if aside != path:
            system.create_dir(str(Path(path).parent), recursive=True)
        with system.open_output_stream(aside) as stream:
            stream.write(content)
        if aside != path:
            system.move(aside, path)

    _patiently(put, name)


def sizes_in(folder: str) -> dict[str, int]:
    """The files directly in a folder by their names, with their bytes; none where there is no such folder."""
    if not is_stored(folder):
        try:
            with os.scandir(folder) as entries:
                return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        except FileNotFoundError:
            return {}
    return {entry.base_name: entry.size or 0 for entry in _entries(folder) if entry.is_file}


def names_below(folder: str, *, recursive: bool) -> Iterator[str]:
    """The files in a folder of a store, as they are called from anywhere, by name; recursive: then what is in its
    folders, one after the other. What one folder holds is held in memory, and no more."""
    entries = sorted(_entries(folder), key=lambda entry: entry.base_name)
    yield from (joined(folder, entry.base_name) for entry in entries if entry.is_file)
    for name in [entry.base_name for entry in entries if recursive and not entry.is_file]:
        yield from names_below(joined(folder, name), recursive=True)


def is_file(name: str) -> bool:
    """Whether a file of a store is there."""
    system, path = _opened(name)
    return bool(_patiently(lambda: system.get_file_info(path).is_file, name))


def _entries(folder: str) -> list[FileInfo]:
    """What lies directly in a folder of a store; nothing where there is no such folder."""
    system, path = _opened(folder)
    from pyarrow.fs import FileSelector

    chosen = FileSelector(path, allow_not_found=True)
    found: list[FileInfo] = _patiently(lambda: system.get_file_info(chosen), folder)
    return found


@cache
def _system(scheme: str, host: str) -> tuple[FileSystem, bool]:
    """What reaches a store, and whether its paths begin with the host (of S3 the bucket)."""
    with said_if_missing(f"{scheme}://{host}"):
        from pyarrow import ArrowInvalid
        from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem, S3FileSystem, resolve_s3_region

    try:
        if scheme == "s3":
            place = _named_by_environment()
            return S3FileSystem(allow_delayed_open=True, **place or {"region": resolve_s3_region(host)}), True
        system, path = FileSystem.from_uri(f"{scheme}://{host}/")
        return system, path.strip("/") == host
    except ArrowInvalid:  # no scheme of Arrow's
        pass
    except OSError as error:
        raise StoreError(f"{scheme}://{host}: cannot be opened ({_line(error)}).") from error
    try:
        import fsspec

        found = fsspec.filesystem(scheme)
    except (ImportError, ValueError) as error:
        raise UsageError(f"{scheme}://{host}: {_line(error)}.") from error
    return PyFileSystem(FSSpecHandler(found)), True


def _named_by_environment() -> dict[str, Any]:
    """Of S3 where the environment says it is: nobody is asked for it then."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    address = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return ({"endpoint_override": address} if address else {}) | ({"region": region} if region else {})


def _opened(name: str) -> tuple[FileSystem, str]:
    scheme, _, rest = name.partition("://")
    host, _, path = rest.partition("/")
    system, with_host = _system(scheme, host)
    return system, f"{host}/{path}".rstrip("/") if with_host else f"/{path}"


def _patiently(ask: Callable[[], Result], name: str) -> Result:
    """The answer of a store, which is asked again where it does not answer."""
    for pause in PAUSES:
        try:
            return _answer(ask, name)
        except DeniedError:
            raise
        except StoreError:
            time.sleep(pause)
    return _answer(ask, name)


def _answer(ask: Callable[[], Result], name: str) -> Result:
    try:
        return ask()
    except OSError as error:
        text = _line(error)
        if isinstance(error, FileNotFoundError) or any(word in text for word in ABSENT):
            raise DataError(f"{name}: there is no such file. Check the path.") from error
        if isinstance(error, PermissionError) or any(word in text for word in DENIED):
            raise DeniedError(f"{name}: no permission ({text}). Check the rights and the keys.") from error
        raise StoreError(f"{name}: the store does not answer ({text}).") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
