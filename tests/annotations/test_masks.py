"""Masks: pixels by COCO's rules, given back as they were written, small, and never a traceback."""

import json
import pickle
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as reference
from tests.annotated import Make, coco_dict

from aweigh.annotations.masks import NONE, Masks, decode_counts, encode_counts
from aweigh.layouts.load import load_split

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:pycocotools")

coordinates = st.floats(-20, 60, allow_nan=False, width=32)
polygon = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=8).map(
    lambda points: [value for point in points for value in point]
)


def reference_pixels(segmentation: Any, height: int, width: int) -> np.ndarray:
    found = reference.frPyObjects(segmentation, height, width)
    return np.asarray(reference.decode(reference.merge(found) if isinstance(found, list) else found)).astype(bool)


@settings(deadline=None, max_examples=60)
@given(st.lists(polygon, min_size=1, max_size=3), st.integers(1, 40), st.integers(1, 40))
def test_polygons_become_the_pixels_of_pycocotools(parts: list[list[float]], height: int, width: int) -> None:
    masks, bad = Masks.read([parts], np.array([[height, width]]))
    assert bad == [] and masks.segmentation(0, (height, width)) == parts
    np.testing.assert_array_equal(masks.pixels(range(1), (height, width))[0], reference_pixels(parts, height, width))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_run_lengths_are_those_of_pycocotools(height: int, width: int, seed: int, share: float) -> None:
    pixels = np.random.default_rng(seed).random((height, width)) < share
    text = reference.encode(np.asfortranarray(pixels.astype(np.uint8)))["counts"]
    lengths = decode_counts(text)
    assert encode_counts(lengths) == text
    given = [{"size": [height, width], "counts": counts} for counts in (text.decode(), lengths.tolist())]
    masks, bad = Masks.read([*given, None], np.array([[height, width]] * 3))
    assert bad == [] and [masks.segmentation(row, (height, width)) for row in range(3)] == [*given, None]
    found = masks.pixels(range(3), (height, width))
    assert (found[:2] == pixels).all() and not found[2].any()


def test_taking_and_joining_keep_each_mask() -> None:
    given = [
        [[0, 0, 5, 0, 5, 5]],
        None,
        {"size": [6, 6], "counts": [3, 30, 3]},
        [[1, 1, 2, 1, 2, 2], [3, 3, 4, 3, 4, 5]],
    ]
    masks, _ = Masks.read(given, np.full((4, 2), 6))
    rows = np.array([3, 1, 1, 0, 2, 3])
    taken = Masks.join([masks.take(rows), Masks.none(2), masks.take(rows[:0])])
    assert [taken.segmentation(row, (6, 6)) for row in range(len(taken))] == [given[row] for row in rows] + [None, None]


BAD = [
    ([[1, 2, 3, 4]], "three points or more"),
    ([[1, 2, 3, 4, 5, 6, 7]], "polygon of 7 numbers"),
    ([[1, 2, 3, float("nan"), 5, 6]], "a coordinate is nan"),
    ([[1, 2, 3, 1e30, 5, 6]], r"a coordinate is 1e\+30"),
    ([[1, 2, 3, 10**400, 5, 6]], "too large"),
    ([[1, 2, 3, "4", 5, 6]], "no number"),
    ([{"x": 1}], "expected a list of x, y"),
    (7, "expected polygons or run lengths"),
    ({"size": [30, 41], "counts": [1230]}, r"size \[30, 41\]"),
    ({"size": [30, 40], "counts": [7]}, "add up to the 1,200 pixels"),
    ({"size": [30, 40], "counts": [-1, 1201]}, "add up to the 1,200 pixels"),
    ({"size": [30, 40], "counts": "\u00ff\u00ff"}, "do not add up"),
    ({"size": [30, 40], "counts": "oooooooooooooooo0"}, "do not add up"),
    ({"size": [30, 40]}, "list or a text"),
]


@pytest.mark.parametrize(("segmentation", "why"), BAD, ids=[str(bad)[:30] for bad, _ in BAD])
def test_a_bad_mask_is_named_and_its_box_kept(coco: Make, segmentation: Any, why: str) -> None:
    data = coco_dict([[5, 6, 10, 12], [1, 2, 3, 4]])
    data["annotations"][0]["segmentation"] = segmentation
    data["annotations"][1]["segmentation"] = [[1, 2, 4, 2, 4, 6]]
    split = load_split(coco(data))
    (problem,) = split.problems
    assert (problem.kind, problem.where, problem.annotation) == ("mask cannot be used", "1.png", 10)
    assert len(split.boxes) == 2 and split.masks is not None and split.masks.kinds[0] == NONE
    assert re.search(why, problem.detail), problem.detail
    pixels = split.objects(0, masks=True)["masks"]
    assert pixels is not None and pixels[0].sum() == 0 and pixels[1].any()


