"""What the features of a region say of its cells (He et al., "Mask R-CNN", 2017, section 3, figure 4 and table 2e).

Legend: R regions, S cells of a side.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.layers import Norm, conv_tower


class MaskHead(nn.Module):
    """3x3 convolutions, a 2x2 deconvolution and a 1x1 convolution: `[R, channels, S, S]` to `[R, maps, 2 S, 2 S]`.

    convs: of 3x3, 0 where other layers stand before the head; conv_width: their channels, None for as many as come in.
    width: channels of the deconvolution. norm: of the 3x3 convolutions. Weights start as He et al. 2015 ("Delving Deep
    into Rectifiers") say, the last ones near 0, so that no cell is sure of anything.
    """

    def __init__(
        self,
        channels: int,
        maps: int,
        *,
        convs: int = 4,
        conv_width: int | None = None,
        width: int = 256,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        inner = channels if conv_width is None or not convs else conv_width
        self.tower = conv_tower(inner, convs, norm, in_channels=channels, bias=norm is None)
        self.deconvolution = nn.ConvTranspose2d(inner, width, 2, stride=2)
        self.predictor = nn.Conv2d(width, maps, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.predictor.weight, std=0.001)  # detectron2's

    def forward(self, regions: Tensor) -> Tensor:
        maps: Tensor = self.predictor(F.relu(self.deconvolution(self.tower(regions)), inplace=True))
        return maps


class FullyConnectedMaskHead(nn.Module):
    """Fully connected layers, the last of which says all cells at once (table 2e): `[R, channels, S, S]` to
    `[R, maps, 2 S, 2 S]`. layers: before the last. width: of each."""

    def __init__(self, channels: int, maps: int, size: int, *, layers: int = 2, width: int = 1024) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(width if number else channels * size**2, width) for number in range(layers)
        )
        self.predictor = nn.Linear(width, maps * (2 * size) ** 2)
        self.shape = (maps, 2 * size, 2 * size)
        nn.init.normal_(self.predictor.weight, std=0.001)  # as in the other head
        nn.init.zeros_(self.predictor.bias)

    def forward(self, regions: Tensor) -> Tensor:
        said = regions.flatten(1)
        for layer in self.layers:
            said = F.relu(layer(said))
        maps: Tensor = self.predictor(said)
        return torch.unflatten(maps, 1, self.shape)
