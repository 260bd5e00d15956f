"""What a detector says of one image: `Detections`, each a `Detection`; before them, what they share with `Targets`.

Geometry, everywhere: `boxes` are `[N, 4]` float32 `(x0, y0, x1, y1)` in absolute pixels, continuous coordinates,
right and bottom exclusive. `labels` are int64 in `0..C-1`; background is never a class. Empty (N = 0) is normal.

Everything is validated when it is created; the error says what was expected and what came.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, cast, overload

import numpy as np
from numpy.typing import ArrayLike

from aweigh.classes import Classes, KeypointSet, Pairs
from aweigh.errors import DataError, UsageError, counted, printable, some_of
from aweigh.geometry import cuboids as cuboid_ops
from aweigh.geometry import masks as mask_ops
from aweigh.geometry.frames import Frame

if TYPE_CHECKING:
    from PIL import Image

NO_CLASSES = Classes((), ())
PER_INSTANCE = {"per_instance": True}  # marks the fields that have one entry per object


class Instances(Protocol):
    """`Targets` or `Detections`: dataclasses of objects, some fields of which are marked `PER_INSTANCE`.

    The fields of the one are tensors, those of the other arrays.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def boxes(self) -> Any: ...

    @property
    def labels(self) -> Any: ...

    @property
    def cuboids(self) -> Any: ...


_Instances = TypeVar("_Instances", bound=Instances)


def instance_fields(instances: Instances) -> dict[str, Any]:
    names = [entry.name for entry in fields(instances) if entry.metadata.get("per_instance")]
    return {name: getattr(instances, name) for name in names if getattr(instances, name) is not None}


def select(instances: _Instances, index: Any) -> _Instances:
    """The objects that a slice, a mask or an array of rows picks."""
    return replace(instances, **{name: value[index] for name, value in instance_fields(instances).items()})


def check_instances(instances: Instances, array: type) -> None:
    """`DataError` unless boxes and labels are as `Targets` and `Detections` say, and all fields count as many.

    array: the type that the fields have.
    """
    kind, boxes, labels, cuboids = type(instances).__name__, instances.boxes, instances.labels, instances.cuboids
    called = "array" if array is np.ndarray else "tensor"
    if not _is(boxes, array, "float32", 2, 4):
        raise DataError(f"{kind}.boxes must be a float32 {called} [N, 4] of (x0, y0, x1, y1), got {shape_of(boxes)}.")
    if not _is(labels, array, "int64", 1):
        raise DataError(f"{kind}.labels must be an int64 {called} [N], got {shape_of(labels)}.")
    corners = boxes if array is np.ndarray else boxes.numpy(force=True)
    finite = np.isfinite(corners).all(axis=1)
    if not finite.all():
        index = int(np.flatnonzero(~finite)[0])
        raise DataError(f"{kind}: box {index} is {corners[index].tolist()}; every coordinate must be finite.")
    for name, value in instance_fields(instances).items():
        if len(value) != len(boxes):
            raise DataError(
                f"{kind}.{name} has {counted(len(value), 'entry')}, but there are {counted(len(boxes), 'box')}."
            )
    if cuboids is not None and not _is(cuboids, array, "float32", 2, 7):
        raise DataError(
            f"{kind}.cuboids must be float32 [N, 7] of (u, v, depth, height, width, length, alpha), got "
            f"{shape_of(cuboids)}."
        )


def _is(value: Any, array: type, dtype: str, dimensions: int, last: int | None = None) -> bool:
    if not issubclass(type(value), array):
        return False
    return (str(value.dtype).removeprefix("torch."), value.ndim) == (dtype, dimensions) and last in (
        None,
        value.shape[-1],
    )


