"""The weights that come with the package: small, whole, described, and as good as their card says."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import aweigh
from aweigh.catalogue import PACKAGED, find_model
from aweigh.checkpoints.checkpoint import PATHS
from aweigh.errors import UsageError
from aweigh.header import METADATA_KEY, read_header, selection_of
from aweigh.inference.measure import measure
from aweigh.layouts.load import load_split
from aweigh.models import PUBLISHED, create
from aweigh.runtime.onnx_file import metadata
from aweigh.weights.coco import COCO_CLASSES

RECORDS = [records["box"] for records in PUBLISHED.values() if "box" in records]
CARD = (PACKAGED / "README.md").read_text(encoding="utf-8")


@pytest.fixture(params=RECORDS, ids=lambda record: record.builder)
def file(request: pytest.FixtureRequest) -> Path:
    path: Path = PACKAGED / request.param.file
    return path


def test_every_file_is_the_one_that_is_recorded() -> None:
    assert {record.file for record in RECORDS} == {path.name for path in PACKAGED.glob("*.safetensors")}
    for record in RECORDS:
        content = (PACKAGED / record.file).read_bytes()
        assert len(content) <= 4e6
        graph = (PACKAGED / record.file).with_suffix(".onnx")
        card = json.loads(graph.with_suffix(".json").read_text(encoding="utf-8"))
        assert graph.stat().st_size <= 5e6
        assert card["sha256"] == {graph.name: hashlib.sha256(graph.read_bytes()).hexdigest()}
        assert len(record.sha256) == 64 and hashlib.sha256(content).hexdigest() == record.sha256


def test_the_header_says_what_is_needed_and_no_place_on_a_machine(file: Path) -> None:
    header = read_header(file)
    assert tuple(header["classes"]["ids"]) == COCO_CLASSES.ids and header["licence"]
    assert header["metrics"]["AP"] > 0
    assert not set(PATHS) & set(header["training"]["config"])
    assert not re.search(rb"/(work|home|tmp|root)/", file.read_bytes()[:100_000])


def test_the_name_gives_the_model_of_the_file(file: Path) -> None:
    header = read_header(file)
    named, loaded = create(header["builder"], weights="box"), aweigh.load(file, device="cpu").engine.model
    assert named.classes == loaded.classes
    pixels = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(
            named.eval().network(pixels).logits, loaded.network(pixels).logits, atol=2e-3, rtol=1e-3
        )


def test_its_graph_says_and_finds_what_the_file_does(file: Path) -> None:
    """The graph is written by `aweigh export`; boxes to 0.0005 px, over noise, stripes and a photograph's sizes."""
    header, said = read_header(file), json.loads(metadata(file.with_suffix(".onnx"))[METADATA_KEY])
    graph = said.pop("graph")
    for name in ("builder", "arguments", "classes", "resize", "metrics", "licence", "data_hash"):
        assert said[name] == header[name], name
    assert selection_of(header).items() <= selection_of(said).items()  # newer: with what the detector's class adds
    assert (graph["nms"], graph["size_hw"], graph["batch"]) == ("none", None, None)
    ours, theirs = aweigh.load(file, device="cpu"), aweigh.load(file.with_suffix(".onnx"))
    random = np.random.default_rng(0)
    for height, width in ((96, 130), (300, 200), (416, 416)):
        image = random.integers(0, 256, (height // 8, width // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        one, other = ours(image, score=0), theirs(image, score=0)
        assert len(one) == len(other) > 10
        np.testing.assert_allclose(other.boxes, one.boxes, atol=5e-4)
        np.testing.assert_allclose(other.scores, one.scores, atol=1e-5)
        assert other.labels.tolist() == one.labels.tolist()


@pytest.mark.thorough
def test_its_graph_is_written_again_to_the_byte(file: Path, tmp_path: Path) -> None:
    path = file.with_suffix(".onnx")
    made_with = json.loads(metadata(path)[METADATA_KEY])["torch"]
    if made_with != torch.__version__:
        pytest.skip(f"the graph was written by torch {made_with}, here is {torch.__version__}")
    again = aweigh.export("box", tmp_path / path.name, nms="none")
    assert again.read_bytes() == path.read_bytes()


def test_the_card_states_licences_data_and_every_file() -> None:
    for record in RECORDS:
        assert record.file in CARD and record.licence.split()[0] in CARD
        assert all(f"{value:.1f}" in CARD for value in record.metrics.values())
    for word in ("coco_tiny", "coco_person", "voc5", "aweigh train", "Known weaknesses", "licence"):
        assert word in CARD, word


@pytest.mark.thorough
def test_it_is_as_good_as_it_says(file: Path, shared: Path) -> None:
    """AP on the 188 validation images, which it has not seen, within 0.2 of the number in the header."""
    split = load_split(shared / "data" / "coco_tiny", "val")
    predictor = aweigh.load(file, device="cpu")
    metrics = measure(predictor.engine.model, predictor.resize, split, ["boxes"], batch=1).metrics["boxes"]
    assert metrics.to_dict()["AP"] == pytest.approx(read_header(file)["metrics"]["AP"], abs=0.002)


def test_it_is_computed_by_onnxruntime_where_torch_is_not_asked_for() -> None:
    """The same wherever torch is installed or not."""
    for asked in ({}, {"device": "cpu"}, {"device": "auto"}, {"runtime": "onnxruntime"}):
        assert aweigh.load(**asked).engine.computed_by.startswith("onnxruntime")  # type: ignore[arg-type]
    for asked in ({"runtime": "torch", "device": "cpu"}, {"precision": "float32", "device": "cpu"}):
        assert aweigh.load(**asked).engine.computed_by.startswith("torch")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="is a graph, which torch does not compute"):
        aweigh.load(find_model("box", graph=True), runtime="torch")
