"""Names of classes and files, whatever they hold, in every format; and names of files that would be too long."""

import csv
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import aweigh
from aweigh.classes import Classes, KeypointSet
from aweigh.detections import Detections
from aweigh.errors import escaped, printable
from aweigh.files import atomic_file, beside, fitting_name, remove_leftovers, write_text
from aweigh.layouts.load import load_split
from aweigh.layouts.save import save_dataset
from aweigh.results.writers import write_detections

PLAIN = ('a "b"', "c, d", "<e> & 'f'", "größe", "猫", "-5", "1e3", "semi;colon", "#7", "a: b")
HOSTILE = ("\x1b[2J\x1b]0;title\x07", "two\nlines", "back\rward", "tab\tbed", "\u202egnp.exe", "nul\0", "line\u2028end")
FORMULAS = ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1")
NAMES = (*PLAIN, *HOSTILE, *FORMULAS)
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]")


def found(path: str, names: tuple[str, ...] = NAMES) -> Detections:
    """One detection of each class."""
    boxes = np.array([[1, 2, 30, 20.5]] * len(names), np.float32)
    scores, labels = np.full(len(names), 0.5, np.float32), np.arange(len(names))
    return Detections(boxes, scores, labels, classes=Classes.from_names(names), size_hw=(30, 40), path=path)


def test_csv_has_a_row_for_each_detection_and_no_formula(tmp_path: Path) -> None:
    pictures = [found("=a\n.jpg"), Detections.empty(Classes.from_names(NAMES), path="-b,c.jpg", error="@bad\nfile")]
    write_detections(pictures, tmp_path / "a.csv", "csv")
    assert not CONTROL.search((tmp_path / "a.csv").read_text(encoding="utf-8"))
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(NAMES) + 1
    shown = [row["class"] for row in rows[:-1]]
    assert shown[: len(PLAIN)] == list(PLAIN)  # quotes and commas come back; numbers stay numbers
    assert shown[len(PLAIN) : -len(FORMULAS)] == [escaped(name) for name in HOSTILE]
    assert shown[-len(FORMULAS) :] == ["'=1+1", "'+cmd|' /C calc'!A0", "'-2+3", "'@SUM(A1)", "\\t=1", "\\r=1"]
    assert rows[0]["path"] == "'=a\\n.jpg" and (rows[-1]["path"], rows[-1]["error"]) == ("'-b,c.jpg", "'@bad\\nfile")
    assert float(rows[0]["x0"]) == 1 and float(rows[0]["score"]) == 0.5


def test_names_of_keypoints_are_cells_too(tmp_path: Path) -> None:
    points = KeypointSet(("=1+1", "no\nse"))
    pictures = [replace(found("a.jpg", ("x",)), keypoints=np.zeros((1, 2, 3), np.float32), keypoint_set=points)]
    write_detections(pictures, tmp_path / "a.csv", "csv")
    head = next(csv.reader((tmp_path / "a.csv").read_text().splitlines()))
    assert head[-6:] == ["'=1+1_x", "'=1+1_y", "'=1+1_score", "no\\nse_x", "no\\nse_y", "no\\nse_score"]


def test_voc_is_xml_and_gives_the_names_back(tmp_path: Path) -> None:
    write_detections([found('a/<"b">,\x1b\n.jpg')], tmp_path / "voc", "voc")
    (file,) = (tmp_path / "voc").iterdir()
    root = ElementTree.parse(file).getroot()
    assert [item.findtext("name") for item in root.iter("object")] == [escaped(name) for name in NAMES]
    assert root.findtext("filename") == '<"b">,\\x1b\\n.jpg'
    assert not CONTROL.search(file.read_text(encoding="utf-8"))


def test_yolo_has_a_line_for_each_class(tmp_path: Path) -> None:
    write_detections([found("a.jpg")], tmp_path / "yolo", "yolo")
    text = (tmp_path / "yolo" / "classes.txt").read_text(encoding="utf-8")
    assert text.split("\n") == [*(escaped(name) for name in NAMES), ""] and not CONTROL.search(text)


def test_kitti_has_sixteen_columns_whatever_the_name(tmp_path: Path) -> None:
    names = (*NAMES, "", "a b")
    write_detections([found("a.jpg", names)], tmp_path / "kitti", "kitti")
    lines = (tmp_path / "kitti" / "a.txt").read_text(encoding="utf-8").splitlines()
    assert [len(line.split()) for line in lines] == [16] * len(names)


@pytest.mark.parametrize("format", ["jsonl", "coco"])
def test_json_gives_every_name_back(tmp_path: Path, format: str) -> None:
    write_detections([found("a\x1b\n.jpg")], tmp_path / "a.json", format)  # type: ignore[arg-type]
    for file in tmp_path.iterdir():
        assert not CONTROL.search(file.read_text(encoding="utf-8")), file
    if format == "jsonl":
        line = json.loads((tmp_path / "a.json").read_text())
        assert line["path"] == "a\x1b\n.jpg" and [box["class"] for box in line["detections"]] == list(NAMES)
    else:
        images = json.loads((tmp_path / "a.images.json").read_text())
        assert [category["name"] for category in images["categories"]] == list(NAMES)


