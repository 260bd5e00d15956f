"""`aweigh profile cost` and `aweigh profile reuse`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

import aweigh
from aweigh.backbones.shufflenet_v2 import ShuffleNetV2
from aweigh.checkpoints.checkpoint import save_model
from aweigh.cli.main import run
from aweigh.errors import shortened
from aweigh.images.resize import Resize
from aweigh.profiling.cost import count


def rows(text: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in text.splitlines()[2:]}


def test_cost_of_a_detector(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profile", "cost", "fcos_shufflenet_v2_x0_5_fpn", "--size", "256"]) == 0
    out = capsys.readouterr().out
    assert "256 x 256" in out
    assert list(rows(out)) == ["backbone", "neck", "head", "total"]


def test_cost_of_a_detector_with_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    totals = []
    for given in ([], ["--arguments", "channels=32", "head_convs=1"]):
        assert run(["profile", "cost", "fcos_shufflenet_v2_x0_5_fpn", "--size", "64", *given]) == 0
        totals.append(rows(capsys.readouterr().out)["total"])
    detector = aweigh.create("fcos_shufflenet_v2_x0_5_fpn", channels=32, head_convs=1)
    expected = count(detector, (64, 64), run=lambda model, x: model.network(x)).total
    assert totals[0] != totals[1] and " ".join(totals[1][:2]) == shortened(expected.parameters)


def test_cost_of_a_checkpoint_is_that_of_its_detector(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detector = aweigh.create("fcos_shufflenet_v2_x0_5_fpn", channels=32, num_classes=2)
    save_model(tmp_path / "best.safetensors", detector, resize=Resize(short=64, long=96))
    assert run(["profile", "cost", str(tmp_path / "best.safetensors"), "--size", "64"]) == 0
    found = rows(capsys.readouterr().out)
    expected = count(detector, (64, 64), run=lambda model, x: model.network(x)).total
    assert " ".join(found["total"][2:4]) == shortened(expected.multiply_adds)


def test_cost_of_a_network_of_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profile", "cost", "shufflenet_v2_x1_0", "--size", "224"]) == 0
    found = rows(capsys.readouterr().out)
    assert list(found) == ["conv1", "stage2", "stage3", "stage4", "conv5", "fc", "total"]
    assert found["total"][:4] == ["2.28", "M", "145", "M"]  # torchvision's form: 144.9M


def test_cost_of_a_network_that_the_paper_compares(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profile", "cost", "mobilenet_v2_x0_4", "--size", "160"]) == 0
    found = rows(capsys.readouterr().out)
    assert list(found) == ["body", "conv_head", "fc", "total"]
    assert found["total"][2:4] == ["41.8", "M"]


def test_a_network_of_one_size_says_which(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profile", "cost", "vit_tiny_patch16_224"]) == 2
    assert "takes no other images than 224 x 224: --size 224" in capsys.readouterr().err
    assert run(["profile", "cost", "vit_tiny_patch16_224", "--size", "224"]) == 0
    assert rows(capsys.readouterr().out)["total"][2:4] == ["1.25", "G"]  # 12 blocks of 197 tokens of 192 values


def test_cost_of_a_timm_backbone_layer_by_layer(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profile", "cost", "resnet18", "--size", "224", "--by", "layer"]) == 0
    found = rows(capsys.readouterr().out)
    assert len(found) == 22 and found["conv1"][2:4] == ["118", "M"]  # 112 x 112 x 64 x 3 x 49


def test_cost_by_stage_and_by_operator_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["profile", "cost", "fcos_shufflenet_v2_x0_5_fpn", "--size", "64"]
    assert run([*given, "--by", "stage", "--json", str(tmp_path / "cost.json")]) == 0
    assert {"backbone.stage2", "neck.lateral", "head.logits"} < set(rows(capsys.readouterr().out))
    found = json.loads((tmp_path / "cost.json").read_text())
    assert found["size"] == 64 and found["unknown"] == []
    assert found["total"]["multiply_adds"] == sum(each["multiply_adds"] for each in found["stages"])
    assert run([*given, "--by", "operator"]) == 0
    assert {"convolution", "depthwise", "element-wise", "normalisation"} < set(rows(capsys.readouterr().out))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cost", "shufflenet_v2_x1_00"], "Did you mean 'shufflenet_v2_x1_0'?"),
        (["cost", "resnet18", "--size", "0"], "expected a number above 0"),
        (["cost", "resnet18", "--arguments", "channels=3"], "arguments (channels) go with a detector"),
        (["cost", "fcos_resnet50_fpn", "--arguments", "channels"], "--arguments: 'channels' is not name=value"),
        (["cost", "missing.safetensors"], "missing.safetensors"),
        (["reuse", "resnet18"], "neither a file nor a ShuffleNet V2"),
        (["reuse", "missing.safetensors"], "no file of weights"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profile", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1


def test_reuse_draws_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, picture = tmp_path / "body.safetensors", tmp_path / "out" / "reuse.png"
    save_file(ShuffleNetV2(0.5).state_dict(), file)
    assert run(["profile", "reuse", str(file), "-o", str(picture)]) == 0
    assert "shufflenet_v2_x0_5, 16 units" in capsys.readouterr().out
    with Image.open(picture) as drawn:
        assert np.asarray(drawn.convert("L")).std() > 20
