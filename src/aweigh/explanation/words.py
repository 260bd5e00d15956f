"""Explanations as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aweigh.errors import counted, printable, some_of
from aweigh.explanation.answer import Answer, Explanation, Overlap, Test
from aweigh.explanation.look import Look
from aweigh.explanation.why_not import ASSIGNMENT, BOX, FOUND, Fate

RULES = {"product": " x ", "root": " x ", "mean": " + "}
MOST_NAMED = 3  # suppressed answers


def lines_of_explanations(look: Look, found: Sequence[Explanation], detections: int, score: float) -> Iterator[str]:
    """detections: how many there are of at least this score."""
    yield f"{printable(look.title)}: {counted(detections, 'detection')} of score {score:g} or more"
    for each in found:
        yield ""
        yield f"#{each.number} {printable(each.name)} {each.score:.3f}, box {_box(each.answer.box)}"
        yield from (f"  {line}" for line in _lines(each))


def _lines(each: Explanation) -> Iterator[str]:
    yield f"from {_place(each.answer)}"
    yield f"score {_score(each.answer)}"
    if abs(each.score - each.answer.score) > 1e-6:
        yield f"lowered to {each.score:.3f} by better ones beside it"
    if each.answer.others:
        others = [f"{printable(name)} {score:.3f}" for name, score in each.answer.others]
        yield f"other classes there: {', '.join(others)}"
    yield f"passed: {'; '.join(_test(test) for test in each.tests)}"
    if each.suppressed:
        named = [f"{printable(other.name)} {other.score:.3f} (IoU {other.iou:.2f})" for other in each.suppressed]
        yield f"suppressed {counted(len(named), 'answer')}: {some_of(named, MOST_NAMED)}"
    if each.region is not None:
        yield f"its region, proposal {each.region.number}, box {_box(each.region.answer.box)}:"
        yield from (f"  {line}" for line in _lines(each.region))


def lines_of_fates(look: Look, fates: Sequence[Fate], score: float) -> Iterator[str]:
    found = sum(fate.stage == FOUND for fate in fates)
    yield f"{printable(look.title)}: {found} of {counted(len(fates), 'object')} found with a score of {score:g} or more"
    for fate in fates:
        yield ""
        yield f"{printable(fate.object.name)}, box {_box(fate.object.box)}: {_verdict(fate)}"
        yield from (f"  {line}" for line in _lines_of_fate(fate))


def _verdict(fate: Fate) -> str:
    assert fate.nearest is not None
    if fate.stage == FOUND:
        return f"found, #{fate.detection} of score {fate.nearest.score:.3f}, IoU {fate.iou:.2f}"
    return f"not found; lost at: {fate.stage}"


def _lines_of_fate(fate: Fate) -> Iterator[str]:
    assert fate.nearest is not None
    if fate.stage == FOUND:
        yield f"from {_place(fate.nearest)}"
        return
    if fate.stage == ASSIGNMENT:
        yield "no point of any level would learn it: its size or its place falls between them"
    elif fate.learns is not None:
        yield f"learned, in training, by {fate.learns} of the points or anchors"
    nowhere = fate.stage in (ASSIGNMENT, BOX, f"proposals: {BOX}")
    what = "the nearest answer" if nowhere else "what came nearest"
    yield f"{what}: {printable(fate.nearest.name)}, box {_box(fate.nearest.box)}, IoU {fate.iou:.2f} with the object"
    yield f"from {_place(fate.nearest)}"
    yield f"its score {_score(fate.nearest)}"
    if fate.nearest.others and fate.nearest.others[0][1] > fate.nearest.score:
        name, score = fate.nearest.others[0]
        yield f"the class that won there: {printable(name)} {score:.3f}"
    if fate.test is not None:
        yield f"failed: {_test(fate.test)}"
    if fate.by is not None:
        yield f"behind {_overlap(fate.by)}"
    if fate.instead is not None:
        yield f"found there instead: {_overlap(fate.instead)}"
    if fate.change:
        yield f"brought back by {' '.join(_flag(name, value) for name, value in fate.change.items())}"
    else:
        yield "no setting brings it back: it is the network that has to answer otherwise"


def _overlap(other: Overlap) -> str:
    return f"{printable(other.name)} {other.score:.3f}, box {_box(other.box)}, IoU {other.iou:.2f}"


def _place(answer: Answer) -> str:
    return f"the {answer.kind} at {_box(answer.place)}, {answer.level}"


def _score(answer: Answer) -> str:
    """As `0.71 = root of class 0.6 x centerness 0.84`."""
    parts = RULES[answer.rule].join(f"{name} {value:.3f}" for name, value in answer.parts.items())
    word = {"product": "", "root": "root of ", "mean": "mean of "}[answer.rule]
    return f"{answer.score:.3f} = {word}{parts}"


def _test(test: Test) -> str:
    named = f" ({test.setting})" if test.setting else ""
    return f"{test.name} {test.value:.4g} {test.test} {test.limit:.4g}{named}"


def _flag(name: str, value: object) -> str:
    return f"--score {value}" if name == "score" else f"--set {name}={value}".replace(", ", ",")


def _box(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in values)
