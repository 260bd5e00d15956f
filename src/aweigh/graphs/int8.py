"""A detector's graph in int8: layers that multiply bytes, of a float32 graph and of images that show its ranges.

Scales and nodes are those of onnxruntime's quantizer. What is ours is the choice of layers, their harm, and the search.

Weights are symmetric and per channel; what a layer takes and gives is uint8, between the smallest and the largest value
in an image, in the mean over the images. Each layer stands between nodes QuantizeLinear and DequantizeLinear, which are
ONNX's own: a runtime joins them with the layer to one that computes in int8, and one that does not computes the same in
float32. A layer is all nodes of one module of the detector, such as a head's convolution on each level. The first layer
and the last ones of heads stay in float32, and so does all that is no layer: normalisation, decoding, suppression.
"""

from __future__ import annotations

import ast
import json
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, create_calibrator

from aweigh.errors import DataError, GateError, UsageError, counted, did_you_mean
from aweigh.header import METADATA_KEY, tiles_of
from aweigh.images.reader import read_reduced
from aweigh.images.resize import Resize
from aweigh.images.stored import StoredImage
from aweigh.runtime.engine import Batch
from aweigh.runtime.open import open_graph
from aweigh.runtime.threads import usable_cores

WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
CUT_OFF = ("Relu", "Clip")  # become the lower and upper end of a range
FEWEST, MOST = 8, 32  # images, ours: of more the box's detector has no higher AP (17.3, 17.3 and 17.0 of 8, 32, 128)
SEEN = 4  # of the images, ours: those that harm is measured on

Inputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Layer:
    """nodes: of the graph, those of one module. place: whether it is given the image, its output decides (the last of
    a head), or neither."""

    name: str
    nodes: tuple[str, ...]
    place: str


def calibration_inputs(graph: Path, images: Iterable[Path | StoredImage]) -> Iterator[Inputs]:
    """Images as the graph is given them in prediction, one by one: read, resized and padded. `DataError` for one that
    cannot be read."""
    engine, header = open_graph(graph)
    if engine.needs_proposals:
        raise UsageError(
            f"{engine.name} is told its proposals, which images to calibrate on have not; export in float."
        )
    resize, tiles = Resize.from_dict(header["resize"]), tiles_of(header)
    resize = resize if tiles is None else resize.for_tiles(tiles.side)
    for image in images:
        pixels, full_hw = read_reduced(image, resize.needed_size if tiles is None else None)
        if tiles is not None:  # the one in the middle
            windows = tiles.cut(*full_hw)
            x0, y0, x1, y1 = windows[len(windows) // 2]
            pixels, full_hw = pixels[y0:y1, x0:x1], (y1 - y0, x1 - x0)
        one = Batch.stack([resize(pixels, full_hw=full_hw)], divisor=engine.stride_divisor, fill=engine.pixel_mean)
        yield engine.inputs(one)


class Quantizer:
    """A float32 graph and the ranges of its values on images: writes it with any of its layers in int8.

    images: at least 8; of more than 32, these many evenly spaced. `DataError` for fewer, for one that cannot be read,
    and for a graph in which there is nothing to quantise.
    """

    def __init__(self, graph: Path, images: Sequence[Path | StoredImage]) -> None:
        if len(images) < FEWEST:
            raise DataError(
                f"{counted(len(images), 'image')} to calibrate on, which is too few to know the ranges of int8; give "
                f"{FEWEST} or more, such as {MOST} of those that it is to look at."
            )
        self.images = [images[place] for place in np.linspace(0, len(images) - 1, min(len(images), MOST), dtype=int)]
        self.graph, self.model = graph, onnx.shape_inference.infer_shapes(onnx.load(graph))
        self.layers = {layer.name: layer for layer in find_layers(self.model)}
        self.default = [layer.name for layer in self.layers.values() if layer.place == "middle"]
        if not self.default:
            raise DataError(f"{graph}: there is no layer in this graph to quantise; export it in float32.")
        with tempfile.TemporaryDirectory() as folder:
            onnx.save(self.model, path := Path(folder) / "graph.onnx")
            calibrator = create_calibrator(
                path,
                [*WEIGHTED, *CUT_OFF],
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"moving_average": True},  # the means of what is smallest and largest in each image
            )
            calibrator.collect_data(_Reader(calibration_inputs(graph, self.images)))
            self.ranges = calibrator.compute_data()

    def quantised(self, names: Collection[str]) -> ModelProto:
        """The graph with the layers of these names in int8, and what it says of itself."""
        model = ModelProto()
        model.CopyFrom(self.model)
        nodes = {node for name in names for node in self.layers[name].nodes}
        made = {output for node in model.graph.node if node.name in nodes for output in node.output}
        nodes |= {node.name for node in model.graph.node if node.op_type in CUT_OFF and node.input[0] in made}
        if nodes:
            quantizer = QDQQuantizer(
                model,
                per_channel=True,
                reduce_range=False,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=self.ranges,
                nodes_to_quantize=sorted(nodes),
                nodes_to_exclude=[],
                op_types_to_quantize=[*WEIGHTED, *CUT_OFF],
                extra_options={},
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
            model = quantizer.model.model
        for entry in model.metadata_props:
            if entry.key == METADATA_KEY:
                header = json.loads(entry.value)
                header["graph"]["precision"] = "int8"
                entry.value = json.dumps(header, ensure_ascii=False)
        return model

    def write(self, output: Path, keep_float: Collection[str] = ()) -> None:
        """Write the graph in int8, but for the first layer, the heads' last ones and those of these names."""
        for name in keep_float:
            if name not in self.layers:
                raise UsageError(f"There is no layer {name!r} in this graph.{did_you_mean(name, self.layers)}")
        onnx.save(self.quantised([name for name in self.default if name not in keep_float]), output)

    def harms(self, done: Callable[[int, int], object] = lambda done, total: None) -> dict[str, float]:
        """What each layer does to the outputs of the heads' last layers when it alone is in int8, the worst first: the
        root mean square of their differences from the float32 graph, as a share of their spread.

        done: called with the layers that are measured and all there are.
        """
        ends = [output for output in _outputs(self.model, self.layers.values(), "last")]
        want = self._computed(self.model, ends)
        harms = {}
        for number, name in enumerate(self.default, 1):
            got = self._computed(self.quantised([name]), ends)
            harms[name] = max(_apart(g, w) for g, w in zip(got, want, strict=True))
            done(number, len(self.default))
        return dict(sorted(harms.items(), key=lambda item: -item[1]))

    def _computed(self, model: ModelProto, ends: Sequence[str]) -> list[np.ndarray]:
        """These values of a graph on the images that harm is measured on, each of all images in one row."""
        seen = ModelProto()
        seen.CopyFrom(model)
        del seen.graph.output[:]
        seen.graph.output.extend(onnx.helper.make_tensor_value_info(end, TensorProto.FLOAT, None) for end in ends)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_cores()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(seen.SerializeToString(), options, providers=["CPUExecutionProvider"])
        runs = [session.run(ends, dict(inputs)) for inputs in calibration_inputs(self.graph, self.images[:SEEN])]
        return [np.concatenate([values.ravel() for values in of_one]) for of_one in zip(*runs, strict=True)]


@dataclass(frozen=True)
class Searched:
    """harms: of each layer, the worst first. kept: those that stay in float32. drop: in AP points, with these."""

    harms: dict[str, float]
    kept: tuple[str, ...]
    drop: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"float32": list(self.kept), "harm": {name: round(harm, 5) for name, harm in self.harms.items()}}


