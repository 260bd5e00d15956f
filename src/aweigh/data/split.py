"""One split of a data set in flat arrays: what every reader makes, and all that training and evaluation need.

Flat arrays stay small, are shared by worker processes without growing, and are checked at the speed of numpy.
Legend: I images, N annotations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch

from aweigh.data.check import Problem
from aweigh.errors import DataError, UsageError
from aweigh.structures import Classes, Targets


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their annotations, cleaned; everything that was wrong is in `problems`.

    layout: "coco", "voc" or "yolo". root: the folder of the pictures. image_ids: `[I]` int64. sizes_hw: `[I, 2]`.
    first: `[I + 1]`, the annotations of image i are rows `first[i]` to `first[i + 1]` of: boxes `[N, 4]` float32
    xyxy inside the image, labels `[N]` int64, ignore `[N]` bool (crowd, difficult), crowd `[N]` bool, area `[N]`
    float64 (of the mask where the source gives it), annotation_ids `[N]` int64, source_boxes_xywh `[N, 4]` float64,
    as the source has them before clipping. evaluation_only: annotations that have a size and so count as objects to
    be found, but cannot be learned (under one pixel, outside the image); entries as `to_coco` has them.
    """

    name: str
    layout: str
    root: Path
    classes: Classes
    paths: Sequence[Path]
    image_ids: np.ndarray
    sizes_hw: np.ndarray
    first: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    annotation_ids: np.ndarray
    source_boxes_xywh: np.ndarray
    problems: list[Problem] = field(default_factory=list)
    evaluation_only: Sequence[dict[str, Any]] = ()

    def __len__(self) -> int:
        return len(self.image_ids)

    def targets(self, index: int) -> Targets:
        """The annotations of one image as tensors that own their memory, in the pixels of the original image."""
        rows = slice(int(self.first[index]), int(self.first[index + 1]))
        return Targets(
            boxes=torch.tensor(self.boxes[rows]).reshape(-1, 4),
            labels=torch.tensor(self.labels[rows]),
            ignore=torch.tensor(self.ignore[rows]),
            area=torch.tensor(self.area[rows], dtype=torch.float32),
            ids=torch.tensor(self.annotation_ids[rows]),
        )

    def summary(self) -> str:
        """Two lines: what there is, and how many objects of each class."""
        counts = np.bincount(self.labels[~self.ignore], minlength=len(self.classes))
        empty = int((np.diff(self.first) == 0).sum())
        ignored = f", {int(self.ignore.sum())} of them to be ignored (crowd, difficult)" if self.ignore.any() else ""
        order = np.argsort(-counts, kind="stable")
        shown = [f"{self.classes.names[label]} {counts[label]}" for label in order[:12]]
        more = [f"{len(order) - 12} more classes"] * (len(order) > 12)
        return (
            f"{self.name} ({self.layout}, {self.root}): {len(self)} images, {len(self.boxes)} boxes{ignored}; "
            f"{empty} images without objects, kept\n  {', '.join(shown + more)}"
        )

    def take(self, indices: Sequence[int] | np.ndarray, *, name: str | None = None) -> Split:
        """The split of these images alone, in this order; the problems stay with the whole."""
        images = np.asarray(indices, dtype=np.int64)
        counts = np.diff(self.first)[images]
        rows = _ranges(self.first[images], counts)
        kept = set(self.image_ids[images].tolist())
        per_row = ("boxes", "labels", "ignore", "crowd", "area", "annotation_ids", "source_boxes_xywh")
        return replace(
            self,
            name=name or self.name,
            paths=PathList.of([self.paths[int(image)] for image in images]),
            image_ids=self.image_ids[images],
            sizes_hw=self.sizes_hw[images],
            first=np.concatenate([[0], np.cumsum(counts)]),
            problems=[],
            evaluation_only=[entry for entry in self.evaluation_only if entry["image_id"] in kept],
            **{key: getattr(self, key)[rows] for key in per_row},
        )

    def to_coco(self) -> dict[str, Any]:
        """Ground truth for evaluation: original category ids, areas and boxes as the source gives them.

        What is to be ignored is marked as crowd, by which COCO's evaluation counts nothing inside it as a mistake;
        "difficult" tells VOC's flag from COCO's. Annotation ids are moved above 0, which the protocol reads as "none".
        """
        category_of = np.asarray(self.classes.ids, dtype=np.int64)[self.labels]
        image_of = np.repeat(self.image_ids, np.diff(self.first))
        columns = (
            self.annotation_ids,
            image_of,
            category_of,
            self.source_boxes_xywh,
            self.area,
            self.ignore,
            self.crowd,
        )
        rows = zip(*(column.tolist() for column in columns), strict=True)
        annotations = [coco_entry(*row) for row in rows] + list(self.evaluation_only)
        shift = max(0, 1 - min((entry["id"] for entry in annotations), default=1))
        annotations = [{**entry, "id": entry["id"] + shift} for entry in annotations]
        images = [
            {"id": image_id, "file_name": _below(path, self.root), "height": height, "width": width}
            for image_id, path, (height, width) in zip(
                self.image_ids.tolist(), self.paths, self.sizes_hw.tolist(), strict=True
            )
        ]
        categories = [
            {"id": number, "name": name} for number, name in zip(self.classes.ids, self.classes.names, strict=True)
        ]
        return {"images": images, "annotations": annotations, "categories": categories}

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over classes, file names, sizes and annotations: tells whether the data are still the same."""
        digest = hashlib.sha256(repr((self.classes.names, self.classes.ids)).encode())
        for path in self.paths:
            digest.update(path.name.encode() + b"\0")
        for array in (self.image_ids, self.sizes_hw, self.first, self.boxes, self.labels, self.ignore, self.area):
            digest.update(np.ascontiguousarray(array).tobytes())
        if self.evaluation_only:
            digest.update(repr(list(self.evaluation_only)).encode())
        return digest.hexdigest()


def coco_entry(
    number: int, image_id: int, category_id: int, box_xywh: list[float], area: float, ignore: bool, crowd: bool
) -> dict[str, Any]:
    """One annotation of ground truth."""
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box_xywh,
        "area": area,
        "iscrowd": int(ignore),
        "ignore": int(ignore),
        "difficult": int(ignore and not crowd),
    }


def split_off(split: Split, fraction: float, seed: int = 0, *, name: str = "val") -> tuple[Split, Split]:
    """`(rest, part)`: a random part of the images set aside, at least one; the same for the same seed."""
    if not 0 < fraction < 1:
        raise UsageError(f"The fraction to set aside must lie between 0 and 1, got {fraction}.")
    if len(split) < 2:
        raise DataError(f"{split.root}: {len(split)} image cannot be divided into {split.name} and {name}.")
    order = np.random.default_rng(seed).permutation(len(split))
    count = min(len(split) - 1, max(1, round(fraction * len(split))))
    rest = replace(split.take(np.sort(order[count:])), problems=split.problems)
    return rest, split.take(np.sort(order[:count]), name=name)


class PathList(Sequence[Path]):
    """Paths in one block of bytes: small, quick to send to a worker, and not copied when a worker reads it."""

    def __init__(self, block: np.ndarray, ends: np.ndarray) -> None:
        self._block, self._ends = block, ends

    @classmethod
    def of(cls, paths: Iterable[str | Path]) -> PathList:
        encoded = [str(path).encode("utf-8", "surrogateescape") for path in paths]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | Sequence[Path]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]  # raises IndexError, and counts negative ones from the end
        start = int(self._ends[position - 1]) if position else 0
        return Path(self._block[start : int(self._ends[position])].tobytes().decode("utf-8", "surrogateescape"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The concatenation of `arange(start, start + count)`."""
    total = int(counts.sum())
    before = np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(starts, counts) + np.arange(total) - before
