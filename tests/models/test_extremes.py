"""Ten thousand boxes, none, images of 32 and of 4,000 px and as narrow as 60:1: finite, and in bounded memory."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from aweigh.images.resize import Resize
from aweigh.models import create
from aweigh.predictor import Predictor
from aweigh.structures import Images, Targets

DETECTORS = {
    "fcos_shufflenet_v2_x0_5_fpn": {"channels": 32, "head_convs": 1},
    "fcos_shufflenet_v2_x0_5_lite": {"channels": 32},
    "retinanet_shufflenet_v2_x1_0_fpn": {"channels": 32, "convs": 1},
    "efficientdet_lite0": {},
    "faster_rcnn_resnet18_fpn": {"channels": 32, "box_size": 3},
    "centernet_shufflenet_v2_x0_5_lite": {"channels": 32},
    "cornernet_shufflenet_v2_x0_5_lite": {"channels": 32},
    "foveabox_resnet18_fpn": {"channels": 32, "convs": 1},
}
ASSIGNMENTS = {
    "fcos_shufflenet_v2_x0_5_fpn": ["ranges", "adaptive", "aligned"],
    "retinanet_shufflenet_v2_x1_0_fpn": ["overlap", "adaptive", "aligned"],
}
CASES = [
    (name, {**arguments, **({"assignment": assignment} if assignment else {})})
    for name, arguments in DETECTORS.items()
    for assignment in ASSIGNMENTS.get(name, [""])
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]} {case[1].get('assignment', '')}".strip())
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    name, arguments = request.param
    return create(name, num_classes=3, **arguments).train()


def boxes_in(count: int, height: int, width: int) -> Targets:
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([width, height])
    corner = torch.rand(count, 2, generator=generator) * scale * 0.9
    sides = 1 + torch.rand(count, 2, generator=generator) ** 3 * scale * 0.5
    return Targets(torch.cat([corner, corner + sides], dim=1), torch.randint(0, 3, (count,), generator=generator))


@pytest.mark.parametrize(("size", "count"), [((32, 32), 0), ((32, 32), 20), ((32, 640), 0), ((64, 4000), 20)])
def test_small_large_and_narrow_pictures(model: nn.Module, size: tuple[int, int], count: int) -> None:
    images = Images.stack([torch.rand(3, *size)], divisor=model.stride_divisor)
    losses = model(images, [boxes_in(count, *size)])
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)
    model.score_threshold = 0.0
    (found,) = model.eval()(images)
    assert len(found) > 0 and np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()
    assert (found.boxes <= [size[1], size[0]] * 2).all()


@pytest.mark.long
def test_ten_thousand_boxes_are_learned_in_bounded_memory(model: nn.Module) -> None:
    images = Images.stack([torch.rand(3, 128, 128)], divisor=model.stride_divisor)
    raw = model.network(images.pixels)
    few, many = boxes_in(10, 128, 128), boxes_in(10_000, 128, 128)
    losses: dict[str, torch.Tensor] = {}
    least = peak_memory(lambda: model.loss(raw, [few]))
    assert peak_memory(lambda: losses.update(model.loss(raw, [many]))) < least + 256 * 2**20
    sum(losses.values()).backward()
    assert all(value.isfinite() and value > 0 for value in losses.values())
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)


@pytest.mark.parametrize("name", ["fcos_shufflenet_v2_x0_5_lite", "faster_rcnn_resnet18_fpn"])
def test_a_photograph_of_sixteen_million_pixels_is_brought_to_the_size_of_the_network(name: str) -> None:
    torch.manual_seed(0)
    model = create(name, num_classes=3, **DETECTORS[name])
    model.score_threshold = 0.0
    picture = torch.randint(0, 256, (3, 4000, 4000), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = Predictor(model, Resize(short=None, long=320), device="cpu")(picture, score=0)
    assert len(found) > 0 and found.size_hw == (4000, 4000)
    assert found.boxes.max() > 320 and (found.boxes <= 4000).all()


def peak_memory(run: Callable[[], object]) -> int:
    """Bytes that torch's CPU allocator held at the peak of `run`, above what it held when it began."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
