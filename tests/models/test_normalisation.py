"""Which normalisation stands in backbone, neck and head of a dense detector is a plain argument."""

import pytest
import torch
from torch import nn

from aweigh.models import create
from aweigh.structures import Images, Targets

DETECTORS = {
    "fcos_shufflenet_v2_x0_5_fpn": {"channels": 32, "head_convs": 1},
    "fcos_resnet18_fpn": {"channels": 32, "head_convs": 1, "neck": "bifpn"},
    "fcos_shufflenet_v2_x0_5_lite": {"channels": 32},
    "retinanet_shufflenet_v2_x1_0_fpn": {"channels": 32, "convs": 1},
    "efficientdet_d0": {},
    "faster_rcnn_resnet18_fpn": {"channels": 32, "box_size": 3, "box_head": "4conv1fc"},
    "centernet_shufflenet_v2_x0_5_lite": {"channels": 32},
    "cornernet_shufflenet_v2_x0_5_lite": {"channels": 32},
    "foveabox_resnet18_fpn": {"channels": 32, "convs": 1},
}
BUILDERS_OF_OTHERS = [
    "fcos_resnet50_fpn_base",
    "fcos_resnet50_fpn_torchvision",
    "retinanet_resnet50_fpn_torchvision",
    "retinanet_resnet50_fpn_v2_torchvision",
    "retinanet_resnet50_fpn_detectron2",
]


def kind(module: nn.Module) -> str | None:
    """The name of a normalisation in Aweigh's words, None for another module."""
    if isinstance(module, nn.GroupNorm):
        return {1: "ln", module.num_channels: "in"}.get(module.num_groups, "gn")
    if not isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
        return None
    name = type(module).__name__  # timm's bodies have classes of their own, with the activation in them
    return "frozen_bn" if "Frozen" in name else "sync_bn" if "Sync" in name else "bn"


def kinds(model: nn.Module) -> dict[str, set[str]]:
    """Of backbone, neck and head."""
    found: dict[str, set[str]] = {"backbone": set(), "neck": set(), "head": set()}
    for name, module in model.named_modules():
        part = name.partition(".")[0]
        found[part if part in ("backbone", "neck") else "head"] |= {kind(module)} - {None}
    return found


# Instance normalisation is the hardest: the coarsest maps have one cell here.
LEARNED = [(name, norm) for norm in ("bn", "sync_bn", "frozen_bn", "gn") for name in DETECTORS]
LEARNED += [(name, "in") for name in ("fcos_shufflenet_v2_x0_5_lite", "efficientdet_d0", "faster_rcnn_resnet18_fpn")]


@pytest.mark.parametrize(("name", "norm"), LEARNED)
def test_each_stands_where_it_is_asked_for_and_learns(name: str, norm: str) -> None:
    torch.manual_seed(0)
    norms = {"backbone_norm": norm, "neck_norm": norm, "head_norm": norm}
    model = create(name, num_classes=2, **DETECTORS[name], **norms).train()
    assert kinds(model) == {"backbone": {norm}, "neck": {norm}, "head": {norm}}
    images = Images.stack([torch.rand(3, 128, 128)] * 2, divisor=model.stride_divisor)
    losses = model(images, [Targets(torch.tensor([[10.0, 10, 80, 90]]), torch.tensor([1]))] * 2)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    learned = {key.partition(".")[0] for key, value in model.named_parameters() if value.grad is not None}
    assert {"backbone", "neck"} < learned
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)


@pytest.mark.parametrize("norm", ["ln", "in", "gn_2"])
@pytest.mark.parametrize("name", DETECTORS)
def test_layer_instance_and_any_number_of_groups_stand_where_they_are_asked_for(name: str, norm: str) -> None:
    with torch.device("meta"):
        model = create(
            name, num_classes=2, **DETECTORS[name], **dict.fromkeys(("backbone_norm", "neck_norm", "head_norm"), norm)
        )
    kind_of = norm.removesuffix("_2")
    assert kinds(model) == {"backbone": {kind_of}, "neck": {kind_of}, "head": {kind_of}}
    if norm == "gn_2":
        assert {each.num_groups for each in model.modules() if isinstance(each, nn.GroupNorm)} == {2}


@pytest.mark.parametrize("name", DETECTORS)
def test_each_part_has_its_own(name: str) -> None:
    norms = {"backbone_norm": "frozen_bn", "neck_norm": "gn", "head_norm": "bn"}
    with torch.device("meta"):
        model = create(name, num_classes=2, **DETECTORS[name], **norms)
    assert kinds(model) == {"backbone": {"frozen_bn"}, "neck": {"gn"}, "head": {"bn"}}


@pytest.mark.parametrize("name", BUILDERS_OF_OTHERS)
def test_so_it_is_in_the_forms_of_others(name: str) -> None:
    with torch.device("meta"):
        model = create(name, num_classes=2, backbone_norm="frozen_bn", neck_norm="gn", head_norm="bn")
    assert kinds(model) == {"backbone": {"frozen_bn"}, "neck": {"gn"}, "head": {"bn"}}
