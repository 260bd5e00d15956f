"""The thresholds and counts of a detector: checked where they are set, and the same after saving and loading."""

import inspect
import json
import pkgutil
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import aweigh
import aweigh.heads
import aweigh.models
from aweigh.arguments import change_settings, settings_of
from aweigh.checkpoints.checkpoint import load_model, save_model
from aweigh.errors import DataError, UsageError
from aweigh.header import read_header
from aweigh.images.resize import Resize
from aweigh.inference.device import ON_CPU
from aweigh.models.detector import Selection
from aweigh.training.debug.crash import _copy

HOURGLASS = {"channels": [8, 8], "blocks": [1, 1], "stem_channels": 8}
SMALL: dict[str, dict[str, Any]] = {
    "fcos_shufflenet_v2_x0_5_fpn": {"channels": 16, "head_convs": 1},
    "fcos_shufflenet_v2_x0_5_lite": {"channels": 16},
    "retinanet_resnet18_fpn": {"channels": 16, "convs": 1},
    "foveabox_resnet18_fpn": {"channels": 16, "convs": 1},
    "efficientdet_d0": {},
    "faster_rcnn_resnet18_fpn": {"channels": 16},
    "faster_rcnn_resnet18_fcos_rpn": {"channels": 16},
    "light_head_rcnn_shufflenet_v2": {"width": 0.5, "rpn_width": 16, "middle": 8},
    "fast_rcnn_resnet18_fpn": {"channels": 16},
    "mask_rcnn_resnet18_fpn": {"channels": 16},
    "centernet_shufflenet_v2_x0_5_lite": {"channels": 16},
    "centernet_shufflenet_v2_x0_5_lite_pose": {"channels": 16, "keypoints": {"names": ["a", "b"]}},
    "centernet_shufflenet_v2_x0_5_lite_3d": {"channels": 16},
    "cornernet_hourglass104": HOURGLASS,
    "cornernet_saccade": {"channels": [8] * 4, "blocks": [1] * 4, "stem_channels": 8, "attention_channels": 8},
    "centernet_triplets_shufflenet_v2_x0_5_lite": {"channels": 16},
}


def tiny(name: str) -> Any:
    torch.manual_seed(0)
    return aweigh.create(name, classes=["cat", "dog"], **SMALL[name])


