"""Large images looked at in tiles: by any engine, from Python and the command line, in prediction and evaluation."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.runtime.toy_engines import Merging, Spots
from tests.scenes_on_disk import entry, write_coco

import aweigh
from aweigh.classes import Classes
from aweigh.cli.main import run
from aweigh.detections import Detections
from aweigh.errors import UsageError
from aweigh.geometry.boxes import pairwise_iou
from aweigh.geometry.tiles import Tiles
from aweigh.images import reader
from aweigh.images.bands import png
from aweigh.images.resize import Resize
from aweigh.prediction import drawing
from aweigh.predictor import Predictor
from aweigh.runtime.engine import Batch
from aweigh.runtime.tta import TTA
from aweigh.scenes import STREET


class Rectangles(Spots):
    """Finds every bright rectangle of an image, each of which stands apart from the others."""

    def _found(self, pixels: np.ndarray, size_hw: tuple[int, int]) -> Detections:
        bright = pixels[0, : size_hw[0], : size_hw[1]] > 0.5
        above, before = np.pad(bright, ((1, 0), (0, 0)))[:-1], np.pad(bright, ((0, 0), (1, 0)))[:, :-1]
        boxes = []
        for y, x in np.argwhere(bright & ~above & ~before):
            right = x + int(np.argmin(np.append(bright[y, x:], False)))
            boxes.append([x, y, right, y + int(np.argmin(np.append(bright[y:, x], False)))])
        scores = np.linspace(0.9, 0.6, len(boxes))
        return Detections.of(boxes, scores, np.zeros(len(boxes)), classes=self.classes, size_hw=size_hw)


class Blind(Spots):
    """Finds nothing, and keeps nothing of what it saw."""

    def run(self, batch: Batch, *, flipped_classes: np.ndarray | None = None) -> list[Detections]:
        return [Detections.empty(self.classes, size_hw) for size_hw in batch.sizes_hw]


def scene(height: int, width: int, sides: tuple[int, ...] = (5, 12, 23, 60)) -> tuple[np.ndarray, np.ndarray]:
    """Bright rectangles on black, and their boxes: in rows, some across every seam."""
    image, boxes, y = np.zeros((height, width, 3), np.uint8), [], 1
    while y + max(sides) < height:
        x, number = 1, len(boxes)
        while x + max(sides) < width:
            w, h = sides[number % len(sides)], sides[number // 2 % len(sides)]
            image[y : y + h, x : x + w] = 255
            boxes.append([x, y, x + w, y + h])
            x, number = x + w + 3, number + 1
        y += max(sides) + 3
    return image, np.array(boxes, np.float32)


def test_every_object_of_a_scene_is_found_once_in_the_pixels_of_the_image() -> None:
    image, boxes = scene(500, 700)
    engine = Rectangles()
    predictor = Predictor(engine, Resize(None, None))
    found = predictor(image, tile=128, overlap=0.25)
    assert len(found) == len(boxes) and found.size_hw == (500, 700)
    assert pairwise_iou(boxes, found.boxes).max(axis=1).min() == 1
    assert len(engine.batches) == len(Tiles(128, 0.25).cut(500, 700))
    assert found == Predictor(Rectangles(), Resize(None, None), tiles=Tiles(128, 0.25))(image)
    (streamed,) = predictor.stream([image], batch=4, tile=128, overlap=0.25)
    assert streamed == found and len(engine.batches[-2].sizes_hw) == 4


def test_every_tile_is_looked_at_in_the_scale_of_a_whole_one() -> None:
    resize = Resize(short=800, long=1333).for_tiles(640)
    assert resize.size_for(640, 640) == (800, 800) and resize.size_for(100, 320) == (125, 400)
    image, boxes = scene(90, 90, (20, 12))
    found = Predictor(Rectangles(), Resize(None, 256))(image, tile=128)
    np.testing.assert_allclose(np.sort(found.boxes, axis=0), np.sort(boxes, axis=0), atol=0.6)


def test_tiles_go_with_test_time_augmentation_and_thresholds() -> None:
    image, boxes = scene(200, 300)
    engine = Rectangles(classes=Classes.from_names(["spot"]), selection=Merging(max_detections=1000))
    found = Predictor(engine, Resize(None, None), tta=TTA(flip=True))(image, tile=128, overlap=0.25)
    assert len(found) == len(boxes) and pairwise_iou(boxes, found.boxes).max(axis=1).min() == 1
    assert not len(Predictor(engine, Resize(None, None))(image, tile=128, score=0.95))


def test_evaluation_measures_in_the_same_tiles(tmp_path: Path) -> None:
    image, boxes = scene(200, 300)
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
    made = [entry(number, 1, box) for number, box in enumerate(xywh, start=1)]
    data = write_coco(
        tmp_path, "val", {"a.png": Image.fromarray(image)}, made, categories=[{"id": 1, "name": "left hand"}]
    )
    predictor = Predictor(Rectangles(), Resize(None, None), tiles=Tiles(128, 0.25))
    measured = aweigh.evaluate(predictor, data)
    assert len(measured.results) == len(boxes) and measured.metrics["boxes"].to_dict()["AP"] == 1
    with pytest.raises(UsageError, match="workers"):
        aweigh.evaluate(predictor, data, workers=1)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever has more than a thousand pixels is large, and too large to be read whole."""
    monkeypatch.setattr(reader, "LARGE", 1000)
    monkeypatch.setattr(reader, "MAX_PIXELS", 1000)
    monkeypatch.setattr(png, "PIXELS", 700 * 20)


