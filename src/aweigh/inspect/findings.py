"""What the doctor says: findings, each with its weight, its share, what to do, and examples by file and annotation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aweigh.annotations.problems import CLIPPED, KEPT, Problem
from aweigh.errors import counted

Severity = Literal["error", "warning", "note"]
Box = tuple[float, float, float, float]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
EXAMPLES_KEPT = 1000  # of one finding; its count goes on beyond


@dataclass(frozen=True)
class Example:
    """One case of a finding. image: the row of its image in the split, where it is known. boxes: xyxy in pixels, to
    be shown. beside: split and row of the other image, for images that are alike."""

    problem: Problem
    split: str
    image: int | None = None
    boxes: tuple[Box, ...] = ()
    beside: tuple[str, int] | None = None

    def line(self) -> str:
        """Which file and annotation, and what is the matter with it."""
        return f"{self.problem.place}: {self.problem.detail}"


@dataclass(frozen=True)
class Finding:
    """Everything of one kind in one split.

    severity: an "error" is left out or changed by training, or spoils the evaluation; a "warning" is most likely a
    mistake; a "note" is worth knowing. split: its name, or several ("train, val"). count of `of` `unit`s ("boxes",
    "images", "classes", "files", "records") are affected. action: what training does about it.
    """

    kind: str
    severity: Severity
    split: str
    count: int
    of: int
    unit: str
    action: str
    advice: str
    examples: tuple[Example, ...] = ()

    @property
    def share(self) -> float:
        return self.count / self.of if self.of else 0.0

    def line(self) -> str:
        """ "train: 3 of 2,804 boxes (0.1 %)": without the kind."""
        unit = SINGULAR[self.unit]
        if self.of <= self.count:
            return f"{self.split}: {counted(self.count, unit)}"
        return f"{self.split}: {self.count:,} of {counted(self.of, unit)} ({percent(self.share)})"

    def to_dict(self) -> dict[str, Any]:
        examples = [
            {"file": case.problem.where, "annotation": case.problem.annotation, "detail": case.problem.detail}
            for case in self.examples
        ]
        return vars(self) | {"share": self.share, "examples": examples}


SINGULAR = {"boxes": "box", "pictures": "picture", "classes": "class", "files": "file", "records": "record"}


def finding(
    kind: str,
    split: str,
    count: int,
    of: int,
    examples: Iterable[Example] = (),
    *,
    action: str = KEPT,
    advice: str | None = None,
) -> Finding:
    """A finding of a kind of `KINDS`, which says how grave it is and what to do."""
    severity, unit, usual = KINDS.get(kind, ("error" if action != KEPT else "warning", "records", _UNKNOWN))
    if action == CLIPPED:
        severity = "warning"
    return Finding(kind, severity, split, count, of, unit, action, advice or usual, tuple(examples))


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Errors first, then warnings, then notes; of these the kind with the largest share first, its splits in order."""
    largest: dict[str, float] = {}
    for found in findings:
        largest[found.kind] = max(found.share, largest.get(found.kind, 0.0))
    return sorted(findings, key=lambda one: (SEVERITIES.index(one.severity), -largest[one.kind], one.kind))


