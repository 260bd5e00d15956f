"""Images: the right pixels have the right colours, nothing leaves the image, nothing given is changed."""

import ast
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from aweigh.classes import Classes, KeypointSet
from aweigh.detections import Detections
from aweigh.errors import UsageError
from aweigh.geometry.boxes import intersections
from aweigh.visualise import labels
from aweigh.visualise.charts import confusion, curves, feature_reuse, precision_recall
from aweigh.visualise.colours import INK, PALETTE, PAPER, luminance
from aweigh.visualise.labels import font_of, label_places
from aweigh.visualise.pictures import as_picture, draw_boxes, draw_detections, draw_heat_map, draw_objects
from aweigh.visualise.sheet import grid

CLASSES = Classes.from_names(["cat", "dog", "a class with quite a long name"])
GREY = np.full((120, 160, 3), 128, np.uint8)


def detections(boxes: list[list[float]], scores: list[float], labels: list[int], **rest: np.ndarray) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(labels, np.int64),
        classes=CLASSES,
        size_hw=(120, 160),
        **rest,
    )


def objects(boxes: list[list[float]], labels: list[int], **rest: np.ndarray | None) -> dict[str, np.ndarray | None]:
    return {"boxes": np.array(boxes, np.float32).reshape(-1, 4), "labels": np.array(labels, np.int64), **rest}


def changed(picture: Image.Image) -> np.ndarray:
    """`[H, W]` bool: which pixels of the grey image were painted."""
    return (np.asarray(picture) != 128).any(axis=2)


def test_the_box_is_drawn_on_its_own_outermost_pixels() -> None:
    picture = draw_detections(GREY, detections([[20, 60, 80, 100]], [0.9], [1]))
    assert picture.size == (160, 120) and picture.mode == "RGB"
    pixels = np.asarray(picture)
    for x, y in ((20, 80), (79, 80), (50, 99), (20, 99), (79, 99)):
        assert tuple(pixels[y, x]) == PALETTE[1]
    assert not changed(picture)[70:90, 30:70].any()  # the inside is left as it is
    assert not changed(picture)[:, 100:].any()
    assert (GREY == 128).all()


def test_the_label_is_above_the_box_in_its_colour_and_can_be_read() -> None:
    pixels = np.asarray(draw_detections(GREY, detections([[20, 60, 150, 100]], [0.9], [0])))
    label = pixels[44:58, 21:70].reshape(-1, 3).astype(int)
    fill = np.abs(label - np.array(PALETTE[0])).sum(1) < 40
    letters = np.abs(label - np.array(INK)).sum(1) < 120
    assert fill.mean() > 0.4 and letters.mean() > 0.03


def test_letters_stand_out_from_every_colour_of_the_palette() -> None:
    for colour in PALETTE:
        light = luminance(colour)
        contrast = max((light + 0.05) / (luminance(INK) + 0.05), (luminance(PAPER) + 0.05) / (light + 0.05))
        assert contrast >= 4.5  # what WCAG 2.1 asks of text


def test_colours_of_classes_differ_and_repeat_after_the_palette() -> None:
    assert len(set(PALETTE)) == len(PALETTE) == 24
    distances = [math.dist(a, b) for i, a in enumerate(PALETTE) for b in PALETTE[:i]]
    assert min(distances) > 40
    many = Classes.numbered(60)
    box, score = np.array([[20, 60, 80, 100]], np.float32), np.ones(1, np.float32)
    pictures = [
        np.asarray(draw_detections(GREY, Detections(box, score, np.array([k]), classes=many)))[80, 20]
        for k in (3, 3 + 24)
    ]
    assert (pictures[0] == pictures[1]).all()


def test_labels_stay_inside_the_picture_and_apart() -> None:
    generator = np.random.default_rng(0)
    corners = [(int(x), int(y), int(x) + 30, int(y) + 20) for x, y in generator.integers(0, [600, 440], (12, 2))]
    corners += [(0, 0, 5, 5), (630, 470, 639, 479), (0, 0, 639, 479)]
    places = label_places(["a label 0.50"] * len(corners), corners, font_of(14), 2, (640, 480))
    assert all(places)  # there is room for all
    for x0, y0, x1, y1 in places:
        assert 0 <= x0 < x1 <= 640 and 0 <= y0 < y1 <= 480
    assert not overlapping(places)


def overlapping(places: list[tuple[float, float, float, float]]) -> bool:
    overlaps = intersections(np.array(places), np.array(places))
    return bool((overlaps - np.diag(overlaps.diagonal())).any())


