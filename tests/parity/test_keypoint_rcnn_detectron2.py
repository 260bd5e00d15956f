"""Detectron2's keypoints against plain ones written from its documents, same random weights."""

import math

import numpy as np
import pytest
import torch
import torchvision
from tests.parity import plain_detectron2 as plain
from tests.parity.test_faster_rcnn_detectron2 import CLASSES, FEW, SIZES, Plain
from torch import Tensor
from torch.nn import functional as F

from aweigh.classes import Classes
from aweigh.errors import AweighError
from aweigh.models import PUBLISHED, create
from aweigh.models.keypoint_rcnn import PERSON
from aweigh.structures import Images, Targets
from aweigh.weights.convert.detectron2 import faster_rcnn_from_detectron2

FORM = "keypoint_rcnn_resnet50_fpn_detectron2"
HEAD = "roi_heads.keypoint_head"
WIDTH, KEYPOINTS = 32, 5
OPTIONS = {"keypoints": {"names": list("abcde")}, "keypoint_convs": 2, "keypoint_width": WIDTH}


class PlainKeypoints(Plain):
    def __init__(self) -> None:
        super().__init__(FORM)
        generator = torch.Generator().manual_seed(7)
        for number, channels in ((1, 256), (2, WIDTH)):
            weight = torch.randn(WIDTH, channels, 3, 3, generator=generator) * (2 / (9 * channels)) ** 0.5
            self.state[f"{HEAD}.conv_fcn{number}.weight"] = weight
            self.state[f"{HEAD}.conv_fcn{number}.bias"] = torch.randn(WIDTH, generator=generator) * 0.1
        self.state[f"{HEAD}.score_lowres.weight"] = torch.randn(WIDTH, KEYPOINTS, 4, 4, generator=generator) * 0.2
        self.state[f"{HEAD}.score_lowres.bias"] = torch.randn(KEYPOINTS, generator=generator) * 0.1

    def maps(self, features: list[Tensor], image: int, regions: Tensor) -> Tensor:
        """Logits `[R, K, 56, 56]` of boxes `[R, 4]`."""
        pooled = []
        for x0, y0, x1, y1 in regions.tolist():
            level = math.floor(4 + math.log2(math.sqrt((x1 - x0) * (y1 - y0)) / 224 + 1e-8))
            level = min(max(level, 2), 5)
            roi = torch.tensor([[image, x0, y0, x1, y1]])
            pooled.append(torchvision.ops.roi_align(features[level - 2], roi, 14, 1 / 2**level, 0, True))
        x = torch.cat(pooled)
        for number in (1, 2):
            x = plain.convolved(self.state, x, f"{HEAD}.conv_fcn{number}").relu()
        weight, bias = (self.state[f"{HEAD}.score_lowres.{what}"] for what in ("weight", "bias"))
        x = F.conv_transpose2d(x, weight, bias, stride=2, padding=1)
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


@torch.no_grad()
def test_keypoints_and_their_loss_are_those_of_the_plain_one() -> None:
    reference = PlainKeypoints()
    ours = create(FORM, classes=Classes.numbered(CLASSES), max_detections=20, **FEW, **OPTIONS).eval()
    counters = {key: value for key, value in ours.state_dict().items() if "num_batches" in key}
    ours.load_state_dict({**counters, **faster_rcnn_from_detectron2(reference.state)})
    generator = torch.Generator().manual_seed(1)
    images = Images.stack([torch.rand(3, *size, generator=generator) for size in SIZES])
    features, raw = reference.features(images.pixels), ours.network(images.pixels)
    for image, found in enumerate(ours.decode(raw, SIZES)):
        assert len(found) == 20
        maps = reference.maps(features, image, torch.from_numpy(found.boxes))
        for (x0, y0, x1, y1), heatmaps, keypoints in zip(found.boxes.tolist(), maps, found.keypoints, strict=True):
            width, height = max(x1 - x0, 1), max(y1 - y0, 1)
            side = (math.ceil(height), math.ceil(width))
            resized = F.interpolate(heatmaps[None], side, mode="bicubic", align_corners=False)[0].flatten(1)
            highest, at = resized.max(dim=1)
            np.testing.assert_allclose(keypoints[:, 2], highest, atol=1e-4, rtol=0)
            x = (at % side[1] + 0.5) * width / side[1] + x0
            y = (at // side[1] + 0.5) * height / side[0] + y0
            np.testing.assert_allclose(keypoints[:, :2], torch.stack([x, y], dim=1), atol=0.01, rtol=0)

    targets = [
        Targets(torch.tensor([[20.0, 24, 90, 100], [100, 10, 180, 60]]), torch.tensor([1, 4])),
        Targets(torch.tensor([[30.0, 30, 120, 110]]), torch.tensor([2])),
    ]
    given = []
    for target in targets:
        share = torch.rand(len(target), KEYPOINTS, 2, generator=generator) * 1.2 - 0.1
        points = target.boxes[:, None, :2] + share * (target.boxes[:, 2:] - target.boxes[:, :2])[:, None]
        seen = torch.randint(0, 3, (len(target), KEYPOINTS, 1), generator=generator)
        given.append(Targets(target.boxes, target.labels, keypoints=torch.cat([points, seen], dim=2)))
    losses = []
    for image, (regions, index) in enumerate(zip(*ours.sample_regions(raw, given), strict=True)):
        maps = reference.maps(features, image, regions[index >= 0])
        for region, row, heatmaps in zip(regions[index >= 0].tolist(), index[index >= 0].tolist(), maps, strict=True):
            for (x, y, seen), heatmap in zip(given[image].keypoints[row].tolist(), heatmaps, strict=True):
                if seen > 0 and region[0] <= x < region[2] and region[1] <= y < region[3]:
                    column = math.floor((x - region[0]) * 56 / (region[2] - region[0]))
                    line = math.floor((y - region[1]) * 56 / (region[3] - region[1]))
                    losses.append(-heatmap.flatten().log_softmax(dim=0)[line * 56 + column])
    assert len(losses) >= 8
    torch.testing.assert_close(ours.loss(raw, given)["keypoints"], torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)


def test_the_form_is_that_of_its_configuration() -> None:
    with torch.device("meta"):
        ours = create(FORM)
    assert (ours.beta, ours.proposer.beta) == (0.5, 0.0) and ours.proposer.train_proposals == (2000, 1500)
    assert ours.proposer.test_proposals == (1000, 1000) and ours.classes == PERSON


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "keypoint_rcnn" in name and "detectron2" in name])
def test_a_pickle_of_the_zoo_is_not_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aweigh.models._build", lambda *given: None)
    for weights, record in PUBLISHED[name].items():
        assert record.builder == name and record.classes == PERSON and record.metrics["keypoint AP"] > 60
        assert record.file.startswith("keypoint_rcnn_")
        with pytest.raises(AweighError, match=r"is a pickle, which can run code.*CC BY-SA 3\.0"):
            create(name, weights=weights)
