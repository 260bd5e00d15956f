"""Our torchvision form of Keypoint R-CNN against torchvision's own, with the same random weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aweigh.classes import KeypointSet
from aweigh.models import PUBLISHED, create
from aweigh.models.faster_rcnn import FasterRCNN
from aweigh.models.keypoint_rcnn import PERSON
from aweigh.structures import Images, Targets

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

FORM = "keypoint_rcnn_resnet50_fpn_torchvision"
FOUND, SAMPLED = 10, 64  # detections of an image, regions of one that learn: few, for time


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, FasterRCNN]:
    reference, ours = make_pair(FORM, DETECTION.keypointrcnn_resnet50_fpn, box_detections_per_img=FOUND)
    ours.max_detections, ours.sampled = FOUND, SAMPLED
    return reference, ours


@pytest.mark.parametrize("sizes", FOR_REGIONS)
@torch.inference_mode()
def test_keypoints_of_detections_are_equal(pair, sizes) -> None:
    reference, ours = pair
    said: dict[nn.Module, Tensor] = {}
    heads = (reference.roi_heads.keypoint_predictor, ours.branches["keypoints"])
    hooks = [head.register_forward_hook(lambda head, _, logits: said.update({head: logits})) for head in heads]
    pictures = pictures_of(sizes)
    expected, found = reference(pictures), ours(Images.stack(pictures))
    for hook in hooks:
        hook.remove()
    theirs, mine = (said[head] for head in heads)
    assert theirs.shape == (len(sizes) * FOUND, 17, 56, 56) and theirs.std() > 0.3
    rows = [rows_as_theirs(*each) for each in zip(found, expected, strict=True)]
    found = [each[order] for each, order in zip(found, rows, strict=True)]
    mine = mine[np.concatenate([order + FOUND * image for image, order in enumerate(rows)])]
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)

    for detections, reference_ones in zip(found, expected, strict=True):
        assert len(detections) == FOUND
        np.testing.assert_allclose(detections.keypoints[..., 2], reference_ones["keypoints_scores"], atol=1e-4, rtol=0)
        apart = np.abs(detections.keypoints - reference_ones["keypoints"].numpy())[..., :2].max(axis=-1)
        assert (apart < 0.01).mean() > 0.98  # the scores being equal, the others are as high in two places
        assert detections.keypoint_set == KeypointSet.coco_person()


def with_keypoints(target: Targets) -> Targets:
    """The same objects with 17 keypoints each: a fifth of them outside the box, a third not labelled."""
    generator = torch.Generator().manual_seed(2)
    corner, side = target.boxes[:, None, :2], (target.boxes[:, 2:] - target.boxes[:, :2])[:, None]
    places = corner + side * (torch.rand(len(target), 17, 2, generator=generator) * 1.1 - 0.05)
    visible = torch.randint(0, 3, (len(target), 17, 1), generator=generator)
    return replace(target, keypoints=torch.cat([places, visible], dim=2))


def test_losses_of_the_same_samples_are_equal(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = SIZES[0]
    targets = [with_keypoints(target) for target in targets_of(sizes)]
    with torch.no_grad():
        given = (pictures_of(sizes), targets, monkeypatch, "keypoints")
        expected, losses = losses_of_the_same_samples(*pair, *given)
    names = {**LOSSES, "loss_keypoint": "keypoints"}
    assert set(losses) == set(names.values()) and losses["keypoints"] > 1
    for theirs, mine in names.items():
        torch.testing.assert_close(losses[mine], expected[theirs], rtol=1e-5, atol=1e-6)


def test_a_file_as_torchvision_publishes_it(tmp_path: Path) -> None:
    """Two rows, nothing and a person; its norms have no counters."""
    torch.manual_seed(0)
    reference = DETECTION.keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    state = {key: value for key, value in reference.state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "weights.pth")
    ours = create("keypoint_rcnn_resnet50_fpn", weights=tmp_path / "weights.pth")
    assert ours.record.name == "torchvision" and ours.builder == FORM
    assert ours.classes == PERSON and ours.keypoint_set == KeypointSet.coco_person()
    given, head = reference.roi_heads, ours.branches["keypoints"].head
    assert torch.equal(ours.box_predictor.logits.weight, given.box_predictor.cls_score.weight.flip(0))
    assert torch.equal(ours.box_predictor.deltas.weight, given.box_predictor.bbox_pred.weight[4:])
    assert torch.equal(head.deconvolution.weight, given.keypoint_predictor.kps_score_lowres.weight)
    for layer in range(0, 16, 2):
        assert torch.equal(head.tower[layer].weight, given.keypoint_head[layer].weight)
    assert {module.eps for module in ours.backbone.modules() if isinstance(module, nn.BatchNorm2d)} == {0.0}


@pytest.mark.parametrize(
    ("name", "file", "eps"), [("torchvision", "COCO_V1", 0.0), ("torchvision_legacy", "COCO_LEGACY", None)]
)
def test_the_records_are_of_torchvisions_files(name: str, file: str, eps: float | None) -> None:
    """Which reads the first with an epsilon of 0, the other with its normalisation's own."""
    weights = DETECTION.KeypointRCNN_ResNet50_FPN_Weights[file]
    record, metrics = PUBLISHED[FORM][name], weights.meta["_metrics"]["COCO-val2017"]
    assert record.url == weights.url and f"-{record.sha256}.pth" in weights.url and len(record.sha256) == 8
    assert record.metrics == {"AP": metrics["box_map"], "keypoint AP": metrics["kp_map"]}
    assert record.arguments.get("backbone_norm_eps") == eps and record.arguments["backbone_norm"] == "frozen_bn"


def test_parameters_are_those_of_torchvision() -> None:
    """With a box of "nothing" that ours does not have; the norms of the body are fixed."""
    with torch.device("meta"):
        model = create(FORM, backbone_norm="frozen_bn")
    assert sum(value.numel() for value in model.parameters() if value.requires_grad) + 4 * 1025 == 59_137_258
