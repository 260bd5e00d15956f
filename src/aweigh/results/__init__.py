"""Detections as files, ours and those of other programs.

Each format of detections has a file of its own, which ends in what it knows of itself (see `aweigh.results.format`). To
add one, write its file and name it here.
"""

from __future__ import annotations

from aweigh.results import coco_list, csv, cvat, geojson, jsonl, kitti, labelme, labelstudio, mot, parquet, voc, yolo
from aweigh.results.format import Format

FORMATS: dict[str, Format] = {
    "jsonl": jsonl.FORMAT,
    "coco": coco_list.FORMAT,
    "csv": csv.FORMAT,
    "mot": mot.FORMAT,
    "parquet": parquet.FORMAT,
    "yolo": yolo.FORMAT,
    "voc": voc.FORMAT,
    "kitti": kitti.FORMAT,
    "labelme": labelme.FORMAT,
    "geojson": geojson.FORMAT,
    "labelstudio": labelstudio.FORMAT,
    "cvat": cvat.FORMAT,
}
