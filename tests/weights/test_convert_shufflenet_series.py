"""The authors' ShuffleNet V1 and V2, written out slowly here, against ours with their converted weights."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aweigh.backbones.classifier import classifier
from aweigh.backbones.shufflenet_v1 import shufflenet_v1
from aweigh.backbones.shufflenet_v2 import LAYOUTS, ShuffleNetV2
from aweigh.errors import UsageError
from aweigh.structures import IMAGENET_MEAN, IMAGENET_STD
from aweigh.weights.convert.shufflenet_series import (
    channel_order,
    from_shufflenet_series,
    in_torchvision_order,
    is_shufflenet_series,
)
from aweigh.weights.load import load_strict, read_state

State = dict[str, Tensor]
CLASSES = 10


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def theirs(state: State, pixels: Tensor, *, border: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
    """The authors' network in evaluation: maps behind stages 2, 3 and 4, and logits.

    pixels: `[B, 3, H, W]` BGR, 0..255. border: the colour `[3]` that the first convolution pads with; theirs is black.
    """

    def normalised(x: Tensor, name: str) -> Tensor:
        return batch_norm(state, x, name)

    def pointwise(x: Tensor, name: str, at: int) -> Tensor:
        x = torch.einsum("bchw,oc->bohw", x, state[f"{name}.{at}.weight"][:, :, 0, 0])
        return normalised(x, f"{name}.{at + 1}").relu()

    def depthwise(x: Tensor, name: str, at: int, stride: int) -> Tensor:
        return channel_by_channel(state, x, name, at, stride)

    if border is not None:
        pixels = F.pad(pixels - border[:, None, None], (1, 1, 1, 1)) + border[:, None, None]
    x = F.conv2d(pixels, state["first_conv.0.weight"], stride=2, padding=1 if border is None else 0)
    x = F.max_pool2d(normalised(x, "first_conv.1").relu(), 3, stride=2, padding=1)
    maps = []
    for unit in range(16):
        main = f"features.{unit}.branch_main"
        stride = 2 if unit in (0, 4, 12) else 1
        if stride == 2:
            projection = f"features.{unit}.branch_proj"
            kept, read = pointwise(depthwise(x, projection, 0, 2), projection, 2), x
        else:
            channels = range(x.shape[1])
            kept, read = x[:, [c for c in channels if c % 2 == 0]], x[:, [c for c in channels if c % 2 == 1]]
        read = pointwise(depthwise(pointwise(read, main, 0), main, 3, stride), main, 5)
        x = torch.cat((kept, read), dim=1)
        if unit in (3, 11, 15):
            maps.append(x)
    x = pointwise(x, "conv_last", 0).mean(dim=(2, 3))
    return maps, x @ state["classifier.0.weight"].T


def batch_norm(state: State, x: Tensor, name: str) -> Tensor:
    mean, variance, weight, bias = (
        state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def channel_by_channel(state: State, x: Tensor, name: str, at: int, stride: int) -> Tensor:
    weight = state[f"{name}.{at}.weight"]
    single = [F.conv2d(x[:, c : c + 1], weight[c : c + 1], stride=stride, padding=1) for c in range(x.shape[1])]
    return batch_norm(state, torch.cat(single, dim=1), f"{name}.{at + 1}")


def add_convolution(
    state: State, generator: torch.Generator, name: str, outputs: int, inputs: int, size: int, scale: float = 1.0
) -> None:
    """Random weights of a convolution and of the normalisation behind it, whose values are neither 0 nor 1."""
    spread = scale * (2 / (inputs * size * size)) ** 0.5
    state[f"{name}.weight"] = torch.randn(outputs, inputs, size, size, generator=generator) * spread
    prefix, _, at = name.rpartition(".")
    for part, low, high in (
        ("weight", 0.6, 1.4), ("bias", -0.3, 0.3), ("running_mean", -0.3, 0.3), ("running_var", 0.5, 1.5),
    ):  # fmt: skip
        state[f"{prefix}.{int(at) + 1}.{part}"] = torch.empty(outputs).uniform_(low, high, generator=generator)


def their_weights(width: float, seed: int = 0) -> State:
    """Random weights of the authors' V2."""
    state: State = {}
    convolution = partial(add_convolution, state, seeded(seed))
    convolution("first_conv.0", 24, 3, 3, scale=1 / 255)
    before, unit = 24, 0
    for channels, units in zip(LAYOUTS[width].channels, (4, 8, 4), strict=True):
        half = channels // 2
        for index in range(units):
            read = before if index == 0 else half
            main = f"features.{unit}.branch_main"
            if index == 0:
                convolution(f"features.{unit}.branch_proj.0", before, 1, 3)
                convolution(f"features.{unit}.branch_proj.2", before, before, 1)
            convolution(f"{main}.0", half, read, 1)
            convolution(f"{main}.3", half, 1, 3)
            convolution(f"{main}.5", channels - read, half, 1)
            unit += 1
        before = channels
    convolution("conv_last.0", LAYOUTS[width].last, before, 1)
    state["classifier.0.weight"] = torch.randn(CLASSES, LAYOUTS[width].last, generator=seeded(seed + 1)) / 30
    return state


