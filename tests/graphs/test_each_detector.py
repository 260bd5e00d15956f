"""Each form of detector as a graph finds what the detector finds. In every run one is exported for images of any size
and number, more for one size, which takes a third as long; of the other forms, that they are one program.

All detectors that there are of any size, `pytest -m thorough`.
"""

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from _pytest.mark import ParameterSet
from tests.contract.forms import FORMS
from tests.contract.lively import images, lively
from torch import nn

from aweigh.arguments import change_settings
from aweigh.graphs.graph import Exported, onnx_graph, save_graph
from aweigh.models import DETECTORS
from aweigh.runtime.openvino import the_core

Found = list[np.ndarray]  # boxes, scores, labels, count and the extras
Run = Callable[[dict[str, np.ndarray]], Found]

# One of each way from maps to detections, which OpenVINO computes as well.
KINDS = ["fcos_shufflenet_v2_x0_5_lite", "mask_rcnn_resnet18_fpn", "centernet_shufflenet_v2_x0_5_lite"]
OF_ONE_SIZE = [  # quick ones of the files of `models` that use operators of their own, and RetinaNet
    "mask_rcnn_resnet18_fpn",
    "retinanet_shufflenet_v2_x1_0_fpn",
    "efficientdet_lite0",
    "light_head_rcnn_shufflenet_v2",
    "centernet_shufflenet_v2_x0_5_lite_3d",
    "cornernet_shufflenet_v2_x0_5_lite",
    "centernet_shufflenet_v2_x0_5_lite_pose",
    "fast_rcnn_vgg16",
]
ONE_PROGRAM = [  # that have modules or settings of their own between the pyramid and what is detected
    "fcos_shufflenet_v2_x0_5_fpn",
    "fcos_resnet50_p4_base",
    "fcos_resnet50_fpn_torchvision",
    "foveabox_resnet18_fpn",
    "faster_rcnn_resnet50_c4",
    "faster_rcnn_mobilenet_v3_large_320_fpn",
    "faster_rcnn_resnet50_fpn_detectron2",
    "faster_rcnn_resnet18_fcos_rpn",
    "keypoint_rcnn_resnet18_fpn",
    "centernet_dla34",
    "centernet_resnet18_dcn",
    "centernet_hourglass104",
    "centernet_triplets_shufflenet_v2_x0_5_lite",
    "cornernet_saccade",
]


def marked(names: Iterable[str], usual: Collection[str], *marks: pytest.MarkDecorator) -> list[ParameterSet]:
    return [pytest.param(name, marks=marks if name in usual else pytest.mark.thorough) for name in names]


def in_onnxruntime(file: Path) -> Run:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, feed)


def in_openvino(file: Path) -> Run:
    compiled = the_core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda feed: list(compiled(feed).values())


def runs(name: str, file: Path) -> list[Run]:
    return [in_onnxruntime(file), *([in_openvino(file)] if name in KINDS else [])]


def of_kind(name: str, **arguments: object) -> nn.Module:
    """Boxes of one size, as weights by chance give, overlap by simple fractions such as 0.6; no threshold is one here,
    where rounding would decide."""
    model = lively(name, **arguments)
    change_settings(model, {"nms_threshold": 0.587})
    return model


def exported(model: nn.Module, folder: Path, **fixed: Any) -> Path:
    file = folder / "graph.onnx"
    save_graph(onnx_graph(model, **fixed), file, {})
    return file


def inputs(model: nn.Module, batch: int, *sides: int) -> dict[str, torch.Tensor]:
    """By name. sides: height and width in strides, so that 1 gives a map of one cell; the last image has padding."""
    step = max(model.stride_divisor, 32)  # in less, some find nothing
    height, width = (step * side for side in sides)
    given = images([(height, width)] * batch)
    sizes = torch.tensor([[height, width]] * (batch - 1) + [[height - 7, width]])
    told = {"proposals": given.proposals} if model.needs_proposals else {}
    return {"images": given.pixels} | told | {"sizes_hw": sizes}


