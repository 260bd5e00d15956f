"""Random changes of colour of an image in `[0, 1]`, by the functional kernels of `torchvision.transforms.v2`."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as kernels

from aweigh.feeding.randomness import uniform

COLOR_REACH = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.04}  # at color=1; ours

# The principal components of COCO's colours, RGB in [0, 1], as columns: eigenvectors times eigenvalues, both those of
# the authors' code of CenterNet.
PRINCIPAL_COLORS = torch.tensor(
    [
        [-0.56089297, 0.71832671, 0.41158938],
        [-0.58327470, 0.00994535, -0.81221408],
        [-0.58752847, -0.69563484, 0.41340352],
    ]
) * torch.tensor([0.2141788, 0.01817699, 0.00341571])


def jitter_color(image: Tensor, strength: float, generator: Generator) -> Tensor:
    """Random brightness, contrast, saturation and hue of a float image `[3, H, W]` in `[0, 1]`."""
    reach = {name: value * strength for name, value in COLOR_REACH.items()}
    image = kernels.adjust_brightness(image, uniform(generator, 1 - reach["brightness"], 1 + reach["brightness"]))
    contrast = uniform(generator, 1 - reach["contrast"], 1 + reach["contrast"])
    mean = kernels.rgb_to_grayscale(image).double().mean().float()  # in double: the same with any number of threads
    image = (image * contrast + (1 - contrast) * mean).clamp(0, 1)
    image = kernels.adjust_saturation(image, uniform(generator, 1 - reach["saturation"], 1 + reach["saturation"]))
    return kernels.adjust_hue(image, uniform(generator, -reach["hue"], reach["hue"]))


def shuffle_color(image: Tensor, reach: float, generator: Generator) -> Tensor:
    """Brightness, contrast and saturation in random order, each times 1 - `reach` to 1 + `reach`, of a float image
    `[3, H, W]` in `[0, 1]`.

    As the authors' code of CenterNet has it: grey is that of the image as it was, and nothing is cut off in between.
    """
    grey = kernels.rgb_to_grayscale(image)
    mean = grey.double().mean().float()  # in double: the same with any number of threads
    towards = (torch.zeros_like(mean), mean, grey)
    for kind in torch.randperm(3, generator=generator).tolist():
        factor = uniform(generator, 1 - reach, 1 + reach)
        image = factor * image + (1 - factor) * towards[kind]
    return image.clamp(0, 1)


def shift_color(image: Tensor, deviation: float, generator: Generator) -> Tensor:
    """All pixels of a float image `[3, H, W]` in `[0, 1]` by the same amount along each of `PRINCIPAL_COLORS`."""
    amounts = deviation * torch.randn(3, generator=generator)
    return (image + (PRINCIPAL_COLORS @ amounts)[:, None, None]).clamp(0, 1)
