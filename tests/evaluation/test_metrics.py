"""The table of metrics: every row measures, has the numbers it names, and is known wherever metrics are named."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from aweigh.annotations.split import Split
from aweigh.classes import KeypointSet
from aweigh.errors import UsageError
from aweigh.evaluation.metrics import METRICS, NUMBERS, Metric, check_measurable, measurable, metric_of, numbers_of
from aweigh.layouts.load import load_split
from aweigh.scenes.road import write_road
from aweigh.scenes.shapes import write_synthetic


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("shapes")
    write_synthetic(folder, train=0, val=3, test=0, size=96, seed=1)
    return load_split(folder, "val", keypoints=True)


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("road")
    write_road(folder, train=0, val=2, test=0, width=640, seed=0)
    return load_split(folder, "val")


def found_exactly(split: Split) -> list[dict[str, Any]]:
    """The annotations of a split as results."""
    results = []
    for entry in split.to_coco()["annotations"]:
        if not entry.get("iscrowd"):
            results.append({**entry, "score": 0.9})
    for row, result in enumerate(results):
        result["cuboid"] = [0.0, 0, 10, 1, 1, 1, 0] if split.cuboids is None else split.cuboids[row].tolist()
    return results


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_of_the_table_measures_what_it_names(name: str, shapes: Split, road: Split) -> None:
    metric = METRICS[name]
    split = road if metric.extra == "cuboids" else shapes
    keypoints = KeypointSet(tuple(shapes.keypoint_names)) if metric.extra == "keypoints" else None
    measured = metric.measure(split, found_exactly(split), keypoints)
    numbers = measured.to_dict()
    assert set(metric.numbers) <= set(numbers) and measured.table()
    assert metric.extra == "cuboids" or numbers[metric.numbers[0]] > 0.99
    for values in numbers["per_class"].values() if metric.of_class else ():
        assert set(metric.of_class) <= set(values)
    assert hasattr(import_module(f"aweigh.evaluation.{metric.place.split(':')[0]}"), metric.place.split(":")[1])


def test_numbers_have_names_of_their_own() -> None:
    assert len(set(NUMBERS)) == len(NUMBERS)
    prefixes = [metric.prefix for metric in METRICS.values()]
    assert len(set(prefixes)) == len(prefixes)
    assert [metric_of(number) for number in ("AP", "mask_AP50", "keypoint_AR", "val_loss")] == [
        ("boxes", "AP"), ("masks", "AP50"), ("keypoints", "AR"), ("boxes", "val_loss"),
    ]  # fmt: skip


def test_what_cannot_be_measured_is_said(shapes: Split) -> None:
    names, notes = measurable(shapes, ("masks", "cuboids"), when="eval")
    assert names == ["boxes", "masks"] and notes == ["3D boxes are not measured: val has none"]
    with pytest.raises(UsageError, match=r"There is no metric 'vok12'. Did you mean 'voc12'\? Known: boxes, masks"):
        check_measurable(["vok12"], shapes, ())
    with pytest.raises(UsageError, match="Metric masks: masks are not measured: the detector finds none"):
        check_measurable(["boxes", "masks"], shapes, ())


def test_a_line_of_the_table_is_a_metric(monkeypatch: pytest.MonkeyPatch, shapes: Split) -> None:
    monkeypatch.setitem(METRICS, "recall_too", Metric("recall:recall", "boxes", ("AR100",), prefix="too_", when="eval"))
    names, _ = measurable(shapes, (), when="eval")
    assert names == ["boxes", "recall_too"] and measurable(shapes, ())[0] == ["boxes"]
    numbers = numbers_of({name: METRICS[name].measure(shapes, found_exactly(shapes)) for name in names})
    assert numbers["AP"] > 0.99 and numbers["too_AR100"] > 0.99


def test_the_table_is_where_the_command_finds_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    from aweigh.checkpoints.checkpoint import save_model
    from aweigh.cli.main import run
    from aweigh.images.resize import Resize
    from aweigh.models import create

    write_synthetic(tmp_path / "data", train=0, val=2, test=0, size=64, seed=1)
    classes = load_split(tmp_path / "data", "val").classes
    model = create("fcos_shufflenet_v2_x0_5_fpn", classes=classes)
    save_model(tmp_path / "m.safetensors", model, resize=Resize(64, 64))
    words = ["eval", str(tmp_path / "m.safetensors"), str(tmp_path / "data"), "--device", "cpu"]
    file = tmp_path / "numbers.json"
    monkeypatch.setitem(METRICS, "another", Metric("voc:voc07", "boxes", ("mAP",), prefix="another_"))
    assert run([*words, "--metric", "recall,another", "--json", str(file)]) == 0
    assert "COCO recall" in (told := capsys.readouterr().out) and "11 recall points" in told
    numbers = json.loads(file.read_text())
    assert "AR100" in numbers and "mAP" in numbers["another"]
    assert run([*words, "--metric", "masks"]) == 2
    assert run([*words, "--metric", "vok"]) == 2
    assert "There is no metric 'vok'" in capsys.readouterr().err
