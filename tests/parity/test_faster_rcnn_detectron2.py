"""Detectron2's forms of Faster R-CNN against plain ones written from its documents, for the same random weights."""

import math
from dataclasses import replace

import pytest
import torch
import torchvision
from tests.detections import assert_same_detections
from tests.parity import plain_detectron2 as plain
from tests.parity.plain_detectron2 import RandomState, convolved
from torch import Tensor
from torch.nn import functional as F

from aweigh.arguments import parameters
from aweigh.backbones import dilated_c5
from aweigh.classes import Classes
from aweigh.errors import AweighError, UsageError
from aweigh.models import DETECTORS, PUBLISHED, create
from aweigh.models.faster_rcnn import FasterRCNN
from aweigh.models.faster_rcnn_forms import DETECTRON2
from aweigh.ops.matching import balanced_sample
from aweigh.structures import Images, Targets, padded_proposals
from aweigh.weights.convert.detectron2 import faster_rcnn_from_detectron2

CLASSES = 5
FORMS = ["faster_rcnn_resnet50_fpn_detectron2", "faster_rcnn_resnet50_c4_detectron2"]
DC5 = "faster_rcnn_resnet50_dc5_detectron2"
FEW = {"train_proposals": (300, 24), "test_proposals": (300, 24)}  # its last stage is dear on each
SIZES = [(128, 192), (120, 150)]


