"""Graphs that are cut short, foreign, or not what they say: one line that ends with 3, never a crash, and never NaN."""

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper
from tests.runtime.toy_graphs import BOXES, OUTPUTS, header, toy_graph
from tests.scenes_on_disk import entry, scene, write_coco

from aweigh.cli.main import run
from aweigh.errors import DataError, UsageError
from aweigh.images.resize import Resize
from aweigh.predictor import Predictor, load
from aweigh.runtime.graph import Graph, GraphEngine, failure
from aweigh.runtime.open import open_graph

IMAGE = np.zeros((40, 60, 3), np.uint8)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_graph(tmp_path_factory.mktemp("graphs") / "toy.onnx")


@pytest.fixture(scope="module")
def own(whole: Path) -> Path:
    """The same as OpenVINO's own: `.xml` beside `.bin`."""
    model = openvino.Core().read_model(whole)
    model.set_rt_info(json.dumps(header()), "aweigh")
    openvino.save_model(model, whole.with_suffix(".xml"), compress_to_fp16=False)
    return whole.with_suffix(".xml")


def refused(path: Path, **how: Any) -> str:
    """Why a file is no detector: in one line that names it."""
    with pytest.raises(DataError) as caught:
        open_graph(path, **how)
    said = str(caught.value)
    assert str(path) in said and "\n" not in said
    return said


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".bin"])
def test_cut_short(whole: Path, own: Path, tmp_path: Path, suffix: str) -> None:
    content = whole.with_suffix(suffix).read_bytes()
    path = tmp_path / f"toy{'.onnx' if suffix == '.onnx' else '.xml'}"
    for length in range(0, len(content) - 1, max(1, len(content) // 40)):
        if suffix == ".bin":
            path.write_bytes(own.read_bytes())
        path.with_suffix(suffix).write_bytes(content[:length])
        refused(path)


def test_random_bytes(tmp_path: Path) -> None:
    dice = random.Random(0)
    for length in (0, 1, 2, 7, 100, 5000):
        for suffix in (".onnx", ".xml"):
            path = tmp_path / f"{length}{suffix}"
            path.write_bytes(dice.randbytes(length))
            assert "is truncated or is no" in refused(path) or length == 0


def test_turned_bits_are_refused_or_give_detections_that_can_be_used(whole: Path, tmp_path: Path) -> None:
    content, dice, path = whole.read_bytes(), random.Random(1), tmp_path / "toy.onnx"
    opened = 0
    for _ in range(150):
        turned = bytearray(content)
        for _ in range(dice.randint(1, 3)):
            turned[dice.randrange(len(turned))] ^= 1 << dice.randrange(8)
        path.write_bytes(turned)
        try:
            found = load(path)(IMAGE, score=0)
        except (DataError, UsageError) as error:
            assert "\n" not in str(error)
            continue
        opened += 1
        assert np.isfinite(found.boxes).all() and ((found.scores >= 0) & (found.scores <= 1)).all()
    assert 0 < opened < 150


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("{", "header cannot be read"),
        ("[]", "header cannot be read"),
        ('{"a": ' * 5000 + "1" + "}" * 5000, "header cannot be read"),
        (json.dumps(header(graph={"batch": 0})), "batch = 0"),
        (json.dumps(header(graph={"precision": "float8"})), "float8"),
        (json.dumps(header(graph={"more": 1})), "no description of a graph"),
        (json.dumps({**header(), "graph": 7}), "no description of a graph"),
        (json.dumps({**header(), "selection": {}}), "lacks max_detections, nms"),
        (json.dumps({**header(), "classes": {"names": ["a"] * 20_000, "ids": [1]}}), "list of class names"),
    ],
)  # fmt: skip
def test_headers_that_say_nothing_of_use(tmp_path: Path, said: str, words: str) -> None:
    assert words in refused(toy_graph(tmp_path / "toy.onnx", said=said))


