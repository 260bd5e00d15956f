"""A failed step: it is kept whole, computed again to the same bits, and what made it fail is found."""

import json
import math
from dataclasses import replace

import pytest
import torch

from aweigh import distributed
from aweigh.errors import AweighError, DataError, UsageError
from aweigh.inference.device import How
from aweigh.inference.memory import is_out_of_memory, out_of_memory
from aweigh.layers import SyncBatchNorm2d
from aweigh.models import fcos
from aweigh.ops.losses import normalised_together
from aweigh.training.debug.crash import read_bundle, write_bundle
from aweigh.training.debug.replay import blame, examine
from aweigh.training.prepare import prepare
from aweigh.training.step import TrainingLosses, batch_losses

CPU = How(torch.device("cpu"))


@pytest.fixture
def run(configure, tmp_path):
    run = prepare(configure(), tmp_path / "run")
    run.model.train()
    run.step = 123
    return run


@pytest.fixture
def batch(run):
    return next(iter(run.loader))


def keep(run, group, **changes):
    what = {"reason": "a test", "losses": {"box": math.nan}, "gradient_norm": math.nan}
    return write_bundle(run, group, **what | changes, random_state=torch.get_rng_state())


def objects(batch, image):
    return batch.targets[image].ids.tolist()


@pytest.mark.parametrize(
    ("model", "arguments", "accumulate"),
    [
        ("fcos_shufflenet_v2_x0_5_fpn", ("channels=32", "head_convs=1"), 1),
        ("fcos_resnet18_fpn", ("channels=32", "head_convs=1"), 2),
    ],
)
def test_the_step_is_computed_again_to_the_last_bit(configure, tmp_path, model, arguments, accumulate):
    run = prepare(configure(model=model, arguments=arguments, channels_last=accumulate == 1), tmp_path / "run")
    run.model.train()
    group = [batch for batch, _ in zip(run.loader, range(accumulate), strict=False)]
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    seen = {}
    for part in group:
        for name, value in batch_losses(run, TrainingLosses(run), part).items():
            seen[name] = seen.get(name, 0) + value.detach() / len(group)
    run.model.load_state_dict(before)  # the running statistics of before the step
    folder = keep(run, group, losses={name: float(value) for name, value in seen.items()})
    assert all(torch.equal(before[name], value) for name, value in run.model.state_dict().items())

    bundle = read_bundle(folder)
    state = torch.get_rng_state()
    again = bundle.examine()
    assert again.losses == bundle.record["losses"] == {name: float(value) for name, value in seen.items()}
    assert not again.failed and again.module is None and again.operation == ""
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in bundle.model.state_dict().items())


def test_a_bundle_says_what_was_in_the_step(run, batch):
    folder = keep(run, [batch])
    assert folder == run.folder / "crash-000123"
    assert {path.name for path in folder.iterdir()} == {"crash.json", "batch.safetensors", "model.safetensors"}
    assert [path.name for path in run.folder.iterdir()] == ["crash-000123"]  # nothing half written beside it
    record = json.loads((folder / "crash.json").read_text())
    assert record["losses"] == {"box": "nan"} and record["config"]["lr"] == 0.01 and record["step"] == 123
    for image, told in enumerate(record["batches"][0]["images"]):
        assert told["id"] == batch.image_ids[image] and told["file"].endswith(f"/{told['id'] - 100}.png")
        assert [entry["annotation"] for entry in told["objects"]] == objects(batch, image)
        assert {entry["class"] for entry in told["objects"]} <= {"box", "ball"}
    levels = record["examination"]["levels"]
    assert len(levels) == 5 and set(levels[0]["losses"]) == {"classification", "box", "centerness"}
    kept = read_bundle(folder).batches[0]
    assert torch.equal(kept.images.pixels, batch.images.pixels)
    for one, other in zip(kept.targets, batch.targets, strict=True):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("boxes", "labels", "ids", "area"))
    assert keep(run, [batch]).name == "crash-000123-2"


def test_levels_add_up_to_the_whole(run, batch):
    """The sum over positive points divided by their number: alone, each level is divided by its own number."""
    found = examine(run.model, [batch], CPU)
    assert found.levels[0].name == "0 (12 x 12)" and found.levels[4].name == "4 (1 x 1)"
    boxes = [level.losses["box"] for level in found.levels]
    assert boxes[0] == pytest.approx(found.losses["box"]) and boxes[1:] == [0, 0, 0, 0]  # toys are small
    assert (
        sum(level.losses["classification"] for level in found.levels[1:])
        < 1e-2
        < found.levels[0].losses["classification"]
    )


