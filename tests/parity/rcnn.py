"""Pairs of torchvision's R-CNN and ours with the same random weights, and the images they are compared on."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from tests.detections import assert_same_detections
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.models import create
from aweigh.models.faster_rcnn import FasterRCNN
from aweigh.ops.matching import balanced_sample, by_overlap
from aweigh.structures import Images, Targets
from aweigh.weights.convert.torchvision import faster_rcnn_from_torchvision

NUM_CLASSES = 7  # of ours; torchvision counts "nothing" too
PROPOSED, SAMPLED = 150, 128  # regions of an image to find and to train on; some heads cost a billion operations each
SIZES = [[(128, 192), (128, 192)], [(147, 226)]]
# For what is said of regions beside boxes: the features under them are compared for both.
FOR_REGIONS = [SIZES[0], pytest.param(SIZES[1], marks=pytest.mark.thorough)]
DETECTION = torchvision.models.detection
LOSSES = {
    "loss_objectness": "objectness",
    "loss_rpn_box_reg": "proposals",
    "loss_classifier": "classification",
    "loss_box_reg": "box",
}


class NoResize(GeneralizedRCNNTransform):
    def resize(self, image, target=None):
        return image, target


def rows_as_theirs(found: Detections, expected: dict[str, Tensor]) -> Tensor:
    """Which of ours each of torchvision's detections is; asserts that all are there. Their label 0 is nothing."""
    theirs = expected["boxes"], expected["scores"], expected["labels"]
    return assert_same_detections((found.boxes, found.scores, found.labels + 1), theirs)


def make_pair(name: str, build: Callable[..., nn.Module], **options: object) -> tuple[nn.Module, FasterRCNN]:
    """Torchvision's detector and ours of that name, both in evaluation mode. options: of torchvision's."""
    torch.manual_seed(0)
    options = {"rpn_post_nms_top_n_test": PROPOSED, **options}
    reference = build(weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1, **options)
    reference.transform = NoResize((1,), 10**6, reference.transform.image_mean, reference.transform.image_std)
    disturb(reference.eval())
    ours = create(name, classes=Classes.numbered(NUM_CLASSES))
    ours.load_state_dict(faster_rcnn_from_torchvision(reference.state_dict(), keep_rows=None))
    before, _ = ours.proposer.test_proposals
    ours.proposer.test_proposals, ours.sampled = (before, PROPOSED), SAMPLED
    return reference.eval(), ours.eval()


def disturb(reference: nn.Module) -> None:
    """Weights for which outputs are far from constant."""
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    with torch.no_grad():
        pixels = torch.rand(3, 333, 500, generator=torch.Generator().manual_seed(833))
        if "0" in reference.backbone.body:  # MobileNet, at whose end the image would be lost
            for module in reference.backbone.body.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 1.0
            reference.backbone.body.train()(pixels[None])
            reference.eval()
        maps = reference.backbone(reference.transform([pixels])[0].tensors)
        features = list(maps.values())
        head = reference.rpn.head
        for convolution in head.conv:
            convolution[0].weight *= 3
        logits, deltas = head(features)
        head.cls_logits.weight *= 4 / max(level.abs().max() for level in logits)
        head.bbox_pred.weight *= 1 / max(level.abs().max() for level in deltas)
        of_regions = reference.roi_heads
        where = (maps, [torch.tensor([[10.0, 10, 200, 150]])], [(333, 500)])
        logits, deltas = of_regions.box_predictor(of_regions.box_head(of_regions.box_roi_pool(*where)))
        of_regions.box_predictor.cls_score.weight *= 3 / logits.abs().max()
        of_regions.box_predictor.bbox_pred.weight *= 2 / deltas.abs().max()
        if of_regions.has_mask():
            logits = of_regions.mask_predictor(of_regions.mask_head(of_regions.mask_roi_pool(*where)))
            of_regions.mask_predictor.mask_fcn_logits.weight *= 4 / logits.abs().max()
        if of_regions.has_keypoint():
            logits = of_regions.keypoint_predictor(of_regions.keypoint_head(of_regions.keypoint_roi_pool(*where)))
            of_regions.keypoint_predictor.kps_score_lowres.weight *= 4 / logits.abs().max()


def pictures_of(sizes: list[tuple[int, int]]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(map(sum, sizes)))
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def targets_of(sizes: list[tuple[int, int]]) -> list[Targets]:
    generator = torch.Generator().manual_seed(1)
    targets = []
    for height, width in sizes:
        corner = torch.rand(6, 2, generator=generator) * torch.tensor([width, height]) * 0.7
        size = 20 + torch.rand(6, 2, generator=generator) * torch.tensor([width, height]) * 0.3
        boxes = torch.cat([corner, corner + size], dim=1)
        targets.append(Targets(boxes, torch.randint(0, NUM_CLASSES, (6,), generator=generator)))
    return targets


@torch.no_grad()
def losses_of_the_same_samples(
    reference: nn.Module,
    ours: FasterRCNN,
    pictures: list[Tensor],
    targets: list[Targets],
    monkeypatch: pytest.MonkeyPatch,
    *extras: str,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Torchvision draws at random, we do not: its samples are exchanged for ours. Returns its losses and ours.

    extras: fields of targets that both are given beside boxes and labels.
    """
    raw = ours.network(Images.stack(pictures).pixels)
    losses = ours.loss(raw, targets)
    regions, index = ours.sample_regions(raw, targets)
    assert sum(int((rows >= 0).sum()) for rows in index) > 10 and sum(map(len, regions)) > 100

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
    given = [{"boxes": t.boxes, "labels": t.labels + 1, **{name: getattr(t, name) for name in extras}} for t in targets]
    expected = reference(pictures, given)
    reference.eval()
    return expected, losses
