"""What archives of any kind share: which members are meant, what they are called, and what is refused by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from aweigh.errors import DataError, counted
from aweigh.images.reader import SUFFIXES
from aweigh.images.sources.folders import is_called_like_an_image
from aweigh.images.stored import MOST_BYTES, StoredImage

MEMBER = "{archive}/{member}"
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
NESTED = (".zip", *TARS)
LITTER = "__MACOSX/"  # what macOS adds to its archives beside each file, called like the file


def is_meant(name: str) -> bool:
    """Whether a member is an image by its name, or an archive, which is named and refused."""
    return (is_called_like_an_image(name) or name.lower().endswith(NESTED)) and not name.startswith(LITTER)


def stored(archive: Path, member: str, read: Callable[[], bytes]) -> StoredImage:
    """A member as an image: an archive in the archive says that it is not opened."""
    name = MEMBER.format(archive=archive, member=member)
    parts = [part for part in member.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    place = Path(archive.name, *(part.replace(":", "_") for part in parts))
    if member.lower().endswith(NESTED):
        read = _refused(f"{name}: an archive in an archive is not opened. Unpack the outer one, and name this.")
    return StoredImage(name, read, place)


def _refused(why: str) -> Callable[[], bytes]:
    def read() -> bytes:
        raise DataError(why)

    return read


def unreadable(name: str, why: str) -> StoredImage:
    """In the place of what cannot be read: its error."""
    return StoredImage(name, _refused(why), Path(PurePosixPath(name).name))


def check_size(name: str, size: int) -> None:
    """`DataError` for a member that is larger than an image file is."""
    if size > MOST_BYTES:
        raise DataError(
            f"{name}: holds {counted(size, 'byte')}, more than {counted(MOST_BYTES, 'byte')}, which an image file in "
            "an archive may have. Unpack it, and name the file."
        )


def image_members(archive: Path, names: Iterable[str], members: int) -> None:
    """`DataError` where no member is an image."""
    if not any(True for _ in names):
        held = f"{counted(members, 'member')}, none of them" if members else "nothing that is"
        raise DataError(f"{archive} holds {held} an image ({', '.join(SUFFIXES)}).")