class Plain:
    """The network and both stages, on the names of its files."""

    def __init__(self, form: str) -> None:
        self.is_c4, self.is_dc5 = "c4" in form, "dc5" in form
        one_map = self.is_c4 or self.is_dc5
        self.sizes = [[32, 64, 128, 256, 512]] if one_map else [[8 * 2**level] for level in range(2, 7)]
        self.strides = [16] if one_map else [4, 8, 16, 32, 64]
        self.before, self.after = FEW["test_proposals"] if one_map else (1000, 1000)
        random = RandomState()
        random.made["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
        channels, anchors = (1024, 15) if self.is_c4 else (2048, 15) if self.is_dc5 else (256, 3)
        if self.is_c4:
            random.resnet50("backbone", (2, 3, 4))
            random.resnet50("roi_heads", (5,))
        elif self.is_dc5:
            random.resnet50("backbone")
            random.linear("roi_heads.box_head.fc1", 1024, 2048 * 49)
            random.linear("roi_heads.box_head.fc2", 1024, 1024)
        else:
            random.resnet50("backbone.bottom_up")
            for level in (2, 3, 4, 5):
                random.convolution(f"backbone.fpn_lateral{level}", 256, 128 * 2 ** (level - 1), 1, gain=0.5)
                random.convolution(f"backbone.fpn_output{level}", 256, 256, 3)
            random.linear("roi_heads.box_head.fc1", 1024, 256 * 49)
            random.linear("roi_heads.box_head.fc2", 1024, 1024)
        random.convolution("proposal_generator.rpn_head.conv", channels, channels, 3, gain=0.5)
        random.convolution("proposal_generator.rpn_head.objectness_logits", anchors, channels, 1, gain=2)
        random.convolution("proposal_generator.rpn_head.anchor_deltas", 4 * anchors, channels, 1, gain=0.2)
        width = 2048 if self.is_c4 else 1024
        random.linear("roi_heads.box_predictor.cls_score", CLASSES + 1, width, gain=2 if self.is_c4 else 0.5)
        random.linear("roi_heads.box_predictor.bbox_pred", 4 * CLASSES, width)
        self.state = random.made

    def features(self, rgb: Tensor) -> list[Tensor]:
        body = "backbone" if self.is_c4 or self.is_dc5 else "backbone.bottom_up"
        x, maps = plain.stem(self.state, rgb, body), {}
        for stage in (2, 3, 4) if self.is_c4 else (2, 3, 4, 5):
            x = maps[stage] = plain.stage(self.state, x, body, stage, 2 if self.is_dc5 and stage == 5 else 1)
        if self.is_c4 or self.is_dc5:
            return [x]
        levels = plain.pyramid(self.state, maps)
        return [*(levels[level] for level in (2, 3, 4, 5)), F.max_pool2d(levels[5], 1, 2)]

    def proposed(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Per level logits `[B, A]`, deltas `[B, A, 4]` and anchors `[A, 4]`."""
        logits, deltas, anchors = [], [], []
        for feature, stride, sizes in zip(features, self.strides, self.sizes, strict=True):
            x = convolved(self.state, feature, "proposal_generator.rpn_head.conv").relu()
            head = "proposal_generator.rpn_head"
            logits.append(plain.rows(convolved(self.state, x, f"{head}.objectness_logits"), 1)[..., 0])
            deltas.append(plain.rows(convolved(self.state, x, f"{head}.anchor_deltas"), 4))
            anchors.append(plain.anchors(*feature.shape[-2:], stride, sizes))
        return logits, deltas, anchors

    def proposals(self, logits: list[Tensor], deltas: list[Tensor], anchors: list[Tensor], size: tuple[int, int]):
        """Of one image, whose logits `[A]` and deltas `[A, 4]` are given per level: `[P, 4]`, best first."""
        boxes, scores = [], []
        for level_logits, level_deltas, level_anchors in zip(logits, deltas, anchors, strict=True):
            best, rows = level_logits.topk(min(self.before, len(level_logits)))
            moved = clipped(decoded(level_anchors[rows], level_deltas[rows]), size)
            there = (moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])
            moved, best = moved[there], best[there]
            kept = torchvision.ops.nms(moved, best, 0.7)
            boxes.append(moved[kept])
            scores.append(best[kept])
        order = torch.cat(scores).argsort(descending=True)[: self.after]
        return torch.cat(boxes)[order]

    def second_stage(self, features: list[Tensor], image: int, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[R, C + 1]`, the last of nothing, and deltas `[R, C, 4]`."""
        rois = torch.cat([torch.full((len(regions), 1), float(image)), regions], dim=1)
        if self.is_c4:
            x = torchvision.ops.roi_align(features[0], rois, 14, 1 / 16, 0, True)
            x = plain.stage(self.state, x, "roi_heads", 5).mean(dim=[2, 3])
        else:
            each = []
            for roi in rois:
                area = float((roi[3] - roi[1]) * (roi[4] - roi[2]))
                level = min(max(math.floor(4 + math.log2(math.sqrt(area) / 224 + 1e-8)), 2), 5)
                level, feature = (4, features[0]) if self.is_dc5 else (level, features[level - 2])
                each.append(torchvision.ops.roi_align(feature, roi[None], 7, 1 / 2**level, 0, True))
            x = self.linear(torch.cat(each).flatten(1), "box_head.fc1").relu()
            x = self.linear(x, "box_head.fc2").relu()
        logits, deltas = self.linear(x, "box_predictor.cls_score"), self.linear(x, "box_predictor.bbox_pred")
        return logits, deltas.reshape(-1, CLASSES, 4)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.state[f"roi_heads.{name}.weight"], self.state[f"roi_heads.{name}.bias"])

    def detections(self, features: list[Tensor], image: int, regions: Tensor, size: tuple[int, int]):
        """Boxes `[K, 4]`, scores `[K]` and labels `[K]`, best first."""
        logits, deltas = self.second_stage(features, image, regions)
        found = []
        for label in range(CLASSES):
            scores = logits.softmax(dim=1)[:, label]
            boxes = clipped(decoded(regions, deltas[:, label] / torch.tensor([10.0, 10, 5, 5])), size)
            rows = (scores > 0.05).nonzero()[:, 0]
            rows = rows[torchvision.ops.nms(boxes[rows], scores[rows], 0.5)]
            found.append((boxes[rows], scores[rows], torch.full_like(rows, label)))
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        order = scores.argsort(descending=True)[:100]
        return boxes[order], scores[order], labels[order]


def decoded(boxes: Tensor, deltas: Tensor) -> Tensor:
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x = boxes[:, 0] + width / 2 + deltas[:, 0] * width
    y = boxes[:, 1] + height / 2 + deltas[:, 1] * height
    width = width * deltas[:, 2].clamp(max=math.log(1000 / 16)).exp()
    height = height * deltas[:, 3].clamp(max=math.log(1000 / 16)).exp()
    return torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dim=1)


