"""The cost of exported files: against the module they were made of, and against arithmetic by hand."""

import json
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from onnx import numpy_helper
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from aweigh.catalogue import PACKAGED
from aweigh.cli.main import run
from aweigh.errors import DataError, UsageError
from aweigh.profiling.exported.cost import cost_of_file
from aweigh.profiling.exported.nodes import Node, operators_of
from aweigh.profiling.networks import cost_of

BOX = next(PACKAGED.glob("*.onnx"))


def converted(file: Path) -> Path:
    there = Path(file.parent, "converted.xml")
    openvino.save_model(openvino.Core().read_model(file), there)
    return there


FORMATS = pytest.mark.parametrize("suffix", [".onnx", ".xml"])


@pytest.mark.parametrize("suffix", [".onnx", pytest.param(".xml", marks=pytest.mark.thorough)])
def test_the_detector_in_the_box_costs_what_its_module_does(suffix, tmp_path):
    file = BOX
    if suffix == ".xml":
        (tmp_path / "box.onnx").write_bytes(BOX.read_bytes())
        file = converted(tmp_path / "box.onnx")
    found, module = cost_of(str(file), 128), cost_of("box", 128)
    assert found.unknown == ()
    parts = {part.name: part for part in found.parts}
    for part in module.parts:  # normalisation is folded, so that parameters are fewer
        same = parts[part.name]
        assert (same.multiply_adds, same.memory_access, same.activations) == (
            part.multiply_adds, part.memory_access, part.activations,
        )  # fmt: skip
        assert 0.98 * part.parameters < same.parameters <= part.parameters
    assert {"backbone.stage2", "neck.lateral"} <= {stage.name for stage in found.stages}
    # Decoding is in the file: suppression, and the expectation of the head's distances, a matrix product.
    assert {"selection", "reduction"} <= {kind.kind for kind in found.kinds} - {kind.kind for kind in module.kinds}


def toy(folder: Path, suffix: str = ".onnx", *, size: int | str = "side") -> Path:
    """Convolutions and products, one with a weight of eight bits that is unpacked as the graph runs."""
    weights = {
        "net.plain.weight": (6, 4, 3, 3), "net.plain.bias": (6,), "net.depth.weight": (6, 1, 3, 3),
        "net.grouped.weight": (4, 3, 1, 1), "net.up.weight": (4, 5, 2, 2), "net.last.weight": (5, 7),
    }  # fmt: skip
    values = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()]
    values += [
        numpy_helper.from_array(np.zeros((4, 4, 1, 1), np.int8), "net.packed.weight"),
        numpy_helper.from_array(np.float32(0.5), "scale"),
        numpy_helper.from_array(np.array([-1, 5]), "rows"),
    ]
    nodes = [
        make_node("DequantizeLinear", ["net.packed.weight", "scale"], ["unpacked"]),
        make_node("Conv", ["image", "unpacked"], ["first"]),
        make_node("Conv", ["first", "net.plain.weight", "net.plain.bias"], ["a"], strides=[2, 2], pads=[1] * 4),
        make_node("Conv", ["a", "net.depth.weight"], ["b"], group=6, pads=[1] * 4),
        make_node("Conv", ["b", "net.grouped.weight"], ["c"], group=2),
        make_node("ConvTranspose", ["c", "net.up.weight"], ["d"], strides=[2, 2]),
        make_node("Reshape", ["d", "rows"], ["e"]),
        make_node("MatMul", ["e", "net.last.weight"], ["f"]),
        make_node("Gemm", ["f", "f"], ["g"], transA=1),
        make_node("Shape", ["image"], ["shape"]),
        make_node("Mul", ["shape", "shape"], ["squares"]),
        make_node("Einsum", ["g"], ["h"], equation="ij->ji"),
    ]
    image, result = (
        make_tensor_value_info(name, 1, shape) for name, shape in (("image", [1, 4, size, size]), ("h", [7, 7]))
    )
    graph = make_graph(nodes, "toy", [image], [result, make_tensor_value_info("squares", 7, [4])], values)
    file = folder / "toy.onnx"
    onnx.save(make_model(graph, opset_imports=[make_opsetid("", 17)], ir_version=9), file)
    return file if suffix == ".onnx" else converted(file)


