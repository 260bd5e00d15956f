"""FoveaBox with weights under MMDetection's names: as a plain network with these names, and its decoding, give it."""

import math
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.errors import UsageError
from aweigh.models import PUBLISHED, create

SMALL = {"num_classes": 3, "channels": 32}
ALIGNED = {"align": True, "head_norm": "gn"}
BASES = (16, 32, 64, 128, 256)  # pixels that distances are divided by


class ConvModule(nn.Module):
    """A convolution, group normalisation or none, and ReLU where `active`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, gn: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=not gn)
        if gn:
            self.gn = nn.GroupNorm(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.gn(x) if hasattr(self, "gn") else x


class Neck(nn.Module):
    def __init__(self, widths: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(ConvModule(width, channels, 1) for width in widths)
        self.fpn_convs = nn.ModuleList(ConvModule(channels, channels, 3) for _ in widths)
        self.fpn_convs.append(ConvModule(widths[-1], channels, 3, stride=2))
        self.fpn_convs.append(ConvModule(channels, channels, 3, stride=2))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        laterals = [convolution(x) for convolution, x in zip(self.lateral_convs, maps, strict=True)]
        for level in (1, 0):
            laterals[level] = laterals[level] + F.interpolate(laterals[level + 1], laterals[level].shape[2:])
        levels = [convolution(x) for convolution, x in zip(self.fpn_convs, laterals, strict=False)]
        levels.append(self.fpn_convs[3](maps[-1]))
        return [*levels, self.fpn_convs[4](levels[-1])]


class FeatureAlign(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_offset = nn.Conv2d(4, 4 * 18, 1, bias=False)
        self.conv_adaption = torchvision.ops.DeformConv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor, shape: Tensor) -> Tensor:
        return F.relu(self.conv_adaption(x, self.conv_offset(shape)))


class Head(nn.Module):
    def __init__(self, classes: int, channels: int, aligned: bool, old_names: bool) -> None:
        super().__init__()
        self.aligned, width = aligned, 4 * channels if aligned else channels
        self.reg_convs = nn.ModuleList(ConvModule(channels, channels, 3, gn=aligned) for _ in range(4))
        if aligned:
            self.feature_adaption = FeatureAlign(channels)
            first, second = ConvModule(channels, width, 3, gn=True), ConvModule(width, width, 1, gn=True)
            for each in (first, second):
                each.gn = nn.GroupNorm(32, width)
            self.cls_convs = nn.ModuleList([first, second])
        else:
            self.cls_convs = nn.ModuleList(ConvModule(channels, channels, 3) for _ in range(4))
        self.names = ("fovea_cls", "fovea_reg") if old_names else ("conv_cls", "conv_reg")
        setattr(self, self.names[0], nn.Conv2d(width, classes, 3, padding=1))
        setattr(self, self.names[1], nn.Conv2d(channels, 4, 3, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        said_of_box, said_of_class = x, x
        for convolution in self.reg_convs:
            said_of_box = convolution(said_of_box).relu()
        distances = getattr(self, self.names[1])(said_of_box)
        if self.aligned:
            said_of_class = self.feature_adaption(said_of_class, distances.exp())
        for convolution in self.cls_convs:
            said_of_class = convolution(said_of_class).relu()
        return getattr(self, self.names[0])(said_of_class), distances


class Plain(nn.Module):
    """Its `state_dict` has MMDetection's names."""

    def __init__(self, *, aligned: bool, old_names: bool = False) -> None:
        super().__init__()
        self.backbone = torchvision.models.resnet18(weights=None)
        del self.backbone.fc
        self.neck, self.bbox_head = Neck((128, 256, 512), 32), Head(3, 32, aligned, old_names)

    def forward(self, pixels: Tensor) -> list[tuple[Tensor, Tensor]]:
        body, mean, std = self.backbone, torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        x = (pixels - mean[:, None, None]) / std[:, None, None]
        x = body.layer1(body.maxpool(body.bn1(body.conv1(x)).relu()))
        maps = [second := body.layer2(x), third := body.layer3(second), body.layer4(third)]
        return [self.bbox_head(level) for level in self.neck(maps)]


