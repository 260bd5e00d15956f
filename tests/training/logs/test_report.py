"""The images of a run: what the network sees, and what is wrong with the results."""

import itertools
import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.runtime.toy_engines import Spots

import aweigh.training.logs.report as report
from aweigh.layouts.load import load_split
from aweigh.prediction import sheet
from aweigh.training.logs.report import LEGIBLE, save_inputs
from aweigh.training.prepare import prepare
from aweigh.visualise import mistakes
from aweigh.visualise.mistakes import RIGHT, WRONG, save_evaluation


@pytest.fixture
def drawn(monkeypatch):
    """What `draw_objects` was given, in order."""
    calls = []
    real = report.draw_objects

    def remember(image, objects, classes):
        calls.append((image, objects))
        return real(image, objects, classes)

    monkeypatch.setattr(report, "draw_objects", remember)
    return calls


def test_the_training_grid_is_what_the_first_epoch_trains_on(configure, tmp_path, drawn):
    run = prepare(configure(crop=0.9, color=0.5, scale_jitter=(0.5, 1.5)), tmp_path)
    save_inputs(run, tmp_path / "inputs_train.png")
    run.loader.set_epoch(0)
    seen = [(batch, row) for batch in run.loader for row in range(len(batch))]
    assert len(drawn) == len(seen) == 8
    for (image, objects), (batch, row) in zip(drawn, seen, strict=True):
        height, width = batch.images.sizes_hw[row]
        factor = image.shape[1] // height
        assert factor > 1 and max(image.shape[1:]) >= LEGIBLE and max(image.shape[1:]) < LEGIBLE + max(height, width)
        pixels = image[:, ::factor, ::factor].float() / (1 if image.is_floating_point() else 255)
        assert torch.allclose(pixels, batch.images.pixels[row, :, :height, :width], atol=1 / 250)
        np.testing.assert_allclose(objects["boxes"] / factor, batch.targets[row].boxes, atol=1e-3)
    with Image.open(tmp_path / "inputs_train.png") as picture:
        assert picture.width > 900


def test_the_validation_grid_is_only_resized(configure, tmp_path, drawn):
    run = prepare(configure(flip=1.0, color=0.9), tmp_path)
    save_inputs(run, tmp_path / "inputs_val.png", split="val")
    assert len(drawn) == len(run.data.val) == 4
    for row, (image, objects) in enumerate(drawn):
        original = run.data.val.objects(row)
        scale = image.shape[1] / float(run.data.val.sizes_hw[row][0])
        np.testing.assert_allclose(objects["boxes"], original["boxes"] * scale, rtol=0.03, atol=2)
    assert (tmp_path / "inputs_val.png").exists()


def test_a_grid_holds_sixteen_images_at_most(configure, tmp_path, drawn):
    run = prepare(configure(), tmp_path)
    save_inputs(run, tmp_path / "some.png", count=3)
    assert len(drawn) == 3


def perfect(split):
    """The truth as results, best first."""
    return [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9 - 0.01 * number}
        for number, a in enumerate(split.to_coco()["annotations"])
    ]


def pixels_of(path, colour):
    with Image.open(path) as picture:
        difference = np.abs(np.asarray(picture.convert("RGB")).astype(int) - colour)
        return int((difference < 30).all(axis=2).sum())


def test_plots_of_results(toys, tmp_path):
    val = load_split(toys, "val")
    results = perfect(val)
    results[0]["category_id"] = 8 - results[0]["category_id"]  # 1 and 7 change places
    lines = save_evaluation(tmp_path / "plots", val, results[:-1])
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        *("confusion.png", "errors.json", "pr_curves.png", "worst.jpg"),
    ]
    content = json.loads((tmp_path / "plots" / "errors.json").read_text())
    objects, kept = len(results), len(results) - 1
    counts = np.array(content["confusion"]["counts"])
    assert np.trace(counts) == kept - 1 and counts[:2, :2].sum() == kept and counts[:-1, -1].sum() == 1
    assert content["best_f1"]["objects"] == objects and content["confusion"]["min_score"] == results[-2]["score"]
    assert len(content["worst"]) == 2 and "taken for another class" in content["worst"][0]["reason"]
    assert set(content["best_f1_per_class"]) == {"box", "ball"}
    f1 = 2 * (kept - 1) / (kept + objects)
    assert lines[0].startswith(f"best F1 on val: {f1:.3f} for scores from {results[-2]['score']:.2f} ")
    assert pixels_of(tmp_path / "plots" / "worst.jpg", WRONG) > 50 < pixels_of(tmp_path / "plots" / "worst.jpg", RIGHT)


