"""Small detectors that find something, and images to find it in, for the tests that run each form."""

import math
from dataclasses import replace

import torch
from torch import nn

from aweigh.arguments import parameters
from aweigh.classes import Classes
from aweigh.heads.heatmap import HEATMAP_BIAS
from aweigh.models import DETECTORS, create
from aweigh.structures import Images, padded_proposals

CLASSES = Classes(("cat", "dog", "horse"), (17, 18, 40))
SIZES = [(64, 96), (90, 40)]
# What makes a wide head narrow, by the beginning of its builders' names or a parameter that they have. A pyramid has
# 256 channels, as the heads on it; the last stage of a ResNet-50 sees each of 100 regions; the head of keypoints is
# eight convolutions of 512, nearly 4 billion multiply-adds for each; the head of VGG-16 has 120 million weights, an
# hourglass network 200 million; the heads of centres are 256 channels wide at stride 4. Parity tests run them as they
# are published.
FEW = {"names": ["nose", "paw", "tail"]}
SMALL_HOURGLASS = {"channels": [8, 8, 12], "blocks": [1, 1, 2], "stem_channels": 8}
NARROW: dict[str, dict[str, object]] = {
    **{key: {"channels": 64} for key in ("head_convs", "per_octave", "levels_read", "align")},
    "faster_rcnn_resnet50_c4": {"box_size": 7},
    "mask_rcnn_resnet50_c4": {"box_size": 7},
    "keypoint_rcnn": {"keypoints": FEW, "keypoint_convs": 2, "keypoint_width": 32},
    "mask_keypoint_rcnn": {"keypoints": FEW, "keypoint_convs": 2, "keypoint_width": 32},
    "faster_rcnn_vgg16": {"head_width": 128},
    "fast_rcnn_vgg16": {"head_width": 128},
    "centernet_dla34": {"head_channels": 16},
    "centernet_dla34_pose": {"keypoints": FEW},
    "stem_channels": SMALL_HOURGLASS,
    "cornernet_saccade": {"channels": [8, 8, 8, 12], "blocks": [1] * 4, "point_channels": 8, "attention_channels": 8}
    | {"stacks": 1, "input_size": 64, "small_size": 48, "max_crops": 2},
    "centernet_hourglass104_pose": SMALL_HOURGLASS,
    # Of fewer channels, untrained scores of these hardly differ by place, and spreading them would make rounding large.
    "faster_rcnn_resnet50_fpn_v2": {"channels": 256},
    "mask_rcnn_resnet50_fpn_v2": {"channels": 256},
    "faster_rcnn_mobilenet_v3": {"channels": 256},
}


def lively(name: str, **arguments: object) -> nn.Module:
    """The detector in evaluation mode, small, with weights by chance and yet with something to find."""
    torch.manual_seed(0)
    which = [key for key in NARROW if key in parameters(DETECTORS[name]) or name.startswith(key)]
    narrow = {key: value for part in which for key, value in NARROW[part].items()}
    model = tiny(create(name, classes=CLASSES, **{**narrow, **arguments}))
    # A prior of 0.01 or 0.1 finds little, and untrained scores are almost alike, so that rounding decides between them:
    # raise and spread what comes before the sigmoid, so that there are detections to look at.
    priors = torch.tensor([-math.log(99), HEATMAP_BIAS])
    spread: dict[nn.Module, float] = {}

    def starts_at_a_prior(bias: torch.Tensor) -> bool:
        return any(torch.allclose(bias, prior) for prior in priors)

    flat: set[nn.Module] = set()  # what varies over places by less than a hundredth of its own size

    def remember(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        spread.setdefault(module, float(output.std()))
        if output.flatten(2).std(dim=2).mean() < 0.01 * output.abs().mean():
            flat.add(module)

    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None and starts_at_a_prior(module.bias):
            nn.init.constant_(module.bias, 0.0)
            module.register_forward_hook(remember)

    means: dict[nn.Module, torch.Tensor] = {}

    def remember_rows(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        """How much places differ from each other, which is less than anchors or classes do, and these differences."""
        of_each = output.transpose(0, 1).flatten(1)
        spread.setdefault(module, float(of_each.std(dim=1).mean()))
        means.setdefault(module, of_each.mean(dim=1) - module.bias)

    for name in ("proposer.objectness", "box_predictor.logits"):  # of two stages
        if name in dict(model.named_modules()):
            model.get_submodule(name).register_forward_hook(remember_rows)
    with torch.no_grad():
        model.eval()(images())
        if flat:
            _normalised_to(model, images())
            spread.clear()
            means.clear()
            model(images())
        for module, deviation in spread.items():
            module.weight.div_(deviation)
            if module in means:  # so that every anchor, class and nothing come first somewhere
                module.bias.copy_(-means[module] / deviation)
            module._forward_hooks.clear()
    return model


def _normalised_to(model: nn.Module, batch: Images) -> None:
    """Give its batch normalisation the statistics of the batch, as training does, so that features differ by place.

    With those that it starts with, an untrained network's last maps are its biases to four digits.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum


def tiny(model: nn.Module, *, sampled: int = 16) -> nn.Module:
    """With a shallow body, and as few regions as the images have pixels: a second stage costs as much as it has."""
    for stage in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        blocks = [repr(block) for block in stage]
        for index in range(1, len(stage)):
            trained = all(value.requires_grad for value in stage[index].parameters())  # what is frozen is known by name
            repeated = blocks[index] == blocks[index - 1] and not halves(stage[index])
            if repeated and len([*stage[index].children()]) > 1 and trained:
                stage[index] = nn.Identity()  # in the place of one that is the same once more
    if hasattr(model, "proposer"):
        model.sampled = sampled
        model.proposer.train_proposals = (20, 20)
        # Of so few that scores hardly differ, spreading them would make rounding large.
        model.proposer.test_proposals = (100, 100)
    if hasattr(model, "reference_threshold"):
        model.reference_threshold = 1.0  # no looks round boxes, where rounding would move what is looked at
    # A head of masks costs a billion multiply-adds for each detection; a graph of soft suppression has a step for each.
    if (hasattr(model, "proposer") and model.extras) or model.nms == "soft":
        model.max_detections = 10
    return model


def halves(block: nn.Module) -> bool:
    """Whether it makes maps smaller, as some equal layers of HRNet do one after the other."""
    return any(isinstance(module, nn.Conv2d) and max(module.stride) > 1 for module in block.modules())


def images(sizes: list[tuple[int, int]] = SIZES) -> Images:
    """With the same proposals in each shape of image, for the detectors that need them."""
    generator = torch.Generator().manual_seed(0)
    stacked = Images.stack([torch.rand(3, *size, generator=generator) for size in sizes])
    corners = torch.rand(2, 50, 2, generator=torch.Generator().manual_seed(0))
    boxes = torch.cat([corners.amin(dim=0), corners.amax(dim=0) + 0.05], dim=1).clamp(max=1)  # [50, 4], of the sides
    return replace(stacked, proposals=padded_proposals([boxes * torch.tensor([w, h, w, h]) for h, w in sizes]))
