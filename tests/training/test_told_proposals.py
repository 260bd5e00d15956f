"""Training and failed steps of a detector that is told where to look; proposals of every image of a split."""

import json
import math

import numpy as np
import pytest
import torch
from tests.runs import write_coco

from aweigh.errors import DataError, UsageError
from aweigh.images.reader import read_image
from aweigh.images.resize import Resize
from aweigh.inference.device import How
from aweigh.layouts.load import load_split
from aweigh.models import create
from aweigh.ops.boxes import pairwise_iou
from aweigh.proposals.from_detector import propose
from aweigh.structures import Images
from aweigh.training.batch_size import worst_batch, worst_of
from aweigh.training.debug.crash import read_bundle, write_bundle
from aweigh.training.debug.replay import blame
from aweigh.training.prepare import prepare
from aweigh.training.step import TrainingLosses, batch_losses
from aweigh.training.train import train

FAST = {"model": "fast_rcnn_resnet18_fpn", "arguments": ("channels=8", "box_size=2", "sampled=16"), "epochs": 1}


def written(split, path, *, seed=0):
    """Ten boxes in each image, five of them near an object, as a file."""
    rng = np.random.default_rng(seed)
    found = []
    for row in range(len(split)):
        height, width = split.sizes_hw[row].tolist()
        corner = rng.uniform(0, 0.6, (5, 2)) * [width, height]
        near = split.boxes[split.first[row] : split.first[row + 1]]
        near = near[rng.integers(len(near), size=5)] + rng.normal(0, 3, (5, 4)) if len(near) else np.zeros((0, 4))
        boxes = np.concatenate([near, np.concatenate([corner, corner + rng.uniform(8, 30, (5, 2))], axis=1)])
        found.append((boxes, rng.random(len(boxes))))
    split.proposed(found, number=10, made={"data": "toys"}).write(path)


@pytest.fixture(scope="session")
def files(toys, tmp_path_factory):
    folder = tmp_path_factory.mktemp("proposals")
    paths = {}
    for name in ("train", "val"):
        paths[name] = str(folder / f"{name}.safetensors")
        written(load_split(toys, name), paths[name])
    return paths


def test_a_run_learns_and_is_validated_and_drawn(configure, files, quiet) -> None:
    config = configure(**FAST, proposals_file=files["train"], val_proposals_file=files["val"], mosaic=0.5, crop=0.5)
    folder = train(config, console=quiet)
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "step"]
    assert len(steps) == 2 and all(math.isfinite(row["loss"]) and row["loss_box"] > 0 for row in steps)
    (epoch,) = (row for row in rows if row["kind"] == "epoch")
    assert {"val_loss_classification", "val_loss_box"} < epoch.keys() and "loss_proposals" not in epoch
    for name in ("best.safetensors", "val_predictions.png", "inputs_train.png"):
        assert (folder / name).is_file()


def test_what_the_data_must_bring_is_checked_before_the_first_step(configure, files, tmp_path) -> None:
    with pytest.raises(UsageError, match="fast_rcnn_resnet18_fpn proposes no regions itself: give proposals_file"):
        prepare(configure(**FAST), tmp_path / "run")
    with pytest.raises(UsageError, match="fcos_shufflenet_v2_x0_5_fpn proposes regions itself; leave it out"):
        prepare(configure(proposals_file=files["train"]), tmp_path / "run")
    with pytest.raises(
        DataError,
        match=r"of val .* is another image than that of the same name .*made for train of toys|pixels in val",
    ):
        prepare(configure(**FAST, proposals_file=files["train"]), tmp_path / "run")
    part = prepare(configure(**FAST, proposals_file=files["train"], val_split="none"), tmp_path / "run")
    assert part.data.train.proposals is not None and part.data.val is None


def test_validation_images_set_aside_have_those_of_the_training_file(configure, tmp_path) -> None:
    only = write_coco(tmp_path / "only", {"train": 6})
    written(load_split(only, "train"), tmp_path / "p.safetensors")
    run = prepare(configure(**FAST, data=str(only), proposals_file=str(tmp_path / "p.safetensors")), tmp_path / "run")
    assert len(run.data.val) == 1 and len(run.data.val.objects(0)["proposals"]) > 0


