"""`aweigh eval --keep-cost` writes into a checkpoint what a number format costs, and `--precision auto` goes by it."""

import pytest
import torch
from tests.runs import write_coco

import aweigh
from aweigh.checkpoints.checkpoint import keep_cost, save_model
from aweigh.classes import Classes
from aweigh.cli.main import run
from aweigh.header import costs_little, read_header
from aweigh.images.resize import Resize
from aweigh.inference.device import CPU, has_bf16


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    model = aweigh.create("fcos_shufflenet_v2_x0_5_lite", classes=Classes(("box", "ball"), (1, 7)))
    path = tmp_path / "model.safetensors"
    save_model(path, model, resize=Resize(long=64))
    return path


@pytest.mark.parametrize(("lost", "little"), [(0.0, True), (-0.01, True), (0.0019, True), (0.0021, False)])
def test_auto_goes_by_what_the_checkpoint_says(checkpoint, monkeypatch, lost, little):
    assert not costs_little(read_header(checkpoint), "bf16")
    keep_cost(checkpoint, "bf16", {"lost_AP": lost, "images": 3})
    header = read_header(checkpoint)
    assert header["precisions"] == {"bf16": {"lost_AP": lost, "images": 3}}
    assert costs_little(header, "bf16") == little and not costs_little(header, "float16")
    for there in {False, has_bf16(CPU)}:
        monkeypatch.setattr("aweigh.inference.device.has_bf16", lambda device, there=there: there)
        said = aweigh.load(checkpoint, device="cpu").engine.computed_by
        assert ("cpu, bf16" in said) == (there and little), said


@pytest.mark.skipif(not has_bf16(CPU), reason="this processor has no bf16")
def test_the_cost_is_measured_and_kept(checkpoint, tmp_path, capsys):
    data = tmp_path / "data"
    write_coco(data, {"train": 3})
    words = ["--split", "train", "--device", "cpu", "--precision", "bf16", "--keep-cost"]
    assert run(["eval", str(checkpoint), str(data), *words]) == 0
    assert f"lost, written into {checkpoint}" in capsys.readouterr().out
    cost = read_header(checkpoint)["precisions"]["bf16"]
    assert cost["lost_AP"] == cost["float32"] - cost["bf16"] and cost["images"] > 0 and cost["data_hash"]


def test_there_has_to_be_a_format_that_may_cost_something(checkpoint, tmp_path, capsys):
    for words in ([], ["--precision", "bf16", "--set", "nms=soft"], ["--precision", "bf16", "--resize", "64"]):
        assert run(["eval", str(checkpoint), str(tmp_path), "--keep-cost", *words]) == 2
        assert "--keep-cost goes with --precision bf16 or float16" in capsys.readouterr().err
