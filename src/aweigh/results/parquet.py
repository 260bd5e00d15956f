"""`parquet`: a table with a row for each image, see `aweigh.results.rows`; for files that are searched, not read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO, TextIO

from aweigh.detections import Detections
from aweigh.errors import said_if_missing
from aweigh.results.format import OneFile
from aweigh.results.rows import schema, table

GROUP = 1000  # images, ours: so many rows are held, and compressed together


class ParquetTable:
    def __init__(self, stream: TextIO, _: Path | None) -> None:
        self._file = _writer(stream.buffer)
        self._waiting: list[Detections] = []

    def add(self, detections: Detections, _: int) -> None:
        self._waiting.append(detections)
        if len(self._waiting) == GROUP:
            self._write()

    def finish(self) -> None:
        if self._waiting:
            self._write()
        self._file.close()

    def _write(self) -> None:
        self._file.write_table(table(self._waiting))
        self._waiting = []


def _writer(stream: BinaryIO) -> Any:
    with said_if_missing("Format parquet", "choose another --format"):
        from pyarrow import parquet

    # pyarrow's ends its file when it is forgotten, which after an error is gone already; this one leaves it.
    writer: Any = type("Writer", (parquet.ParquetWriter,), {"__del__": lambda _: None})
    return writer(stream, schema(), compression="zstd")


FORMAT = OneFile("detections.parquet", ParquetTable)
