"""Proposals: where in each image a detector that proposes no regions itself (Fast R-CNN) is told to look.

They come as one file, which docs/proposals.md describes: safetensors, no pickle. Whoever makes them (`aweigh
proposals`, selective search, another program), they are boxes with scores in the pixels of the images that the
annotations are in.
Legend: I images, P proposals of all images together.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from aweigh.annotations.flat import Packed, offsets, ranges
from aweigh.array_file import read_arrays, write_arrays
from aweigh.errors import DataError, UsageError, counted, printable
from aweigh.files import safetensors_metadata

KIND, FORMAT = "aweigh.proposals", 1
METADATA_KEY = "aweigh"
# Types in the file; those of OPTIONAL may be missing.
TENSORS = {"sizes_hw": "int32", "first": "int64", "boxes": "float32", "scores": "float32", "file_bytes": "int64"}
OPTIONAL = {"file_bytes"}


@dataclass(frozen=True, eq=False)
class Proposals:
    """Of each image its boxes, best first.

    files: `[I]`, the names of the images below the folder of the data set's images. sizes_hw: `[I, 2]` int32.
    first: `[I + 1]` int64, the proposals of image i are rows `first[i]` to `first[i + 1]` of: boxes `[P, 4]` float32
    xyxy, with an area and inside the image, scores `[P]` float32, falling. made: what made them, as JSON values.
    file_bytes: `[I]` int64, the length of each image's file, by which images of one name are told apart; None where
    that is not known.
    """

    files: Sequence[str]
    sizes_hw: np.ndarray
    first: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    made: dict[str, Any] = field(default_factory=dict)
    file_bytes: np.ndarray | None = None

    @classmethod
    def of(
        cls, pictures: Iterable[tuple[str, tuple[int, int], Any, Any]], *, number: int, made: Mapping[str, Any]
    ) -> Proposals:
        """From each image's name, size (height, width), boxes `[n, 4]` xyxy and scores `[n]`, in any order.

        Boxes are cut off at the edges, those without an area left out, and the `number` best of each image kept.
        """
        files, sizes, parts = [], [], []
        for file, (height, width), given, marks in pictures:
            boxes = np.asarray(given, dtype=np.float32).reshape(-1, 4)
            scores = np.asarray(marks, dtype=np.float32).reshape(-1)
            boxes = np.clip(boxes, 0, np.array([width, height] * 2, dtype=np.float32))
            usable = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1) & np.isfinite(scores))
            best = usable[np.argsort(-scores[usable], kind="stable")][:number]
            files.append(file)
            sizes.append((height, width))
            parts.append((boxes[best], scores[best]))
        return cls(
            files=Packed.of(files, str),
            sizes_hw=np.array(sizes, dtype=np.int32).reshape(-1, 2),
            first=offsets(np.array([len(scores) for _, scores in parts], dtype=np.int64)),
            boxes=np.concatenate([np.zeros((0, 4), np.float32), *(boxes for boxes, _ in parts)]),
            scores=np.concatenate([np.zeros(0, np.float32), *(scores for _, scores in parts)]),
            made=dict(made),
        )

    def __len__(self) -> int:
        return len(self.files)

    def of_image(self, index: int) -> np.ndarray:
        """The boxes of one image `[P_i, 4]`."""
        return self.boxes[int(self.first[index]) : int(self.first[index + 1])]

    def take(self, images: np.ndarray) -> Proposals:
        """Those of these images `[J]`, in this order."""
        counts = np.diff(self.first)[images]
        rows = ranges(self.first[:-1][images], counts)
        return replace(
            self,
            files=Packed.of([self.files[int(image)] for image in images], str),
            file_bytes=None if self.file_bytes is None else self.file_bytes[images],
            sizes_hw=self.sizes_hw[images],
            first=offsets(counts),
            boxes=self.boxes[rows],
            scores=self.scores[rows],
        )

    def best(self, number: int) -> Proposals:
        """The `number` best of each image."""
        counts = np.minimum(np.diff(self.first), number)
        rows = ranges(self.first[:-1], counts)
        return replace(self, first=offsets(counts), boxes=self.boxes[rows], scores=self.scores[rows])

    def row(self, file: str) -> int:
        """The image of this name, or of the longest end of it that there is; else that of the same last part, where
        only one has it; -1 where there is none."""
        parts = PurePosixPath(file).parts
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        found = next((self._rows[end] for end in (file, *ends) if end in self._rows), -1)
        return found if found >= 0 else self._rows_of_last_parts.get(parts[-1] if parts else "", -1)

    def of_picture(self, file: Path, size_hw: tuple[int, int]) -> np.ndarray:
        """The boxes `[P_i, 4]` of an image, found by its name; `DataError` where there are none, or of another one."""
        row = self.row(file.as_posix())
        if row < 0:
            raise DataError(f"{file}: {self.name} has no proposals for it; it was made for {self.made_for}.")
        height, width = self.sizes_hw[row].tolist()
        if (height, width) != size_hw:
            raise DataError(
                f"{file}: is {size_hw[1]} x {size_hw[0]} pixels, but the proposals for that name in {self.name} are "
                f"for {width} x {height}; it was made for {self.made_for}."
            )
        if self.file_bytes is not None and self.file_bytes[row] != length_of(file):
            raise DataError(f"{file}: {self.name} was made for another image of that name, of {self.made_for}.")
        return self.of_image(row)

    def rows_for(
        self, files: Sequence[str], sizes_hw: np.ndarray, file_bytes: Callable[[], np.ndarray], *, what: str
    ) -> np.ndarray:
        """The row of each of these images, `[J]`; `DataError` where one is missing, or another one.

        sizes_hw: `[J, 2]`. file_bytes: gives their `[J]` lengths. what: whose images they are, for the message.
        """
        rows = np.array([self.row(file) for file in files], dtype=np.int64)
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            raise DataError(
                f"{self.name}: {len(missing)} of the {counted(len(files), 'image')} of {what} have no proposals, "
                f"such as {printable(files[int(missing[0])])}. It was made for {self.made_for}; make one for these: "
                "aweigh proposals DETECTOR DATA --split NAME -o FILE."
            )
        other = np.flatnonzero((self.sizes_hw[rows] != sizes_hw).any(axis=1))
        if len(other):
            here, there = sizes_hw[other[0]], self.sizes_hw[rows[other[0]]]
            raise DataError(
                f"{self.name}: {printable(files[int(other[0])])} is {here[1]} x {here[0]} pixels in {what}, but the "
                f"proposals were made for {there[1]} x {there[0]}, as {len(other)} in all. They are of other images: "
                f"the file was made for {self.made_for}."
            )
        if self.file_bytes is not None and len(other := np.flatnonzero(self.file_bytes[rows] != file_bytes())):
            raise DataError(
                f"{self.name}: {printable(files[int(other[0])])} of {what} is another image than that of the same "
                f"name that the proposals were made for, as {len(other)} in all; the file was made for {self.made_for}."
            )
        return rows

    def results(self, image_ids: np.ndarray) -> np.ndarray:
        """`[P, 6]` float64 for `average_recall`: image id, x, y, width, height, score. image_ids: `[I]`."""
        corners = self.boxes.astype(np.float64)
        ids = np.repeat(image_ids, np.diff(self.first))
        return np.column_stack([ids, corners[:, :2], corners[:, 2:] - corners[:, :2], self.scores])

    @property
    def name(self) -> str:
        return str(self.made.get("file", "the proposals"))

    @property
    def made_for(self) -> str:
        named = [str(self.made[key]) for key in ("split", "data") if self.made.get(key)]
        return " of ".join(named) or "other data"

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {file: row for row, file in enumerate(self.files)}

    @cached_property
    def _rows_of_last_parts(self) -> dict[str, int]:
        names = [PurePosixPath(file).name for file in self.files]
        counts = Counter(names)
        return {name: row for row, name in enumerate(names) if counts[name] == 1}

    def write(self, path: str | Path) -> None:
        """As docs/proposals.md describes it."""
        said = {name: value for name, value in self.made.items() if name != "file"}
        header = {"kind": KIND, "format": FORMAT, "files": list(self.files), "made": said}
        tensors = {
            name: np.ascontiguousarray(value, dtype=kind)
            for name, kind in TENSORS.items()
            if (value := getattr(self, name)) is not None
        }
        write_arrays(path, tensors, {METADATA_KEY: json.dumps(header, ensure_ascii=False)})


def length_of(file: Path) -> int:
    """The bytes of a file, -1 where there is none."""
    try:
        return file.stat().st_size
    except OSError:
        return -1


def read_proposals(path: str | Path) -> Proposals:
    """A file of proposals, checked. `UsageError` where there is none, `DataError` where it cannot be used."""
    if not Path(path).is_file():
        raise UsageError(f"There is no file of proposals at {path}. `aweigh proposals` makes one.")
    header, tensors = _read(Path(path))
    images, number = len(header["files"]), tensors["scores"].size
    shapes = {"sizes_hw": (images, 2), "first": (images + 1,), "boxes": (number, 4), "scores": (number,)}
    for name, found in tensors.items():
        kind, shape = TENSORS[name], shapes.get(name, (images,))
        if found.dtype != kind or found.shape != shape:
            raise DataError(
                f"{path}: {name} must be {kind} {list(shape)}, got {found.dtype} {list(found.shape)}; see "
                "docs/proposals.md."
            )
    proposals = Proposals(files=Packed.of(header["files"], str), made={**header["made"], "file": str(path)}, **tensors)
    _check(proposals, path)
    return _best_first(proposals)


def is_proposals(path: Path) -> bool:
    """Whether this is a file of proposals, by its header; else it may be a checkpoint, or nothing that is there."""
    try:
        return f'"{KIND}"' in safetensors_metadata(path).get(METADATA_KEY, "")[:200]
    except (UsageError, DataError):
        return False


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        texts, tensors = read_arrays(path, TENSORS.keys())
        header = json.loads(texts.get(METADATA_KEY, "{}"))
    except (DataError, OSError, LookupError, ValueError, OverflowError, RecursionError, TypeError) as error:
        raise DataError(
            f"{path} is no file of proposals: cut short, or another format ({' '.join(str(error).split())[:160]}). "
            "docs/proposals.md says what it holds, and how to convert others."
        ) from error
    if not isinstance(header, dict) or header.get("kind") != KIND:
        raise DataError(f"{path} is a safetensors file of something else than proposals; `aweigh info` tells of what.")
    if not isinstance(header.get("format"), int) or header["format"] > FORMAT:
        raise UsageError(f"{path} has format {header.get('format')}, this version reads up to {FORMAT}; update aweigh.")
    files, made = header.get("files"), header.get("made", {})
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files) or not isinstance(made, dict):
        raise DataError(f"{path}: its header must have `files`, a list of names, and may have `made`, an object.")
    if len(set(files)) < len(files):
        raise DataError(f"{path}: names the image {printable(Counter(files).most_common(1)[0][0])} twice.")
    if missing := TENSORS.keys() - OPTIONAL - tensors.keys():
        raise DataError(f"{path}: lacks {', '.join(sorted(missing))}; see docs/proposals.md.")
    return {"files": files, "made": made}, tensors


def _check(proposals: Proposals, path: str | Path) -> None:
    first, boxes, scores = proposals.first, proposals.boxes, proposals.scores
    if first[0] != 0 or first[-1] != len(boxes) or (np.diff(first) < 0).any():
        raise DataError(f"{path}: first must rise from 0 to the number of boxes, {len(boxes)}.")
    image_of = np.repeat(np.arange(len(proposals)), np.diff(first))
    limits = proposals.sizes_hw[:, [1, 0]].astype(np.float32)[image_of]
    wrong = {
        "has a coordinate or score that is not finite": ~(np.isfinite(boxes).all(axis=1) & np.isfinite(scores)),
        "has no area": (boxes[:, 2:] <= boxes[:, :2]).any(axis=1),
        "lies outside its image": (boxes[:, :2] < 0).any(axis=1) | (boxes[:, 2:] > limits).any(axis=1),
    }
    for what, rows in wrong.items():
        if rows.any():
            row = int(np.flatnonzero(rows)[0])
            image = int(image_of[row])
            height, width = proposals.sizes_hw[image].tolist()
            raise DataError(
                f"{path}: proposal {row - int(first[image])} of {printable(proposals.files[image])} ({width} x "
                f"{height}) {what}: {boxes[row].tolist()}, score {float(scores[row]):g}; {int(rows.sum())} such in all."
                " Boxes are x0, y0, x1, y1 in the image's pixels; cut off and leave out before writing."
            )


def _best_first(proposals: Proposals) -> Proposals:
    image_of = np.repeat(np.arange(len(proposals)), np.diff(proposals.first))
    rises = (np.diff(proposals.scores) > 0) & (np.diff(image_of) == 0)
    if not rises.any():
        return proposals
    order = np.lexsort((-proposals.scores, image_of))
    return replace(proposals, boxes=proposals.boxes[order], scores=proposals.scores[order])