def another(value: Any, hint: Any) -> Any:
    """A value that nobody would choose, and that the annotation allows."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return another(value, parts[0])
    if origin is Literal:
        return next(word for word in parts if word != value)
    if origin is tuple:
        return tuple(another(entry, part) + number for number, (entry, part) in enumerate(zip(value, parts)))
    if hint is bool:
        return not value
    return {int: value + 7, float: 0.3141}[hint]


def unusual(model: nn.Module) -> dict[str, Any]:
    hints = {
        f"{name}.{key}" if name else key: hint
        for name, module in model.named_modules()
        if is_dataclass(getattr(module, "selection", None))
        for key, hint in get_type_hints(type(module.selection), include_extras=True).items()
    }
    return {name: another(value, hints[name]) for name, value in settings_of(model).items()}


def all_selections() -> set[type]:
    modules = [
        import_module(f"{package.__name__}.{entry.name}")
        for package in (aweigh.models, aweigh.heads)
        for entry in pkgutil.iter_modules(package.__path__)
    ]
    members = [member for module in modules for _, member in inspect.getmembers(module, is_dataclass)]
    kinds = {member for member in members if isinstance(member, type) and member.__name__.endswith("Selection")}
    return kinds - {Selection}  # which they extend


@pytest.mark.parametrize("name", SMALL)
def test_every_setting_survives_saving_and_loading(name: str, tmp_path: Path) -> None:
    model = tiny(name)
    usual = settings_of(model)
    wanted = unusual(model)
    assert all(wanted[key] != usual[key] for key in usual) and len(usual) >= 4
    change_settings(model, wanted)
    assert settings_of(model) == wanted
    save_model(tmp_path / "m.safetensors", model, resize=Resize(short=None, long=64))
    loaded, header = load_model(tmp_path / "m.safetensors")
    assert settings_of(loaded) == wanted
    assert json.loads(json.dumps(header["selection"])) == header["selection"] and set(header["selection"]) == {*wanted}
    assert settings_of(_copy(model, ON_CPU)) == wanted


def test_no_kind_of_settings_is_left_out_above() -> None:
    found = {
        type(module.selection)
        for name in SMALL
        for module in tiny(name).modules()
        if is_dataclass(getattr(module, "selection", None))
    }
    assert found == all_selections() and len(found) >= 10


def test_settings_are_attributes_too_and_are_checked() -> None:
    model = tiny("cornernet_hourglass104")
    model.embedding_distance, model.nms = 0.25, "none"
    assert model.selection.embedding_distance == 0.25 and model.nms == "none"
    for name, value, message in (
        ("nms", "x", "unknown nms 'x'; known: class, agnostic, soft, none"),
        ("nms", "sofd", "Did you mean 'soft'"),
        ("max_detections", 0, "max_detections = 0: expected a whole number from 1"),
        ("score_threshold", 1.5, "score_threshold = 1.5: expected a number from 0 to 1"),
        ("embedding_distance", float("nan"), "embedding_distance"),
    ):
        with pytest.raises(UsageError, match=message):
            setattr(model, name, value)
    assert model.embedding_distance == 0.25 and model.nms == "none" and model.max_detections == 100


def test_settings_are_changed_by_name_all_or_none() -> None:
    model = tiny("faster_rcnn_resnet18_fpn")
    before = settings_of(model)
    for wrong in ({"nms_treshold": 0.5}, {"proposer.test_proposals": [5]}, {"proposer.nms_threshold": 2}):
        with pytest.raises(UsageError):
            change_settings(model, {"score_threshold": 0.5, **wrong})
        assert settings_of(model) == before
    change_settings(model, {"proposer.test_proposals": [9, 5], "score_threshold": 0.5})
    assert model.proposer.test_proposals == (9, 5) and model.score_threshold == 0.5


def rewritten(path: Path, change: dict[str, Any], without: tuple[str, ...] = ()) -> Path:
    header = {name: value for name, value in (read_header(path) | change).items() if name not in without}
    save_file(load_file(path), path, metadata={"aweigh": json.dumps(header)})
    return path


def test_files_of_format_1_keep_their_settings(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, tiny("fcos_shufflenet_v2_x0_5_fpn"), resize=Resize(short=None, long=64))
    old = {"format": 1, "score_threshold": 0.25, "nms": "soft", "max_detections": 7}
    loaded, _ = load_model(rewritten(path, old, without=("selection",)))
    assert (loaded.score_threshold, loaded.nms, loaded.max_detections) == (0.25, "soft", 7)
    assert loaded.nms_threshold == 0.6


@pytest.mark.parametrize("where", ["top", "selection"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("nms", "x"), ("max_detections", 0), ("score_threshold", "many"), ("nms_threshold", None), ("nms_thresh", 0.5)],
)
def test_settings_of_a_file_that_cannot_be_are_refused(tmp_path: Path, where: str, name: str, value: Any) -> None:
    if (where, name) == ("top", "nms_thresh"):
        pytest.skip("at the top a header may hold what newer versions write")
    path = tmp_path / "m.safetensors"
    save_model(path, tiny("fcos_shufflenet_v2_x0_5_fpn"), resize=Resize(short=None, long=64))
    change = {name: value} if where == "top" else {"selection": {name: value}}
    with pytest.raises(DataError, match=f"m.safetensors: its Aweigh header .*{name}"):
        load_model(rewritten(path, change, without=("selection",) if where == "top" else ()))


def test_the_box_that_comes_with_the_package_keeps_its_settings() -> None:
    engine = aweigh.load("box", runtime="torch").engine
    assert settings_of(engine.model) == {
        "score_threshold": 0.02,
        "nms": "class",
        "nms_threshold": 0.6,
        "candidates_per_image": 1000,
        "max_detections": 100,
    }
    assert {entry.name for entry in fields(engine.selection)} == {*settings_of(engine.model)}
