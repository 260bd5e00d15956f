"""CenterNet equals its authors' networks: their layout of weights and their forward pass, written again from facts.

Nothing of theirs can be installed from a registry. `Authors` gives each layer by the name it has in their files, and
makes its weights when they are first asked for, so that the list of names and shapes is that of the forward pass.
"""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from aweigh.errors import UsageError
from aweigh.layers import DeformableConv2d
from aweigh.models import PUBLISHED, create
from aweigh.weights.convert.centernet import (
    centernet_3d_from_authors,
    centernet_from_authors,
    centernet_pose_from_authors,
)
from aweigh.weights.load import compare, load_strict

HEADS = {"hm": 80, "wh": 2, "reg": 2}
SPACE_HEADS = {"hm": 3, "dep": 1, "rot": 8, "dim": 3, "wh": 2, "reg": 2}
POSE_HEADS = {"hm": 1, "wh": 2, "hps": 34, "reg": 2, "hm_hp": 17, "hp_offset": 2}
# Of images in the order BGR.
MEAN = torch.tensor([0.40789654, 0.44719302, 0.47026115])[:, None, None]
STD = torch.tensor([0.28863828, 0.27408164, 0.27809835])[:, None, None]


class Authors:
    """Layers in evaluation mode by their names. outputs: the channels of each head."""

    def __init__(self, outputs: dict[str, int] = HEADS) -> None:
        self.outputs = outputs
        self.state: dict[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(0)

    def weight(self, name: str, *shape: int) -> Tensor:
        if name not in self.state:
            kind = name.rpartition(".")[2]
            made = torch.empty(shape)
            if kind == "running_var" or (kind == "weight" and len(shape) == 1):
                made = made.uniform_(0.5, 1.5, generator=None if made.is_meta else self.generator)
            else:
                scale = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.1
                made = made.normal_(0, scale, generator=None if made.is_meta else self.generator)
            self.state[name] = made
        assert tuple(self.state[name].shape) == shape
        return self.state[name]

    def conv(self, x: Tensor, name: str, out: int, k: int, *, stride: int = 1, bias: bool = False) -> Tensor:
        weight = self.weight(f"{name}.weight", out, x.shape[1], k, k)
        return F.conv2d(x, weight, self.weight(f"{name}.bias", out) if bias else None, stride, k // 2)

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            self.weight(f"{name}.{kind}", x.shape[1]) for kind in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt() * weight[:, None, None] + bias[
            :, None, None
        ]

    def deformable(self, x: Tensor, name: str, out: int) -> Tensor:
        first, second, mask = self.conv(x, f"{name}.conv_offset_mask", 27, 3, bias=True).chunk(3, dim=1)
        weight, bias = self.weight(f"{name}.weight", out, x.shape[1], 3, 3), self.weight(f"{name}.bias", out)
        offset = torch.cat([first, second], dim=1)
        return deform_conv2d(x, offset, weight, bias, padding=1, mask=mask.sigmoid())

    def transposed(self, x: Tensor, name: str, out: int, factor: int, *, each: bool = False) -> Tensor:
        groups = out if each else 1
        weight = self.weight(f"{name}.weight", x.shape[1], out // groups, 2 * factor, 2 * factor)
        return F.conv_transpose2d(x, weight, stride=factor, padding=factor // 2, groups=groups)

    def heads(self, x: Tensor, hidden: int) -> dict[str, Tensor]:
        return {
            name: self.conv(F.relu(self.conv(x, f"{name}.0", hidden, 3, bias=True)), f"{name}.2", out, 1, bias=True)
            for name, out in self.outputs.items()
        }

    # ResNet

    def resnet(
        self, x: Tensor, blocks: Sequence[int], bottleneck: bool, up: Sequence[int], dcn: bool
    ) -> list[dict[str, Tensor]]:
        x = F.max_pool2d(F.relu(self.norm(self.conv(x, "conv1", 64, 7, stride=2), "bn1")), 3, 2, 1)
        for stage, count in enumerate(blocks):
            width = 64 * 2**stage
            for index in range(count):
                stride = 2 if index == 0 and stage else 1
                x = self.residual(x, f"layer{stage + 1}.{index}", width, stride, bottleneck)
        place = 0
        for width in up:
            if dcn:
                x = F.relu(self.norm(self.deformable(x, f"deconv_layers.{place}", width), f"deconv_layers.{place + 1}"))
                place += 3
            x = F.relu(self.norm(self.transposed(x, f"deconv_layers.{place}", width, 2), f"deconv_layers.{place + 1}"))
            place += 3
        return [self.heads(x, 64)]

    def residual(self, x: Tensor, name: str, width: int, stride: int, bottleneck: bool) -> Tensor:
        if bottleneck:
            main = F.relu(self.norm(self.conv(x, f"{name}.conv1", width, 1), f"{name}.bn1"))
            main = F.relu(self.norm(self.conv(main, f"{name}.conv2", width, 3, stride=stride), f"{name}.bn2"))
            main = self.norm(self.conv(main, f"{name}.conv3", 4 * width, 1), f"{name}.bn3")
        else:
            main = F.relu(self.norm(self.conv(x, f"{name}.conv1", width, 3, stride=stride), f"{name}.bn1"))
            main = self.norm(self.conv(main, f"{name}.conv2", width, 3), f"{name}.bn2")
        if x.shape != main.shape:
            x = self.norm(self.conv(x, f"{name}.downsample.0", main.shape[1], 1, stride=stride), f"{name}.downsample.1")
        return F.relu(main + x)

    # DLA-34

    def dla34(self, x: Tensor) -> list[dict[str, Tensor]]:
        x = F.relu(self.norm(self.conv(x, "base.base_layer.0", 16, 7), "base.base_layer.1"))
        x = F.relu(self.norm(self.conv(x, "base.level0.0", 16, 3), "base.level0.1"))
        x = F.relu(self.norm(self.conv(x, "base.level1.0", 32, 3, stride=2), "base.level1.1"))
        levels = []
        for level, depth in ((2, 1), (3, 2), (4, 2), (5, 1)):
            x = self.tree(x, f"base.level{level}", depth, 2 ** (level + 4), 2, [], own=level > 2)
            levels.append(x)
        maps, results = levels[3:], []
        for step, level in enumerate((2, 1, 0)):
            maps = self.aggregate([levels[level], *maps], f"dla_up.ida_{step}", [2] * (step + 1))
            results.insert(0, maps[-1])
        return [self.heads(self.aggregate(results, "ida_up", [2, 4])[-1], 256)]

    def tree(
        self, x: Tensor, name: str, depth: int, out: int, stride: int, behind: list[Tensor], *, own: bool = False
    ) -> Tensor:
        """behind: what the root takes besides its two blocks. own: the input is among that."""
        pooled = F.max_pool2d(x, stride) if stride > 1 else x
        skip = pooled
        if x.shape[1] != out:  # in a tree of two levels nothing reads this
            skip = self.norm(self.conv(pooled, f"{name}.project.0", out, 1), f"{name}.project.1")
        behind = [*behind, pooled] if own else behind
        if depth == 2:
            first = self.tree(x, f"{name}.tree1", 1, out, stride, [])
            return self.tree(first, f"{name}.tree2", 1, out, 1, [*behind, first])
        first = self.block(x, f"{name}.tree1", out, stride, skip)
        second = self.block(first, f"{name}.tree2", out, 1, first)
        root = self.conv(torch.cat([second, first, *behind], dim=1), f"{name}.root.conv", out, 1)
        return F.relu(self.norm(root, f"{name}.root.bn"))

    def block(self, x: Tensor, name: str, out: int, stride: int, skip: Tensor) -> Tensor:
        main = F.relu(self.norm(self.conv(x, f"{name}.conv1", out, 3, stride=stride), f"{name}.bn1"))
        return F.relu(self.norm(self.conv(main, f"{name}.conv2", out, 3), f"{name}.bn2") + skip)

    def aggregate(self, maps: Sequence[Tensor], name: str, factors: Sequence[int]) -> list[Tensor]:
        def smooth(x: Tensor, name: str) -> Tensor:
            return F.relu(self.norm(self.deformable(x, f"{name}.conv", maps[0].shape[1]), f"{name}.actf.0"))

        result = [maps[0]]
        for number, (x, factor) in enumerate(zip(maps[1:], factors, strict=True), start=1):
            up = self.transposed(
                smooth(x, f"{name}.proj_{number}"), f"{name}.up_{number}", maps[0].shape[1], factor, each=True
            )
            result.append(smooth(up + result[-1], f"{name}.node_{number}"))
        return result

    # Hourglass

    def hourglass(
        self, x: Tensor, stacks: int, channels: Sequence[int], blocks: Sequence[int], stem: int
    ) -> list[dict[str, Tensor]]:
        width = channels[0]
        x = self.unit(self.named(x, "pre.0", stem, 7, stride=2), "pre.1", width, 2)
        found = []
        for stack in range(stacks):
            out = self.named(self.half(x, f"kps.{stack}", channels, blocks), f"cnvs.{stack}", width, 3)
            found.append(
                {
                    name: self.conv(
                        F.relu(self.conv(out, f"{name}.{stack}.0.conv", width, 3, bias=True)),
                        f"{name}.{stack}.1",
                        count,
                        1,
                        bias=True,
                    )
                    for name, count in self.outputs.items()
                }
            )
            if stack < stacks - 1:
                kept = self.norm(self.conv(x, f"inters_.{stack}.0", width, 1), f"inters_.{stack}.1")
                given = self.norm(self.conv(out, f"cnvs_.{stack}.0", width, 1), f"cnvs_.{stack}.1")
                x = self.unit(F.relu(kept + given), f"inters.{stack}", width, 1)
        return found

    def half(self, x: Tensor, name: str, channels: Sequence[int], blocks: Sequence[int]) -> Tensor:
        width, inner = channels[:2]

        def units(x: Tensor, name: str, outs: Sequence[int], stride: int = 1) -> Tensor:
            for index, out in enumerate(outs):
                x = self.unit(x, f"{name}.{index}", out, 1 if index else stride)
            return x

        beside = units(x, f"{name}.up1", [width] * blocks[0])
        low = units(x, f"{name}.low1", [inner] * blocks[0], 2)
        if len(channels) > 2:
            low = self.half(low, f"{name}.low2", channels[1:], blocks[1:])
        else:
            low = units(low, f"{name}.low2", [inner] * blocks[1])
        low = units(low, f"{name}.low3", [*[inner] * (blocks[0] - 1), width])
        return beside + F.interpolate(low, scale_factor=2, mode="nearest")

    def named(self, x: Tensor, name: str, out: int, k: int, *, stride: int = 1) -> Tensor:
        return F.relu(self.norm(self.conv(x, f"{name}.conv", out, k, stride=stride), f"{name}.bn"))

    def unit(self, x: Tensor, name: str, out: int, stride: int) -> Tensor:
        main = F.relu(self.norm(self.conv(x, f"{name}.conv1", out, 3, stride=stride), f"{name}.bn1"))
        main = self.norm(self.conv(main, f"{name}.conv2", out, 3), f"{name}.bn2")
        if x.shape != main.shape:
            x = self.norm(self.conv(x, f"{name}.skip.0", out, 1, stride=stride), f"{name}.skip.1")
        return F.relu(main + x)


Run = Callable[[Authors, Tensor], list[dict[str, Tensor]]]
HOURGLASS104 = (2, (256, 256, 384, 384, 384, 512), (2, 2, 2, 2, 2, 4), 128)
SMALL = (2, (8, 8, 12), (2, 1, 2), 6)
NETWORKS: dict[str, Run] = {
    "centernet_dla34": lambda authors, x: authors.dla34(x),
    "centernet_resnet18": lambda authors, x: authors.resnet(x, (2, 2, 2, 2), False, (256, 256, 256), False),
    "centernet_resnet18_dcn": lambda authors, x: authors.resnet(x, (2, 2, 2, 2), False, (256, 128, 64), True),
    "centernet_resnet101_dcn": lambda authors, x: authors.resnet(x, (3, 4, 23, 3), True, (256, 128, 64), True),
    "centernet_hourglass104": lambda authors, x: authors.hourglass(x, *HOURGLASS104),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor_of_their_files_has_its_place(name: str) -> None:
    with torch.device("meta"):
        authors, model = Authors(), create(name)
        NETWORKS[name](authors, torch.empty(1, 3, 128, 128))
    report = compare(model, centernet_from_authors({f"module.{key}": value for key, value in authors.state.items()}))
    assert not report.missing and not report.unexpected and not report.mismatched
    assert report.loaded == report.total == len(authors.state)


@pytest.mark.parametrize("name", ["centernet_dla34", "centernet_resnet18_dcn", "centernet_resnet18", "hourglass"])
def test_their_weights_give_their_outputs(name: str) -> None:
    if name == "hourglass":
        model, run = (
            create("centernet_hourglass104", **small_hourglass()),
            lambda authors, x: authors.hourglass(x, *SMALL),
        )
    else:
        model, run = create(name), NETWORKS[name]
    authors, rgb = Authors(), torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    expected = run(authors, (rgb.flip(1) - MEAN) / STD)
    load_strict(model, centernet_from_authors(authors.state), what=name)
    with torch.no_grad():
        got = model.eval().network(rgb)
    assert len(got) == len(expected) == (2 if name == "hourglass" else 1)
    for ours, theirs in zip(got, expected, strict=True):
        for one, other in (("heatmap", "hm"), ("size", "wh"), ("offset", "reg")):
            assert theirs[other].std() > 1e-3
            torch.testing.assert_close(ours[one], theirs[other], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["centernet_dla34_pose", "hourglass"])
def test_their_weights_for_poses_give_their_outputs(name: str) -> None:
    authors, rgb = Authors(POSE_HEADS), torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    if name == "hourglass":
        model = create("centernet_hourglass104_pose", **small_hourglass())
        expected = authors.hourglass((rgb.flip(1) - MEAN) / STD, *SMALL)
    else:
        model, expected = create(name), authors.dla34((rgb.flip(1) - MEAN) / STD)
    state = centernet_pose_from_authors({f"module.{key}": value for key, value in authors.state.items()})
    assert compare(model, state).total == len(authors.state)
    load_strict(model, state, what="multi_pose")
    with torch.no_grad():
        got = model.eval().network(rgb)
    names = {"hm": "heatmap", "wh": "size", "reg": "offset", "hps": "joints", "hm_hp": "joint_heatmap"}
    for ours, theirs in zip(got, expected, strict=True):
        for other, one in {**names, "hp_offset": "joint_offset"}.items():
            assert theirs[other].std() > 1e-3
            torch.testing.assert_close(ours[one], theirs[other], atol=1e-4, rtol=1e-4)


def test_their_weights_for_objects_in_space_give_their_outputs() -> None:
    """KITTI's images, in BGR, get ImageNet's mean and deviation in the order of RGB."""
    authors, rgb = Authors(SPACE_HEADS), torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    (expected,) = authors.dla34((rgb.flip(1) - mean) / std)
    record = PUBLISHED["centernet_dla34_3d"]["3dop"]
    model = create(record.builder, classes=record.classes, **record.arguments)
    state = centernet_3d_from_authors({f"module.{key}": value for key, value in authors.state.items()})
    assert compare(model, state).total == len(authors.state)
    load_strict(model, state, what="ddd")
    with torch.no_grad():
        (got,) = model.eval().network(rgb)
    names = {"hm": "heatmap", "wh": "size", "reg": "offset", "dep": "depth", "rot": "orientation", "dim": "dimensions"}
    assert got.keys() == {*names.values()}
    for other, one in names.items():
        assert expected[other].std() > 1e-3
        torch.testing.assert_close(got[one], expected[other], atol=1e-4, rtol=1e-4)


def small_hourglass() -> dict[str, object]:
    return dict(zip(("stacks", "channels", "blocks", "stem_channels"), SMALL, strict=True))


def test_a_deformable_convolution_is_that_of_dcnv2() -> None:
    """DCNv2: place k of the kernel reads at its own row and column plus offsets 2 k and 2 k + 1, times mask k."""
    generator = torch.Generator().manual_seed(0)
    layer, x = DeformableConv2d(2, 3, 3, padding=1), torch.rand(1, 2, 5, 4, generator=generator)
    with torch.no_grad():
        layer.offsets.weight.normal_(0, 0.5, generator=generator)
        layer.offsets.bias.normal_(0, 1, generator=generator)
        layer.conv.weight.normal_(0, 1, generator=generator)
        layer.conv.bias.normal_(0, 1, generator=generator)
        numbers = F.conv2d(x, layer.offsets.weight, layer.offsets.bias, padding=1)[0]
        expected = torch.zeros(1, 3, 5, 4)
        for row in range(5):
            for column in range(4):
                total = layer.conv.bias.clone()
                for k in range(9):
                    y = row - 1 + k // 3 + float(numbers[2 * k, row, column])
                    x_ = column - 1 + k % 3 + float(numbers[2 * k + 1, row, column])
                    value = bilinear(x[0], y, x_) * numbers[18 + k, row, column].sigmoid()
                    total += layer.conv.weight[:, :, k // 3, k % 3] @ value
                expected[0, :, row, column] = total
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-4)


def bilinear(x: Tensor, row: float, column: float) -> Tensor:
    """Values `[C]` of `[C, H, W]` between cells; 0 beyond the map."""
    top, left = math.floor(row), math.floor(column)
    total = torch.zeros(len(x))
    for r, share in ((top, 1 - (row - top)), (top + 1, row - top)):
        for c, part in ((left, 1 - (column - left)), (left + 1, column - left)):
            if 0 <= r < x.shape[1] and 0 <= c < x.shape[2]:
                total += x[:, r, c] * share * part
    return total


def test_a_tensor_of_another_model_is_named() -> None:
    with pytest.raises(UsageError, match=r"'hps\.0\.weight' is not one of CenterNet's for boxes"):
        centernet_from_authors({"hps.0.weight": torch.zeros(64, 64, 3, 3)})
    with pytest.raises(UsageError, match=r"'dep\.0\.weight' is not one of CenterNet's for poses"):
        centernet_pose_from_authors({"dep.0.weight": torch.zeros(64, 64, 3, 3)})