def test_a_graph_of_another_program(whole: Path, tmp_path: Path) -> None:
    model = onnx.load(whole)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    assert "is no detector that `aweigh export` wrote" in refused(tmp_path / "other.onnx")
    checkpoint = tmp_path / "checkpoint.onnx"
    checkpoint.write_bytes(b"\x10\0\0\0\0\0\0\0" + b'{"a":{"b":[0]}}  ')
    refused(checkpoint)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"outputs": {**OUTPUTS, "more": BOXES}}, "outputs of the graph are boxes, scores, labels, count, more"),
        ({"outputs": {n: v for n, v in OUTPUTS.items() if n != "count"}}, "by its header boxes"),
        ({"outputs": {**OUTPUTS, "labels": np.float32([0, 1])}}, "labels of the graph is float32"),
        ({"outputs": {**OUTPUTS, "scores": BOXES}}, "scores of the graph is float32 of 3 dimensions"),
        ({"inputs": ("images",)}, "inputs of the graph are images, by its header images, sizes_hw"),
        ({"said": header(graph={"needs_proposals": True})}, "sizes_hw, proposals"),
        ({"said": header(graph={"extras": ["masks"]})}, "count, masks"),
        ({"rank": 5}, "images of the graph is float32 of 5 dimensions, by its header it is float32 of 4"),
    ],
)  # fmt: skip
def test_inputs_and_outputs_are_those_of_the_header(
    tmp_path: Path, made: dict[str, Any], words: str, runtime: Any
) -> None:
    assert words in refused(toy_graph(tmp_path / "toy.onnx", **made), runtime=runtime)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"labels": np.int64([0, 3])}, "the label 3, of 3 classes"),
        ({"labels": np.int64([-1, 0])}, "the label -1"),
        ({"boxes": BOXES * np.float32(np.nan)}, "boxes that are not finite"),
        ({"scores": np.float32([0.9, np.nan])}, "the score nan"),
        ({"scores": np.float32([2, 0.5])}, "the score 2"),
        ({"count": np.int64(3)}, "a count of [3] in 2 rows"),
        ({"count": np.int64(-1)}, "a count of [-1]"),
        ({"boxes": BOXES[:, :3]}, "boxes of shape [1, 2, 3], expected [1, 2, 4]"),
        ({"boxes": BOXES[:1]}, "boxes of shape [1, 1, 4]"),
    ],
)  # fmt: skip
def test_what_is_no_detection_is_refused_when_it_is_run(
    tmp_path: Path, changed: dict[str, np.ndarray], words: str, runtime: Any
) -> None:
    detector = load(toy_graph(tmp_path / "toy.onnx", outputs={**OUTPUTS, **changed}), runtime=runtime)
    with pytest.raises(DataError, match="gave") as caught:
        detector(IMAGE)
    assert words in str(caught.value)


def test_rows_that_do_not_count_may_hold_anything(tmp_path: Path) -> None:
    outputs = {
        **OUTPUTS,
        "boxes": np.float32([BOXES[0], [np.nan] * 4]),
        "labels": np.int64([0, 99]),
        "count": np.int64(1),
    }
    assert load(toy_graph(tmp_path / "toy.onnx", outputs=outputs))(IMAGE).boxes.tolist() == [BOXES[0].tolist()]


# --- what a graph could ask for besides -------------------------------------------------------------------------------


def elsewhere(model: onnx.ModelProto, place: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=place)
    return tensor


def in_a_subgraph(model: onnx.ModelProto, place: str) -> None:
    inner = helper.make_graph([], "inner", [], [], [elsewhere(model, place)])
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner))


def in_a_node(model: onnx.ModelProto, place: str) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=elsewhere(model, place)))


def in_the_graph(model: onnx.ModelProto, place: str) -> None:
    model.graph.initializer.append(elsewhere(model, place))


@pytest.mark.parametrize("place", ["/etc/passwd", "../secret", "beside.bin", "link"])
@pytest.mark.parametrize("put", [in_the_graph, in_a_node, in_a_subgraph])
def test_numbers_in_another_file_are_refused_wherever_it_is(whole: Path, tmp_path: Path, put: Any, place: str) -> None:
    (tmp_path / "beside.bin").write_bytes(bytes(16))
    (tmp_path / "link").symlink_to("/etc/passwd")
    model = onnx.load(whole)
    put(model, place)
    path = tmp_path / "toy.onnx"
    path.write_bytes(model.SerializeToString())
    assert "keeps numbers in another file" in refused(path)
    assert "keeps numbers in another file" in refused(path, runtime="openvino")


