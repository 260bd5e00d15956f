"""`aweigh export`: a detector as a file that runs without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from aweigh.arguments import change_settings, check_value, settings_of
from aweigh.checkpoints.checkpoint import header_of, load_model
from aweigh.errors import UsageError
from aweigh.files import atomic_file
from aweigh.graphs.graph import onnx_graph, save_graph
from aweigh.header import METADATA_KEY
from aweigh.images.resize import Resize
from aweigh.inference.engine import TorchEngine
from aweigh.models.detector import Detector
from aweigh.runtime.engine import Batch
from aweigh.runtime.graph import Graph


def export(
    model: str | Path,
    output: str | Path,
    *,
    weights: str = "",
    settings: Mapping[str, Any] | None = None,
    size_hw: tuple[int, int] | None = None,
    batch: int | None = None,
    nms: Literal["graph", "none"] = "graph",
) -> Path:
    """Write the detector as an ONNX file, which `aweigh.load` takes where there is no torch.

    model, weights: as `aweigh.load` takes them. settings: thresholds and counts by name. size_hw, batch: height and
    width, and the number, of the images that it will take; None: any. nms: `"graph"` suppresses in the graph, `"none"`
    leaves it to who reads the file, and so the choice of what suppresses what.
    """
    path = Path(output)
    if path.suffix != ".onnx":
        raise UsageError(f"-o {output}: a graph is called NAME.onnx.")
    detector, header = load_model(model, weights)
    change_settings(detector, settings or {})
    resize = replace(Resize.from_dict(header["resize"]), within=size_hw)
    graph = described(detector, size_hw=size_hw, batch=batch, nms=check_value("nms", nms, Literal["graph", "none"]))
    kept = {name: header[name] for name in ("metrics", "licence", "data_hash") if name in header}
    said = {**header_of(detector, resize=resize, **kept), "graph": graph.to_dict()}
    if nms == "none":
        change_settings(detector, {"nms": "none", "max_detections": candidates(detector)})
    program = onnx_graph(detector, size_hw=size_hw, batch=batch)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as aside:
        save_graph(program, aside, {METADATA_KEY: json.dumps(said, ensure_ascii=False, allow_nan=False)})
    return path


def candidates(model: Detector) -> int:
    """How many boxes of an image a detector looks at before it suppresses any."""
    own = settings_of(model)
    if "candidates_per_image" in own:
        return int(own["candidates_per_image"])
    if "candidates_per_level" in own and model.strides is not None:
        return int(own["candidates_per_level"]) * len(model.strides)
    raise UsageError(f"nms = 'none': {model.builder} has no fixed number of candidates; let the graph suppress.")


def described(
    model: Detector, *, size_hw: tuple[int, int] | None, batch: int | None, nms: Literal["graph", "none"]
) -> Graph:
    """What the graph of a detector says of itself."""
    side = model.stride_divisor
    example = Batch(np.zeros((1, 3, side, side), np.float32), [(side, side)], np.zeros((1, 1, 4), np.float32))
    (found,) = TorchEngine(model).run(example)
    return Graph(
        extras=cast(Any, model.extras or None),
        needs_proposals=model.needs_proposals,
        stride_divisor=side,
        pixel_mean=tuple(model.pixel_mean.flatten().tolist()),
        masks_rounded=found.masks_rounded,
        keypoint_set=None if model.keypoint_set is None else model.keypoint_set.to_dict(),
        size_hw=size_hw,
        batch=batch,
        nms=nms,
    )
