"""The names of labels, `Classes`, and of the keypoints of an object, `KeypointSet`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

from aweigh.arguments import Made
from aweigh.errors import DataError, UsageError, counted, did_you_mean


@dataclass(frozen=True)
class Classes:
    """The class names in label order, and the category id each had in its data set (restored in every output)."""

    names: tuple[str, ...]
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.ids):
            raise DataError(
                f"Classes: {counted(len(self.names), 'name')} but {counted(len(self.ids), 'id')}; there must be one "
                "id per name."
            )
        for what, values in (("name", self.names), ("id", self.ids)):
            twice = sorted({str(value) for value in values if values.count(value) > 1})
            if twice:
                raise DataError(f"Classes: the {what} {twice[0]!r} stands for more than one class; make them distinct.")

    @classmethod
    def from_names(cls, names: Sequence[str]) -> Classes:
        """Classes with ids `0..C-1`."""
        return cls(tuple(names), tuple(range(len(names))))

    @classmethod
    def numbered(cls, count: int) -> Classes:
        """`count` classes named `"0"`, `"1"`, ... for models built without data."""
        return cls.from_names([str(label) for label in range(count)])

    def __len__(self) -> int:
        return len(self.names)

    def label(self, name: str) -> int:
        """The label of a class name; `UsageError` with the nearest name when there is no such class."""
        if name not in self.names:
            raise UsageError(
                f"There is no class {name!r} among {', '.join(self.names)}.{did_you_mean(name, self.names)}"
            )
        return self.names.index(name)


UNIFORM_SIGMA = 0.05  # ours, because it is near the middle of COCO's 0.025 (eye) to 0.107 (hip)
Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class KeypointSet:
    """What is known of the K keypoints of an object, in their order.

    names: distinct. joints: pairs of rows between which a line is drawn. flip_pairs: pairs of rows that change places
    when the image is mirrored, each row in one pair at most. sigmas: how loosely each is placed, as a share of the
    object's size (COCO's object keypoint similarity); when not given, COCO's for its 17 names, else `UNIFORM_SIGMA`.
    """

    names: tuple[str, ...]
    joints: Pairs = ()
    flip_pairs: Pairs = ()
    sigmas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) < len(self.names):
            raise DataError(f"KeypointSet: the names must be distinct, one at least; got {list(self.names)}.")
        if not self.sigmas:
            own = PERSON_SIGMAS if self.names == PERSON_KEYPOINTS else (UNIFORM_SIGMA,) * len(self.names)
            object.__setattr__(self, "sigmas", own)
        if len(self.sigmas) != len(self.names) or not all(0 < sigma < math.inf for sigma in self.sigmas):
            raise DataError(
                f"KeypointSet: expected {counted(len(self.names), 'sigma')} above 0, one for each keypoint, got "
                f"{list(self.sigmas)}."
            )
        rows = range(len(self.names))
        for what, pairs in (("joint", self.joints), ("flip pair", self.flip_pairs)):
            for pair in pairs:
                if len(pair) != 2 or pair[0] == pair[1] or not {*pair} <= {*rows}:
                    raise DataError(f"KeypointSet: the {what} {list(pair)} must be two rows of 0 to {rows[-1]}.")
        flipped = [row for pair in self.flip_pairs for row in pair]
        if len(set(flipped)) < len(flipped):
            raise DataError(f"KeypointSet: a keypoint has two counterparts in the flip pairs {list(self.flip_pairs)}.")

    @classmethod
    def coco_person(cls) -> KeypointSet:
        """The 17 keypoints of COCO's persons, with its skeleton and sigmas."""
        return cls(PERSON_KEYPOINTS, PERSON_JOINTS, PERSON_FLIP_PAIRS)

    @classmethod
    def of(cls, given: Keypoints) -> KeypointSet:
        """One as it is, or from what `to_dict` made of it; COCO's 17 of a person for None."""
        if given is None:
            return cls.coco_person()
        if isinstance(given, KeypointSet):
            return given
        known = [entry.name for entry in fields(cls)]
        if not isinstance(given, Mapping) or "names" not in given or not {*given} <= {*known}:
            got = ", ".join(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
            raise DataError(f"A KeypointSet needs {', '.join(known)}, of which only names must be there; got {got}.")
        try:
            return cls(
                names=tuple(str(name) for name in given["names"]),
                joints=tuple((int(first), int(second)) for first, second in given.get("joints", ())),
                flip_pairs=tuple((int(first), int(second)) for first, second in given.get("flip_pairs", ())),
                sigmas=tuple(float(sigma) for sigma in given.get("sigmas", ())),
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"KeypointSet: pairs are two rows each and sigmas are numbers; {error}.") from error

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "names": list(self.names),
            "joints": [list(pair) for pair in self.joints],
            "flip_pairs": [list(pair) for pair in self.flip_pairs],
            "sigmas": list(self.sigmas),
        }

    def __len__(self) -> int:
        return len(self.names)


Keypoints = KeypointSet | Mapping[str, Any] | None  # what a builder's `keypoints` may be, see `KeypointSet.of`
GivenKeypoints = Annotated[Keypoints, Made(KeypointSet.of, "a KeypointSet, or an object with its names")]

PERSON_KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
PERSON_JOINTS: Pairs = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8),
    (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip
PERSON_FLIP_PAIRS: Pairs = ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16))
PERSON_SIGMAS = (  # cocoeval.py, Params.setKpParams
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
    0.089,
)  # fmt: skip
