"""What every builder may be told by name: each argument of each is checked where it enters, as text and as a value."""

import inspect
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
import torch

import aweigh
from aweigh.arguments import Made, Parameter, check_arguments, check_value, parameters
from aweigh.classes import Classes
from aweigh.errors import UsageError
from aweigh.models import DETECTORS, create
from aweigh.models.builders import Builder
from aweigh.models.fcos import FCOS, FCOSHead
from aweigh.models.mask_rcnn import MaskBranch
from aweigh.ops.losses import BoxLoss
from aweigh.training.config import TrainConfig
from aweigh.training.prepare import builder_arguments


def plain(name: str) -> dict[str, Parameter]:
    return {key: each for key, each in parameters(DETECTORS[name]).items() if each.plain}


def parts(hint: Any) -> list[Any]:
    """The annotation without ranges, one for each kind of value it allows."""
    if get_origin(hint) is Annotated:
        made = [mark for mark in get_args(hint)[1:] if isinstance(mark, Made)]
        return made or parts(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return [part for each in get_args(hint) for part in parts(each)]
    return [hint]


def wrong_kinds(hint: Any) -> list[Any]:
    """Values that no argument of this annotation may have."""
    kinds = parts(hint)
    wrong: list[Any] = [{"a": 1}, [[[]]], object(), float("nan"), -3]
    if not any(get_origin(kind) in (Literal,) or kind is str for kind in kinds):
        wrong.append("computed")
    if bool not in kinds:
        wrong.append(True)
    if NoneType not in kinds and not any(isinstance(kind, Made) for kind in kinds):
        wrong.append(None)
    if int in kinds:
        wrong.append(1.5)
    if kinds == [str]:
        wrong = [value for value in wrong if not isinstance(value, str)]
    return wrong


@pytest.mark.parametrize("name", DETECTORS)
def test_no_argument_takes_what_it_is_not(name: str) -> None:
    known = plain(name)
    assert len(known) >= 6
    for key, each in known.items():
        for value in wrong_kinds(each.hint):
            with pytest.raises(UsageError) as caught:
                create(name, num_classes=2, **{key: value})
            assert key in str(caught.value) and "\n" not in str(caught.value), (key, value)


@pytest.mark.parametrize("name", DETECTORS)
def test_an_unknown_word_names_those_that_are_known(name: str) -> None:
    for key, each in plain(name).items():
        words = [word for kind in parts(each.hint) if get_origin(kind) is Literal for word in map(str, get_args(kind))]
        if not words:
            continue
        for wrong in (f"{words[0]}x", "", words[0].upper() + " "):
            with pytest.raises(UsageError) as caught:
                create(name, num_classes=2, **{key: wrong})
            message = str(caught.value)
            assert f"unknown {key}" in message and all(word in message for word in words)
        with pytest.raises(UsageError, match="Did you mean"):
            create(name, num_classes=2, **{key: f"{words[0]}x"})


@pytest.mark.parametrize("name", DETECTORS)
def test_an_unknown_argument_names_the_nearest(name: str) -> None:
    for key in plain(name):
        with pytest.raises(UsageError, match=rf"{name}: there is no option '{key}q'\. Did you mean '"):
            create(name, num_classes=2, **{f"{key}q": 1})
    for reserved in ("classes", "branches", "weights", "num_classes", "backbone_weights"):
        with pytest.raises(UsageError, match=f"there is no option '{reserved}'"):
            check_arguments(DETECTORS[name], {reserved: "x"}, plain=True)


@pytest.mark.parametrize("name", [name for name, build in DETECTORS.items() if isinstance(build, Builder)])
def test_an_entry_differs_from_its_form_by_arguments_that_it_takes(name: str) -> None:
    """A value under a misspelt name would go nowhere."""
    build = DETECTORS[name]
    assert isinstance(build, Builder) and {*build.values} <= {*build.takes}
    for key, value in build.values.items():
        check_value(key, value, build.takes[key].hint)


# A builder of each set of arguments: what is known of them is what they take.
FORMS = list({tuple(plain(name)): name for name in reversed(DETECTORS)}.values())


@pytest.mark.parametrize("name", FORMS)
def test_every_argument_can_be_given(name: str) -> None:
    """Each at its default, where it has one, all of them together; on a device without memory."""
    given = {key: each.default for key, each in plain(name).items() if each.default is not inspect.Parameter.empty}
    given.pop("stride_in_1x1", None)  # of a ResNet with bottlenecks
    if "quality" not in given and "level_ranges" in given:
        given.pop("level_ranges")
    with torch.device("meta"):
        model = create(name, num_classes=2, **given)
    assert {*model.arguments} == {*given} and len(given) >= 5


TEXTS = [("True", True), ("true", True), ("yes", True), ("on", True), ("1", True), ("YES", True), (1, True)]
TEXTS += [("False", False), ("false", False), ("no", False), ("off", False), ("0", False), (0, False)]


@pytest.mark.parametrize(("text", "value"), TEXTS)
def test_yes_and_no_in_every_usual_spelling(text: Any, value: bool) -> None:
    with torch.device("meta"):
        model = create("faster_rcnn_resnet18_fpn", num_classes=2, aligned=text, channels="32")
    assert model.pool.keywords["aligned"] is value
    assert model.arguments == {"aligned": value, "channels": 32}


@pytest.mark.parametrize("text", ["", "maybe", "2", 2, 1.0, None, "nope"])
def test_what_is_neither_yes_nor_no(text: Any) -> None:
    with pytest.raises(UsageError, match=r"aligned = .*: expected yes or no"):
        create("faster_rcnn_resnet18_fpn", num_classes=2, aligned=text)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("128", int, 128),
        ("0.5", float, 0.5),
        ("1e-3", float, 0.001),
        (3, float, 3.0),
        ("none", Literal["a"] | None, None),
        ("null", int | None, None),
        ("none", Literal["none", "a"] | None, "none"),
        ("[1, 2]", tuple[int, int], (1, 2)),
        ("1, 2", tuple[int, int], (1, 2)),
        ([1, "2"], tuple[int, int], (1, 2)),
        ("50", Literal[50, 164] | None, 50),
        (164, Literal[50, 164] | None, 164),
    ],
)
def test_texts_become_values(value: Any, hint: Any, expected: Any) -> None:
    found = check_value("x", value, hint)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("1_000", int),
        ("0x10", int),
        ("1.5", int),
        (1.0, int),
        (True, int),
        ("nan", float),
        (float("inf"), Annotated[float, "no mark"]),
        ([1, 2, 3], tuple[int, int]),
        ([], tuple[int, ...]),
        ([1] * 101, tuple[int, ...]),
        ("[" * 5000, tuple[int, ...]),
        (True, Literal["a"]),
        (1, Literal["1"]),
        (True, Literal[1]),
        (b"a", str),
        ("9" * 5000, int),
    ],
)
def test_values_that_fit_nothing(value: Any, hint: Any) -> None:
    if value == float("inf"):
        hint = aweigh.arguments.NotNegative
    with pytest.raises(UsageError, match=r"^x = |^unknown x"):
        check_value("x", value, hint)


