"""Left and right: the classes and keypoints that change places when an image is mirrored, found by their names.

A mirrored left hand looks like a right hand. Where the names tell which is which ("left_hand" and "right_hand"), a flip
exchanges the two labels, so that the image and its annotations stay true. Pairs that the names do not tell can be
given, and found ones can be refused.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aweigh.errors import UsageError, did_you_mean

SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}
GLUED = re.compile(r"^(left|right)(?=.)|(?<=.)(left|right)$")  # "lefteye", "eyeright"
GLUED_LETTER = re.compile(r"^[lr](?=.{3})")  # "lshoulder"; in keypoint names alone: a "lamp" is no left "ramp"

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class FlipPairs:
    """Indices that change places in a flip, each pair once: of classes and of keypoints."""

    classes: Pairs = ()
    keypoints: Pairs = ()


def flip_pairs(
    given: Sequence[str] = (), class_names: Sequence[str] = (), keypoint_names: Sequence[str] = ()
) -> FlipPairs:
    """The pairs that a flip exchanges.

    given: entries as "left_hand=right_hand", of classes or of keypoints, which take the place of what is found by name;
    ("none",) is no pair at all; empty finds them by name.
    """
    if not given:
        return FlipPairs(find_pairs(class_names), find_pairs(keypoint_names, keypoints=True))
    if [entry.strip() for entry in given] == ["none"]:
        return FlipPairs()
    found: dict[str, list[tuple[int, int]]] = {"class": [], "keypoint": []}
    used: set[str] = set()
    for entry in given:
        first, second = _both_names(entry, class_names, keypoint_names)
        twice = sorted({first, second} & used) or [first] * (first == second)
        if twice:
            raise UsageError(
                f"flip_pairs: {twice[0]!r} has two counterparts or is its own; a name has one counterpart."
            )
        used |= {first, second}
        for kind, names in (("class", class_names), ("keypoint", keypoint_names)):
            if first in names and second in names:
                found[kind].append((names.index(first), names.index(second)))
    return FlipPairs(tuple(found["class"]), tuple(found["keypoint"]))


def find_pairs(names: Sequence[str], *, keypoints: bool = False) -> Pairs:
    """Index pairs of names that differ by left and right alone: "left_eye" and "right_eye", "LHand" and "RHand".

    keypoints: they are names of keypoints, in which a leading l or r counts as well: "lshoulder" and "rshoulder".
    """
    places: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        places[_words(name)].append(index)
    pairs = []
    for words, (index, *more) in places.items():
        mirrored = next((found for found in _mirrored(words, keypoints) if len(places.get(found, ())) == 1), None)
        if mirrored is not None and not more:  # names that are the same but for their spelling tell nothing
            other = places[mirrored][0]
            if index < other:
                pairs.append((index, other))
    return tuple(sorted(pairs))


def describe_pairs(kind: Literal["classes", "keypoints"], names: Sequence[str], pairs: Pairs) -> list[str]:
    """What a flip exchanges, and what it should by the names but does not; nothing where no name tells a side."""
    lines = []
    if pairs and names:
        shown = ", ".join(f"{names[first]}/{names[second]}" for first, second in pairs)
        lines.append(f"a flip exchanges the {kind} {shown}")
    paired = {index for pair in pairs for index in pair}
    found = [pair for pair in find_pairs(names, keypoints=kind == "keypoints") if not {*pair} & paired]
    told = paired | {index for pair in found for index in pair}
    left = [f"{names[first]}/{names[second]}" for first, second in found]
    left += [name for index, name in enumerate(names) if index not in told and {"left", "right"} & {*_words(name)}]
    if left:
        lines.append(f"warning: a flip leaves the {kind} {', '.join(left)} as they are; see flip_pairs, or use flip=0")
    return lines


def _both_names(entry: str, class_names: Sequence[str], keypoint_names: Sequence[str]) -> tuple[str, str]:
    """The two names of "first=second", both known as classes or both as keypoints."""
    first, equals, second = (part.strip() for part in entry.partition("="))
    if not equals or not first or not second:
        raise UsageError(f"flip_pairs: {entry!r} is no pair; write left_hand=right_hand, or none alone for no pairs.")
    known = [*class_names, *keypoint_names]
    for name in (first, second):
        if name not in known:
            raise UsageError(
                f"flip_pairs: {name!r} is neither a class nor a keypoint of the data ({', '.join(known) or 'none'})."
                + did_you_mean(name, known)
            )
    if not any(first in names and second in names for names in (class_names, keypoint_names)):
        raise UsageError(f"flip_pairs: of {entry!r} one is a class and the other a keypoint; pair like with like.")
    return first, second


def _words(name: str) -> tuple[str, ...]:
    """The words of a name in lower case: of "LeftHand", "left_hand" and "left hand" the same."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return tuple(word.casefold() for word in re.split(r"[\W_]+", apart) if word)


def _mirrored(words: tuple[str, ...], keypoints: bool) -> list[tuple[str, ...]]:
    """What the mirrored name may be, the likeliest first."""
    readings = [
        tuple(SIDES.get(word, word) for word in words),
        tuple(GLUED.sub(lambda side: SIDES[side.group()], word) for word in words),
    ]
    if keypoints:
        readings.append(tuple(GLUED_LETTER.sub(lambda side: SIDES[side.group()], word) for word in words))
    return [reading for reading in readings if reading != words]
