"""The weights that come with the package: small, whole, described, and as good as their card says."""

import hashlib
import re
from pathlib import Path

import pytest
import torch

import aweigh
from aweigh.catalogue import PACKAGED
from aweigh.checkpoints.checkpoint import PATHS
from aweigh.header import read_header
from aweigh.inference.measure import measure
from aweigh.layouts.load import load_split
from aweigh.models import PUBLISHED, create
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


def test_the_card_states_licences_data_and_every_file() -> None:
    for record in RECORDS:
        assert record.file in CARD and record.licence.split()[0] in CARD
        assert all(f"{value:.1f}" in CARD for value in record.metrics.values())
    for word in ("coco_tiny", "coco_person", "voc5", "aweigh train", "Known weaknesses", "licence"):
        assert word in CARD, word


def test_it_is_as_good_as_it_says(file: Path, shared: Path) -> None:
    """AP on the 188 validation images, which it has not seen, within 0.2 of the number in the header."""
    split = load_split(shared / "data" / "coco_tiny", "val")
    predictor = aweigh.load(file, device="cpu")
    metrics = measure(predictor.engine.model, predictor.resize, split, ["boxes"], batch=1).metrics["boxes"]
    assert metrics.to_dict()["AP"] == pytest.approx(read_header(file)["metrics"]["AP"], abs=0.002)
