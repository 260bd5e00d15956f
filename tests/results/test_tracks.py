"""The ids of tracks, in the formats that have a place for them, in other libraries and in drawings."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.errors import DataError
from aweigh.results import FORMATS
from aweigh.results.writers import write_detections
from aweigh.visualise.colours import PALETTE
from aweigh.visualise.pictures import draw_detections

CLASSES = Classes(("cat", "dog"), (3, 7))
TRAILS = np.array([[[np.nan, np.nan], [15, 15], [20, 20]], [[50, 60], [55, 60], [60, 60]]], np.float32)


def tracked(path: str = "a/000001.png") -> Detections:
    return Detections.of(
        [[10, 10, 30, 30], [50, 50, 70, 70]],
        [0.9, 0.25],
        [1, 1],
        classes=CLASSES,
        size_hw=(80, 100),
        path=path,
        track_ids=np.array([4, 2]),
        trails=TRAILS,
    )


def nothing() -> Detections:
    return tracked("a/000002.png")[:0]


def test_json_lines_and_coco_say_them_of_each_object(tmp_path: Path) -> None:
    write_detections([tracked(), nothing()], tmp_path / "found.jsonl")
    first, second = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [one["track_id"] for one in first["detections"]] == [4, 2] and second["detections"] == []
    write_detections([tracked(), nothing()], tmp_path / "found.json", "coco")
    assert [one["track_id"] for one in json.loads((tmp_path / "found.json").read_text())] == [4, 2]


def test_csv_has_a_column_where_there_are_tracks(tmp_path: Path) -> None:
    write_detections([nothing(), tracked()], tmp_path / "found.csv", "csv")
    assert [row["track_id"] for row in csv.DictReader((tmp_path / "found.csv").open())] == ["4", "2"]
    write_detections([replace(tracked(), track_ids=None)], tmp_path / "plain.csv", "csv")
    assert "track_id" not in (tmp_path / "plain.csv").read_text()


def test_mot_counts_frames_and_pixels_from_one(tmp_path: Path) -> None:
    write_detections([nothing(), tracked(), replace(tracked(), track_ids=None)], tmp_path / "tracks.txt", "mot")
    lines = (tmp_path / "tracks.txt").read_text().splitlines()
    assert lines[0] == "2,4,11.00,11.00,20.00,20.00,0.9,-1,-1,-1"
    assert [line.split(",")[:2] for line in lines] == [["2", "4"], ["2", "2"], ["3", "-1"], ["3", "-1"]]
    write_detections([replace(tracked(), frame_number=40)], tmp_path / "video.txt", "mot")
    assert (tmp_path / "video.txt").read_text().startswith("41,4,")


def test_labelme_has_them_as_groups(tmp_path: Path) -> None:
    write_detections([tracked()], tmp_path, "labelme")
    shapes = json.loads((tmp_path / "000001.json").read_text())["shapes"]
    assert [shape["group_id"] for shape in shapes] == [4, 2]


@pytest.mark.parametrize("format", [name for name, known in FORMATS.items() if "tracks" in known.left_out])
def test_the_others_are_the_same_without(tmp_path: Path, format: str) -> None:
    for name, found in (("with", tracked()), ("without", replace(tracked(), track_ids=None, trails=None))):
        write_detections([found], tmp_path / name, format)
    one, other = ([*(tmp_path / name).rglob("000001.*")] or [tmp_path / name] for name in ("with", "without"))
    assert one[0].read_text() == other[0].read_text()


def test_other_libraries_have_them() -> None:
    assert tracked().to_supervision().tracker_id.tolist() == [4, 2]
    assert tracked().to_dataframe()["track_id"].tolist() == [4, 2]


def test_they_move_with_the_image() -> None:
    small = tracked().resized((40, 50))
    assert small.track_ids is not None and small.track_ids.tolist() == [4, 2]
    np.testing.assert_array_equal(small.trails, TRAILS / 2)


def test_the_colour_is_that_of_the_track_and_a_line_shows_where_it_was() -> None:
    ground = Image.new("RGB", (100, 80), "white")
    drawn = np.asarray(draw_detections(ground, replace(tracked(), scores=np.array([0.9, 0.8], np.float32))))
    assert tuple(drawn[29, 15]) == PALETTE[4] and tuple(drawn[69, 65]) == PALETTE[2]
    assert drawn[17, 17].min() < 150 and drawn[60, 58].min() < 150  # two dogs, each with its own line
    without = np.asarray(draw_detections(ground, replace(tracked(), trails=None)))
    assert (without[17, 17] == 255).all()


@pytest.mark.parametrize(
    "wrong", [{"track_ids": np.array([1.0, 2.0])}, {"track_ids": np.array([1])}, {"trails": np.zeros((2, 3), "f4")}]
)
def test_what_is_no_track_is_refused(wrong: dict[str, np.ndarray]) -> None:
    with pytest.raises(DataError, match=next(iter(wrong))):
        replace(tracked(), **wrong)
