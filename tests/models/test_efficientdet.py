"""EfficientDet's assignment and losses on a small network: what is nobody's target, what nobody knows, its anchors."""

import pytest
import torch

from aweigh.backbones.shufflenet_v2 import ShuffleNetV2
from aweigh.classes import Classes
from aweigh.errors import UsageError
from aweigh.models import create
from aweigh.models.efficientdet import ASPECTS, EQUAL_AREA_ASPECTS, EfficientDet, PredictionNet, anchor_sides
from aweigh.necks.bifpn import BiFPN
from aweigh.structures import Targets


@pytest.fixture(scope="module")
def model() -> EfficientDet:
    torch.manual_seed(0)
    backbone = ShuffleNetV2(0.5)
    neck = BiFPN(backbone.channels, backbone.strides, channels=8, repeats=1)
    class_net, box_net = PredictionNet(8, 27, convs=1, prior=0.01), PredictionNet(8, 36, convs=1)
    return EfficientDet(backbone, neck, class_net, box_net, classes=Classes.numbered(3)).eval()


@pytest.fixture(scope="module")
def raw(model: EfficientDet):
    with torch.no_grad():
        return model.network(torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)))


def test_anchors_stand_in_the_middle_of_cells_all_aspects_of_a_size_together(raw) -> None:
    assert len(raw.anchors) == 9 * (16**2 + 8**2 + 4**2 + 2**2 + 1)
    first = raw.anchors[:9]
    torch.testing.assert_close((first[:, :2] + first[:, 2:]) / 2, torch.full((9, 2), 4.0))
    sides = first[:, 2:] - first[:, :2]
    torch.testing.assert_close(sides[:3], torch.tensor([[32.0, 32], [44.8, 22.4], [22.4, 44.8]]))
    torch.testing.assert_close(sides[3:6], sides[:3] * 2 ** (1 / 3))
    assert ((raw.anchors[9, :2] + raw.anchors[9, 2:]) / 2).tolist() == [12.0, 4.0]  # the next cell of the row


def test_equal_areas_as_an_option() -> None:
    assert anchor_sides(4.0, ASPECTS)[:3].prod(dim=1).tolist() == pytest.approx([16, 15.68, 15.68])
    assert anchor_sides(4.0, EQUAL_AREA_ASPECTS)[:3].prod(dim=1).tolist() == pytest.approx([16, 16, 16])


def test_the_box_at_an_anchor_is_learned_and_a_box_too_small_for_any_is_rescued(model, raw) -> None:
    boxes = torch.tensor([[28.0, 28, 60, 60], [100.0, 100, 103, 103]])
    labels, learned = model._assign(raw.anchors, Targets(boxes, torch.tensor([2, 1])))
    assert (labels == 1).sum() == 1 and (labels == 2).sum() > 1 and len(learned) == (labels >= 0).sum()
    assert labels[torch.isclose(raw.anchors, boxes[0]).all(dim=1)].tolist() == [2]


def test_targets_of_exactly_zero_give_no_box_loss(model, raw) -> None:
    """As in the authors' code: the anchor that is the box has nothing to learn, whatever it says."""
    exact = next(row for row in range(9) if raw.anchors[27 + row, 2] - raw.anchors[27 + row, 0] == 32)
    box = raw.anchors[27 + exact : 28 + exact]
    alone = raw._replace(logits=raw.logits[:, 27 + exact : 28 + exact], deltas=torch.ones(1, 1, 4), anchors=box)
    target = Targets(box, torch.tensor([0]))
    assert model.loss(alone, [target])["box"] == 0
    moved = Targets(box + torch.tensor([1.0, 0, 1, 0]), torch.tensor([0]))
    error = 1 - 1 / 32  # of one delta; 50 * 0.1 * (error - 0.05) / (4 * 2)
    assert model.loss(alone, [moved])["box"].item() == pytest.approx(50 * 0.1 * (error - 0.05) / 8, rel=1e-5)


def test_nothing_is_learned_in_ignored_regions_but_the_objects_there(model, raw) -> None:
    boxes = torch.tensor([[0.0, 0, 63, 63], [28.0, 28, 60, 60]])
    target = Targets(boxes, torch.tensor([0, 1]), ignore=torch.tensor([True, False]))
    labels, _ = model._assign(raw.anchors, target)
    centers = (raw.anchors[:, :2] + raw.anchors[:, 2:]) / 2
    inside = ((centers > 0) & (centers < 63)).all(dim=1)
    assert (labels[inside & (labels != 1)] == -2).all() and (labels[~inside] != -2).all()
    assert (labels == 1).sum() > 0 and (labels == 0).sum() == 0


@pytest.mark.parametrize("kind", ["uncertain", "known"])
def test_what_nobody_knows_gives_no_gradient(model, raw, kind: str) -> None:
    logits = raw.logits.clone().requires_grad_()
    if kind == "known":
        target = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), known=torch.tensor([True, False, True]))
    else:
        everywhere = torch.tensor([[-1.0, -1, 129, 129]])
        target = Targets(everywhere, torch.tensor([1]), uncertain=torch.tensor([True]))
    model.loss(raw._replace(logits=logits), [target])["classification"].backward()
    assert (logits.grad[..., 1] == 0).all() and (logits.grad[..., [0, 2]] > 0).all()


def test_wrong_arguments_are_named(model) -> None:
    with pytest.raises(UsageError, match="class_net has 27 outputs a cell; 9 anchors need 36"):
        EfficientDet(model.backbone, model.neck, model.class_net, model.box_net, classes=Classes.numbered(4))
    with pytest.raises(UsageError, match="unknown form 'caffe'"):
        create("efficientdet_d0", num_classes=2, form="caffe")