def test_weights_that_are_lost_are_named(run, batch):
    with torch.no_grad():
        run.model.neck.lateral[1].weight[0, 0] = math.inf
    found = examine(run.model, [batch], CPU)
    assert found.failed and found.bad_weights == ["neck.lateral.1.weight"]
    assert found.module.name == "neck.lateral.1" and found.module.inputs_finite and not found.module.weights_finite


def test_a_module_whose_output_overflows_is_named_with_its_line(run, batch):
    with torch.no_grad():
        run.model.head.box_tower[0].weight[0] = 3e38
    found = examine(run.model, [batch], CPU)
    assert found.bad_weights == [] and found.largest_weight == ("head.box_tower.0.weight", pytest.approx(3e38))
    assert found.module.name == "head.box_tower.0" and found.module.kind == "Conv2d"
    assert found.module.inputs_finite and found.module.weights_finite and 0 < found.module.bad_share < 1
    assert found.operation.startswith("convolution at models/fcos.py:")
    assert "self.box_tower(feature)" in found.operation
    levels = read_bundle(keep(run, [batch])).record["examination"]["levels"]
    assert levels[0]["raw"]["distances"][2] < 1 and levels[0]["raw"]["logits"][2] == 1


def test_a_step_of_a_huge_learning_rate_is_told_from_bad_data(run, batch):
    for group in run.optimizer.param_groups:
        group["lr"] = 1e20
    sum(run.model.loss(run.model.network(batch.images.pixels), batch.targets).values()).backward()
    run.optimizer.step()
    bundle = read_bundle(keep(run, [batch]))
    found = bundle.examine()
    assert found.failed and found.largest_weight[1] > 1e15 and found.bad_weights == []
    assert found.module is not None and found.module.inputs_finite
    assert bundle.record["lr"] == pytest.approx(1e20 / run.optimizer.param_groups[0]["lr_factor"])
    assert not any(bundle.blame(0).annotations.values())


def broken_loss(monkeypatch, width, change):
    """Let the loss of boxes of this width go wrong."""
    sound = fcos.box_loss

    def broken(boxes, targets, kind, **rest):
        wrong = (targets[:, 2] - targets[:, 0] - width).abs() < 0.01
        loss = sound(boxes, targets, kind, **rest)
        return loss + torch.zeros_like(loss).masked_scatter(wrong, change(boxes[wrong]))

    monkeypatch.setattr(fcos, "box_loss", broken)


def test_the_image_and_annotation_that_make_nan_are_found(run, batch, monkeypatch):
    target = batch.targets[2]
    width = float(target.boxes[1, 2] - target.boxes[1, 0])
    broken_loss(monkeypatch, width, lambda boxes: (-1 - boxes[:, 0].detach().abs()).sqrt())
    bundle = read_bundle(keep(run, [batch]))
    found = bundle.examine()
    assert math.isnan(found.losses["box"]) and math.isfinite(found.losses["classification"])
    assert found.module is None and found.operation.startswith("sqrt at models/fcos.py:")
    blamed = bundle.blame(0)
    assert blamed.images == [2] and blamed.annotations == {2: [1]} and blamed.by_themselves is None
    repaired = replace(batch, targets=[*batch.targets[:2], target[:1], *batch.targets[3:]])
    assert blame(run.model, repaired, CPU).images == []


def test_a_gradient_that_is_not_finite_is_followed_to_its_line(run, batch, monkeypatch):
    target = batch.targets[1]
    width = float(target.boxes[0, 2] - target.boxes[0, 0])
    broken_loss(monkeypatch, width, lambda boxes: (boxes[:, 0] - boxes[:, 0].detach()).abs().sqrt())
    found = examine(run.model, [batch], CPU)
    assert all(map(math.isfinite, found.losses.values())) and math.isnan(found.gradient_norm)
    assert found.failed and found.module is None and found.operation == ""
    assert found.bad_gradient.startswith("head.")
    assert found.gradient_operation.startswith("Sqrt at models/fcos.py:")
    assert found.levels[0].gradients["distances"][2] < 1 == found.levels[0].gradients["logits"][2]
    assert blame(run.model, batch, CPU).annotations == {1: [0]}


