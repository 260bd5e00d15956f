"""Boxes as layers for maps: in the coordinates of a GeoTIFF, in pixels where there are none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from aweigh.classes import Classes
from aweigh.cli.main import run
from aweigh.detections import Detections
from aweigh.images.geotiff import read_georeference
from aweigh.results.geojson import geojson_text
from aweigh.results.writers import write_detections
from aweigh.scenes import STREET

SHIPS = Classes(("ship",), (7,))
UTM_33, WGS_84, POINT = (3072, 0, 1, 32633), (2048, 0, 1, 4326), (1025, 0, 1, 2)


def geotiff(path: Path, *keys: tuple[int, int, int, int], matrix: tuple[float, ...] = (), **settings: Any) -> Path:
    """An image of 60 x 40 with half a metre a pixel, whose upper left corner lies at (500000, 4100000)."""
    directory = (1, 1, 0, len(keys), *(number for key in keys for number in key))
    place = [(33550, "d", 3, (0.5, 0.5, 0)), (33922, "d", 6, (10, 20, 0, 500_005, 4_099_990, 0))]
    if matrix:
        place = [(34264, "d", 16, (*matrix[:2], 0, matrix[2], *matrix[3:5], 0, matrix[5], 0, 0, 0, 0, 0, 0, 0, 1))]
    tags = [*place, (34735, "H", len(directory), directory)]
    tifffile.imwrite(path, np.zeros((40, 60), np.uint8), photometric="minisblack", extratags=tags, **settings)
    return path


def layer(path: Path | None, size_hw: tuple[int, int] = (40, 60)) -> Any:
    found = Detections.of([[10, 20, 30, 36]], [0.75], [0], classes=SHIPS, size_hw=size_hw)
    return json.loads(geojson_text(Detections(**{**vars(found), "path": None if path is None else str(path)})))


def corners(layer: Any) -> list[list[float]]:
    (feature,) = layer["features"]
    (ring,) = feature["geometry"]["coordinates"]
    x, y = np.array(ring).T
    assert ring[0] == ring[-1] and np.dot(x[:-1], y[1:]) > np.dot(y[:-1], x[1:])  # closed, counter-clockwise
    return sorted(ring[:4])


def test_a_projected_image_gives_its_coordinates_and_names_their_system(tmp_path: Path) -> None:
    found = layer(geotiff(tmp_path / "harbour.tif", UTM_33))
    assert corners(found) == [[x, y] for x in (500_005, 500_015) for y in (4_099_982, 4_099_990)]
    assert found["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633" and found["name"] == "harbour.tif"
    said = {"class": "ship", "category_id": 7, "score": 0.75, "box": [10, 20, 30, 36]}
    assert found["features"][0]["properties"] == said


def test_longitude_and_latitude_need_no_name(tmp_path: Path) -> None:
    found = layer(geotiff(tmp_path / "a.tif", WGS_84, bigtiff=True))
    assert "crs" not in found and corners(found)[0] == [500_005, 4_099_982]


def test_a_reference_of_points_is_that_of_the_middle_of_a_pixel(tmp_path: Path) -> None:
    assert corners(layer(geotiff(tmp_path / "a.tif", POINT)))[0] == [500_004.75, 4_099_982.25]


def test_a_turned_image_has_a_matrix(tmp_path: Path) -> None:
    found = layer(geotiff(tmp_path / "a.tif", UTM_33, matrix=(0, 2, 100, 3, 0, 200)))
    assert corners(found) == [[x, y] for x in (140, 172) for y in (230, 290)]


def test_boxes_in_another_size_are_brought_to_that_of_the_file(tmp_path: Path) -> None:
    half = layer(geotiff(tmp_path / "a.tif", UTM_33), size_hw=(20, 30))
    assert corners(half)[0] == [500_010, 4_099_964] and half["features"][0]["properties"]["box"] == [10, 20, 30, 36]


@pytest.mark.parametrize(
    "keys", [(33550, "d", 3, (0, 0, 0)), (33550, "d", 3, (float("nan"), 1, 0)), (33550, "H", 3, (1, 1, 0))]
)
def test_where_no_coordinates_are_known_they_are_pixels(keys: tuple[Any, ...], tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((40, 60), np.uint8), photometric="minisblack", extratags=[keys])
    Image.new("L", (60, 40)).save(tmp_path / "a.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.open(geotiff(tmp_path / "b.tif", UTM_33)).save(tmp_path / "c.tif", exif=turned)
    for path in (tmp_path / "a.tif", tmp_path / "a.png", tmp_path / "c.tif", tmp_path / "photos.zip" / "a.tif", None):
        found = layer(path)
        assert found["crs"] is None and corners(found) == [[x, y] for x in (10, 30) for y in (20, 36)]


def test_a_reference_system_of_its_own_has_no_number(tmp_path: Path) -> None:
    place = read_georeference(geotiff(tmp_path / "a.tif", (3072, 0, 1, 32767)))
    assert place is not None and place.epsg is None


def test_each_image_is_a_layer_and_a_track_keeps_its_number(tmp_path: Path) -> None:
    path = str(geotiff(tmp_path / "a.tif", UTM_33))
    found = Detections.of(
        [[0, 0, 9, 9]], [0.5], [0], classes=SHIPS, size_hw=(40, 60), track_ids=np.array([3]), path=path
    )
    found.save(tmp_path / "one.geojson")
    write_detections([found, Detections.empty(SHIPS, (40, 60), path="b.png")], tmp_path / "out", "geojson")
    assert (tmp_path / "out" / "a.geojson").read_text() == (tmp_path / "one.geojson").read_text()
    assert json.loads((tmp_path / "one.geojson").read_text())["features"][0]["properties"]["track_id"] == 3
    assert json.loads((tmp_path / "out" / "b.geojson").read_text())["features"] == []


def test_the_command_line_writes_layers_beside_the_drawings(tmp_path: Path) -> None:
    assert run(["predict", str(STREET), "--format", "geojson", "-o", str(tmp_path)]) == 0
    (written,) = (tmp_path / "geojson").iterdir()
    assert len(json.loads(written.read_text())["features"]) > 0 and (tmp_path / "street.jpg").exists()
