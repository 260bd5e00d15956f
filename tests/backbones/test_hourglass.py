"""The hourglass body: sizes of its maps, sides that are no multiples, errors."""

import pytest
import torch

from aweigh.backbones.hourglass import Hourglass
from aweigh.errors import UsageError

SMALL = {"channels": (6, 8, 8), "blocks": (1, 1, 1), "stem_channels": 4}


@pytest.mark.parametrize("size_hw", [(64, 96), (50, 39), (4, 4)])
def test_a_map_of_stride_four_for_each_stack(size_hw: tuple[int, int]) -> None:
    body = Hourglass(stacks=3, **SMALL).eval()
    maps = body(torch.rand(2, 3, *size_hw))
    assert body.channels == (6, 6, 6) and body.strides == (4, 4, 4) and body.stride_divisor == 16
    assert [tuple(each.shape) for each in maps] == [(2, 6, -(-size_hw[0] // 4), -(-size_hw[1] // 4))] * 3


def test_the_paper_s_needs_sides_that_are_multiples_of_128() -> None:
    with torch.device("meta"):
        body = Hourglass()
    assert body.stride_divisor == 128 and body.channels == (256, 256)


@pytest.mark.parametrize("step_maps", [1, 2])
@torch.no_grad()
def test_the_maps_on_the_way_up_follow_those_of_the_stacks(step_maps: int) -> None:
    torch.manual_seed(0)
    plain, body = Hourglass(**SMALL).eval(), Hourglass(step_maps=step_maps, **SMALL).eval()
    body.load_state_dict(plain.state_dict())
    image = torch.rand(1, 3, 50, 39)
    outputs, maps = plain(image), body(image)
    assert all(torch.equal(one, other) for one, other in zip(outputs, maps[:2], strict=True))
    assert body.channels == (6, 6, *[8, 6][-step_maps:] * 2) and body.strides == (4, 4, *[8, 4][-step_maps:] * 2)
    assert [each.shape[1:] for each in maps] == [
        (width, -(-50 // stride), -(-39 // stride)) for width, stride in zip(body.channels, body.strides, strict=True)
    ]
    for stack, output in enumerate(outputs):  # the last of each is what the convolution behind the hourglass reads
        assert torch.equal(body.outputs[stack](maps[2 + (stack + 1) * step_maps - 1]), output)


@pytest.mark.parametrize("size_hw", [(64, 96), (50, 39), (4, 4)])
def test_fire_modules_and_one_halving_more_before(size_hw: tuple[int, int]) -> None:
    body = Hourglass(stem_halvings=3, block="fire", **SMALL).eval()
    maps = body(torch.rand(2, 3, *size_hw))
    assert body.strides == (8, 8) and body.stride_divisor == 32
    assert [tuple(each.shape) for each in maps] == [(2, 6, -(-size_hw[0] // 8), -(-size_hw[1] // 8))] * 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"block": "flame"}, "unknown block 'flame'; known: residual, fire"),
        ({"stacks": 0}, "stacks = 0: expected a whole number from 1"),
        ({"stacks": 9}, "8 stacks, halvings and blocks of each are the most"),
        ({"step_maps": 3}, "3 numbers of channels make 2 steps, of which step_maps = 3 asks for more"),
        ({"stem_halvings": 1}, "halves twice or more, got stem_halvings = 1"),
        ({"block": "fire", "channels": (6, 7, 8)}, r"even numbers of channels, got \[6, 7, 8\]"),
    ],
)
def test_what_it_is_made_of_is_checked(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Hourglass(**{**SMALL, **wrong})


@pytest.mark.parametrize("wrong", [{"channels": (8,), "blocks": (1,)}, {"blocks": (1, 1)}])
def test_numbers_that_do_not_fit_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="as many numbers of blocks as of channels"):
        Hourglass(**{**SMALL, **wrong})
