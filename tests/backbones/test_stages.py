"""ShuffleNet V1 and the small Xception: the papers' costs, what a unit sees, export."""

import pytest
import torch
from torch import nn

from aweigh.backbones.classifier import classifier
from aweigh.backbones.shufflenet_v1 import CHANNELS, STEM, shuffle, shufflenet_v1
from aweigh.backbones.shufflenet_v1 import Unit as UnitV1
from aweigh.backbones.xception import Unit as UnitOfXception
from aweigh.backbones.xception import xception
from aweigh.errors import UsageError
from aweigh.profiling.cost import count

WIDTHS = (0.5, 1.0, 1.5, 2.0)
BODIES = {"shufflenet_v1": shufflenet_v1, "xception": xception}


@pytest.fixture(params=BODIES)
def build(request):
    return BODIES[request.param]


# Multiply-adds in millions of table 1 of ShuffleNet V1 (width 1, by groups); those of table 8 of ShuffleNet V2 are in
# `test_networks.py`.
@pytest.mark.parametrize(("groups", "millions"), [(1, 143), (2, 140), (3, 137), (4, 133), (8, 137)])
def test_costs_by_groups(groups, millions):
    with torch.device("meta"):
        network = classifier(shufflenet_v1(1.0, groups))
    found = count(network, (224, 224)).total.multiply_adds / 1e6
    print(f"{groups} groups: {found:.2f}M, paper {millions}M, {found / millions - 1:+.2%}")
    assert abs(found / millions - 1) <= 0.02


# Parameters in millions in the authors' list of V1 (groups, width), without the biases of a classifier.
@pytest.mark.parametrize(
    ("groups", "width", "millions"),
    [
        *((3, width, paper) for width, paper in zip(WIDTHS, (0.7, 1.9, 3.4, 5.4))),
        *((8, width, paper) for width, paper in zip(WIDTHS, (1.0, 2.4, 4.3, 6.5))),
    ],
)
def test_parameters_of_the_authors(groups, width, millions):
    with torch.device("meta"):
        network = classifier(shufflenet_v1(width, groups))
    found = sum(each.numel() for each in network.parameters()) - 1000
    assert round(found / 1e6, 1) == millions


@pytest.mark.parametrize("groups", CHANNELS)
@pytest.mark.parametrize("width", STEM)
def test_every_group_and_width_runs(groups, width):
    body = shufflenet_v1(width, groups, levels=(3, 4))
    maps = body(torch.randn(2, 3, 40, 34))
    assert [tuple(each.shape) for each in maps] == [(2, body.channels[0], 5, 5), (2, body.channels[1], 3, 3)]
    assert {unit.reduce[0].groups for unit in list(body.modules()) if isinstance(unit, UnitV1)} == {
        1,
        groups,
    }


@pytest.mark.parametrize(("body", "width"), [("shufflenet_v1", 3), ("xception", 7)])
def test_how_far_a_unit_sees(body, width):
    torch.manual_seed(0)
    unit = UnitOfXception(36, 36, 1) if body == "xception" else UnitV1(36, 36, 1, groups=3, first_groups=3)
    x = torch.randn(1, 36, 11, 11, requires_grad=True)
    unit.eval()(x)[0, :, 5, 5].square().sum().backward()
    seen = x.grad[0].abs().sum(dim=0) > 0
    assert seen.any(dim=0).sum() == width and seen.any(dim=1).sum() == width


def test_the_shuffle_brings_every_group_to_every_group():
    for groups, channels in ((3, 60), (3, 30), (8, 96)):
        order = shuffle(torch.arange(channels).view(1, -1, 1, 1), groups).flatten()
        assert order.sort().values.equal(torch.arange(channels))
        for group in (order // (channels // groups)).chunk(groups):
            counts = torch.bincount(group, minlength=groups)
            assert counts.min() >= 1 and counts.max() - counts.min() <= 1


def test_levels_leave_out_later_stages_and_norms_are_replaced(build):
    body = build(0.5, levels=(3, 4), norm="gn")
    assert body.strides == (8, 16) and not hasattr(body, "stage4")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in body.modules())


def test_exports_without_a_branch_on_data(build):
    body = build(0.5).eval()
    x = torch.randn(1, 3, 64, 64)
    exported = torch.export.export(body, (x,)).module()
    with torch.no_grad():
        for expected, actual in zip(body(x), exported(x), strict=True):
            torch.testing.assert_close(actual, expected)


def test_the_classifier_is_round_the_body(build):
    body = build(0.5)
    network = classifier(body, 7).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = body.eval()(x)[-1].mean(dim=(2, 3)) @ network.fc.weight.T + network.fc.bias
        torch.testing.assert_close(network(body.normalise(x)), expected)
    assert body.conv1[0].weight is network.conv1[0].weight


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"width": 0.75}, "0.5, 1.0, 1.5, 2.0"),
        ({"levels": (2, 3)}, "fine to coarse"),
        ({"levels": (4, 3)}, "fine to coarse"),
        ({"levels": ()}, r"levels = \(\): expected a list"),
        ({"frozen_stages": 5}, r"0\.\.4"),
        ({"norm": "layer"}, "known: bn, sync_bn, frozen_bn, gn"),
    ],
)
def test_a_wrong_argument_is_named(build, arguments, said):
    with pytest.raises(UsageError, match=said):
        build(**arguments)
    with pytest.raises(UsageError, match="groups are one of 1, 2, 3, 4, 8; got 5"):
        shufflenet_v1(groups=5)
