"""The engine of an exported detector: what its graph says of itself, and the runtime that computes it.

A graph takes `images` `[B, 3, H, W]` float32, RGB in `[0, 1]`, `sizes_hw` `[B, 2]` int64, height and width of each
inside the padding, and where it needs them `proposals` `[B, P, 4]` float32. It gives `boxes` `[B, K, 4]` float32,
`scores` `[B, K]`, `labels` `[B, K]` int64, `count` `[B]` int64, how many of the K rows count, and each of its extras.
One with `whole_images` takes `image` instead, `[height, width, 3]` uint8 RGB of any size, and gives pixels of it.
In its metadata stands, under the key `aweigh`, the header of the checkpoint that it was made from, and in that, under
`graph`, the fields of `Graph`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from aweigh.arguments import NMS, Colour, Count, Divisor, Share, check_fields
from aweigh.classes import Classes, KeypointSet
from aweigh.detections import Detections
from aweigh.errors import AweighError, DataError, UsageError
from aweigh.geometry.boxes import suppress
from aweigh.header import checked_header, selection_of
from aweigh.runtime.engine import Batch, is_out_of_memory
from aweigh.runtime.ports import Ports, check_found

Precision = Literal["float32", "float16", "bf16", "int8"]
Compute = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""Inputs by name to outputs by name."""


OF_SUPPRESSION = ("nms", "nms_threshold", "max_detections")  # settings that a graph of every candidate leaves open


class Opened(NamedTuple):
    """A graph that a runtime has read. computed_by: the runtime, in words. inputs, outputs: by name."""

    compute: Compute
    computed_by: str
    inputs: Ports
    outputs: Ports


@dataclass(frozen=True)
class Graph:
    """What a graph says beside its header.

    size_hw: height and width that its images have, batch: how many; None: any. whole_images: whether it resizes and
    pads itself. nms: whether it suppresses itself, or gives every candidate. precision: what it computes in. The rest
    as of an `Engine`; masks_rounded as of `Detections`.
    """

    extras: tuple[Literal["masks", "keypoints", "cuboids"], ...] | None = None
    needs_proposals: bool = False
    stride_divisor: Divisor = 32
    pixel_mean: Colour = (0.0, 0.0, 0.0)
    masks_rounded: bool = False
    keypoint_set: Mapping[str, Any] | None = None
    size_hw: tuple[Count, Count] | None = None
    batch: Count | None = None
    whole_images: bool = False
    nms: Literal["graph", "none"] = "graph"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_fields(self)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True)
class Selected:
    """The thresholds and counts of the detector that a graph was made from, see `aweigh.models.detector.Selection`."""

    score_threshold: Share
    nms: NMS
    nms_threshold: Share
    max_detections: Count

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(cls, header: Mapping[str, Any]) -> Selected:
        """`UsageError` where the header lacks one of them."""
        own = selection_of(header)
        if missing := cls.__annotations__.keys() - own.keys():
            raise UsageError(f"its selection lacks {', '.join(sorted(missing))}")
        return cls(**{name: own[name] for name in cls.__annotations__})


