"""Detections of a data set that somebody has in Ray: `aweigh.cluster.predict(dataset)`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aweigh.cluster.loader import Loader
from aweigh.cluster.ray_cluster import Workers
from aweigh.errors import UsageError
from aweigh.images.stored import StoredImage
from aweigh.predictor import load
from aweigh.results.rows import table

if TYPE_CHECKING:
    from ray.data import Dataset

AT_A_TIME = 16  # rows, ours: that are handed to a process together


def predict(
    dataset: Dataset, model: str | Path = "box", *, workers: Workers = Workers(count=1), batch: int = 0, **asked: Any
) -> Dataset:
    """The rows of `aweigh.results.rows` of a `ray.data.Dataset` of images, in its order; computed when they are asked
    for, as Ray has it.

    dataset: with a column `bytes` of image files, as `ray.data.read_binary_files(..., include_paths=True)` has it, or
    `image` of arrays `(H, W, 3)` RGB, as `read_images` has it; a column `path` names them. model: as `aweigh.load`
    takes it; a file is sent along. workers: the processes; of count 0 one. batch, asked: as `Predictor.with_images` has
    them. An image that cannot be read is a row with an error.
    """
    loader = Loader.of(model, partial(load, threads=workers.cpus))
    rows: Dataset = dataset.map_batches(
        _Process,
        batch_size=AT_A_TIME,
        fn_constructor_args=(loader, batch, asked),
        concurrency=workers.count or 1,
        num_cpus=workers.cpus,
        num_gpus=workers.gpus or None,
    )
    return rows


class _Process:
    """A process with a detector, which Ray calls with the columns of some rows."""

    def __init__(self, loader: Loader, batch: int, asked: dict[str, Any]) -> None:
        self._predictor, self._asked = loader(), asked
        self._batch = batch or self._predictor.engine.usual_batch

    def __call__(self, columns: dict[str, Any]) -> Any:
        """A `pyarrow.Table`."""
        found = self._predictor.with_images(images_of_columns(columns), self._batch, **self._asked)
        return table([detections for _, detections in found])


def images_of_columns(columns: dict[str, Any]) -> list[Any]:
    """The images of rows, called as they say. `UsageError` where there is no column of images."""
    images = columns.get("bytes", columns.get("image"))
    if images is None:
        raise UsageError(f"Rows have a column bytes or image, these have {', '.join(columns)}.")
    if "bytes" not in columns or "path" not in columns:
        return [*images]
    return [
        StoredImage(str(path), lambda content=content: bytes(content), Path(str(path)))  # type: ignore[misc]
        for path, content in zip(columns["path"], images, strict=True)
    ]