def test_the_faults_that_were_found() -> None:
    with pytest.raises(UsageError, match="unknown box_loss 'smooth_l1'; known: iou, linear_iou, giou, diou, ciou"):
        create("fcos_resnet50_fpn", num_classes=2, box_loss="smooth_l1")
    with pytest.raises(UsageError, match="centerness = 'computed': expected yes or no"):
        create("fcos_resnet50_fpn_base", num_classes=2, centerness="computed")
    for number in (0, -1, 1.5, "many", True):
        with pytest.raises(UsageError, match="num_classes"):
            create("fcos_resnet50_fpn", num_classes=number)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="classes are a list of names, got 'cat'"):
        create("fcos_resnet50_fpn", classes="cat")


def test_builders_and_detectors_called_directly_are_checked_too() -> None:
    build: Any = DETECTORS["fcos_resnet18_fpn"]
    with pytest.raises(UsageError, match="unknown box_loss 'smooth_l1'"):
        build(box_loss="smooth_l1")
    with pytest.raises(UsageError, match="FCOS: unknown box_loss 'smooth_l1'"):
        kind: Any = FCOS
        kind(None, None, None, classes=Classes.numbered(2), box_loss="smooth_l1")
    with pytest.raises(UsageError, match="FCOSHead: convs = 1000"):
        FCOSHead(16, 2, 5, convs=1000)
    with pytest.raises(UsageError, match="MaskBranch: unknown masks 'sigmoide'"):
        branch: Any = MaskBranch
        branch(16, 2, masks="sigmoide")
    with pytest.raises(UsageError, match=r"FCOS: there is no option 'box_los'\. Did you mean 'box_loss'"):
        kind(None, None, None, box_los="giou")


def test_every_known_box_loss_is_another_loss(tmp_path: Path) -> None:
    from aweigh.ops.losses import box_loss

    boxes, goals = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[3.0, 2, 16, 18]])
    values = {word: round(float(box_loss(boxes, goals, word)), 4) for word in get_args(BoxLoss)}
    assert len({*values.values()}) == len(values) == 5
    with pytest.raises(UsageError, match="smooth_l1"):
        wrong: Any = "smooth_l1"
        box_loss(boxes, goals, wrong)


def test_what_is_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="classes and num_classes are both given"):
        create("fcos_shufflenet_v2_x0_5_lite", classes=["a"], num_classes=2)
    for setting in ({"backbone_norm": "bn"}, {"frozen_stages": 1}):
        config = TrainConfig(data="DATA", **setting, arguments=("backbone_norm=gn", "frozen_stages=2"))
        with pytest.raises(UsageError, match=f"{next(iter(setting))} is given twice"):
            builder_arguments(config)