def search(
    quantizer: Quantizer,
    output: Path,
    drop: Callable[[Path], float],
    max_drop: float,
    done: Callable[[int, int], object] = lambda done, total: None,
) -> Searched:
    """Write the graph with as few of its worst layers in float32 as bring its `drop` down to `max_drop`.

    None, 1, 2, 4 ... of them are tried. drop: measures a file, in AP points below float32. `GateError` where all but
    one in float32 are not enough.
    """
    harms = quantizer.harms(done)
    worst, count = list(harms), 0
    while count < len(worst):
        quantizer.write(output, kept := tuple(worst[:count]))
        if (found := drop(output)) <= max_drop:
            return Searched(harms, kept, found)
        count = 2 * count or 1
    raise GateError(
        f"AP falls by {found:.1f} points, at most {max_drop:g} were asked for, with {counted(len(kept), 'layer')} of "
        f"{len(worst)} left in float32. Calibrate on images like those it is measured on, or export in float32."
    )


def find_layers(model: ModelProto) -> list[Layer]:
    """The layers of a graph whose values have types, in the order that they are computed in.

    A layer's way to another leads through float values alone, and not through where regions lie: what is chosen by
    scores, or looked at in a place that a box says, comes after a decision.
    """
    graph = model.graph
    shapes = {entry.name: len(entry.dims) for entry in graph.initializer}
    weighted = [node for node in graph.node if node.op_type in WEIGHTED and shapes.get(([*node.input, ""])[1], 0) >= 2]
    names = {node.name for node in weighted}
    values = [*graph.value_info, *graph.input, *graph.output]
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    after: set[str] = set()  # values that come after a layer
    for node in graph.node:
        if node.name in names or not after.isdisjoint(_ways(node)):
            after |= floats.intersection(node.output)
    before: set[str] = set()  # values that a layer comes after
    for node in reversed(graph.node):
        if node.name in names or not before.isdisjoint(node.output):
            before |= floats.intersection(_ways(node))
    modules: dict[str, list[NodeProto]] = {}
    for node in weighted:
        modules.setdefault(_module(node), []).append(node)
    layers = []
    for name, nodes in modules.items():
        first = all(node.input[0] not in after for node in nodes)
        last = any(before.isdisjoint(node.output) for node in nodes)
        place = "last" if last else "first" if first else "middle"
        layers.append(Layer(name, tuple(node.name for node in nodes), place))
    return layers


def _ways(node: NodeProto) -> Sequence[str]:
    """The inputs of a node that a map comes by; of RoIAlign not where the regions lie."""
    return list(node.input)[: 1 if node.op_type == "RoiAlign" else None]


def _module(node: NodeProto) -> str:
    """The module of the detector that a node is of, as torch's exporter notes it; else the name of the node."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            return str(ast.literal_eval(entry.value)[-2]).removeprefix("model.")
    return node.name


def _outputs(model: ModelProto, layers: Iterable[Layer], place: str) -> Iterator[str]:
    names = {node for layer in layers if layer.place == place for node in layer.nodes}
    return (node.output[0] for node in model.graph.node if node.name in names)


def _apart(got: np.ndarray, want: np.ndarray) -> float:
    spread = float(want.std())
    return float(np.sqrt(np.mean(np.square(got - want)))) / spread if spread else 0.0


class _Reader:
    """Inputs one after the other, as onnxruntime asks for them."""

    def __init__(self, inputs: Iterator[Inputs]) -> None:
        self.inputs = inputs

    def get_next(self) -> Any:
        return next(self.inputs, None)
