"""Published ImageNet weights of backbones.

`imagenet_record` gives torchvision's file for the backbones of the papers, whose names, addresses and accuracies are
written down here, those of the authors of DLA-34 and HRNet-W32, and for any other timm model the file timm names, if
its name carries a checksum.
"""

import re

from aweigh.errors import UsageError
from aweigh.weights.record import PublishedWeights

# Our name (timm's for a TimmBackbone) -> file, ImageNet top-1 and top-5 accuracy in %. All are torchvision's
# IMAGENET1K_V1, the weights detection papers start from (for ResNet, those of the original recipe).
TORCHVISION = {
    "resnet18": ("resnet18-f37072fd.pth", 69.758, 89.078),
    "resnet34": ("resnet34-b627a593.pth", 73.314, 91.420),
    "resnet50": ("resnet50-0676ba61.pth", 76.130, 92.862),
    "resnet101": ("resnet101-63fe2227.pth", 77.374, 93.546),
    "resnext101_32x8d": ("resnext101_32x8d-8ba56ff5.pth", 79.312, 94.526),
    "resnext101_64x4d": ("resnext101_64x4d-173b62eb.pth", 83.246, 96.454),
    "shufflenet_v2_x0_5": ("shufflenetv2_x0.5-f707e7126e.pth", 60.552, 81.746),
    "shufflenet_v2_x1_0": ("shufflenetv2_x1-5666bf0f80.pth", 69.362, 88.316),
    "shufflenet_v2_x1_5": ("shufflenetv2_x1_5-3c479a10.pth", 72.996, 91.086),
    "shufflenet_v2_x2_0": ("shufflenetv2_x2_0-8be3c8ee.pth", 76.230, 93.006),
    "mobilenetv2_100": ("mobilenet_v2-b0353104.pth", 71.878, 90.286),
    "vgg16": ("vgg16-397923af.pth", 71.592, 90.382),
}
TORCHVISION_FOLDER = "https://download.pytorch.org/models/"

# Of these timm names no file with a checksum: that of DLA's authors, which CenterNet starts from, and that of HRNet's,
# as timm gave it out first.
DLA34 = "http://dl.yf.io/dla/models/imagenet/dla34-ba72cf86.pth"
HRNET_W32 = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-hrnet/hrnetv2_w32-90d8c5fb.pth"
_IMAGES = "trained on ImageNet, whose images are for non-commercial research"

# Files are published with the first digits of their SHA-256 at the end of the name.
_CHECKSUM = re.compile(r"-([0-9a-f]{8,64})\.(pth|pt|safetensors)$")


def imagenet_record(name: str) -> PublishedWeights:
    """The published ImageNet weights of a backbone; `UsageError` when no file with a checksum is known."""
    if name in TORCHVISION:
        file, top1, top5 = TORCHVISION[name]
        licence, source = f"BSD-3-Clause (torchvision); {_IMAGES}", "torchvision, IMAGENET1K_V1, trained on ImageNet-1k"
        return _record(name, TORCHVISION_FOLDER + file, licence, source, top1=top1, top5=top5)
    if name == "dla34":
        licence = f"BSD-3-Clause (ucbdrive/dla); {_IMAGES}"
        return _record(name, DLA34, licence, "the authors of DLA, trained on ImageNet-1k")
    if name == "hrnet_w32":
        return _record(name, HRNET_W32, f"MIT (HRNet); {_IMAGES}", "the authors of HRNet, trained on ImageNet-1k")
    import timm

    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    url = config.url if config is not None and isinstance(config.url, str) else ""
    if config is None or not _CHECKSUM.search(url):
        raise UsageError(
            f"No published ImageNet weights with a checksum are known for {name!r}; known: {', '.join(TORCHVISION)}. "
            "Give a local file instead."
        )
    return _record(name, url, config.license or "not stated", f"timm {name}.{config.tag}")


def _record(name: str, url: str, licence: str, source: str, **metrics: float) -> PublishedWeights:
    found = _CHECKSUM.search(url)
    return PublishedWeights(name, url, url.rsplit("/", 1)[-1], found[1] if found else "", licence, source, metrics)
