"""Detectron2's masks, on a pyramid and on C4, against plain ones written from its documents, same random weights."""

import math

import numpy as np
import pytest
import torch
import torchvision
from tests.parity import plain_detectron2 as plain
from tests.parity.test_faster_rcnn_detectron2 import CLASSES, FEW, SIZES, Plain
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import check_arguments, parameters
from aweigh.backbones import timm_backbone
from aweigh.classes import Classes
from aweigh.errors import AweighError
from aweigh.models import DETECTORS, PUBLISHED, create
from aweigh.models.faster_rcnn import FasterRCNN
from aweigh.models.faster_rcnn_forms import DETECTRON2_GN
from aweigh.structures import Images, Targets
from aweigh.weights.convert.detectron2 import faster_rcnn_from_detectron2

FORMS = [
    "mask_rcnn_resnet50_fpn_detectron2",
    "mask_rcnn_resnet50_c4_detectron2",
    pytest.param("mask_rcnn_resnet50_dc5_detectron2", marks=pytest.mark.thorough),  # 170 million weights
]
HEAD = "roi_heads.mask_head"


class PlainMasks(Plain):
    def __init__(self, form: str) -> None:
        super().__init__(form)
        generator = torch.Generator().manual_seed(7)
        channels = 2048 if self.is_c4 else 256
        for number in () if self.is_c4 else (1, 2, 3, 4):
            read = 2048 if self.is_dc5 and number == 1 else 256
            weight = torch.randn(256, read, 3, 3, generator=generator) * (2 / (read * 9)) ** 0.5
            self.state[f"{HEAD}.mask_fcn{number}.weight"] = weight
            self.state[f"{HEAD}.mask_fcn{number}.bias"] = torch.randn(256, generator=generator) * 0.1
        weight = torch.randn(channels, 256, 2, 2, generator=generator) * (2 / channels) ** 0.5
        self.state[f"{HEAD}.deconv.weight"] = weight
        self.state[f"{HEAD}.deconv.bias"] = torch.randn(256, generator=generator) * 0.1
        self.state[f"{HEAD}.predictor.weight"] = torch.randn(CLASSES, 256, 1, 1, generator=generator) * 0.1
        self.state[f"{HEAD}.predictor.bias"] = torch.randn(CLASSES, generator=generator) * 0.1

    def masks(self, features: list[Tensor], image: int, regions: Tensor) -> Tensor:
        """Logits `[R, C, S, S]` of boxes `[R, 4]`."""
        pooled = []
        for x0, y0, x1, y1 in regions.tolist():
            level = math.floor(4 + math.log2(math.sqrt((x1 - x0) * (y1 - y0)) / 224 + 1e-8))
            level = min(max(level, 2), 5)
            level, feature = (4, features[0]) if len(features) == 1 else (level, features[level - 2])
            roi = torch.tensor([[image, x0, y0, x1, y1]])
            pooled.append(torchvision.ops.roi_align(feature, roi, 14, 1 / 2**level, 0, True))
        x = torch.cat(pooled)
        if self.is_c4:
            x = plain.stage(self.state, x, "roi_heads", 5)
        else:
            for number in (1, 2, 3, 4):
                x = plain.convolved(self.state, x, f"{HEAD}.mask_fcn{number}").relu()
        x = F.conv_transpose2d(x, self.state[f"{HEAD}.deconv.weight"], self.state[f"{HEAD}.deconv.bias"], stride=2)
        return plain.convolved(self.state, x.relu(), f"{HEAD}.predictor")


@pytest.fixture(scope="module", params=FORMS)
def pair(request: pytest.FixtureRequest) -> tuple[PlainMasks, FasterRCNN]:
    reference = PlainMasks(request.param)
    ours = create(request.param, classes=Classes.numbered(CLASSES), max_detections=20, **FEW)
    counters = {key: value for key, value in ours.state_dict().items() if "num_batches" in key}
    ours.load_state_dict({**counters, **faster_rcnn_from_detectron2(reference.state)})
    return reference, ours.eval()