def test_a_single_polygon_need_not_be_in_a_list(coco: Make) -> None:
    data = coco_dict([[1, 2, 3, 4]])
    data["annotations"][0]["segmentation"] = [1, 2, 4, 2, 4, 6]
    split = load_split(coco(data))
    assert split.problems == [] and split.objects(0, masks=True)["masks"] is not None


def test_targets_have_masks_only_when_asked(coco: Make) -> None:
    data = coco_dict([[5, 6, 10, 12], [1, 2, 3, 4]])
    data["annotations"][1]["segmentation"] = [[1, 2, 4, 2, 4, 6, 1, 6]]
    split = load_split(coco(data))
    assert split.objects(0)["masks"] is None
    masks = split.objects(0, masks=True)["masks"]
    assert masks is not None and masks.shape == (2, 30, 40) and masks[1, 2:6, 1:4].all() and masks[1].sum() == 12
    assert split.objects(1, masks=True)["masks"].shape == (0, 30, 40)
    assert "1 with masks" in split.summary()
    assert load_split(coco(coco_dict([[5, 6, 10, 12]]))).objects(0, masks=True)["masks"] is None


def test_a_split_in_flat_arrays_is_small_to_send(coco: Make) -> None:
    """A worker gets numbers, not objects: about the bytes of the coordinates, and none of the masks unless asked."""
    outline = np.random.default_rng(0).uniform(0, 30, 60).round(2).tolist()
    data = coco_dict([[5, 6, 10, 12] for _ in range(2000)])
    for entry in data["annotations"]:
        entry["segmentation"] = [outline]
    split = load_split(coco(data))
    whole, without = (len(pickle.dumps(split.for_training(masks=masks))) for masks in (True, False))
    assert split.masks is not None and split.masks.values.nbytes == 2000 * 60 * 8
    assert whole - without < 2000 * (60 * 8 + 40) and without < 2000 * 100
    again = pickle.loads(pickle.dumps(split))
    assert again.content_hash == split.content_hash


def test_masks_count_in_the_content_hash(coco: Make) -> None:
    data = coco_dict([[5, 6, 10, 12]])
    hashes = set()
    for segmentation in ([], [[1, 2, 3, 2, 3, 9]], [[1, 2, 3, 2, 3, 8]]):
        data["annotations"][0]["segmentation"] = segmentation
        hashes.add(load_split(coco(data)).content_hash)
    assert len(hashes) == 3


def test_real_masks_equal_those_of_pycocotools(shared: Path) -> None:
    """Every mask of the photographs, areas and overlaps included; the file's text comes back unchanged."""
    root = shared / "data" / "coco_tiny"
    split = load_split(root, "val")
    entries = {a["id"]: a for a in json.loads((root / "annotations" / "instances_val.json").read_text())["annotations"]}
    assert split.masks is not None
    for entry in split.to_coco()["annotations"]:
        assert entry["segmentation"] == entries[entry["id"]]["segmentation"]
    for image in range(0, len(split), 4):
        objects = split.objects(image, masks=True)
        height, width = split.sizes_hw[image].tolist()
        theirs = []
        for number in objects["ids"].tolist():
            found = reference.frPyObjects(entries[number]["segmentation"], height, width)
            theirs.append(reference.merge(found) if isinstance(found, list) else found)
        ours = [reference.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in objects["masks"]]
        assert [reference.area(mask) for mask in ours] == [reference.area(mask) for mask in theirs]
        if ours:
            np.testing.assert_array_equal(np.diag(reference.iou(ours, theirs, [0] * len(ours))), 1.0)


def test_masks_of_a_reduced_picture_are_those_of_its_pixels_in_the_middle():
    """Also where the sides are no multiples, so that the last pixel reaches beyond the image."""
    masks, _ = Masks.read([[[2.0, 2.0, 30.0, 3.0, 28.0, 21.0, 4.0, 19.0]], None], np.array([[22, 33]] * 2))
    whole = masks.pixels(range(2), (22, 33))
    small = masks.pixels(range(2), (22, 33), out_hw=(6, 9), step_yx=(4.0, 4.0))
    np.testing.assert_array_equal(small[:, :5, :8], whole[:, 2::4, 2::4][:, :5, :8])
    assert small.shape == (2, 6, 9) and not small[:, 5].any() and not small[:, :, 8].any() and not small[1].any()


def test_hundreds_of_objects_in_a_large_photograph_fit_into_a_few_pixels():
    """300 masks of 12 megapixels would be 3.6 GB at once; read at an eighth they are never there together."""
    corners = [[10.0, 10.0, 3900.0, 12.0, 3800.0, 2900.0, 20.0, 2800.0]]
    masks, _ = Masks.read([corners] * 300, np.array([[3000, 4000]] * 300))
    tracemalloc.start()
    small = masks.pixels(range(300), (3000, 4000), out_hw=(375, 500), step_yx=(8.0, 8.0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert small.shape == (300, 375, 500) and peak < 300 * 375 * 500 + 4 * 3000 * 4000
