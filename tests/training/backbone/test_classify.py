"""Training of a backbone on classes: it learns, goes on after a stop, and gives weights that a detector starts from."""

import io
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from rich.console import Console
from safetensors import safe_open
from torch import nn

import aweigh
from aweigh.backbones.classifier import network
from aweigh.backbones.shufflenet_v2 import ShuffleNetV2
from aweigh.cli.main import run
from aweigh.errors import AweighError, DataError, UsageError
from aweigh.training.backbone import classify
from aweigh.training.backbone.classify import train_classifier
from aweigh.training.backbone.config import ClassifyConfig, resolve
from aweigh.training.settings import load_recipe
from aweigh.weights.load import load_backbone, read_state

RECIPES = Path(__file__).parents[3] / "recipes"


def draw(path: Path, kind: str, dice: torch.Generator) -> None:
    """A disc, a bar or a ring of a random grey on another, at a random place."""
    dark, light, x, y = torch.randint(0, 90, (4,), generator=dice).tolist()
    image = Image.new("L", (80, 80), dark)
    pen, box = ImageDraw.Draw(image), (8 + x // 4, 8 + y // 4, 48 + x // 4, 48 + y // 4)
    if kind == "bar":
        pen.rectangle((box[0], box[1] + 15, box[2], box[3] - 15), fill=160 + light)
    elif kind == "disc":
        pen.ellipse(box, fill=160 + light)
    else:
        pen.ellipse(box, outline=160 + light, width=5)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, dice = tmp_path_factory.mktemp("shapes"), torch.Generator().manual_seed(0)
    for split, count in (("train", 16), ("val", 6)):
        for kind in ("bar", "disc", "ring"):
            for number in range(count):
                draw(root / split / kind / f"{number}.png", kind, dice)
    return root


def quiet() -> Console:
    return Console(file=io.StringIO(), width=400)


def config_of(folder: Path, output: Path, **changes: Any) -> ClassifyConfig:
    values = {"width": 0.5, "size": 64, "batch": 12, "workers": 0, "device": "cpu", "least_area": 0.6, "color": 0.0}
    return ClassifyConfig(data=str(folder), output=str(output), **{**values, **changes})


def test_it_learns_and_a_detector_takes_its_weights(shapes: Path, tmp_path: Path) -> None:
    console = quiet()
    config = config_of(shapes, tmp_path / "run", epochs=8, lr=2.0)
    folder = train_classifier(config, console=console)
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["epoch"] * 8 + ["final"]
    print(*(f"{row.get('loss', 0):.3f} {row['top1']:.2f}" for row in rows))
    assert rows[7]["loss"] < 0.8 * rows[0]["loss"]
    assert rows[-1]["top1"] > 0.67  # chance is a third
    assert rows[0]["lr"] == pytest.approx(2 * 12 / 1024 * (1 - 3 / 32))  # of its last step, the fourth of 32
    assert "33.3% of the latter" in console.file.getvalue() and (folder / "curves.png").stat().st_size > 1000

    weights = folder / "weights.safetensors"
    with safe_open(weights, framework="pt") as file:
        said = file.metadata()
    assert json.loads(said["classes"]) == ["bar", "disc", "ring"]
    assert (said["activation"], said["architecture"]) == ("relu", "shufflenet_v2_x0_5")
    assert float(said["top1"]) == pytest.approx(rows[-1]["top1"], abs=1e-4)
    detector = aweigh.create("fcos_shufflenet_v2_x0_5_fpn", num_classes=2, backbone_weights=weights)
    assert detector.backbone_report.loaded == detector.backbone_report.total
    assert torch.equal(detector.backbone.conv1[0].weight, read_state(weights)["conv1.0.weight"])
    with pytest.raises(UsageError, match="leaky_relu"):
        load_backbone(ShuffleNetV2(0.5, activation="leaky_relu"), weights)


@pytest.mark.parametrize(
    ("name", "detector"),
    [
        ("shufflenet_v2_x0_5_dw", ("shufflenet_v2", {"width": 0.5, "extra_depthwise": True})),
        pytest.param("shufflenet_v1_g3_x0_5", ("shufflenet_v1", {"width": 0.5}), marks=pytest.mark.thorough),
        ("mobilenet_v2_x0_15", ("mobilenet_v2", {"width": 0.15})),
        pytest.param("xception_small_x0_5", ("xception", {"width": 0.5}), marks=pytest.mark.thorough),
        ("densenet_small_x0_5", None),
    ],
)
def test_other_networks_are_trained_by_name(
    shapes: Path, tmp_path: Path, name: str, detector: tuple[str, dict[str, Any]] | None
) -> None:
    """One step, and a detector or the backbone alone is filled whole by what it gave."""
    config = config_of(shapes, tmp_path / "run", width=1.0, network=name, iterations=1, batch=24, statistics=1)
    weights = train_classifier(config, console=quiet()) / "weights.safetensors"
    body = network(name)
    report = load_backbone(body, weights)
    with safe_open(weights, framework="pt") as file:
        said = file.metadata()
    assert said["architecture"] == body.name and ("activation" in said) == name.startswith("shufflenet_v2")
    if detector:
        form, arguments = detector
        with torch.device("meta"):
            model = aweigh.create(f"light_head_rcnn_{form}", num_classes=2, **arguments)
        assert {key: value.shape for key, value in model.backbone.state_dict().items()} == {
            key: value.shape for key, value in body.state_dict().items()
        }
    assert report.loaded == report.total > 60 and not report.mismatched


def test_a_detector_on_the_same_normalisation_takes_the_weights_of_a_resnet(shapes: Path, tmp_path: Path) -> None:
    """As the backbones of group normalisation's tables 4 and 5 start."""
    options = {"network": "resnet18", "norm": "gn_of_16", "width": 1.0, "iterations": 1, "batch": 8}
    weights = train_classifier(config_of(shapes, tmp_path / "run", **options), console=quiet()) / "weights.safetensors"
    detector = aweigh.create("foveabox_resnet18_fpn", num_classes=2, backbone_norm="gn_of_16", backbone_weights=weights)
    report = detector.backbone_report
    assert report.loaded == report.total == len(detector.backbone.state_dict())
    norms = [module for module in detector.backbone.modules() if isinstance(module, nn.GroupNorm)]
    assert {module.num_channels // module.num_groups for module in norms} == {16} and len(norms) == 20


def test_a_stopped_run_ends_with_the_same_weights(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_classifier(config_of(shapes, tmp_path / "whole", iterations=10), console=quiet())
    step = classify.optimiser_step

    def stopped(run: classify.ClassifierRun, batch: classify.LabelledBatch) -> float:
        if run.step == 6:  # in the second epoch of 4 steps
            raise KeyboardInterrupt
        return step(run, batch)

    monkeypatch.setattr(classify, "optimiser_step", stopped)
    console = quiet()
    with pytest.raises(KeyboardInterrupt):
        train_classifier(config_of(shapes, tmp_path / "cut", iterations=10), console=console)
    assert f"aweigh train-backbone --resume {tmp_path / 'cut'}" in console.file.getvalue()
    monkeypatch.undo()
    train_classifier(ClassifyConfig(), resume=tmp_path / "cut", console=quiet())
    expected, found = read_state(whole / "weights.safetensors"), read_state(tmp_path / "cut" / "weights.safetensors")
    assert expected.keys() == found.keys() and all(torch.equal(expected[key], found[key]) for key in expected)
    rows = [json.loads(line) for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("epoch", 4),
        ("epoch", 8),
        ("epoch", 10),
        ("final", 10),
    ]


def test_statistics_are_means_over_the_last_pass(shapes: Path, tmp_path: Path) -> None:
    config = config_of(shapes, tmp_path / "run", iterations=1, batch=48, statistics=1, least_area=1.0, flip=0.0)
    run_ = classify.prepare(config, new=True, console=quiet())
    run_.folder.mkdir()
    classify.train_and_evaluate(run_)
    norm = run_.model.get_submodule("conv1.1")
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None
    seen: list[torch.Tensor] = []
    hook = norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].mean(dim=(0, 2, 3))))
    classify.finish(run_)
    hook.remove()
    torch.testing.assert_close(norm.running_mean, seen[0], rtol=1e-3, atol=1e-3)  # sums of 49,152 values in float32
    assert norm.momentum == 0.1


