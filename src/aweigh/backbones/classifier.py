"""The classification network whose backbone a detector is built on, as it is trained on ImageNet; and those of a paper.

`NETWORKS` holds all that table 8 and the appendix of ShuffleNet V2 (Ma et al., 2018) compare and that stand here.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from aweigh.backbones.densenet import DenseNet
from aweigh.backbones.mobilenet_v1 import WIDTHS as V1_WIDTHS
from aweigh.backbones.mobilenet_v1 import MobileNetV1, mobilenet_v1
from aweigh.backbones.mobilenet_v2 import WIDTHS as V2_WIDTHS
from aweigh.backbones.mobilenet_v2 import MobileNetV2, mobilenet_v2
from aweigh.backbones.resnet import ResNet
from aweigh.backbones.shufflenet_v1 import shufflenet_v1
from aweigh.backbones.shufflenet_v2 import BUILDERS, WIDTHS
from aweigh.backbones.stages import Stages
from aweigh.backbones.xception import xception
from aweigh.errors import UsageError, did_you_mean

Network = Stages | MobileNetV1 | MobileNetV2 | ResNet
Build = Callable[..., Network]


def classifier(body: Network, num_classes: int = 1000) -> nn.Sequential:
    """`[B, 3, H, W]` -> logits `[B, num_classes]`: the backbone and its `top`; ShuffleNet V2's keys are torchvision's.

    Images come normalised, as torchvision's do. The backbone's parts are used, not copied: training the one trains the
    other.
    """
    if body.strides[-1] != 32:
        stride = body.strides[-1]
        raise UsageError(f"{body.name}: a classifier needs all stages, this backbone ends at stride {stride}.")
    parts = [(name, part) for name, part in body.named_children() if part is not body.normalise]
    return nn.Sequential(OrderedDict([*parts, *body.top(num_classes).items()]))


def network(name: str, **options: Any) -> Network:
    """The backbone of one of `NETWORKS`; `UsageError` for another name."""
    if name not in NETWORKS:
        raise UsageError(f"There is no network {name!r}.{did_you_mean(name, NETWORKS)} Known: {', '.join(NETWORKS)}.")
    return NETWORKS[name](**options)


def _of_widths(name: str, build: Build, widths: tuple[float, ...]) -> dict[str, Build]:
    return {f"{name}_x{width}".replace(".", "_"): partial(build, width) for width in widths}


# By name, a function of the options of its backbone. Widths 0.5 to 2.0 cost about 40, 140, 300 and 500 M multiply-adds.
NETWORKS: dict[str, Build] = {
    **BUILDERS,
    **_of_widths("shufflenet_v1_g3", shufflenet_v1, WIDTHS),
    **_of_widths("mobilenet_v1", mobilenet_v1, V1_WIDTHS),
    **_of_widths("mobilenet_v2", mobilenet_v2, V2_WIDTHS),
    **_of_widths("xception_small", xception, WIDTHS),
    **_of_widths("densenet_small", DenseNet, WIDTHS),
    # Of group normalisation (Wu and He, 2018).
    **{name: partial(ResNet, name) for name in ("resnet18", "resnet34", "resnet50", "resnet101")},
}