class GraphEngine:
    """An `Engine` of a graph. header: of the checkpoint. compute: runs the graph. computed_by: what does, in words."""

    averages_flips = False  # raw outputs stay inside
    usual_batch = 1

    def __init__(self, header: Mapping[str, Any], graph: Graph, compute: Compute, computed_by: str) -> None:
        self.graph, self.compute, self.computed_by = graph, compute, computed_by
        self.name: str = header["builder"]
        self.classes = Classes(tuple(header["classes"]["names"]), tuple(header["classes"]["ids"]))
        self.extras: tuple[str, ...] = graph.extras or ()
        self.keypoint_set = None if graph.keypoint_set is None else KeypointSet.of(graph.keypoint_set)
        self.needs_proposals, self.stride_divisor = graph.needs_proposals, graph.stride_divisor
        self.pixel_mean: tuple[float, ...] = graph.pixel_mean
        self.settings = selection_of(header)
        self.selection = Selected.of(header)

    def with_nms(self, nms: NMS) -> GraphEngine:
        return self if nms == self.selection.nms else self.with_settings({"nms": nms})

    def with_settings(self, changes: Mapping[str, Any]) -> GraphEngine:
        """The same with these in its `selection`: of a graph that gives every candidate nms, nms_threshold and
        max_detections. `UsageError` for what is inside the graph."""
        free = () if self.graph.nms == "graph" else OF_SUPPRESSION
        if inside := [name for name in changes if name not in free]:
            way = "--nms none leaves nms, nms_threshold and max_detections open" if not free else "--set changes it"
            raise UsageError(
                f"{inside[0]} = {changes[inside[0]]}: this is inside the graph of {self.name}, whose header says "
                f"{getattr(self.selection, inside[0], 'nothing of it')}. Export it again: {way}."
            )
        other = copy(self)
        other.selection = replace(self.selection, **changes)
        other.settings = {**self.settings, **asdict(other.selection)}
        return other

    def side_by_side(self) -> tuple[GraphEngine, int]:
        return self, 1  # the runtime's threads do not wait busily: those that read and draw find the cores free

    def run(self, batch: Batch, *, flipped_classes: np.ndarray | None = None) -> list[Detections]:
        step = 1 if self.graph.whole_images else self.graph.batch or len(batch.pixels)
        starts = range(0, len(batch.pixels), step)
        found = [one for start in starts for one in self._run(batch, slice(start, start + step))]
        return found if self.graph.nms == "graph" else [self._suppressed(one) for one in found]

    def _run(self, batch: Batch, part: slice) -> list[Detections]:
        """What the graph gives of a part of the images, which it computes at once."""
        sizes_hw = batch.sizes_hw[part]
        padded = self.compute(self.inputs(batch, part))
        keypoints = 0 if self.keypoint_set is None else len(self.keypoint_set)
        images = self.graph.batch or len(sizes_hw)
        check_found(padded, images, name=self.name, classes=len(self.classes), keypoints=keypoints)
        return Detections.unpadded(
            [padded[name][: len(sizes_hw)] for name in ("boxes", "scores", "labels", "count")],
            classes=self.classes,
            sizes_hw=sizes_hw,
            extras={name: padded[name] for name in self.extras},
            masks_rounded=self.graph.masks_rounded,
            keypoint_set=self.keypoint_set,
        )

    def inputs(self, batch: Batch, part: slice = slice(None)) -> dict[str, np.ndarray]:
        """What the graph is given of these images of a batch, by the names of its inputs."""
        sizes_hw = batch.sizes_hw[part]
        if self.graph.whole_images:
            ((height, width),) = sizes_hw
            pixels = batch.pixels[part][0, :, :height, :width]
            return {"image": (pixels.transpose(1, 2, 0) * 255).round().astype(np.uint8)}
        inputs = {"images": self._fitted(batch.pixels[part]), "sizes_hw": np.array(sizes_hw, np.int64)}
        if batch.proposals is not None:
            inputs["proposals"] = batch.proposals[part]
        if self.graph.batch is not None:  # the last part may be smaller: its images fill it up
            rows = np.arange(self.graph.batch) % len(sizes_hw)
            inputs = {name: values[rows] for name, values in inputs.items()}
        return inputs

    def _fitted(self, pixels: np.ndarray) -> np.ndarray:
        """Images `[b, 3, h, w]` in the size of the graph, where it has one: padded with the mean colour."""
        size_hw, (height, width) = self.graph.size_hw, pixels.shape[2:]
        if size_hw is None or (height, width) == size_hw:
            return pixels
        if height > size_hw[0] or width > size_hw[1]:
            raise UsageError(
                f"This graph of {self.name} takes images of at most {size_hw[0]} x {size_hw[1]} pixels (height x "
                f"width), got {height} x {width}; one that was exported with --size dynamic takes any."
            )
        room = np.empty((len(pixels), 3, *size_hw), np.float32)
        room[:] = np.array(self.pixel_mean, np.float32)[:, None, None]
        room[:, :, :height, :width] = pixels
        return room

    def _suppressed(self, found: Detections) -> Detections:
        """What the selection keeps of all candidates."""
        index, scores = suppress(
            found.boxes,
            found.scores,
            found.labels,
            iou_threshold=self.selection.nms_threshold,
            method=self.selection.nms,
            most=self.selection.max_detections,
        )
        return replace(found[index], scores=scores)


def graph_of(text: str, path: Path) -> tuple[dict[str, Any], Graph]:
    """The header of a graph, from the text in its metadata, checked; `DataError` for one of another kind of file."""
    header = checked_header(text, path)
    own = header.get("graph")
    if not isinstance(own, dict) or not {*own} <= {entry.name for entry in fields(Graph)}:
        raise DataError(f"{path}: its Aweigh header has no description of a graph that this version knows.")
    try:
        Selected.of(header)
        return header, Graph(**own)
    except AweighError as error:
        raise DataError(f"{path}: its Aweigh header describes no graph ({error}).") from error


def failure(error: Exception, where: str) -> Exception:
    """What a runtime that could not compute a graph has to say: `MemoryError` where that is what it lacked."""
    if is_out_of_memory(RuntimeError(str(error))):
        return MemoryError(f"{where}: {first_line(error)}")
    return DataError(f"{where} cannot compute this graph ({first_line(error)}).")


def first_line(error: Exception) -> str:
    """What a runtime says, without where in its source; OpenVINO says that first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (said or lines or [type(error).__name__])[0]
