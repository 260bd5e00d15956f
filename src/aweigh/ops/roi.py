"""Features of regions: the level a region is read from, and RoIAlign on it.

Legend: L levels, R regions, C channels, S cells of a side.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from aweigh.ops import boxes as box_ops


def pyramid_level(
    boxes: Tensor, levels: int, *, finest: int = 2, canonical_level: int = 4, canonical_size: float = 224.0
) -> Tensor:
    """Which of `levels` maps each box `[R, 4]` is read from, 0 the finest: `[R]` int64.

    k = k0 + log2(sqrt(area) / 224), rounded down (Lin et al. 2017, FPN, equation 1), with the 1e-6 of torchvision.
    """
    size = box_ops.areas(boxes).clamp(min=0).sqrt()
    level = torch.floor(canonical_level + torch.log2(size / canonical_size) + 1e-6)
    return level.clamp(finest, finest + levels - 1).long() - finest


def pool_regions(
    features: Sequence[Tensor],
    regions: Tensor,
    *,
    size: int,
    strides: Sequence[int],
    samples: int = 2,
    aligned: bool = False,
) -> Tensor:
    """RoIAlign (He et al. 2017, Mask R-CNN, section 3), each region from its level: `[R, C, size, size]`.

    features: per level `[B, C, H, W]`, fine to coarse, at `strides`; further ones are not read. regions: `[R, 5]`, the
    number of the image and the box in pixels. samples: points in each cell and direction, 0 for as many as there are
    pixels. aligned: detectron2's half-pixel shift.
    """
    features = features[: len(strides)]
    level = pyramid_level(regions[:, 1:], len(features), finest=strides[0].bit_length() - 1)
    if torch.compiler.is_compiling():  # a graph has one shape for all data: read every region from every level
        every = [_align(feature, stride, regions, size, samples, aligned) for feature, stride in zip(features, strides)]
        return torch.stack(every).gather(0, level[None, :, None, None, None].expand(1, *every[0].shape))[0]
    pooled = features[0].new_zeros(len(regions), features[0].shape[1], size, size)
    for number, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        rows = (level == number).nonzero().squeeze(1)
        pooled[rows] = _align(feature, stride, regions[rows], size, samples, aligned)
    return pooled


def _align(feature: Tensor, stride: int, regions: Tensor, size: int, samples: int, aligned: bool) -> Tensor:
    boxes, side = regions.to(feature.dtype), (size, size)
    pooled: Tensor = roi_align(feature, boxes, side, spatial_scale=1 / stride, sampling_ratio=samples, aligned=aligned)
    return pooled


def numbered(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes `[R_i, 4]` of each image as regions `[R, 5]`, the number of the image in front."""
    rows = [torch.cat([each.new_full((len(each), 1), image), each], dim=1) for image, each in enumerate(boxes)]
    return torch.cat(rows)
