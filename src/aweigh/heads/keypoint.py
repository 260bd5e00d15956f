"""What the features of a region say of its keypoints (He et al., "Mask R-CNN", 2017, section 5).

Legend: R regions, K keypoints, S cells of a side.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class KeypointHead(nn.Module):
    """3x3 convolutions, then a deconvolution and a bilinear step: `[R, channels, S, S]` to `[R, K, 4 S, 4 S]`.

    convs, width: the 3x3 convolutions with ReLU and their channels. Weights start as He et al. 2015 ("Delving Deep into
    Rectifiers") say, biases at 0.
    """

    def __init__(self, channels: int, keypoints: int, *, convs: int = 8, width: int = 512) -> None:
        super().__init__()
        self.tower = nn.Sequential(
            *(
                layer
                for number in range(convs)
                for layer in (nn.Conv2d(width if number else channels, width, 3, padding=1), nn.ReLU(inplace=True))
            )
        )
        self.deconvolution = nn.ConvTranspose2d(width if convs else channels, keypoints, 4, stride=2, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, regions: Tensor) -> Tensor:
        maps = self.deconvolution(self.tower(regions))
        return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
