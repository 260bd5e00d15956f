"""`aweigh predict` where a drawing, a name or the place to write goes wrong: the rest is written."""

import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import aweigh
from aweigh.classes import Classes
from aweigh.cli.main import run
from aweigh.detections import Detections
from aweigh.images.reader import read_reduced
from aweigh.prediction.drawing import Reading, _drawn, drawn_hw, with_camera
from aweigh.scenes import STREET
from aweigh.visualise.pictures import draw_detections

HOSTILE = "evil\x1b]0;x\x07\nerror: forged"


class Finds(torch.nn.Module):
    """A stand-in detector: one object in the middle of every image."""

    classes = Classes((HOSTILE, "plain"), (1, 2))
    stride_divisor = 32
    builder = "finds"
    extras, keypoint_set, needs_proposals, needs_sizes, average_flipped = (), None, False, False, None
    score_threshold, nms_threshold, max_detections = 0.05, 0.6, 100

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.zeros(3))

    def network(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels

    def decode(self, raw: object, sizes_hw: list[tuple[int, int]]) -> list[Detections]:
        return [
            Detections(
                np.array([[w / 4, h / 4, w * 3 / 4, h * 3 / 4]], np.float32),
                np.array([0.9], np.float32),
                np.array([0]),
                classes=self.classes,
                size_hw=(h, w),
            )
            for h, w in sizes_hw
        ]


@pytest.fixture
def finds(monkeypatch: pytest.MonkeyPatch) -> None:
    from aweigh.images.resize import Resize
    from aweigh.predictor import Predictor
    from aweigh.runtime.tta import TTA

    def found(*_: Any, resize: str | None, tta: TTA, **rest: Any) -> Predictor:
        step = Resize(None, 64).with_size(resize or "64")
        return Predictor(Finds(), step, tta=tta, device="cpu")  # type: ignore[arg-type]

    monkeypatch.setattr("aweigh.predictor.load", found)


def pictures(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.new("RGB", (40, 30)).save(folder / name)
    return folder


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), MemoryError(), ValueError("x\ny"), RuntimeError("z")]
)
def test_a_failed_drawing_costs_one_picture(
    tmp_path: Path, finds: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    source = pictures(tmp_path / "in", "a.png", "b.png", "c.png")
    Image.new("RGB", (40, 30), "white").save(source / "b.png")

    def draw(found: Detections, image: np.ndarray) -> Image.Image:
        if image.min() == 255:
            raise error
        return draw_detections(image, found)

    monkeypatch.setattr(Detections, "draw", draw)
    assert run(["predict", str(source), "-o", str(tmp_path / "out")]) == 1
    assert [len(line["detections"]) for line in lines(tmp_path / "out")] == [1, 1, 1]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.jpg")) == ["a.jpg", "c.jpg"]
    told = [line for line in capsys.readouterr().err.splitlines() if "b.png" in line]
    assert len(told) == 1 and told[0].startswith("not drawn: ")


def test_nms_is_asked_for_as_in_python(tmp_path: Path) -> None:
    kept = {}
    for nms in ("class", "none"):
        words = ["--sample", "--no-draw", "--score", "0.3", "--nms", nms, "-o", str(tmp_path / nms)]
        assert run(["predict", *words]) == 0
        kept[nms] = lines(tmp_path / nms)[0]["detections"]
        asked = aweigh.load(device="cpu")(STREET, score=0.3, nms=nms)
        assert len(kept[nms]) == len(asked) and [row["class"] for row in kept[nms]] == asked.names
    assert len(kept["none"]) > len(kept["class"]) > 0
    assert run(["predict", "--sample", "--nms", "sometimes"]) == 2


def test_a_broken_calibration_is_the_error_of_its_picture(tmp_path: Path) -> None:
    (tmp_path / "calib").mkdir()
    (tmp_path / "calib" / "a.txt").write_text("P2: not numbers\n")
    found = Finds().decode(None, [(30, 40)])[0]
    from dataclasses import replace

    result = with_camera(replace(found, path=str(tmp_path / "a.png")), given=tmp_path / "calib")
    assert result.error is not None and "a.txt" in result.error and len(result) == 0


def test_names_cannot_move_the_cursor_or_forge_a_line(
    tmp_path: Path, finds: None, capsys: pytest.CaptureFixture[str]
) -> None:
    source = pictures(tmp_path / "in", "a\x1b[2J\n.png", "ok.png")
    (source / "cut\x1b[31m\nerror: x.png").write_bytes(b"")
    assert run(["predict", str(source), "-o", str(tmp_path / "out")]) == 1
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and "\x07" not in out + err
    assert not [line for line in err.splitlines() if line.startswith("error:")]
    assert "evil\\x1b]0;x\\x07\\nerror: forged 2" in err
    assert len(lines(tmp_path / "out")) == 3
    for format in ("csv", "jsonl", "coco"):
        assert run(["predict", str(source / "ok.png"), "-o", "-", "--format", format]) == 0
        out, _ = capsys.readouterr()
        assert "\x1b" not in out
    assert json.loads(out)[0]["category_id"] == 1


@pytest.mark.parametrize(
    "words",
    [
        ["predict", ""],
        ["predict", "PICTURE", "-o", ""],
        ["predict", "PICTURE", "--resize", "1000000"],
        ["predict", "PICTURE", "--resize", "9" * 5000],
        ["predict", "PICTURE", "--tta", "multiscale", "--scales", "1e9"],
        ["predict", "PICTURE", "--tta", "multiscale", "--scales", "nan"],
        ["predict", "PICTURE", "--batch", str(10**20)],
        ["predict", "PICTURE", "--batch", "-1"],
        ["predict", "PICTURE", "--score", "1e300"],
        ["predict", "PICTURE", "--value-range", "nan", "1"],
        ["predict", "PICTURE", "--value-range", "0", "inf"],
        ["predict", "PICTURE", "--value-range", "1", "0"],
    ],
)
def test_values_out_of_reach_are_wrong_usage(
    words: list[str], tmp_path: Path, finds: None, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(pictures(tmp_path / "in", "a.png") / "a.png")
    typed = [picture if word == "PICTURE" else word for word in words]
    assert run([*typed, *([] if "-o" in words else ["-o", str(tmp_path / "out")])]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and len(err) < 1500
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("size_wh", "drawn_wh"), [((40, 30), (40, 30)), ((9000, 9000), (4500, 4500)), ((70_000, 600), (35_000, 300))]
)
def test_what_is_too_large_for_a_drawing_is_drawn_smaller(
    tmp_path: Path, size_wh: tuple[int, int], drawn_wh: tuple[int, int]
) -> None:
    Image.new("1", size_wh).save(tmp_path / "a.png")
    image, full_hw = read_reduced(tmp_path / "a.png", drawn_hw)
    assert full_hw == size_wh[::-1]
    assert image.shape[1::-1] == drawn_wh


def test_boxes_of_a_smaller_drawing_lie_where_they_should(tmp_path: Path) -> None:
    Image.new("RGB", (8000, 6000)).save(tmp_path / "a.png")
    found = Finds().decode(None, [(6000, 8000)])[0]
    reading: Reading = {"exif": "apply", "value_range": "auto"}
    drawn = _drawn(tmp_path / "a.png", found, reading)
    assert drawn.size == (4000, 3000)
    column = [sum(drawn.getpixel((1900, row))) for row in range(700, 800)]  # type: ignore[arg-type]
    brightest = max(range(100), key=column.__getitem__)
    assert abs(700 + brightest - 750) < 25  # the upper edge at a quarter of the height


def test_every_source_gives_the_same_rows(tmp_path: Path, finds: None) -> None:
    """Folder, zip, tar, list and data set: but for the names, the same lines, an unreadable image among them."""
    names = [f"{number:02}.png" for number in range(6)]
    folder = pictures(tmp_path / "in", *names)
    Image.new("RGB", (60, 20)).save(folder / "03.png")
    (folder / "04.png").write_bytes(b"no image")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as zipped, tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tarred:
        for name in names:
            zipped.write(folder / name, name)
            tarred.add(folder / name, name)
    (tmp_path / "list.txt").write_text("".join(f"{folder / name}\n" for name in names))
    found = {}
    for source in (str(folder), f"{folder}/*.png", *(str(tmp_path / name) for name in ("x.zip", "x.tar.gz"))):
        found[source] = predicted(tmp_path, source)
    found["list"] = predicted(tmp_path, f"@{tmp_path}/list.txt")
    assert found[str(folder)][3]["width"] == 60 and found[str(folder)][4]["error"]
    for source, rows in found.items():
        assert [Path(row["path"]).name for row in rows] == names, source
        plain = [{**row, "path": "", "error": row["error"] and "could not be read"} for row in rows]
        assert plain == [
            {**row, "path": "", "error": row["error"] and "could not be read"} for row in found[str(folder)]
        ]


def predicted(folder: Path, *words: str) -> list[dict[str, Any]]:
    out = folder / "out"
    assert run(["predict", *words, "--no-draw", "-o", str(out)]) == 1
    return lines(out)


def test_drawings_of_two_sources_do_not_overwrite_each_other(tmp_path: Path, finds: None) -> None:
    for name in ("one", "two"):
        folder = pictures(tmp_path / name, "a.png", "a.jpg")
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.write(folder / "a.png", "../../a.png")
    words = [str(tmp_path / name) for name in ("one", "two", "one.zip", "two.zip")]
    assert run(["predict", *words, "-o", str(tmp_path / "out")]) == 0
    drawn = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.jpg"))
    assert drawn == ["one.zip/a.jpg", "one/a.jpg", "one/a.png.jpg", "two.zip/a.jpg", "two/a.jpg", "two/a.png.jpg"]
    assert len(lines(tmp_path / "out")) == 6 and not [*tmp_path.parent.glob("a.jpg")]
