"""What the features of a region say of its cells (He et al., "Mask R-CNN", 2017, section 3 and figure 4).

Legend: R regions, S cells of a side.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.layers import Norm, conv_tower


class MaskHead(nn.Module):
    """3x3 convolutions, a 2x2 deconvolution and a 1x1 convolution: `[R, channels, S, S]` to `[R, maps, 2 S, 2 S]`.

    convs: of 3x3, 0 where other layers stand before the head. width: channels of the deconvolution. norm: of the 3x3
    convolutions. Weights start as He et al. 2015 ("Delving Deep into Rectifiers") say, the last ones near 0, so that no
    cell is sure of anything.
    """

    def __init__(self, channels: int, maps: int, *, convs: int = 4, width: int = 256, norm: Norm | None = None) -> None:
        super().__init__()
        self.tower = conv_tower(channels, convs, norm, bias=norm is None)
        self.deconvolution = nn.ConvTranspose2d(channels, width, 2, stride=2)
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
