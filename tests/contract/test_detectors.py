"""What every form of detector must do, on tiny inputs. A new one is tested here without a line of its own.

`forms.py` says which entries of DETECTORS are the same detector on another body; `test_forms.py` compares these.
"""

import copy
import json
from dataclasses import is_dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch
from tests.contract.forms import FORMS, REPEATS, without_weights
from tests.contract.lively import CLASSES, NARROW, SIZES, images, lively, tiny
from tests.detections import assert_same_detections
from torch import nn

from aweigh.detections import Detections
from aweigh.errors import UsageError
from aweigh.explanation.outcome import outcome_of
from aweigh.geometry.frames import Frame
from aweigh.inference.engine import TorchEngine
from aweigh.models import create
from aweigh.models.detector import UNSAID, Detector, network_inputs
from aweigh.runtime.engine import Batch
from aweigh.runtime.tta import TTA, find
from aweigh.structures import Images, Targets

RUN = [pytest.param(name, marks=[pytest.mark.thorough] if name in REPEATS else []) for name in FORMS]


@pytest.fixture(scope="module", params=RUN)  # so that all tests of one builder follow each other
def model(request: pytest.FixtureRequest) -> nn.Module:
    """Built once and shared: tests that train it or change its weights take a copy."""
    return lively(request.param)


def targets(model: nn.Module) -> list[Targets]:
    boxes = torch.tensor([[8.0, 10.0, 40.0, 60.0], [50.0, 20.0, 90.0, 60.0]])
    given = [Targets(boxes, torch.tensor([0, 2])), Targets(torch.tensor([[5.0, 5, 35, 80]]), torch.tensor([1]))]
    return [with_extras(model, target, size_hw) for target, size_hw in zip(given, SIZES, strict=True)]


def with_extras(model: nn.Module, target: Targets, size_hw: tuple[int, int]) -> Targets:
    """The same objects with what the model says of each beside its box: ellipses, keypoints along a diagonal, a car."""
    corner, side = target.boxes[:, :2], target.boxes[:, 2:] - target.boxes[:, :2]
    y, x = (torch.arange(size) + 0.5 for size in size_hw)
    away_x, away_y = ((at - corner[:, i, None]) / side[:, i, None] - 0.5 for i, at in enumerate((x, y)))
    masks = away_y[:, :, None].square() + away_x[:, None, :].square() < 0.25  # [N, H, W]
    count = len(model.keypoint_set) if "keypoints" in model.extras else 0
    places = corner[:, None] + side[:, None] * torch.linspace(0.05, 0.95, count)[:, None]  # [N, K, 2]
    sizes = torch.tensor([12.0, 1.5, 1.6, 4, 0.3]).expand(len(target), 5)  # depth, height, width, length, angle
    extras = {"masks": masks, "keypoints": torch.cat([places, torch.full_like(places[..., :1], 2)], dim=2)}
    extras["cuboids"] = torch.cat([corner + side / 2, sizes], dim=1)
    return replace(target, **{name: extras[name] for name in model.extras})


@pytest.mark.parametrize("name", FORMS)
def test_it_offers_what_the_contract_lists(name: str) -> None:
    model = without_weights(name)
    assert isinstance(model, Detector)
    assert (model.builder, model.arguments, model.record) == (name, {}, None)
    assert is_dataclass(model.selection) and model.pixel_mean.shape == (3,) and model.stride_divisor >= 1
    assert isinstance(model.classification_body(), nn.Module) and isinstance(model.needs_proposals, bool)
    assert isinstance(model.extras, tuple) and {*model.extras} <= {"masks", "keypoints", "cuboids"}
    assert (model.keypoint_set is None) == ("keypoints" not in model.extras)
    for what in (model.assign, model.candidates, model.average_flipped, model.propose):
        assert what is None or callable(what)
    if model.assign is not None or model.candidates is not None:
        assert model.candidates is not None and model.strides == tuple(sorted(model.strides))


def test_what_lacks_a_part_of_the_contract_is_no_detector() -> None:
    whole = without_weights("fcos_shufflenet_v2_x0_5_fpn")
    assert isinstance(whole, Detector) and not isinstance(whole.backbone, Detector)
    for name in ("selection", "classes", *UNSAID):
        kind = type("Half", (nn.Module,), {key: value for key, value in vars(type(whole)).items() if key != name})
        half = kind.__new__(kind)
        half.__dict__ = {key: value for key, value in vars(whole).items() if key != name}
        assert not isinstance(half, Detector), name


@pytest.fixture(scope="module")
def detections(model: nn.Module) -> list[Detections]:
    return model(images())


@pytest.fixture(scope="module")
@torch.no_grad()
def losses(model: nn.Module) -> dict[str, torch.Tensor]:
    """In evaluation mode; of a copy, so that what a loss would leave behind is seen where it is looked for."""
    return copy.deepcopy(model)(images(), targets(model))


def rows(found: Detections) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return found.boxes, found.scores, found.labels