def test_start_from_a_file_and_broken_pictures_are_named(shapes: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for kind in ("bar", "disc"):
        for number in range(6):
            target = data / "train" / kind / f"{number}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((shapes / "train" / kind / f"{number}.png").read_bytes())
    (data / "train" / "bar" / "broken.png").write_bytes(b"no picture")
    first = train_classifier(config_of(shapes, tmp_path / "first", iterations=1, lr=0.0), console=quiet())
    console = quiet()
    config = config_of(data, tmp_path / "second", init=str(first / "weights.safetensors"), epochs=2, batch=4, lr=0.0)
    second = train_classifier(config, console=console)
    told = console.file.getvalue()
    assert told.count("broken.png") == 1 and "loaded 275 of 275" in told
    body = read_state(first / "weights.safetensors")
    assert torch.equal(
        read_state(second / "weights.safetensors")["stage2.0.branch2.0.weight"], body["stage2.0.branch2.0.weight"]
    )


def test_nothing_can_be_read(tmp_path: Path) -> None:
    for kind in ("a", "b"):
        (tmp_path / "data" / "train" / kind).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "data" / "train" / kind / f"{number}.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="None of the 4 images"):
        train_classifier(config_of(tmp_path / "data", tmp_path / "run"), console=quiet())


def test_a_loss_that_is_not_finite_stops_the_run(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(AweighError, match=r"loss of step \d+ is (nan|inf); lower lr"):
        train_classifier(config_of(shapes, tmp_path / "run", epochs=2, lr=2e9), console=quiet())


def test_the_recipe_of_the_paper() -> None:
    config = resolve(
        load_recipe(ClassifyConfig, RECIPES / "shufflenet_v2_imagenet.toml"), {"width": 2.0, "batch": None}
    )
    assert (config.iterations, config.batch, config.lr, config.lr_batch) == (300_000, 1024, 0.5, 1024)
    assert (config.momentum, config.weight_decay, config.label_smoothing) == (0.9, 4e-5, 0.1)
    assert (config.size, config.least_area, config.color, config.flip, config.width) == (224, 0.08, 0.4, 0.5, 2.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("widht = 1.0", "Did you mean 'width'"),
        ("batch = 1.5", "batch = 1.5 .* a whole number"),
        ('activation = "gelu"', "one of 'relu', 'leaky_relu'"),
        ("batch = true", "a whole number"),
        ("width", "not valid TOML"),
        ("size = 32", "size = 32: expected a number 64 or more"),
        ("flip = 2", "from 0 to 1"),
        ("width = 0.75", "widths 0.5, 1.0"),
        ('network = "mobilenet_v2_x0_7"', "no network 'mobilenet_v2_x0_7'. Did you mean 'mobilenet_v2_x0_75'"),
        ('network = "densenet_small_x0_5"\nwidth = 0.5', "has its width in its name"),
        ('network = "densenet_small_x0_5"\nactivation = "leaky_relu"', "is of ShuffleNet V2 alone"),
        ('norm = "gnn"', "unknown norm 'gnn'; known: bn.*Did you mean 'gn'"),
        ('norm = "gn_16"', "gn_16: a layer of 24 channels cannot be divided into 16 groups; possible here: 1, 2, 3"),
    ],
)
def test_wrong_values_are_named(shapes: Path, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        config = resolve(
            load_recipe(ClassifyConfig, tmp_path / "recipe.toml"), {"data": str(shapes), "output": str(tmp_path / "r")}
        )
        train_classifier(config, console=quiet())


def test_a_run_folder_is_not_overwritten(shapes: Path, tmp_path: Path) -> None:
    config = config_of(shapes, tmp_path / "run", iterations=1)
    train_classifier(config, console=quiet())
    with pytest.raises(UsageError, match="holds a run already"):
        train_classifier(config, console=quiet())
    with pytest.raises(UsageError, match="no run folder to go on with"):
        train_classifier(config, resume=tmp_path, console=quiet())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "Name the folder"),
        (["missing"], 3, "there is no missing/train"),
        (["--resume", "missing"], 2, "no run folder"),
        (["--resume", "missing", "--epochs", "3"], 2, "give nothing else"),
        (["data", "--recipe", "shufflenet_v2_imagnet"], 2, "Did you mean 'shufflenet_v2_imagenet'"),
    ],
)
def test_the_command(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train-backbone", *arguments]) == code
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


@pytest.mark.long
def test_real_objects(shared: Path, tmp_path: Path) -> None:
    """Crops of real photographs, from published weights: far above the most frequent class within seconds."""
    script = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "classification_crops.py"))
    weights = shared / "weights/shufflenetv2_x0.5_imagenet/backbone_torchvision_fp16.safetensors"
    crops = tmp_path / "crops"
    assert len(script["cut"]([shared / "data/coco_tiny"], crops, least_count=50, most_count=60)["train"]) == 3
    config = config_of(crops, tmp_path / "run", init=str(weights), epochs=6, batch=16, lr=0.15, least_area=0.35)
    folder = train_classifier(config, console=quiet())
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    labels = [path.parent.name for path in (crops / "val").rglob("*.jpg")]
    frequent = max(labels.count(label) for label in set(labels)) / len(labels)
    print(len(set(labels)), f"{frequent:.2f}", *(f"{row.get('loss', 0):.3f} {row['top1']:.2f}" for row in rows))
    assert rows[5]["loss"] < rows[0]["loss"] and rows[-1]["top1"] > 1.25 * frequent
