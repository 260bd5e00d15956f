"""An image file that has no path of its own: it lies in an archive, or at an address."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MOST_BYTES = 1 << 29  # ours: of one image file in an archive or at an address; a larger one is refused, by its name


@dataclass(frozen=True, eq=False)
class StoredImage:
    """name: what it is called in results, as `photos.zip/a/b.jpg`. read: gives the bytes of the file, from any thread
    and each time anew; `DataError` where that cannot be. place: where its drawing lies below the folder of drawings.
    """

    name: str
    read: Callable[[], bytes]
    place: Path

    def __str__(self) -> str:
        return self.name