def encoded(boxes: Tensor, goals: Tensor) -> Tensor:
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    new_width, new_height = goals[:, 2] - goals[:, 0], goals[:, 3] - goals[:, 1]
    x = (goals[:, 0] + goals[:, 2] - boxes[:, 0] - boxes[:, 2]) / 2 / width
    y = (goals[:, 1] + goals[:, 3] - boxes[:, 1] - boxes[:, 3]) / 2 / height
    return torch.stack([x, y, (new_width / width).log(), (new_height / height).log()], dim=1)


def clipped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    x, y = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
    return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1)


@pytest.fixture(scope="module", params=[*FORMS, pytest.param(DC5, marks=pytest.mark.thorough)])  # 165 million weights
def pair(request: pytest.FixtureRequest) -> tuple[Plain, FasterRCNN]:
    reference = Plain(request.param)
    few = FEW if len(reference.strides) == 1 else {}
    ours = create(request.param, classes=Classes.numbered(CLASSES), **few)
    counters = {key: value for key, value in ours.state_dict().items() if "num_batches" in key}
    ours.load_state_dict({**counters, **faster_rcnn_from_detectron2(reference.state)})
    return reference, ours.eval()


@pytest.fixture(scope="module")
def images() -> Images:
    generator = torch.Generator().manual_seed(1)
    coarse = [torch.rand(1, 3, 5, 7, generator=generator) for _ in SIZES]
    return Images.stack([F.interpolate(each, size)[0] for each, size in zip(coarse, SIZES, strict=True)])


