"""Corner pooling against slow loops: values, and the gradient that goes through the loop."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from aweigh.ops.pooling import largest_above, largest_below, largest_left, largest_right


def slow(x: Tensor, rows: int, columns: int) -> Tensor:
    """The largest value at each cell and at all that follow it, one step of `rows` and `columns` after the other."""
    height, width = x.shape[2:]
    found = []
    for row in range(height):
        for column in range(width):
            best, r, c = x[:, :, row, column], row + rows, column + columns
            while 0 <= r < height and 0 <= c < width:
                best = torch.maximum(best, x[:, :, r, c])
                r, c = r + rows, c + columns
            found.append(best)
    return torch.stack(found, dim=-1).reshape(x.shape)


POOLS = [(largest_below, 1, 0), (largest_above, -1, 0), (largest_right, 0, 1), (largest_left, 0, -1)]


@pytest.mark.parametrize(("pool", "rows", "columns"), POOLS)
@pytest.mark.parametrize("size", [(2, 3, 5, 4), (1, 1, 1, 6), (1, 2, 7, 1), (0, 2, 3, 3)])
def test_values_and_gradients_are_those_of_a_loop(
    pool: Callable[[Tensor], Tensor], rows: int, columns: int, size: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    values, weight = torch.randn(size, generator=generator), torch.randn(size, generator=generator)
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    got, expected = pool(ours), slow(theirs, rows, columns)
    assert torch.equal(got, expected)
    (got * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
