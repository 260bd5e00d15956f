"""Writing COCO: `annotations/instances_SPLIT.json`, `images/SPLIT/`.

Category, image and annotation ids, boxes, masks and keypoints are as the source has them, and every field that was not
understood is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aweigh.annotations.flat import Packed
from aweigh.annotations.split import LABELS_LOST, NOT_SAID, REVIEWED, Split
from aweigh.layouts.layout import MaskChoice
from aweigh.layouts.writing import extra_fields, lost_places, write_text


def write(splits: Mapping[str, Split], names: Mapping[str, Packed[str]], out: Path, _: MaskChoice) -> list[str]:
    (out / "annotations").mkdir()
    for key, split in splits.items():
        write_text(out / "annotations" / f"instances_{key}.json", json.dumps(_document(split, names[key])))
    return []


def cannot_hold(splits: Mapping[str, Split], _: MaskChoice) -> list[str]:
    return lost_places(splits)


def _document(split: Split, file_names: Sequence[str]) -> dict[str, Any]:
    """The split as a COCO file: as the source has it, with `reviewed`, `uncertain` and `label_sets`, see `coco.py`."""
    annotations = split.coco_annotations()
    for row, entry in enumerate(annotations):
        crowd, ignored = entry["iscrowd"] and not entry["difficult"], entry.pop("ignore")
        difficult = entry.pop("difficult")
        entry |= {"iscrowd": int(crowd), "segmentation": entry.get("segmentation", [])}
        entry |= {"ignore": ignored, "difficult": difficult} if difficult else {}
        entry |= extra_fields(split.extras, row)
    empty = np.diff(split.first) == 0
    images = []
    for row, (number, name, (height, width)) in enumerate(
        zip(split.image_ids.tolist(), file_names, split.sizes_hw.tolist(), strict=True)
    ):
        image = {"id": number, "file_name": name, "width": width, "height": height}
        if empty[row] and split.reviewed[row] != NOT_SAID:
            image["reviewed"] = bool(split.reviewed[row] == REVIEWED)
        if split.reviewed[row] == LABELS_LOST:
            image["labels_lost"] = True
        if split.label_sets is not None:
            image["label_set"] = int(split.label_sets.of_image[row])
        images.append(image | extra_fields(split.image_extras, row))
    header = {key: value for key, value in split.header.items() if key != "categories"}
    said = split.header.get("categories", {})
    categories = [entry | said.get(entry["name"], {}) for entry in split.coco_categories()]
    document = header | {"images": images, "annotations": annotations, "categories": categories}
    if split.label_sets is not None:
        ids = np.array(split.classes.ids)
        document["label_sets"] = [
            {"name": name, "category_ids": ids[known].tolist()}
            for name, known in zip(split.label_sets.names, split.label_sets.known, strict=True)
        ]
    return document