@torch.no_grad()
def test_proposals_and_detections_are_those_of_the_plain_one(pair, images: Images) -> None:
    reference, ours = pair
    # The padding is the mean colour, which is 0 for the network in either.
    features = reference.features(images.pixels)
    raw = ours.network(images.pixels)
    for theirs, mine in zip(features, raw.features, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    logits, deltas, anchors = reference.proposed(features)
    for theirs, mine in zip(logits, raw.proposed.objectness, strict=True):
        torch.testing.assert_close(mine.sort().values, theirs.sort().values, atol=1e-4, rtol=1e-4)
    assert torch.cat(logits, dim=1).std() > 0.3 and torch.cat(deltas, dim=1).std() > 0.03
    boxes, _, count = ours.proposer.propose(raw.proposed, torch.tensor(SIZES))
    found = ours(images)
    for image, size in enumerate(SIZES):
        expected = reference.proposals([x[image] for x in logits], [x[image] for x in deltas], anchors, size)
        assert len(expected) == count[image] > 20
        torch.testing.assert_close(boxes[image, : len(expected)], expected, atol=0.01, rtol=0)
        theirs = reference.detections(features, image, expected, size)
        assert len(found[image]) == len(theirs[0]) > 20
        mine = found[image].boxes, found[image].scores, found[image].labels
        assert_same_detections(mine, theirs, score_tolerance=1e-4)


@torch.no_grad()
def test_fast_rcnn_is_the_same_second_stage_on_given_proposals(pair, images: Images) -> None:
    reference, _ = pair
    if len(reference.strides) == 1:
        pytest.skip("detectron2 has none on one map")
    state = {key: value for key, value in reference.state.items() if not key.startswith("proposal_generator.rpn_head")}
    ours = create("fast_rcnn_resnet50_fpn_detectron2", classes=Classes.numbered(CLASSES)).eval()
    counters = {key: value for key, value in ours.state_dict().items() if "num_batches" in key}
    ours.load_state_dict({**counters, **faster_rcnn_from_detectron2(state)})
    generator = torch.Generator().manual_seed(2)
    corners = torch.rand(2, 60, 2, generator=generator)
    boxes = torch.cat([corners.amin(dim=0), corners.amax(dim=0) + 0.1], dim=1).clamp(max=1)
    proposals = [boxes * torch.tensor([width, height, width, height]) for height, width in SIZES]
    found = ours(replace(images, proposals=padded_proposals(proposals)))
    features = reference.features(images.pixels)
    for image, (size, own) in enumerate(zip(SIZES, proposals, strict=True)):
        theirs = reference.detections(features, image, own, size)
        assert len(found[image]) == len(theirs[0]) > 10
        mine = found[image].boxes, found[image].scores, found[image].labels
        assert_same_detections(mine, theirs, score_tolerance=1e-4)


@torch.no_grad()
def test_losses_of_the_same_samples_are_those_of_the_plain_one(pair, images: Images) -> None:
    """256 anchors of an image divide the losses of the proposals however many learn, and all losses of boxes are L1."""
    reference, ours = pair
    targets = [
        Targets(torch.tensor([[20.0, 24, 90, 100], [100, 10, 180, 60], [5, 5, 40, 36]]), torch.tensor([1, 4, 0])),
        Targets(torch.tensor([[30.0, 30, 120, 110]]), torch.tensor([2])),
    ]
    raw = ours.network(images.pixels)
    losses = ours.loss(raw, targets)
    logits, deltas = torch.cat(raw.proposed.objectness, dim=1), torch.cat(raw.proposed.deltas, dim=1)
    anchors = torch.cat(raw.proposed.anchors)
    objectness = proposals = torch.tensor(0.0)
    for image, target in enumerate(targets):
        overlap = torchvision.ops.box_iou(anchors, target.boxes)
        most, index = overlap.max(dim=1)
        label = torch.full((len(anchors),), -1)
        label[most < 0.3], label[most >= 0.7] = 0, 1
        label[(overlap == overlap.max(dim=0).values).any(dim=1)] = 1
        learned = torch.where(label == 1, index, label - 1)  # as `balanced_sample` takes it
        rows = balanced_sample(learned, count=256, positive_fraction=0.5, seed=logits[image].sum())
        objectness = objectness + F.binary_cross_entropy_with_logits(
            logits[image, rows], label[rows].float(), reduction="sum"
        )
        rows = rows[label[rows] == 1]
        goals = encoded(anchors[rows], target.boxes[index[rows]])
        proposals = proposals + (deltas[image, rows] - goals).abs().sum()
        assert len(rows) > 0
    torch.testing.assert_close(losses["objectness"], objectness / 512, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses["proposals"], proposals / 512, rtol=1e-5, atol=1e-6)

    features = reference.features(images.pixels)
    classification, box, number = 0.0, 0.0, 0
    for image, (regions, index) in enumerate(zip(*ours.sample_regions(raw, targets), strict=True)):
        scores, changes = reference.second_stage(features, image, regions)
        positive = index >= 0
        labels = torch.where(positive, targets[image].labels[index.clamp(min=0)], CLASSES)
        classification += F.cross_entropy(scores, labels, reduction="sum")
        goals = encoded(regions[positive], targets[image].boxes[index[positive]]) * torch.tensor([10.0, 10, 5, 5])
        box += (changes[positive, labels[positive]] - goals).abs().sum()
        number += len(regions)
        assert positive.sum() > 0
    torch.testing.assert_close(losses["classification"], classification / number, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses["box"], box / number, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_dilated_map_is_that_of_the_plain_one(images: Images) -> None:
    random = RandomState()
    random.resnet50("backbone")
    given = {name: each for name, each in DETECTRON2.items() if name in parameters(dilated_c5)}
    backbone = dilated_c5("resnet50", **given)
    counters = {key: value for key, value in backbone.state_dict().items() if "num_batches" in key}
    state = {key.removeprefix("backbone."): value for key, value in faster_rcnn_from_detectron2(random.made).items()}
    backbone.load_state_dict({**counters, **state})
    x = plain.stem(random.made, images.pixels, "backbone")
    for stage in (2, 3, 4, 5):
        x = plain.stage(random.made, x, "backbone", stage, 2 if stage == 5 else 1)
    (found,) = backbone.eval()(images.pixels)
    assert found.shape == (2, 2048, 8, 12) and found.std() > 0.1
    torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)


def test_its_constants() -> None:
    with torch.device("meta"):
        pyramid, other, c4 = (
            create(name, num_classes=3)
            for name in (FORMS[0], "faster_rcnn_resnext101_32x8d_fpn_detectron2", "faster_rcnn_resnet101_c4_detectron2")
        )
    assert pyramid.proposer.train_proposals == (2000, 1000) and pyramid.proposer.test_proposals == (1000, 1000)
    assert c4.proposer.train_proposals == (12000, 2000) and c4.proposer.test_proposals == (6000, 1000)
    strides = [model.backbone.body.layer2[0].conv1.stride for model in (pyramid, other, c4)]
    assert strides == [(2, 2), (1, 1), (2, 2)] and c4.region_body[0].conv1.stride == (2, 2)
    for model in (pyramid, other, c4):
        learns = {name for name, value in model.named_parameters() if value.requires_grad}
        assert not any(".bn" in name or ".layer1." in name or "body.conv1." in name for name in learns)
        assert any(name.startswith("backbone.body.layer2.") for name in learns)
    assert any(name.startswith("region_body.") for name in learns)


@pytest.mark.parametrize(
    ("form", "deviation"),
    [(FORMS[0], [1.0, 1.0, 1.0]), ("faster_rcnn_resnext101_32x8d_fpn_detectron2", [57.375, 57.12, 58.395])],
)
def test_pixels_are_those_of_its_bodies(form: str, deviation: list[float]) -> None:
    """Of 0 to 255, blue first there; ours are of 0 to 1, red first."""
    given = {name: each.default for name, each in parameters(DETECTORS[form]).items()}
    torch.testing.assert_close(255 * torch.tensor(given["pixel_mean"]).flip(0), torch.tensor([103.53, 116.28, 123.675]))
    torch.testing.assert_close(255 * torch.tensor(given["pixel_std"]).flip(0), torch.tensor(deviation))


def test_every_part_of_a_region_has_a_name() -> None:
    """Group normalisation, a head of four convolutions, masks (on a pyramid and on C4) and keypoints."""
    state = {}
    names = ["backbone.fpn_lateral2", "backbone.fpn_output5", "roi_heads.box_head.conv1", "roi_heads.box_head.conv4"]
    for name in [*names, "roi_heads.mask_head.mask_fcn1", "roi_heads.mask_head.mask_fcn4"]:
        for what in ("weight", "norm.weight", "norm.bias"):
            state[f"{name}.{what}"] = torch.zeros(1)
    for name in ("box_head.fc1", "mask_head.deconv", "mask_head.predictor"):
        state |= {f"roi_heads.{name}.{what}": torch.zeros(1) for what in ("weight", "bias")}
    norms = {"backbone_norm": "gn", "neck_norm": "gn", "head_norm": "gn"}
    with torch.device("meta"):
        ours = create("mask_rcnn_resnet18_fpn", num_classes=3, box_head="4conv1fc", **norms).state_dict()
    converted = faster_rcnn_from_detectron2(state)
    assert len(converted) == len(state) and converted.keys() <= ours.keys()
    assert converted.keys() >= {f"branches.masks.head.tower.{place}.weight" for place in (0, 1, 9, 10)}


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "fast" in name and "detectron2" in name])
def test_a_pickle_of_the_zoo_is_not_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aweigh.models._build", lambda *given: None)
    for weights, record in PUBLISHED[name].items():
        assert record.builder == name and record.file.startswith(name.split("_resn")[0])
        with pytest.raises(AweighError, match=r"is a pickle, which can run code.*CC BY-SA 3\.0"):
            create(name, weights=weights)


def test_a_stranger_is_named() -> None:
    with pytest.raises(UsageError, match=r"'head\.cls_score\.weight' is not one of detectron2's Faster R-CNN"):
        faster_rcnn_from_detectron2({"head.cls_score.weight": torch.zeros(1)})
