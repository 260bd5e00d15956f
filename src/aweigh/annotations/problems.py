"""What is wrong with annotations: found without stopping, named by file and annotation, told in a few lines.

`clean_boxes` is the one rule by which boxes are kept, clipped or dropped; every reader uses it. `suspicions` looks at
a whole split for the usual mix-ups. `report_lines` puts it all into one line per kind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aweigh.errors import DataError, counted, printable

KEPT, DROPPED, CLIPPED, SKIPPED, CHANGED = "kept", "dropped", "clipped", "image skipped", "changed"
UNLEARNED = "not trained on"  # it has a size, so COCO's protocol still counts it as an object to be found

SMALLEST_SIDE = 1 - 1e-6  # pixels: a thinner box is no object that a detector could learn
OVERHANG_NOTED = 0.01  # pixels: below it an overhang is the rounding of two decimals; it is clipped without a word
EXCHANGED = "corners exchanged"
NO_PLACE = "box not finite"  # nobody can say where in its image such an object is
MIXED_UP_FROM = 0.05  # the share of boxes beyond the image from which a mix-up of formats is suspected


@dataclass(frozen=True)
class Problem:
    """One bad record. where: the file. annotation: its id, or a mark such as `"line 3"`; None for the whole file.

    action: what was done about it; `"kept"` marks a remark about a record that was left as it is. box: that of the
    record, xyxy in pixels of its image as read, where there is one.
    """

    kind: str
    where: str
    annotation: int | str | None
    detail: str
    action: str
    box: tuple[float, float, float, float] | None = None

    @property
    def place(self) -> str:
        """The file and which of its annotations: "a.jpg annotation 7", "a.txt line 3"."""
        which = self.annotation if isinstance(self.annotation, str) else f"annotation {self.annotation}"
        return self.where if self.annotation is None else f"{self.where} {which}"

    def __str__(self) -> str:
        return printable(f"{self.place}: {self.kind}, {self.detail}; {self.action}")


def refuse_too_many(skipped: Sequence[Problem], total: int, max_bad: float) -> None:
    """`DataError` where more than one of so many images and more than this share was skipped; any where it is 0."""
    if len(skipped) > (max(1, max_bad * total) if max_bad else 0):
        shown = "; ".join(f"{problem.where}: {problem.detail}" for problem in skipped[:3])
        raise DataError(
            f"{len(skipped)} of {counted(total, 'image')} cannot be read, more than the {max_bad:.0%} that is let "
            f"pass: {shown}{'; ...' if len(skipped) > 3 else ''}. Mend or remove them."
        )


def report_lines(problems: Sequence[Problem], title: str = "", *, examples: int = 3) -> str:
    """One line per kind of problem with its count and the first examples by name; empty when there is none."""
    if not problems:
        return ""
    groups = by_kind_and_action(problems)
    lines = [f"{title}{' and '.join(tally(problems))} in the annotations"]
    for (kind, action), group in sorted(groups.items(), key=lambda item: (item[0][1] == KEPT, -len(item[1]))):
        shown = "; ".join(printable(f"{one.place}: {one.detail}") for one in group[:examples])
        more = f"; and {len(group) - examples} more" if len(group) > examples else ""
        lines.append(f"  {kind}: {done(len(group), action)} ({shown}{more})")
    return "\n".join(lines)


def by_kind_and_action(problems: Sequence[Problem]) -> dict[tuple[str, str], list[Problem]]:
    """Problems of one kind about which the same was done together, in the order in which they first appear."""
    groups: dict[tuple[str, str], list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[problem.kind, problem.action].append(problem)
    return groups


def tally(problems: Sequence[Problem]) -> list[str]:
    """How many records were not used as they are, and how many were remarked upon: "3 problems", "1 remark"."""
    remarks = sum(problem.action == KEPT for problem in problems)
    mended = len(problems) - remarks
    return [counted(mended, "problem")] * bool(mended) + [counted(remarks, "remark")] * bool(remarks)


def done(count: int, action: str) -> str:
    """What was done how often: "3 dropped", "13 images skipped"."""
    return f"{counted(count, 'image')} skipped" if action == SKIPPED else f"{count:,} {action}"


def clean_boxes(
    boxes: np.ndarray, sizes_hw: np.ndarray, seen: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, str, str]]]:
    """Which boxes can be used, and as what.

    boxes: `[M, 4]` float64 xyxy in pixels, as read. sizes_hw: `[M, 2]`, the size of the image of each. A box whose
    corners are exchanged, right for left or bottom for top, is the box between them. seen: `[M, 4]`, of boxes round an
    outline the box round what the image shows of it, NaN for the others.
    Returns the boxes clipped to their images `[M, 4]`, which of them are good `[M]` bool, and
    `(row, kind, action)` for each that is not good, was clipped or was mended, in row order.
    """
    finite = np.isfinite(boxes).all(axis=1)
    safe, exchanged = in_order(np.where(finite[:, None], boxes, 0.0))
    sides = safe[:, 2:] - safe[:, :2]
    limits = np.tile(sizes_hw[:, ::-1].astype(np.float64), 2)  # [M, 4]: width, height, width, height
    clipped = np.clip(safe, 0.0, limits)
    if seen is not None:
        clipped = np.where(np.isfinite(seen), seen, clipped)
    left = clipped[:, 2:] - clipped[:, :2]
    overhang = np.abs(clipped - safe).max(axis=1, initial=0.0)
    # Corners that were once kept in 32 bits lie half a step of these beside their place, so a side may lack a step.
    step = np.spacing(np.float32(clipped.max(axis=1, initial=1.0, keepdims=True)))  # [M, 1]

    kinds = np.full(len(boxes), "", dtype=object)
    kinds[overhang > OVERHANG_NOTED] = "box over the edge"
    kinds[(left < SMALLEST_SIDE - step).any(axis=1)] = "box under one pixel"
    kinds[(left <= 0).any(axis=1)] = "box outside the image"
    kinds[(sides == 0).any(axis=1)] = "zero-size box"
    kinds[~finite] = NO_PLACE
    good = (kinds == "") | (kinds == "box over the edge")
    actions = np.where(good, CLIPPED, np.where(finite & (sides > 0).all(axis=1), UNLEARNED, DROPPED))
    found = [(int(row), EXCHANGED, CHANGED) for row in np.flatnonzero(exchanged & finite)]
    found += [(int(row), str(kinds[row]), str(actions[row])) for row in np.flatnonzero(kinds != "")]
    return clipped, good, sorted(found, key=lambda one: one[0])


def in_order(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The boxes `[M, 4]` with their left top corner first, and which had other corners first `[M]` bool."""
    low, high = boxes[:, :2], boxes[:, 2:]
    exchanged = np.asarray((low > high).any(axis=1))
    return np.hstack([np.minimum(low, high), np.maximum(low, high)]), exchanged


