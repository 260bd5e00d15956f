"""Test-time augmentation: look at a picture mirrored and in several sizes, and merge what is found.

A detector that predicts heat maps averages those of a picture and its mirror image (`average_flipped`), as CenterNet's
authors do. For any other, and over sizes, detections are brought back to the pixels of the picture and merged. Papers:
Zhou et al., "Objects as Points", 2019, sections 4 and 5.1; Bodla et al., "Soft-NMS", 2017; Solovyev et al., "Weighted
boxes fusion", 2021.

A row that is left keeps its mask and keypoints. Of boxes that were fused, these are those of the best one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from aweigh.annotations.flip_pairs import describe_pairs, flip_pairs
from aweigh.classes import Classes, Pairs
from aweigh.detections import Detections
from aweigh.errors import UsageError, did_you_mean
from aweigh.images.resize import LARGEST_SCALE, Resize
from aweigh.models.detector import Detector
from aweigh.ops.boxes import non_maximum_suppression
from aweigh.ops.frames import Frame, exchanged
from aweigh.ops.fusion import weighted_box_fusion
from aweigh.structures import Images

Merge = Literal["nms", "soft", "weighted"]
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)  # "Objects as Points", section 5.1


@dataclass(frozen=True)
class TTA:
    """How a picture is looked at; as it is made, once and as it is.

    flip: mirrored as well. scales: factors on the size that the picture is resized to. merge: what becomes of boxes of
    one class that overlap. `"nms"` keeps the best, from the detector's own IoU on; `"soft"` lowers the others' scores
    by `exp(-IoU^2 / 0.5)`; `"weighted"` makes their mean (`ops.fusion`). None: `"soft"` for a detector whose maps are
    averaged, as its authors, else `"nms"`. flip_pairs: classes that change places in a mirror, as in training.
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
        """Whether a picture is looked at once, and as it is."""
        return not self.flip and self.scales == (1.0,)

    def resizes(self, resize: Resize) -> list[Resize]:
        """The resize step of each size."""
        return [replace(resize, scale=resize.scale * scale) for scale in self.scales]

    def method(self, model: Detector) -> Merge | None:
        """How detections are merged; None where there is nothing to merge."""
        if len(self.scales) == 1 and (model.average_flipped is not None or not self.flip):
            return None
        return self.merge or ("soft" if model.average_flipped is not None else "nms")

    def class_pairs(self, classes: Classes) -> Pairs:
        """The classes that change places in a mirror."""
        return flip_pairs(self.flip_pairs, classes.names).classes

    def class_order(self, classes: Classes) -> Tensor:
        """`[C]`: the class that each becomes in a mirror."""
        return exchanged(torch.arange(len(classes)), self.class_pairs(classes))

    def describe(self, model: Detector) -> list[str]:
        """What is done, and what a flip exchanges, in words."""
        flip = ["flip, its maps averaged" if model.average_flipped is not None else "flip"] if self.flip else []
        scales = [f"scales {', '.join(f'{scale:g}' for scale in self.scales)}"] if self.scales != (1.0,) else []
        method = self.method(model)
        text = "; ".join([*flip, *scales, *([f"merged by {method}"] if method else [])])
        classes = model.classes
        pairs = describe_pairs("classes", classes.names, self.class_pairs(classes)) if self.flip else []
        return [f"test augmentation: {text or 'none'}", *pairs]

    def to_dict(self, model: Detector) -> dict[str, Any]:
        """As JSON can hold it, with the method that is used."""
        return {**asdict(self), "merge": self.method(model)}


PLAIN = TTA()


@dataclass(frozen=True, eq=False)
class View:
    """What the network says of a batch in one size, perhaps mirrored."""

    raw: Any
    sizes_hw: list[tuple[int, int]]
    mirrored: bool = False


def look(model: Detector, network: Callable[[Images], Any], batches: Sequence[Images], tta: TTA) -> Iterator[View]:
    """The views of a batch one after the other, so that no two are held at once.

    network: `Images` to the raw output of `model`. batches: the same pictures in the size of each scale.
    """
    if len(batches) > 1 and "cuboids" in model.extras:
        raise UsageError(f"{model.builder} tells depths by sizes, which other scales change; leave the scales out.")
    for images in batches:
        raw = network(images)
        if tta.flip and model.average_flipped is not None:
            flipped = network(replace(images, pixels=images.pixels.flip(-1)))  # padding too, so that cells meet
            order = tta.class_order(model.classes).to(images.pixels.device)
            yield View(model.average_flipped(raw, flipped, order), images.sizes_hw)
            continue
        yield View(raw, images.sizes_hw)
        if tta.flip:
            yield View(network(mirrored_images(images)), images.sizes_hw, mirrored=True)


def merge(model: Detector, views: Sequence[Sequence[Detections]], tta: TTA) -> list[Detections]:
    """The detections of each picture, of `views` of the same pictures in the same pixels; best first."""
    method = tta.method(model)
    if method is None:
        (found,) = views
        return list(found)
    selection = model.selection
    return [_merge(own, method, selection.nms_threshold, selection.max_detections) for own in zip(*views, strict=True)]


def _merge(views: Sequence[Detections], method: Merge, iou_threshold: float, most: int) -> Detections:
    found = Detections.joined(views)
    boxes, scores, labels = found.boxes, found.scores, found.labels
    if method == "weighted":
        boxes, scores, index = weighted_box_fusion(boxes, scores, labels, predictions=len(views))
        return replace(found[index], boxes=boxes, scores=scores)[:most]
    index, scores, count = non_maximum_suppression(
        boxes,
        scores,
        labels,
        iou_threshold=iou_threshold,
        max_detections=most,
        method="soft" if method == "soft" else "class",
    )
    return replace(found[index[: int(count)]], scores=scores[: int(count)])


def mirrored_images(images: Images) -> Images:
    """Each image of a batch mirrored left to right in its own corner, with its proposals; the padding stays."""
    pixels = images.pixels.clone()
    for slot, image, (height, width) in zip(pixels, images.pixels, images.sizes_hw):
        slot[:, :height, :width] = image[:, :height, :width].flip(-1)
    proposals = images.proposals
    if proposals is not None:
        mirrored = [Frame.mirror(width).boxes(own) for own, (_, width) in zip(proposals, images.sizes_hw)]
        proposals = torch.stack(mirrored)
    return Images(pixels, images.sizes_hw, proposals)
