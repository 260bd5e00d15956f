"""What a graph is to be: whether a detector can be that, and how it is written."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from aweigh.arguments import change_settings, check_value, settings_of
from aweigh.checkpoints.checkpoint import header_of
from aweigh.errors import UsageError, said_if_missing
from aweigh.files import put_in_place
from aweigh.graphs.graph import onnx_graph, save_graph
from aweigh.header import METADATA_KEY
from aweigh.images.resize import Resize
from aweigh.images.stored import StoredImage
from aweigh.inference.engine import TorchEngine
from aweigh.models.detector import Detector
from aweigh.runtime.engine import Batch
from aweigh.runtime.graph import Graph, Precision

To = Literal["onnx", "openvino"]
Nms = Literal["graph", "none"]
LARGEST = 2**31 - 2**24  # bytes of weights: a file of protobuf ends at 2 GB


@dataclass(frozen=True)
class Form:
    """What a graph is to be, as `export` says.

    whole_images: it takes images as they were decoded, and resizes and pads them itself. calibrate: the images that
    show the ranges of int8; keep_float: layers that stay in float32 then. The rest as of `aweigh.graphs.export.export`.
    """

    to: To
    size_hw: tuple[int, int] | None
    batch: int | None
    nms: Nms
    precision: Precision
    calibrate: Sequence[Path | StoredImage] = ()
    keep_float: Sequence[str] = ()
    whole_images: bool = False

    def check(self, model: Detector) -> None:
        """`UsageError` for what this detector cannot be, before anything is traced."""
        precision = check_value("precision", self.precision, Precision)
        if precision == "bf16" and self.to == "onnx":
            raise UsageError("--precision bf16: no runtime computes ONNX in bf16 on a CPU; --to openvino does.")
        if (precision == "int8") != bool(self.calibrate):
            raise UsageError("--precision int8 and --calibrate IMAGES, which show its ranges, go with each other.")
        if precision == "int8" and model.needs_proposals:
            raise UsageError(
                f"--precision int8: {model.builder} is told its proposals, which images to calibrate on have not."
            )
        if precision == "float16" and model.needs_proposals:
            raise UsageError(
                f"--precision float16: {model.builder} is told boxes in pixels, which float16 rounds; float32 works."
            )
        if self.whole_images:
            self._check_whole_images(model)
        side = model.stride_divisor
        if self.size_hw is not None and any(each < side or each % side for each in self.size_hw):
            height, width = (max(side, round(each / side) * side) for each in self.size_hw)
            raise UsageError(
                f"--size {self.size_hw[0]}x{self.size_hw[1]}: {model.builder} takes multiples of {side}, "
                f"such as {height}x{width}."
            )
        if self.batch is not None and not 1 <= self.batch <= 4096:
            raise UsageError(f"--batch {self.batch}: expected a number of images from 1 to 4,096, or dynamic.")
        if self.nms == "none":
            candidates(model)
        if (size := sum(value.nbytes for value in model.state_dict().values())) > LARGEST:
            raise UsageError(f"{model.builder} has {size / 2**30:.1f} GB of weights; one file of a graph holds 2 GB.")
        with said_if_missing("aweigh export"):
            import onnx  # noqa: F401
            import onnxscript  # noqa: F401
        if self.to == "openvino":
            with said_if_missing("--to openvino"):
                import openvino  # noqa: F401

    def _check_whole_images(self, model: Detector) -> None:
        if self.to == "openvino":
            raise UsageError("--with-preprocess: OpenVINO resizes in another way; --to onnx takes whole images.")
        if model.needs_proposals:
            raise UsageError(f"--with-preprocess: {model.builder} is told boxes in the pixels of a resized image.")
        if self.size_hw is not None or self.batch not in (None, 1):
            raise UsageError("--with-preprocess takes one image of any size: leave out --size and --batch.")

    def write(self, model: Detector, path: Path, resize: Resize, kept: Mapping[str, Any]) -> dict[str, Any]:
        """Write the file; returns the header that is in it. resize: how images are before the network sees them."""
        graph = self.described(model)
        outside = Resize(None, None, antialias=resize.antialias) if self.whole_images else resize
        said = {**header_of(model, resize=outside, **kept), "graph": graph.to_dict()}
        own = settings_of(model)
        if self.nms == "none":
            change_settings(model, {"nms": "none", "max_detections": candidates(model)})
        program = onnx_graph(model, size_hw=self.size_hw, batch=graph.batch, precision=self.precision)
        change_settings(model, own)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            traced = Path(folder) / "graph.onnx"
            save_graph(program, traced, {METADATA_KEY: json.dumps(said, ensure_ascii=False, allow_nan=False)})
            if self.precision == "int8":
                from aweigh.graphs.int8 import Quantizer

                Quantizer(traced, self.calibrate).write(traced, self.keep_float)
            if self.whole_images:
                from aweigh.graphs.preprocess import take_whole_images

                take_whole_images(traced, resize=resize, divisor=graph.stride_divisor, mean=graph.pixel_mean)
            if self.to == "openvino":
                from aweigh.graphs.openvino import write_openvino

                write_openvino(traced, path)
            else:
                put_in_place(traced, path)
        return said

    def described(self, model: Detector) -> Graph:
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
            size_hw=self.size_hw,
            batch=1 if self.whole_images else self.batch,
            whole_images=self.whole_images,
            nms=self.nms,
            precision=self.precision,
        )


def candidates(model: Detector) -> int:
    """How many boxes of an image a detector has before it suppresses any; `UsageError` where that is no number of its
    own, or where there is more to say of each than a box."""
    own = settings_of(model)
    number = 0
    if "candidates_per_image" in own:
        number = int(own["candidates_per_image"])
    elif "candidates_per_level" in own and model.strides is not None:
        number = int(own["candidates_per_level"]) * len(model.strides)
    if not number or model.extras:
        more = f" and would make {' and '.join(model.extras)} of each" if model.extras else ""
        raise UsageError(
            f"--nms none: {model.builder} has no fixed number of candidates{more}; with --nms graph it exports. One "
            "stage on a pyramid (FCOS, RetinaNet, EfficientDet, FoveaBox) does without."
        )
    return number
