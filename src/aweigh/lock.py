"""A folder that is written into belongs to one process at a time.

The lock is a record lock of the operating system on the file `lock` in the folder, held as long as the file is open.
The system releases it when the process ends, however it ends, so nobody has to judge whether a process number is still
that of the run; and it is not inherited by the processes that read images, which outlive a killed run by seconds. On a
network file system with locking it holds between machines and containers. The file says who holds it, and is removed
at the end; one that is left over is that of a run that was killed, and is taken over.
"""

import errno
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aweigh.errors import UsageError, printable

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

NAME = "lock"
_FAR = 1 << 30  # Windows locks bytes against reading: one behind the text
_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_held: set[Path] = set()  # by this process, whose own locks never stand against one another


class FolderTakenError(UsageError):
    """Another process works in the folder."""


@contextmanager
def hold(folder: str | Path) -> Iterator[str]:
    """Hold the folder, made where it is not there, for the time of the block; gives a remark for the user, or "".

    `FolderTakenError` where another process holds it. A folder that was made here and is empty at the end is removed.
    """
    folder = Path(folder)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    place = folder.resolve()
    if place in _held:
        raise FolderTakenError(f"{folder} is held by this very process already; wait until it is done.")
    stream, remark = _locked(folder)
    me = f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
    _held.add(place)
    try:
        with suppress(OSError):  # of a full disk; the text is for people alone
            os.ftruncate(stream, 0)
            os.lseek(stream, 0, os.SEEK_SET)
            os.write(stream, f"{me}\n".encode())
        yield remark
    finally:
        _held.discard(place)
        with suppress(OSError):  # while it is still held: whoever waits sees that it is another file
            (folder / NAME).unlink()
        os.close(stream)
        if made:
            with suppress(OSError):
                folder.rmdir()


def _locked(folder: Path) -> tuple[int, str]:
    """The open file of the lock, and what is to be said of who had it before."""
    path = folder / NAME
    while True:
        stream = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            remark = _lock(stream, folder)
            who = _holder(stream)
        except BaseException:
            os.close(stream)
            raise
        with suppress(OSError):
            if os.path.samestat(os.stat(path), os.fstat(stream)):
                taken_over = f"The run before ({who}) ended without a word; its lock is taken over." if who else ""
                return stream, " ".join(filter(None, (taken_over, remark)))
        os.close(stream)  # it was removed by its holder between the two steps above


def _lock(stream: int, folder: Path) -> str:
    """Lock the open file; a remark where this file system cannot."""
    try:
        if sys.platform == "win32":
            os.lseek(stream, _FAR, os.SEEK_SET)
            msvcrt.locking(stream, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            who = _holder(stream) or "which has just begun"
            raise FolderTakenError(
                f"{folder} is in use by another run ({who}); wait until it ends, stop it, or give another output."
            ) from None
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        return f"The disk of {folder} knows no locks ({error.strerror}): see to it that one process alone works there."
    return ""


def _holder(stream: int) -> str:
    os.lseek(stream, 0, os.SEEK_SET)
    return printable(os.read(stream, 200).decode("utf-8", "replace").strip())
