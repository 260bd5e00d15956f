"""`geojson`: a folder with one layer per image for maps (RFC 7946), each box a polygon; holds no masks, no keypoints.

Of a GeoTIFF the corners are in its own coordinates, longitude and latitude or those of its projection, whose number in
EPSG's registry the member `crs` names, as GDAL and QGIS read it. Of any other image, one in an archive included, they
are in its pixels, y down, and `crs` is null. Each polygon keeps its box in pixels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.detections import Detections
from aweigh.geometry.frames import Frame
from aweigh.images.geotiff import Georeference, read_georeference
from aweigh.results.format import FileEach, shortest

LONGITUDE_LATITUDE = 4326  # EPSG's number of WGS 84, which GeoJSON has where nothing is said


def geojson_text(detections: Detections) -> str:
    path = Path(detections.path or "")
    place = read_georeference(path) if path.is_file() else None
    boxes = detections.boxes.astype(np.float64)
    rings = boxes[:, [[0, 3], [2, 3], [2, 1], [0, 1]]]  # [N, 4, 2], counter-clockwise where y points up
    if place is not None:
        rings = place.points(Frame.resize(detections.size_hw, place.size_hw).points(rings))
    columns = (rings, shortest(boxes), shortest(detections.scores), detections.names, detections.category_ids)
    features: list[dict[str, Any]] = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [_closed(ring)]},
            "properties": {"class": name, "category_id": category, "score": score, "box": box},
        }
        for ring, box, score, name, category in zip(*columns, strict=True)
    ]
    if detections.track_ids is not None:
        for feature, track in zip(features, detections.track_ids.tolist(), strict=True):
            feature["properties"]["track_id"] = track
    layer = {"type": "FeatureCollection", "name": path.name, **_reference(place), "features": features}
    return json.dumps(layer) + "\n"


def _closed(ring: np.ndarray) -> list[list[float]]:
    """Corners `[4, 2]` counter-clockwise, the first again at the end."""
    x, y = ring.T
    clockwise = np.dot(x, np.roll(y, -1)) < np.dot(y, np.roll(x, -1))
    ordered = ring[::-1] if clockwise else ring
    return [*ordered.tolist(), ordered[0].tolist()]


def _reference(place: Georeference | None) -> dict[str, Any]:
    """The member `crs`; none for longitude and latitude."""
    if place is None or place.epsg is None:
        return {"crs": None}
    if place.epsg == LONGITUDE_LATITUDE:
        return {}
    return {"crs": {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{place.epsg}"}}}


FORMAT = FileEach(geojson_text, ".geojson", left_out=("masks", "keypoints", "cuboids"), file="geojson")
