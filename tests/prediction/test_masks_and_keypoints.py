"""Masks and keypoints in training, evaluation and checkpoints, by a detector of a few weights that insists on them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.runs import TINY, write_coco
from torch import Tensor, nn
from torchvision.ops import roi_align

from aweigh.annotations.split import Split
from aweigh.checkpoints.checkpoint import load_model, save_model, start_from
from aweigh.classes import UNIFORM_SIGMA, Classes, GivenKeypoints, KeypointSet
from aweigh.cli.main import run
from aweigh.detections import Detections
from aweigh.errors import DataError, UsageError
from aweigh.evaluation.measurement import measure_results
from aweigh.feeding.dataset import targets_of
from aweigh.geometry.masks import encode_counts
from aweigh.header import read_header
from aweigh.images.resize import Resize
from aweigh.inference.detect import detect
from aweigh.inference.measure import choose_select, measure
from aweigh.inference.supervision import keypoint_lines
from aweigh.layouts.load import load_split
from aweigh.models import DETECTORS, create
from aweigh.models.centernet import CenterNetSelection
from aweigh.scenes.shapes import KEYPOINTS, write_synthetic
from aweigh.training.config import resolve
from aweigh.training.logs.callback import Beginning
from aweigh.training.logs.json_lines import read_log
from aweigh.training.logs.log import RunLog
from aweigh.training.logs.table import best_epoch, results_table
from aweigh.training.loop import selected, validate
from aweigh.training.prepare import prepare
from aweigh.training.train import train


class Figures(nn.Module):
    """Finds one object in the middle of every image."""

    builder, stride_divisor, average_flipped = "figures", 32, None
    needs_proposals, needs_sizes = False, False
    extras: tuple[str, ...] = ("masks", "keypoints")
    selection = CenterNetSelection(score_threshold=0.05)

    def __init__(self, classes: Classes, keypoints: Any) -> None:
        super().__init__()
        self.classes, self.keypoint_set = classes, KeypointSet.of(keypoints)
        self.register_buffer("pixel_mean", torch.full((3,), 0.5), persistent=False)
        self.layer = nn.Linear(3, len(classes))
        self.scores = nn.Linear(2, len(classes) + 1)  # with that of nothing, as two-stage detectors have it
        self.points = nn.ConvTranspose2d(2, len(self.keypoint_set), 2)

    def forward(self, images: Any, targets: Any = None) -> Any:
        raw = self.network(images.pixels)
        return self.decode(raw, images.sizes_hw) if targets is None else self.loss(raw, targets)

    def network(self, pixels: Tensor) -> Tensor:
        return self.layer(pixels.mean(dim=(2, 3)))

    def loss(self, raw: Tensor, targets: Any) -> dict[str, Tensor]:
        for target in targets:
            if "masks" in self.extras:
                assert target.masks.dtype == torch.bool and target.masks.ndim == 3
                assert len(target.masks) == len(target) and min(target.masks.shape[1:]) > 32
            if "keypoints" in self.extras:
                assert target.keypoints.shape == (len(target), len(self.keypoint_set), 3)
        return {"class": raw.square().mean(), "mask": (raw.mean() - 1).square()}

    def decode(self, raw: Tensor, sizes_hw: Any) -> list[Detections]:
        scores, labels = raw.sigmoid().max(dim=1)
        boxes = torch.tensor([[[0.2 * w, 0.2 * h, 0.8 * w, 0.8 * h]] for h, w in sizes_hw])
        points = boxes[:, :, None, :2].expand(-1, -1, len(self.keypoint_set), 2)
        further = {
            "masks": torch.ones(len(boxes), 1, 28, 28),
            "keypoints": torch.cat([points, torch.ones_like(points[..., :1])], dim=-1),
        }
        return Detections.unpadded(
            (boxes, scores[:, None], labels[:, None], torch.ones(len(boxes), dtype=torch.int64)),
            classes=self.classes,
            sizes_hw=[tuple(size) for size in sizes_hw],
            extras={name: further[name] for name in self.extras},
            keypoint_set=self.keypoint_set if "keypoints" in self.extras else None,
        )


class Outlines(Figures):
    extras = ("masks",)


@pytest.fixture(autouse=True)
def builders(monkeypatch: pytest.MonkeyPatch) -> None:
    def figures(*, classes: Classes, keypoints: GivenKeypoints) -> Figures:
        return Figures(classes, keypoints)

    def outlines(*, classes: Classes) -> Figures:
        return Outlines(classes, {"names": ["none"]})

    monkeypatch.setitem(DETECTORS, "figures", figures)
    monkeypatch.setitem(DETECTORS, "outlines", outlines)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("data") / "shapes", train=4, val=4, test=0, size=80, seed=3)


def configure(data: Path, output: Path, **changes: Any) -> Any:
    settings = {**TINY, "arguments": (), "data": str(data), "output": str(output), "model": "figures", **changes}
    return resolve({}, settings)[0]


# --- training -------------------------------------------------------------------------------------------------------


def test_a_run_learns_measures_and_tells_masks_and_keypoints(shapes: Path, tmp_path: Path, quiet: Any) -> None:
    folder = train(configure(shapes, tmp_path / "run", copy_paste=0.5, mosaic=0.3), console=quiet)
    told = quiet.file.getvalue()
    assert "keypoints: 5 (top, right, bottom, left, centre)" in told and "keypoint_sigmas sets them" in told
    assert "mask_AP 0." in told and "keypoint_AP 0." in told and "best keypoint_AP on val" in told

    last = [row for row in read_log(folder / "log.jsonl") if row["kind"] == "epoch"][-1]
    assert {"mask_AP", "mask_APs", "mask_AR100", "keypoint_AP", "keypoint_AR75"} <= last.keys()
    assert last["mask_per_class"].keys() == last["per_class"].keys()
    table = (folder / "results.csv").read_text().splitlines()
    assert "mask_AP" in table[0].split(",") and "keypoint_AR75" in table[0].split(",")

    header = read_header(folder / "best.safetensors")
    known = KeypointSet.of(header["arguments"]["keypoints"])
    assert (
        known.names == KEYPOINTS and known.joints == ((0, 4), (1, 4), (2, 4), (3, 4)) and known.flip_pairs == ((1, 3),)
    )
    assert header["metrics"]["mask_AP"] == last["mask_AP"] and "mask_objects" in header["metrics"]
    assert load_model(folder / "best.safetensors")[0].keypoint_set == known
    entry = json.loads((folder / "best_val_results.json").read_text())[0]
    assert isinstance(entry["segmentation"]["counts"], str) and len(entry["keypoints"]) == 15


def test_validation_data_without_masks_and_keypoints_give_their_losses_all_the_same(
    shapes: Path, tmp_path: Path
) -> None:
    data = copied(shapes, tmp_path / "data", val_without={"segmentation", "keypoints", "num_keypoints"})
    prepared = prepare(configure(data, tmp_path / "run"), tmp_path / "run")
    metrics, _ = validate(prepared, RunLog(Beginning(tmp_path), active=False))
    assert prepared.select == "AP" and metrics["val_loss_mask"] >= 0 and "mask_AP" not in metrics


def copied(source: Path, target: Path, *, train_without: set[str] = frozenset(), val_without: set[str] = frozenset()):
    """The data set with the same images, its annotations without some of their keys."""
    (target / "annotations").mkdir(parents=True)
    (target / "images").symlink_to(source / "images")
    for name, without in (("train", train_without), ("val", val_without)):
        content = json.loads((source / "annotations" / f"instances_{name}.json").read_text())
        for entry in content["annotations"]:
            for key in without:
                entry.pop(key)
        if "keypoints" in without:
            for category in content["categories"]:
                del category["keypoints"], category["skeleton"]
        (target / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
    return target


def test_data_without_masks_or_keypoints_are_refused_before_anything_is_trained(
    shapes: Path, tmp_path: Path, quiet: Any
) -> None:
    bare = copied(shapes, tmp_path / "a", train_without={"segmentation"})
    with pytest.raises(DataError, match="the data have no masks, which outlines learns"):
        train(configure(bare, tmp_path / "run", model="outlines"), console=quiet)
    bare = copied(shapes, tmp_path / "b", train_without={"keypoints", "num_keypoints"})
    with pytest.raises(DataError, match="the data have no keypoints, which figures learns"):
        train(configure(bare, tmp_path / "run"), console=quiet)
    boxes = write_coco(tmp_path / "c", {"train": 2, "val": 1})
    with pytest.raises(DataError, match="no masks"):
        train(configure(boxes, tmp_path / "run", model="outlines"), console=quiet)
    assert not (tmp_path / "run").exists()


def test_keypoints_named_otherwise_in_val_are_refused(shapes: Path, tmp_path: Path, quiet: Any) -> None:
    data = copied(shapes, tmp_path / "data")
    path = data / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace('"top"', '"head"'))
    with pytest.raises(DataError, match="validation split are head, right"):
        train(configure(data, tmp_path / "run"), console=quiet)


def test_sigmas_are_cocos_for_its_person_else_the_users_else_uniform(shapes: Path, tmp_path: Path) -> None:
    own = (0.1, 0.2, 0.3, 0.4, 0.5)
    model = prepare(configure(shapes, tmp_path, keypoint_sigmas=own), tmp_path).model
    assert model.keypoint_set.sigmas == own and len(keypoint_lines(model)) == 1
    with pytest.raises(UsageError, match="2 numbers, but the data have 5 keypoints: top"):
        prepare(configure(shapes, tmp_path, keypoint_sigmas=(0.1, 0.2)), tmp_path)
    assert KeypointSet(("a", "b")).sigmas == (UNIFORM_SIGMA,) * 2
    assert KeypointSet(KeypointSet.coco_person().names).sigmas[0] == 0.026


def test_keypoints_among_the_arguments_take_the_place_of_what_the_data_say(shapes: Path, tmp_path: Path) -> None:
    own = json.dumps({"names": list(KEYPOINTS), "joints": [[0, 2]]})
    model = prepare(configure(shapes, tmp_path, arguments=(f"keypoints={own}",)), tmp_path).model
    assert model.keypoint_set.joints == ((0, 2),) and model.keypoint_set.flip_pairs == ()
    with pytest.raises(UsageError, match="keypoints names nose, but the data have top, right"):
        prepare(configure(shapes, tmp_path, arguments=('keypoints={"names": ["nose"]}',)), tmp_path)


# --- which checkpoint is the best -----------------------------------------------------------------------------------


def test_the_best_checkpoint_is_by_what_the_detector_is_for(shapes: Path, toys: Path) -> None:
    val, boxes = load_split(shapes, "val"), load_split(toys, "val")
    outlines = create("outlines", classes=val.classes)
    figures = create("figures", classes=val.classes, keypoints={"names": list(KEYPOINTS)})
    assert [choose_select("", model, val) for model in (outlines, figures)] == ["mask_AP", "keypoint_AP"]
    assert choose_select("", outlines, boxes) == "AP" == choose_select("", outlines, None)
    assert choose_select("mask_AP50:star", outlines, val) == "mask_AP50:star"
    for select, split in (("mask_AP", boxes), ("keypoint_AP", val)):
        with pytest.raises(UsageError, match="is not measured: outlines finds boxes and masks"):
            choose_select(select, outlines, split)
    for wrong in ("mask_APx", "keypoint_APs", "mask_AP:", "mask_val_loss"):
        with pytest.raises(UsageError, match="expected one of AP"):
            resolve({}, {"select": wrong})


def test_numbers_of_masks_are_found_by_their_names() -> None:
    metrics = {"AP": 0.3, "mask_AP": 0.2, "mask_per_class": {"a": {"AP": 0.1}}, "per_class": {"a": {"AP": 0.9}}}
    assert [selected(metrics, name) for name in ("AP", "mask_AP", "mask_AP:a", "AP:a")] == [0.3, 0.2, 0.1, 0.9]
    rows = [{"epoch": 1, "val_loss": 1.0, **metrics}, {"epoch": 2, "val_loss": 1.0, **metrics, "mask_AP": 0.1}]
    rows[1]["mask_per_class"] = {"a": {"AP": 0.2}}
    assert best_epoch(rows, "mask_AP") == 1 and best_epoch(rows, "mask_AP:a") == 2 and best_epoch(rows, "AP") == 2
    head, first, second = results_table(rows)
    assert (first[head.index("mask_AP")], second[head.index("mask_AP")]) == (0.2, 0.1)


# --- evaluation -----------------------------------------------------------------------------------------------------


class AllKnowing(Figures):
    """Finds exactly what is annotated, in the resized images of a split, which come in order."""

    def __init__(self, split: Split, resize: Resize, **rest: Any) -> None:
        super().__init__(split.classes, rest.get("keypoints", {"names": list(split.keypoint_names)}))
        self.split, self.resize, self.seen = split, resize, 0

    def decode(self, raw: Tensor, sizes_hw: Any) -> list[Detections]:
        found = []
        for size_hw in sizes_hw:
            targets = targets_of(self.split, self.seen, masks=True)
            height, width = (int(side) for side in self.split.sizes_hw[self.seen])
            assert tuple(size_hw) == self.resize.size_for(height, width)
            rois = torch.cat([torch.arange(len(targets))[:, None], targets.boxes], dim=1)
            masks = roi_align(targets.masks[:, None].float(), rois, 56, aligned=True)[:, 0]
            moved = targets.resized((height, width), tuple(size_hw))
            points = torch.cat([moved.keypoints[..., :2], torch.full_like(moved.keypoints[..., :1], 3.0)], dim=-1)
            found.append(
                Detections(
                    moved.boxes.numpy(),
                    np.linspace(0.9, 0.5, len(moved), dtype=np.float32),
                    moved.labels.numpy(),
                    classes=self.classes,
                    size_hw=tuple(size_hw),
                    masks=masks.numpy(),
                    keypoints=points.numpy(),
                    keypoint_set=self.keypoint_set,
                )
            )
            self.seen += 1
        return found


@pytest.mark.parametrize("resize", [Resize(short=80, long=90), Resize(short=None, long=150)])
def test_what_is_known_exactly_is_measured_as_such(shapes: Path, resize: Resize) -> None:
    val = load_split(shapes, "val")
    model = AllKnowing(val, resize)
    measured = measure(model, resize, val, ["boxes"], batch=2)
    boxes, results = measured.metrics["boxes"], measured.results
    metrics, notes = measure_results(model, val, results)
    assert notes == [] and boxes.AP > 0.99
    assert metrics["keypoints"].AP > 0.99 and metrics["keypoints"].keypoint_sigmas == (UNIFORM_SIGMA,) * 5
    assert metrics["masks"].AP50 > 0.99 and metrics["masks"].AP > 0.9  # outlines of 56 x 56 cells
    assert "COCO protocol, masks" in metrics["masks"].table() and "OKS" in metrics["keypoints"].table()


def test_what_cannot_be_measured_is_said(shapes: Path, toys: Path) -> None:
    resize, val, boxes = Resize(64, 96), load_split(shapes, "val"), load_split(toys, "val")
    model = Figures(boxes.classes, {"names": ["a", "b"]})
    metrics, notes = measure_results(model, boxes, detect(model, resize, boxes).results)
    assert list(metrics) == ["boxes"]
    assert notes == [
        "masks are not measured: val has none",
        "keypoints are not measured: the model finds a, b, val has none",
    ]
    other = AllKnowing(val, resize, keypoints={"names": ["a", "b", "c", "d", "e"]})
    metrics, notes = measure_results(other, val, detect(other, resize, val).results)
    assert list(metrics) == ["boxes", "masks"] and "the model finds a, b, c, d, e, those of val are top" in notes[0]
    numbered = AllKnowing(val, resize, keypoints={"names": list("01234")})
    assert list(measure_results(numbered, val, [])[0]) == ["boxes", "masks", "keypoints"]


def test_commands_tell_draw_and_write_masks_and_keypoints(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    val = load_split(shapes, "val")
    model = create("figures", classes=val.classes, keypoints={"names": list(KEYPOINTS)})
    model.layer.bias.data += 2.0  # surer than a half of every object
    file = tmp_path / "model.safetensors"
    save_model(file, model, resize=Resize(64, 96))
    assert run(["eval", str(file), str(shapes), "--device", "cpu", "--json", str(tmp_path / "numbers.json")]) == 0
    told = capsys.readouterr().out
    assert [told.count(f"COCO protocol, {what}") for what in ("boxes", "masks", "keypoints")] == [1, 1, 1]
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["masks"]["protocol"]["iou_type"] == "segm" and "AR75" in numbers["keypoints"]

    predict = ["predict", str(val.paths[0]), "--model", str(file), "--device", "cpu", "-o"]
    assert run([*predict, str(tmp_path / "a")]) == 0
    (line,) = (tmp_path / "a" / "detections.jsonl").read_text().splitlines()
    (found,) = json.loads(line)["detections"]
    assert found["segmentation"]["size"] == val.sizes_hw[0].tolist() and len(found["keypoints"]) == 5
    with Image.open(tmp_path / "a" / f"{val.paths[0].stem}.jpg") as drawn, Image.open(val.paths[0]) as before:
        middle = drawn.width // 2, drawn.height // 2
        changed = np.abs(np.subtract(drawn.getpixel(middle), before.convert("RGB").getpixel(middle), dtype=int))
    assert changed.max() > 20  # the mask, in which nothing else is drawn
    capsys.readouterr()
    assert run([*predict, str(tmp_path / "b"), "--format", "csv"]) == 0
    assert "Format csv has no place for masks" in capsys.readouterr().err
    assert "top_x,top_y,top_score" in (tmp_path / "b" / "detections.csv").read_text()


def test_keypoints_are_moved_with_the_boxes_and_masks_stay() -> None:
    found = Detections(
        np.float32([[0, 0, 10, 20]]),
        np.float32([0.5]),
        np.array([0]),
        size_hw=(20, 10),
        masks=np.random.default_rng(0).random((1, 28, 28), np.float32),
        keypoints=np.float32([[[5, 10, -2.5], [12, 1, 3]]]),
    )
    moved = found.resized((40, 30))
    assert moved.keypoints is not None and moved.masks is found.masks
    assert moved.keypoints.tolist() == [[[15.0, 20.0, -2.5], [36.0, 2.0, 3.0]]]


# --- checkpoints ----------------------------------------------------------------------------------------------------


def test_a_keypoint_set_survives_the_checkpoint(tmp_path: Path) -> None:
    known = KeypointSet(("a", "b", "c"), ((0, 1), (1, 2)), ((0, 2),), (0.1, 0.2, 0.3))
    model = create("figures", classes=["x"], keypoints=known)  # given as it is, not as a dictionary
    save_model(tmp_path / "model.safetensors", model, resize=Resize(64, 96))
    assert load_model(tmp_path / "model.safetensors")[0].keypoint_set == known
    assert KeypointSet.of(json.loads(json.dumps(known.to_dict()))) == known


def test_a_start_keeps_the_rows_of_classes_and_keypoints_of_the_same_name(tmp_path: Path) -> None:
    names = ("nose", "tail", "left_eye")
    old = create("figures", classes=["cat", "dog"], keypoints={"names": ["left_eye", "nose"]})
    save_model(tmp_path / "old.safetensors", old, resize=Resize(64, 96))
    new = create("figures", classes=["dog", "cow", "cat"], keypoints={"names": names})
    before = {name: value.clone() for name, value in new.state_dict().items()}
    line = start_from(new, tmp_path / "old.safetensors")
    assert "loaded 0 of 6 tensors" in line and "points.weight (2->3)" in line
    assert line.endswith("rows kept by name: dog, cat, nose, left_eye")
    for rows, source, kept in (
        (new.layer, old.layer, [(0, 1), (2, 0)]),
        (new.scores, old.scores, [(0, 1), (2, 0), (3, 2)]),
    ):
        assert all(torch.equal(rows.weight[a], source.weight[b]) and rows.bias[a] == source.bias[b] for a, b in kept)
    assert torch.equal(new.layer.weight[1], before["layer.weight"][1])
    assert all(torch.equal(new.points.weight[:, a], old.points.weight[:, b]) for a, b in ((0, 1), (2, 0)))
    assert (
        torch.equal(new.points.weight[:, 1], before["points.weight"][:, 1]) and new.points.bias[2] == old.points.bias[0]
    )


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"names": []}, "distinct, one at least"),
        ({"names": ["a", "a"]}, "distinct"),
        ({"names": ["a", "b"], "joints": [[0, 2]]}, r"joint \[0, 2\] must be two rows of 0 to 1"),
        ({"names": ["a", "b"], "joints": [[0]]}, "pairs are two rows each"),
        ({"names": ["a", "b", "c"], "flip_pairs": [[0, 1], [1, 2]]}, "two counterparts"),
        ({"names": ["a"], "sigmas": [0]}, "1 sigma above 0"),
        ({"names": ["a"], "sigmas": [float("nan")]}, "1 sigma above 0"),
        ({"names": ["a"], "sigmas": ["x"]}, "sigmas are numbers"),
        ({"names": ["a"], "colours": []}, "needs names, joints, flip_pairs, sigmas"),
        ({}, "needs names"),
        ("a", "got str"),
    ],
)
def test_a_bad_keypoint_set_says_why(given: Any, why: str) -> None:
    with pytest.raises(DataError, match=why):
        KeypointSet.of(given)


def test_results_hold_run_lengths_and_little_memory(memory_needed: Any) -> None:
    """Of 500 objects on 12 megapixels, 6 GB as bitmaps."""
    boxes = np.tile(np.float32([[100, 100, 180, 190]]), (500, 1))
    boxes[0] = [-400, -400, 4400, 3400]
    classes = Classes.numbered(1)
    scores, masks = np.ones(500, np.float32), np.ones((500, 28, 28), np.float32)
    found = Detections(boxes, scores, np.zeros(500, np.int64), masks=masks, classes=classes, size_hw=(3000, 4000))
    entries: list[dict[str, Any]] = []
    assert memory_needed(lambda: entries.extend(found.to_coco(1))) < 300 * 2**20
    whole = encode_counts(np.array([0, 12_000_000])).decode()
    assert entries[0]["segmentation"] == {"size": [3000, 4000], "counts": whole} and len(entries) == 500
    with pytest.raises(UsageError, match="6,000,000,000 bytes"):
        found.bitmaps()
    assert found[:2].bitmaps(byte_budget=24_000_000).sum(axis=(1, 2)).tolist() == [12_000_000, 80 * 90 - 4]
