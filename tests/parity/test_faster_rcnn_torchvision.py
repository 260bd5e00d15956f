"""Our four torchvision forms of Faster R-CNN against torchvision's own, with the same random weights."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from aweigh.checkpoints.checkpoint import load_model, save_model, start_from
from aweigh.images.resize import Resize
from aweigh.models import PUBLISHED, create
from aweigh.models.faster_rcnn import FasterRCNN
from aweigh.structures import Images, Targets
from aweigh.weights.coco import COCO_CLASSES

from . import rcnn
from .rcnn import DETECTION, LOSSES, SIZES, losses_of_the_same_samples, make_pair, pictures_of, targets_of

FORMS = {
    "faster_rcnn_resnet50_fpn_torchvision": DETECTION.fasterrcnn_resnet50_fpn,
    "faster_rcnn_resnet50_fpn_v2_torchvision": DETECTION.fasterrcnn_resnet50_fpn_v2,
    "faster_rcnn_mobilenet_v3_large_fpn": DETECTION.fasterrcnn_mobilenet_v3_large_fpn,
    "faster_rcnn_mobilenet_v3_large_320_fpn": DETECTION.fasterrcnn_mobilenet_v3_large_320_fpn,
}
NO_CLASS = sorted({*range(1, 91)} - {*COCO_CLASSES.ids})
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
        rcnn.rows_as_theirs(mine, theirs)


def test_losses_of_the_same_samples_are_equal(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, targets = pictures_of(SIZES[0]), targets_of(SIZES[0])
    expected, losses = losses_of_the_same_samples(*pair, pictures, targets, monkeypatch)
    assert set(losses) == set(LOSSES.values())
    for theirs, mine in LOSSES.items():
        torch.testing.assert_close(losses[mine], expected[theirs], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_as_torchvision_publishes_it(tmp_path: Path, form: str) -> None:
    """91 rows and "nothing" first, old names, no counters: the rows of the 80 named classes arrive, then those of no
    class, "nothing" last."""
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
    rows = [*COCO_CLASSES.ids, *NO_CLASS, 0]
    assert torch.equal(ours.box_predictor.logits.weight, given.cls_score.weight[rows])
    boxes = given.bbox_pred.weight.unflatten(0, (91, 4))[list(COCO_CLASSES.ids)].flatten(0, 1)
    assert torch.equal(ours.box_predictor.deltas.weight, boxes)
    eps = {module.eps for module in ours.backbone.modules() if isinstance(module, nn.BatchNorm2d)}
    assert eps == ({0.0} if form == "faster_rcnn_resnet50_fpn_torchvision" else {1e-5})


@pytest.mark.parametrize("form", ["faster_rcnn_mobilenet_v3_large_320_fpn", "mask_rcnn_resnet50_fpn_torchvision"])
@torch.inference_mode()
def test_scores_of_every_class_are_those_of_all_91_rows(tmp_path: Path, form: str) -> None:
    """Dropping the ten rows of no class before the softmax would raise the scores of the others."""
    torch.manual_seed(0)
    build = FORMS.get(form, DETECTION.maskrcnn_resnet50_fpn)
    limit = {"rpn_post_nms_top_n_test": 30}  # each becomes up to 90 detections, with a mask in the second form
    reference = build(weights=None, weights_backbone=None, num_classes=91, **limit).eval()
    reference.transform = rcnn.NoResize((1,), 10**6, reference.transform.image_mean, reference.transform.image_std)
    rcnn.disturb(reference)
    reference.roi_heads.box_predictor.cls_score.weight *= 2
    reference.roi_heads.box_predictor.cls_score.bias[NO_CLASS[:3]] += 2  # so that they are found as well
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    ours = create(form, weights=tmp_path / "weights.pth", backbone_norm_eps=1e-5).eval()
    ours.proposer.test_proposals = (ours.proposer.test_proposals[0], 30)

    classifier = reference.roi_heads.box_predictor.cls_score
    features = torch.randn(300, classifier.in_features)
    features *= 4 / (features @ classifier.weight.T).std()  # a few classes stand out
    scores = classifier(features).softmax(dim=1)
    logits, _ = ours.box_predictor(features)
    torch.testing.assert_close(logits.softmax(dim=1)[:, :80], scores[:, list(COCO_CLASSES.ids)])
    assert (logits[:, [*range(80), 90]].softmax(dim=1)[:, :80] - scores[:, list(COCO_CLASSES.ids)]).max() > 0.05

    pictures = pictures_of([(160, 224)])
    reference.roi_heads.detections_per_img = ours.max_detections = 5000
    (theirs,), (mine,) = reference(pictures), ours(Images.stack(pictures))
    named = torch.isin(theirs["labels"], torch.tensor(COCO_CLASSES.ids))
    ids = np.array(COCO_CLASSES.ids)[mine.labels]
    assert int((~named).sum()) > 0 and len(mine) == int(named.sum()) > 50 and len(np.unique(ids)) > 5
    for category in np.unique(ids).tolist():
        expected, found = theirs["scores"][theirs["labels"] == category], mine.scores[ids == category]
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_a_detector_with_rows_of_no_class_is_saved_and_trained_on_other_classes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    form = "faster_rcnn_mobilenet_v3_large_320_fpn"
    published = create(form, classes=COCO_CLASSES, unused_rows=10)
    save_model(tmp_path / "coco.safetensors", published, resize=Resize())
    loaded, header = load_model(tmp_path / "coco.safetensors")
    assert header["arguments"] == {"unused_rows": 10} and loaded.box_predictor.logits.out_features == 91
    for own, unused in (({"unused_rows": 10}, 10), ({}, 0)):
        model = create(form, classes=["dog", "mug", "person"], **own).train()
        fresh = model.box_predictor.logits.weight.detach().clone()
        line = start_from(model, tmp_path / "coco.safetensors")
        rows, given = model.box_predictor.logits.weight, published.box_predictor.logits.weight
        assert torch.equal(rows[[0, 2]], given[[16, 0]]) and torch.equal(rows[1], fresh[1])
        assert torch.equal(rows[-1], given[-1]) and torch.equal(rows[3 : 3 + unused], given[80 : 80 + unused])
        assert line.endswith("rows kept by name: dog, person")
        losses = model(
            Images.stack(pictures_of([(96, 128)])), [Targets(torch.tensor([[8.0, 8, 60, 70]]), torch.tensor([2]))]
        )
        sum(losses.values()).backward()
        assert losses["classification"].isfinite() and rows.grad.isfinite().all() and rows.grad.abs().sum() > 0
    same = create(form, classes=COCO_CLASSES)  # its softmax has no rows of no class
    assert "rows kept by name: person" in start_from(same, tmp_path / "coco.safetensors")
    assert torch.equal(same.box_predictor.logits.weight[:80], published.box_predictor.logits.weight[:80])


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
