"""Objects of detection data as a folder of classes: each box is cut out of its photograph.

    python benchmarks/classification_crops.py DATA [DATA ...] OUT

Boxes of at least LEAST_SIDE^2 pixels (crowd regions left out), of the classes that have LEAST_COUNT of them in the
training splits, at most MOST_COUNT of each, become OUT/train/CLASS/*.jpg and OUT/val/CLASS/*.jpg. A photograph of a
validation split gives none to train on. A small task on which a backbone can be trained, or compared, in minutes:

    aweigh train-backbone OUT --width 0.5 --size 64
"""

import argparse
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from aweigh.errors import AweighError, DataError, UsageError
from aweigh.images.reader import read_image
from aweigh.layouts.load import load_split

Crop = tuple[Path, int, tuple[int, int, int, int]]  # a photograph, the annotation and its box in whole pixels


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--least-side", type=int, default=32)
    parser.add_argument("--least-count", type=int, default=25)
    parser.add_argument("--most-count", type=int, default=60)
    options = parser.parse_args()
    try:
        counts = cut(options.data, options.out, options.least_side, options.least_count, options.most_count)
    except AweighError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for split, count in counts.items():
        print(f"{split}: {sum(count.values())} crops of {len(count)} classes")
    return 0


def cut(
    data: Sequence[Path], out: Path, least_side: int = 32, least_count: int = 25, most_count: int = 60
) -> dict[str, dict[str, int]]:
    """Write the crops of all classes that have enough; split -> class -> number."""
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty; name a new folder.")
    val = crops_by_class(data, "val", least_side)
    seen = {path.name for crops in val.values() for path, _, _ in crops}
    train = {
        name: [crop for crop in crops if crop[0].name not in seen]
        for name, crops in crops_by_class(data, "train", least_side).items()
    }
    classes = sorted(name for name, crops in train.items() if len(crops) >= least_count and name in val)
    if not classes:
        raise DataError(f"No class has {least_count} boxes of {least_side} pixels to train on, and one to validate.")
    counts = {}
    for split, found in (("train", train), ("val", val)):
        dice = random.Random(0)
        chosen = {name: dice.sample(found[name], min(most_count, len(found[name]))) for name in classes}
        write(chosen, out / split)
        counts[split] = {name: len(crops) for name, crops in chosen.items()}
    return counts


def crops_by_class(data: Sequence[Path], split_name: str, least_side: int) -> dict[str, list[Crop]]:
    """The objects of one split of all data sets that are large enough."""
    found: dict[str, list[Crop]] = defaultdict(list)
    for source in data:
        split = load_split(source, split_name)
        of_image = np.repeat(np.arange(len(split.paths)), np.diff(split.first))
        for row in np.flatnonzero(~split.ignore):
            x0, y0, x1, y1 = map(round, split.boxes[row].tolist())
            if (x1 - x0) * (y1 - y0) >= least_side**2:
                crop = (split.paths[of_image[row]], int(split.annotation_ids[row]), (x0, y0, x1, y1))
                found[split.classes.names[split.labels[row]]].append(crop)
    return found


def write(chosen: dict[str, list[Crop]], folder: Path) -> None:
    """One file for each crop; each photograph is read once."""
    by_photograph: dict[Path, list[tuple[str, Crop]]] = defaultdict(list)
    for name, crops in chosen.items():
        (folder / name).mkdir(parents=True)
        for crop in crops:
            by_photograph[crop[0]].append((name, crop))
    for path, crops in by_photograph.items():
        photograph = Image.fromarray(read_image(path))
        for name, (_, annotation, box) in crops:
            photograph.crop(box).save(folder / name / f"{path.stem}_{annotation}.jpg", quality=95)


if __name__ == "__main__":
    sys.exit(main())
