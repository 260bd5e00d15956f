"""Our four torchvision forms of Faster R-CNN against torchvision's own, with the same random weights."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from aweigh.models import PUBLISHED, create
from aweigh.models.faster_rcnn import FasterRCNN
from aweigh.structures import Images
from aweigh.weights.coco import COCO_CLASSES

from .rcnn import DETECTION, LOSSES, SIZES, losses_of_the_same_samples, make_pair, pictures_of, targets_of

FORMS = {
    "faster_rcnn_resnet50_fpn_torchvision": DETECTION.fasterrcnn_resnet50_fpn,
    "faster_rcnn_resnet50_fpn_v2_torchvision": DETECTION.fasterrcnn_resnet50_fpn_v2,
    "faster_rcnn_mobilenet_v3_large_fpn": DETECTION.fasterrcnn_mobilenet_v3_large_fpn,
    "faster_rcnn_mobilenet_v3_large_320_fpn": DETECTION.fasterrcnn_mobilenet_v3_large_320_fpn,
}
PARAMETERS = [41_755_286, 43_712_278, 19_386_354, 19_386_354]


@pytest.fixture(scope="module", params=list(FORMS))
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, FasterRCNN]:
    return make_pair(request.param, FORMS[request.param])


@pytest.mark.parametrize("sizes", SIZES)
@torch.inference_mode()
def test_features_and_proposals_are_equal(pair, sizes) -> None:
    reference, ours = pair
    pictures = pictures_of(sizes)
    batch, _ = reference.transform(pictures)
    features = reference.backbone(batch.tensors)
    objectness, _ = reference.rpn.head(list(features.values()))
    raw = ours.network(Images.stack(pictures).pixels)
    for theirs, mine in zip(features.values(), raw.features, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    for theirs, mine in zip(objectness, raw.proposed.objectness, strict=True):
        torch.testing.assert_close(mine, theirs.permute(0, 2, 3, 1).flatten(1), atol=1e-4, rtol=1e-4)
    assert torch.equal(
        torch.cat(raw.proposed.anchors), reference.rpn.anchor_generator(batch, list(features.values()))[0]
    )
    expected, _ = reference.rpn(batch, features)
    boxes, _, count = ours.proposer.propose(raw.proposed, torch.tensor(sizes))
    # On MobileNet the pooled level repeats a quarter of the cells below it, with the same scores.
    in_order = 0.9 if "mobilenet" in ours.builder else 0.99
    for theirs, mine, number in zip(expected, boxes, count.tolist(), strict=True):
        assert len(theirs) == number > 100
        apart = (theirs[:, None] - mine[None, :number]).abs().amax(dim=-1)  # scores that are equal change places
        assert (apart.amin(dim=1) < 0.01).all() and (apart.amin(dim=0) < 0.01).all()
        assert (apart.diagonal() < 0.01).float().mean() > in_order


@pytest.mark.parametrize("sizes", SIZES)
@torch.inference_mode()
def test_detections_are_equal(pair, sizes) -> None:
    reference, ours = pair
    pictures = pictures_of(sizes)
    images = Images.stack(pictures)
    for theirs, mine in zip(reference(pictures), ours(images), strict=True):
        assert len(mine) == len(theirs["boxes"]) > 20
        torch.testing.assert_close(mine.boxes, theirs["boxes"], atol=0.01, rtol=0)
        torch.testing.assert_close(mine.scores, theirs["scores"], atol=1e-5, rtol=0)
        assert torch.equal(mine.labels + 1, theirs["labels"])


def test_losses_of_the_same_samples_are_equal(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, targets = pictures_of(SIZES[0]), targets_of(SIZES[0])
    expected, losses = losses_of_the_same_samples(*pair, pictures, targets, monkeypatch)
    assert set(losses) == set(LOSSES.values())
    for theirs, mine in LOSSES.items():
        torch.testing.assert_close(losses[mine], expected[theirs], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_as_torchvision_publishes_it(tmp_path: Path, form: str) -> None:
    """91 rows and "nothing" first, old names, no counters: the rows of the 80 named classes arrive, "nothing" last."""
    torch.manual_seed(0)
    reference = FORMS[form](weights=None, weights_backbone=None, num_classes=91)
    state = {key: value for key, value in reference.state_dict().items() if "num_batches" not in key}
    if "_v2_" not in form:  # the first files are older than the numbering by blocks
        old = {}
        for key, value in state.items():
            key = re.sub(r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2.", key)
            old[key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")] = value
        state = old
    torch.save(state, tmp_path / "weights.pth")
    ours = create(form, weights=tmp_path / "weights.pth")
    assert ours.record.name == ("torchvision_v2" if "_v2_" in form else "torchvision") and ours.classes == COCO_CLASSES
    given = reference.roi_heads.box_predictor
    assert torch.equal(ours.box_predictor.logits.weight, given.cls_score.weight[[*COCO_CLASSES.ids, 0]])
    boxes = given.bbox_pred.weight.unflatten(0, (91, 4))[list(COCO_CLASSES.ids)].flatten(0, 1)
    assert torch.equal(ours.box_predictor.deltas.weight, boxes)
    eps = {module.eps for module in ours.backbone.modules() if isinstance(module, nn.BatchNorm2d)}
    assert eps == ({0.0} if form == "faster_rcnn_resnet50_fpn_torchvision" else {1e-5})


@pytest.mark.parametrize(("form", "parameters"), list(zip(FORMS, PARAMETERS)))
def test_parameters_are_those_of_torchvision(form: str, parameters: int) -> None:
    """With its 90 classes and a box of "nothing" that ours does not have; the norms of all but one are fixed."""
    norm = {"backbone_norm": "bn" if "_v2_" in form else "frozen_bn"}
    with torch.device("meta"):
        model = create(form, num_classes=90, **norm)
    assert sum(value.numel() for value in model.parameters() if value.requires_grad) + 4 * 1025 == parameters


def test_the_small_one_proposes_little_on_small_pictures() -> None:
    with torch.device("meta"):
        large, small = (create(form, num_classes=3) for form in list(FORMS)[2:])
    assert large.proposer.test_proposals == (1000, 1000) and small.proposer.test_proposals == (150, 150)
    assert large.proposer.train_proposals == small.proposer.train_proposals == (2000, 2000)
    resize = PUBLISHED["faster_rcnn_mobilenet_v3_large_320_fpn"]["torchvision"].resize
    assert resize == {"short": 320, "long": 640, "antialias": False}
