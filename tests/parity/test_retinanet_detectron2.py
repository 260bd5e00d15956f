"""Detectron2's form of RetinaNet against a plain one written from its configuration, for the same random weights.

Detectron2 cannot be installed from a registry; what is compared with is the network as its documents describe it, on a
state dict with its names: BGR images of 0 to 255, a body whose stride lies in the 1x1, anchors size by size.
"""

import pytest
import torch
from tests.parity import plain_detectron2 as plain_parts
from tests.parity.plain_detectron2 import RandomState, convolved
from torch import Tensor

from aweigh.classes import Classes
from aweigh.errors import AweighError, UsageError
from aweigh.models import create
from aweigh.structures import Targets
from aweigh.weights.convert.detectron2 import retinanet_from_detectron2

CLASSES = 5


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    random = RandomState()
    random.made["anchor_generator.cell_anchors.0"] = torch.zeros(9, 4)
    random.resnet50("backbone.bottom_up")
    for level, width in ((3, 512), (4, 1024), (5, 2048)):
        random.convolution(f"backbone.fpn_lateral{level}", 256, width, 1, gain=0.5)
        random.convolution(f"backbone.fpn_output{level}", 256, 256, 3)
    random.convolution("backbone.top_block.p6", 256, 2048, 3)
    random.convolution("backbone.top_block.p7", 256, 256, 3)
    for layer in (0, 2, 4, 6):
        random.convolution(f"head.cls_subnet.{layer}", 256, 256, 3)
        random.convolution(f"head.bbox_subnet.{layer}", 256, 256, 3)
    random.convolution("head.cls_score", 9 * CLASSES, 256, 3, gain=0.3)
    random.convolution("head.bbox_pred", 9 * 4, 256, 3, gain=0.1)
    return random.made


def plain(state: dict[str, Tensor], rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """RGB `[B, 3, H, W]` in [0, 1] -> logits `[B, A, C]`, deltas `[B, A, 4]` and anchors `[A, 4]`, all of its order."""
    x, maps = plain_parts.stem(state, rgb, "backbone.bottom_up"), {}
    for stage in (2, 3, 4, 5):
        x = maps[stage] = plain_parts.stage(state, x, "backbone.bottom_up", stage)
    pyramid = plain_parts.pyramid(state, {level: maps[level] for level in (3, 4, 5)})
    pyramid[6] = convolved(state, maps[5], "backbone.top_block.p6", 2)
    pyramid[7] = convolved(state, pyramid[6].relu(), "backbone.top_block.p7", 2)
    logits, deltas, anchors = [], [], []
    for level in range(3, 8):
        for kind, last, width, into in (("cls", "cls_score", CLASSES, logits), ("bbox", "bbox_pred", 4, deltas)):
            x = pyramid[level]
            for layer in (0, 2, 4, 6):
                x = convolved(state, x, f"head.{kind}_subnet.{layer}").relu()
            into.append(plain_parts.rows(convolved(state, x, f"head.{last}"), width))
        sizes = [2 ** (level + 2) * 2 ** (third / 3) for third in range(3)]
        anchors.append(plain_parts.anchors(*pyramid[level].shape[-2:], 2**level, sizes))
    return torch.cat(logits, dim=1), torch.cat(deltas, dim=1), torch.cat(anchors)


def test_the_network_is_the_plain_one(state: dict[str, Tensor]) -> None:
    ours = create("retinanet_resnet50_fpn_detectron2", classes=Classes.numbered(CLASSES), backbone_norm="frozen_bn")
    ours.load_state_dict(
        {
            **{key: value for key, value in ours.state_dict().items() if "num_batches" in key},
            **retinanet_from_detectron2(state),
        }
    )
    pixels = torch.rand(1, 3, 128, 192, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        raw = ours.eval().network(pixels)
        expected_logits, expected_deltas, expected_anchors = plain(state, pixels)
    cells = len(expected_anchors) // 9
    # In each cell: their size by size is our ratio by ratio.
    order = (torch.arange(cells)[:, None] * 9 + torch.arange(9).reshape(3, 3).T.flatten()).flatten()
    torch.testing.assert_close(torch.cat(raw.anchors), expected_anchors[order], atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.cat(raw.logits, dim=1), expected_logits[:, order], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.cat(raw.deltas, dim=1), expected_deltas[:, order], atol=1e-4, rtol=1e-4)
    assert expected_logits.std() > 0.05 and expected_deltas.std() > 0.02


def test_losses_are_divided_by_a_moving_mean_that_moves_in_training_only(state: dict[str, Tensor]) -> None:
    ours = create("retinanet_resnet50_fpn_detectron2", classes=Classes.numbered(CLASSES), backbone_norm="frozen_bn")
    target = Targets(torch.tensor([[20.0, 20, 90, 100]]), torch.tensor([1]))
    raw = ours.network(torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(1)))
    positives = int((ours._assign(raw, target, raw.logits[0], raw.deltas[0]) >= 0).sum())
    assert positives > 1
    before = ours.eval().loss(raw, [target, Targets.empty()])
    assert ours.moving_positives == 100
    during = ours.train().loss(raw, [target, Targets.empty()])
    assert float(ours.moving_positives) == pytest.approx(0.9 * 100 + 0.1 * positives)
    after = ours.eval().loss(raw, [target, Targets.empty()])
    for name, value in during.items():
        torch.testing.assert_close(value, before[name])
        torch.testing.assert_close(after[name] * ours.moving_positives, before[name] * 100)


def test_a_pickle_is_not_read_and_a_stranger_is_named() -> None:
    with pytest.raises(AweighError, match=r"is a pickle, which can run code.*CC BY-SA 3\.0"):
        create("retinanet_resnet50_fpn_detectron2", weights="3x")
    with pytest.raises(UsageError, match="roi_heads"):
        retinanet_from_detectron2({"roi_heads.box_head.fc1.weight": torch.zeros(1)})
