"""Mask R-CNN's own rules: what each form of mask learns and says, objects without a mask, none, and very many."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aweigh.errors import UsageError
from aweigh.geometry.masks import paste
from aweigh.models import create, mask_rcnn
from aweigh.models.mask_rcnn import MaskBranch
from aweigh.ops.masks import crop
from aweigh.structures import Images, Targets

FORMS = {"sigmoid": 3, "softmax": 4, "agnostic": 1}  # maps of three classes
BOXES = torch.tensor([[2.0, 3, 14, 15], [10, 8, 30, 22]])
SMALL = {"channels": 16, "box_size": 3, "backbone_norm": "frozen_bn"}


def ellipses(boxes: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """`[N, H, W]` bool: the largest ellipse of each box."""
    y, x = (torch.arange(size) + 0.5 for size in size_hw)
    x0, y0, x1, y1 = (edge[:, None] for edge in boxes.unbind(1))
    away_x, away_y = ((x - x0) / (x1 - x0) - 0.5).square(), ((y - y0) / (y1 - y0) - 0.5).square()
    return away_y[:, :, None] + away_x[:, None, :] < 0.25


def some_targets(*, masks: bool = True) -> Targets:
    return Targets(BOXES, torch.tensor([2, 0]), masks=ellipses(BOXES, (24, 32)) if masks else None)


def some_regions() -> tuple[list[Tensor], list[Tensor]]:
    """Of two images, the second without a region that holds an object."""
    boxes = torch.tensor([[1.5, 3, 14, 16], [9, 8.5, 30, 21], [12, 9, 33, 25]])
    return [boxes, boxes[:0]], [torch.tensor([0, 1, 1]), torch.tensor([], dtype=torch.int64)]


def share_of_the_object(mask: Tensor, x0: float, y0: float, x1: float, y1: float) -> float:
    """The mean of a mask at places evenly spread over a cell, as many as it has pixels in each direction, at least."""
    height, width = mask.shape
    total, across, down = 0.0, math.ceil(x1 - x0), math.ceil(y1 - y0)
    for row in range(down):
        for column in range(across):
            # Values are those of the middles of pixels, and linear between them.
            y = min(max(y0 + (row + 0.5) * (y1 - y0) / down - 0.5, 0), height - 1)
            x = min(max(x0 + (column + 0.5) * (x1 - x0) / across - 0.5, 0), width - 1)
            top, left = int(y), int(x)
            for i, share_y in ((top, 1 - (y - top)), (top + 1, y - top)):
                for j, share_x in ((left, 1 - (x - left)), (left + 1, x - left)):
                    if i < height and j < width:
                        total += share_y * share_x * float(mask[i, j])
    return total / across / down


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("form", list(FORMS))
def test_the_loss_is_the_mean_over_all_cells(form: str, soft: bool) -> None:
    branch = MaskBranch(8, 3, masks=form, soft_targets=soft)
    targets = some_targets()
    regions, index = some_regions()
    said = torch.randn(3, FORMS[form], 4, 4, generator=torch.Generator().manual_seed(0)).double()
    terms = []
    for region, (box, row) in enumerate(zip(regions[0].tolist(), index[0].tolist(), strict=True)):
        x0, y0, x1, y1 = box
        label = int(targets.labels[row])
        for i in range(4):
            for j in range(4):
                cell_x, cell_y = (x1 - x0) / 4, (y1 - y0) / 4
                corners = (x0 + j * cell_x, y0 + i * cell_y, x0 + (j + 1) * cell_x, y0 + (i + 1) * cell_y)
                goal = share_of_the_object(targets.masks[row], *corners)
                goal = goal if soft else float(goal >= 0.5)
                logits = said[region, :, i, j].tolist()
                if form == "softmax":
                    total = sum(math.exp(value) for value in logits)
                    inside, outside = math.exp(logits[label]) / total, math.exp(logits[3]) / total
                else:
                    inside = 1 / (1 + math.exp(-logits[0 if form == "agnostic" else label]))
                    outside = 1 - inside
                terms.append(-goal * math.log(inside) - (1 - goal) * math.log(outside))
    loss = branch.loss(said.float(), list(zip(regions, index, [targets, Targets.empty()], strict=True)))
    assert float(loss) == pytest.approx(sum(terms) / len(terms), rel=1e-4)
    assert 0.2 < sum(terms) / len(terms) < 5


@pytest.mark.parametrize("form", list(FORMS))
def test_the_mask_of_a_detection_is_that_of_its_class(form: str) -> None:
    branch = MaskBranch(8, 3, masks=form)
    said = torch.randn(5, FORMS[form], 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 2, 1, 1, 0])
    masks = branch.decode(said, torch.zeros(5, 4), labels)
    for mask, logits, label in zip(masks, said, labels.tolist(), strict=True):
        if form == "softmax":
            expected = logits[label].exp() / logits.exp().sum(dim=0)
        else:
            expected = 1 / (1 + (-logits[0 if form == "agnostic" else label]).exp())
        torch.testing.assert_close(mask, expected)


def test_an_object_without_a_mask_teaches_nothing() -> None:
    branch = MaskBranch(8, 3)
    regions, index = some_regions()
    targets = some_targets()
    said = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    first = [(regions[0][:1], index[0][:1], targets), (regions[1], index[1], Targets.empty())]
    of_first = branch.loss(said[:1], first)
    targets.masks[1] = False
    loss = branch.loss(said, list(zip(regions, index, [targets, Targets.empty()], strict=True)))
    (gradient,) = torch.autograd.grad(loss, said)
    torch.testing.assert_close(loss, of_first)
    assert gradient[0].any() and not gradient[1:].any()
    targets.masks[0] = False
    assert branch.loss(said, list(zip(regions, index, [targets, Targets.empty()], strict=True))) == 0


def test_the_loss_is_divided_by_the_regions_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    branch = MaskBranch(8, 3)
    regions, index = some_regions()
    said = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    alone = branch.loss(said, list(zip(regions, index, [some_targets(), Targets.empty()], strict=True)))
    monkeypatch.setattr(mask_rcnn, "world_mean", lambda count: 2 * count)
    together = branch.loss(said, list(zip(regions, index, [some_targets(), Targets.empty()], strict=True)))
    torch.testing.assert_close(together, alone / 2)


def test_what_is_learned_and_pasted_again_is_the_object() -> None:
    """Half a pixel off on either side it would be 0.96 (torchvision's own form: 0.93)."""
    boxes = torch.tensor([[10.0, 20, 70, 50], [3.3, 5.7, 43.9, 90.2]])
    masks = ellipses(boxes, (96, 96))
    pasted = paste(crop(masks, torch.arange(2), boxes, 28).numpy(), boxes.numpy(), (96, 96))
    union, both = (each.sum(axis=(1, 2)) for each in (masks.numpy() | pasted, masks.numpy() & pasted))
    assert (both / union > 0.995).all()


def test_images_without_masks_are_named() -> None:
    torch.manual_seed(0)
    model = create("mask_rcnn_resnet18_fpn", num_classes=3, **SMALL)
    images = Images.stack([torch.rand(3, 64, 64)] * 2)
    with pytest.raises(UsageError, match="image 1 has objects, but no masks; give it data with masks"):
        model(images, [Targets.empty(), some_targets(masks=False)])
    losses = model(images, [Targets.empty(), Targets.empty()])
    assert losses["masks"] == 0 and losses["masks"].requires_grad


def test_five_hundred_detections_have_a_mask_each() -> None:
    torch.manual_seed(0)
    model = create("mask_rcnn_resnet18_fpn", num_classes=3, max_detections=500, **SMALL).eval()
    model.score_threshold, model.nms_threshold = 0.0, 1.0
    nn.init.normal_(model.branches["masks"].head.predictor.weight)
    images = Images.stack([torch.rand(3, 64, 96)])
    with torch.inference_mode():
        raw = model.network(images.pixels)
        (found,) = model.decode(raw, images.sizes_hw)
        assert found.masks.shape == (500, 28, 28) and len(found) == 500
        assert found.masks.std() > 0.1 and found.masks.min() >= 0 and found.masks.max() <= 1
        assert found.bitmaps().shape == (500, 64, 96) and not found.masks_rounded
        for row in (0, 123, 499):
            region = torch.tensor([[0, *found.boxes[row].tolist()]])
            alone = model.branches["masks"](model.regions_of(raw.features, region, 14))[
                0, int(found.labels[row])
            ].sigmoid()
            np.testing.assert_allclose(found.masks[row], alone, atol=1e-4, rtol=0)


def test_behind_the_last_stage_of_a_resnet_there_is_only_the_deconvolution() -> None:
    branch = MaskBranch(32, 3, convs=0)
    said = branch(torch.rand(3, 32, 7, 7))
    assert said.shape == (3, 3, 14, 14) and len(branch.head.tower) == 0
    regions, index = some_regions()
    loss = branch.loss(said, list(zip(regions, index, [some_targets(), Targets.empty()], strict=True)))
    assert float(loss) == pytest.approx(math.log(2), rel=0.02)  # no cell is sure of anything yet


@pytest.mark.parametrize(("form", "maps"), FORMS.items())
def test_a_fully_connected_head_says_all_cells_of_a_map_at_once(form: str, maps: int) -> None:
    """Row after row of one class, then of the next; a layer of 1,024, or two of them, before the last (table 2e)."""
    for head, layers in (("2fc", 2), ("3fc", 3)):
        branch = MaskBranch(2, 3, masks=form, head=head, size=3)
        linear = [module for module in branch.modules() if isinstance(module, nn.Linear)]
        assert [module.out_features for module in linear] == [1024] * layers + [maps * 36]
        regions = torch.rand(5, 2, 3, 3, generator=torch.Generator().manual_seed(0))
        nn.init.normal_(linear[-1].weight)
        said, hidden = branch(regions), regions.reshape(5, 18)
        for module in linear[:-1]:
            hidden = (hidden @ module.weight.T + module.bias).clamp(min=0)
        for label, row, column in ((0, 0, 0), (maps - 1, 2, 5), (maps - 1, 5, 1)):
            unit = label * 36 + row * 6 + column
            expected = hidden @ linear[-1].weight[unit] + linear[-1].bias[unit]
            torch.testing.assert_close(said[:, label, row, column], expected, rtol=1e-4, atol=1e-4)


def test_c5_has_heads_of_its_own() -> None:
    """Table 2d: the map at stride 32, whose last stage cannot be the head; in detectron2's form it is dilated."""
    for name, stride in (("mask_rcnn_resnet50_c5", 32), ("mask_rcnn_resnet50_dc5_detectron2", 16)):
        with torch.device("meta"):
            model = create(name)
        assert model.backbone.strides == model.proposer.strides == (stride,) and model.finest_stride == stride
        assert len(model.proposer.shapes[0]) == 15 and isinstance(model.region_body, nn.Identity)
        assert model.box_head.fc6.in_features == 2048 * 49
        tower = [each for each in model.branches["masks"].head.tower if isinstance(each, nn.Conv2d)]
        assert [each.in_channels for each in tower] == [2048, 256, 256, 256]


def test_group_normalisation_everywhere() -> None:
    """The form of Wu and He, "Group Normalization" (2018), section 4.2."""
    norms = {"backbone_norm": "gn", "neck_norm": "gn", "head_norm": "gn"}
    with torch.device("meta"):
        model = create("mask_rcnn_resnet18_fpn", num_classes=3, box_head="4conv1fc", **norms)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    for part, count in ((model.branches["masks"], 4), (model.box_head, 4), (model.neck, 8)):
        assert sum(isinstance(module, nn.GroupNorm) for module in part.modules()) == count
    assert model.branches["masks"].head.tower[0].bias is None


def test_only_torchvisions_forms_are_pasted_in_whole_pixels() -> None:
    for name, rounded in (("mask_rcnn_resnet50_fpn_torchvision", True), ("mask_rcnn_resnet50_fpn", False)):
        with torch.device("meta"):
            branch = create(name, num_classes=3).branches["masks"]
        assert branch.notes == {"masks_rounded": rounded}
        assert (branch.soft_targets, branch.aligned) == (rounded, not rounded)


def test_an_unknown_form_is_named() -> None:
    with pytest.raises(UsageError, match="unknown masks 'sigmoide'; known: sigmoid, softmax, agnostic"):
        create("mask_rcnn_resnet18_fpn", masks="sigmoide")
