"""What `Targets` and `Detections` share: the objects of one image, and fields with one entry for each."""

from __future__ import annotations

from dataclasses import Field, fields, replace
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from aweigh.classes import Pairs
from aweigh.errors import DataError, counted
from aweigh.ops.frames import Frame, exchanged

PER_INSTANCE = {"per_instance": True}  # marks the fields that have one entry per object


class Instances(Protocol):
    """`Targets` or `Detections`: dataclasses of objects, some fields of which are marked `PER_INSTANCE`."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def boxes(self) -> Tensor: ...

    @property
    def labels(self) -> Tensor: ...

    @property
    def keypoints(self) -> Tensor | None: ...

    @property
    def cuboids(self) -> Tensor | None: ...


_Instances = TypeVar("_Instances", bound=Instances)


def instance_fields(instances: Instances) -> dict[str, Tensor]:
    names = [entry.name for entry in fields(instances) if entry.metadata.get("per_instance")]
    return {name: getattr(instances, name) for name in names if getattr(instances, name) is not None}


def select(instances: _Instances, index: slice | Tensor) -> _Instances:
    """The objects that a slice, a mask or an index tensor picks."""
    changed: dict[str, Any] = {name: value[index] for name, value in instance_fields(instances).items()}
    return replace(instances, **changed)


def move(instances: _Instances, device: torch.device | str) -> _Instances:
    """The same objects with all tensors on the device."""
    values = {entry.name: getattr(instances, entry.name) for entry in fields(instances)}
    changed: dict[str, Any] = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
    return replace(instances, **changed)


def moved_fields(instances: Instances, frame: Frame, *, class_pairs: Pairs, keypoint_pairs: Pairs) -> dict[str, Any]:
    """Boxes, labels, keypoints and cuboids as `frame` has them; in a mirror those of a pair change places."""
    changed = {"boxes": frame.boxes(instances.boxes)}
    if instances.keypoints is not None:
        changed["keypoints"] = frame.keypoints(instances.keypoints)
    if instances.cuboids is not None:
        changed["cuboids"] = frame.cuboids(instances.cuboids)
    if frame.mirrors:
        changed["labels"] = exchanged(instances.labels, class_pairs)
        if instances.keypoints is not None:
            rows = torch.arange(instances.keypoints.shape[1])
            changed["keypoints"] = changed["keypoints"][:, exchanged(rows, keypoint_pairs)]
    return changed


def unchecked(instances: _Instances, changed: dict[str, Any]) -> _Instances:
    copied: _Instances = object.__new__(type(instances))
    copied.__dict__.update(instances.__dict__ | changed)
    return copied


def check_instances(instances: Instances) -> None:
    """`DataError` unless boxes and labels are as `Targets` and `Detections` say, and all fields count as many."""
    kind, boxes, labels, cuboids = type(instances).__name__, instances.boxes, instances.labels, instances.cuboids
    if not isinstance(boxes, Tensor) or boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype != torch.float32:
        raise DataError(f"{kind}.boxes must be a float32 tensor [N, 4] of (x0, y0, x1, y1), got {shape_of(boxes)}.")
    if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.dtype != torch.int64:
        raise DataError(f"{kind}.labels must be an int64 tensor [N], got {shape_of(labels)}.")
    finite = boxes.isfinite()
    if not finite.all():
        index = int((~finite.all(dim=1)).nonzero()[0, 0])
        raise DataError(f"{kind}: box {index} is {boxes[index].tolist()}; every coordinate must be finite.")
    for name, value in instance_fields(instances).items():
        if len(value) != len(boxes):
            raise DataError(
                f"{kind}.{name} has {counted(len(value), 'entry')}, but there are {counted(len(boxes), 'box')}."
            )
    if cuboids is not None and (cuboids.ndim != 2 or cuboids.shape[1] != 7 or cuboids.dtype != torch.float32):
        raise DataError(
            f"{kind}.cuboids must be float32 [N, 7] of (u, v, depth, height, width, length, alpha), got "
            f"{shape_of(cuboids)}."
        )


def shape_of(value: object) -> str:
    """For messages: number format and sides of a tensor, the type of anything else."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
