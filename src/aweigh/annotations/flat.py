"""Lists of texts and paths in one block of bytes: small, quick to send to a worker, and not copied when one is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar, overload

import numpy as np

Item = TypeVar("Item")


class Packed(Sequence[Item]):
    """Items in one block of UTF-8 bytes, `kind` (`str`, `Path`) of what stands there; `ends[i]` is where i ends."""

    def __init__(self, block: np.ndarray, ends: np.ndarray, kind: Callable[[str], Item]) -> None:
        self.block, self.ends, self.kind = block, ends, kind

    @classmethod
    def of(cls, items: Iterable[object], kind: Callable[[str], Item]) -> Packed[Item]:
        encoded = [str(item).encode("utf-8", "surrogateescape") for item in items]
        ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
        return Packed(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends, kind)

    def take(self, rows: np.ndarray) -> Packed[Item]:
        """The items of these rows, in this order."""
        starts = np.concatenate([[0], self.ends[:-1]]).astype(np.int64)
        counts = (self.ends - starts)[rows] if len(self.ends) else np.zeros(0, dtype=np.int64)
        return Packed(self.block[ranges(starts[rows], counts)], np.cumsum(counts, dtype=np.int64), self.kind)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]  # raises IndexError, and counts negative ones from the end
        start = int(self.ends[position - 1]) if position else 0
        return self.kind(self.block[start : int(self.ends[position])].tobytes().decode("utf-8", "surrogateescape"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The concatenation of `arange(start, start + count)`."""
    total = int(counts.sum())
    before = np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(starts, counts) + np.arange(total) - before


def offsets(counts: np.ndarray) -> np.ndarray:
    """`[N + 1]` int64: where each of the runs of these lengths begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
