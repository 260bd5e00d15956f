"""Small data sets on disk, in every layout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Make = Callable[..., Path]


def picture(path: Path, width: int = 40, height: int = 30) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 120, 150)).save(path)
    return path


def coco_dict(boxes: list[list[float]], **changes: Any) -> dict[str, Any]:
    """Two images of 40 x 30, all boxes in the first; category ids 3 (cat) and 7 (dog)."""
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 30} for n in (1, 2)],
        "annotations": [
            {"id": 10 + n, "image_id": 1, "category_id": 3, "bbox": box, "area": box[2] * box[3] / 2, "iscrowd": 0}
            for n, box in enumerate(boxes)
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    } | changes


@pytest.fixture
def coco(tmp_path: Path) -> Make:
    """`coco(dict)` writes annotations/instances_train.json and images/1.png, images/2.png; returns the folder."""

    def make(data: dict[str, Any] | None = None, *, root: Path = tmp_path / "set") -> Path:
        data = coco_dict([[5, 5, 10, 10]]) if data is None else data
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / "annotations" / "instances_train.json").write_text(json.dumps(data))
        for number in (1, 2):
            picture(root / "images" / f"{number}.png")
        return root

    return make


def voc_xml(objects: list[tuple[str, list[float], int]], width: int = 40, height: int = 30) -> str:
    items = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin>"
        f"<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, box, difficult in objects
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>x.png</filename>{size}{items}</annotation>"
