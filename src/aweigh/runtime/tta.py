"""Test-time augmentation: look at an image mirrored and in several sizes, and merge what is found.

A detector that predicts heat maps averages those of an image and its mirror image (`average_flipped`), as CenterNet's
authors do. For any other, and over sizes, detections are brought back to the pixels of the image and merged. Papers:
Zhou et al., "Objects as Points", 2019, sections 4 and 5.1; Bodla et al., "Soft-NMS", 2017; Solovyev et al., "Weighted
boxes fusion", 2021.

A row that is left keeps its mask and keypoints. Of boxes that were fused, these are those of the best one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from aweigh.annotations.flip_pairs import describe_pairs, flip_pairs
from aweigh.classes import Classes, Pairs
from aweigh.detections import Detections
from aweigh.errors import UsageError, did_you_mean
from aweigh.geometry.boxes import suppress
from aweigh.geometry.frames import Frame, exchanged
from aweigh.geometry.fusion import weighted_box_fusion
from aweigh.images.resize import LARGEST_SCALE, Resize
from aweigh.runtime.engine import Batch, Engine

Merge = Literal["nms", "soft", "weighted"]
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)  # "Objects as Points", section 5.1


@dataclass(frozen=True)
class TTA:
    """How an image is looked at; as it is made, once and as it is.

    flip: mirrored as well. scales: factors on the size that the image is resized to. merge: what becomes of boxes of
    one class that overlap. `"nms"` keeps the best, from the detector's own IoU on; `"soft"` lowers the others' scores
    by `exp(-IoU^2 / 0.5)`; `"weighted"` makes their mean (`geometry.fusion`). None: `"soft"` for a detector whose maps
    are averaged, as its authors, else `"nms"`. flip_pairs: classes that change places in a mirror, as in training.
    """

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    merge: Merge | None = None
    flip_pairs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wrong = [scale for scale in self.scales if not 0 < scale <= LARGEST_SCALE]  # nor NaN
        if not self.scales or wrong or len(set(self.scales)) < len(self.scales):
            raise UsageError(
                f"scales = {list(self.scales)}: expected different numbers above 0, one at least and none above "
                f"{LARGEST_SCALE}, as 0.5,1,1.5."
            )
        if self.merge is not None and self.merge not in get_args(Merge):
            known = get_args(Merge)
            raise UsageError(f"merge = {self.merge!r}: expected {', '.join(known)}.{did_you_mean(self.merge, known)}")

    @property
    def plain(self) -> bool:
        """Whether an image is looked at once, and as it is."""
        return not self.flip and self.scales == (1.0,)

    def resizes(self, resize: Resize) -> list[Resize]:
        """The resize step of each size."""
        return [replace(resize, scale=resize.scale * scale) for scale in self.scales]

    def method(self, engine: Engine) -> Merge | None:
        """How detections are merged; None where there is nothing to merge."""
        if len(self.scales) == 1 and (engine.averages_flips or not self.flip):
            return None
        return self.merge or ("soft" if engine.averages_flips else "nms")

    def class_pairs(self, classes: Classes) -> Pairs:
        """The classes that change places in a mirror."""
        return flip_pairs(self.flip_pairs, classes.names).classes

    def class_order(self, classes: Classes) -> np.ndarray:
        """`[C]`: the class that each becomes in a mirror."""
        return exchanged(np.arange(len(classes)), self.class_pairs(classes))

    def describe(self, engine: Engine) -> list[str]:
        """What is done, and what a flip exchanges, in words."""
        flip = ["flip, its maps averaged" if engine.averages_flips else "flip"] if self.flip else []
        scales = [f"scales {', '.join(f'{scale:g}' for scale in self.scales)}"] if self.scales != (1.0,) else []
        method = self.method(engine)
        text = "; ".join([*flip, *scales, *([f"merged by {method}"] if method else [])])
        classes = engine.classes
        pairs = describe_pairs("classes", classes.names, self.class_pairs(classes)) if self.flip else []
        return [f"test-time augmentation: {text or 'none'}", *pairs]

    def to_dict(self, engine: Engine) -> dict[str, Any]:
        """As JSON can hold it, with the method that is used."""
        return {**asdict(self), "merge": self.method(engine)}


PLAIN = TTA()


class View(NamedTuple):
    """One look at a batch: in which of the sizes, mirrored, or averaged with its mirror image by the engine."""

    size: int
    mirrored: bool = False
    averaged: bool = False


def views(engine: Engine, tta: TTA) -> Iterator[View]:
    """The looks one after the other."""
    if len(tta.scales) > 1 and "cuboids" in engine.extras:
        raise UsageError(f"{engine.name} tells depths by sizes, which other scales change; leave the scales out.")
    for size in range(len(tta.scales)):
        yield View(size, averaged=tta.flip and engine.averages_flips)
        if tta.flip and not engine.averages_flips:
            yield View(size, mirrored=True)


def find(engine: Engine, batches: Sequence[Batch], sizes_hw: Sequence[tuple[int, int]], tta: TTA) -> list[Detections]:
    """The detections of whole images of `sizes_hw`, in their pixels, best first.

    batches: the same images in each of the sizes of `tta.resizes`. No two views are held at once.
    """
    seen = [look(engine, batches[view.size], sizes_hw, view, tta) for view in views(engine, tta)]
    return merge(engine, seen, tta)


def look(engine: Engine, batch: Batch, sizes_hw: Sequence[tuple[int, int]], view: View, tta: TTA) -> list[Detections]:
    """The detections of one view of a batch, in the pixels of the whole images of `sizes_hw`."""
    order = tta.class_order(engine.classes) if view.averaged else None
    found = engine.run(batch.mirrored() if view.mirrored else batch, flipped_classes=order)
    return in_whole(found, sizes_hw, view, tta.class_pairs(engine.classes))


def in_whole(
    found: Sequence[Detections], sizes_hw: Sequence[tuple[int, int]], view: View, class_pairs: Pairs
) -> list[Detections]:
    """The detections of a view in the pixels of the whole images of `sizes_hw`, as if never mirrored."""
    whole = []
    for own, size_hw in zip(found, sizes_hw, strict=True):
        back = Frame.resize(own.size_hw, size_hw)
        if view.mirrored:
            back = back.then(Frame.mirror(size_hw[1]))
        whole.append(own.moved(back, size_hw, class_pairs=class_pairs if view.mirrored else ()))
    return whole


def merge(engine: Engine, seen: Sequence[Sequence[Detections]], tta: TTA) -> list[Detections]:
    """The detections of each image, of views `seen` of the same images in the same pixels; best first."""
    method = tta.method(engine)
    if method is None:
        (found,) = seen
        return list(found)
    selection = engine.selection
    return [_merge(own, method, selection.nms_threshold, selection.max_detections) for own in zip(*seen, strict=True)]


def _merge(seen: Sequence[Detections], method: Merge, iou_threshold: float, most: int) -> Detections:
    found = Detections.joined(seen)
    boxes, scores, labels = found.boxes, found.scores, found.labels
    if method == "weighted":
        boxes, scores, index = weighted_box_fusion(boxes, scores, labels, predictions=len(seen))
        return replace(found[index], boxes=boxes, scores=scores)[:most]
    index, scores = suppress(
        boxes, scores, labels, iou_threshold=iou_threshold, method="soft" if method == "soft" else "class", most=most
    )
    return replace(found[index], scores=scores)