def test_a_failed_step_keeps_them_and_is_computed_again(configure, files, tmp_path) -> None:
    run = prepare(configure(**FAST, proposals_file=files["train"], val_split="none"), tmp_path / "run")
    run.model.train()
    batch = next(iter(run.loader))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    seen = batch_losses(run, TrainingLosses(run), batch)
    run.model.load_state_dict(before)
    what = {"reason": "a test", "losses": {}, "gradient_norm": math.nan, "random_state": torch.get_rng_state()}
    bundle = read_bundle(write_bundle(run, [batch], **what))
    assert torch.equal(bundle.batches[0].images.proposals, batch.images.proposals)
    assert bundle.examine().losses == {name: float(value) for name, value in seen.items()}
    assert bundle.record["examination"]["losses"] == bundle.examine().losses

    class Broken(type(run.model)):
        def loss(self, raw, targets):
            """Not finite where the second image's first proposal is among those of the batch."""
            bad = (raw.proposed[:, 0] == batch.images.proposals[1, 0]).all()
            return {name: value * (math.nan if bad else 1) for name, value in super().loss(raw, targets).items()}

    run.model.__class__ = Broken
    found = blame(run.model, batch, How(torch.device("cpu")))
    assert found.images == [1]


def test_the_worst_batch_has_some(configure, files, tmp_path) -> None:
    run = prepare(configure(**FAST, proposals_file=files["train"], val_split="none"), tmp_path / "run")
    worst = worst_of(run.train_set, run.model.stride_divisor)
    batch = worst_batch(worst, run.train_set, 2)
    assert batch.images.proposals.shape == (2, 10, 4)
    assert all(value.isfinite() for value in batch_losses(run, TrainingLosses(run), batch).values())


@pytest.mark.parametrize("name", ["faster_rcnn_resnet18_fpn", "faster_rcnn_resnet18_fcos_rpn"])
@torch.no_grad()
def test_proposals_of_a_split_are_those_of_its_pictures_in_their_own_pixels(toys, name: str) -> None:
    torch.manual_seed(0)
    model = create(name, num_classes=2, channels=8, box_size=2).eval()
    split, resize = load_split(toys, "val"), Resize(64, 96)
    done = []
    found, problems, unread = propose(
        model, resize, split, number=7, batch=1, progress=lambda *numbers: done.append(numbers)
    )
    assert problems == unread == [] and list(found.files) == split.file_names() and np.diff(found.first).max() == 7
    assert done[-1] == (4, 4) and found.made["data_hash"] == split.content_hash and found.made["number"] == 7
    for row, path in enumerate(split.paths):
        images = Images.stack([torch.from_numpy(resize(read_image(path)))])
        (height, width), (h, w) = split.sizes_hw[row].tolist(), images.sizes_hw[0]
        boxes, scores, count = model.proposer.propose(model.network(images.pixels).proposed, torch.tensor([(h, w)]))
        number = int(count[0])
        expected = boxes[0, :number].numpy() * np.array([width / w, height / h] * 2, np.float32)
        np.testing.assert_allclose(found.of_image(row), expected, atol=1e-3, rtol=0)
        own = found.scores[found.first[row] : found.first[row + 1]]
        torch.testing.assert_close(torch.tensor(own), scores[0, :number], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_detector_without_a_proposal_network_gives_its_boxes_of_any_class(toys) -> None:
    torch.manual_seed(0)
    model = create("fcos_shufflenet_v2_x0_5_fpn", num_classes=2, channels=32, head_convs=1).eval()
    assert len(model(Images.stack([torch.rand(3, 64, 96)]))[0]) == 0  # all its scores are below its threshold
    found, _, unread = propose(model, Resize(64, 96), load_split(toys, "val"), number=40, batch=2)
    assert unread == [] and (np.diff(found.first) > 10).all() and (np.diff(found.first) <= 40).all()
    overlap = pairwise_iou(*[torch.from_numpy(found.of_image(0))] * 2).fill_diagonal_(0)
    assert 0.5 < overlap.max() <= 0.7
    with pytest.raises(UsageError, match="fast_rcnn_resnet18_fpn proposes no regions itself"):
        propose(create("fast_rcnn_resnet18_fpn", num_classes=2), Resize(), load_split(toys, "val"), number=5)


def test_a_picture_that_cannot_be_read_has_none(tmp_path) -> None:
    root = write_coco(tmp_path / "toys", {"val": 3})
    split = load_split(root, "val")
    split.paths[1].write_bytes(b"no picture")
    torch.manual_seed(0)
    model = create("faster_rcnn_resnet18_fpn", num_classes=2, channels=8, box_size=2).eval()
    found, problems, unread = propose(model, Resize(64, 96), split, number=5, batch=2)
    assert unread == [1]
    assert np.diff(found.first).tolist() == [5, 0, 5] and [problem.where for problem in problems] == [
        str(split.paths[1])
    ]
