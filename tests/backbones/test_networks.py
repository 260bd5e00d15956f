"""The networks of the ShuffleNet V2 paper by name: what they cost, counted twice; parts of MobileNet V2, DenseNet."""

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.densenet import _DenseBlock, _Transition

from aweigh.backbones.classifier import NETWORKS, classifier, network
from aweigh.backbones.densenet import DenseLayer, DenseNet, Transition
from aweigh.backbones.mobilenet_v1 import mobilenet_v1
from aweigh.backbones.mobilenet_v2 import MobileNetV2, mobilenet_v2
from aweigh.backbones.shufflenet_v2 import BUILDERS
from aweigh.backbones.timm import TimmBackbone
from aweigh.errors import UsageError
from aweigh.profiling.cost import count

# Name and side of the image -> multiply-adds in millions of table 8, and in percent how far ours are from them where it
# is more than one. Torchvision's form of ShuffleNet V2; `tests/profiling/test_cost.py` has the authors'.
TABLE_8 = {
    ("shufflenet_v2_x0_5", 224): (41, -1.3),
    ("shufflenet_v2_x1_0", 224): (146, None),
    ("shufflenet_v2_x1_5", 224): (299, -1.1),
    ("shufflenet_v2_x2_0", 224): (591, -1.3),
    ("shufflenet_v2_x2_0_se", 224): (597, -1.8),
    ("shufflenet_v1_g3_x0_5", 224): (38, -1.1),
    ("shufflenet_v1_g3_x1_0", 224): (140, -1.8),
    ("shufflenet_v1_g3_x1_5", 224): (292, None),
    ("shufflenet_v1_g3_x2_0", 224): (524, None),
    ("mobilenet_v1_x0_25", 224): (41, None),
    ("mobilenet_v1_x0_5", 224): (149, None),
    ("mobilenet_v1_x0_75", 224): (325, None),
    ("mobilenet_v1_x1_0", 224): (569, None),
    ("mobilenet_v2_x0_15", 224): (39, -21.6),
    ("mobilenet_v2_x0_6", 224): (141, 7.1),
    ("mobilenet_v2_x0_4", 160): (43, -2.8),
    ("mobilenet_v2_x0_75", 192): (145, 6.2),
    ("mobilenet_v2_x1_0", 224): (301, None),
    ("mobilenet_v2_x1_4", 224): (587, None),
    ("xception_small_x0_5", 224): (40, 2.0),
    ("xception_small_x1_0", 224): (145, -1.7),
    ("xception_small_x1_5", 224): (305, None),
    ("xception_small_x2_0", 224): (525, None),
    ("densenet_small_x0_5", 224): (42, None),
    ("densenet_small_x1_0", 224): (142, None),
    ("densenet_small_x1_5", 224): (295, -1.2),
    ("densenet_small_x2_0", 224): (519, None),
}


def without_weights(name: str) -> nn.Module:
    with torch.device("meta"):
        return classifier(network(name))


@pytest.mark.parametrize(("name", "size"), TABLE_8)
def test_costs_of_table_8(name: str, size: int) -> None:
    millions, difference = TABLE_8[name, size]
    found = 100 * (count(without_weights(name), (size, size)).total.multiply_adds / 1e6 / millions - 1)
    print(f"{name}: {found:+.2f} %")
    assert abs(found) <= 1 if difference is None else abs(found) > 1 and round(found, 1) == difference


@pytest.mark.parametrize(
    "name",
    [
        *("shufflenet_v2_x0_5_dw", "shufflenet_v2_x2_0_se", "shufflenet_v1_g3_x0_5", "mobilenet_v2_x0_15"),
        *("xception_small_x1_5", "densenet_small_x1_0"),
    ],
)
def test_torch_counts_the_same(name: str) -> None:
    whole = without_weights(name).eval()
    with FlopCounterMode(display=False) as counter:
        whole(torch.empty(1, 3, 97, 160, device="meta"))
    assert counter.get_total_flops() == 2 * count(whole, (97, 160)).total.multiply_adds > 0