def test_plots_where_all_is_right_or_nothing_is(toys, tmp_path):
    val = load_split(toys, "val")
    save_evaluation(tmp_path, val, [])
    assert (tmp_path / "worst.jpg").exists()
    assert save_evaluation(tmp_path, val, []) == ["val: not one object was found, so there is no score to recommend."]
    assert save_evaluation(tmp_path, val, perfect(val))[0].startswith("best F1 on val: 1.000 ")
    assert not (tmp_path / "worst.jpg").exists()  # an older one would mislead


def test_a_split_without_objects_has_no_curves(toys, tmp_path):
    val = load_split(toys, "val")
    empty = val.take([])
    assert save_evaluation(tmp_path / "none", empty, []) == ["val has no objects: there are no curves to draw."]
    assert not (tmp_path / "none").exists()


def test_what_is_drawn_is_titled_by_the_data_set_and_large_enough_to_see(configure, toys, tmp_path, monkeypatch):
    titles = []
    grid = report.grid
    for module in (report, sheet, mistakes):
        monkeypatch.setattr(
            module, "grid", lambda *args, **options: titles.append(options.get("title")) or grid(*args, **options)
        )
    for chart in ("confusion", "precision_recall"):
        monkeypatch.setattr(mistakes.charts, chart, lambda *_, title, **__: titles.append(title))
    run, val = prepare(configure(), tmp_path), load_split(toys / "annotations" / "..", "val")
    save_inputs(run, tmp_path / "inputs_val.png", split="val")
    sheet.save_predictions(Spots(), run.resize, val, tmp_path / "val_predictions.png")
    monkeypatch.setattr(mistakes, "atomic_file", lambda path: nullcontext(path))
    save_evaluation(tmp_path, val, [])
    of = f"{toys.name}, val"
    whole = [title for title in titles if title]
    assert whole[:2] == [f"{of}: what the network sees, only resized", f"{of}: detections with a score from 0.50"]
    assert whole[2:4] == [of, of] and whole[4].startswith(f"worst of {of}: left the truth")
    with Image.open(tmp_path / "val_predictions.png") as picture:  # four of 64 x 96
        assert picture.height > 2 * sheet.LARGE_CELL and picture.width > 2 * 600
    with Image.open(tmp_path / "worst.jpg") as picture:
        assert picture.format == "JPEG" and picture.width > 4 * 400


def test_the_name_of_a_data_set_is_that_of_its_folder(toys, tmp_path, monkeypatch):
    file, images = toys / "annotations" / "instances_val.json", toys / "images" / "val"
    assert load_split(file, "val").title == load_split(toys, "val", annotations=file, images=images).title
    monkeypatch.chdir(toys)
    assert load_split(".", "train").title == f"{toys.name}, train" == load_split(file, "train").take([0]).title
    assert replace(load_split("."), data_set="").title == "train"


def test_boxes_lie_on_a_picture_of_another_size_than_declared(toys, tmp_path, monkeypatch):
    """Truth and results are in the declared size; the file may hold the image at twice that."""
    val = load_split(toys, "val")
    for path in val.paths:
        with Image.open(path) as picture:
            grown = picture.resize((2 * picture.width, 2 * picture.height))
        grown.save(tmp_path / path.name)
    given = []
    monkeypatch.setattr(
        mistakes, "draw_boxes", lambda picture, boxes, *_, **__: given.append((picture, boxes)) or picture
    )
    moved = replace(val, paths=[tmp_path / path.name for path in val.paths])
    for split in (val, moved):
        save_evaluation(tmp_path / "plots", split, [])
    half = len(given) // 2
    assert half == 8
    for (a, boxes), (b, others) in zip(given[:half], given[half:], strict=True):
        assert a.size == b.size and np.allclose(boxes, others)


def test_the_order_of_the_sampler_is_left_as_it_is(configure, tmp_path):
    run = prepare(configure(), tmp_path)
    before = list(itertools.chain.from_iterable(run.loader.batch_sampler))
    save_inputs(run, tmp_path / "inputs_train.png")
    assert list(itertools.chain.from_iterable(run.loader.batch_sampler)) == before
