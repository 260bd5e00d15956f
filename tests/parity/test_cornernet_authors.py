"""CornerNet, CornerNet-Lite and CenterNet of triplets equal their authors' networks, written again from facts.

Each layer has the name it has in their files. Corner pooling is a loop here.
"""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aweigh.errors import UsageError
from aweigh.models import create
from aweigh.weights.convert.cornernet import cornernet_from_authors
from aweigh.weights.load import compare, load_strict

from .test_centernet_authors import MEAN, STD
from .test_centernet_authors import Authors as CenterNetAuthors

KINDS = {"tl": "top_left", "br": "bottom_right", "ct": "center"}


def pooled(x: Tensor, side: str) -> Tensor:
    """`top`: of each column from its end up; `left`: of each row from its end; `bottom` and `right` the other way."""
    dim, backwards = (2 if side in ("top", "bottom") else 3), side in ("top", "left")
    slices = list(x.unbind(dim))
    for index in range(1, len(slices)):
        at, before = (-1 - index, -index) if backwards else (index, index - 1)
        slices[at] = torch.maximum(slices[at], slices[before])
    return torch.stack(slices, dim)


class Authors(CenterNetAuthors):
    def detector(
        self,
        x: Tensor,
        names: Sequence[str],
        stacks: int,
        channels: Sequence[int],
        blocks: Sequence[int],
        stem: int,
        hidden: int,
        *,
        lite: str = "",
        attended: int = 0,
    ) -> list[dict[str, Tensor]]:
        """names: of the points; with a centre among them corner pooling is in a cascade. lite: which of CornerNet-Lite.
        attended: channels within its attention maps."""
        self.squeeze = squeeze = lite == "squeeze"
        below, hourglasses, point, offset = (
            ("hg.", "hg.hgs", "modules", "offs") if lite else ("", "kps", "cnvs", "regrs")
        )
        width = channels[0]
        x = self.unit(self.named(x, f"{below}pre.0", stem, 7, stride=2), f"{below}pre.1", width, 2)
        if squeeze:
            x = self.unit(x, f"{below}pre.2", width, 2)
        found = []
        for stack in range(stacks):
            self.ways_up: list[Tensor] = []
            hourglass = self.half(x, f"{hourglasses}.{stack}", channels, blocks)
            out = self.named(hourglass, f"{below}cnvs.{stack}", width, 3)
            said = {}
            for name in names:
                read = self.point(out, f"{name}_{point}.{stack}", name, hidden, cascade="ct" in names)
                heads = {"heats": 80, offset: 2} | ({} if name == "ct" else {"tags": 1})
                for head, count in heads.items():
                    place, kernel = f"{name}_{head}.{stack}", 1 if squeeze else 3
                    first = F.relu(self.conv(read, f"{place}.0.conv", width, kernel, bias=True))
                    ours = {"heats": "heatmap", "tags": "embedding"}.get(head, "offset")
                    said[f"{KINDS[name]}_{ours}"] = self.conv(first, f"{place}.1", count, 1, bias=True)
            if lite == "saccade":
                for index, (size, up) in enumerate(zip(("large", "medium", "small"), self.ways_up, strict=True)):
                    place = f"att_modules.{stack}.{index}"
                    first = F.relu(self.conv(up, f"{place}.0.conv", attended, 3, bias=True))
                    said[f"{size}_attention"] = self.conv(first, f"{place}.1", 1, 1, bias=True)
            found.append(said)
            if stack < stacks - 1:
                kept = self.norm(self.conv(x, f"{below}inters_.{stack}.0", width, 1), f"{below}inters_.{stack}.1")
                given = self.norm(self.conv(out, f"{below}cnvs_.{stack}.0", width, 1), f"{below}cnvs_.{stack}.1")
                x = self.unit(F.relu(kept + given), f"{below}inters.{stack}", width, 1)
        return found

    def point(self, x: Tensor, name: str, kind: str, hidden: int, *, cascade: bool) -> Tensor:
        first, second = self.named(x, f"{name}.p1_conv1", hidden, 3), self.named(x, f"{name}.p2_conv1", hidden, 3)
        down, across = ("bottom", "right") if kind == "br" else ("top", "left")
        if kind == "ct":
            first, second = pooled(pooled(first, "top"), "bottom"), pooled(pooled(second, "left"), "right")
        else:
            if cascade:
                first = first + pooled(self.named(x, f"{name}.look_conv1", hidden, 3), across)
                first = self.conv(first, f"{name}.P1_look_conv", hidden, 3)
                second = second + pooled(self.named(x, f"{name}.look_conv2", hidden, 3), down)
                second = self.conv(second, f"{name}.P2_look_conv", hidden, 3)
            first, second = pooled(first, down), pooled(second, across)
        merged = self.norm(self.conv(first + second, f"{name}.p_conv1", x.shape[1], 3), f"{name}.p_bn1")
        around = self.norm(self.conv(x, f"{name}.conv1", x.shape[1], 1), f"{name}.bn1")
        return self.named(F.relu(merged + around), f"{name}.conv2", x.shape[1], 3)

    def half(self, x: Tensor, name: str, channels: Sequence[int], blocks: Sequence[int]) -> Tensor:
        if not self.squeeze:
            self.ways_up.append(super().half(x, name, channels, blocks))  # inner ones come first
            return self.ways_up[-1]
        width, inner = channels[:2]

        def fires(x: Tensor, name: str, outs: Sequence[int], stride: int = 1) -> Tensor:
            for index, out in enumerate(outs):
                x = self.fire(x, f"{name}.{index}", out, 1 if index else stride)
            return x

        beside = fires(x, f"{name}.up1", [width] * blocks[0])
        low = fires(x, f"{name}.low1", [inner] * blocks[0], 2)
        if len(channels) > 2:
            low = self.half(low, f"{name}.low2", channels[1:], blocks[1:])
        else:
            low = fires(low, f"{name}.low2", [inner] * blocks[1])
        low = fires(low, f"{name}.low3", [*[inner] * (blocks[0] - 1), width])
        weight, bias = self.weight(f"{name}.up2.weight", width, width, 4, 4), self.weight(f"{name}.up2.bias", width)
        return beside + F.conv_transpose2d(low, weight, bias, stride=2, padding=1)

    def fire(self, x: Tensor, name: str, out: int, stride: int) -> Tensor:
        half = out // 2
        squeezed = self.norm(self.conv(x, f"{name}.conv1", half, 1), f"{name}.bn1")
        plain = self.conv(squeezed, f"{name}.conv_1x1", half, 1, stride=stride)
        depthwise = F.conv2d(
            squeezed, self.weight(f"{name}.conv_3x3.weight", half, 1, 3, 3), None, stride, 1, groups=half
        )
        expanded = self.norm(torch.cat([plain, depthwise], dim=1), f"{name}.bn2")
        return F.relu(expanded + x if stride == 1 and x.shape[1] == out else expanded)