@pytest.mark.parametrize("size", [(200, 150), (640, 480), (4000, 3000)])
def test_in_a_crowd_only_the_best_have_labels_and_most_of_the_picture_is_seen(size: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    shares = generator.random((400, 4)) * [0.9, 0.9, 0.1, 0.1]
    corners = (np.concatenate([shares[:, :2], shares[:, :2] + shares[:, 2:] + 0.02], axis=1) * [*size, *size]).tolist()
    font = font_of(max(10, min(size) // 38))
    places = label_places(["a label 0.50"] * len(corners), corners, font, 2, size)
    shown = [place for place in places if place is not None]
    assert places[0] is not None and 2 < len(shown) < 60 and not overlapping(shown)
    covered = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in shown)
    assert 0.06 < covered / (size[0] * size[1]) <= labels.SHARE
    assert places.index(None) < 80  # those without are the worse ones
    (only,) = label_places(["a label that is long"], corners[:1], font_of(40), 2, (60, 50))
    assert only is not None  # the best has one, whatever it hides


def test_small_objects_of_a_large_image_are_seen_inside_their_boxes() -> None:
    corners = np.array([[x, y, x + 24, y + 24] for x in range(10, 1900, 60) for y in range(30, 1900, 60)], np.float32)
    detections = Detections.of(corners, [0.9] * len(corners), [0] * len(corners), size_hw=(2000, 2000))
    drawn = np.asarray(draw_detections(np.full((2000, 2000, 3), 7, np.uint8), detections))
    inside = [drawn[y + 5 : y + 19, x + 5 : x + 19] for x, y in corners[:, :2].astype(int).tolist()]
    assert np.mean([(part == 7).all() for part in inside]) > 0.9  # but those under a label


def test_of_a_crowd_only_the_first_labels_are_weighed_against_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    overlaps = labels._overlaps

    def counted(places: np.ndarray, others: np.ndarray) -> np.ndarray:
        compared.append(len(places) * len(others))
        return overlaps(places, others)

    monkeypatch.setattr(labels, "_overlaps", counted)
    corners = [(100, 200, 160, 260)] * 5000
    places = label_places(["cat"] * len(corners), corners, ImageFont.load_default(12), 2, (640, 480))
    assert len(places) == 5000 and sum(compared) < 2 * 12 * labels.MOST_PLACED**2  # of 25 million pairs
    assert places[0][:2] == (100, 200 - round(1.35 * 12))  # its usual place, above the box
    assert 1 < len([place for place in places if place]) <= 12 and places[-1] is None


def test_low_scores_are_faint() -> None:
    """How far the middle of the left side of the box is from the grey ground, as a share of the way to its colour."""
    strength = []
    for score in (0.02, 0.2, 0.4, 0.5, 0.95):
        pixel = np.asarray(draw_detections(GREY, detections([[20, 60, 80, 100]], [score], [1])))[80, 20].astype(float)
        strength.append((pixel - 128) @ (np.array(PALETTE[1]) - 128.0) / ((np.array(PALETTE[1]) - 128.0) ** 2).sum())
    assert strength[0] > 0.15 and strength[3:] == [1, 1] and (np.diff(strength[:4]) > 0.05).all()
    shapes = {"masks": np.ones((1, 28, 28), np.float32), "keypoints": np.ones((1, 17, 3), np.float32) * [50, 80, 1]}
    shapes["keypoints"] = shapes["keypoints"].astype(np.float32)
    faint, sure = (
        np.asarray(draw_detections(GREY, detections([[20, 60, 80, 100]], [score], [1], **shapes))).astype(int)
        for score in (0.02, 0.9)
    )
    for y, x in ((90, 30), (80, 50)):  # in the mask, and the dot of all keypoints
        assert 0 < np.abs(faint[y, x] - 128).sum() < 0.6 * np.abs(sure[y, x] - 128).sum()


def test_the_lowest_scores_are_left_out_on_demand() -> None:
    found = detections([[10, 40, 50, 90], [90, 40, 140, 90]], [0.2, 0.8], [0, 1])
    picture = draw_detections(GREY, found, min_score=0.5)
    assert not changed(picture)[:, :60].any() and changed(picture)[:, 90:140].any()


def test_the_best_detection_is_on_top() -> None:
    same = [[20, 60, 80, 100], [20, 60, 80, 100]]
    for scores, best in (([0.9, 0.5], 0), ([0.5, 0.9], 1)):
        pixels = np.asarray(draw_detections(GREY, detections(same, scores, [0, 1])))
        assert tuple(pixels[80, 20]) == PALETTE[best]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 5)])
