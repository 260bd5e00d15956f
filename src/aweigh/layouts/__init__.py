"""Annotation files as people have them: a layout is found in a folder, read, and written.

Each has a file of its own, which ends in what it knows of itself (see `Layout`). To add one, write its file and name it
here.
"""

from __future__ import annotations

from aweigh.layouts import boxes_csv, coco, createml, cvat, dota, kitti, labelme, labelstudio, via, voc, yolo
from aweigh.layouts.layout import Layout

# In the order in which a folder is tried: COCO holds more than the others.
LAYOUTS: dict[str, Layout] = {
    "coco": coco.LAYOUT,
    "kitti": kitti.LAYOUT,
    "voc": voc.LAYOUT,
    "dota": dota.LAYOUT,
    "yolo": yolo.LAYOUT,
    "labelme": labelme.LAYOUT,
    "via": via.LAYOUT,
    "labelstudio": labelstudio.LAYOUT,
    "cvat": cvat.LAYOUT,
    "createml": createml.LAYOUT,
    "csv": boxes_csv.LAYOUT,
}
