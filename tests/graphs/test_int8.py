"""Graphs in int8: which layers, by which ranges, what is left in float32, and what is refused."""

import copy
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization.calibrate import TensorData
from PIL import Image
from tests.graphs.test_export import Traced

from aweigh.errors import DataError, GateError, UsageError
from aweigh.graphs import export, form, int8
from aweigh.graphs.gate import Tolerance
from aweigh.graphs.int8 import Quantizer, calibration_inputs, search
from aweigh.predictor import load


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("calibration")
    random = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(int8.FEWEST)]
    for path in paths:
        coarse = Image.fromarray(random.integers(0, 256, (4, 6, 3), dtype=np.uint8))
        coarse.resize((96, 64), Image.Resampling.BILINEAR).save(path)
    return paths


@pytest.fixture(scope="module")
def calibrated(small_graph: Path, images: list[Path]) -> Quantizer:
    return Quantizer(small_graph, images)


@pytest.fixture
def quantizer(calibrated: Quantizer) -> Quantizer:
    """A copy, which a test may change; calibrated once."""
    return copy.deepcopy(calibrated)


def test_layers_stand_between_nodes_of_onnx_with_weights_per_channel(quantizer: Quantizer, tmp_path: Path) -> None:
    quantizer.write(path := tmp_path / "int8.onnx")
    model = onnx.load(path)
    onnx.checker.check_model(model)
    values = {entry.name: entry for entry in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        if (weight := makers.get(node.input[1])) is None:
            assert any(node.name in quantizer.layers[name].nodes for name in LEFT), node.name
            continue
        numbers, scales, _ = (values[name] for name in weight.input)
        assert weight.op_type == "DequantizeLinear" and numbers.data_type == TensorProto.INT8
        assert list(scales.dims) == [numbers.dims[0]]
        assert makers[node.input[0]].op_type == "DequantizeLinear"
    assert {node.domain for node in model.graph.node if node.op_type.endswith("Linear")} == {""}  # ONNX's own


LEFT = ("backbone.conv1.0", "head.logits", "head.distances")


def test_the_first_layer_and_the_last_of_heads_stay_in_float(quantizer: Quantizer) -> None:
    assert [layer.name for layer in quantizer.layers.values() if layer.place != "middle"] == list(LEFT)
    # A head's layer is one, on whatever number of levels.
    assert len(quantizer.layers["head.depthwise.0"].nodes) == 4


def test_a_graph_in_int8_says_so_and_finds_what_it_found(
    quantizer: Quantizer, small_graph: Path, images: list[Path], tmp_path: Path
) -> None:
    quantizer.write(path := tmp_path / "int8.onnx")
    plain, whole = load(small_graph), load(path)
    assert whole.engine.computed_by.endswith("int8") and plain.engine.computed_by.endswith("float32")
    there = 0
    for image in images:
        want, got = plain(image, score=0), whole(image, score=0)
        assert len(want) > 10
        distances = np.abs(want.boxes[:, None] - got.boxes[None]).max(axis=2)
        there += (distances.min(axis=1) < 4).mean() / len(images)
    assert there > 0.8


def test_images_are_given_as_prediction_gives_them(small_graph: Path, images: list[Path]) -> None:
    predictor, given = load(small_graph), []
    compute = predictor.engine.compute
    predictor.engine.compute = lambda inputs: (given.append(inputs), compute(inputs))[1]
    predictor(images[0])
    (calibrated,) = calibration_inputs(small_graph, images[:1])
    assert calibrated.keys() == given[0].keys()
    for name, values in given[0].items():
        np.testing.assert_array_equal(calibrated[name], values)


def test_a_layer_that_harms_goes_back_to_float(quantizer: Quantizer, tmp_path: Path) -> None:
    quantizer.default = ["backbone.stage4.0.branch2.0", "neck.lateral.1.0", "head.pointwise.0.0"]  # three are enough
    sabotaged = quantizer.layers["neck.lateral.1.0"]
    (node,) = [node for node in quantizer.model.graph.node if node.name == sabotaged.nodes[0]]
    quantizer.ranges.data[node.output[0]] = TensorData(lowest=np.float32(-1e-3), highest=np.float32(1e-3))
    path = tmp_path / "int8.onnx"

    def drop(path: Path) -> float:
        weights = {entry.name: entry.data_type for entry in onnx.load(path).graph.initializer}
        return 0.5 if node.input[1] in weights else 7.0

    found = search(quantizer, path, drop, max_drop=1.0)
    assert found.kept == ("neck.lateral.1.0",) and found.drop == 0.5
    assert list(found.harms) == sorted(found.harms, key=lambda name: -found.harms[name])
    assert found.to_dict()["float32"] == ["neck.lateral.1.0"] and [*found.to_dict()["harm"]] == [*found.harms]
    with pytest.raises(GateError, match=r"falls by 9\.0 points, at most 1 were asked for"):
        search(quantizer, path, lambda path: 9.0, max_drop=1.0)


def test_what_cannot_be_calibrated_on_is_refused(small_graph: Path, images: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"3 images to calibrate on.*give 8 or more"):
        Quantizer(small_graph, images[:3])
    (broken := tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.jpg"):
        Quantizer(small_graph, [*images[1:], broken])


def test_a_graph_with_nothing_to_quantise_is_refused(tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], "relu")], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "relu.onnx")
    with pytest.raises(DataError, match="no layer in this graph"):
        Quantizer(tmp_path / "relu.onnx", [tmp_path] * int8.FEWEST)


def test_export_calibrates_and_says_so(
    small_detector: Path, small_graph: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(form, "onnx_graph", lambda model, **how: Traced(small_graph))
    monkeypatch.setitem(export.TOLERANCES, "int8", Tolerance(1e9, 1.0, unmatched=1.0))
    path = export.export(small_detector, tmp_path / "a.onnx", precision="int8", calibrate=[images[0].parent])
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node)
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["precision"] == "int8" and card["int8"] == {"calibrate": [str(images[0].parent)], "search": None}


def test_what_does_not_go_together_is_refused(small_detector: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--precision int8 and --calibrate IMAGES"):
        export.export(small_detector, tmp_path / "a.onnx", precision="int8")
    with pytest.raises(UsageError, match="--search goes with --precision int8 and --data"):
        export.export(small_detector, tmp_path / "a.onnx", search=True)


def test_a_layer_that_there_is_not_is_named(quantizer: Quantizer, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no layer 'head\.logit'.*Did you mean 'head\.logits'"):
        quantizer.write(tmp_path / "int8.onnx", ["head.logit"])
