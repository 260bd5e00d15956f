"""Anchors and their coding against torchvision's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from aweigh.ops.anchors import anchor_shapes, place_anchors
from aweigh.ops.boxes import decode_deltas, encode_deltas, grid_points


def test_shapes_and_places_are_torchvisions() -> None:
    sizes, ratios = (32.0, 40.0, 50.0), (0.5, 1.0, 2.0)
    generator = AnchorGenerator((tuple(map(int, sizes)),), (ratios,))
    maps = torch.zeros(1, 1, 3, 5)
    (expected,) = generator(ImageList(torch.zeros(1, 3, 24, 40), [(24, 40)]), [maps])
    shapes = anchor_shapes(sizes, ratios, rounded=True)
    assert torch.equal(place_anchors(shapes, grid_points(3, 5, (8, 8), (0, 0), like=maps)), expected)


def test_an_anchor_has_its_area_and_its_ratio() -> None:
    sides = (shapes := anchor_shapes((10.0, 21.5), (0.25, 1.0, 3.0)))[:, 2:] - shapes[:, :2]
    assert sides.prod(dim=1).sqrt().tolist() == pytest.approx([10, 21.5] * 3, rel=1e-6)
    ratios = sides[:, 1] / sides[:, 0]
    assert ratios.tolist() == pytest.approx([0.25] * 2 + [1] * 2 + [3] * 2, rel=1e-6)


def boxes(seed: int, count: int = 20) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 200 - 20
    return torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=generator) * 150], dim=1)


@given(st.integers(0, 10**6), st.sampled_from([(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)]))
@settings(max_examples=20, deadline=None)
def test_coding_is_torchvisions_and_comes_back(seed: int, weights: tuple[float, ...]) -> None:
    anchors, objects = boxes(seed), boxes(seed + 1)
    coder = BoxCoder(weights)
    deltas = encode_deltas(anchors, objects, weights=weights)
    torch.testing.assert_close(deltas, coder.encode_single(objects, anchors), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decode_deltas(anchors, deltas, weights=weights), objects, atol=1e-2, rtol=1e-4)
    wild = deltas * 40  # far beyond the limit of enlargement
    expected = coder.decode_single(wild, anchors)
    torch.testing.assert_close(decode_deltas(anchors, wild, weights=weights), expected, atol=1e-2, rtol=1e-4)
    assert decode_deltas(anchors, wild * 1e4, weights=weights).isfinite().all()
