"""Mosaics are what their annotations say, hold small shapes that cover no other, and are the same each time."""

from pathlib import Path

import numpy as np
import pytest

from aweigh.cli.main import run
from aweigh.errors import UsageError
from aweigh.geometry.boxes import pairwise_iou
from aweigh.images.reader import read_image
from aweigh.layouts.load import load_split
from aweigh.scenes.mosaic import SIDES, render_mosaic, write_mosaics
from aweigh.scenes.shapes import SHAPES


def test_a_mosaic_depends_on_its_seed_alone() -> None:
    one, same, other = (render_mosaic(seed, side=500, objects=30) for seed in (3, 3, 4))
    assert np.array_equal(one.image, same.image) and np.array_equal(one.boxes, same.boxes)
    assert not np.array_equal(one.image, other.image) and one.image.shape == (500, 500, 3)


def test_shapes_are_small_whole_and_where_the_boxes_say() -> None:
    drawn = render_mosaic(5, side=900, objects=120)
    empty = render_mosaic(5, side=900, objects=0)
    assert 90 < len(drawn.labels) <= 120 and set(drawn.labels.tolist()) == {*range(len(SHAPES))}
    changed = (np.abs(drawn.image.astype(int) - empty.image) > 20).any(axis=2)
    for x0, y0, x1, y1 in drawn.boxes.astype(int).tolist():
        sides = x1 - x0, y1 - y0
        at_edge = x0 == 0 or y0 == 0 or x1 == 900 or y1 == 900
        assert SIDES[0] - 2 <= max(sides) <= SIDES[1] + 2 or at_edge
        seen = changed[y0:y1, x0:x1]
        assert seen.mean() > 0.1 and seen.any(axis=0).mean() > 0.6 and seen.any(axis=1).mean() > 0.6
    overlaps = pairwise_iou(drawn.boxes, drawn.boxes)
    assert overlaps[~np.eye(len(overlaps), dtype=bool)].max() < 0.1


def test_the_command_writes_a_data_set(tmp_path: Path) -> None:
    words = ["--train", "2", "--val", "1", "--test", "0", "--size", "300"]
    assert run(["data", "synth", str(tmp_path / "mosaics"), "--kind", "mosaic", *words]) == 0
    split = load_split(tmp_path / "mosaics", "train")
    assert split.problems == [] and len(split) == 2 and split.classes.names == SHAPES
    drawn = render_mosaic([0, 0, 1], side=300, objects=round(300 * 300 / 8000))
    assert np.array_equal(read_image(split.paths[1]), drawn.image)
    np.testing.assert_array_equal(split.boxes[split.first[1] :], drawn.boxes)


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="side of at least 64"):
        write_mosaics(tmp_path / "a", side=32)
    with pytest.raises(UsageError, match="not all 0"):
        write_mosaics(tmp_path / "b", train=0, val=0)
