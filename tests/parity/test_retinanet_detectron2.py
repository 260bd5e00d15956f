"""Detectron2's form of RetinaNet against a plain one written from its configuration, for the same random weights.

Detectron2 cannot be installed from a registry; what is compared with is the network as its documents describe it, on a
state dict with its names: BGR images of 0 to 255, a body whose stride lies in the 1x1, anchors size by size.
"""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aweigh.errors import AweighError, UsageError
from aweigh.models import create
from aweigh.structures import Classes, Targets
from aweigh.weights.convert.detectron2 import retinanet_from_detectron2

CLASSES = 5
BLOCKS = (3, 4, 6, 3)
BGR_MEAN = (103.53, 116.28, 123.675)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made: dict[str, Tensor] = {
        "pixel_mean": torch.tensor(BGR_MEAN),
        "anchor_generator.cell_anchors.0": torch.zeros(9, 4),
    }

    def convolution(name: str, out: int, into: int, kernel: int, *, bias: bool = False, gain: float = 1.0) -> None:
        deviation = gain * (2 / (into * kernel**2)) ** 0.5
        made[f"{name}.weight"] = torch.randn(out, into, kernel, kernel, generator=generator) * deviation
        if bias:
            made[f"{name}.bias"] = torch.randn(out, generator=generator) * 0.1

    def normalised(name: str, out: int, into: int, kernel: int) -> None:
        convolution(name, out, into, kernel, gain=0.7)
        made[f"{name}.norm.weight"] = 1 + torch.randn(out, generator=generator) * 0.1
        made[f"{name}.norm.bias"] = torch.randn(out, generator=generator) * 0.1
        made[f"{name}.norm.running_mean"] = torch.randn(out, generator=generator) * 0.1
        made[f"{name}.norm.running_var"] = 1 + torch.rand(out, generator=generator)

    normalised("backbone.bottom_up.stem.conv1", 64, 3, 7)
    made["backbone.bottom_up.stem.conv1.weight"] /= 50  # of pixels up to 255
    into = 64
    for stage, count in enumerate(BLOCKS, start=2):
        width, out = 64 * 2 ** (stage - 2), 256 * 2 ** (stage - 2)
        for block in range(count):
            name = f"backbone.bottom_up.res{stage}.{block}"
            if block == 0:
                normalised(f"{name}.shortcut", out, into, 1)
            normalised(f"{name}.conv1", width, into, 1)
            normalised(f"{name}.conv2", width, width, 3)
            normalised(f"{name}.conv3", out, width, 1)
            into = out
    for level, width in ((3, 512), (4, 1024), (5, 2048)):
        convolution(f"backbone.fpn_lateral{level}", 256, width, 1, bias=True, gain=0.5)
        convolution(f"backbone.fpn_output{level}", 256, 256, 3, bias=True)
    convolution("backbone.top_block.p6", 256, 2048, 3, bias=True)
    convolution("backbone.top_block.p7", 256, 256, 3, bias=True)
    for layer in (0, 2, 4, 6):
        convolution(f"head.cls_subnet.{layer}", 256, 256, 3, bias=True)
        convolution(f"head.bbox_subnet.{layer}", 256, 256, 3, bias=True)
    convolution("head.cls_score", 9 * CLASSES, 256, 3, bias=True, gain=0.3)
    convolution("head.bbox_pred", 9 * 4, 256, 3, bias=True, gain=0.1)
    return made


def plain(state: dict[str, Tensor], rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """RGB `[B, 3, H, W]` in [0, 1] -> logits `[B, A, C]`, deltas `[B, A, 4]` and anchors `[A, 4]`, all of its order."""

    def convolved(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        x = F.conv2d(x, weight, state.get(f"{name}.bias"), stride, weight.shape[-1] // 2)
        if f"{name}.norm.weight" not in state:
            return x
        mean, variance, gain, shift = (
            state[f"{name}.norm.{what}"] for what in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, gain, shift)

    x = rgb[:, [2, 1, 0]] * 255 - torch.tensor(BGR_MEAN)[:, None, None]
    x = F.max_pool2d(convolved(x, "backbone.bottom_up.stem.conv1", 2).relu(), 3, 2, 1)
    maps = {}
    for stage, count in enumerate(BLOCKS, start=2):
        for block in range(count):
            name, stride = f"backbone.bottom_up.res{stage}.{block}", 2 if block == 0 and stage > 2 else 1
            kept = convolved(x, f"{name}.shortcut", stride) if block == 0 else x
            x = convolved(x, f"{name}.conv1", stride).relu()
            x = convolved(x, f"{name}.conv2").relu()
            x = (convolved(x, f"{name}.conv3") + kept).relu()
        maps[stage] = x
    merged, pyramid = None, {}
    for level in (5, 4, 3):
        lateral = convolved(maps[level], f"backbone.fpn_lateral{level}")
        merged = lateral if merged is None else lateral + F.interpolate(merged, scale_factor=2, mode="nearest")
        pyramid[level] = convolved(merged, f"backbone.fpn_output{level}")
    pyramid[6] = convolved(maps[5], "backbone.top_block.p6", 2)
    pyramid[7] = convolved(pyramid[6].relu(), "backbone.top_block.p7", 2)
    logits, deltas, anchors = [], [], []
    for level in range(3, 8):
        for kind, last, width, into in (("cls", "cls_score", CLASSES, logits), ("bbox", "bbox_pred", 4, deltas)):
            x = pyramid[level]
            for layer in (0, 2, 4, 6):
                x = convolved(x, f"head.{kind}_subnet.{layer}").relu()
            x = convolved(x, f"head.{last}")
            into.append(x.reshape(len(x), -1, width, *x.shape[-2:]).permute(0, 3, 4, 1, 2).reshape(len(x), -1, width))
        height, columns = pyramid[level].shape[-2:]
        for row in range(height):
            for column in range(columns):
                for size in (2 ** (level + 2) * 2 ** (third / 3) for third in range(3)):
                    for ratio in (0.5, 1.0, 2.0):
                        half_width, half_height = size / ratio**0.5 / 2, size * ratio**0.5 / 2
                        x0, y0 = column * 2**level, row * 2**level
                        anchors.append([x0 - half_width, y0 - half_height, x0 + half_width, y0 + half_height])
    return torch.cat(logits, dim=1), torch.cat(deltas, dim=1), torch.tensor(anchors)


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
