"""Oriented boxes and polygons over the edge of their image: the box is that of what can be seen of them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.annotated import picture

from aweigh.annotations.outlines import clip_polygon, visible_box
from aweigh.annotations.problems import CLIPPED
from aweigh.annotations.split import LABELS_LOST, REVIEWED, Split
from aweigh.cli.main import run
from aweigh.edit.clean import clean
from aweigh.inspect.doctor import examine
from aweigh.layouts.load import load_split
from aweigh.layouts.save import save_dataset

DIAMOND = np.array([[30.0, 15], [40, 5], [50, 15], [40, 25]])  # its middle on the right edge of an image of 40 x 30
SEEN = [30, 5, 40, 25]


def area(points: np.ndarray) -> float:
    x, y = points.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def test_a_polygon_is_cut_at_the_edges() -> None:
    size = np.array([40.0, 30.0])
    assert area(clip_polygon(DIAMOND, size)) == pytest.approx(100)
    assert visible_box([DIAMOND], size).tolist() == SEEN
    beside = DIAMOND + np.array([16, 0])
    assert len(clip_polygon(beside, size)) == 0 and visible_box([beside], size).tolist() == [0, 0, 0, 0]
    assert visible_box([DIAMOND, DIAMOND - [[20, 0]]], size).tolist() == [10, 5, 40, 25]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-60, 99), st.floats(-60, 99)), min_size=3, max_size=3))
def test_what_is_cut_lies_inside_and_loses_what_lies_outside(corners: list[tuple[float, float]]) -> None:
    """Triangles, held against the share of their random points that lie in the image."""
    triangle, size = np.array(corners), np.array([40.0, 30.0])
    cut = clip_polygon(triangle, size)
    assert (cut >= 0).all() and (cut <= size).all()
    weights = np.random.default_rng(0).dirichlet([1, 1, 1], 4000)
    points = weights @ triangle
    share = ((points >= 0) & (points <= size)).all(axis=1).mean()
    assert (area(cut) if len(cut) else 0.0) == pytest.approx(share * area(triangle), abs=0.04 * area(triangle) + 1e-6)


def dota(root: Path, lines: list[str]) -> Split:
    picture(root / "images" / "a.png")
    (root / "labelTxt").mkdir(parents=True, exist_ok=True)
    (root / "labelTxt" / "a.txt").write_text("\n".join(lines))
    return load_split(root)


def quad(corners: np.ndarray) -> str:
    return " ".join(f"{value:g}" for value in corners.reshape(-1)) + " ship 0"


FAR = DIAMOND + np.array([8, 22])  # the upright box round it overlaps the image, the oriented one does not


def test_an_oriented_box_over_the_edge(tmp_path: Path) -> None:
    """The counts of the table, of the findings and of the files that are written agree."""
    tilted = np.array([[30.0, 2], [44, -8], [48, -2], [34, 8]])  # its lower corner is the one inside
    split = dota(tmp_path / "set", [quad(DIAMOND), quad(DIAMOND - [[20, 0]]), quad(FAR), quad(tilted)])
    assert split.boxes[:2].tolist() == [SEEN, [10, 5, 30, 25]]
    assert split.boxes[2].tolist() == pytest.approx([30, 0, 40, 8], abs=1e-4)
    assert split.source_boxes_xywh[0].tolist() == [30, 5, 10, 20]
    examination = examine({"train": split}, pictures=False)
    found = {one.kind: one for one in examination.findings}
    assert examination.splits[0].boxes == 3
    assert (found["box over the edge"].count, found["box over the edge"].of) == (2, 4)
    assert found["box outside the image"].count == 1
    assert sum(problem.action == CLIPPED for problem in split.problems) == 2
    for layout in ("coco", "voc", "yolo"):
        save_dataset({"train": split}, tmp_path / layout, layout)
        again = load_split(tmp_path / layout)
        assert again.boxes == pytest.approx(split.boxes, abs=1e-3), layout
        assert not [problem for problem in again.problems if problem.kind == "box over the edge"]
    assert len(clean({"train": split}, examination).splits["train"].boxes) == 3
    written = json.loads((tmp_path / "coco" / "annotations" / "instances_train.json").read_text())["annotations"]
    assert [entry["bbox"] for entry in written[:2]] == [[30, 5, 10, 20], [10, 5, 20, 20]]


def test_a_picture_whose_only_oriented_box_is_outside(tmp_path: Path) -> None:
    picture(tmp_path / "set" / "images" / "b.png")
    (tmp_path / "set" / "labelTxt").mkdir(parents=True)
    (tmp_path / "set" / "labelTxt" / "b.txt").write_text(quad(DIAMOND))
    split = dota(tmp_path / "set", [quad(FAR)])
    assert split.reviewed.tolist() == [LABELS_LOST, REVIEWED] and np.diff(split.first).tolist() == [0, 1]


def test_a_rotated_voc_box_over_the_edge(tmp_path: Path) -> None:
    """A square of 10 root 2, turned by 45 degrees: the diamond."""
    side = 10 * math.sqrt(2)
    box = f"<cx>40</cx><cy>15</cy><w>{side}</w><h>{side}</h><angle>{math.pi / 4}</angle>"
    far = box.replace("<cx>40<", "<cx>48<").replace("<cy>15<", "<cy>37<")
    objects = "".join(f"<object><name>dog</name><robndbox>{one}</robndbox></object>" for one in (box, far))
    picture(tmp_path / "JPEGImages" / "a.png")
    (tmp_path / "Annotations").mkdir()
    size = "<size><width>40</width><height>30</height></size>"
    (tmp_path / "Annotations" / "a.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    split = load_split(tmp_path)
    assert split.boxes == pytest.approx(np.array([SEEN]), abs=1e-3)
    kinds = [problem.kind for problem in split.problems]
    assert kinds == ["rotated box", "rotated box", "box over the edge", "box outside the image"]


def test_a_yolo_polygon_over_the_edge_is_cut_not_pushed(tmp_path: Path) -> None:
    """Written again, a polygon covers what it covered; corners outside are not moved to the edge."""
    picture(tmp_path / "set" / "images" / "train" / "a.png")
    (tmp_path / "set" / "labels" / "train").mkdir(parents=True)
    tilted = np.array([[30.0, 2], [44, -8], [48, -2], [34, 8]])
    words = " ".join(f"{value:.6f}" for value in (tilted / [40, 30]).reshape(-1))
    (tmp_path / "set" / "labels" / "train" / "a.txt").write_text(f"0 {words}")
    split = load_split(tmp_path / "set")
    assert split.boxes == pytest.approx(np.array([[30, 0, 40, 8]]), abs=1e-3)
    assert run(["data", "convert", str(tmp_path / "set"), "--to", "yolo", "--out", str(tmp_path / "out")]) == 0
    again = load_split(tmp_path / "out")
    assert again.masks is not None and split.masks is not None
    seen = area(clip_polygon(tilted, np.array([40.0, 30.0])))
    assert area(again.masks.polygons(0)[0]) == pytest.approx(seen, rel=1e-3)
    assert again.boxes == pytest.approx(split.boxes, abs=1e-3)


def test_the_case_of_a_mask_beside_a_whole_pixel_box(shared: Path, tmp_path: Path) -> None:
    source = str(shared / "cases" / "labelme_mask_box")
    assert run(["data", "convert", source, "--to", "yolo", "--out", str(tmp_path / "keep")]) == 0
    kept = load_split(tmp_path / "keep")
    assert kept.masks is not None and kept.boxes == pytest.approx(np.array([[30.8, 20.3, 90.2, 60.4]]), abs=1e-3)
    assert run(["data", "convert", source, "--to", "yolo", "--masks", "drop", "--out", str(tmp_path / "drop")]) == 0
    dropped = load_split(tmp_path / "drop")
    assert dropped.masks is None and dropped.boxes == pytest.approx(np.array([[30, 20, 91, 61]]), abs=1e-3)