def suspicions(boxes_xywh: np.ndarray, sizes_hw: np.ndarray, where: str) -> list[Problem]:
    """Mix-ups that show only over many boxes: corners stored as sizes, and fractions where pixels belong.

    boxes_xywh: `[M, 4]` float64 as read from a file that promises pixels; sizes_hw: `[M, 2]`.
    """
    finite = np.isfinite(boxes_xywh).all(axis=1)
    corner, second, limits = boxes_xywh[finite, :2], boxes_xywh[finite, 2:], sizes_hw[finite, ::-1]
    if len(corner) == 0:
        return []
    beyond = float((corner + second > limits + 1).any(axis=1).mean())
    corners_fit = float(((second > corner) & (second <= limits + 1)).all(axis=1).mean())
    found = []
    if beyond > MIXED_UP_FROM and corners_fit > 0.95:
        detail = (
            f"{beyond:.0%} of the boxes reach beyond their image as (x, y, width, height), as corners nearly all fit"
        )
        found.append(Problem("looks like corners (x0, y0, x1, y1) stored as sizes", where, None, detail, KEPT))
    fractions = float((np.abs(boxes_xywh[finite]) <= 1).all(axis=1).mean())
    if fractions > 0.5 and limits.max() > 2:
        detail = f"{fractions:.0%} of the boxes lie within one pixel of the corner; the format wants pixels"
        found.append(Problem("looks like fractions of the image instead of pixels", where, None, detail, KEPT))
    return found