@torch.no_grad()
def test_masks_and_their_loss_are_those_of_the_plain_one(pair) -> None:
    reference, ours = pair
    generator = torch.Generator().manual_seed(1)
    images = Images.stack([torch.rand(3, *size, generator=generator) for size in SIZES])
    features = reference.features(images.pixels)
    raw = ours.network(images.pixels)
    for image, found in enumerate(ours.decode(raw, SIZES)):
        logits = reference.masks(features, image, torch.from_numpy(found.boxes))
        expected = logits[torch.arange(len(found)), found.labels].sigmoid()
        assert len(found) == 20 and expected.std() > 0.1 and not found.masks_rounded
        np.testing.assert_allclose(found.masks, expected, atol=1e-4, rtol=0)

    targets = [
        Targets(torch.tensor([[20.0, 24, 90, 100], [100, 10, 180, 60]]), torch.tensor([1, 4])),
        Targets(torch.tensor([[30.0, 30, 120, 110]]), torch.tensor([2])),
    ]
    shapes = [torch.rand(len(target), 8, 12, generator=generator) for target in targets]
    masks = [F.interpolate(shape[None], size, mode="bicubic")[0] > 0.5 for shape, size in zip(shapes, SIZES)]
    targets = [Targets(target.boxes, target.labels, masks=mask) for target, mask in zip(targets, masks, strict=True)]
    losses, number = torch.tensor(0.0), 0
    for image, (regions, index) in enumerate(zip(*ours.sample_regions(raw, targets), strict=True)):
        regions, index = regions[index >= 0], index[index >= 0]
        logits = reference.masks(features, image, regions)
        logits = logits[torch.arange(len(index)), targets[image].labels[index]]
        rois = torch.cat([index[:, None].float(), regions], dim=1)
        side = logits.shape[-1]
        goal = torchvision.ops.roi_align(masks[image][:, None].float(), rois, side, 1.0, 0, True)[:, 0] >= 0.5
        assert 0.2 < goal.float().mean() < 0.8 and side == (14 if reference.is_c4 else 28)
        losses = losses + F.binary_cross_entropy_with_logits(logits, goal.float(), reduction="none").mean((1, 2)).sum()
        number += len(regions)
    torch.testing.assert_close(ours.loss(raw, targets)["masks"], losses / number, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_its_group_normalisation_has_32_groups_whatever_the_width() -> None:
    """A body with random weights under its names, in the arguments of the form; 64 channels are the narrowest."""
    random = plain.RandomState()
    random.resnet50("backbone.bottom_up", (2,))
    state = {key: value for key, value in random.made.items() if "running" not in key}
    values = {name: each for name, each in DETECTRON2_GN.items() if name in parameters(timm_backbone)}
    body = timm_backbone("resnet50", (2,), **values)
    body.load_state_dict({key.removeprefix("backbone."): x for key, x in faster_rcnn_from_detectron2(state).items()})
    pixels = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    expected = plain.stage(state, plain.stem(state, pixels, "backbone.bottom_up"), "backbone.bottom_up", 2)
    (found,) = body.eval()(pixels)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with torch.device("meta"):
        model = create("mask_rcnn_resnet50_fpn_gn_detectron2", num_classes=3)
    norms = [module for module in model.modules() if isinstance(module, nn.GroupNorm)]
    assert {norm.num_groups for norm in norms} == {32} and len(norms) == 53 + 8 + 4 + 4
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert model.backbone.body.layer2[0].conv1.stride == (1, 1)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "mask_rcnn" in name and "detectron2" in name])
def test_a_pickle_of_the_zoo_is_not_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aweigh.models._build", lambda *given: None)
    for weights, record in PUBLISHED[name].items():
        assert record.builder == name and "mask_rcnn_" in record.file and record.metrics["mask AP"] > 30
        check_arguments(DETECTORS[name], record.arguments)
        with pytest.raises(AweighError, match=r"is a pickle, which can run code.*CC BY-SA 3\.0"):
            create(name, weights=weights)
