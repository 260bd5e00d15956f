"""All that a network says of one image, before anything is chosen, and what an answer has to pass to be a detection.

`select` of a detector looks into the best answers of a batch alone, and fast. Its `answers` name all of one image, with
the parts of each score and each test on the way, in the order of `select`: `aweigh.explanation` reads from them where
a detection comes from, and where an object was lost. That both say the same is tested for every form.

Legend: A places (points, anchors, cells, regions, pairs of corners), C classes; an answer is a place and a class.
Where `[A, 1 | C]` stands, one value may serve all classes of a place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from aweigh.geometry.boxes import Suppression

Rule = Literal["product", "root", "mean"]
"""How the parts make the score: their product, the square root of it, or their mean."""

COMPARED = {">": torch.gt, ">=": torch.ge, "<=": torch.le}


class Gate(NamedTuple):
    """A test: `values` have to be above (or below) `limit`, which a setting of the selection says where one is named.

    A rank counts from 1, the best, among the answers that passed all gates before; infinity for the others.
    """

    name: str
    values: Tensor  # [A, 1 | C]
    test: Literal[">", ">=", "<="]
    limit: float
    setting: str = ""

    @property
    def passed(self) -> Tensor:
        """`[A, 1 | C]` bool; no number passes nothing."""
        return COMPARED[self.test](self.values, self.limit)


@dataclass(frozen=True, eq=False)
class Answers:
    """All answers to one image, in the pixels that the network sees.

    kind: what a place is. places: `[A, 2]` (x, y) or `[A, 4]` xyxy. boxes: `[A, 1 | C, 4]` xyxy inside the image.
    labels: `[1, C]` or `[A, 1]`. parts: of the score, by name, `[A, 1 | C]` each. levels: `[A]`, which of `level_names`
    a place is on. suppression: what is done with those that pass all gates; sigma: of soft suppression. part: whose
    settings these are, as "proposer"; limit_setting: which of them says how many are kept. before: of a detector with
    two stages the answers by which these places were chosen, in their order.
    """

    kind: str
    places: Tensor
    boxes: Tensor
    labels: Tensor
    parts: Mapping[str, Tensor]
    rule: Rule
    levels: Tensor
    level_names: Sequence[str]
    gates: Sequence[Gate]
    suppression: Suppression
    sigma: float = 0.5
    part: str = ""
    limit_setting: str = "max_detections"
    before: Answers | None = None

    @property
    def scores(self) -> Tensor:
        """`[A, C]`."""
        return combined(self.parts, self.rule)

    def setting(self, name: str) -> str:
        """A setting by the name that `--set` takes."""
        return f"{self.part}.{name}" if self.part and name else name


def combined(parts: Mapping[str, Tensor], rule: Rule) -> Tensor:
    """The score that parts make, whose shapes are equal or go together."""
    values = [*parts.values()]
    if rule == "mean":
        return reduce(torch.add, values) / len(values)
    product = reduce(torch.mul, values)
    return product.sqrt() if rule == "root" else product


class Gates:
    """Gates in their order, while they are put up. passed: `[A, C]` bool, what has come through all of them so far."""

    def __init__(self, shape: Sequence[int], device: torch.device) -> None:
        self.all: list[Gate] = []
        self.passed = torch.ones(*shape, dtype=torch.bool, device=device)

    def add(self, name: str, values: Tensor, test: Literal[">", ">=", "<="], limit: float, setting: str = "") -> None:
        self.all.append(Gate(name, values.detach().float(), test, limit, setting))
        self.passed = self.passed & self.all[-1].passed

    def add_best(self, name: str, scores: Tensor, groups: Tensor | None, count: int, setting: str) -> None:
        """The best `count` of each group; scores `[A, C]`, groups `[A]`, or None for one of all."""
        self.add(name, ranks(scores.detach(), self.passed, groups), "<=", count, setting)


def joined_gates(parts: Sequence[Gates]) -> Gates:
    """Gates of the same names and limits, of several parts of the places, one part behind the other."""
    whole = Gates((0, 1), parts[0].passed.device)
    whole.all = [
        gates[0]._replace(values=torch.cat([gate.values for gate in gates]))
        for gates in zip(*(part.all for part in parts), strict=True)
    ]
    whole.passed = torch.cat([part.passed for part in parts])
    return whole


def ranks(scores: Tensor, there: Tensor, groups: Tensor | None = None) -> Tensor:
    """From 1, the best: the rank of each of `[A, C]` that is there in its group, the place's `[A]`; infinity else."""
    rows, values = there.nonzero()[:, 0], scores[there]
    order = values.argsort(descending=True, stable=True)
    group = torch.zeros_like(rows) if groups is None else groups[rows]
    order = order[group[order].argsort(stable=True)]  # by group, in it the best first
    ordered = group[order]
    position = torch.arange(1, len(order) + 1, device=scores.device) - torch.searchsorted(ordered, ordered)
    rank = torch.empty_like(values).index_copy(0, order, position.to(values.dtype))
    return torch.full_like(scores, torch.inf).masked_scatter(there, rank)


