"""Detections are drawn, shown, saved, and become what supervision and pandas take."""

import csv
import io
import json
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas
import pytest
import supervision
import torch
from PIL import Image, ImageShow
from tests.test_detections import NAMES, detections

from aweigh import verbs
from aweigh.classes import Classes, KeypointSet
from aweigh.detections import Detections
from aweigh.errors import AweighError, DataError, UsageError
from aweigh.results.writers import write_detections

GREY = np.full((60, 80, 3), 90, np.uint8)
HOSTILE = ("<script>alert(1)</script>", "=1+1", "two\nlines", "nul\0", "\x1b[2J", 'a "b" & c')
MASKS = np.ones((4, 4, 4), np.float32)
POINTS = np.arange(4 * 2 * 3, dtype=np.float32).reshape(4, 2, 3)
TAIL = KeypointSet(("head", "tail"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(GREY).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def unread() -> Detections:
    return Detections.empty(Classes.from_names(NAMES), path="bad.jpg", error="bad.jpg: the file is empty")


def test_they_are_drawn_on_their_file_or_on_what_is_given(photo: Path) -> None:
    found = detections(path=str(photo), masks=MASKS, keypoints=POINTS)
    drawn = np.asarray(found.draw())
    assert drawn.shape == GREY.shape and (drawn != GREY).any() and (drawn[-5:] == 90).all()
    tensor = torch.from_numpy(GREY).permute(2, 0, 1)
    for image in (photo, photo.read_bytes(), Image.fromarray(GREY), GREY, tensor, tensor.float() / 255):
        np.testing.assert_array_equal(np.asarray(replace(found, path=None).draw(image)), drawn)
    np.testing.assert_array_equal(np.asarray(found.draw(min_score=1.0)), GREY)
    np.testing.assert_array_equal(np.asarray(found[:0].draw()), GREY)
    assert (GREY == 90).all()


def test_a_drawing_is_in_the_frame_of_the_detections(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, shown upright
    Image.fromarray(GREY.transpose(1, 0, 2)).save(tmp_path / "turned.jpg", exif=exif)
    upright = detections(path=str(tmp_path / "turned.jpg"))
    assert upright.draw().size == (80, 60)
    stored = replace(upright.resized((80, 60)), size_hw=(80, 60))
    assert stored.draw().size == (60, 80)
    assert upright.draw(Image.open(tmp_path / "turned.jpg")).size == (80, 60)  # read as a predictor does


def test_what_cannot_be_drawn_says_what_to_do(photo: Path, unread: Detections) -> None:
    with pytest.raises(UsageError, match=r"not of a file: name the image, as in detections\.draw\(image\)"):
        detections(path=None).draw()
    with pytest.raises(UsageError, match=r"image is 40 x 30, .* of one of 80 x 60; .*resized\(\(30, 40\)\)"):
        detections().draw(GREY[::2, ::2])
    with pytest.raises(UsageError, match="is 80 x 60, but these detections are of an image of 20 x 10"):
        detections(path=str(photo), size_hw=(10, 20)).draw()
    with pytest.raises(DataError, match="there is no such file"):
        detections().draw()
    with pytest.raises(DataError, match="the file is empty"):
        unread.draw()
    assert detections().resized((30, 40)).draw(GREY[::2, ::2]).size == (40, 30)


def test_a_size_that_nobody_said_is_that_of_the_image(photo: Path) -> None:
    found = detections(path=str(photo), masks=MASKS)
    unsaid = replace(found, size_hw=(0, 0))
    assert unsaid.draw() == unsaid.draw(GREY) == found.draw()
    assert unsaid._repr_png_() == found._repr_png_() is not None


def test_objects_in_space_are_drawn_there(photo: Path) -> None:
    camera = np.array([[60.0, 0, 40, 0], [0, 60, 30, 0], [0, 0, 1, 0]])
    cuboids = np.array([[20.0, 30, 10, 1.5, 2, 4, 0.3]] * 4, np.float32)
    assert detections(path=str(photo), cuboids=cuboids, camera=camera).draw().width > 80
    assert detections(path=str(photo), cuboids=cuboids).draw().width == 80  # nobody knows where they stand


def test_shown_in_the_viewer_or_the_notebook(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    found = detections(path=str(photo))
    monkeypatch.setattr(ImageShow, "show", lambda image: shown.append(image) or True)
    found.show()
    monkeypatch.setattr(ImageShow, "show", lambda image: False)
    with pytest.raises(AweighError, match=r"no program to show images with; use detections\.save"):
        found.show()
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=shown.append))
    found.show(GREY, min_score=0.5)
    assert [type(image) for image in shown] == [Image.Image] * 2


@pytest.mark.parametrize("name", ["a.jpg", "a.PNG", "a.webp", "a.bmp"])
def test_saved_as_an_image(photo: Path, tmp_path: Path, name: str) -> None:
    detections(path=str(photo)).save(tmp_path / "new" / name)
    assert Image.open(tmp_path / "new" / name).size == (80, 60)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_saved_as_a_file_of_detections(tmp_path: Path) -> None:
    found = detections(masks=MASKS, keypoints=POINTS, keypoint_set=TAIL)
    for name in ("a.json", "a.jsonl", "a.csv", "a.xml", "a.txt", "new/folder/a.xml"):
        found.save(tmp_path / name)
    assert json.loads((tmp_path / "a.json").read_text()) == found.to_dict() == json.loads(found.to_json(indent=2))
    assert (tmp_path / "a.jsonl").read_text() == found.to_json() + "\n"
    with (tmp_path / "a.csv").open(newline="") as stream:
        assert [row["class"] for row in csv.DictReader(stream)] == found.names
    root = ElementTree.parse(tmp_path / "a.xml").getroot()
    assert [item.findtext("name") for item in root.iter("object")] == found.names
    assert [line.split()[0] for line in (tmp_path / "a.txt").read_text().splitlines()] == ["0", "1", "0", "2"]
    found.save(tmp_path / "b.json", format="labelme")
    assert len(json.loads((tmp_path / "b.json").read_text())["shapes"]) == 4
    found.save(tmp_path / "c.json", format="coco")
    assert len(json.loads((tmp_path / "c.json").read_text())) == 4 and (tmp_path / "c.images.json").exists()


def test_a_file_that_cannot_be_written_is_not_there(tmp_path: Path, unread: Detections) -> None:
    for name in ("a.pdf", "a"):
        with pytest.raises(UsageError, match=r"it ends in \.json, .* or as images do"):
            detections().save(tmp_path / name)
    with pytest.raises(UsageError, match=r"Unknown format 'cocoo'.*Did you mean 'coco'"):
        detections().save(tmp_path / "a.json", format="cocoo")
    for name in ("a.xml", "a.jpg"):  # which would say that nothing is in the image
        with pytest.raises(DataError, match="the file is empty"):
            unread.save(tmp_path / name)
    assert not list(tmp_path.iterdir())
    unread.save(tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text())["error"] == unread.error


def test_every_ending_names_a_format() -> None:
    for format in verbs.FORMAT_OF.values():
        assert verbs.format_named(format)


def test_supervision_takes_them() -> None:
    found = detections(masks=MASKS, keypoints=POINTS, keypoint_set=TAIL)
    theirs = found.to_supervision()
    assert isinstance(theirs, supervision.Detections)
    np.testing.assert_array_equal(theirs.xyxy, found.boxes)
    np.testing.assert_array_equal(theirs.mask, found.bitmaps())
    some = theirs[theirs.confidence > 0.6]
    assert some.data["class_name"].tolist() == found.names[:2] and some.class_id.tolist() == [0, 1]
    np.testing.assert_array_equal(some.data["keypoints"], POINTS[:2])
    drawn = supervision.LabelAnnotator().annotate(supervision.BoxAnnotator().annotate(GREY.copy(), theirs), theirs)
    assert (drawn != GREY).any()
    nothing = detections(()).to_supervision()
    assert len(nothing) == 0 and nothing.is_empty()
    assert len(supervision.Detections.merge([theirs[:1], detections().to_supervision()[:0]])) == 1


def test_pandas_takes_them(tmp_path: Path, unread: Detections) -> None:
    found = detections(keypoints=POINTS, keypoint_set=TAIL)
    frame = found.to_dataframe()
    assert frame.groupby("class")["score"].max().to_dict() == pytest.approx({"person": 0.9, "dog": 0.7, "cat": 0.3})
    assert frame["tail_y"].tolist() == POINTS[:, 1, 1].tolist() and frame["category_id"].tolist() == [1, 18, 1, 17]
    write_detections([found], tmp_path / "a.csv", "csv")
    theirs = pandas.read_csv(tmp_path / "a.csv").drop(columns="error")
    pandas.testing.assert_frame_equal(frame, theirs, check_dtype=False)  # of the csv too, but for its errors
    for nothing in (detections(()), unread):
        empty = nothing.to_dataframe()
        assert len(empty) == 0 and empty["score"].dtype == np.float32 and empty["category_id"].dtype == np.int64
    assert len(pandas.concat([frame, detections(()).to_dataframe()])) == 4


@pytest.mark.parametrize(("method", "package"), [("to_supervision", "supervision"), ("to_dataframe", "pandas")])
def test_a_package_that_is_not_there_is_named(method: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=f"{method} needs {package}, which is not installed: pip install {package}"):
        getattr(detections(), method)()


class Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def cells(detections: Detections) -> Cells:
    parser = Cells()
    parser.feed(detections._repr_html_())
    return parser


def test_a_notebook_shows_a_small_drawing_and_a_table(tmp_path: Path) -> None:
    Image.new("RGB", (3000, 1500)).save(tmp_path / "large.jpg")
    found = replace(detections(path=str(tmp_path / "large.jpg")), size_hw=(1500, 3000))
    png = found._repr_png_()
    assert png is not None and Image.open(io.BytesIO(png)).size == (1000, 500)
    shown = cells(found)
    assert shown.tags.count("tr") == 5 and shown.tags.count("img") == 1 and "person" in shown.text
    assert len(found._repr_html_()) < 60_000


def test_a_notebook_shows_what_has_no_image(unread: Detections) -> None:
    for found in (detections(), detections(path=None), detections(()), unread, detections(size_hw=(0, 0))):
        assert found._repr_png_() is None
        assert "img" not in cells(found).tags
    assert "the file is empty" in cells(unread).text
    assert "and 5 detections more" in cells(detections((0,) * 25)).text


def test_names_of_any_kind_are_only_text(photo: Path, tmp_path: Path) -> None:
    names = Classes.from_names(HOSTILE)
    found = replace(detections((*range(6),)), classes=names, path=str(photo))
    assert found["nul\0"].names == ["nul\0"]
    assert "script" not in cells(found).tags and "<script>" in cells(found).text
    assert "\x1b" not in found._repr_html_() and repr(found).isprintable()
    assert found.draw().size == (80, 60)
    assert found.to_dataframe()["class"].tolist() == list(HOSTILE)
    assert json.loads(found.to_json())["detections"][0]["class"] == HOSTILE[0]
    named = replace(found, path='<img src=x onerror="alert(1)">')
    assert "img" not in cells(named).tags
    for ending in verbs.FORMAT_OF.keys() - {".parquet"}:  # which is no text
        found.save(tmp_path / f"a{ending}")
        assert "\x1b" not in (tmp_path / f"a{ending}").read_text()