@pytest.mark.parametrize("format", ["jsonl", "coco", "csv", "yolo", "voc", "kitti"])
def test_files_of_any_name_are_written_as_text(tmp_path: Path, format: str) -> None:
    """Every output but the name of a file itself is text in UTF-8, also where a file's name is none."""
    write_detections([found("caf\udce9.jpg"), found("x" * 251 + ".jpg")], tmp_path / "out", format)  # type: ignore[arg-type]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and all(file.read_bytes().decode("utf-8") for file in files)
    if format in ("yolo", "kitti"):
        assert {"caf\udce9.txt", "x" * 251 + ".txt"} <= {file.name for file in files}


@pytest.mark.parametrize("stem", ["x" * 251, "ü" * 125, "\udcff" * 251, "日" * 83 + ".a.b"])
def test_names_as_long_as_a_file_system_takes(tmp_path: Path, stem: str) -> None:
    pictures = [found(f"{folder}/{stem}{suffix}") for folder in "ab" for suffix in (".jpg", ".png")]
    for format in ("yolo", "voc", "kitti"):
        write_detections(pictures, tmp_path / format, format)  # type: ignore[arg-type]
        names = [path.name for path in (tmp_path / format).iterdir() if path.stem != "classes"]
        assert len(names) == 4 and all(len(os.fsencode(name)) <= 255 for name in names)
    for ending in (".json", ".csv"):
        file = tmp_path / fitting_name(stem, ending)
        write_detections(pictures, file, "coco" if ending == ".json" else "csv")
        write_text(file, "whole")
        assert file.read_text() == "whole"
    assert not list(tmp_path.rglob("*.unfinished*"))


def test_a_name_is_cut_between_letters_and_tells_its_picture_from_others() -> None:
    assert fitting_name("a", ".txt") == "a.txt"
    long = fitting_name("ü" * 200, ".txt")
    assert long.startswith("üüü") and long.endswith(".txt") and len(os.fsencode(long)) <= 255
    assert long != fitting_name("ü" * 201, ".txt")


def test_an_unfinished_file_has_a_short_name_and_its_suffix(tmp_path: Path) -> None:
    aside = beside(tmp_path / ("x" * 251 + ".png"))
    assert aside.parent == tmp_path and aside.suffix == ".png" and len(aside.name) < 50
    assert beside(Path("a." + "b" * 250)).suffix == ".unfinished"
    assert beside(Path("a.png")) != beside(Path("a.png"))
    aside.touch()
    beside(tmp_path / "crash-000001").mkdir()
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_one_module_writes_beside_and_renames() -> None:
    source = Path(aweigh.__file__).parent
    renames = re.compile(r"\b(os\.replace|os\.rename|shutil\.move)\(|\.rename\(|\bmkstemp\b|NamedTemporaryFile")
    found = {file.relative_to(source).as_posix() for file in source.rglob("*.py") if renames.search(file.read_text())}
    assert found == {"files.py", "checkpoints/checkpoint.py"}  # the latter for the state before the last


def test_a_refused_file_is_named_as_the_user_did(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, atomic_file(tmp_path / "no" / "a.png") as path:
        path.touch()
    assert caught.value.filename == str(tmp_path / "no" / "a.png")


def test_nothing_is_left_where_the_writing_fails(tmp_path: Path) -> None:
    def results() -> object:
        yield found("a.jpg")
        raise KeyboardInterrupt

    for format in ("jsonl", "coco", "csv"):
        with pytest.raises(KeyboardInterrupt):
            write_detections(results(), tmp_path / "a.out", format)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_escapes_are_whole_and_shown_ones_bounded() -> None:
    assert escaped("a\x1b[0m\n\udcff\u202e") == "a\\x1b[0m\\n\\udcff\\u202e"
    assert len(escaped("x" * 5000)) == 5000 and len(printable("x" * 5000)) < 700
    assert escaped("größe 猫 'a' \"b\"") == "größe 猫 'a' \"b\""


@pytest.mark.parametrize("layout", ["coco", "voc", "yolo"])
def test_names_of_a_data_set_come_back_from_every_layout(tmp_path: Path, layout: str) -> None:
    (tmp_path / "data" / "annotations").mkdir(parents=True)
    (tmp_path / "data" / "images" / "train").mkdir(parents=True)
    names = (*PLAIN, "$x$ $y$", "{x}", "null", "=1+1", "@SUM", "yes")
    Image.new("RGB", (40, 30)).save(tmp_path / "data" / "images" / "train" / "a.jpg")
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": number, "bbox": [number, 2, 9, 9], "area": 81, "iscrowd": 0}
            for number in range(len(names))
        ],
    }
    (tmp_path / "data" / "annotations" / "instances_train.json").write_text(json.dumps(content))
    save_dataset({"train": load_split(tmp_path / "data", "train")}, tmp_path / "out", layout)  # type: ignore[arg-type]
    again = load_split(tmp_path / "out", "train")
    assert sorted(again.classes.names) == sorted(names)
    by_left_side = again.labels[again.boxes[:, 0].argsort()].tolist()
    assert [again.classes.names[label] for label in by_left_side] == list(names)