def level_numbers(levels: Sequence[Tensor]) -> Tensor:
    """The number of its level for each place `[A]`, of what each level has: `[H*W*K, ...]`."""
    return torch.cat([torch.full_like(level[:, 0], i, dtype=torch.int64) for i, level in enumerate(levels)])


def dense_answers(
    kind: str,
    places: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    parts: Mapping[str, Tensor],
    rule: Rule,
    selection: Suppression,
    *,
    threshold: float,
    tested: str = "class",
    most: int,
    setting: str,
) -> Answers:
    """Of a detector that says something of each place of its maps.

    places: of each level. boxes: `[A, 4]` inside the image. threshold: of the part `tested`, or of the "score". most:
    how many of each level are looked into, as `setting` says; those of all levels together where there is one number
    for the image.
    """
    levels = level_numbers(places)
    scores = combined(parts, rule)
    gates = Gates(scores.shape, scores.device)
    gates.add("class score" if tested == "class" else "score", parts.get(tested, scores), ">", threshold, SCORE)
    gates.add_best("rank among candidates", scores, levels if setting == PER_LEVEL else None, most, setting)
    return Answers(
        kind, torch.cat(list(places)), boxes[:, None], every_class(scores), parts, rule, levels, stride_names(strides),
        gates.all, selection,
    )  # fmt: skip


def proposal_answers(
    kind: str,
    places: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    parts: Mapping[str, Tensor],
    rule: Rule,
    *,
    proposals: tuple[int, int],
    nms_threshold: float,
    least: float,
    smallest_side: float,
) -> Answers:
    """Of a network that proposes regions, its levels taking the place of classes: the best of each level, as many as
    `proposals` says first, then those of a score of `least` or more and with sides of `smallest_side` or more."""
    levels, scores = level_numbers(places), combined(parts, rule)
    gates = Gates(scores.shape, scores.device)
    gates.add_best("rank among candidates", scores, levels, proposals[0], "test_proposals")
    gates.add("objectness", scores, ">=", least, SCORE if least else "")
    gates.add("size", shorter_sides(boxes)[:, None], ">=", smallest_side)
    return Answers(
        kind, torch.cat(list(places)), boxes[:, None], levels[:, None], parts, rule, levels, stride_names(strides),
        gates.all, Limited("class", nms_threshold, proposals[1]), part="proposer", limit_setting="test_proposals",
    )  # fmt: skip


@dataclass(frozen=True)
class Limited:
    """A `Suppression` of other numbers than those of a detector's selection."""

    nms: Literal["class"]
    nms_threshold: float
    max_detections: int


SCORE, PER_LEVEL = "score_threshold", "candidates_per_level"


def every_class(scores: Tensor) -> Tensor:
    """The labels `[1, C]` of scores `[A, C]`."""
    return torch.arange(scores.shape[1], device=scores.device)[None]


def stride_names(strides: Sequence[int]) -> list[str]:
    return [f"stride {stride}" for stride in strides]


def shorter_sides(boxes: Tensor) -> Tensor:
    """The shorter of width and height of boxes `[..., 4]`: `[...]`."""
    return (boxes[..., 2:] - boxes[..., :2]).amin(dim=-1)
