"""What regions show of the masks of objects, as a mask head learns them."""

import torch
from torch import Tensor
from torchvision.ops import roi_align

CROP_BYTES = 2**28  # ours: bitmaps made floats at a time, 60 objects of an image of 800 x 1333


def crop(
    masks: Tensor, index: Tensor, boxes: Tensor, size: int, *, aligned: bool = True, byte_budget: int = CROP_BYTES
) -> Tensor:
    """What a region shows of an object: `[R, size, size]` float in `[0, 1]`, the share of each cell.

    RoIAlign (He et al. 2017, Mask R-CNN, section 3) with a sample for each pixel of a cell. masks: `[N, H, W]` bool.
    index: `[R]` int64, the mask each region is of. boxes: `[R, 4]` xyxy in pixels. aligned: a mask's value is that of
    the centre of its pixel; torchvision takes it for that of the corner. byte_budget: of floats at a time.
    """
    cropped = boxes.new_zeros(len(boxes), size, size)
    portion = max(1, byte_budget // (4 * max(1, masks[0].numel()))) if len(masks) else 1
    for first in range(0, len(masks), portion):
        rows = ((index >= first) & (index < first + portion)).nonzero().squeeze(1)
        regions = torch.cat([(index[rows, None] - first).to(boxes.dtype), boxes[rows]], dim=1)
        values = masks[first : first + portion, None].to(boxes.dtype)  # [n, 1, H, W]
        cropped[rows] = roi_align(values, regions, size, aligned=aligned)[:, 0]
    return cropped