def test_every_name_is_one_of_a_backbone() -> None:
    assert {*BUILDERS} <= {*NETWORKS} and len(NETWORKS) == 11 + 4 + 4 + 4 + 8 + 4 + 4
    with torch.device("meta"):
        for name in ("shufflenet_v2_x0_5_dw", "shufflenet_v1_g3_x1_5", "xception_small_x2_0", "densenet_small_x1_0"):
            assert network(name).name == name


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no network 'densenet_x0_5'\. Did you mean .*: shufflenet_v2_x0_5, .*small"):
        network("densenet_x0_5")
    for build in (DenseNet, mobilenet_v1, mobilenet_v2):
        with pytest.raises(UsageError, match=r"has the widths 0\..*, got 0.7"):
            build(0.7)


def test_mobilenet_v1_is_table_1_of_its_paper() -> None:
    """Each row a depthwise convolution of its stride and a pointwise one, behind a plain one; a quarter as wide."""

    def layer(read: int, given: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
        convolution = nn.Conv2d(read, given, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [convolution, nn.BatchNorm2d(given), nn.ReLU6()]

    torch.manual_seed(0)
    layers, read = layer(3, 8, 3, 2), 8
    for given, stride in ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)):
        layers += layer(read, read, 3, stride, groups=read) + layer(read, given, 1, 1)
        read = given
    theirs = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 5)).eval()
    for norm in (each for each in theirs.modules() if isinstance(each, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -0.2, 0.2)
        nn.init.uniform_(norm.running_var, 0.02, 0.05)
    ours = classifier(mobilenet_v1(0.25), 5).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 70, 96)
    with torch.no_grad():
        expected = theirs(x)
        assert expected.std(dim=0).min() > 1e-3
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("width", [0.15, 0.6, 1.4])
def test_mobilenet_v2_is_torchvisions_at_any_width(width: float) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.MobileNetV2(num_classes=5, width_mult=width).eval()
    for norm in (each for each in theirs.modules() if isinstance(each, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -0.2, 0.2)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    ours = classifier(mobilenet_v2(width), 5).eval()
    # The same layers in the same order, but for what they are called.
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 70, 96)
    with torch.no_grad():
        expected = theirs(x)
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_mobilenet_v2_is_timms_where_timm_has_a_name() -> None:
    with torch.device("meta"):
        for width, name in ((0.35, "mobilenetv2_035"), (0.75, "mobilenetv2_075"), (1.4, "mobilenetv2_140")):
            ours, theirs = mobilenet_v2(width), TimmBackbone(name)
            assert isinstance(ours, MobileNetV2) and ours.name == theirs.name and ours.channels == theirs.channels
            assert {key: value.shape for key, value in ours.state_dict().items()} == {
                key: value.shape for key, value in theirs.state_dict().items()
            }


def test_a_dense_stage_is_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = nn.Sequential(_Transition(12, 12), _DenseBlock(3, 12, bn_size=4, growth_rate=5, drop_rate=0.0)).double()
    ours = nn.Sequential(Transition(12, 12), *(DenseLayer(12 + 5 * index, 5) for index in range(3))).double()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(2, 12, 8, 10, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))  # with the statistics of the batch
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    assert ours(x).shape == (2, 27, 4, 5)
    assert ours(torch.randn(1, 12, 1, 1, dtype=torch.float64)).shape == (1, 27, 1, 1)


def test_channels_of_the_small_densenet() -> None:
    with torch.device("meta"):
        body = DenseNet(1.0, levels=(3, 5))
    assert body.channels == (24 + 3 * 25, 24 + 13 * 25) and body.strides == (8, 32)
    layers = [sum(isinstance(each, DenseLayer) for each in getattr(body, f"stage{stage}")) for stage in (2, 3, 4)]
    assert layers == [3, 7, 3]
