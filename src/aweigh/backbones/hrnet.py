"""HRNet (Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition", 2019) for detectors.

The network is timm's. For a classifier timm widens each branch of the last stage; detectors read the branches as they
are: of HRNet-W32 32, 64, 128 and 256 channels at strides 4 to 32.
"""

from collections.abc import Mapping
from typing import Any

from aweigh.backbones.timm import TimmBackbone


class HRNet(TimmBackbone):
    """Image in, the branches of the last stage out, fine to coarse. Arguments as `TimmBackbone`."""

    options: Mapping[str, Any] = {"feature_location": ""}
    stage_ends = ("act2", "layer1", "stage2", "stage3", "stage4")
