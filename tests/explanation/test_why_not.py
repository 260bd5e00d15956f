"""The stage that is named is the one in which the object was lost: what is said to bring it back does, in `decode`."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.contract.forms import FORMS
from tests.contract.lively import CLASSES, SIZES, images, lively
from torch import nn

from aweigh.arguments import change_settings, settings_of
from aweigh.detections import Detections
from aweigh.errors import DataError, UsageError
from aweigh.explanation.look import Look
from aweigh.explanation.outcome import outcome_of
from aweigh.explanation.why_not import Fate, Object, fates_of
from aweigh.geometry.boxes import pairwise_iou
from aweigh.images.resize import Resize

QUICK = [  # one of each way to detect
    *("fcos_shufflenet_v2_x0_5_fpn", "fcos_shufflenet_v2_x0_5_lite", "retinanet_shufflenet_v2_x1_0_fpn"),
    *("efficientdet_d0", "faster_rcnn_resnet18_fpn", "fast_rcnn_resnet18_fpn", "foveabox_resnet18_fpn"),
    *("centernet_shufflenet_v2_x0_5_lite", "cornernet_shufflenet_v2_x0_5_lite", "cornernet_saccade"),
    "centernet_triplets_shufflenet_v2_x0_5_lite",
]
RUN = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.thorough]) for name in FORMS]
AS_IT_IS = Resize(None, None)
# A setting so tight that it loses what was found.
TIGHT = {
    "score_threshold": 0.9999,
    "nms_threshold": 0.0,
    "max_detections": 1,
    "candidates_per_level": 1,
    "candidates_per_image": 1,
    "points_per_kind": 1,
    "max_pairs": 1,
    "embedding_distance": 0.0,
    "proposer.test_proposals": (1, 1),
    "proposer.nms_threshold": 0.0,
}


def with_boxes(name: str) -> nn.Module:
    """A small detector; one of centres says that objects are some cells large, which an untrained one does not."""
    made = lively(name)
    for heads in getattr(made, "heads", ()):
        nn.init.constant_(heads["size"][-1].bias, 6.0)
    return made


@pytest.fixture(scope="module", params=RUN)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return with_boxes(request.param)


def look_at(model: nn.Module) -> Look:
    height, width = SIZES[0]
    pixels = (images().pixels[0, :, :height, :width].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    proposals = images().proposals[0].numpy() if model.needs_proposals else None
    return Look.at(pixels, model, AS_IT_IS, proposals=proposals, gradients=False)


def objects_of(look: Look) -> list[Object]:
    """What the detector finds, as if it were what is there."""
    found = found_by(look)
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    return [Object(found.names[row], tuple(found.boxes[row].tolist())) for row in np.flatnonzero((sides > 1).all(1))]


def found_by(look: Look) -> Detections:
    return look.model.decode(look.raw, [look.size_hw])[0]


def finds(found: Detections, each: Object) -> bool:
    alike = np.array(found.names) == each.name
    overlaps = pairwise_iou(found.boxes, np.array([each.box]))[:, 0]
    return bool((alike & (overlaps >= 0.5)).any())


def lost_by(look: Look, setting: str, value: object, objects: list[Object]) -> Fate | None:
    """The fate of an object that a tight setting loses by its own test: of the first of a few, each asked alone."""
    change_settings(look.model, {setting: value})
    left = found_by(look)
    for each in [each for each in objects if not finds(left, each)][:TRIED]:
        (fate,) = fates_of(look, [each], score=0.0, min_iou=0.5)
        if fate.test is not None and fate.test.setting == setting:
            return fate
    return None


TRIED = 6


def test_what_is_named_is_what_lost_it_and_brings_it_back(model: nn.Module) -> None:
    look, before = look_at(model), settings_of(model)
    objects = objects_of(look)[::-1]
    tight = {name: value for name, value in TIGHT.items() if name in before}
    lost = set()
    try:
        for setting, value in tight.items():
            fate = lost_by(look, setting, value, objects)
            if fate is not None:
                lost.add(setting)
                assert fate.stage != "found" and setting in fate.change
                assert settings_of(model)[setting] == value, "the settings stand again"
                assert not finds(found_by(look), fate.object)
                change_settings(model, {name: given for name, given in fate.change.items() if name != "score"})
                assert finds(found_by(look), fate.object), fate
            change_settings(model, before)
    finally:
        change_settings(model, before)
    idle = {"nms_threshold"} if model.selection.nms in ("none", "soft") else set()  # suppresses nothing there
    assert lost >= {*tight} - idle


def test_what_is_found_is_said_to_be_found_once(model: nn.Module) -> None:
    look = look_at(model)
    each = objects_of(look)[0]
    first, second = fates_of(look, [each, each], score=0.0, min_iou=0.5)
    assert first.stage == "found" and first.detection is not None and first.nearest.name == each.name
    assert second.stage != "found" or second.detection != first.detection


def test_where_nothing_lies_no_setting_helps(model: nn.Module) -> None:
    """A sliver of two pixels: no answer has a box like it."""
    (fate,) = fates_of(look_at(model), [Object("cat", (50.0, 0.0, 50.6, 64.0))], score=0.0, min_iou=0.9)
    assert fate.stage.rpartition(": ")[2] in ("box", "assignment") and not fate.change
    assert fate.iou is not None and fate.iou < 0.9 and fate.test.limit == pytest.approx(0.9)


@pytest.fixture(scope="module")
def fcos() -> nn.Module:
    return lively("fcos_shufflenet_v2_x0_5_fpn")


def answer_of(look: Look, row: int) -> tuple[Object, int, int]:
    """The object that an answer which passed describes, its level and the cell there."""
    outcome = outcome_of(look.answers())
    place, label = int(outcome.places[row]), int(outcome.labels[row])
    level = int(outcome.answers.levels[place])
    cell = place - int((outcome.answers.levels < level).sum())
    return Object(CLASSES.names[label], tuple(outcome.boxes[row].tolist())), level, cell


def edited(values: list[torch.Tensor], level: int, cell: int, channel: int, by: float) -> list[torch.Tensor]:
    changed = [each.clone() for each in values]
    changed[level][0, channel].view(-1)[cell] += by
    return changed


def test_an_edit_of_the_class_score_in_the_raw_outputs_brings_it_back(fcos: nn.Module) -> None:
    look = look_at(fcos)
    each, level, cell = answer_of(look, 0)
    label = CLASSES.names.index(each.name)
    lower = replace(look, raw=look.raw._replace(logits=[logits - 20 for logits in look.raw.logits]))
    (fate,) = fates_of(lower, [each], score=0.0, min_iou=0.5)
    assert fate.stage == "class score" and fate.test.setting == "score_threshold"
    raised = replace(lower, raw=lower.raw._replace(logits=edited(lower.raw.logits, level, cell, label, 20)))
    assert fates_of(raised, [each], score=0.0, min_iou=0.5)[0].stage == "found"


def test_an_edit_of_the_quality_in_the_raw_outputs_brings_it_back(fcos: nn.Module) -> None:
    look = look_at(fcos)
    each, level, cell = answer_of(look, 0)
    lower = replace(look, raw=look.raw._replace(quality=[quality - 20 for quality in look.raw.quality]))
    (fate,) = fates_of(lower, [each], score=0.4, min_iou=0.9)
    assert fate.stage == "centerness" and fate.test.name == "score" and fate.change["score"] < 0.4
    raised = replace(lower, raw=lower.raw._replace(quality=edited(lower.raw.quality, level, cell, 0, 40)))
    assert fates_of(raised, [each], score=0.4, min_iou=0.9)[0].stage == "found"


def test_a_low_class_score_is_to_blame_where_a_perfect_quality_would_not_help(fcos: nn.Module) -> None:
    look = look_at(fcos)
    each, _, _ = answer_of(look, 0)
    lower = replace(look, raw=look.raw._replace(logits=[logits * 0 - 2 for logits in look.raw.logits]))
    (fate,) = fates_of(lower, [each], score=0.9, min_iou=0.5)
    assert fate.stage == "class score" and fate.test.name == "score"


def test_a_centre_beside_a_higher_one_is_no_peak_until_it_is_the_highest() -> None:
    look = look_at(with_boxes("centernet_shufflenet_v2_x0_5_lite"))
    answers = look.answers()
    inside, peak = answers.gates[:2]
    assert (inside.name, peak.name) == ("inside", "peak")
    cell = int((inside.passed[:, 0] & ~peak.passed[:, 0]).nonzero()[0])
    each = Object("cat", tuple(answers.boxes[cell, 0].tolist()))
    (fate,) = fates_of(look, [each], score=0.0, min_iou=0.999)
    assert fate.stage == "peak" and fate.test.value < 0 and fate.change is None
    heatmap = look.raw[-1]["heatmap"].clone()
    heatmap[0, 0].view(-1)[cell] = heatmap.max() + 1
    raised = replace(look, raw=[{**look.raw[-1], "heatmap": heatmap}])
    assert fates_of(raised, [each], score=0.0, min_iou=0.999)[0].stage == "found"


def test_a_proposal_that_is_not_made_is_named_before_the_second_stage() -> None:
    model = lively("faster_rcnn_resnet18_fpn")
    look, before = look_at(model), settings_of(model)
    fate = lost_by(look, "proposer.test_proposals", (1, 1), objects_of(look))
    change_settings(model, before)
    assert fate.stage.startswith("proposals: ") and fate.nearest.name == "object"


def test_what_suppressed_it_is_named_with_their_overlap(fcos: nn.Module) -> None:
    look, before = look_at(fcos), settings_of(fcos)
    fate = lost_by(look, "nms_threshold", 0.0, objects_of(look))
    change_settings(fcos, before)
    overlap = pairwise_iou(np.array([fate.by.box]), np.array([fate.nearest.box]))[0, 0]
    assert fate.stage == "suppression" and fate.by.name == fate.object.name and fate.by.score >= fate.nearest.score
    assert fate.by.iou == pytest.approx(overlap, abs=0.01) and fate.test.value == fate.by.iou


def test_an_object_no_point_would_learn_says_so() -> None:
    """A sliver as long as the coarsest level and as thin as none of its cells."""
    model = lively("fcos_shufflenet_v2_x0_5_fpn")
    thin, wide = Object("cat", (1.0, 1.0, 2.0, 60.0)), Object("cat", (8.0, 8.0, 56.0, 56.0))
    none, some = fates_of(look_at(model), [thin, wide], score=0.0, min_iou=0.95)
    assert none.learns == 0 and none.stage == "assignment"
    assert some.learns > 0 and some.stage != "assignment"


@pytest.mark.parametrize("box", [(1.0, 2.0, 3.0), (5.0, 5.0, 5.0, 9.0), (0.0, 0.0, float("nan"), 4.0)])
def test_a_box_that_is_none_is_refused(box: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="x0 < x1"):
        Object("cat", box)


def test_a_class_that_is_none_is_refused(fcos: nn.Module) -> None:
    with pytest.raises(UsageError, match="cow"):
        fates_of(look_at(fcos), [Object("cow", (1.0, 1.0, 9.0, 9.0))], score=0.0, min_iou=0.5)
