"""Features of regions: the level a region is read from; RoIAlign on it, RoIWarp, RoIPool, the position-sensitive one.

Legend: L levels, R regions, C channels, S cells of a side, s samples of a cell in each direction, B images.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align, roi_pool

from aweigh.ops import boxes as box_ops
from aweigh.ops.region_points import Along, points_of_align, points_of_warp, pool_points

Pooling = Literal["max", "mean"]
Pool = Literal["align", "align_max", "warp", "warp_max", "pool"]


def region_pooling(
    pool: Pool, strides: Sequence[int], *, samples: int = 2, aligned: bool = True
) -> Callable[..., Tensor]:
    """`read(features, regions, size=S)` to `[R, C, S, S]`, by its name in He et al. 2017, Mask R-CNN, table 2c.

    `"align"`, `"warp"`: RoIAlign and RoIWarp with the mean of the points of a cell, `"..._max"` with the largest;
    `"pool"`: RoIPool. samples, aligned: of RoIAlign.
    """
    if pool == "pool":
        return partial(max_pool_regions, strides=strides)
    pooling: Pooling = "max" if pool.endswith("_max") else "mean"
    if pool.startswith("warp"):
        return partial(warp_regions, strides=strides, pooling=pooling)
    return partial(pool_regions, strides=strides, samples=samples, aligned=aligned, pooling=pooling)


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
    pooling: Pooling = "mean",
) -> Tensor:
    """RoIAlign (He et al. 2017, Mask R-CNN, section 3), each region from its level: `[R, C, size, size]`.

    features: per level `[B, C, H, W]`, fine to coarse, at `strides`; further ones are not read. regions: `[R, 5]`, the
    number of the image and the box in pixels. samples: points in each cell and direction, 0 for as many as there are
    pixels. aligned: detectron2's half-pixel shift. pooling: what counts of the points of a cell.
    """
    features = features[: len(strides)]
    if pooling == "max":
        read = partial(_align_largest, size=size, samples=samples, aligned=aligned)
        return _of_levels(features, regions, strides, size, read)
    if samples and features[0].device.type == "cpu" and not torch.compiler.is_compiling():
        level = pyramid_level(regions[:, 1:], len(features), finest=strides[0].bit_length() - 1)
        return _align_rows(features, strides, regions, level, size, samples, aligned)
    read = partial(_align, size=size, samples=samples, aligned=aligned)
    return _of_levels(features, regions, strides, size, read)


def _of_levels(
    features: Sequence[Tensor],
    regions: Tensor,
    strides: Sequence[int],
    size: int,
    read: Callable[[Tensor, int, Tensor], Tensor],
) -> Tensor:
    """`[R, C, size, size]`. read: feature `[B, C, H, W]`, its stride, those regions of it to `[r, C, size, size]`."""
    if len(features) == 1:
        return read(features[0], strides[0], regions)
    level = pyramid_level(regions[:, 1:], len(features), finest=strides[0].bit_length() - 1)
    pooled = features[0].new_zeros(regions.shape[0], features[0].shape[1], size, size)
    for number, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        rows = (level == number).nonzero().squeeze(1)
        pooled[rows] = read(feature, stride, regions[rows])
    return pooled


def _align(feature: Tensor, stride: int, regions: Tensor, *, size: int, samples: int, aligned: bool) -> Tensor:
    boxes, side = regions.to(feature.dtype), (size, size)
    pooled: Tensor = roi_align(feature, boxes, side, spatial_scale=1 / stride, sampling_ratio=samples, aligned=aligned)
    return pooled


def _align_largest(feature: Tensor, stride: int, regions: Tensor, *, size: int, samples: int, aligned: bool) -> Tensor:
    boxes, pixels = regions[:, 1:] / stride - (0.5 if aligned else 0.0), _pixels(feature, regions)
    shortest = -torch.inf if aligned else 1.0
    rows = points_of_align(boxes[:, 1], boxes[:, 3], pixels[0], size, samples, shortest)
    columns = points_of_align(boxes[:, 0], boxes[:, 2], pixels[1], size, samples, shortest)
    return _read_points(feature, regions, rows, columns, largest=True)


def warp_regions(
    features: Sequence[Tensor], regions: Tensor, *, size: int, strides: Sequence[int], pooling: Pooling
) -> Tensor:
    """RoIWarp (Dai et al. 2016, Multi-task Network Cascades, section 3.2), each region from its level.

    Bilinear as RoIAlign, yet of a region that is rounded to whole pixels of its map, as RoIPool's is; see
    `points_of_warp`. Arguments and result as of `pool_regions`.
    """
    read = partial(_warp, size=size, pooling=pooling)
    return _of_levels(features[: len(strides)], regions, strides, size, read)


def _warp(feature: Tensor, stride: int, regions: Tensor, *, size: int, pooling: Pooling) -> Tensor:
    boxes, pixels = regions[:, 1:] / stride, _pixels(feature, regions)
    rows = points_of_warp(boxes[:, 1], boxes[:, 3], pixels[0], size)
    columns = points_of_warp(boxes[:, 0], boxes[:, 2], pixels[1], size)
    if pooling == "mean":
        rows, columns = _with_shares(rows), _with_shares(columns)
    return _read_points(feature, regions, rows, columns, largest=pooling == "max")


def _with_shares(points: Along) -> Along:
    """With weights that are 1 together in each cell, so that their sum is the mean of the points that count."""
    index, weights = points
    return index, weights / weights.sum(dim=(2, 3), keepdim=True).clamp(min=1)


def _pixels(feature: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
    """How many pixels the map has down and across, for each region `[R]`."""
    every = torch.ones_like(regions[:, 0], dtype=torch.int64)
    return feature.shape[2] * every, feature.shape[3] * every


def _read_points(feature: Tensor, regions: Tensor, rows: Along, columns: Along, *, largest: bool) -> Tensor:
    """`[R, C, S, S]` of the map `[B, C, H, W]`, see `pool_points`."""
    height, width = feature.shape[2:]
    table = feature.permute(0, 2, 3, 1).flatten(0, 2)  # [B * H * W, C]
    first = (regions[:, 0].long() * height * width)[:, None, None, None]
    pooled: Tensor = pool_points(table, first + rows[0] * width, rows[1], *columns, largest)[0]  # [R, S, S, C]
    return pooled.permute(0, 3, 1, 2)


def _align_rows(
    features: Sequence[Tensor],
    strides: Sequence[int],
    regions: Tensor,
    level: Tensor,
    size: int,
    samples: int,
    aligned: bool,
) -> Tensor:
    """The same on a CPU, many times as fast: each cell is a weighted sum of rows, one row for each pixel of a level.

    A cell takes `samples` squared points, a point the four pixels round it. Torchvision's operator goes through all
    channels one by one, in one thread; a row holds them all. The result is in channels-last memory.
    """
    table = torch.cat([feature.permute(0, 2, 3, 1).flatten(0, 2) for feature in features])  # [sum of B * H * W, C]
    images, heights, widths = (torch.tensor([feature.shape[axis] for feature in features]) for axis in (0, 2, 3))
    first = (images * heights * widths).cumsum(0) - images * heights * widths  # the first row of each level
    height, width = heights[level], widths[level]  # [R] each
    boxes = regions[:, 1:] / torch.tensor(strides)[level, None] - (0.5 if aligned else 0.0)
    shortest = -torch.inf if aligned else 1.0
    rows, row_weights = _sampled(boxes[:, 1], boxes[:, 3], height, size, samples, shortest)  # [R, S, 2 * samples]
    columns, column_weights = _sampled(boxes[:, 0], boxes[:, 2], width, size, samples, shortest)
    rows = (first[level] + regions[:, 0].long() * height * width)[:, None, None] + rows * width[:, None, None]
    index = (rows[:, :, None, :, None] + columns[:, None, :, None, :]).flatten(0, 2).flatten(1)
    weights = (row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]).flatten(0, 2).flatten(1)
    pooled = F.embedding_bag(index, table, per_sample_weights=weights.to(table.dtype), mode="sum")  # [R * S * S, C]
    return pooled.view(regions.shape[0], size, size, table.shape[1]).permute(0, 3, 1, 2)  # [R, C, S, S]


def pool_position_sensitive(
    features: Sequence[Tensor],
    regions: Tensor,
    *,
    size: int,
    stride: int,
    samples: int = 2,
    pooling: Pooling = "max",
) -> Tensor:
    """RoIAlign of which each cell has maps of its own: `[R, C, size, size]`.

    features: the last of them, `[B, C * size * size, H, W]` at `stride`, is read; row i and column j of channel c from
    map (c * size + i) * size + j (R-FCN, Dai et al. 2016, section 2; the order of torchvision). regions: `[R, 5]`, the
    number of the image and the box in pixels. samples: points in each cell and direction. pooling: the largest of them
    counts, as in the operator of Light-Head R-CNN's authors, or their mean, which equals torchvision's `ps_roi_align`.
    Both are shifted by half a pixel of the map, as there; the authors' is not.

    Written with indices, since torchvision's operator has no maximum and no form in ONNX. Memory: three values for each
    sample of each value of the result at the most, and the map once more.
    """
    feature = features[-1]
    channels, (height, width) = feature.shape[1] // size**2, feature.shape[2:]
    # A row holds the channels that one cell reads at one pixel: [B * S * S * H * W, C].
    table = feature.view(-1, channels, size**2, height, width).permute(0, 2, 3, 4, 1).reshape(-1, channels)
    boxes, image = regions[:, 1:] / stride - 0.5, regions[:, 0].long()
    every = torch.ones_like(image)
    rows, row_weights = _sampled(boxes[:, 1], boxes[:, 3], height * every, size, samples, -torch.inf)  # [R, S, 2 s]
    columns, column_weights = _sampled(boxes[:, 0], boxes[:, 2], width * every, size, samples, -torch.inf)
    cells = torch.arange(size**2, device=feature.device).view(size, size)
    first = (image[:, None, None] * size**2 + cells) * height * width  # [R, S, S]
    sampled = feature.new_zeros(regions.shape[0], size, samples, size, samples, channels)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):  # of the four pixels round a sample
        row, column = rows[:, :, down::2, None, None] * width, columns[:, None, None, :, right::2]
        weight = row_weights[:, :, down::2, None, None] * column_weights[:, None, None, :, right::2]
        sampled = sampled + table[first[:, :, None, :, None] + row + column] * weight[..., None]
    # The weights of all samples of a cell are 1 together.
    pooled = samples**2 * sampled.amax(dim=(2, 4)) if pooling == "max" else sampled.sum(dim=(2, 4))  # [R, S, S, C]
    return pooled.permute(0, 3, 1, 2)


def _sampled(
    start: Tensor, end: Tensor, pixels: Tensor, size: int, samples: int, shortest: float
) -> tuple[Tensor, Tensor]:
    """`points_of_align` with weights that are 1 together in each cell: `[R, size, 2 * samples]`, int64 and float."""
    index, weights = points_of_align(start, end, pixels, size, samples, shortest)
    return index.flatten(2), weights.flatten(2) / samples


def max_pool_regions(features: Sequence[Tensor], regions: Tensor, *, size: int, strides: Sequence[int]) -> Tensor:
    """RoIPool (Girshick 2015, Fast R-CNN, section 2.1), each region from its level: `[R, C, size, size]`.

    The region is rounded to whole cells of its map `[B, C, H, W]`, and of each of size x size parts of them the largest
    value is taken. regions: `[R, 5]`, the number of the image and the box in pixels.
    """
    return _of_levels(features[: len(strides)], regions, strides, size, partial(_max_pool, size=size))


def _max_pool(feature: Tensor, stride: int, regions: Tensor, *, size: int) -> Tensor:
    pooled: Tensor = roi_pool(feature, regions.to(feature.dtype), (size, size), spatial_scale=1 / stride)
    return pooled


def numbered(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes `[R_i, 4]` of each image as regions `[R, 5]`, the number of the image in front."""
    rows = [torch.cat([each.new_full((len(each), 1), image), each], dim=1) for image, each in enumerate(boxes)]
    return torch.cat(rows)


def numbered_batch(boxes: Tensor) -> Tensor:
    """`numbered` of as many boxes in each image, `[B, P, 4]`: regions `[B * P, 5]`. A graph of it takes any B."""
    image = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype)
    return torch.cat([image[:, None, None].expand(-1, boxes.shape[1], 1), boxes], dim=2).flatten(0, 1)