@torch.no_grad()
def test_its_answers_lead_to_its_detections(model: nn.Module) -> None:
    """Those that pass all gates and suppression are what `decode` gives, to the last digit but one."""
    for row, size_hw in enumerate(SIZES):
        image = Images(images().pixels[row : row + 1], [size_hw], images().proposals[row : row + 1])
        raw = model.network(*network_inputs(model, image))
        (found,), outcome = model.decode(raw, [size_hw]), outcome_of(model.answers(raw, torch.tensor([size_hw])))
        assert outcome.labels[outcome.kept].tolist() == found.labels.tolist()
        torch.testing.assert_close(outcome.kept_scores, torch.from_numpy(found.scores), atol=1e-6, rtol=0)
        torch.testing.assert_close(outcome.boxes[outcome.kept], torch.from_numpy(found.boxes), atol=1e-3, rtol=0)
        before = outcome.answers.before
        assert (before is not None) == (model.propose is not None and not model.needs_proposals)
        if before is not None:
            proposed, scores, count = model.propose(raw, torch.tensor([size_hw]))
            regions = outcome_of(before)
            torch.testing.assert_close(regions.boxes[regions.kept], proposed[0, : int(count)], atol=1e-3, rtol=0)
            torch.testing.assert_close(regions.kept_scores, scores[0, : int(count)], atol=1e-6, rtol=0)


def test_detections_lie_inside_each_image(model: nn.Module, detections: list[Detections]) -> None:
    assert [type(found) for found in detections] == [Detections, Detections]
    assert sum(map(len, detections)) > 0
    for found, (height, width) in zip(detections, SIZES, strict=True):
        assert found.size_hw == (height, width) and found.classes == CLASSES
        assert (found.boxes >= 0).all() and (found.boxes <= [width, height] * 2).all()
        assert (found.boxes[:, 2:] >= found.boxes[:, :2]).all()
        assert (found.labels >= 0).all() and (found.labels < len(CLASSES)).all()
        assert ((found.scores > 0) & (found.scores <= 1)).all() and (np.diff(found.scores) <= 0).all()
        assert len(found) <= model.max_detections


def test_the_colour_of_padding_is_nothing_to_the_backbone(model: nn.Module) -> None:
    padding = model.pixel_mean[None, :, None, None].expand(1, 3, 8, 8)
    assert (model.backbone.normalise(padding) == 0).all()


@torch.no_grad()
def test_losses_do_not_depend_on_the_mode_and_are_finite(model: nn.Module, losses: dict[str, torch.Tensor]) -> None:
    assert losses and all(value.ndim == 0 and value.isfinite() and value > 0 for value in losses.values())
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    for name, value in model(images(), targets(model)).items():
        torch.testing.assert_close(value, losses[name])


def test_every_trainable_parameter_has_a_gradient(model: nn.Module) -> None:
    model = copy.deepcopy(model).train()
    # Objects of several sizes, so that every feature level has something to learn.
    size = (192, 192)
    boxes = torch.tensor([[10.0, 10, 40, 40], [40, 40, 140, 120], [10, 10, 190, 190]])
    target = with_extras(model, Targets(boxes, torch.tensor([0, 1, 2])), size)
    sum(model(images([size]), [target]).values()).backward()
    without = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not without
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)


def test_a_batch_without_objects(model: nn.Module) -> None:
    model = copy.deepcopy(model).train()
    ignored = Targets(torch.tensor([[0.0, 0, 40, 40]]), torch.tensor([0]), ignore=torch.tensor([True]))
    losses = model(images([(64, 64)] * 2), [Targets.empty(), ignored])
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)


# One detector for each form of loss, on a small body. The other forms add up the same terms.
LOSSES = [
    ("fcos_shufflenet_v2_x0_5_fpn", {}),
    ("fcos_shufflenet_v2_x0_5_fpn", {"assignment": "adaptive"}),
    ("fcos_shufflenet_v2_x0_5_fpn", {"box_loss": "iou", "weigh_boxes": False, "normalise_distances": False}),
    ("fcos_shufflenet_v2_x0_5_fpn", {"quality": "iou"}),
    ("fcos_shufflenet_v2_x0_5_lite", {}),
    ("retinanet_shufflenet_v2_x1_0_fpn", {}),
    ("retinanet_shufflenet_v2_x1_0_fpn", {"assignment": "adaptive"}),
    ("retinanet_shufflenet_v2_x1_0_fpn", {"box_loss": "smooth_l1", "normaliser": "moving"}),
    ("efficientdet_lite0", {}),
    ("faster_rcnn_mobilenet_v3_large_320_fpn", {}),
    ("faster_rcnn_resnet18_fcos_rpn", {"channels": 32}),
    *((f"{kind}_rcnn_resnet18_fpn", {"channels": 32}) for kind in ("fast", "mask", "keypoint", "mask_keypoint")),
    ("light_head_rcnn_shufflenet_v2", {}),
    *((f"centernet_shufflenet_v2_x0_5_lite{kind}", {}) for kind in ("", "_pose", "_3d")),
    ("cornernet_shufflenet_v2_x0_5_lite", {}),
    ("cornernet_saccade", NARROW["cornernet_saccade"] | {"stem_channels": 8}),
    ("centernet_triplets_shufflenet_v2_x0_5_lite", {}),
    ("foveabox_resnet18_fpn", {"channels": 32}),
]