def plain_and_ours(aligned: bool, old_names: bool = False) -> tuple[Plain, nn.Module]:
    torch.manual_seed(0)
    plain = Plain(aligned=aligned, old_names=old_names).eval()
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.05)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.ones_(module.weight)
    with torch.no_grad():  # outputs up to 2, so that no score is 1
        for each, part in enumerate(plain.bbox_head.names):
            last, largest = getattr(plain.bbox_head, part), 0.0
            for level in plain(torch.rand(1, 3, 96, 160)):
                largest = max(largest, float(level[each].abs().max()))
            last.weight.mul_(2 / largest)
            last.bias.zero_()
    record = PUBLISHED["foveabox_resnet50_fpn"]["align_2x" if aligned else "1x"]
    ours = create("foveabox_resnet18_fpn", **SMALL, **record.arguments).eval()
    state = record.convert(plain.state_dict())
    assert state.keys() == ours.state_dict().keys()
    ours.load_state_dict(state)
    return plain, ours


@pytest.mark.parametrize("aligned", [False, True])
@torch.no_grad()
def test_raw_outputs_and_boxes(aligned: bool) -> None:
    plain, ours = plain_and_ours(aligned, old_names=not aligned)
    pixels = torch.rand(2, 3, 96, 160)
    expected, raw = plain(pixels), ours.network(pixels)
    for level, (logits, distances) in enumerate(expected):
        scale = float(logits.abs().max())
        torch.testing.assert_close(raw.logits[level], logits.flatten(2).mT, atol=1e-4 * scale, rtol=0)
        torch.testing.assert_close(raw.distances[level], distances.flatten(2).mT, atol=1e-4 * scale, rtol=1e-4)
    (found, _) = ours.decode(raw, [(96, 160)] * 2)
    scores, level, cell, label = max(
        (float(score), level, cell, label)
        for level, (logits, _) in enumerate(expected)
        for label, row in enumerate(logits[0].flatten(1).sigmoid().tolist())
        for cell, score in enumerate(row)
    )
    width, stride = expected[level][0].shape[3], 8 * 2**level
    x, y = (cell % width + 0.5) * stride, (cell // width + 0.5) * stride
    left, top, right, bottom = (BASES[level] * math.exp(v) for v in expected[level][1][0].flatten(1)[:, cell].tolist())
    box = [max(x - left, 0), max(y - top, 0), min(x + right, 160), min(y + bottom, 96)]
    assert found.scores[0] == pytest.approx(scores, rel=1e-4) and found.labels[0] == label
    assert found.boxes[0].tolist() == pytest.approx(box, abs=0.05)


NAMES = {"backbone.body.": "backbone.", "head.logits.": "bbox_head.conv_cls.", "head.distances.": "bbox_head.conv_reg."}
NAMES |= {"head.align.offsets.": "bbox_head.feature_adaption.conv_offset."}
NAMES |= {"head.align.conv.": "bbox_head.feature_adaption.conv_adaption."}
NAMES |= {f"neck.lateral.{level}.": f"neck.lateral_convs.{level}.conv." for level in range(3)}
NAMES |= {f"neck.output.{level}.": f"neck.fpn_convs.{level}.conv." for level in range(3)}
NAMES |= {f"neck.p{level}.": f"neck.fpn_convs.{level - 3}.conv." for level in (6, 7)}
for _number in range(4):
    for _place, _part in ((3 * _number, "conv"), (3 * _number + 1, "gn")):
        NAMES[f"head.classification_tower.{_place}."] = f"bbox_head.cls_convs.{_number}.{_part}."
        NAMES[f"head.box_tower.{_place}."] = f"bbox_head.reg_convs.{_number}.{_part}."


@pytest.mark.parametrize("form", [{}, ALIGNED])
def test_a_file_that_a_user_brings(form: dict[str, object], tmp_path: Path) -> None:
    """As MMDetection saves it, beside the state of its training. Which form it is of, its names say."""
    with torch.device("meta"):
        ours = create("foveabox_resnet50_fpn", **form)
    theirs = {}
    for key, value in ours.state_dict().items():
        start = next(start for start in NAMES if key.startswith(start))
        theirs[NAMES[start] + key.removeprefix(start)] = torch.ones(value.shape, dtype=value.dtype)
    torch.save({"meta": {"epoch": 12, "CLASSES": ("person",)}, "state_dict": theirs}, tmp_path / "mine.pth")
    model = create("foveabox_resnet50_fpn", weights=tmp_path / "mine.pth")
    assert len(model.classes) == 80 and model.neck.top == "c5_linear" and bool((model.head.logits.weight == 1).all())
    assert (model.head.align is None) == (not form)


def test_a_tensor_of_another_model_is_named() -> None:
    convert = PUBLISHED["foveabox_resnet101_fpn"]["2x"].convert
    for stranger in ("bbox_head.conv_centerness.weight", "bbox_head.scales.0.scale", "roi_head.fc.weight", "fc.weight"):
        with pytest.raises(UsageError, match=f"'{stranger}' is not one of MMDetection's FoveaBox"):
            convert({stranger: torch.zeros(1)})