def test_what_raises_is_found_too(run, batch):
    wrong = replace(batch.targets[3], labels=torch.tensor([0, 9]))
    bundle = read_bundle(keep(run, [replace(batch, targets=[*batch.targets[:3], wrong])]))
    assert "label 9" in bundle.examine().error and "label 9" in bundle.record["examination"]["error"]
    assert bundle.blame(0).annotations == {3: [1]}


class Other(torch.nn.Module):
    """A detector that is nothing like the others: no pyramid, no list, its output in a mapping."""

    needs_proposals = False
    needs_sizes = False

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 2, 3)

    def network(self, pixels):
        return {"scores": self.layer(pixels), "scale": torch.ones(len(pixels) * 2)}

    def loss(self, raw, targets):
        wanted = torch.stack([target.boxes.sum() for target in targets])
        return {"only": ((raw["scores"].mean(dim=(1, 2, 3)) - wanted) ** 2).sum()}


def test_a_detector_of_another_structure_is_looked_into_all_the_same(batch):
    model = Other()
    assert not examine(model, [batch], CPU).failed and examine(model, [batch], CPU).levels == []
    huge = torch.tensor([[0, 0, 1e25, 1e25]])
    targets = [*batch.targets[:2], replace(batch.targets[2], boxes=torch.cat([batch.targets[2].boxes[:1], huge]))]
    bad = replace(batch, targets=[*targets, batch.targets[3]])
    found = examine(model, [bad], CPU)
    assert found.failed and found.operation.startswith("pow at test_crash.py:")
    assert blame(model, bad, CPU).annotations == {2: [1]}


def test_other_processes_are_not_waited_for(run, batch, monkeypatch):
    """They are asked for the normalisers of losses, and for the statistics of a synchronised normalisation."""
    synchronised = Other()
    synchronised.layer = torch.nn.Sequential(synchronised.layer, SyncBatchNorm2d(2))
    models = (run.model, synchronised)
    before = [examine(model, [batch], CPU).losses for model in models]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)  # asking them would raise here
    with pytest.raises(ValueError, match="process group"), normalised_together(distributed.mean):
        run.model.loss(run.model.network(batch.images.pixels), batch.targets)
    with pytest.raises(ValueError, match="process group"):
        synchronised.network(batch.images.pixels)
    assert [examine(model, [batch], CPU).losses for model in models] == before
    assert [blame(model, batch, CPU).images for model in models] == [[], []]


def test_of_several_batches_the_one_that_goes_bad_is_told_of(run):
    good, bad = run.loader
    bad.images.pixels[1, 0, 3, 3] = math.nan
    found = examine(run.model, [good, bad], CPU)
    assert found.batch == 1 and found.module is not None and not found.module.inputs_finite
    assert found.levels[0].raw["logits"][2] < 1


@pytest.mark.parametrize("name", ["batch.safetensors", "model.safetensors", "crash.json"])
def test_a_bundle_that_is_not_whole_is_said_to_be_so(run, batch, name):
    path = keep(run, [batch]) / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"not whole|truncated"):
        read_bundle(path.parent)


def test_a_folder_that_is_no_bundle(run, batch):
    keep(run, [batch])
    with pytest.raises(UsageError, match="crash-000123; give one of these"):
        read_bundle(run.folder)
    with pytest.raises(UsageError, match="no folder"):
        read_bundle(run.folder / "nothing")
    record = run.folder / "crash-000123" / "crash.json"
    for change in ({"format": 99}, {"precision": "int3"}, {"batches": []}, {"losses": 3}, {"config": 1}):
        original = record.read_text()
        record.write_text(json.dumps(json.loads(original) | change))
        with pytest.raises(AweighError, match="format 99" if "format" in change else "not whole"):
            read_bundle(record.parent)
        record.write_text(original)


def test_out_of_memory_names_images_and_what_to_turn(batch):
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
    assert is_out_of_memory(error) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    crowded = replace(batch, targets=[batch.targets[0], batch.targets[1][:0], *batch.targets[2:]])
    text = str(out_of_memory(error, crowded, accumulate=3))
    assert "4 images of 96 x 96" in text and "batch = 2 with accumulate = 6" in text and "\n" not in text
    height, width = batch.images.sizes_hw[0]
    assert f"{batch.image_ids[0]} ({width} x {height}, 2 objects)" in text
    assert text.index(f"{batch.image_ids[1]} (") > text.index(f"{batch.image_ids[3]} (")  # the fullest first
