"""What the features of a region say: its class, and how its box differs from the region (Girshick, "Fast R-CNN", 2015).

Legend: R regions, C classes, S cells of a side, D width of the features.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.layers import Norm, conv_tower


class TwoFCHead(nn.Module):
    """Two fully connected layers: `[R, channels, S, S]` to `[R, width]` (Lin et al. 2017, FPN, section 4.2)."""

    def __init__(self, channels: int, size: int, *, width: int = 1024) -> None:
        super().__init__()
        self.fc6 = nn.Linear(channels * size**2, width)
        self.fc7 = nn.Linear(width, width)
        self.width = width

    def forward(self, regions: Tensor) -> Tensor:
        return F.relu(self.fc7(F.relu(self.fc6(regions.flatten(1)))))


class ConvFCHead(nn.Module):
    """Four 3x3 convolutions and a fully connected layer (Wu and He 2018, Group Normalization, section 4.2)."""

    def __init__(
        self, channels: int, size: int, *, convs: int = 4, width: int = 1024, norm: Norm | None = "gn"
    ) -> None:
        super().__init__()
        self.tower = conv_tower(channels, convs, norm, bias=norm is None)
        self.fc = nn.Linear(channels * size**2, width)
        self.width = width

    def forward(self, regions: Tensor) -> Tensor:
        return F.relu(self.fc(self.tower(regions).flatten(1)))


class AverageHead(nn.Module):
    """The mean over the cells of a region, `[R, width, S, S]` to `[R, width]` (He et al. 2016, ResNet, appendix A)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, regions: Tensor) -> Tensor:
        return regions.mean(dim=(2, 3))


class BoxPredictor(nn.Module):
    """Logits of the classes and of "nothing", which comes last, and the deltas of each class.

    `[R, width]` to `[R, C + unused_rows + 1]` and `[R, C, 4]`. class_agnostic: the deltas are the same for all classes.
    unused_rows: logits between the two that stand for no class and yet take part in the softmax, as torchvision's heads
    have them for the ids of COCO that no object has.
    """

    def __init__(self, width: int, num_classes: int, *, class_agnostic: bool = False, unused_rows: int = 0) -> None:
        super().__init__()
        self.logits = nn.Linear(width, num_classes + unused_rows + 1)
        self.deltas = nn.Linear(width, 4 if class_agnostic else 4 * num_classes)
        self.num_classes = num_classes
        nn.init.normal_(self.logits.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        nn.init.zeros_(self.logits.bias)
        nn.init.zeros_(self.deltas.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        deltas: Tensor = self.deltas(features)
        return self.logits(features), torch.unflatten(deltas, 1, (-1, 4)).expand(-1, self.num_classes, -1)
