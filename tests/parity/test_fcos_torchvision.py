"""Our torchvision form of FCOS against torchvision's own, with the same random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from tests.detections import assert_same_detections
from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from aweigh.classes import Classes
from aweigh.images.resize import Resize
from aweigh.models import create
from aweigh.predictor import Predictor
from aweigh.structures import Images, Targets
from aweigh.weights.coco import COCO_CLASSES
from aweigh.weights.convert.torchvision import fcos_from_torchvision

NUM_CLASSES = 7


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, nn.Module]:
    """Torchvision's model and ours with the same weights, drawn so that the outputs are far from constant."""
    torch.manual_seed(0)
    reference = torchvision.models.detection.fcos_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=NUM_CLASSES, min_size=1, max_size=10**6
    )
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
        if isinstance(module, nn.GroupNorm):
            nn.init.normal_(module.bias, std=0.2)
    nn.init.normal_(reference.head.classification_head.cls_logits.weight, std=0.03)
    nn.init.constant_(reference.head.classification_head.cls_logits.bias, -2.0)
    nn.init.normal_(reference.head.regression_head.bbox_reg.weight, std=0.03)
    nn.init.constant_(reference.head.regression_head.bbox_reg.bias, 1.5)
    nn.init.normal_(reference.head.regression_head.bbox_ctrness.weight, std=0.03)
    # Its resizing is left out: both get images of the size they are meant to see.
    reference.transform = _NoResize((1,), 10**6, reference.transform.image_mean, reference.transform.image_std)
    ours = create("fcos_resnet50_fpn_torchvision", classes=Classes.numbered(NUM_CLASSES))
    ours.load_state_dict(fcos_from_torchvision(reference.state_dict(), keep_rows=None))
    return reference.eval(), ours.eval()


class _NoResize(GeneralizedRCNNTransform):
    def resize(self, image, target=None):
        return image, target


SIZES = [[(192, 256), (160, 224)], [(221, 340)]]


def _images(sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(map(sum, sizes)))
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def _targets(sizes: list[tuple[int, int]]) -> list[Targets]:
    generator = torch.Generator().manual_seed(1)
    targets = []
    for height, width in sizes:
        corner = torch.rand(6, 2, generator=generator) * torch.tensor([width, height]) * 0.7
        size = 10 + torch.rand(6, 2, generator=generator) * torch.tensor([width, height]) * 0.9
        boxes = torch.cat([corner, corner + size], dim=1)
        boxes[0] = torch.tensor([-40.0, 30, width + 40, height - 30])  # for coarse levels
        targets.append(Targets(boxes, torch.randint(0, NUM_CLASSES, (6,), generator=generator)))
    return targets


@pytest.mark.parametrize("sizes", SIZES)
def test_raw_outputs_are_equal(pair, sizes) -> None:
    reference, ours = pair
    batch, _ = reference.transform(_images(sizes))
    with torch.no_grad():
        expected = reference.head(list(reference.backbone(batch.tensors).values()))
        raw = ours.network(Images.stack(_images(sizes)).pixels)
    for name, levels in (("cls_logits", raw.logits), ("bbox_regression", raw.distances), ("bbox_ctrness", raw.quality)):
        got = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        torch.testing.assert_close(got, expected[name], atol=1e-4, rtol=1e-4)
        assert expected[name].std() > 0.05  # a comparison of constants would prove nothing


@pytest.mark.parametrize("sizes", SIZES)
def test_losses_are_equal(pair, sizes) -> None:
    reference, ours = pair
    targets = _targets(sizes)
    reference.train()
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    with torch.no_grad():
        expected = reference(_images(sizes), [{"boxes": target.boxes, "labels": target.labels} for target in targets])
        losses = ours(Images.stack(_images(sizes)), targets)
    reference.eval()
    for name, theirs in (
        ("classification", "classification"),
        ("box", "bbox_regression"),
        ("centerness", "bbox_ctrness"),
    ):
        torch.testing.assert_close(losses[name], expected[theirs], rtol=1e-5, atol=1e-7)
        assert expected[theirs] > 0.01


@pytest.mark.parametrize("sizes", SIZES)
def test_detections_are_equal(pair, sizes) -> None:
    reference, ours = pair
    with torch.no_grad():
        expected = reference(_images(sizes))
        detections = ours(Images.stack(_images(sizes)))
    for theirs, mine in zip(expected, detections, strict=True):
        assert len(mine) == len(theirs["boxes"]) > 20
        their_rows = theirs["boxes"], theirs["scores"], theirs["labels"]
        assert_same_detections((mine.boxes, mine.scores, mine.labels), their_rows)


def test_a_published_file_gives_torchvisions_boxes_in_the_pixels_of_a_photograph(tmp_path: Path) -> None:
    """A file as torchvision publishes it (91 rows, no counters), read and resized by us: the boxes of its own model."""
    torch.manual_seed(0)
    reference = torchvision.models.detection.fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    nn.init.normal_(reference.head.classification_head.cls_logits.weight, std=0.03)
    nn.init.normal_(reference.head.regression_head.bbox_reg.weight, std=0.03)
    nn.init.constant_(reference.head.regression_head.bbox_reg.bias, 1.5)
    unnamed = [row for row in range(91) if row not in COCO_CLASSES.ids]
    nn.init.constant_(reference.head.classification_head.cls_logits.bias, -2.0)
    with torch.no_grad():
        reference.head.classification_head.cls_logits.bias[unnamed] = -30.0  # ours does not have these classes
    state = {key: value for key, value in reference.eval().state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "weights.pth")

    photo = (torch.rand(3, 60, 90, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    photo = torch.nn.functional.interpolate(photo[None].float(), size=(100, 451), mode="bilinear")[0].to(torch.uint8)
    with torch.inference_mode():
        (expected,) = reference([photo.float() / 255])
    ours = create("fcos_resnet50_fpn", weights=tmp_path / "weights.pth")
    found = Predictor(ours, Resize(**ours.record.resize), device="cpu")(photo, score=0)

    assert len(found) == len(expected["boxes"]) > 20
    ids = np.array(found.classes.ids)[found.labels]
    their_rows = expected["boxes"], expected["scores"], expected["labels"]
    assert_same_detections((found.boxes, found.scores, ids), their_rows, score_tolerance=1e-4)
