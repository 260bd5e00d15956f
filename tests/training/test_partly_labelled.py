"""Two sets with different classes, united and trained: what each was not labelled for teaches nothing."""

import json
from dataclasses import replace

import pytest
import torch
from tests.runs import write_coco

from aweigh.edit.merge import merge
from aweigh.layouts.load import load_split
from aweigh.layouts.save import save_dataset
from aweigh.ops import losses
from aweigh.training import prepare as preparing
from aweigh.training.batch_size import worst_batch, worst_of
from aweigh.training.debug.crash import read_bundle, write_bundle
from aweigh.training.train import train


@pytest.fixture(scope="module")
def united(tmp_path_factory):
    """A set labelled for boxes and one labelled for balls, in images that show both; a guess in each image."""
    root = tmp_path_factory.mktemp("united")
    for name, category, seed in (("boxes", 1, 0), ("balls", 7, 1)):
        write_coco(root / name, {"train": 8, "val": 4}, objects=4, seed=seed)
        for file in (root / name / "annotations").iterdir():
            data = json.loads(file.read_text())
            data["annotations"] = [entry for entry in data["annotations"] if entry["category_id"] == category]
            data["categories"] = [entry for entry in data["categories"] if entry["id"] == category]
            guess = {"category_id": category, "iscrowd": 1, "uncertain": True, "bbox": [4, 4, 20, 20], "area": 400}
            data["annotations"] += [
                {"id": 900 + number, "image_id": image["id"], **guess} for number, image in enumerate(data["images"])
            ]
            file.write_text(json.dumps(data))
    sources = {name: {s: load_split(root / name, s) for s in ("train", "val")} for name in ("boxes", "balls")}
    save_dataset(merge(sources).splits, root / "all", "coco")
    return root / "all"


def test_what_is_known_reaches_the_loss_of_twenty_steps(united, configure, tmp_path, quiet, monkeypatch):
    asked = []

    def noted(points, boxes, labels, uncertain, known, *rest):
        asked.append((known.tolist(), labels.tolist(), int(uncertain.sum())))
        return unknown_entries(points, boxes, labels, uncertain, known, *rest)

    unknown_entries = losses.unknown_entries
    monkeypatch.setattr(losses, "unknown_entries", noted)
    train(configure(data=str(united), batch=4, epochs=5), console=quiet)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row for row in log if row["kind"] == "step"][-1]["step"] == 20
    assert len(asked) >= 80 and all(guesses == 1 for _, _, guesses in asked)
    assert {tuple(known) for known, _, _ in asked} == {(True, False), (False, True)}
    assert all(known[label] for known, labels, _ in asked for label in labels)


def test_a_failed_step_keeps_both_and_so_does_the_worst_batch(united, configure, tmp_path):
    run = preparing.prepare(configure(data=str(united)), tmp_path / "run")
    batch = next(iter(run.loader))
    what = {"reason": "a test", "losses": {}, "gradient_norm": 0.0, "random_state": torch.get_rng_state()}
    again = read_bundle(write_bundle(run, [batch], **what)).batches[0]
    for before, after in zip(batch.targets, again.targets, strict=True):
        assert before.uncertain.sum() == 1 and torch.equal(before.uncertain, after.uncertain)
        assert not before.known.all() and torch.equal(before.known, after.known)
    change = replace(run.transform.augmentation, mixup=0.5)
    worst = worst_of(replace(run.train_set, transform=replace(run.transform, augmentation=change)), 32)
    tried = worst_batch(worst, run.train_set, 2)
    assert all(targets.uncertain.sum() == 2 and targets.known is not None for targets in tried.targets)