def test_tiny_and_narrow_pictures(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    box = [[0, 0, size[1], size[0]]]
    shapes = {"masks": np.ones((1, 28, 28), np.float32), "keypoints": np.ones((1, 17, 3), np.float32)}
    found = detections(box, [0.5], [0], **shapes)
    assert draw_detections(image, replace(found, size_hw=size)).size == size[::-1]
    annotated = objects(box, [0], ignore=np.array([True]), masks=np.ones((1, *size), bool))
    assert draw_objects(image, annotated, CLASSES).size == size[::-1]


def test_nothing_found_leaves_the_picture_as_it_is() -> None:
    assert not changed(draw_detections(GREY, Detections.empty(CLASSES))).any()
    assert not changed(draw_objects(GREY, objects([], []), CLASSES)).any()


def test_boxes_that_leave_the_picture_or_are_empty() -> None:
    boxes = [[-50, -50, 500, 500], [150, 110, 400, 400], [30, 30, 30, 30], [200, 200, 300, 300], [60, 60, 50, 40]]
    assert draw_detections(GREY, detections(boxes, [0.9] * 5, [0] * 5)).size == (160, 120)


def test_masks_are_translucent_inside_and_firm_at_the_edge() -> None:
    found = detections([[40, 50, 100, 90]], [0.9], [1], masks=np.ones((1, 28, 28), np.float32))
    picture = draw_detections(GREY, found)
    inside = np.asarray(picture)[70, 70].astype(int)
    assert 30 < np.abs(inside - 128).sum() < np.abs(np.array(PALETTE[1]) - 128).sum()
    assert not changed(picture)[100:, :].any()
    with pytest.raises(UsageError, match="do not fit"):
        draw_detections(GREY[:60], found)

    bitmap = np.zeros((1, 120, 160), bool)
    bitmap[0, 50:90, 40:100] = True
    annotation = objects([[40, 50, 100, 90]], [1], masks=bitmap)
    annotated = np.asarray(draw_objects(GREY, annotation, CLASSES))
    assert (annotated[60:88, 60:98] == np.asarray(picture)[60:88, 60:98]).all()
    empty = annotation | {"masks": np.zeros_like(bitmap)}  # an object without a mask
    assert not changed(draw_objects(GREY, empty, CLASSES))[60:88, 60:98].any()
    with pytest.raises(UsageError, match="do not fit"):
        draw_objects(GREY, annotation | {"masks": bitmap[:, :60]})


def test_each_mask_has_the_colour_of_its_class_and_the_best_is_on_top() -> None:
    found = detections(
        [[20, 20, 60, 100], [40, 20, 80, 100]], [0.6, 0.9], [1, 0], masks=np.ones((2, 28, 28), np.float32)
    )
    pixels = np.asarray(draw_detections(GREY, found)).astype(int)
    alone, both, best = pixels[60, 30], pixels[60, 50], pixels[60, 70]
    towards = [np.array(PALETTE[label]) - 128 for label in (1, 0)]
    assert (alone - 128) @ towards[0] > 0 and (best - 128) @ towards[1] > 0
    assert np.abs(both - best).sum() < np.abs(both - alone).sum()


def test_masks_of_hundreds_of_objects_are_drawn_in_the_memory_of_one(
    memory_needed: Callable[[Callable[[], object]], int],
) -> None:
    """On 12 megapixels, of which the first object fills all: 6 GB as bitmaps."""
    boxes = np.array([[100, 100, 180, 190]] * 500, np.float32)
    boxes[0] = [0, 0, 4000, 3000]
    found = Detections(
        boxes,
        np.linspace(0.9, 0.1, 500, dtype=np.float32),
        np.zeros(500, np.int64),
        classes=CLASSES,
        size_hw=(3000, 4000),
        masks=np.random.default_rng(0).random((500, 28, 28), np.float32),
    )
    image = Image.new("RGB", (4000, 3000), (128, 128, 128))
    assert memory_needed(lambda: draw_detections(image, found)) < 500 * 2**20


def test_keypoints_and_the_skeleton() -> None:
    points = np.array([[[30, 60, 1], [90, 60, 1], [60, 100, 0]]], np.float32)  # the third was not seen
    found = detections([[20, 50, 100, 110]], [0.9], [0], keypoints=points)
    dots, joined = draw_detections(GREY, found), draw_detections(GREY, found, skeleton=[(0, 1), (1, 2)])
    assert changed(dots)[60, 30] and changed(dots)[60, 90] and not changed(dots)[100, 60]
    assert not changed(dots)[60, 60] and changed(joined)[60, 60]
    assert not changed(joined)[80, 75]  # no line to a point that was not seen
    known = replace(found, keypoint_set=KeypointSet(("a", "b", "c"), joints=((0, 1),)))
    assert (np.asarray(draw_detections(GREY, known)) == np.asarray(joined)).all()


def test_regions_to_ignore_are_hatched_and_dashed() -> None:
    annotated = objects([[20, 40, 120, 110]], [0], ignore=None)
    ignored = annotated | {"ignore": np.array([True])}
    plain, hatched = draw_objects(GREY, annotated, CLASSES), draw_objects(GREY, ignored, CLASSES)
    assert not changed(plain)[60:100, 40:100].any()
    assert 0.05 < changed(hatched)[60:100, 40:100].mean() < 0.6
    edge = np.asarray(hatched)[109, 20:120]
    assert len(np.unique(edge, axis=0)) > 1
    assert draw_objects(GREY, annotated).size == (160, 120)  # without names


def test_floating_and_picture_input_give_the_same_picture() -> None:
    found = detections([[20, 60, 80, 100]], [0.9], [1])
    image = torch.randint(0, 256, (3, 120, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    from_bytes = np.asarray(draw_detections(image, found))
    assert (np.asarray(draw_detections(image.float() / 255, found)) == from_bytes).all()
    picture = as_picture(image)
    assert (np.asarray(draw_detections(picture, found)) == from_bytes).all()
    assert (np.asarray(picture) == image.permute(1, 2, 0).numpy()).all()
    pixels = image.permute(1, 2, 0).numpy()
    for array in (pixels, pixels.astype(np.float32) / 255):
        assert (np.asarray(draw_detections(array, found)) == from_bytes).all()
    with pytest.raises(UsageError, match=r"\(H, W, 3\)"):
        as_picture(pixels[..., :1])
    with pytest.raises(UsageError, match=r"\[3, H, W\]"):
        as_picture(image[:1])


def test_heat_map_shows_where_it_is_warm() -> None:
    heat = np.zeros((6, 8), np.float32)
    heat[4, 2] = 1.0
    picture = draw_heat_map(GREY, heat)
    assert picture.size == (160, 120)
    assert changed(picture)[90, 50] and not changed(picture)[10, 150]
    with pytest.raises(UsageError, match=r"\[h, w\]"):
        draw_heat_map(GREY, heat[None])
    assert not changed(draw_heat_map(GREY, np.full((2, 2), math.nan))).any()


def test_only_what_draws_a_chart_or_a_heat_map_imports_matplotlib() -> None:
    for file in Path(labels.__file__).parent.glob("*.py"):
        imported = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert "matplotlib" not in "".join(map(ast.unparse, imported)), file


def test_grid_holds_every_picture_once() -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250)]
    sizes = [(60, 40), (40, 60), (60, 40), (30, 30), (200, 100)]
    pictures = [Image.new("RGB", size, colour) for size, colour in zip(sizes, colours)]
    sheet = grid(pictures, columns=2, captions=["a caption that is far too long for its cell " * 9] * 5)
    pixels = np.asarray(sheet).reshape(-1, 3)
    assert all((pixels == colour).all(1).sum() > 1000 for colour in colours)
    assert grid(pictures[:1]).size[0] < sheet.size[0]
    assert grid(pictures, columns=5, cell_wh=(50, 50)).size[0] < 320
    big = [Image.new("RGB", (3000, 2000))] * 2
    assert grid(big, columns=2).size[0] < 2600
    with pytest.raises(UsageError, match="at least one"):
        grid([])
    with pytest.raises(UsageError, match="5 images but 1 caption"):
        grid(pictures, captions=["one"])


def test_curves_of_a_log(tmp_path: Path) -> None:
    rows = [
        {"epoch": e, "loss": 2.0 / e, "val_loss": math.nan if e == 2 else 2.5 / e, "lr": 0.1, "kind": "epoch"}
        | ({"AP": 0.1 * e, "APl": -1.0, "val": {"AP50": 0.2 * e}, "per_class": {"cat": {"AP": 0.3}}} if e > 1 else {})
        for e in range(1, 6)
    ]
    before = dict(matplotlib.rcParams)
    path = curves(iter(rows), tmp_path / "plots" / "curves.png")
    assert path == tmp_path / "plots" / "curves.png"
    with Image.open(path) as picture:
        wide = picture.size[0]
        assert picture.size[0] > 1.5 * picture.size[1]
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    with Image.open(curves([{"epoch": 1, "loss": 1.0}], tmp_path / "losses.png")) as picture:
        assert picture.size[0] < wide  # nothing to show on the right
    curves(rows, tmp_path / "curves.svg")
    text = (tmp_path / "curves.svg").read_text()
    assert "val_loss" in text and "val/AP50" in text and "APl" not in text and "per_class" not in text
    assert dict(matplotlib.rcParams) == before
    with pytest.raises(UsageError, match="neither a loss nor an AP"):
        curves([{"epoch": 1, "lr": 0.1}], tmp_path / "none.png")


def test_on_real_photographs(shared: Path) -> None:
    files = sorted((shared / "data" / "coco_tiny" / "images").glob("*.jpg"))[:3]
    for file in files:
        with Image.open(file) as photo:
            width, height = photo.size
            found = detections([[0.1 * width, 0.2 * height, 0.7 * width, 0.9 * height]], [0.5], [2])
            drawn = draw_detections(photo, found)
        assert drawn.size == (width, height)


def test_boxes_in_ones_own_colours_with_captions_where_there_are_any() -> None:
    boxes = np.array([[20.0, 60, 80, 100], [20, 60, 80, 100], [100, 20, 150, 60]])
    picture = draw_boxes(GREY, boxes, [PALETTE[0], PALETTE[1], PALETTE[2]], ["", "", ""])
    pixels = np.asarray(picture)
    assert tuple(pixels[80, 20]) == PALETTE[0]  # the first is on top
    assert not changed(picture)[:55, :90].any()  # no label
    assert changed(draw_boxes(GREY, boxes, [PALETTE[0]] * 3, ["cat", "", ""]))[:55, :90].any()
    dashed = draw_boxes(GREY, boxes[:1], [PALETTE[0]], [""], ignored=[True])
    assert changed(dashed)[65:95, 30:70].any() and not changed(picture)[65:95, 30:70].any()
    assert draw_boxes(GREY, boxes[:0], [], []).size == (160, 120)
    with pytest.raises(UsageError, match="3 boxes, 1 colour and 3 captions"):
        draw_boxes(GREY, boxes, [PALETTE[0]], [""] * 3)


def test_captions_of_a_grid_have_two_lines_and_a_title_is_above() -> None:
    picture = Image.new("RGB", (300, 100), (250, 0, 0))
    one = grid([picture], captions=["short"])
    two = grid([picture], captions=["a caption that needs two lines of this cell, as long as it is"])
    longer = grid([picture], captions=["a caption that is far too long for any two lines " * 9])
    assert one.height < two.height == longer.height
    titled = grid([picture], captions=["short"], title="a title")
    extra = titled.height - one.height
    assert extra > 10 and (np.asarray(titled)[extra:] == np.asarray(one)).all()
    assert (np.asarray(titled)[:extra] < 128).any()


def test_curves_over_steps(tmp_path: Path) -> None:
    steps = [
        {"kind": "step", "step": s, "epoch": 1, "loss": 1 + 9 / s, "loss_centerness": 0.6, "lr": 0.1 / s}
        for s in range(1, 61)
    ]
    ends = [{"kind": "epoch", "epoch": e, "step": 20 * e, "loss": 1.0, "loss_centerness": 0.6} for e in (1, 2, 3)]
    curves([*steps, *ends], tmp_path / "curves.svg")
    text = (tmp_path / "curves.svg").read_text()
    assert "step (20 in an epoch)" in text and "Learning rate" in text and "cannot reach 0" in text
    assert "grad_norm" not in text
    curves(ends, tmp_path / "epochs.svg")
    text = (tmp_path / "epochs.svg").read_text()
    assert "in an epoch" not in text and "Learning rate" not in text
    curves(steps[:1], tmp_path / "first.png")  # before the first epoch has ended


def curve(name: str, right: bool = True) -> SimpleNamespace:
    numbers = np.array([0.9, 0.5]) if right else np.zeros(0)
    return SimpleNamespace(
        name=name, AP=0.7, curve=np.linspace(1, 0, 101), scores=numbers, precision=numbers, recall=numbers, f1=numbers,
        best=0 if right else -1,
    )  # fmt: skip


def test_precision_recall_chart(tmp_path: Path) -> None:
    entries = [curve("cat"), curve("dog", right=False), SimpleNamespace(**{**vars(curve("absent")), "AP": -1.0})]
    precision_recall(entries, curve("all classes"), tmp_path / "pr.svg", iou=0.5)
    text = (tmp_path / "pr.svg").read_text()
    for part in ("cat: AP50 0.700", "all classes: AP50 0.700", "best F1 0.90 from score 0.90", "dog, nothing right"):
        assert part in text
    assert "absent" not in text  # has no objects
    precision_recall([curve("cat")], curve("all classes"), tmp_path / "one.svg", iou=0.5)
    assert "all classes" not in (tmp_path / "one.svg").read_text()


def test_of_many_classes_the_chart_names_the_ten_best_and_the_ten_worst(tmp_path: Path) -> None:
    entries = [SimpleNamespace(**{**vars(curve(f"class {k}")), "AP": k / 100}) for k in range(35)]
    entries[20].AP = -1.0  # has no objects
    precision_recall(entries[::2] + entries[1::2], curve("all classes"), tmp_path / "many.svg", iou=0.5)
    text = (tmp_path / "many.svg").read_text()
    named = [k for k in range(35) if f"class {k}: AP50 {k / 100:.3f}" in text]
    assert named == [*range(10), *range(25, 35)]
    assert "the 14 classes between" in text and "all classes: AP50 0.700" in text
    precision_recall(entries[:11], curve("all classes"), tmp_path / "eleven.svg", iou=0.5)
    assert "the 1 class between" in (tmp_path / "eleven.svg").read_text()


def test_confusion_chart(tmp_path: Path) -> None:
    counts = np.array([[1234, 0, 2], [3, 55, 0], [413, 0, 0]])
    confusion(counts, ["cat", "dog"], tmp_path / "confusion.svg", min_score=0.43, iou=0.5)
    text = (tmp_path / "confusion.svg").read_text()
    for part in ("score from 0.43, IoU from 0.5", "1,234", "100%", "missed", "nothing there", "found as", "truth"):
        assert part in text
    assert "25%" in text  # false positives: 413 of the 1,650 detections of cats
    assert "most mistakes" not in text
    with pytest.raises(UsageError, match=r"need a matrix \[3, 3\]"):
        confusion(np.zeros((91, 91), dtype=int), ["cat", "dog"], tmp_path / "no.png", min_score=0.5, iou=0.5)


def test_false_positives_are_orange_as_a_share_of_their_column(tmp_path: Path) -> None:
    counts = np.array([[50, 0, 0], [0, 50, 0], [150, 0, 0]])
    confusion(counts, ["cat", "dog"], tmp_path / "confusion.png", min_score=0.5, iou=0.5)
    with Image.open(tmp_path / "confusion.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    rows, columns = np.nonzero((pixels[..., 0] > 150) & (pixels[..., 0] - pixels[..., 2] > 100))
    assert len(rows) > 3000 and rows.min() > 0.5 * len(pixels) and columns.max() < 0.5 * pixels.shape[1]


def test_confusion_chart_of_many_classes_lists_the_worst_twenty(tmp_path: Path) -> None:
    counts = np.zeros((42, 42), dtype=int)
    counts[range(41), range(41)], counts[range(41), 41], counts[41, range(41)] = 7, range(41), 5
    counts[40, 3] = 2
    confusion(counts, [f"class {k}" for k in range(41)], tmp_path / "big.svg", min_score=0.5, iou=0.5)
    text = (tmp_path / "big.svg").read_text()
    assert "The classes with the most mistakes" in text
    assert "7 right, 40 missed, 2 taken for class 3; 5 where nothing is" in text
    assert "7 right, 21 missed; 5 where nothing is" in text and "7 right, 20 missed" not in text
    assert float(re.findall(r'<svg [^>]*width="([\d.]+)pt"', text)[0]) / 72 <= 20  # inches, at 150 pixels each


def test_feature_reuse_chart(tmp_path: Path) -> None:
    weights, channels = np.array([[0.5, np.nan], [0.2, 0.1]]), np.array([[24, 0], [12, 6]])
    feature_reuse(weights, channels, ["conv1", "stage2.0"], ["stage2.0", "stage2.1"], tmp_path / "reuse.svg")
    text = (tmp_path / "reuse.svg").read_text()
    for part in ("conv1", "stage2.1", "Mean absolute weight", "Channels read directly", "block that reads"):
        assert part in text
    with pytest.raises(UsageError, match=r"two matrices \(3, 2\)"):
        feature_reuse(weights, channels, ["a", "b", "c"], ["d", "e"], tmp_path / "no.png")
