"""HRNet's pyramid: against one computed cell by cell, borders included; sizes, errors."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.errors import UsageError
from aweigh.necks.hrfpn import HRFPN

WIDTHS, STRIDES = (4, 6, 8, 10), (4, 8, 16, 32)


def features(size_hw: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.rand(2, width, *(-(-side // stride) for side in size_hw), generator=generator)
        for width, stride in zip(WIDTHS, STRIDES, strict=True)
    ]


def enlarged(x: Tensor, rows: int, columns: int) -> Tensor:
    """Bilinear, cell by cell: the middle of a target cell lies between four middles of source cells, or at a border."""
    result = x.new_zeros(*x.shape[:2], rows, columns)
    for row in range(rows):
        for column in range(columns):
            places = []
            for at, there, here in ((row, rows, x.shape[2]), (column, columns, x.shape[3])):
                middle = max(0.0, (at + 0.5) * here / there - 0.5)
                first = min(int(middle), here - 1)
                share = middle - first
                places.append([(first, 1 - share), (min(first + 1, here - 1), share)])
            for y, weight_y in places[0]:
                for x_, weight_x in places[1]:
                    result[:, :, row, column] += weight_y * weight_x * x[:, :, y, x_]
    return result


def means(x: Tensor, side: int) -> Tensor:
    rows, columns = (range(0, length, side) for length in x.shape[2:])
    windows = [[x[:, :, y : y + side, z : z + side].mean(dim=(2, 3)) for z in columns] for y in rows]
    return torch.stack([torch.stack(row, dim=-1) for row in windows], dim=-2)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size_hw", [(64, 96), (75, 50), (1, 1)])
@torch.no_grad()
def test_it_is_the_one_computed_cell_by_cell(size_hw: tuple[int, int], stride: int) -> None:
    torch.manual_seed(0)
    neck, maps = HRFPN(WIDTHS, STRIDES, channels=8, levels=5, stride=stride), features(size_hw)
    finest = maps[0].shape[-2:]
    together = torch.cat([maps[0], *(enlarged(each, *finest) for each in maps[1:])], dim=1)  # [B, 28, H, W]
    joined = torch.einsum("bchw,oc->bohw", together, neck.join.weight[:, :, 0, 0]) + neck.join.bias[:, None, None]
    found = neck(maps)
    assert neck.strides == tuple(4 * stride * 2**level for level in range(5)) and neck.channels == (8,) * 5
    for level, (each, output) in enumerate(zip(found, neck.output, strict=True)):
        expected = F.conv2d(means(joined, 2**level), output.weight, output.bias, stride=stride, padding=1)
        assert expected.shape[-2:] == tuple(-(-side // (4 * stride * 2**level)) for side in size_hw)
        torch.testing.assert_close(each, expected, rtol=1e-4, atol=1e-5)


def test_one_map_one_level_and_normalised() -> None:
    neck = HRFPN((3,), (16,), channels=8, levels=1, norm="gn")
    assert neck.strides == (16,) and neck.join[0].bias is None and isinstance(neck.output[0][1], nn.GroupNorm)
    (level,) = neck([torch.rand(1, 3, 5, 7)])
    assert level.shape == (1, 8, 5, 7)


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="HRFPN needs input strides that double or stay"):
        HRFPN((3, 4), (4, 16))
    with pytest.raises(UsageError, match="stride = 0"):
        HRFPN((3,), (4,), stride=0)
