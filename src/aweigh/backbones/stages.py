"""What ShuffleNet V1 and the small Xception have in common: all but their units.

A strided 3x3 convolution, a max-pool, and three stages of 4, 8 and 4 units, of which the first halves the map and the
second and third stage double the channels (Zhang et al. 2018, ShuffleNet, table 1; Li et al. 2017, Light-Head R-CNN,
table of the small network).
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from aweigh.arguments import Colour, Deviation, Frozen, checked_class
from aweigh.backbones.shufflenet_v2 import BlackBorder
from aweigh.backbones.timm import Normalise
from aweigh.errors import UsageError
from aweigh.layers import Norm, make_norm
from aweigh.structures import IMAGENET_MEAN, IMAGENET_STD

UNITS = (4, 8, 4)  # of stages 2, 3 and 4, which lie at levels 3, 4 and 5
LEVELS = (3, 4, 5)


@checked_class()
class Stages(nn.Module):
    """Image in, feature maps out, fine to coarse.

    name: for messages and published weights. stem: channels of the first convolution. channels: of stage 2.
    unit: from channels read, channels given and stride (2 or 1) to a unit.
    levels: the maps wanted, of strides 2^l: 3, 4 and 5 are the three stages. norm: behind the first convolution.
    frozen_stages: so many stages, from the image on, get no gradient and keep their batch statistics; the stem
    (`conv1`) is stage 1, `stage2` is stage 2.
    black_border: beyond the image lies black, not the mean colour (`BlackBorder`).
    pixel_mean, pixel_std: of RGB in `[0, 1]`, by which images are normalised.
    """

    stride_divisor = 32
    activation = None

    def __init__(
        self,
        name: str,
        stem: int,
        channels: int,
        unit: Callable[[int, int, int], nn.Module],
        *,
        levels: Sequence[int] = LEVELS,
        norm: Norm = "bn",
        frozen_stages: Frozen = 0,
        black_border: bool = False,
        pixel_mean: Colour = IMAGENET_MEAN,
        pixel_std: Deviation = IMAGENET_STD,
    ) -> None:
        super().__init__()
        if not levels or list(levels) != sorted(set(LEVELS) & set(levels)):
            raise UsageError(f"{name}: levels must be of 3, 4, 5, fine to coarse, got {list(levels)}.")
        stages = max(levels) - 2
        if not 0 <= frozen_stages <= 1 + stages:
            raise UsageError(f"{name}: frozen_stages must lie in 0..{1 + stages}, got {frozen_stages}.")
        self.name = name
        self.levels = tuple(levels)
        self.channels = tuple(channels * 2 ** (level - 3) for level in levels)
        self.strides = tuple(2**level for level in levels)
        self.normalise = Normalise(pixel_mean, pixel_std)
        self.border = BlackBorder() if black_border else nn.Identity()
        convolution = nn.Conv2d(3, stem, 3, stride=2, padding=0 if black_border else 1, bias=False)
        self.conv1 = nn.Sequential(convolution, make_norm(norm, stem), nn.ReLU(inplace=True))
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        read = stem
        for stage, units in enumerate(UNITS[:stages]):
            given = channels * 2**stage
            rest = [unit(given, given, 1) for _ in range(units - 1)]
            self.add_module(f"stage{stage + 2}", nn.Sequential(unit(read, given, 2), *rest))
            read = given
        self._frozen = ("conv1", *(f"stage{stage + 2}" for stage in range(stages)))[:frozen_stages]
        for part in self._frozen:
            self.get_submodule(part).requires_grad_(False)
        self.train()

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: `[B, 3, H, W]` RGB. Returns `[B, channels[i], ceil(H / strides[i]), ...]`, fine to coarse."""
        x = self.maxpool(self.conv1(self.border(self.normalise(x))))
        maps = []
        for level in range(LEVELS[0], self.levels[-1] + 1):
            x = self.get_submodule(f"stage{level - 1}")(x)
            if level in self.levels:
                maps.append(x)
        return maps

    def train(self, mode: bool = True) -> "Stages":
        super().train(mode)
        for part in self._frozen:
            self.get_submodule(part).eval()
        return self

    def top(self, num_classes: int) -> dict[str, nn.Module]:
        """What makes a classifier of it."""
        return {
            "pool": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            "fc": nn.Linear(self.channels[-1], num_classes),
        }
