"""Our two torchvision forms of RetinaNet against torchvision's own, with the same random weights."""

from pathlib import Path

import pytest
import torch
import torchvision
from tests.detections import assert_same_detections
from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from aweigh.classes import Classes
from aweigh.models import create
from aweigh.structures import Images, Targets
from aweigh.weights.coco import COCO_CLASSES
from aweigh.weights.convert.torchvision import retinanet_from_torchvision

NUM_CLASSES = 7
FORMS = {
    "retinanet_resnet50_fpn_torchvision": torchvision.models.detection.retinanet_resnet50_fpn,
    "retinanet_resnet50_fpn_v2_torchvision": torchvision.models.detection.retinanet_resnet50_fpn_v2,
}
SIZES = [[(192, 256), (160, 224)], [(221, 340)]]


class _NoResize(GeneralizedRCNNTransform):
    def resize(self, image, target=None):
        return image, target


@pytest.fixture(scope="module", params=list(FORMS))
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    """Torchvision's model and ours with the same weights, drawn so that the outputs are far from constant."""
    torch.manual_seed(0)
    reference = FORMS[request.param](weights=None, weights_backbone=None, num_classes=NUM_CLASSES)
    reference.transform = _NoResize((1,), 10**6, reference.transform.image_mean, reference.transform.image_std)
    disturb(reference.eval())
    ours = create(request.param, classes=Classes.numbered(NUM_CLASSES))
    ours.load_state_dict(retinanet_from_torchvision(reference.state_dict(), keep_rows=None))
    return reference.eval(), ours.eval()


def disturb(reference: nn.Module) -> None:
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
        if isinstance(module, nn.GroupNorm):
            nn.init.normal_(module.bias, std=0.2)
    for tower in (reference.head.classification_head.conv, reference.head.regression_head.conv):
        for module in tower.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.03)
    with torch.no_grad():  # spread, and nowhere so high that scores are alike
        pixels = torch.rand(1, 3, 333, 500, generator=torch.Generator().manual_seed(833))
        raw = reference.head(list(reference.backbone(reference.transform([pixels[0]])[0].tensors).values()))
        reference.head.classification_head.cls_logits.weight *= 6 / raw["cls_logits"].abs().max()
        reference.head.regression_head.bbox_reg.weight *= 1 / raw["bbox_regression"].abs().max()
        reference.head.classification_head.cls_logits.bias.fill_(-4.0)


def _images(sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(map(sum, sizes)))
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def _targets(sizes: list[tuple[int, int]]) -> list[Targets]:
    generator = torch.Generator().manual_seed(1)
    targets = []
    for height, width in sizes:
        corner = torch.rand(6, 2, generator=generator) * torch.tensor([width, height]) * 0.7
        size = 10 + torch.rand(6, 2, generator=generator) * torch.tensor([width, height]) * 0.3
        labels = torch.randint(0, NUM_CLASSES, (6,), generator=generator)
        targets.append(Targets(torch.cat([corner, corner + size], dim=1), labels))
    return targets


@pytest.mark.parametrize("sizes", SIZES)
def test_raw_outputs_and_anchors_are_equal(pair, sizes) -> None:
    reference, ours = pair
    batch, _ = reference.transform(_images(sizes))
    with torch.no_grad():
        features = list(reference.backbone(batch.tensors).values())
        expected = reference.head(features)
        raw = ours.network(Images.stack(_images(sizes)).pixels)
    for name, levels in (("cls_logits", raw.logits), ("bbox_regression", raw.deltas)):
        torch.testing.assert_close(torch.cat(levels, dim=1), expected[name], atol=1e-4, rtol=1e-4)
        assert expected[name].std() > 0.05  # a comparison of constants would prove nothing
    assert torch.equal(torch.cat(raw.anchors), reference.anchor_generator(batch, features)[0])


@pytest.mark.parametrize("sizes", SIZES)
def test_losses_are_equal(pair, sizes) -> None:
    reference, ours = pair
    targets = _targets(sizes)
    targets[0] = targets[0][:0] if len(sizes) > 1 else targets[0]  # an image without objects
    reference.train()
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    with torch.no_grad():
        expected = reference(_images(sizes), [{"boxes": target.boxes, "labels": target.labels} for target in targets])
        losses = ours(Images.stack(_images(sizes)), targets)
    reference.eval()
    for name, theirs in (("classification", "classification"), ("box", "bbox_regression")):
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


def missing(ours: nn.Module) -> int:
    """By how many parameters our classifier of 80 classes is smaller than one of 91, as a negative number."""
    return -9 * (91 - len(ours.classes)) * (256 * 9 + 1)


@pytest.mark.parametrize(("name", "parameters"), [("", 34_014_999), ("_v2", 38_198_935)])
def test_a_file_as_torchvision_publishes_it(tmp_path: Path, name: str, parameters: int) -> None:
    """91 rows for each anchor, old names, no counters: the rows of the 80 named classes arrive."""
    torch.manual_seed(0)
    reference = FORMS[f"retinanet_resnet50_fpn{name}_torchvision"](weights=None, weights_backbone=None, num_classes=91)
    state = {key: value for key, value in reference.state_dict().items() if "num_batches" not in key}
    if not name:  # the first file is older than the numbering by blocks
        for kind in ("classification", "regression"):
            for index in range(4):
                for what in ("weight", "bias"):
                    value = state.pop(f"head.{kind}_head.conv.{index}.0.{what}")
                    state[f"head.{kind}_head.conv.{2 * index}.{what}"] = value
    torch.save(state, tmp_path / "weights.pth")
    ours = create(f"retinanet_resnet50_fpn{name}_torchvision", weights=tmp_path / "weights.pth")
    assert ours.record.name == "torchvision" + name and ours.classes == COCO_CLASSES
    given = reference.head.classification_head.cls_logits.weight.unflatten(0, (9, 91))[:, list(COCO_CLASSES.ids)]
    assert torch.equal(ours.head.logits.weight.unflatten(0, (9, 80)), given)
    tower = reference.head.regression_head.conv[3][0].weight
    assert torch.equal(ours.head.box_tower[9].weight, tower)
    # Of the first one torchvision counts the normalisations as fixed, and so as no parameters.
    assert sum(value.numel() for value in ours.parameters() if value.requires_grad) - missing(ours) == parameters
    eps = {module.eps for module in ours.backbone.modules() if isinstance(module, nn.BatchNorm2d)}
    assert eps == ({1e-5} if name else {0.0})