def shape_of(value: Any) -> str:
    """For messages: number format and sides of an array or tensor, the type of anything else."""
    return f"{value.dtype} {tuple(value.shape)}" if hasattr(value, "dtype") else type(value).__name__


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects found in one image, best first.

    They have a length, give one `Detection` after the other, and are indexed by a number (a `Detection`), and by a
    slice, rows, a mask, a class name or several (again `Detections`): `detections["person"][:3]`,
    `detections[detections.scores > 0.5]`. Two are equal where all their fields are.

    boxes: `[N, 4]` float32 xyxy in the pixels of the image described by `size_hw` (for a prediction: the original
    image after EXIF rotation). scores: `[N]` float32 in `[0, 1]`. labels: `[N]` int64.
    masks: `[N, S, S]` float32 in `[0, 1]`, the probability that a place is the object's, in the frame of its box;
    `bitmaps` and `rle` say which pixels these are, as `masks_rounded` has them pasted (see `aweigh.geometry.masks`).
    keypoints: `[N, K, 3]` float32 `(x, y, score)`, x and y in pixels; any finite score, the higher the surer, drawn
    where it is above 0. keypoint_set: what the K are. cuboids: `[N, 7]` float32, the object as the camera sees it, see
    `aweigh.geometry.cuboids`, u and v in pixels; camera: `[3, 4]` float64, which takes points in space to pixels times
    depth of this image, where it is known; the two say where the object stands (`solids`). path: the file, when there
    is one. frame_number, time: of a frame of a video, from 0, and its seconds after the first. error: why the image
    could not be read; then N = 0.

    track_ids: `[N]` int64, the same number in every frame of a sequence for one object, where a tracker gave
    them. trails: `[N, T, 2]` float32 (x, y), the middles of its boxes in up to T frames, its own the last, NaN in front
    of the first.
    """

    boxes: np.ndarray = field(metadata=PER_INSTANCE)
    scores: np.ndarray = field(metadata=PER_INSTANCE)
    labels: np.ndarray = field(metadata=PER_INSTANCE)
    classes: Classes = NO_CLASSES
    size_hw: tuple[int, int] = (0, 0)
    masks: np.ndarray | None = field(default=None, metadata=PER_INSTANCE)
    keypoints: np.ndarray | None = field(default=None, metadata=PER_INSTANCE)
    path: str | None = None
    error: str | None = None
    masks_rounded: bool = False
    keypoint_set: KeypointSet | None = None
    cuboids: np.ndarray | None = field(default=None, metadata=PER_INSTANCE)
    camera: np.ndarray | None = None
    track_ids: np.ndarray | None = field(default=None, metadata=PER_INSTANCE)
    trails: np.ndarray | None = field(default=None, metadata=PER_INSTANCE)
    frame_number: int | None = None
    time: float | None = None

    def __post_init__(self) -> None:
        check_instances(self, np.ndarray)
        _check_masks_and_keypoints(self)
        _check_tracks(self)

    @classmethod
    def of(cls, boxes: Any, scores: Any, labels: Any, **rest: Any) -> Detections:
        """From lists, arrays or tensors of any numbers: `Detections.of([[10, 20, 50, 80]], [0.9], [0], size_hw=...)`.

        rest: any of the other fields, as they are.
        """
        corners = as_array(boxes).astype(np.float32)
        return cls(
            corners if corners.size else corners.reshape(-1, 4),
            as_array(scores).astype(np.float32),
            as_array(labels).astype(np.int64),
            **rest,
        )

    @classmethod
    def empty(cls, classes: Classes, size_hw: tuple[int, int] = (0, 0), **rest: Any) -> Detections:
        return cls(
            np.zeros((0, 4), np.float32),
            np.zeros(0, np.float32),
            np.zeros(0, np.int64),
            classes=classes,
            size_hw=size_hw,
            **rest,
        )

    @classmethod
    def unpadded(
        cls,
        padded: Sequence[Any],
        *,
        classes: Classes,
        sizes_hw: Sequence[tuple[int, int]],
        extras: Mapping[str, Any] | None = None,
        masks_rounded: bool = False,
        keypoint_set: KeypointSet | None = None,
    ) -> list[Detections]:
        """One for each image of a batch, of arrays or of tensors on any device.

        padded: boxes `[B, K, 4]`, scores, labels `[B, K]`, number of each `[B]`. extras: what the detector says beside
        them, `masks` `[B, K, S, S]`, `keypoints` `[B, K, number of keypoints, 3]` and `cuboids` `[B, K, 7]`.
        """
        boxes, scores, labels, count = map(as_array, padded)
        further: dict[str, Any] = {name: as_array(values) for name, values in (extras or {}).items()}
        return [
            cls(
                boxes[i, :n],
                scores[i, :n],
                labels[i, :n],
                classes=classes,
                size_hw=sizes_hw[i],
                masks_rounded=masks_rounded,
                keypoint_set=keypoint_set,
                **{name: values[i, :n] for name, values in further.items()},
            )
            for i, n in enumerate(count.tolist())
        ]

    @staticmethod
    def joined(parts: Sequence[Detections]) -> Detections:
        """The objects of all parts, one part after the other, all of one image; the rest is the first part's."""
        fields = {name: np.concatenate([getattr(part, name) for part in parts]) for name in instance_fields(parts[0])}
        return replace(parts[0], **cast(dict[str, Any], fields))

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[Detection]:
        return (self[row] for row in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Detection: ...
    @overload
    def __getitem__(self, index: slice | str | Sequence[str] | ArrayLike) -> Detections: ...
    def __getitem__(self, index: Any) -> Detection | Detections:
        if isinstance(index, slice):
            return select(self, index)
        names = [index] if isinstance(index, str) else index
        if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
            return select(self, np.isin(self.labels, [self.classes.label(name) for name in names]))
        chosen = np.asarray(index)
        if chosen.ndim == 0 and chosen.dtype.kind in "iu":
            row = range(len(self))[int(chosen)]
            box = cast(tuple[float, float, float, float], tuple(self.boxes[row].tolist()))
            return Detection(box, float(self.scores[row]), int(self.labels[row]), self.names[row], self, row)
        if chosen.ndim == 1 and (chosen.dtype.kind in "iub" or not len(chosen)):
            return select(self, chosen if len(chosen) else slice(0))
        raise UsageError(
            "Detections take a number, a slice, a class name or several, a mask [N] or row numbers in brackets, got "
            f"{printable(repr(index))}."
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        pairs = ((getattr(self, entry.name), getattr(other, entry.name)) for entry in fields(self))
        return all(_equal(one, another) for one, another in pairs)

    def __repr__(self) -> str:
        if self.error is not None:
            return f"Detections(error: {printable(self.error)})"
        height, width = self.size_hw
        place = f"{printable(self.path)}, " if self.path is not None else ""
        counts = [f"{count} {name}" for name, count in Counter(self.names).most_common()]
        kinds = some_of(counts, 6) + " classes" * (len(counts) > 6)  # "... and 3 more classes"
        extras = [name for name in ("masks", "keypoints", "cuboids") if getattr(self, name) is not None]
        scores = f", scores {self.scores.min():.2f} to {self.scores.max():.2f}" if len(self) else ""
        more = f", with {' and '.join(extras)}" if extras else ""
        return f"Detections({place}{width} x {height}: {kinds}{scores}{more})"

    def moved(self, frame: Frame, size_hw: tuple[int, int], *, class_pairs: Pairs = ()) -> Detections:
        """The same objects in an image of `size_hw` (height, width), to whose pixels `frame` leads.

        Boxes are clipped to it; keypoints and the middles of cuboids may lie outside. class_pairs: classes that change
        places in a mirror; keypoints do so by their set.
        """
        height, width = size_hw
        pairs = self.keypoint_set.flip_pairs if self.keypoint_set else ()
        changed: dict[str, Any] = {
            **frame.objects(instance_fields(self), class_pairs=class_pairs, keypoint_pairs=pairs)
        }
        changed["boxes"] = changed["boxes"].clip(0, np.array([width, height, width, height], np.float32))
        if frame.mirrors and self.masks is not None:
            changed["masks"] = self.masks[..., ::-1]
        if self.trails is not None:
            changed["trails"] = frame.points(self.trails)
        if self.camera is not None:
            changed["camera"] = frame.camera(self.camera)
        return replace(self, size_hw=size_hw, **changed)

    def resized(self, size_hw: tuple[int, int]) -> Detections:
        """The same objects in the pixels of the same image in another size."""
        return self.moved(Frame.resize(self.size_hw, size_hw), size_hw)

    @property
    def names(self) -> list[str]:
        """The class name of each detection; its label where that is no class."""
        known = dict(enumerate(self.classes.names))
        return [known.get(label, str(label)) for label in self.labels.tolist()]

    @property
    def category_ids(self) -> list[int]:
        """The id that the class of each detection had in its data set; its label where that is no class."""
        known = dict(enumerate(self.classes.ids))
        return [known.get(label, label) for label in self.labels.tolist()]

    def bitmaps(self, *, byte_budget: int = mask_ops.BYTE_BUDGET) -> np.ndarray:
        """Which pixels each object covers, `[N, H, W]` bool; `UsageError` where they take more than `byte_budget`."""
        masks = self._masks()
        return mask_ops.paste(masks, self.boxes, self.size_hw, rounded=self.masks_rounded, byte_budget=byte_budget)

    def windows(self) -> Iterator[mask_ops.Window]:
        """The same one object at a time, its box alone: pixels `[h, w]` bool, and the column and row of the first."""
        return mask_ops.windows(self._masks(), self.boxes, self.size_hw, rounded=self.masks_rounded)

    def rle(self) -> list[dict[str, Any]]:
        """The same as COCO's compressed run lengths: `{"size": [H, W], "counts": text}` of each object."""
        texts = mask_ops.run_lengths(self._masks(), self.boxes, self.size_hw, rounded=self.masks_rounded)
        return [{"size": list(self.size_hw), "counts": text} for text in texts]

    def solids(self) -> np.ndarray:
        """Where the objects stand, `[N, 7]` float64, see `aweigh.geometry.cuboids`; `UsageError` where unknown."""
        if self.cuboids is None or self.camera is None:
            raise UsageError(
                "Where these detections stand is not known: it takes a detector that finds cuboids and the camera's "
                "matrix (a calibration file, --camera)."
            )
        return cuboid_ops.solids_from_cuboids(self.cuboids, self.camera)

    def _masks(self) -> np.ndarray:
        if self.masks is None:
            raise UsageError("These detections have no masks; a detector that finds masks gives them.")
        return self.masks

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """COCO results entries: original category id, box as xywh in pixels.

        With a `segmentation` (run lengths), `keypoints` (x, y, score of each in turn), a `cuboid` and a `track_id`
        where there are any.
        """
        entries: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": category, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
            for (x0, y0, x1, y1), score, category in zip(self.boxes.tolist(), self.scores.tolist(), self.category_ids)
        ]
        if self.masks is not None:
            for entry, segmentation in zip(entries, self.rle(), strict=True):
                entry["segmentation"] = segmentation
        if self.keypoints is not None:
            for entry, points in zip(entries, self.keypoints.tolist(), strict=True):
                entry["keypoints"] = [value for point in points for value in point]
        if self.cuboids is not None:
            for entry, values in zip(entries, self.cuboids.tolist(), strict=True):
                entry["cuboid"] = values
        if self.track_ids is not None:
            for entry, track in zip(entries, self.track_ids.tolist(), strict=True):
                entry["track_id"] = track
        return entries

    def to_dict(self) -> dict[str, Any]:
        """The image and its detections as plain values: what a line of `aweigh predict --format jsonl` holds."""
        return cast(dict[str, Any], _verbs().to_dict(self))

    def to_json(self, *, indent: int | None = None) -> str:
        """The same as JSON."""
        return json.dumps(self.to_dict(), indent=indent)

    def to_supervision(self) -> Any:
        """`supervision.Detections`, with the class names, and keypoints, in their `data`."""
        return _verbs().to_supervision(self)

    def to_dataframe(self) -> Any:
        """A `pandas.DataFrame` with a row for each detection and the columns of `aweigh predict --format csv`."""
        return _verbs().to_dataframe(self)

    def to_arrow(self) -> Any:
        """A `pyarrow.Table` with one row, the image, as `aweigh predict --format parquet` writes it (docs/rows.md)."""
        return _verbs().to_arrow(self)

    def draw(self, image: Any = None, *, min_score: float = 0.0) -> Image.Image:
        """The image with what is found in it, of at least `min_score`, as a new PIL image.

        image: all that a predictor takes, of the same size; when not given, the file that the detections are of.
        Objects whose 3D box is known are drawn as solids, and beside the image from above.
        """
        return cast("Image.Image", _verbs().draw(self, image, min_score=min_score))

    def show(self, image: Any = None, *, min_score: float = 0.0) -> None:
        """The same in the notebook, else in the system's viewer."""
        _verbs().show(self, image, min_score=min_score)

    def save(self, path: str | Path, image: Any = None, *, format: str = "") -> None:
        """The drawing where the file ends as images do, else the detections: .json, .jsonl, .csv, .parquet,
        .xml (VOC), .txt (YOLO), .geojson.

        image: as for `draw`. format: another that `aweigh predict --format` knows, for a file of any name.
        """
        _verbs().save(self, path, image, format=format)

    def _repr_png_(self) -> bytes | None:
        return cast("bytes | None", _verbs().preview(self, "PNG"))

    def _repr_html_(self) -> str:
        return cast(str, _verbs().html(self))


@dataclass(frozen=True, eq=False, repr=False)
class Detection:
    """One object of `Detections`.

    box: `(x0, y0, x1, y1)` in the pixels of the image. name: of its class. found: all of the image, of which this is
    number `row`.
    """

    box: tuple[float, float, float, float]
    score: float
    label: int
    name: str
    found: Detections
    row: int

    def __repr__(self) -> str:
        return f"Detection({printable(self.name)} {self.score:.2f}, box {tuple(round(side, 1) for side in self.box)})"

    @property
    def mask(self) -> np.ndarray | None:
        """`[H, W]` bool, the pixels of the image that it covers; None where there are no masks."""
        alone = self.found[[self.row]]
        return None if alone.masks is None else alone.bitmaps()[0]

    @property
    def keypoints(self) -> np.ndarray | None:
        """`[K, 3]` (x, y, score); None where there are none."""
        return None if self.found.keypoints is None else self.found.keypoints[self.row]

    @property
    def cuboid(self) -> np.ndarray | None:
        """`[7]`, see `aweigh.geometry.cuboids`; None where there are none."""
        return None if self.found.cuboids is None else self.found.cuboids[self.row]


def _verbs() -> Any:
    """`aweigh.verbs`, which draws and writes what stands here, imported when it is first asked for something."""
    return import_module("aweigh.verbs")


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True)
    return bool(type(one) is type(other) and one == other)