def by_kind(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Findings of one kind and severity together, in the order in which they first appear."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for found in findings:
        groups.setdefault((found.kind, found.severity), []).append(found)
    return list(groups.values())


def percent(share: float) -> str:
    """Never 0 % of something, nor 100 % of less than all."""
    value = 100 * share
    if 0 < value < 0.1 or 99.9 < value < 100:
        return "< 0.1 %" if value < 1 else "> 99.9 %"
    return f"{value:.1f} %" if value < 10 or 99 < value < 100 else f"{value:.0f} %"


_UNKNOWN = "Look at the records named and mend them in the source."
# What is wrong and what to do, by severity and by what is counted.
_ADVICE: dict[tuple[Severity, str], dict[str, str]] = {
    ("error", "boxes"): {
        "box not finite": "Write four finite numbers, or delete the annotation; training leaves it out.",
        "zero-size box": (
            "A click without a drag, most often. Draw these boxes again or delete them; training leaves them out."
        ),
        "box outside the image": (
            "The annotations may belong to another image, or to the image at another size. Draw these boxes "
            "again or delete them; training leaves them out."
        ),
        "box under one pixel": "Too small to learn; evaluation still counts it as an object. Delete it.",
        "label out of range": "Add the class to the list of classes, or correct the number.",
        "annotation for a missing image": "Add the image to the file, or delete the annotation.",
        "duplicate annotation id": (
            "Give every annotation an id of its own; tools that look up by id see only one of the two."
        ),
        "mask cannot be used": "Its box is trained on without it. Draw the mask again.",
        "3D box cannot be used": "The box is trained on without it. Correct the line of the label file.",
        "keypoints cannot be used": "The box is trained on without them. Mark the keypoints again.",
        "keypoint outside the image": "Nothing is there to be seen, so it counts as not given. Mark it again.",
        "number of keypoints is wrong": (
            "num_keypoints is 0 where some are given, or more than are; by it evaluation decides whether the object "
            "counts. It is counted anew; export it again."
        ),
        "keypoints that nothing describes": (
            "Say in data.yaml how many an object has (kpt_shape, as the cases below have it); training leaves it out."
        ),
        "annotation id is not a whole number": "Number the annotations 1, 2, 3, ...",
        "looks like corners (x0, y0, x1, y1) stored as sizes": (
            "Export the boxes as (x, y, width, height), as COCO has them."
        ),
        "looks like fractions of the image instead of pixels": (
            "Multiply by the width and height of the image: the format has pixels."
        ),
        "looks like pixels instead of fractions": (
            "Divide by the width and height of the image: the format has fractions."
        ),
        "looks like centres stored as corners": "Export the top left corner, not the centre.",
        "looks like corners stored as centres": "Export the centre of the box, not its top left corner.",
        "looks like corners (x0, y0, x1, y1) stored as centre and size": (
            "Export centre, width and height, as YOLO has them."
        ),
        "looks like sizes stored as corners": "Export xmin, ymin, xmax, ymax, as VOC has them.",
        "looks like x and y exchanged": "Export x before y, and the width before the height.",
    },
    ("warning", "boxes"): {
        "mask as an image": "Its box is used without it. Export polygons, or COCO, for masks.",
        "shape that is no box": "Draw a box or an outline, or export it in a layout that holds it; it is left out.",
        "painted mask": "Export 'Brush labels to COCO', which holds them; they are left out.",
        "keypoint without an object": "Give it a label and the rectangle it belongs to; it is left out.",
        "region of several classes": "The first is used. Leave one label for each region.",
        "shape without an area": "Points and lines hold no object: draw a box or an outline, or delete them.",
        "region without a class": "Give the region the attribute that names its class; training leaves it out.",
        "mask beside its box": "Its outline does not touch the box: another object's, most likely. Draw it again.",
        "keypoint far from its box": (
            "Farther outside than the box is long: the keypoints of another object, most likely. Mark them again."
        ),
        "corners exchanged": (
            "The right or bottom side is written before the left or top one: the box between them is used. Export the "
            "smaller number first."
        ),
        "rotated box": "Boxes here are upright: the one around it is used. It holds more than the object.",
        "box over the edge": "Training clips them to the image; --fix-to writes them clipped.",
        "corners that count from 0": (
            "VOC counts pixels from 1, these files from 0: every box is read one pixel too far left and up. Add 1 "
            "to xmin and ymin."
        ),
        "same box twice": "Delete one of the two; --fix-to does.",
        "nearly the same box twice": (
            "Of the same class, and overlapping by more than 95 %: one object drawn twice, most likely. Delete one."
        ),
        "one object, two classes": "Boxes that overlap by more than 95 % and differ in class: decide which it is.",
    },
    ("warning", "records"): {
        "sixth column": (
            "Taken for the score of a detection, whose box counts as an object. Are these labels, or what a detector "
            "proposed?"
        ),
    },
    ("error", "records"): {
        "unreadable record": "Export the file again, or delete the record.",
        "unreadable line": "Write the line as the layout has it (the cases below say how), or delete it.",
    },
    ("error", "pictures"): {
        "duplicate image id": "Give every image an id of its own; the later ones are left out.",
        "image described twice": "Keep one of the annotation files; the later one is left out.",
        "path outside the folder": "Write file names relative to the image folder.",
        "image file missing": "Fetch the images, or name their folder with --images.",
        "image unreadable": "Fetch or export the image again; training leaves it out.",
        "unreadable image": "Fetch or export the image again; training leaves it out.",
        "same file in two splits": (
            "The evaluation is of images that were trained on: keep each in one split. --fix-to leaves them out "
            "of train."
        ),
        "same image in two splits": (
            "The bytes are equal, so the evaluation is of images that were trained on: keep each in one split. "
            "--fix-to leaves them out of train."
        ),
        "another shape than declared": (
            "The boxes cannot be placed, so training leaves the image out: is it the right file?"
        ),
    },
    ("warning", "files"): {
        "several subsets in one file": "They are read as one split: export the subsets one by one to keep them apart.",
        "list without images": "None of its lines leads to an image; write paths relative to the list.",
        "image ids are not whole numbers": "Number the images 1, 2, 3, ...; COCO's tools expect it.",
    },
    ("error", "files"): {
        "annotation file missing": "The list names an image without annotations; export it again.",
        "annotation file unreadable": "Export the file again; its image is left out.",
        "calibration missing": "Fetch the calibration of this image; without it no object has a 3D box.",
        "calibration unreadable": "Fetch the calibration again; it needs a line P2 with twelve numbers.",
        "label file unreadable": "Export the file again; its image has lost its labels.",
        "split without images": (
            "The data name it, but nothing in it can be used: correct the name, or fetch its images. Training sets a "
            "part of train aside where val is empty."
        ),
        "folder or list missing": "The description names what is not there: fetch it, or correct the description.",
        "unreadable skeleton": "Write pairs of numbers of keypoints, from 1.",
        "unreadable label set": "Write a name and a list of category_ids; it counts as labelled for all classes.",
        "keypoints named in two ways": "Name the keypoints of all categories alike.",
        "labels for a missing image": "Fetch the image, or delete the label file.",
    },
    ("note", "files"): {
        "images outside the data folder": "The description leads out of the folder; is it meant to?",
        "not named by any annotation file": "Image files that nothing uses. Were they forgotten?",
    },
    ("note", "boxes"): {
        "box as large as the image": "A close-up, or a label of the whole image that became a box?",
        "very long box": "One side is more than 20 times the other. Is it a slip of the hand?",
        "tiny box": (
            "A side under 4 pixels of the original image: too little to be seen. A slip, or images that were "
            "scaled down too far?"
        ),
    },
    ("warning", "classes"): {
        "class in val or test, not in train": (
            "It cannot be learned, and pulls the mean AP down: move images of it into train, or choose classes."
        ),
        "class names that differ little": (
            "Case, spaces or a plural alone tell them apart: one class, most likely. Merge them."
        ),
        "class named background": "Background is what is left without a box; delete the class and its boxes.",
        "splits with different classes": "Use one list of classes, in one order, for all splits.",
    },
    ("note", "classes"): {
        "class not in val": "How well it is learned will not be measured: move some images into val.",
        "class with few boxes": "Under 10 boxes to learn from: gather more, or try --sampler repeat_factor.",
        "class without a box": "It is kept as a class; leave it out with --classes if it is not meant.",
        "classes without names": "The names are numbers. Name them where the data are described.",
    },
    ("warning", "pictures"): {
        "predictions alone": "What a model says is no annotation: submit the tasks, or delete the predictions.",
        "task annotated several times": "The last annotation is used. Delete it where another is right.",
        "never labelled": (
            "Nobody said that they show nothing, so they teach nothing and are not evaluated. Label them, or say that "
            'they are empty: an empty label file, an XML file without objects, "reviewed": true in COCO, or '
            "--empty background for all of them."
        ),
        "labels lost": (
            "Their annotations that cannot be used are named above. What has no box there may be an object: it teaches "
            "no background, and they are not evaluated. Mend or delete these annotations."
        ),
        "look-alike images in two splits": (
            "Frames of one scene, or one image saved twice: the evaluation promises too much. Split by scene."
        ),
        "same image twice": "The bytes are equal: keep one of them, with all its boxes.",
        "size before EXIF rotation, boxes after it": (
            "The boxes were drawn on the image as it is shown: it is used so, with its sides exchanged. Export the "
            "sizes of the images as they are shown."
        ),
        "size after EXIF rotation, boxes before it": (
            "The boxes were drawn on the image as it is stored: it is used so, with its sides exchanged. Save these "
            "images without EXIF rotation."
        ),
        "annotated before EXIF rotation": (
            "Used as it was annotated. Save these images without EXIF rotation, so that every program sees the same."
        ),
        "another size than declared": "The boxes are scaled to the image. Export with the sizes of the files.",
    },
    ("note", "pictures"): {
        "said of the whole image": "Detection has no use for it; only what belongs to a region is read.",
        "without objects": "Kept: they teach what is no object. Leave them out with --empty drop.",
        "look-alike images": "Frames of one scene, or one image saved twice. They count double.",
        "EXIF rotation that the size cannot confirm": (
            "Look whether the boxes fit: they may have been drawn before or after the rotation."
        ),
    },
}
# kind -> severity, what is counted, what to do
KINDS: dict[str, tuple[Severity, str, str]] = {
    kind: (severity, unit, advice) for (severity, unit), kinds in _ADVICE.items() for kind, advice in kinds.items()
}
