"""The classification network whose backbone a detector is built on, as it is trained on ImageNet."""

from collections import OrderedDict

from torch import nn

from aweigh.backbones.stages import Stages
from aweigh.errors import UsageError


def classifier(body: Stages, num_classes: int = 1000) -> nn.Sequential:
    """`[B, 3, H, W]` -> logits `[B, num_classes]`: the backbone and its `top`; ShuffleNet V2's keys are torchvision's.

    Images come normalised, as torchvision's do. The backbone's parts are used, not copied: training the one trains the
    other.
    """
    if body.levels[-1] != 5:
        raise UsageError(f"{body.name}: a classifier needs all stages, this backbone ends at level {body.levels[-1]}.")
    parts = [(name, part) for name, part in body.named_children() if part is not body.normalise]
    return nn.Sequential(OrderedDict([*parts, *body.top(num_classes).items()]))
