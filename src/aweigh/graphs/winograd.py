"""Wide 3x3 convolutions with a quarter of the multiplications: Winograd's F(4x4, 3x3), in plain operators of ONNX.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4: Y = A'[(G g G') (B' d B)] A,
where the product in the middle is of single numbers. A map is cut into tiles of 6x6 cells that overlap by two. Along an
axis a tile, and the kernel, is a polynomial that is known by its values at six points, and a convolution a product of
such values: over all channels one product of matrices for each of the 36 points. It gives 4x4 cells of each tile.

How ours differs: the points are not 0, 1, -1, 2, -2 and infinity, but those that round least of some that were tried: a
third of the paper's, and 0.00001 of the deviation of the output at most in 256 channels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnxscript import opset20
from onnxscript.function_libs.torch_lib.ops.core import aten_conv2d

op: Any = opset20  # the functions build parts of a graph: what they are given and return are values in it, not arrays

POINTS = np.array([0, 3 / 4, -3 / 4, 3 / 2, -3 / 2])  # and infinity
KERNEL, STEP = 3, 4  # cells of a kernel, and cells that a tile gives, along an axis
SIDE = STEP + KERNEL - 1  # of a tile
WIDE = range(128, 257)  # channels in and out: fewer gain nothing, and more have kernels larger than their small maps


def convolutions() -> Callable[..., Any]:
    """For one graph, what stands for `torch.nn.functional.conv2d`: wide ones as above, others as torch's exporter has
    them."""
    wide = _WideConvolutions()

    def convolution(
        x: Any,
        weight: Any,
        bias: Any = None,
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0),
        dilation: Sequence[int] = (1, 1),
        groups: int = 1,
    ) -> Any:
        plain = (*weight.shape[2:], *stride, *padding, *dilation, groups) == (KERNEL, KERNEL, 1, 1, 1, 1, 1, 1, 1)
        if plain and all(channels in WIDE for channels in weight.shape[:2]):
            return wide(x, weight, bias)
        return aten_conv2d(x, weight, bias, stride, padding, dilation, groups)

    return convolution


class _WideConvolutions:
    """Those of one graph: what several of them need is in it once."""

    def __init__(self) -> None:
        self.matrices: list[Any] = []
        self.kernels: dict[Any, Any] = {}  # by weight: a head has one for all levels
        self.places: dict[Any, tuple[Any, Any, Any]] = {}  # by the size of the map

    def __call__(self, x: Any, weight: Any, bias: Any) -> Any:
        """x: `[B, C, H, W]`, with zeros round it. weight: `[K, C, 3, 3]`, bias: `[K]`. Gives `[B, K, H, W]`.

        Channels are last in between, so that cells are moved as rows of memory. N: tiles of all images.
        """
        if not self.matrices:
            self.matrices = [_constant(np.kron(matrix, matrix)) for matrix in matrices()]
        at_points, of_kernel, of_products = self.matrices
        (channels_out, channels), several = weight.shape[:2], _ints(SIDE**2, -1)
        if weight not in self.kernels:
            rows = op.Transpose(op.Reshape(weight, _ints(channels_out, channels, -1)), perm=[2, 1, 0])  # [9, C, K]
            rows = op.MatMul(of_kernel, op.Reshape(rows, _ints(KERNEL**2, -1)))
            self.kernels[weight] = op.Reshape(rows, _ints(SIDE**2, channels, channels_out))
        size: Any = (x.shape[0], x.shape[2], x.shape[3])
        size = x if None in size else size  # of which nothing is known is shared with none
        if size not in self.places:
            self.places[size] = _places(*(op.Shape(x, start=axis, end=axis + 1) for axis in (0, 2, 3)))
        margins, tile_cells, map_cells = self.places[size]

        padded = op.Pad(op.Transpose(x, perm=[0, 2, 3, 1]), margins)
        tiles = op.Gather(op.Reshape(padded, _ints(-1, channels)), tile_cells)  # [36, N, C]
        tiles = op.Reshape(op.MatMul(at_points, op.Reshape(tiles, several)), _ints(SIDE**2, -1, channels))
        products = op.MatMul(tiles, self.kernels[weight])  # [36, N, K]
        cells = op.MatMul(of_products, op.Reshape(products, several))  # [16, N * K]
        result = op.Gather(op.Reshape(cells, _ints(-1, channels_out)), map_cells)  # [B, H, W, K]
        return op.Transpose(result if bias is None else op.Add(result, bias), perm=[0, 3, 1, 2])


def _places(batch: Any, height: Any, width: Any) -> tuple[Any, Any, Any]:
    """Of maps `[B, H, W, C]` of this size: the margins that whole tiles need; rows of the padded maps that each tile is
    made of, `[36, N]`; and rows of what tiles give, `[16, N]`, that the maps are made of, `[B, H, W]`."""
    one, four = _ints(1), _ints(STEP)
    rows, columns = (op.Div(op.Add(side, _ints(STEP - 1)), four) for side in (height, width))  # of tiles
    high, wide = (op.Add(op.Mul(tiles, four), _ints(SIDE - STEP)) for tiles in (rows, columns))
    below, right = (op.Sub(op.Sub(padded, side), one) for padded, side in ((high, height), (wide, width)))
    margins = op.Concat(_ints(0, 1, 1, 0, 0), below, right, _ints(0), axis=0)

    of_image = op.Mul(_up_to(batch, 2), op.Mul(high, wide))
    first = op.Add(of_image, op.Mul(op.Add(op.Mul(_up_to(rows, 1), wide), _up_to(columns, 0)), four))
    row, column = np.divmod(np.arange(SIDE**2), SIDE)
    further = op.Add(op.Mul(_ints(*row), wide), _ints(*column))
    tile_cells = op.Add(op.Unsqueeze(further, one), op.Reshape(first, _ints(1, -1)))

    down, across = _up_to(height, 1), _up_to(width, 0)
    inside = op.Add(op.Mul(op.Mod(down, four), four), op.Mod(across, four))  # [H, W]
    tile_row = op.Add(op.Mul(_up_to(batch, 2), rows), op.Div(down, four))  # [B, H, 1]
    tile = op.Add(op.Mul(tile_row, columns), op.Div(across, four))
    return margins, tile_cells, op.Add(op.Mul(inside, op.Mul(batch, op.Mul(rows, columns))), tile)


def matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B' `[6, 6]`, G `[6, 3]` and A' `[4, 6]`: a tile and a kernel to values at the points, products of these to cells.

    That at infinity is the leading coefficient.
    """
    others = [np.delete(POINTS, number) for number in range(len(POINTS))]
    scale = [np.prod(point - rest) for point, rest in zip(POINTS, others, strict=True)]
    of_tile = np.array([*(np.append(np.poly(rest)[::-1], 0) for rest in others), np.poly(POINTS)[::-1]])
    of_kernel, of_products = (
        np.append(np.vander(POINTS, length, increasing=True), [np.eye(length)[-1]], axis=0) for length in (KERNEL, STEP)
    )
    of_kernel[:-1] /= np.array(scale)[:, None]
    return of_tile, of_kernel, of_products.T


def _ints(*values: int) -> Any:
    return op.Constant(value_ints=[*map(int, values)])


def _constant(matrix: np.ndarray) -> Any:
    return op.Reshape(op.Constant(value_floats=matrix.ravel().tolist()), _ints(*matrix.shape))


def _up_to(count: Any, axes: int) -> Any:
    """0, 1, 2 ... below `count` `[1]`, along an axis that so many axes follow."""
    numbers = op.Range(op.Constant(value_int=0), op.Squeeze(count), op.Constant(value_int=1))
    return op.Unsqueeze(numbers, _ints(*range(1, axes + 1))) if axes else numbers
