"""Which units read which: against labels that go through the network itself."""

import pytest
import torch
from torch import nn

from aweigh.backbones.classifier import classifier
from aweigh.backbones.shufflenet_v2 import ShuffleNetV2, Unit
from aweigh.errors import UsageError
from aweigh.profiling.reuse import body_of, feature_reuse


class Label(nn.Module):
    """In place of a branch: notes what it is given and answers with a constant."""

    def __init__(self, channels: int, label: int) -> None:
        super().__init__()
        self.channels, self.label, self.seen = channels, label, torch.empty(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x[0, :, 0, 0]
        return x.new_full((len(x), self.channels, 1, 1), self.label)


@pytest.mark.parametrize("form", ["torchvision", "authors"])
def test_channels_are_those_that_arrive(form):
    body = ShuffleNetV2(1.0, form=form)
    found = feature_reuse(body)
    units = [module for module in body.modules() if isinstance(module, Unit)]
    for number, unit in enumerate(units, start=1):
        unit.branch2 = Label(unit.branch2[5].out_channels, number)
        if not unit.splits:
            unit.branch1 = Label(unit.branch1[2].out_channels, number)
    x = torch.zeros(1, 24, 1, 1)
    for stage in (body.stage2, body.stage3, body.stage4):
        x = stage(x)
    assert found.sources == ("conv1", *found.units[:-1]) and len(found.units) == len(units) == 16
    for index, unit in enumerate(units):
        expected = torch.bincount(unit.branch2.seen.long(), minlength=len(found.sources))
        assert found.channels[:, index].tolist() == expected.tolist(), found.units[index]
    assert torch.equal(found.weights.isnan(), found.channels == 0)


def test_the_number_of_shared_channels_halves_with_every_unit_between():
    found = feature_reuse(ShuffleNetV2(0.5))
    source = found.sources.index("stage3.1")
    later = [found.channels[source, found.units.index(f"stage3.{index}")].item() for index in range(2, 8)]
    assert later == [24, 12, 6, 3, 2, 0]  # and 1 for a seventh, if the stage had one more


def test_weights_are_means_of_absolute_values():
    body = ShuffleNetV2(0.5)
    before = feature_reuse(body)
    signs, places = (-1.0) ** torch.arange(24), torch.arange(1.0, 25)
    with torch.no_grad():
        body.get_submodule("stage2.1").branch2[0].weight.copy_(torch.outer(signs, places)[:, :, None, None])
        body.get_submodule("stage2.2").branch2[0].weight.copy_(torch.outer(signs, places)[:, :, None, None])
    after = feature_reuse(body)
    # All of what stage2.1 reads was made by stage2.0; of what stage2.2 reads, itself made every other channel.
    stem, first, second = 0, 1, 2
    assert after.weights[first, 1].item() == pytest.approx(12.5) and after.weights[stem, 1].isnan()
    assert after.weights[first, 2].item() == pytest.approx(12.0)  # mean of 1, 3, ..., 23
    assert after.weights[second, 2].item() == pytest.approx(13.0)  # mean of 2, 4, ..., 24
    others = [0, *range(3, 16)]
    assert torch.equal(after.weights[:, others].nan_to_num(-1), before.weights[:, others].nan_to_num(-1))


@pytest.mark.parametrize(
    ("arguments", "prefix"),
    [
        ({"width": 1.5}, ""),
        ({"width": 0.5, "extra_depthwise": True}, "backbone."),
        ({"width": 1.0, "squeeze": True, "form": "authors"}, ""),
    ],
)
def test_a_body_is_found_in_a_file(arguments, prefix):
    body = ShuffleNetV2(**arguments)
    state = {prefix + key: value for key, value in classifier(body, 5).state_dict().items()}
    found = body_of({**state, "head.weight": torch.zeros(1)}, what="file")
    assert found.name == body.name
    assert all(torch.equal(value, body.state_dict()[key]) for key, value in found.state_dict().items())


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"layer1.weight": torch.zeros(1)}, "file holds no ShuffleNet V2: none"),
        ({"stage2.0.branch2.0.weight": torch.zeros(30, 24, 1, 1)}, r"no known width.*\(30, 24, 1, 1\)"),
        (
            {key: value for key, value in ShuffleNetV2(0.5).state_dict().items() if not key.startswith("stage4")},
            r"no whole ShuffleNet V2 0\.5: stage4\.0\.branch2\.0\.weight",
        ),
    ],
)
def test_a_file_without_a_whole_body(state, said):
    with pytest.raises(UsageError, match=said):
        body_of(state, what="file")
