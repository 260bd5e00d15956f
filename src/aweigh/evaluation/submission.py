"""What the server of COCO takes: a zip of one JSON, both called after what is found, the images, and the algorithm.

Source: cocodataset.org, "upload" and "format of results". `detections_...` holds boxes, and masks where there are any;
`person_keypoints_...` keypoints. Of an image the server looks at the best 100 detections, or the best 20 poses.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from aweigh.errors import UsageError, did_you_mean
from aweigh.files import atomic_file

IMAGE_SETS = ("val2017", "test-dev2017", "test-challenge2017")
MOST = {"detections": 100, "person_keypoints": 20}  # of an image


@dataclass(frozen=True)
class Submission:
    """Where a submission goes. folder: of the zip. image_set: one of `IMAGE_SETS`. algorithm: its name."""

    folder: Path
    image_set: str
    algorithm: str

    @staticmethod
    def named(name: str, annotations: Path) -> Submission:
        """Of the name of an algorithm, behind a folder or alone, and the file that lists the images.

        `UsageError` where the server knows no such images, or a name would be none of a file's.
        """
        image_set = annotations.stem.rpartition("_")[2]
        if image_set not in IMAGE_SETS:
            raise UsageError(
                f"--submission: COCO's server takes results of {', '.join(IMAGE_SETS)}, as the list of the images is "
                f"called (image_info_test-dev2017.json), not of {annotations.name}."
                f"{did_you_mean(image_set, IMAGE_SETS)}"
            )
        algorithm = Path(name).name
        if not re.fullmatch(r"[A-Za-z0-9-]+", algorithm) or name.endswith("/"):
            raise UsageError(
                f"--submission {name}: the name of an algorithm is of letters, digits and hyphens, such as "
                "my-detector; underscores divide the parts of the names of files that the server takes."
            )
        return Submission(Path(name).parent, image_set, algorithm)

    def write(self, results: Sequence[Mapping[str, Any]]) -> list[Path]:
        """Write results of COCO's form, with the image and category ids of the data, and return the zips.

        Keypoints and what else was found are two submissions. Raises `OSError` where the folder cannot be written.
        """
        with_keypoints = any("keypoints" in entry for entry in results)
        without = not with_keypoints or any("segmentation" in entry for entry in results)
        self.folder.mkdir(parents=True, exist_ok=True)
        kinds = ["detections"] * without + ["person_keypoints"] * with_keypoints
        return [self._write(kind, results) for kind in kinds]

    def _write(self, kind: str, results: Sequence[Mapping[str, Any]]) -> Path:
        stem = f"{kind}_{self.image_set}_{self.algorithm}_results"
        path = self.folder / f"{stem}.zip"
        entries = of_keypoints(results) if kind == "person_keypoints" else of_boxes(results)
        with (
            atomic_file(path) as aside,
            zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open(f"{stem}.json", "w") as raw,
            TextIOWrapper(raw, "utf-8") as file,
        ):
            file.write("[")
            for number, entry in enumerate(entries):
                file.write((",\n" if number else "\n") + json.dumps(entry))
            file.write("\n]\n")
        return path


def of_boxes(results: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The best 100 of each image: boxes to hundredths of a pixel, and masks as they are."""
    for entry in best(results, MOST["detections"]):
        mask = {"segmentation": entry["segmentation"]} if "segmentation" in entry else {}
        yield {**_of_each(entry), "bbox": [round(float(value), 2) for value in entry["bbox"]], **mask}


def of_keypoints(results: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The best 20 of each image: places to tenths of a pixel, each with 1 for its visibility, which nobody reads."""
    for entry in best((entry for entry in results if "keypoints" in entry), MOST["person_keypoints"]):
        x, y = entry["keypoints"][::3], entry["keypoints"][1::3]
        points = [value for place in zip(x, y, strict=True) for value in (*(round(float(v), 1) for v in place), 1)]
        yield {**_of_each(entry), "keypoints": points}


def best(results: Iterable[Mapping[str, Any]], most: int) -> Iterator[Mapping[str, Any]]:
    """Of each image so many entries, those of the highest scores, image by image."""
    of_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in results:
        of_image[entry["image_id"]].append(entry)
    for entries in of_image.values():
        yield from sorted(entries, key=lambda entry: -entry["score"])[:most]


def _of_each(entry: Mapping[str, Any]) -> dict[str, Any]:
    ids = {name: int(entry[name]) for name in ("image_id", "category_id")}
    return {**ids, "score": round(float(entry["score"]), 5)}
