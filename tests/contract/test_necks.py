"""Every pyramid detector stands on any neck of the table. A new neck, or a new detector, is tested without a line."""

import pytest
from tests.contract.forms import FORMS, without_weights
from tests.contract.lively import CLASSES, images, tiny
from tests.contract.test_detectors import targets

from aweigh.arguments import parameters
from aweigh.models import DETECTORS, create
from aweigh.necks import NECKS
from aweigh.necks.cells import CellPyramid
from aweigh.necks.fpn import FPN

# The first form of each detector that is told its neck by name: FCOS, RetinaNet and so on.
PYRAMIDS = list(
    {name.split("_")[0]: name for name in reversed(FORMS) if "neck" in parameters(DETECTORS[name])}.values()
)


# Necks of cells differ in a list of nodes, halves of FPN in what they leave out: all of them under one detector are
# enough for every day.
OF_CELLS = {neck for neck, build in NECKS.items() if getattr(build, "func", None) in (CellPyramid, FPN)}
PAIRS = [
    pytest.param(name, neck, marks=[pytest.mark.thorough] if neck in OF_CELLS and name != PYRAMIDS[0] else [])
    for name in PYRAMIDS
    for neck in NECKS
]


def kind_of(neck: str) -> object:
    return getattr(NECKS[neck], "func", NECKS[neck])


@pytest.mark.parametrize(("name", "neck"), PAIRS)
def test_a_pyramid_detector_stands_on_any_neck(name: str, neck: str) -> None:
    known = parameters(DETECTORS[name])
    narrow = {key: 16 for key in ("channels", "head_width", "keypoint_width") if key in known}
    narrow |= {"keypoint_convs": 1} if "keypoint_convs" in known else {}
    narrow |= {"neck_repeats": 2} if "repeats" in parameters(NECKS[neck]) else {}
    model = tiny(create(name, classes=CLASSES, neck=neck, **narrow))
    own = without_weights(name)
    assert model.neck.strides == own.neck.strides, "its levels are its own whatever the neck"
    assert type(model.neck) is kind_of(neck) and type(own.neck) is kind_of(known["neck"].default)
    losses = model(images(), targets(model))
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    gradients = [value.grad for value in model.neck.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    for found, size_hw in zip(model.eval()(images()), images().sizes_hw, strict=True):
        assert found.size_hw == size_hw


def test_each_detector_of_one_stage_is_among_them() -> None:
    assert {"fcos", "retinanet", "efficientdet", "foveabox"} <= {name.split("_")[0] for name in PYRAMIDS}
