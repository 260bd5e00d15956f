"""Where detections come from: the numbers are the detector's own, and evidence is what an edit of the image does."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.contract.lively import CLASSES, images, lively

import aweigh
from aweigh.arguments import change_settings
from aweigh.errors import UsageError
from aweigh.explanation.evidence import SQUARE, evidence_for
from aweigh.explanation.explain import Explainer
from aweigh.explanation.look import Look
from aweigh.explanation.outcome import outcome_of
from aweigh.images.resize import Resize
from aweigh.scenes import STREET

AS_IT_IS = Resize(None, None)


@pytest.fixture(scope="module")
def box() -> Explainer:
    return Explainer.load("box")


@pytest.fixture(scope="module")
def street(box: Explainer) -> "aweigh.explanation.explain.Explanations":
    return box.explain(STREET, score=0.3)


def pixels() -> np.ndarray:
    return (images().pixels[0, :, :64, :96].permute(1, 2, 0).numpy() * 255).astype(np.uint8)


def test_numbers_and_boxes_are_those_of_a_prediction(street) -> None:
    found = aweigh.load("box", runtime="torch", precision="float32")(STREET, score=0.3)
    assert [each.name for each in street] == found.names and len(street) > 1
    assert [each.number for each in street] == list(range(1, len(found) + 1))
    np.testing.assert_allclose([each.score for each in street], found.scores, atol=1e-4)
    np.testing.assert_allclose([each.answer.box for each in street], found.boxes, atol=0.2)


def test_the_parts_make_the_score_and_every_test_is_passed(street) -> None:
    tested = {">": lambda value, limit: value > limit, "<=": lambda value, limit: value <= limit}
    for each in street:
        assert each.score == pytest.approx(each.answer.parts["class"] ** 0.5, abs=1e-6) and each.answer.rule == "root"
        assert [test.setting for test in each.tests] == ["score_threshold", "candidates_per_image"]
        assert all(tested[test.test](test.value, test.limit) for test in each.tests)
        assert all(
            other.iou > 0.6 and other.score <= each.score and other.name == each.name for other in each.suppressed
        )
        x, y = each.answer.place
        assert each.answer.box[0] < x < each.answer.box[2] and each.answer.box[1] < y < each.answer.box[3]


def test_the_root_of_class_and_centreness_is_the_score() -> None:
    (first, *_) = Explainer(lively("fcos_shufflenet_v2_x0_5_fpn"), AS_IT_IS).explain(
        pixels(), score=0.0, evidence=False
    )
    parts = first.answer.parts
    assert first.score == pytest.approx((parts["class"] * parts["centerness"]) ** 0.5, abs=1e-6)


def test_of_two_stages_the_region_is_explained_too() -> None:
    model = lively("faster_rcnn_resnet18_fpn")
    found = Explainer(model, AS_IT_IS).explain(pixels(), score=0.0, evidence=False)
    look = found.look
    proposals, scores, _ = model.propose(look.raw, torch.tensor([look.size_hw]))
    for each in found:
        np.testing.assert_allclose(each.region.answer.box, proposals[0, each.region.number - 1], atol=0.02)
        assert each.region.score == pytest.approx(float(scores[0, each.region.number - 1]), abs=1e-6)
        assert each.region.answer.kind == "anchor" and each.region.answer.name == "object"
        assert each.answer.place == each.region.answer.box, "the region is where the second stage looks"


def test_of_corners_the_mean_is_the_score_which_neighbours_have_lowered() -> None:
    found = Explainer(lively("cornernet_shufflenet_v2_x0_5_lite"), AS_IT_IS).explain(
        pixels(), score=0.0, evidence=False
    )
    for each in found:
        parts = each.answer.parts
        assert [*parts] == ["top left", "bottom right"]
        assert each.answer.score == pytest.approx(sum(parts.values()) / 2, abs=1e-6)
    assert any(each.score < each.answer.score - 1e-3 for each in found) and "lowered to" in found.text()


def test_evidence_is_what_a_little_of_the_mean_colour_takes_from_the_score() -> None:
    """Each square in turn is moved a little towards the mean."""
    model = lively("fcos_shufflenet_v2_x0_5_fpn")
    look = Look.at(pixels(), model, AS_IT_IS)
    answers = look.answers()
    outcome = outcome_of(answers)
    at = int(outcome.places[outcome.kept[0]]), int(outcome.columns[outcome.kept[0]])
    evidence = evidence_for(look, answers.scores[at])
    assert evidence.shape == (4, 6)
    step, colour, surest = 3e-3, model.pixel_mean.view(1, -1, 1, 1), np.abs(evidence).argsort(axis=None)[-4:]
    with torch.no_grad():
        for row, column in zip(*np.unravel_index(surest, evidence.shape), strict=True):
            square = (..., *(slice(SQUARE * i, SQUARE * (i + 1)) for i in (row, column)))
            scores = []
            for share in (-step, step):
                moved = look.seen.clone()
                moved[square] += share * (colour - moved[square])
                scores.append(float(replace(look, raw=model.network(moved)).answers().scores[at]))
            fallen = (scores[0] - scores[1]) / (2 * step)
            assert fallen == pytest.approx(float(evidence[row, column]), rel=0.1)


def test_evidence_lies_on_the_object(street) -> None:
    """Of what holds up the surest detection, more lies in its box than its share of the image."""
    first, (height, width) = street[0], street.look.pixels.shape[:2]
    x0, y0, x1, y1 = first.answer.box
    held = first.evidence.clip(min=0)
    y, x = ((np.arange(side) + 0.5) / side * whole for side, whole in zip(held.shape, (height, width), strict=True))
    inside = ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))
    assert held[inside].sum() / held.sum() > 3 * (x1 - x0) * (y1 - y0) / (height * width)


def test_text_json_and_drawing_say_the_same(street) -> None:
    text, told = street.text(), json.loads(street.to_json())
    assert len(told["detections"]) == len(street) and told["model"] == "fcos_shufflenet_v2_x1_0_lite"
    for each, entry in zip(street, told["detections"], strict=True):
        assert f"#{each.number} {each.name} {each.score:.3f}" in text and entry["score"] == each.score
        assert entry["answer"]["place"] == list(each.answer.place) and "evidence" not in entry
    drawn = street.draw()
    assert isinstance(drawn, Image.Image) and len(drawn.getcolors(1 << 24)) > 1000


def test_nothing_found_is_said_and_drawn(box: Explainer) -> None:
    nothing = box.explain(np.zeros((40, 60, 3), np.uint8), score=0.9)
    assert len(nothing) == 0 and nothing.text() == "the image, 60 x 40 px: 0 detections of score 0.9 or more"
    assert nothing.draw().size == (60, 40) and json.loads(nothing.to_json())["detections"] == []


def test_one_alone_by_its_number(box: Explainer, street) -> None:
    (second,) = box.explain(STREET, score=0.3, box=2, evidence=False)
    assert (second.number, second.name, second.evidence) == (2, street[1].name, None)
    with pytest.raises(UsageError, match=r"no box 99: .* detection"):
        box.explain(STREET, box=99)


def test_settings_count(box: Explainer, street) -> None:
    change_settings(box.model, {"max_detections": 1})
    assert len(box.explain(STREET, score=0.3, evidence=False)) == 1
    change_settings(box.model, {"max_detections": 100})


def test_a_graph_and_what_is_no_detector_are_refused() -> None:
    with pytest.raises(UsageError, match="keeps no answers"):
        aweigh.explain(STREET, "model.onnx")
    with pytest.raises(UsageError, match="needs a detector"):
        Explainer("box", AS_IT_IS)
    with pytest.raises(UsageError, match="needs proposals"):
        Explainer(lively("fast_rcnn_resnet18_fpn"), AS_IT_IS).explain(pixels())
    assert len(CLASSES) == 3


def test_why_not_from_python(street) -> None:
    first = street[0]
    fates = aweigh.why_not(STREET, [(first.name, first.answer.box), ("zebra", (2, 2, 60, 60))], score=0.3)
    assert fates[0].stage == "found" and fates[0].detection == 1 and fates[1].stage != "found"
    assert "1 of 2 objects found" in fates.text() and f"lost at: {fates[1].stage}" in fates.text()
    told = json.loads(fates.to_json())["objects"]
    assert [entry["stage"] for entry in told] == [fate.stage for fate in fates]
    assert fates.draw().width > 100