def as_array(values: Any) -> np.ndarray:
    """An array of one, of a tensor on any device, or of lists."""
    array: np.ndarray = values.numpy(force=True) if hasattr(values, "detach") else np.asarray(values)
    return array


def _check_masks_and_keypoints(found: Detections) -> None:
    masks, keypoints = found.masks, found.keypoints
    if masks is not None and (masks.ndim != 3 or masks.dtype != np.float32 or masks.shape[1] != masks.shape[2]):
        raise DataError(
            f"Detections.masks must be float32 [N, S, S], probabilities in the frame of each box, got "
            f"{shape_of(masks)}."
        )
    if keypoints is not None and (keypoints.ndim != 3 or keypoints.shape[2] != 3 or keypoints.dtype != np.float32):
        raise DataError(f"Detections.keypoints must be float32 [N, K, 3] of (x, y, score), got {shape_of(keypoints)}.")
    if keypoints is not None and found.keypoint_set is not None and keypoints.shape[1] != len(found.keypoint_set):
        raise DataError(
            f"Detections: {counted(keypoints.shape[1], 'keypoint')} of each object, but the set names "
            f"{len(found.keypoint_set)}."
        )
    for name, value in (("masks", masks), ("keypoints", keypoints)):
        finite = None if value is None else np.isfinite(value).all(axis=(1, 2))
        if finite is not None and not finite.all():
            raise DataError(f"Detections.{name}: those of object {int(np.flatnonzero(~finite)[0])} are not all finite.")


def _check_tracks(found: Detections) -> None:
    if found.track_ids is not None and not _is(found.track_ids, np.ndarray, "int64", 1):
        raise DataError(f"Detections.track_ids must be an int64 array [N], got {shape_of(found.track_ids)}.")
    if found.trails is not None and not _is(found.trails, np.ndarray, "float32", 3, 2):
        raise DataError(f"Detections.trails must be float32 [N, T, 2] of (x, y), got {shape_of(found.trails)}.")
