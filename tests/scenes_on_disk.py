"""Images for tests that differ as photographs do, and data sets of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 160, 120


def scene(seed: int, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Soft patches of colour, of other places for every seed."""
    patches = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)


def entry(number: int, image: int, box: list[float], category: int = 1) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": 0,
    }


def write_coco(
    root: Path, split: str, pictures: dict[str, Image.Image], annotations: list[dict[str, Any]], **changes: Any
) -> Path:
    """One split in COCO's layout; image ids are 1, 2, ... in the order of the images."""
    folder = root / "images" / split
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        picture.save(folder / name, quality=92)
    images = [
        {"id": number, "file_name": name, "width": picture.width, "height": picture.height}
        for number, (name, picture) in enumerate(pictures.items(), start=1)
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories} | changes
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root
