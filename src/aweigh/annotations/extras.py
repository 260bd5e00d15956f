"""What objects may have beside boxes, in the words of a detector's `extras`: masks, keypoints, cuboids."""

from collections.abc import Sequence

from aweigh.annotations.masks import NONE
from aweigh.annotations.split import Split


def annotated(split: Split, extra: str) -> bool:
    """Whether any object of the split has it."""
    if extra == "masks":
        return split.masks is not None and bool((split.masks.kinds != NONE).any())
    if extra == "keypoints":
        return split.keypoints is not None and bool((split.keypoints[:, :, 2] > 0).any())
    return split.cuboids is not None


def same_keypoints(names: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two lists stand for the same keypoints; where one is numbered for want of names, their number says it."""
    numbered = [str(number) for number in range(len(names))]
    return len(names) == len(other) and (list(names) == list(other) or numbered in (list(names), list(other)))
