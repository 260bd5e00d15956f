"""How much of an AP in space is more than chance: KITTI's numbers as predicted, and with what was learned taken away.

    python benchmarks/space_by_chance.py RUN/best.safetensors DATA --split val

Each row is measured by KITTI's rules, the mean over the classes of the moderate AP at 40 recalls, at the overlaps of
both tables of `aweigh eval`:

- predicted: what the detector says.
- depths exchanged: the depths of all detections of a class, among themselves at random. Boxes, sides and angles stay.
- angles exchanged: likewise.
- mean object: every detection has the mean sides and depth of its class in the training images, and an angle at
  random.
- anywhere: the mean object of a class at a place on the ground drawn from those of the training images, as often as
  the detector found it, in images at random.
"""

import argparse
from collections import defaultdict
from typing import Any

import numpy as np

from aweigh.annotations.split import Split
from aweigh.evaluation.kitti import NUMBERS
from aweigh.evaluation.space import LOOSE, kitti_metrics
from aweigh.inference.detect import detect
from aweigh.layouts.load import load_split
from aweigh.predictor import load

DEPTH, SIDES, ANGLE = slice(2, 3), slice(3, 6), slice(6, 7)


def exchanged(results: list[dict[str, Any]], columns: slice, random: np.random.Generator) -> list[dict[str, Any]]:
    """The results with some columns of their cuboids exchanged at random within each class."""
    rows = defaultdict(list)
    for number, result in enumerate(results):
        rows[result["category_id"]].append(number)
    changed = [dict(result) for result in results]
    for own in rows.values():
        for number, other in zip(own, random.permutation(own), strict=True):
            cuboid = list(results[number]["cuboid"])
            cuboid[columns] = results[other]["cuboid"][columns]
            changed[number]["cuboid"] = cuboid
    return changed


def of_mean(
    results: list[dict[str, Any]], train: Split, random: np.random.Generator, *, anywhere: bool
) -> list[dict[str, Any]]:
    """The results as the mean object of their class; anywhere: where one of the training images stands, too."""
    assert train.cuboids is not None
    changed = []
    images = [result["image_id"] for result in results]
    for result in results:
        label = train.classes.ids.index(result["category_id"])
        known = train.cuboids[(train.labels == label) & ~train.ignore & np.isfinite(train.cuboids).all(axis=1)]
        cuboid = np.array(result["cuboid"])
        cuboid[DEPTH], cuboid[SIDES] = known[:, DEPTH].mean(axis=0), known[:, SIDES].mean(axis=0)
        cuboid[ANGLE] = random.uniform(-np.pi, np.pi)
        changed.append({**result, "cuboid": cuboid.tolist()})
        if anywhere:
            cuboid[:3] = known[random.integers(len(known)), :3]
            changed[-1] |= {"cuboid": cuboid.tolist(), "image_id": int(random.choice(images))}
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("data")
    parser.add_argument("--split", default="val")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    predictor = load(given.checkpoint)
    train = load_split(given.data, "train")
    split = load_split(given.data, given.split, classes=list(predictor.classes.names))
    results = detect(predictor.engine.model, predictor.resize, split, batch=1).results
    random = np.random.default_rng(given.seed)
    forms = {
        "predicted": results,
        "depths exchanged": exchanged(results, DEPTH, random),
        "angles exchanged": exchanged(results, ANGLE, random),
        "mean object": of_mean(results, train, random, anywhere=False),
        "anywhere": of_mean(results, train, random, anywhere=True),
    }
    for overlaps, title in ((None, "overlaps of KITTI"), (LOOSE, f"overlaps {LOOSE}")):
        print(f"{split.name} of {given.data}, {len(split)} images, {title}")
        print(f"{'':<18}" + "".join(f"{text:>12}" for text in NUMBERS.values()))
        for name, form in forms.items():
            metrics = kitti_metrics(split, form, overlaps=overlaps)
            values = [np.mean([metrics.value(c, number) for c in metrics.classes]) for number in NUMBERS]
            print(f"{name:<18}" + "".join(f"{value:>12.3f}" for value in values))


if __name__ == "__main__":
    main()
