"""Our four torchvision forms of Faster R-CNN against torchvision's own, with the same random weights."""

import re
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from aweigh.models import PUBLISHED, create
from aweigh.models.faster_rcnn import FasterRCNN
from aweigh.ops.matching import balanced_sample, by_overlap
from aweigh.ops.roi import numbered
from aweigh.structures import Classes, Images, Targets
from aweigh.weights.coco import COCO_CLASSES
from aweigh.weights.convert.torchvision import faster_rcnn_from_torchvision

NUM_CLASSES = 7  # of ours; torchvision counts "nothing" too
FORMS = {
    "faster_rcnn_resnet50_fpn_torchvision": torchvision.models.detection.fasterrcnn_resnet50_fpn,
    "faster_rcnn_resnet50_fpn_v2_torchvision": torchvision.models.detection.fasterrcnn_resnet50_fpn_v2,
    "faster_rcnn_mobilenet_v3_large_fpn": torchvision.models.detection.fasterrcnn_mobilenet_v3_large_fpn,
    "faster_rcnn_mobilenet_v3_large_320_fpn": torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn,
}
SIZES = [[(192, 256), (192, 256)], [(333, 500)]]


class _NoResize(GeneralizedRCNNTransform):
    def resize(self, image, target=None):
        return image, target


@pytest.fixture(scope="module", params=list(FORMS))
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, FasterRCNN]:
    torch.manual_seed(0)
    reference = FORMS[request.param](weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1)
    reference.transform = _NoResize((1,), 10**6, reference.transform.image_mean, reference.transform.image_std)
    disturb(reference.eval())
    ours = create(request.param, classes=Classes.numbered(NUM_CLASSES))
    ours.load_state_dict(faster_rcnn_from_torchvision(reference.state_dict(), keep_rows=None))
    return reference.eval(), ours.eval()


def disturb(reference: nn.Module) -> None:
    """Weights for which outputs are far from constant."""
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    with torch.no_grad():
        pixels = torch.rand(3, 333, 500, generator=torch.Generator().manual_seed(833))
        maps = reference.backbone(reference.transform([pixels])[0].tensors)
        features = list(maps.values())
        head = reference.rpn.head
        for convolution in head.conv:
            convolution[0].weight *= 3
        logits, deltas = head(features)
        head.cls_logits.weight *= 4 / max(level.abs().max() for level in logits)
        head.bbox_pred.weight *= 1 / max(level.abs().max() for level in deltas)
        regions = reference.roi_heads.box_roi_pool(maps, [torch.tensor([[10.0, 10, 200, 150]])], [(333, 500)])
        logits, deltas = reference.roi_heads.box_predictor(reference.roi_heads.box_head(regions))
        reference.roi_heads.box_predictor.cls_score.weight *= 3 / logits.abs().max()
        reference.roi_heads.box_predictor.bbox_pred.weight *= 2 / deltas.abs().max()


def _images(sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(map(sum, sizes)))
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def _targets(sizes: list[tuple[int, int]]) -> list[Targets]:
    generator = torch.Generator().manual_seed(1)
    targets = []
    for height, width in sizes:
        corner = torch.rand(6, 2, generator=generator) * torch.tensor([width, height]) * 0.7
        size = 20 + torch.rand(6, 2, generator=generator) * torch.tensor([width, height]) * 0.3
        boxes = torch.cat([corner, corner + size], dim=1)
        targets.append(Targets(boxes, torch.randint(0, NUM_CLASSES, (6,), generator=generator)))
    return targets


@pytest.mark.parametrize("sizes", SIZES)
@torch.inference_mode()
def test_features_and_proposals_are_equal(pair, sizes) -> None:
    reference, ours = pair
    pictures = _images(sizes)
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
    boxes, count = ours.proposer.propose(raw.proposed, torch.tensor(sizes))
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
    pictures = _images(sizes)
    images = Images.stack(pictures)
    for theirs, mine in zip(reference(pictures), ours(images), strict=True):
        assert len(mine) == len(theirs["boxes"]) > 20
        torch.testing.assert_close(mine.boxes, theirs["boxes"], atol=0.01, rtol=0)
        torch.testing.assert_close(mine.scores, theirs["scores"], atol=1e-5, rtol=0)
        assert torch.equal(mine.labels + 1, theirs["labels"])


def test_losses_of_the_same_samples_are_equal(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision draws at random, we do not: its samples are exchanged for ours."""
    reference, ours = pair
    sizes = SIZES[0]
    pictures, targets = _images(sizes), _targets(sizes)
    raw = ours.network(Images.stack(pictures).pixels)
    losses = ours.loss(raw, targets)
    regions, index = ours.sample_regions(raw, targets)

    chosen = []
    for image, target in enumerate(targets):
        objectness = torch.cat(raw.proposed.objectness, dim=1)[image]
        found = by_overlap(torch.cat(raw.proposed.anchors), target.boxes, positive=0.7, negative=0.3)
        chosen.append((found, balanced_sample(found, count=256, positive_fraction=0.5, seed=objectness.detach().sum())))

    def sampler(labels):
        for (found, _), theirs in zip(chosen, labels, strict=True):
            assert torch.equal((found >= 0).float() - (found == -2).float(), theirs)
        positive = [torch.isin(torch.arange(len(found)), rows) & (found >= 0) for found, rows in chosen]
        negative = [torch.isin(torch.arange(len(found)), rows) & (found == -1) for found, rows in chosen]
        return positive, negative

    def select_training_samples(proposals, given):
        labels = [torch.where(rows >= 0, t.labels[rows.clamp(min=0)] + 1, 0) for rows, t in zip(index, targets)]
        boxes = [t.boxes[rows.clamp(min=0)] for rows, t in zip(index, targets)]
        return regions, index, labels, reference.roi_heads.box_coder.encode(boxes, regions)

    monkeypatch.setattr(reference.rpn, "fg_bg_sampler", sampler)
    monkeypatch.setattr(reference.roi_heads, "select_training_samples", select_training_samples)
    reference.train()
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    expected = reference(pictures, [{"boxes": t.boxes, "labels": t.labels + 1} for t in targets])
    reference.eval()
    names = {
        "loss_objectness": "objectness",
        "loss_rpn_box_reg": "proposals",
        "loss_classifier": "classification",
        "loss_box_reg": "box",
    }
    for theirs, mine in names.items():
        torch.testing.assert_close(losses[mine], expected[theirs], rtol=1e-5, atol=1e-6)
    assert sum(int((rows >= 0).sum()) for rows in index) > 10 and len(numbered(regions)) > 100


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


@pytest.mark.parametrize(("form", "parameters"), zip(FORMS, [41_755_286, 43_712_278, 19_386_354, 19_386_354]))
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