@pytest.mark.usefixtures("large")
def test_a_large_image_is_read_by_rows_and_gives_the_same(tmp_path: Path) -> None:
    image, boxes = scene(500, 700)
    predictor = Predictor(Rectangles(), Resize(None, None), tiles=Tiles(128, 0.25))
    for name in ("a.png", "a.tif"):
        Image.fromarray(image).save(tmp_path / name)
        found = predictor(tmp_path / name)
        assert replace(found, path=None) == predictor(image) and len(found) == len(boxes)
        assert predictor((tmp_path / name).read_bytes()) == predictor(image)


@pytest.mark.usefixtures("large")
def test_a_large_image_that_is_damaged_further_down_is_said_and_the_others_are_found(tmp_path: Path) -> None:
    image, boxes = scene(500, 700)
    noise = np.random.default_rng(0).integers(0, 99, (500, 700, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) * 3 // 4])
    Image.fromarray(image).save(tmp_path / "b.png")
    first, second = Predictor(Rectangles(), Resize(None, None)).stream(tmp_path, tile=128, overlap=0.25)
    assert "damaged or cut short" in (first.error or "") and not len(first) and len(second) == len(boxes)


@pytest.mark.usefixtures("large")
def test_a_large_image_has_a_small_drawing_beside_boxes_in_its_own_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    street = Image.open(STREET).convert("RGB")
    monkeypatch.setattr(drawing, "MOST_DRAWN", street.width * street.height // 4**2)
    street.save(tmp_path / "mosaic.png")
    assert run(["predict", str(tmp_path / "mosaic.png"), "-o", str(tmp_path / "out"), "--tile", "640"]) == 0
    (line,) = (tmp_path / "out" / "detections.jsonl").read_text().splitlines()
    assert (json.loads(line)["width"], json.loads(line)["height"]) == street.size
    found = aweigh.load()(street, tile=640)
    assert [one["box"] for one in json.loads(line)["detections"]] == pytest.approx(found.boxes)
    small = street.reduce(4)
    with Image.open(tmp_path / "out" / "mosaic.jpg") as drawn:
        assert drawn.size == small.size
        expected = np.asarray(found.resized((small.height, small.width)).draw(small), float)
        beside = [np.abs(np.asarray(drawn, float) - other).mean() for other in (expected, np.asarray(small))]
        assert beside[0] < beside[1] / 2  # grey levels: what JPEG leaves out, and boxes


def test_of_a_large_image_a_few_rows_of_tiles_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "LARGE", 1000)
    Image.new("L", (2100, 4800)).save(tmp_path / "a.png")  # 30 MB as RGB; a row of tiles takes 1.6 MB, a band 3 MB
    predictor = Predictor(Blind(), Resize(None, None), tiles=Tiles(256))
    tracemalloc.start()
    try:
        predictor(tmp_path / "a.png")
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_the_command_line_looks_in_tiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", str(STREET), "--no-draw", "-o", str(tmp_path), "--tile", "320", "--overlap", "0.3"]
    assert run(words) == 0
    assert "tiles of 320 x 320, overlapping by 96" in capsys.readouterr().err
    (line,) = (tmp_path / "detections.jsonl").read_text().splitlines()
    found = aweigh.load()(STREET, tile=320, overlap=0.3)
    assert len(json.loads(line)["detections"]) == len(found) > 0
    assert run(["predict", str(STREET), "--overlap", "0.3"]) == 2
    assert "--overlap 0.3 goes with --tile" in capsys.readouterr().err


def test_an_image_that_cannot_be_read_is_said_and_the_others_are_found(tmp_path: Path) -> None:
    image, boxes = scene(200, 300)
    (tmp_path / "a.png").write_bytes(b"no image")
    Image.fromarray(image).save(tmp_path / "b.png")
    first, second = Predictor(Rectangles(), Resize(None, None)).stream(tmp_path, tile=128, overlap=0.25)
    assert "a.png" in (first.error or "") and len(second) == len(boxes)
    assert second.path == str(tmp_path / "b.png")


@pytest.mark.parametrize("lacking", [{"needs_proposals": True}, {"extras": ("cuboids",)}])
def test_detectors_that_need_the_whole_image_refuse_tiles(lacking: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="leave the tiles out"):
        Predictor(Spots(**lacking), Resize(None, None))(np.zeros((50, 50, 3), np.uint8), tile=128)  # type: ignore[arg-type]


def test_memory_that_is_too_small_is_the_error_of_the_image() -> None:
    image, _ = scene(200, 300)
    (found,) = Predictor(Rectangles(most=0), Resize(None, None)).stream([image], tile=128)
    assert found.error is not None
