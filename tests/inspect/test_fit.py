"""What the levels of a detector make of a data set, and the advice computed from it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.scenes_on_disk import entry, scene, write_coco

from aweigh.annotations.split import Split
from aweigh.cli.main import run
from aweigh.errors import UsageError
from aweigh.images.resize import Resize
from aweigh.inference.assignment import rule_of
from aweigh.inspect import fit
from aweigh.inspect.coverage import measure_coverage
from aweigh.inspect.fit import measure_fit, smallest_input
from aweigh.layouts.load import load_split

MODEL = "fcos_resnet18_fpn"


def split_of(folder: Path, boxes: list[list[float]], *, per_image: int = 4) -> Split:
    """Boxes in images of 160 x 120."""
    count = -(-len(boxes) // per_image)
    rows = [entry(n, 1 + (n - 1) // per_image, box) for n, box in enumerate(boxes, start=1)]
    write_coco(folder, "train", {f"{n}.jpg": scene(n) for n in range(count)}, rows)
    return load_split(folder)


def test_it_counts_what_training_would_assign(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    boxes = np.column_stack([random.uniform(0, 100, (80, 2)), random.uniform(1.5, 60, (80, 2))]).tolist()
    split = split_of(tmp_path, boxes)
    measured = measure_fit({"train": split}, MODEL, short=120, long=160)

    every = [split.objects(row) for row in range(len(split))]
    rule = rule_of(MODEL)
    assert rule is not None
    expected = measure_coverage([((120, 160), objects["boxes"], objects["labels"]) for objects in every], rule)
    assert measured.here.best_possible_recall == expected.best_possible_recall < 1
    assert measured.here.ambiguous == expected.ambiguous_share
    assert measured.here.ambiguous_classes == expected.ambiguous_classes_share < measured.here.ambiguous
    assert measured.unowned_count == expected.boxes - expected.found == len(measured.unowned)
    assert sum(map(sum, measured.owners)) == expected.boxes == sum(measured.sizes)
    assert sum(row[-1] for row in measured.owners) == measured.unowned_count
    assert sum(level.share for level in measured.levels) == pytest.approx(1)
    assert [trial.short for trial in measured.trials] == [64, 96, 120, 192, 256]
    json.dumps(measured.to_dict(), allow_nan=False)


def test_each_box_belongs_to_the_level_of_its_size(tmp_path: Path) -> None:
    split = split_of(tmp_path, [[20, 20, 20, 20], [20, 20, 40, 40], [20, 20, 80, 80], [1, 1, 150, 115]], per_image=1)
    measured = measure_fit({"train": split}, MODEL, short=480, long=640)  # 4 times as large
    assert [level.share for level in measured.levels] == [0.25, 0.25, 0.25, 0.25, 0]
    assert "The level of stride 128 owns no box" in " ".join(measured.advice)


def test_a_box_between_the_points_and_one_whose_points_are_taken(tmp_path: Path) -> None:
    between = [[5, 5, 2, 2]]  # points lie at 4, 12, 20, ...
    (lost,) = measure_fit({"train": split_of(tmp_path / "a", between)}, MODEL, short=120, long=160).unowned
    assert (lost.reason, lost.annotation, lost.size_wh) == (fit.BETWEEN, 1, (2, 2))
    crowded = [[0, 0, 40, 40], [6, 6, 28, 28]]  # the points 12, 20 and 28 lie near the middle of both
    lost = measure_fit({"train": split_of(tmp_path / "b", crowded, per_image=9)}, MODEL, short=120, long=160).unowned[0]
    assert (lost.reason, lost.annotation) == (fit.CROWDED, 1)


def test_smallest_input() -> None:
    sizes = np.array([4.0] * 5 + [10.0] * 95)  # at 640: 5 % may stay small
    assert smallest_input(sizes, 640) == 512
    assert smallest_input(np.array([4.0] * 6 + [10.0] * 94), 640) == 1280
    assert smallest_input(np.array([100.0]), 640) == 64


@pytest.mark.parametrize("side", [3.0, 5.0])
def test_the_input_advised_is_enough_and_the_next_smaller_is_not(tmp_path: Path, side: float) -> None:
    split = split_of(tmp_path, [[10 + 9 * n, 10, side, side] for n in range(10)], per_image=10)
    measured = measure_fit({"train": split}, MODEL, short=128, long=0)
    (words,) = [line.split("--short ")[1].split()[0] for line in measured.advice if "makes 95 %" in line]
    short = int(words)
    assert measured.here.small == 1.0 and short % 32 == 0
    for proposed, small in ((short, 0.0), (short - 32, 1.0)):
        assert measure_fit({"train": split}, MODEL, short=proposed, long=0).here.small == small


def test_advice_where_the_long_side_is_fixed_names_it(tmp_path: Path) -> None:
    """Boxes of 3 x 3 px between the points: at 160 px a fifth has one, at twice the size nearly all."""
    split = split_of(tmp_path, [[5 + 9 * n, 5 + 7 * n, 3, 3] for n in range(10)], per_image=10)
    measured = measure_fit({"train": split}, MODEL, short=0, long=160)
    assert [(trial.short, trial.long) for trial in measured.trials] == [(0, 64), (0, 128), (0, 160), (0, 256), (0, 320)]
    assert [trial.flags == measured.here.flags for trial in measured.trials] == [False, False, True, False, False]
    recall = {trial.long: trial.best_possible_recall or 0.0 for trial in measured.trials}
    better = next(long for long in recall if recall[long] > recall[160] + fit.NOTED)
    won = 100 * (recall[better] - recall[160]) / (1 - recall[160])
    advice = " ".join(measured.advice)
    assert f"--long {better} would win back about {won:.0f} % of them" in advice and won > 10
    assert "--long 448 makes 95 % of them larger" in advice  # 3 px x 448 / 160 = 8.4 px
    assert "--short" not in advice
    assert measure_fit({"train": split}, MODEL, short=0, long=448).here.small == 0.0
    assert measure_fit({"train": split}, MODEL, short=0, long=416).here.small == 1.0
    written = measured.to_dict()
    assert written["here"]["flags"] == "--long 160"
    assert [trial["flags"] for trial in written["trials"]] == [f"--long {long}" for long in recall]


def test_the_flags_advised_are_those_of_the_limits_given(tmp_path: Path) -> None:
    split = split_of(tmp_path, [[10 + 9 * n, 10, 4, 4] for n in range(10)], per_image=10)
    for short, long, flags in (
        (96, 128, "--short 256 --long 342"),
        (96, 0, "--short 256 --long 0"),
        (0, 128, "--long 320"),
        (0, 0, "--long 320"),  # as they are, 160 px long
    ):
        measured = measure_fit({"train": split}, MODEL, short=short, long=long)
        assert f"{flags} makes 95 % of them larger" in " ".join(measured.advice), (short, long)
    assert [(trial.short, trial.long) for trial in measured.trials] == [(0, 0)]
    measured = measure_fit({"train": split}, MODEL, short=0, long=32)
    assert [trial.long for trial in measured.trials] == [32, 64]  # each size once


def test_tiles_where_no_input_is_large_enough(tmp_path: Path) -> None:
    tiny = split_of(tmp_path / "a", [[10 + 9 * n, 10, 1.5, 1.5] for n in range(10)], per_image=10)
    advice = " ".join(measure_fit({"train": tiny}, MODEL, short=640, long=1066).advice)
    assert "input is large enough" in advice or "makes 95 %" in advice  # 160 x 120 images, enlarged five times
    object.__setattr__(tiny, "sizes_hw", tiny.sizes_hw * 50)  # the same boxes in images of 8000 x 6000
    advice = " ".join(measure_fit({"train": tiny}, MODEL, short=640, long=1066).advice)
    assert "train in tiles, with --tile 96 --overlap 0.05 --short 640 --long 1066: objects of up to 2 px" in advice
    square = " ".join(measure_fit({"train": tiny}, MODEL, short=0, long=640).advice)
    flags = re.search(r"with (--tile .*): ", square)
    assert flags is not None and flags[1] == "--tile 96 --overlap 0.05 --long 640"  # 1.5 px x 640 / 96 = 10 px
    assert run(["config", "show", str(tmp_path), *flags[1].split()]) == 0  # the very flags of the training


@pytest.mark.parametrize(("longest", "said"), [(40, "--overlap 0.42 "), (90, "no one scale fits both")])
def test_the_overlap_of_tiles_holds_the_large_objects(tmp_path: Path, longest: int, said: str) -> None:
    boxes = [[10 + 9 * n, 10, 1.5, 1.5] for n in range(5)] + [[20, 20, longest, longest]] * 5
    mixed = split_of(tmp_path, boxes, per_image=10)
    object.__setattr__(mixed, "sizes_hw", mixed.sizes_hw * 50)
    assert said in " ".join(measure_fit({"train": mixed}, MODEL, short=0, long=640).advice)


def test_of_a_crowded_picture_a_part_is_assigned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "MOST_IN_ONE", 50)
    split = split_of(tmp_path, [[5, 5, 40, 40]] * 200 + [[5, 5, 80, 80], [5, 5, 60, 60]], per_image=200)
    measured = measure_fit({"train": split}, MODEL, short=120, long=160)
    assert measured.boxes == sum(measured.sizes) == 202 and sum(map(sum, measured.owners)) == 52
    assert measured.unowned_count == 49 and measured.here.best_possible_recall == 3 / 52  # of equal boxes one learns
    assert "1 image holds more than 50 boxes, of which 50 were assigned." in measured.advice
    monkeypatch.setattr(fit, "MOST_BOXES", 51)
    assert measure_fit({"train": split}, MODEL, short=120, long=160).images_measured == 1


def test_a_detector_that_assigns_no_points(tmp_path: Path) -> None:
    split = split_of(tmp_path, [[5, 5, 40, 40]])
    measured = measure_fit({"train": split}, "retinanet_resnet50_fpn_atss", short=120, long=160)
    assert measured.here.best_possible_recall is None and measured.levels == () and measured.unowned == ()
    assert measured.here.small == 0 and sum(measured.sizes) == 1
    assert "assigns no points" in measured.advice[0]


def test_a_detector_with_a_rule_of_its_own(tmp_path: Path) -> None:
    name, splits = "foveabox_resnet18_fpn", {"train": split_of(tmp_path, [[5, 5, 40, 40], [41, 41, 2, 2]])}
    assert fit.has_own_rule(name) and not fit.has_own_rule(MODEL)
    measured = measure_fit(splits, name, short=120, long=160, own_rule=rule_of(name))
    assert measured.here.best_possible_recall == 0.5 and [box.reason for box in measured.unowned] == [fit.BETWEEN]
    assert [level.share for level in measured.levels] == [1, 0, 0, 0, 0]
    with pytest.raises(UsageError, match="own_rule"):
        measure_fit(splits, name)
    with pytest.raises(UsageError, match=r"no model 'fcos_resnet18_fpm'\. Did you mean 'fcos_resnet18_fpn'"):
        measure_fit(splits, "fcos_resnet18_fpm")


def test_no_boxes_and_test_boxes(tmp_path: Path) -> None:
    split = split_of(tmp_path, [[5, 5, 40, 40]])
    empty = split.take_annotations(np.empty(0, dtype=np.int64))
    assert measure_fit({"val": empty}, MODEL).advice == ("There are no boxes to measure.",)
    assert measure_fit({"val": split, "test": split}, MODEL, short=120, long=160).boxes == 1


def test_ignored_regions_are_no_boxes(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [entry(1, 1, [5, 5, 40, 40]), entry(2, 1, [50, 50, 40, 40]) | {"iscrowd": 1}]
    write_coco(tmp_path, "train", {"a.jpg": scene(1), "b.jpg": scene(2)}, [*rows, entry(3, 2, [5, 5, 1.5, 1.5])])
    measured = measure_fit({"train": load_split(tmp_path)}, MODEL, short=120, long=160)
    assert measured.boxes == 2 and sum(map(sum, measured.owners)) == 2
    assert [box.annotation for box in measured.unowned] == [3]


def test_sizes_follow_the_resize(tmp_path: Path) -> None:
    split = split_of(tmp_path, [[10, 10, 40, 40]])
    measured = measure_fit({"train": split}, MODEL, short=0, long=320)
    height, width = Resize(short=None, long=320).size_for(120, 160)
    assert measured.size_percentiles[50] == pytest.approx(40 * height / 120)
    assert width == 320