CORNERS, POINTS = ("tl", "br"), ("tl", "br", "ct")
SACCADE = (3, (256, 384, 384, 512), (1, 1, 1, 1), 128, 128)
FULL = (2, (256, 256, 384, 384, 384, 512), (2, 2, 2, 2, 2, 4), 128, 128)
NETWORKS = {
    "cornernet_hourglass104": (CORNERS, FULL, ""),
    "cornernet_squeeze": (CORNERS, (2, (256, 256, 384, 384, 512), (2, 2, 2, 2, 4), 128, 128), "squeeze"),
    "cornernet_saccade": (CORNERS, SACCADE, "saccade"),
    "centernet_triplets_hourglass104": (POINTS, FULL, ""),
}
SMALL = (2, (8, 8, 12), (2, 1, 2), 6, 4)
SMALL_SACCADE = (2, (8, 10, 12, 14), (1, 1, 2, 1), 6, 4)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor_of_their_files_has_its_place(name: str) -> None:
    points, form, lite = NETWORKS[name]
    with torch.device("meta"):
        authors, model = Authors(), create(name)
        authors.detector(torch.empty(1, 3, 128, 128), points, *form, lite=lite, attended=256)
    report = compare(model, cornernet_from_authors({f"module.{key}": value for key, value in authors.state.items()}))
    assert not report.missing and not report.unexpected and not report.mismatched
    assert report.loaded == report.total == len(authors.state)


@pytest.mark.parametrize("name", NETWORKS)
def test_their_weights_give_their_outputs(name: str) -> None:
    points, _, lite = NETWORKS[name]
    form = SMALL_SACCADE if lite == "saccade" else SMALL
    body = dict(zip(("stacks", "channels", "blocks", "stem_channels", "point_channels"), form, strict=True))
    rgb = torch.rand(1, 3, 64, 64 if lite == "saccade" else 96, generator=torch.Generator().manual_seed(1))
    if lite == "saccade":  # which sees images of one size, and cuts them out of others
        body |= {"attention_channels": 5, "input_size": 64, "small_size": 48}
    model, authors = create(name, **body), Authors()
    expected = authors.detector((rgb.flip(1) - MEAN) / STD, points, *form, lite=lite, attended=5)
    load_strict(model, cornernet_from_authors(authors.state), what=name)
    with torch.no_grad():
        model.eval()
        got = model.network(rgb, torch.tensor([[64, 64]])).maps if lite == "saccade" else model.network(rgb)
    assert len(got) == len(expected) == 2
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for key, values in theirs.items():
            assert values.std() > 1e-4
            torch.testing.assert_close(ours[key], values, atol=1e-4, rtol=1e-4)


def test_a_tensor_of_another_model_is_named() -> None:
    for key in ("hm.0.weight", "tl_cnvs.0.p3_conv1.weight", "att_modules.0.3.1.bias"):
        with pytest.raises(UsageError, match=rf"'{key}' is not one of CornerNet's"):
            cornernet_from_authors({key: torch.zeros(1)})
