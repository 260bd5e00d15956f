"""Our two torchvision forms of Mask R-CNN against torchvision's own, with the same random weights."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aweigh.models import create
from aweigh.models.faster_rcnn import FasterRCNN
from aweigh.structures import Images, Targets
from aweigh.weights.coco import COCO_CLASSES

from .rcnn import (
    DETECTION,
    FOR_REGIONS,
    LOSSES,
    SIZES,
    losses_of_the_same_samples,
    make_pair,
    pictures_of,
    rows_as_theirs,
    targets_of,
)

FORMS = {
    "mask_rcnn_resnet50_fpn_torchvision": DETECTION.maskrcnn_resnet50_fpn,
    "mask_rcnn_resnet50_fpn_v2_torchvision": DETECTION.maskrcnn_resnet50_fpn_v2,
}
FOUND = 30  # detections of an image


@pytest.fixture(scope="module", params=list(FORMS))
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, FasterRCNN]:
    reference, ours = make_pair(request.param, FORMS[request.param], box_detections_per_img=FOUND)
    ours.max_detections = FOUND
    return reference, ours


@pytest.mark.parametrize("sizes", FOR_REGIONS)
@torch.inference_mode()
def test_masks_of_detections_are_equal(pair, sizes) -> None:
    reference, ours = pair
    said: dict[nn.Module, Tensor] = {}
    heads = (reference.roi_heads.mask_predictor, ours.branches["masks"])
    hooks = [head.register_forward_hook(lambda head, _, logits: said.update({head: logits})) for head in heads]
    pictures = pictures_of(sizes)
    expected, found = reference(pictures), ours(Images.stack(pictures))
    for hook in hooks:
        hook.remove()
    theirs, mine = (said[head] for head in heads)
    assert theirs.std() > 0.3
    rows = [rows_as_theirs(*each) for each in zip(found, expected, strict=True)]
    found = [each[order] for each, order in zip(found, rows, strict=True)]
    mine = mine[np.concatenate([order + FOUND * image for image, order in enumerate(rows)])]
    torch.testing.assert_close(mine, theirs[:, 1:], atol=1e-4, rtol=1e-4)

    for detections, reference_ones in zip(found, expected, strict=True):
        assert len(detections) == FOUND
        pasted = reference_ones["masks"][:, 0].numpy() > 0.5
        bitmaps, areas = detections.bitmaps(), pasted.sum(axis=(1, 2))  # pixels of each object
        assert (bitmaps == pasted).mean() >= 0.999
        assert (areas > 0).mean() > 0.8
        assert ((bitmaps != pasted).sum(axis=(1, 2)) / areas.clip(1)).max() < 0.02
    labels = np.concatenate([detections.labels for detections in found])
    probabilities = theirs.sigmoid()[torch.arange(len(theirs)), labels + 1]
    np.testing.assert_allclose(np.concatenate([each.masks for each in found]), probabilities, atol=1e-4, rtol=0)


def with_ellipses(target: Targets, size_hw: tuple[int, int]) -> Targets:
    y, x = (torch.arange(size) + 0.5 for size in size_hw)
    x0, y0, x1, y1 = (edge[:, None] for edge in target.boxes.unbind(1))
    away_x, away_y = ((x - x0) / (x1 - x0) - 0.5).square(), ((y - y0) / (y1 - y0) - 0.5).square()
    return replace(target, masks=away_y[:, :, None] + away_x[:, None, :] < 0.25)


def test_losses_of_the_same_samples_are_equal(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = SIZES[0]
    targets = [with_ellipses(target, size_hw) for target, size_hw in zip(targets_of(sizes), sizes, strict=True)]
    expected, losses = losses_of_the_same_samples(*pair, pictures_of(sizes), targets, monkeypatch, "masks")
    names = {**LOSSES, "loss_mask": "masks"}
    assert set(losses) == set(names.values())
    for theirs, mine in names.items():
        torch.testing.assert_close(losses[mine], expected[theirs], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["", "_v2"])
def test_a_file_as_torchvision_publishes_it(tmp_path: Path, name: str) -> None:
    """91 maps of masks of which the 80 named classes' arrive; the first file has names from before the blocks."""
    torch.manual_seed(0)
    form = f"mask_rcnn_resnet50_fpn{name}_torchvision"
    reference = FORMS[form](weights=None, weights_backbone=None, num_classes=91)
    state = {key: value for key, value in reference.state_dict().items() if "num_batches" not in key}
    if not name:
        old = {}
        for key, value in state.items():
            key = re.sub(r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2.", key)
            key = re.sub(r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", key)
            old[key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")] = value
        assert "roi_heads.mask_head.mask_fcn4.bias" in old
        state = old
    torch.save(state, tmp_path / "weights.pth")
    ours = create(form, weights=tmp_path / "weights.pth")
    assert ours.record.name == "torchvision" + name and ours.classes == COCO_CLASSES
    given, head = reference.roi_heads, ours.branches["masks"].head
    rows = list(COCO_CLASSES.ids)
    assert torch.equal(head.predictor.weight, given.mask_predictor.mask_fcn_logits.weight[rows])
    assert torch.equal(head.predictor.bias, given.mask_predictor.mask_fcn_logits.bias[rows])
    assert torch.equal(head.deconvolution.weight, given.mask_predictor.conv5_mask.weight)
    for number in range(4):
        assert torch.equal(head.tower[3 * number].weight, given.mask_head[number][0].weight)
    eps = {module.eps for module in ours.backbone.modules() if isinstance(module, nn.BatchNorm2d)}
    assert eps == ({1e-5} if name else {0.0})


@pytest.mark.parametrize(("name", "parameters"), [("", 44_401_393), ("_v2", 46_359_409)])
def test_parameters_are_those_of_torchvision(name: str, parameters: int) -> None:
    """With 90 classes, and a box and a mask of "nothing" that ours does not have; the first one's norms are fixed."""
    norm = {"backbone_norm": "bn" if name else "frozen_bn"}
    with torch.device("meta"):
        model = create(f"mask_rcnn_resnet50_fpn{name}_torchvision", num_classes=90, **norm)
    own = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert own + 4 * 1025 + 257 == parameters
