"""The card of an exported file: what whoever builds it into a program has to know, and what was compared."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aweigh.graphs.gate import Differences, Image, Tolerance

if TYPE_CHECKING:
    from aweigh.evaluation.measurement import Measurement
    from aweigh.images.resize import Resize

ALONE_AND_IN_PAIRS = "each image alone, and each with the next in one batch; pixels are those the network sees"
WHOLE = "each image as it was decoded; pixels are its own"


def card_of(
    file: Path,
    header: Mapping[str, Any],
    *,
    named: Path,
    differences: Differences,
    images: Sequence[Image],
    threshold: str,
    measured: Mapping[str, Measurement],
    max_drop: float,
    wrong: Sequence[str],
    computed_by: tuple[str, str],
    seconds: float,
    inside: Resize | None,
    tolerance: Tolerance,
) -> dict[str, Any]:
    """As JSON holds it.

    file: as it is written now, with this header; named: as it is called in the end. measured: what the model and the
    file reach on a labelled split, or nothing. wrong: what is beyond the tolerance. computed_by: what computed the
    model, and the file; in words. inside: the resize step that the graph takes itself. tolerance: of the comparison.
    """
    graph, resize = header["graph"], header["resize"] if inside is None else inside.to_dict()
    parts = [file] if file.suffix == ".onnx" else [file, file.with_suffix(".bin")]
    card: dict[str, Any] = {
        "file": named.name,
        "bytes": {named.with_suffix(part.suffix).name: part.stat().st_size for part in parts},
        "sha256": {named.with_suffix(part.suffix).name: _digest(part) for part in parts},
        "detector": header["builder"],
        "licence": header["licence"] or "not stated",
        "classes": header["classes"],
        "precision": graph["precision"],
        "preprocess": {
            "done": "before the graph" if inside is None else "inside the graph, but for the order of channels",
            "channels": "RGB",
            "tiles": header.get("tiles"),
            "resize": resize,
            "divide_by": 255,
            "pad": {
                "at": "right and bottom",
                "size_hw": graph["size_hw"],
                "multiple_of": graph["stride_divisor"],
                "colour": graph["pixel_mean"],
            },
            "normalise": "inside the graph",
        },
        "inputs": _inputs(graph),
        "outputs": _outputs(graph),
        "selection": {
            **header["selection"],
            "suppressed": "in the graph" if graph["nms"] == "graph" else "by the reader",
        },
        "gate": {
            "passed": not wrong,
            "wrong": list(wrong),
            "differences": differences.to_dict(),
            "tolerance": asdict(tolerance),
            "score_threshold": threshold,
            "model_computed_by": computed_by[0],
            "computed_by": computed_by[1],
            "looked_at": WHOLE if graph["whole_images"] else ALONE_AND_IN_PAIRS,
            "images": [image.to_dict() for image in images],
        },
        "versions": {name: version(name) for name in ("aweigh", "torch", "onnx", "onnxruntime")},
        "processor": platform.machine(),
        "seconds": round(seconds, 1),
    }
    if measured:
        card["average_precision"] = {"max_drop": max_drop, **_precisions(measured)}
    return card


def _inputs(graph: Mapping[str, Any]) -> dict[str, Any]:
    if graph["whole_images"]:
        return {"image": {"shape": ["height", "width", 3], "type": "uint8", "is": "RGB, as it was decoded"}}
    batch, (height, width) = graph["batch"] or "batch", graph["size_hw"] or ("height", "width")
    inputs = {
        "images": {"shape": [batch, 3, height, width], "type": "float32", "range": [0, 1]},
        "sizes_hw": {"shape": [batch, 2], "type": "int64", "is": "height and width of each image inside the padding"},
    }
    if graph["needs_proposals"]:
        inputs["proposals"] = {"shape": [batch, "proposals", 4], "type": "float32", "is": "x0, y0, x1, y1 in pixels"}
    return inputs


def _outputs(graph: Mapping[str, Any]) -> dict[str, Any]:
    batch, image = graph["batch"] or "batch", "the image" if graph["whole_images"] else "images"
    outputs = {
        "boxes": {"shape": [batch, "rows", 4], "type": "float32", "is": f"x0, y0, x1, y1 in pixels of {image}"},
        "scores": {"shape": [batch, "rows"], "type": "float32", "is": "from 0 to 1, the best first"},
        "labels": {"shape": [batch, "rows"], "type": "int64", "is": "row of classes, from 0"},
        "count": {"shape": [batch], "type": "int64", "is": "how many of the rows are detections"},
    }
    further: dict[str, tuple[list[str | int], str]] = {
        "masks": (["S", "S"], "probabilities in the frame of the box"),
        "keypoints": (["keypoints", 3], f"x, y in pixels of {image}, score"),
        "cuboids": ([7], "see docs/python.md"),
    }
    for name in graph["extras"] or ():
        shape, words = further[name]
        outputs[name] = {"shape": [batch, "rows", *shape], "type": "float32", "is": words}
    return outputs


def _precisions(measured: Mapping[str, Measurement]) -> dict[str, Any]:
    """AP in shares of 1, of all classes and of each, the model's beside the file's."""
    split = measured["model"].split
    found: dict[str, Any] = {"split": split.name, "images": len(split), "data_hash": split.content_hash}
    for name in measured["model"].metrics:
        both: dict[str, dict[str, Any]] = {who: numbers.metrics[name].to_dict() for who, numbers in measured.items()}
        if "AP" not in both["model"]:
            continue
        found[name] = {who: numbers["AP"] for who, numbers in both.items()}
        found[name]["per_class"] = {
            each: {who: numbers["per_class"][each]["AP"] for who, numbers in both.items()}
            for each in both["model"]["per_class"]
        }
    return found


def _digest(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
