"""ResNet as a classification network, on which group normalisation was shown (Wu and He, ECCV 2018, section 4.1).

The network is timm's, whose normalisation is exchanged by name. As in that section the last normalisation of each
residual branch starts with a scale of 0.
"""

from torch import nn

from aweigh.backbones.mobilenet_v2 import Coarsest
from aweigh.backbones.timm import TimmBackbone


class ResNet(TimmBackbone):
    """Image in, feature maps out, fine to coarse. Arguments as `TimmBackbone`; name: `resnet18`, `resnet50` ..."""

    def top(self, num_classes: int) -> dict[str, nn.Module]:
        """What makes a classifier of it."""
        return {
            "coarsest": Coarsest(),
            "pool": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            "fc": nn.Linear(self.channels[-1], num_classes),
        }