@pytest.mark.parametrize(("name", "arguments"), LOSSES)
def test_ten_steps_on_nothing_but_empty_images(name: str, arguments: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = create(name, classes=CLASSES, **arguments).train()
    tiny(model, sampled=2)  # both of nothing
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.01)
    for _ in range(10):
        optimizer.zero_grad()
        loss = sum(model(images([(64, 64)]), [Targets.empty()]).values())
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)


def kind(model: nn.Module) -> tuple[object, ...]:
    """What decides of which terms the loss of a detector is the sum."""
    return type(model), type(getattr(model, "proposer", None)), model.extras


@cache
def trained() -> set[tuple[object, ...]]:
    return {kind(without_weights(name)) for name in dict(LOSSES)}


def test_ten_steps_are_trained_with_its_kind_of_loss(model: nn.Module) -> None:
    assert kind(model) in trained()


def test_a_batch_equals_its_images_one_by_one(model: nn.Module) -> None:
    same_size = [(64, 96), (64, 96)]
    batch = images(same_size)
    together = model(batch)
    for index, found in enumerate(together):
        own = slice(index, index + 1)
        (alone,) = model(Images(batch.pixels[own], same_size[:1], batch.proposals[own]))
        assert_same_detections(rows(alone), rows(found))


def test_what_lies_in_the_padding_gives_no_detection_and_no_target(model: nn.Module) -> None:
    padded = replace(images([(96, 128)]), sizes_hw=[(60, 70)])
    (found,) = model(padded)
    assert (found.boxes <= [70, 60, 70, 60]).all()


def test_with_a_flip_a_mirrored_picture_gives_mirrored_detections(model: nn.Module) -> None:
    given = images([(64, 96)])
    batch = Batch(given.pixels.numpy(), given.sizes_hw, given.proposals.numpy())
    engine, sizes, tta = TorchEngine(model), given.sizes_hw, TTA(flip=True, merge="nms")
    (found,), (mirrored,) = (find(engine, [seen], sizes, tta) for seen in (batch, batch.mirrored()))
    mirrored = mirrored.moved(Frame.mirror(96), (64, 96))
    assert 0 < len(found) <= model.max_detections
    assert {*model.extras} <= {name for name, value in vars(found).items() if value is not None}
    if model.average_flipped is not None:  # where offsets are those of the plain image
        np.testing.assert_allclose(mirrored.scores, found.scores, rtol=1.3e-6, atol=1e-5)
    else:
        assert_same_detections(rows(mirrored), rows(found))


@torch.no_grad()
def test_select_is_decode_with_padding(model: nn.Module) -> None:
    raw = model.network(*network_inputs(model, images()))
    boxes, scores, labels, count, *extras = model.select(raw, torch.tensor(SIZES))
    limit = model.max_detections
    assert boxes.shape == (2, limit, 4) and scores.shape == labels.shape == (2, limit) and count.shape == (2,)
    for index, found in enumerate(model.decode(raw, SIZES)):
        assert int(count[index]) == len(found)
        np.testing.assert_array_equal(boxes[index, : len(found)], found.boxes)
        assert scores[index, len(found) :].eq(0).all()
        for name, values in zip(model.extras, extras, strict=True):
            assert values.shape[:2] == (2, limit) and values[index, len(found) :].eq(0).all()
            np.testing.assert_array_equal(values[index, : len(found)], getattr(found, name))


def test_the_state_survives_a_round_trip(model: nn.Module, detections: list[Detections]) -> None:
    rebuilt = tiny(create(model.builder, classes=model.classes, **json.loads(json.dumps(model.arguments))))
    rebuilt.load_state_dict(model.state_dict())
    for expected, got in zip(detections, rebuilt.eval()(images()), strict=True):
        np.testing.assert_array_equal(got.boxes, expected.boxes)
        np.testing.assert_array_equal(got.scores, expected.scores)


@torch.no_grad()
def test_forward_changes_nothing(model: nn.Module, losses: dict[str, torch.Tensor]) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = set(vars(model))
    again = model(images(), targets(model))
    assert set(vars(model)) == attributes
    assert all(torch.equal(losses[name], again[name]) for name in losses)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_label_out_of_range_is_named(model: nn.Module) -> None:
    wrong = Targets(torch.tensor([[5.0, 5, 50, 50]]), torch.tensor([3]))
    with pytest.raises(UsageError, match=r"image 1 has label 3.*labels 0 to 2"):
        model(images(), [Targets.empty(), wrong])


def test_an_ignored_region_gives_no_classification_gradient_inside(model: nn.Module) -> None:
    sizes = [(64, 64)] * 2  # the region covers all of them, so there is nothing to learn
    region = Targets(torch.tensor([[-8.0, -8, 200, 200]]), torch.tensor([0]), ignore=torch.tensor([True]))
    model = copy.deepcopy(model).train()
    losses = model(images(sizes), [region] * 2)
    sum(losses.values()).backward()
    for name, value in model.named_parameters():
        if value.grad is not None:
            assert value.grad.abs().max() == 0, name
