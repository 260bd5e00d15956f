"""Detections as rows of a table: one for each image, whether objects were found in it, none, or it could not be read.

What a file of Parquet holds, and what is handed to Arrow and to what reads it (DuckDB, pandas, Polars, Ray, Spark). The
columns are always all there, so that tables of several runs can be put together; docs/rows.md lists them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aweigh.detections import Detections
from aweigh.errors import escaped, said_if_missing
from aweigh.results.jsonl import keypoint_names

SCHEMA = "aweigh.rows/1"  # under "schema" in the metadata; another number where a column changes its meaning


def schema() -> Any:
    """The columns as a `pyarrow.Schema`. `UsageError` where pyarrow is missing."""
    with said_if_missing("A table of detections"):
        import pyarrow as pa

    def several(kind: Any, length: int = -1) -> Any:
        return pa.list_(pa.field("element", kind), length)  # as Parquet calls it, so that it reads back the same

    number, text = pa.float32(), pa.string()
    columns = {
        "path": text,
        "width": pa.int32(),
        "height": pa.int32(),
        "error": text,
        "boxes": several(several(number, 4)),
        "scores": several(number),
        "names": several(text),
        "category_ids": several(pa.int64()),
        "track_ids": several(pa.int64()),
        "masks": several(text),
        "keypoints": several(several(several(number, 3))),
        "keypoint_names": several(text),
        "cuboids": several(several(number, 7)),
        "solids": several(several(pa.float64(), 7)),
        "frame": pa.int64(),
        "time": pa.float64(),
    }
    return pa.schema(columns.items(), metadata={"schema": SCHEMA})


def row(detections: Detections) -> dict[str, Any]:
    """An image as plain values by column; None for what its detector does not say.

    Lists have an entry for each object, best first: boxes xyxy in pixels, masks as COCO's compressed run lengths of
    height x width, keypoints (x, y, score). Control characters of names and bytes that are no text are spelled out.
    """
    height, width = detections.size_hw
    points, cuboids = detections.keypoints, detections.cuboids
    in_space = cuboids is not None and detections.camera is not None
    return {
        "path": None if detections.path is None else escaped(detections.path),
        "width": width,
        "height": height,
        "error": None if detections.error is None else escaped(detections.error),
        "boxes": detections.boxes.tolist(),
        "scores": detections.scores.tolist(),
        "names": [escaped(name) for name in detections.names],
        "category_ids": detections.category_ids,
        "track_ids": None if detections.track_ids is None else detections.track_ids.tolist(),
        "masks": None if detections.masks is None else [mask["counts"] for mask in detections.rle()],
        "keypoints": None if points is None else points.tolist(),
        "keypoint_names": None if points is None else [escaped(name) for name in keypoint_names(detections)],
        "cuboids": None if cuboids is None else cuboids.tolist(),
        "solids": detections.solids().tolist() if in_space else None,
        "frame": detections.frame_number,
        "time": detections.time,
    }


def table(results: Iterable[Detections]) -> Any:
    """A `pyarrow.Table` with the row of each image, in their order. `UsageError` where pyarrow is missing."""
    columns = schema()
    import pyarrow as pa

    return pa.Table.from_pylist([row(detections) for detections in results], schema=columns)
