"""One split of a data set in flat arrays: what every reader makes, and all that training and evaluation need.

Flat arrays stay small, are shared by worker processes without growing, and are checked at the speed of numpy.
Legend: I images, N annotations.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.annotations.coco_entries import coco_entry, decimals
from aweigh.annotations.flat import Packed, offsets, ranges
from aweigh.annotations.masks import NONE, Masks
from aweigh.annotations.problems import Problem, report_lines
from aweigh.annotations.proposals import Proposals, length_of
from aweigh.classes import Classes
from aweigh.errors import DataError, UsageError, counted

REVIEWED, NEVER_LABELLED, NOT_SAID, LABELS_LOST = 1, 0, -1, -2  # values of `Split.reviewed`
_PER_ANNOTATION = (
    "boxes", "labels", "ignore", "crowd", "area", "annotation_ids", "source_boxes_xywh", "keypoints", "num_keypoints",
    "uncertain", "cuboids",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class LabelSets:
    """Which classes were looked for in which images, where sets that were labelled for different classes are united.

    known: `[G, C]` bool, the classes each set was labelled for. of_image: `[I]` int32, the set of each image. names:
    what each set is called.
    """

    known: np.ndarray
    of_image: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their annotations, cleaned; everything that was wrong is in `problems`.

    layout: "coco", "voc", "yolo" or "kitti". root: the folder of the images. image_ids: `[I]` int64. sizes_hw: `[I,
    2]`. first: `[I + 1]`, the annotations of image i are rows `first[i]` to `first[i + 1]` of: boxes `[N, 4]` float32
    xyxy inside the image, labels `[N]` int64, ignore `[N]` bool (no object to find: crowd, difficult, uncertain), crowd
    `[N]` bool, area `[N]` float64 (of the mask where the source gives it), annotation_ids `[N]` int64,
    source_boxes_xywh `[N, 4]` float64, as the source has them before clipping, uncertain `[N]` bool (may or may not be
    an object, see `Targets`; none when not given). evaluation_only: annotations that have a size and so count as
    objects to be found, but cannot be learned (under one pixel, outside the image); entries as `to_coco` has them.

    reviewed: `[I]` int8, `REVIEWED` when somebody looked at the image or it has annotations, `NEVER_LABELLED`,
    `NOT_SAID`, or `LABELS_LOST` when it has annotations that cannot be used, so that it may show objects without a
    box; see `complete`. masks: of the N annotations, None when none has one. keypoints: `[N, K, 3]` float32 (x, y,
    visibility 0, 1 or 2) in pixels, None when the data have none; num_keypoints: `[N]` int64, as the source counts
    them. keypoint_names: K names. skeleton: pairs of rows of keypoints, from 0. label_sets: None when every image was
    labelled for all classes. image_extras, extras: what else the source says of each image and annotation, as JSON
    objects, "" for nothing; None when there is nothing at all. header: what else a COCO file says as a whole.
    proposals: of the I images, for a detector that needs them; see `with_proposals`. cuboids: `[N, 7]` float32, objects
    as the camera of their image sees them (see `aweigh.geometry.cuboids`), NaN where that is not known, None when it
    never is. cameras: `[I, 3, 4]` float64, from points in space to pixels times depth, NaN where not known. left_out:
    how many images belong to the split besides, and cannot be used. data_set: what the whole is called, "" where it has
    no name.
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
    reviewed: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int8))
    masks: Masks | None = None
    keypoints: np.ndarray | None = None
    num_keypoints: np.ndarray | None = None
    keypoint_names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    label_sets: LabelSets | None = None
    image_extras: Packed[str] | None = None
    extras: Packed[str] | None = None
    header: dict[str, Any] = field(default_factory=dict)
    uncertain: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    proposals: Proposals | None = None
    cuboids: np.ndarray | None = None
    cameras: np.ndarray | None = None
    left_out: int = 0
    data_set: str = ""

    def __post_init__(self) -> None:
        if len(self.uncertain) != len(self.boxes):  # not given
            object.__setattr__(self, "uncertain", np.zeros(len(self.boxes), dtype=bool))
        if len(self.reviewed) != len(self.image_ids):  # not given: images with annotations were looked at
            found = np.where(np.diff(self.first) > 0, REVIEWED, NOT_SAID).astype(np.int8)
            object.__setattr__(self, "reviewed", found)

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def title(self) -> str:
        """The names of the data set and of the split, for what people look at."""
        return f"{self.data_set}, {self.name}" if self.data_set else self.name

    @property
    def image_of(self) -> np.ndarray:
        """`[N]` int64: the image of each annotation."""
        return np.repeat(np.arange(len(self)), np.diff(self.first))

    def objects(self, index: int, *, masks: bool = False) -> dict[str, Any]:
        """The annotations of one image, in its pixels: the fields of `aweigh.structures.Targets` as arrays.

        Keypoints come whenever the data have them, masks when asked for; an object without a mask, in data that have
        some, has one without a pixel. An image that is not `complete` is known for no class.
        """
        index = range(len(self))[index]
        rows = slice(int(self.first[index]), int(self.first[index + 1]))
        known = self.labelled_for(index)
        with np.errstate(over="ignore"):  # a source may say any number
            area = self.area[rows].astype(np.float32)
        return {
            "boxes": self.boxes[rows],
            "labels": self.labels[rows],
            "ignore": self.ignore[rows] & ~self.uncertain[rows],
            "area": area,
            "ids": self.annotation_ids[rows],
            "masks": self.mask_pixels(index) if masks else None,
            "keypoints": None if self.keypoints is None else self.keypoints[rows],
            "cuboids": None if self.cuboids is None else self.cuboids[rows],
            "uncertain": self.uncertain[rows],
            "known": None if known.all() else known,
            "proposals": None if self.proposals is None else self.proposals.of_image(index),
        }

    def mask_pixels(
        self, index: int, out_hw: tuple[int, int] | None = None, step_yx: tuple[float, float] = (1.0, 1.0)
    ) -> np.ndarray | None:
        """`[n, H, W]` bool: the masks of one image, None where the data have none; smaller ones as `Masks.pixels`."""
        if self.masks is None:
            return None
        height, width = self.sizes_hw[index].tolist()
        rows = range(int(self.first[index]), int(self.first[index + 1]))
        return self.masks.pixels(rows, (height, width), out_hw=out_hw, step_yx=step_yx)

    def masks_in_window(self, index: int, objects: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray | None:
        """`[n, h, w]` bool: of these objects of an image `[n]`, numbered from 0, the masks in a part of it."""
        if self.masks is None:
            return None
        height, width = self.sizes_hw[index].tolist()
        return self.masks.in_window(int(self.first[index]) + objects, (height, width), window)

    def labelled_for(self, index: int) -> np.ndarray:
        """`[C]` bool: the classes that were looked for in this image; of any other it may show unlabelled objects."""
        if not self.complete[index]:
            return np.zeros(len(self.classes), dtype=bool)
        if self.label_sets is None:
            return np.ones(len(self.classes), dtype=bool)
        known: np.ndarray = self.label_sets.known[self.label_sets.of_image[index]]
        return known

    @property
    def complete(self) -> np.ndarray:
        """`[I]` bool: the images of which it is known that what has no box is background.

        The others, which nobody labelled or which lost labels, teach no background and belong in no evaluation.
        """
        return (self.reviewed != NEVER_LABELLED) & (self.reviewed != LABELS_LOST)

    def problem_report(self) -> str:
        """What is wrong with it, one line per kind; empty when nothing is."""
        return report_lines(self.problems, f"{self.name}: ")

    def summary(self) -> str:
        """Two lines or three: what there is, how many objects of each class, which classes only a part is labelled for.

        Empty images are told apart: looked at without finding anything, never labelled, with labels that cannot be
        used, or not said.
        """
        counts = np.bincount(self.labels[~self.ignore], minlength=len(self.classes))
        ignore, uncertain = int((self.ignore & ~self.uncertain).sum()), int(self.uncertain.sum())
        ignored = f", {ignore} of them to be ignored (crowd, difficult)" if ignore else ""
        ignored += f", {uncertain:,} uncertain" if uncertain else ""
        shapes = ""
        if self.masks is not None:
            shapes += f", {int((self.masks.kinds != NONE).sum())} with masks"
        if self.keypoints is not None:
            shapes += f", {int((self.keypoints[:, :, 2] > 0).any(axis=1).sum())} with keypoints"
        if self.cuboids is not None:
            shapes += f", {int(np.isfinite(self.cuboids).all(axis=1).sum())} with a 3D box"
        order = np.argsort(-counts, kind="stable")
        shown = [f"{self.classes.names[label]} {counts[label]}" for label in order[:12]]
        more = [counted(len(order) - 12, "more class")] * (len(order) > 12)
        partial = f"\n  {text}" if (text := self._partial_labels()) else ""
        return (
            f"{self.name} ({self.layout}, {self.root}): {counted(len(self), 'image')}, "
            f"{counted(len(self.boxes), 'box')}{shapes}{ignored}; {self._empty_images()}\n  "
            f"{', '.join(shown + more)}{partial}"
        )

    def _empty_images(self) -> str:
        empty = np.diff(self.first) == 0
        kinds = ((REVIEWED, "reviewed and empty"), (NEVER_LABELLED, "never labelled"), (LABELS_LOST, "labels lost"))
        said = [f"{count} {text}" for value, text in kinds if (count := int((self.reviewed[empty] == value).sum()))]
        text = f"{counted(int(empty.sum()), 'image')} without objects, kept" + (f" ({', '.join(said)})" if said else "")
        partly = int((self.reviewed[~empty] == LABELS_LOST).sum())
        return text + (f", {partly} with a part of their labels lost" if partly else "")

    def _partial_labels(self) -> str:
        if self.label_sets is None:
            return ""
        images = np.bincount(self.label_sets.of_image, minlength=len(self.label_sets.known)) @ self.label_sets.known
        partly = [
            f"{name} {int(count)}" for name, count in zip(self.classes.names, images, strict=True) if count < len(self)
        ]
        more = f" and {counted(len(partly) - 12, 'more class')}" if len(partly) > 12 else ""
        return f"labelled in a part of the images only: {', '.join(partly[:12])}{more}" if partly else ""

    def file_names(self) -> list[str]:
        """Of each image its name below `root`, with "/"."""
        return [_below(path, self.root) for path in self.paths]

    def file_bytes(self) -> np.ndarray:
        """`[I]` int64: the length of each image's file, -1 where there is none."""
        return np.array([length_of(path) for path in self.paths], dtype=np.int64)

    def with_proposals(self, proposals: Proposals) -> Split:
        """The split with the proposals of its images; `DataError` where one of them has none."""
        what = f"{self.name} ({self.root})"
        rows = proposals.rows_for(self.file_names(), self.sizes_hw, self.file_bytes, what=what)
        return replace(self, proposals=proposals.take(rows))

    def proposed(self, found: Sequence[tuple[Any, Any]], *, number: int, made: Mapping[str, Any]) -> Proposals:
        """Of each image, in order, boxes `[n, 4]` xyxy in its pixels and scores `[n]`, as a file holds the `number`
        best of them. made: what made them, to which is added what they are for."""
        said = {**made, "number": number, "split": self.name, "data_hash": self.content_hash}
        pictures = (
            (name, (int(height), int(width)), boxes, scores)
            for name, (height, width), (boxes, scores) in zip(self.file_names(), self.sizes_hw, found, strict=True)
        )
        return replace(Proposals.of(pictures, number=number, made=said), file_bytes=self.file_bytes())

    def take(self, indices: Sequence[int] | np.ndarray, *, name: str | None = None) -> Split:
        """The split of these images alone, in this order; the problems stay with the whole."""
        images = np.asarray(indices, dtype=np.int64)
        counts = np.diff(self.first)[images]
        rows = ranges(self.first[images], counts)
        kept = set(self.image_ids[images].tolist())
        sets = self.label_sets
        return replace(
            self,
            name=name or self.name,
            paths=Packed.of([self.paths[int(image)] for image in images], Path),
            image_ids=self.image_ids[images],
            sizes_hw=self.sizes_hw[images],
            reviewed=self.reviewed[images],
            first=offsets(counts),
            problems=[],
            evaluation_only=[entry for entry in self.evaluation_only if entry["image_id"] in kept],
            label_sets=None if sets is None else replace(sets, of_image=sets.of_image[images]),
            image_extras=None if self.image_extras is None else self.image_extras.take(images),
            proposals=None if self.proposals is None else self.proposals.take(images),
            cameras=None if self.cameras is None else self.cameras[images],
            left_out=0,
            **self._annotations(rows),
        )

    def without(self, rows: Sequence[int] | np.ndarray, *, why: str = "can be read") -> Split:
        """What is left to be measured where these images cannot be: they and their objects are left out, and counted.

        `DataError` where no image is left. why: what none of them does then.
        """
        kept = np.setdiff1d(np.arange(len(self)), np.asarray(rows, dtype=np.int64))
        if len(kept) == len(self):
            return self
        if len(kept) == 0:
            raise DataError(f"{self.root}: none of the {counted(len(self), 'image')} of {self.name} {why}.")
        return replace(self.take(kept), left_out=self.left_out + len(self) - len(kept), problems=self.problems)

    def measurable(self) -> Split:
        """The images that detections can be measured on: those of which all objects are known; see `complete`."""
        why = "can be measured: they lost labels, or nobody labelled them"
        return self.without(np.flatnonzero(~self.complete), why=why)

    def take_annotations(self, rows: np.ndarray) -> Split:
        """The split with these annotations alone, `[K]` int64 in rising order; all images stay."""
        return replace(
            self,
            first=offsets(np.bincount(self.image_of[rows], minlength=len(self))),
            **self._annotations(rows),
        )

    def _annotations(self, rows: np.ndarray) -> dict[str, Any]:
        """What is said of these annotations, by the names of its fields."""
        arrays = {key: value[rows] for key in _PER_ANNOTATION if (value := getattr(self, key)) is not None}
        lists = {"masks": self.masks, "extras": self.extras}
        return arrays | {key: value.take(rows) for key, value in lists.items() if value is not None}

    def for_training(self, *, masks: bool = False) -> Split:
        """What workers need and no more: without problems, extras, entries for evaluation and, unless asked, masks."""
        return replace(
            self,
            paths=Packed.of(self.paths, Path),
            problems=[],
            evaluation_only=(),
            image_extras=None,
            extras=None,
            header={},
            masks=self.masks if masks else None,
        )

    def to_coco(self, *, masks: bool = True) -> dict[str, Any]:
        """Ground truth for evaluation: original category ids, areas, boxes and shapes as the source gives them.

        What is to be ignored is marked as crowd, by which COCO's evaluation counts nothing inside it as a mistake;
        "difficult" tells VOC's flag from COCO's, "uncertain" a guess, which is neither found nor missed. Annotation ids
        are moved above 0, which the protocol reads as "none". "left_out" is there where images are not among them.
        masks: with the segmentations.
        """
        annotations = self.coco_annotations(masks=masks)
        shift = max(0, 1 - min((entry["id"] for entry in annotations), default=1))
        annotations = [{**entry, "id": entry["id"] + shift} for entry in annotations]
        images = [
            {"id": image_id, "file_name": name, "height": height, "width": width}
            for image_id, name, (height, width) in zip(
                self.image_ids.tolist(), self.file_names(), self.sizes_hw.tolist(), strict=True
            )
        ]
        truth = {"images": images, "annotations": annotations, "categories": self.coco_categories()}
        return truth | ({"left_out": self.left_out} if self.left_out else {})

    def coco_categories(self) -> list[dict[str, Any]]:
        names = {"keypoints": list(self.keypoint_names)} if self.keypoint_names else {}
        skeleton = {"skeleton": [[first + 1, second + 1] for first, second in self.skeleton]} if self.skeleton else {}
        return [
            {"id": number, "name": name} | names | skeleton
            for number, name in zip(self.classes.ids, self.classes.names, strict=True)
        ]

    def coco_annotations(self, *, masks: bool = True) -> list[dict[str, Any]]:
        """The annotations as COCO entries with their own ids, those for evaluation only at the end."""
        category_of = np.asarray(self.classes.ids, dtype=np.int64)[self.labels]
        image_of = self.image_of
        columns = (
            self.annotation_ids,
            self.image_ids[image_of],
            category_of,
            self.source_boxes_xywh,
            self.area,
            self.ignore,
            self.crowd,
            self.uncertain,
        )
        annotations = [coco_entry(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
        if self.keypoints is not None and self.num_keypoints is not None:
            flat = self.keypoints.reshape(len(annotations), 3 * self.keypoints.shape[1])
            for entry, points, number in zip(annotations, decimals(flat), self.num_keypoints.tolist(), strict=True):
                entry |= {"keypoints": points, "num_keypoints": number}
        if masks and self.masks is not None:
            for row in np.flatnonzero(self.masks.kinds != NONE):
                height, width = self.sizes_hw[image_of[row]].tolist()
                annotations[row]["segmentation"] = self.masks.segmentation(int(row), (height, width))
        left_out = () if masks else ("segmentation",)
        return annotations + [
            {key: value for key, value in entry.items() if key not in left_out} for entry in self.evaluation_only
        ]

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over classes, file names, sizes and annotations: tells whether the data are still the same."""
        digest = hashlib.sha256(repr((self.classes.names, self.classes.ids)).encode())
        for path in self.paths:
            digest.update(os.fsencode(path.name) + b"\0")
        arrays = [self.image_ids, self.sizes_hw, self.first, self.boxes, self.labels, self.ignore, self.area]
        arrays += [self.reviewed, *(() if self.masks is None else self.masks.arrays())]
        arrays += [array for array in (self.keypoints, self.cuboids, self.cameras) if array is not None]
        arrays += [self.uncertain] if self.uncertain.any() else []
        arrays += [] if self.label_sets is None else [self.label_sets.known, self.label_sets.of_image]
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        if self.evaluation_only:
            digest.update(json.dumps(list(self.evaluation_only), sort_keys=True).encode())
        return digest.hexdigest()


def split_off(split: Split, fraction: float, seed: int = 0, *, name: str = "val") -> tuple[Split, Split]:
    """`(rest, part)`: a random part of the images set aside, at least one; the same for the same seed."""
    if not 0 < fraction < 1:
        raise UsageError(f"The fraction to set aside must lie between 0 and 1, got {fraction}.")
    if len(split) < 2:
        raise DataError(f"{split.root}: {counted(len(split), 'image')} cannot be divided into {split.name} and {name}.")
    order = np.random.default_rng(seed).permutation(len(split))
    count = min(len(split) - 1, max(1, round(fraction * len(split))))
    rest = replace(split.take(np.sort(order[count:])), problems=split.problems)
    return rest, split.take(np.sort(order[:count]), name=name)


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