def vast(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 20, 1 << 20]))


def function(model: onnx.ModelProto) -> None:
    model.functions.append(helper.make_function("own", "f", ["a"], ["a"], [], [helper.make_opsetid("", 18)]))


def deep(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [])
    for _ in range(20):
        inner = helper.make_graph([helper.make_node("If", ["x"], ["y"], then_branch=inner)], "inner", [], [])
    model.graph.node.append(inner.node[0])


def training(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.name = "more"


def another_domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("other.program", 1))
    model.graph.node.append(helper.make_node("Run", ["images"], ["more"], domain="other.program"))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (vast, "promises 1,099,511,627,776 numbers in a file of"),
        (function, "functions of its own"),
        (deep, "graphs inside each other"),
        (training, "meant to be trained"),
        (another_domain, "has operators of other.program"),
    ],
)  # fmt: skip
def test_what_export_never_writes_is_refused(
    whole: Path, tmp_path: Path, change: Any, words: str, runtime: Any
) -> None:
    model = onnx.load(whole)
    change(model)
    path = tmp_path / "toy.onnx"
    path.write_bytes(model.SerializeToString())
    assert words in refused(path, runtime=runtime)


def test_openvino_s_own(own: Path, tmp_path: Path) -> None:
    assert len(load(own)(IMAGE)) == 2
    path = tmp_path / "toy.xml"
    path.write_bytes(own.read_bytes())
    assert "toy.bin has to lie beside it" in refused(path)
    bomb = '<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><net>&b;</net>'
    path.write_text(bomb)
    assert "declares a document type" in refused(path)
    path.write_text("<annotation/>")
    assert "expected <net>" in refused(path)
    with pytest.raises(UsageError, match="onnxruntime computes"):
        open_graph(own, "onnxruntime")


# --- a runtime that fails while it computes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 879609302",
        "Exception from src/inference/src/cpp/infer_request.cpp:116:\nstd::bad_alloc",
        "CUDA failure 2: out of memory ; GPU=0",
        "Exception from src/plugins/intel_gpu\n[GPU] CL_OUT_OF_RESOURCES exception",
    ],
)
def test_where_memory_is_short_images_go_one_by_one(words: str) -> None:
    sizes = []

    def compute(given: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        sizes.append(len(given["images"]))
        if sizes[-1] > 1:
            raise failure(RuntimeError(words), "toy.onnx: the runtime")
        return {name: np.asarray(value)[None] for name, value in OUTPUTS.items()}

    engine = GraphEngine(header(), Graph(), compute, "a toy")
    found = [*Predictor(engine, Resize(None, None)).stream([IMAGE] * 3, batch=3)]
    assert sizes == [3, 1, 1, 1] and [len(one) for one in found] == [2, 2, 2]
    assert isinstance(failure(RuntimeError("no such kernel"), "toy.onnx: the runtime"), DataError)


# --- every command ----------------------------------------------------------------------------------------------------


def commands(graph: Path, data: Path, folder: Path) -> Iterator[list[str]]:
    photo = str(next(data.rglob("*.jpg")))
    yield ["predict", photo, "--model", str(graph), "-o", str(folder / "out")]
    yield ["eval", str(graph), str(data)]
    yield ["eval", str(graph), str(data), "--proposals"]
    yield ["proposals", str(graph), str(data), "--split", "val"]
    yield ["info", str(graph)]
    results = folder / "results.json"
    results.write_text("[]")
    yield [
        "data",
        "complete",
        str(data),
        "--split",
        "val",
        "--with",
        str(results),
        "--categories",
        str(graph),
        "--out",
        "x",
    ]


def test_every_command_ends_with_3_in_one_line(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_coco(tmp_path / "data", "val", {"a.jpg": scene(0)}, [entry(1, 1, [10, 20, 40, 30])])
    broken = tmp_path / "broken.onnx"
    for content in (whole.read_bytes()[:-30], b"\0" * 100, b""):
        broken.write_bytes(content)
        for words in commands(broken, data, tmp_path):
            assert run(words) == 3, words
            assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")], words
    assert not (tmp_path / "out" / "detections.jsonl").exists()