@FORMATS
def test_operators_by_hand(suffix, tmp_path):
    found = cost_of_file(toy(tmp_path, suffix), 8)
    counted = [each for each in found.operators if each.kind != "element-wise"]
    rows = [(each.kind, each.module, each.multiply_adds) for each in counted]
    assert rows == [  # neither what unpacks a weight nor arithmetic with shapes
        ("convolution", "packed", 4 * 64 * 4),
        ("convolution", "plain", 6 * 16 * 4 * 9),
        ("depthwise convolution", "depth", 6 * 16 * 9),
        ("grouped convolution", "grouped", 4 * 16 * 3),
        ("transposed convolution", "up", 4 * 16 * 5 * 4),
        ("matrix product", "last", 64 * 5 * 7),
        ("matrix product", "", 7 * 7 * 64),
        ("unknown", "", 0),
    ]
    plain, grouped = counted[1], counted[3]
    assert (plain.read, plain.written, plain.weights) == (4 * 64, 6 * 16, 6 * 4 * 9)  # without its bias
    assert (plain.kernel, plain.stride, grouped.groups) == ((3, 3), (2, 2), 2)
    assert counted[0].weights == 16
    assert suffix == ".xml" or counted == list(found.operators)  # OpenVINO adds biases itself
    assert found.unknown == ("Einsum",)
    assert [layer.name for layer in found.layers[:2]] == ["packed", "plain"]
    scalars = found.total.parameters - (216 + 54 + 12 + 80 + 35 + 16) - 6  # beside the weights and the bias
    assert scalars == 1 if suffix == ".onnx" else 1 <= scalars < 6  # the scale; OpenVINO adds factors of its own


def test_a_deformable_convolution_by_hand():
    image, offset, weight, output = (1, 4, 8, 8), (1, 18, 8, 8), (7, 4, 3, 3), (1, 7, 8, 8)
    (theirs,) = operators_of([Node("DeformConv", (image, weight, offset), (output,), (None, "w", None), {})])
    inputs = (image, offset, weight)
    (openvinos,) = operators_of([Node("DeformableConvolution", inputs, (output,), (None, None, "w"), {})])
    for each in (theirs, openvinos):
        assert (each.kind, each.multiply_adds, each.weights) == ("deformable convolution", 7 * 64 * 4 * 9, 7 * 4 * 9)
        assert each.read == (4 + 18) * 64


def test_a_loop_is_counted_as_often_as_it_goes_round(tmp_path):
    ports = [make_tensor_value_info(*port) for port in (("i", 7, []), ("go", 9, []), ("x", 1, [3, 3]))]
    results = [make_tensor_value_info(*port) for port in (("on", 9, []), ("y", 1, [3, 3]))]
    body = [make_node("Identity", ["go"], ["on"]), make_node("MatMul", ["x", "net.turn"], ["y"])]
    turn = numpy_helper.from_array(np.zeros((3, 3), np.float32), "net.turn")
    loop = make_node("Loop", ["rounds", "", "start"], ["end"], body=make_graph(body, "body", ports, results))
    start, end = (make_tensor_value_info(name, 1, [3, 3]) for name in ("start", "end"))
    rounds = numpy_helper.from_array(np.array(4), "rounds")
    model = make_model(
        make_graph([loop], "toy", [start], [end], [turn, rounds]), opset_imports=[make_opsetid("", 17)], ir_version=9
    )
    onnx.save(model, tmp_path / "loop.onnx")
    found = cost_of_file(tmp_path / "loop.onnx", 8)
    assert [(each.calls, each.multiply_adds, each.weights) for each in found.kinds] == [(4, 4 * 27, 4 * 9)]


@FORMATS
def test_a_file_of_another_size_says_its_own(suffix, tmp_path):
    file = toy(tmp_path, suffix, size=16)
    assert cost_of_file(file, 16).total.multiply_adds > 0
    with pytest.raises(UsageError, match=r"1 x 4 x 16 x 16, and one image of 8 x 8 is 1 x 4 x 8 x 8"):
        cost_of_file(file, 8)


@FORMATS
def test_what_is_no_graph(suffix, tmp_path):
    file = tmp_path / f"graph{suffix}"
    with pytest.raises(UsageError, match="no file"):
        cost_of_file(file, 8)
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="cannot be counted"):
        cost_of_file(file, 8)


def test_the_command_takes_exported_files(tmp_path, capsys):
    numbers = tmp_path / "cost.json"
    assert run(["profile", "cost", str(toy(tmp_path)), "--size", "8", "--by", "operator", "--json", str(numbers)]) == 0
    said = capsys.readouterr()
    assert "depthwise convolution" in said.out and "Not known, and counted without multiply-adds: Einsum" in said.err
    assert json.loads(numbers.read_text())["unknown"] == ["Einsum"]
    assert run(["profile", "cost", str(BOX), "--arguments", "channels=32"]) == 2