def of_size(given: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What a graph is told that takes no other size and number of images than these."""
    batch, _, height, width = given["images"].shape
    return {"size_hw": (height, width), "batch": batch}


@torch.no_grad()
def detected(model: nn.Module, given: dict[str, torch.Tensor]) -> Found:
    return [values.numpy() for values in Exported(model)(**given)]


def assert_same(got: Found, want: Found) -> None:
    """The same rows, in the same order but for those of equal scores; nothing in the padding."""
    assert [values.shape for values in got] == [values.shape for values in want]
    assert got[3].tolist() == want[3].tolist()
    for image, count in enumerate(want[3]):
        assert (got[1][image, count:] == 0).all()
        far = np.abs(got[0][image, None, :count] - want[0][image, :count, None]).max(axis=-1)  # [expected, found]
        far += 1e3 * np.abs(got[1][image, None, :count] - want[1][image, :count, None])
        far += 1e6 * (got[2][image, None, :count] != want[2][image, :count, None])
        rows = far.argmin(axis=1) if count else np.zeros(0, int)
        assert len({*rows.tolist()}) == count
        np.testing.assert_allclose(got[0][image, rows], want[0][image, :count], atol=0.01)
        np.testing.assert_allclose(got[1][image, rows], want[1][image, :count], atol=1e-4)
        np.testing.assert_array_equal(got[2][image, rows], want[2][image, :count])
        for ours, theirs in zip(want[4:], got[4:], strict=True):
            np.testing.assert_allclose(theirs[image, rows], ours[image, :count], atol=1e-3, rtol=1e-4)


def assert_finds(run: Run, model: nn.Module, given: dict[str, torch.Tensor]) -> None:
    want = detected(model, given)
    assert want[3].sum() > 1
    assert_same(run({key: values.numpy() for key, values in given.items()}), want)


@pytest.mark.parametrize("name", marked(FORMS, OF_ONE_SIZE))
def test_a_graph_of_one_size(name: str, tmp_path: Path) -> None:
    """Black images are traced, so that nothing may depend on what is in them."""
    model = of_kind(name)
    given = inputs(model, 2, 1, 2)
    for run in runs(name, exported(model, tmp_path, **of_size(given))):
        assert_finds(run, model, given)


@pytest.mark.parametrize("name", marked([name for name in FORMS if name not in {*KINDS, *OF_ONE_SIZE}], ONE_PROGRAM))
def test_network_and_select_are_one_program_without_a_branch_on_the_data(name: str) -> None:
    """The first step of an export, for what is not exported every time."""
    model = of_kind(name)
    given = inputs(model, 1, 1, 2)
    black = given | {"images": torch.zeros_like(given["images"])}
    program = torch.export.export(Exported(model), (), black, strict=False).module()
    for expected, got in zip(Exported(model)(**given), program(**given), strict=True):
        torch.testing.assert_close(got, expected)


# Of the first, `test_equality.py` has a smaller one.
@pytest.mark.parametrize("name", marked(DETECTORS, ["centernet_shufflenet_v2_x0_5_lite"], pytest.mark.long))
def test_a_graph_of_any_size(name: str, tmp_path: Path) -> None:
    model = of_kind(name)
    for run in runs(name, exported(model, tmp_path)):
        for batch, *sides in ((1, 1, 1), (2, 1, 2), (3, 3, 2)):
            assert_finds(run, model, inputs(model, batch, *sides))


@pytest.mark.parametrize("name", marked(KINDS, KINDS[:1]))
def test_one_found_and_nothing_found(name: str, tmp_path: Path) -> None:
    """In the two images of a batch, by a threshold that halving finds."""
    model = of_kind(name)
    given, low, high = inputs(model, 2, 1, 2), 0.0, 1.0
    for _ in range(30):
        change_settings(model, {"score_threshold": (low + high) / 2})
        want = detected(model, given)
        if want[3].sum() == 1:
            break
        low, high = ((low + high) / 2, high) if want[3].sum() else (low, (low + high) / 2)
    assert sorted(want[3].tolist()) == [0, 1]
    run = in_onnxruntime(exported(model, tmp_path, **of_size(given)))
    assert_same(run({key: values.numpy() for key, values in given.items()}), want)