# Channels of the first convolution and behind each stage, by groups and width, in the authors' `network.py`.
V1 = {
    (3, 0.5): (12, 120, 240, 480),
    (3, 1.0): (24, 240, 480, 960),
    (3, 1.5): (24, 360, 720, 1440),
    (3, 2.0): (48, 480, 960, 1920),
    (8, 0.5): (16, 192, 384, 768),
    (8, 1.0): (24, 384, 768, 1536),
    (8, 1.5): (24, 576, 1152, 2304),
    (8, 2.0): (48, 768, 1536, 3072),
}


def their_v1_weights(groups: int, width: float) -> State:
    """Random weights of the authors' V1."""
    state: State = {}
    convolution = partial(add_convolution, state, seeded(0))
    before, *stages = V1[groups, width]
    convolution("first_conv.0", before, 3, 3, scale=1 / 255)
    for unit in range(16):
        channels = stages[0 if unit < 4 else 1 if unit < 12 else 2]
        main, middle = f"features.{unit}.branch_main", channels // 4
        convolution(f"{main}_1.0", middle, before // (1 if unit == 0 else groups), 1)
        convolution(f"{main}_1.3", middle, 1, 3)
        convolution(f"{main}_2.0", channels - before if unit in (0, 4, 12) else channels, middle // groups, 1)
        before = channels
    state["classifier.0.weight"] = torch.randn(CLASSES, before, generator=seeded(1)) / 30
    return state


def their_v1(state: State, pixels: Tensor, groups: int) -> tuple[list[Tensor], Tensor]:
    """The authors' V1 in evaluation: maps behind stages 2, 3 and 4, and logits. pixels: `[B, 3, H, W]` BGR, 0..255."""

    def grouped(x: Tensor, name: str, number: int) -> Tensor:
        weight = state[f"{name}.weight"][:, :, 0, 0]
        pairs = zip(x.chunk(number, dim=1), weight.chunk(number), strict=True)
        parts = [torch.einsum("bchw,oc->bohw", part, rows) for part, rows in pairs]
        prefix, _, at = name.rpartition(".")
        return batch_norm(state, torch.cat(parts, dim=1), f"{prefix}.{int(at) + 1}")

    x = F.conv2d(pixels, state["first_conv.0.weight"], stride=2, padding=1)
    x = F.max_pool2d(batch_norm(state, x, "first_conv.1").relu(), 3, stride=2, padding=1)
    maps = []
    for unit in range(16):
        main = f"features.{unit}.branch_main"
        read = grouped(x, f"{main}_1.0", 1 if unit == 0 else groups).relu()
        read = channel_by_channel(state, read, f"{main}_1", 3, 2 if unit in (0, 4, 12) else 1)
        order = [start + groups * step for start in range(groups) for step in range(read.shape[1] // groups)]
        read = grouped(read[:, order], f"{main}_2.0", groups)
        if unit in (0, 4, 12):
            x = torch.cat((F.conv2d(*box_of(x), stride=2, padding=1, groups=x.shape[1]), read.relu()), dim=1)
        else:
            x = (x + read).relu()
        if unit in (3, 11, 15):
            maps.append(x)
    return maps, x.mean(dim=(2, 3)) @ state["classifier.0.weight"].T


def box_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """A map and the weights of a mean over 3x3 cells, in which zeros beyond the edge count."""
    return x, torch.full((x.shape[1], 1, 3, 3), 1 / 9)


def images(generator_seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """The same two images as the authors read them, as our bodies do and as classifiers do; sides that no stride
    divides."""
    rgb = torch.rand(2, 3, 67, 94, generator=torch.Generator().manual_seed(generator_seed))
    mean, std = (torch.tensor(each)[:, None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))
    return rgb.flip(1) * 255, rgb, (rgb - mean) / std


def assert_same(ours: Tensor, expected: Tensor) -> None:
    scale = expected.abs().max().item()
    assert expected.std() > 1e-2 * scale, "a reference without differences proves nothing"
    assert (ours - expected).abs().max().item() <= 2e-5 * scale


@pytest.mark.parametrize("width", [0.5, 1.0, 1.5, 2.0])
@torch.no_grad()
def test_the_authors_form_computes_their_function(width):
    state = their_weights(width)
    pixels, rgb, normalised = images()
    maps, logits = theirs(state, pixels)
    body = ShuffleNetV2(width, form="authors").eval()
    network = classifier(body, CLASSES).eval()
    load_strict(network, from_shufflenet_series(state), what="the authors' weights")
    for ours, expected in zip(body(rgb), maps, strict=True):
        assert_same(ours, expected)
    assert_same(network(normalised), logits)


@pytest.mark.parametrize(("groups", "width"), [(3, 0.5), (3, 1.0), (8, 0.5)])
@torch.no_grad()
def test_v1_computes_their_function(groups, width):
    state = their_v1_weights(groups, width)
    pixels, rgb, normalised = images()
    maps, logits = their_v1(state, pixels, groups)
    body = shufflenet_v1(width, groups).eval()
    network = classifier(body, CLASSES).eval()
    load_strict(network, from_shufflenet_series(state), what="the authors' weights")
    for ours, expected in zip(body(rgb), maps, strict=True):
        assert_same(ours, expected)
    assert_same(network(normalised), logits)


@pytest.mark.parametrize(("groups", "width"), V1)
def test_v1_has_their_tensors(groups, width):
    with torch.device("meta"):
        network = classifier(shufflenet_v1(width, groups), CLASSES)
    given = from_shufflenet_series(their_v1_weights(groups, width))
    own = {key: value.shape for key, value in network.state_dict().items() if "num_batches" not in key}
    assert {key: value.shape for key, value in given.items()} == own


@torch.no_grad()
def test_width_one_half_fits_torchvisions_form():
    state = their_weights(0.5)
    pixels, rgb, normalised = images()
    mean_colour = torch.tensor(IMAGENET_MEAN).flip(0) * 255
    maps, logits = theirs(state, pixels, border=mean_colour)
    body = ShuffleNetV2(0.5).eval()
    network = classifier(body, CLASSES).eval()
    load_strict(network, in_torchvision_order(from_shufflenet_series(state)), what="the authors' weights")
    for ours, expected in zip(body(rgb), maps, strict=True):
        assert_same(ours, expected[:, channel_order(expected.shape[1] // 2)])
    assert_same(network(normalised), logits)
    # What the colour of the border changes, and why it has to be black for the very same function.
    _, with_black = theirs(state, pixels)
    assert (with_black - logits).abs().max() > 1e-3 * logits.abs().max()


@pytest.mark.parametrize("width", [1.0, 1.5, 2.0])
def test_the_other_widths_do_not_fit_torchvisions_form(width):
    with pytest.raises(UsageError, match=r"stage2\.0 gives 24 channels beside .* form='authors'"):
        in_torchvision_order(from_shufflenet_series(their_weights(width)))


@pytest.mark.parametrize("half", [1, 5, 24, 29, 58, 122])
def test_channels_are_passed_on_by_as_many_units(half):
    order = channel_order(half).tolist()
    assert sorted(order) == list(range(2 * half))
    for place, channel in enumerate(order):
        for _ in range(16):
            assert (place < half) == (channel % 2 == 0)
            if place >= half:
                break
            place, channel = 2 * place, channel // 2
            assert order[place] == channel


@torch.no_grad()
def test_real_weights(shared):
    """A trained x0.5 body, brought from torchvision's order into the authors' layout, which ours then reads again."""
    file = shared / "weights/shufflenetv2_x0.5_imagenet/backbone_torchvision_fp16.safetensors"
    if not file.is_file():
        pytest.skip(f"no {file}")
    real = {key: value.float() for key, value in read_state(file).items() if "num_batches" not in key}
    pattern = their_weights(0.5)
    # Numbers in place of weights show where the conversion puts each of them; the way back follows the numbers.
    numbers = {
        key: torch.arange(value.numel()).reshape(value.shape)
        for key, value in pattern.items()
        if "first_conv" not in key
    }
    first = {key: value for key, value in pattern.items() if "first_conv" in key}
    moved = in_torchvision_order(from_shufflenet_series({**numbers, **first}))
    names = dict(zip(from_shufflenet_series(pattern), pattern))  # ours -> theirs
    native = dict(pattern)
    for key, value in real.items():
        if not key.startswith("conv1"):
            flat = torch.empty(value.numel())
            flat[moved[key].flatten()] = value.flatten()
            native[names[key]] = flat.reshape(pattern[names[key]].shape)
    converted = in_torchvision_order(from_shufflenet_series(native))
    assert all(torch.equal(converted[key], real[key]) for key in real if not key.startswith("conv1"))
    pixels, rgb, _ = images()
    body = ShuffleNetV2(0.5, form="authors").eval()
    state = from_shufflenet_series(native)
    load_strict(body, {key: value for key, value in state.items() if key in body.state_dict()}, what="real weights")
    for ours, expected in zip(body(rgb), theirs(native, pixels)[0], strict=True):
        assert_same(ours, expected)


def test_keys():
    state = their_weights(0.5)
    wrapped = {f"module.{key}": value for key, value in state.items()}
    assert is_shufflenet_series(state) and is_shufflenet_series(wrapped)
    assert from_shufflenet_series(wrapped).keys() == from_shufflenet_series(state).keys()
    assert not is_shufflenet_series(ShuffleNetV2(0.5).state_dict())
    with pytest.raises(UsageError, match=r"'stage2\.0\.branch1\.0\.weight' is not one of the tensors"):
        from_shufflenet_series({"stage2.0.branch1.0.weight": torch.zeros(1)})
    with pytest.raises(UsageError, match="first_conv"):
        from_shufflenet_series({"features.0.branch_proj.0.weight": torch.zeros(24, 1, 3, 3)})
