"""Lists of texts and paths in one block of bytes: small, quick to send to a worker, and not copied when one is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np


class TextList(Sequence[str]):
    """Texts in one block of UTF-8 bytes; `ends[i]` is where text i ends."""

    def __init__(self, block: np.ndarray, ends: np.ndarray) -> None:
        self.block, self.ends = block, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> TextList:
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends)

    def take(self, rows: np.ndarray) -> TextList:
        """The texts of these rows, in this order."""
        starts = np.concatenate([[0], self.ends[:-1]]).astype(np.int64)
        counts = (self.ends - starts)[rows] if len(self.ends) else np.zeros(0, dtype=np.int64)
        return TextList(self.block[ranges(starts[rows], counts)], np.cumsum(counts, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]  # raises IndexError, and counts negative ones from the end
        start = int(self.ends[position - 1]) if position else 0
        return self.block[start : int(self.ends[position])].tobytes().decode("utf-8", "surrogateescape")


class PathList(Sequence[Path]):
    """Paths in one block of bytes."""

    def __init__(self, texts: TextList) -> None:
        self._texts = texts

    @classmethod
    def of(cls, paths: Iterable[str | Path]) -> PathList:
        return cls(TextList.of(str(path) for path in paths))

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | Sequence[Path]:
        if isinstance(index, slice):
            return [Path(text) for text in self._texts[index]]
        return Path(self._texts[index])

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
