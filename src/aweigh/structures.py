"""What goes into a model: `Images`, and in training `Targets`. What comes out are `aweigh.detections.Detections`.

Geometry, everywhere: `boxes` are `[N, 4]` float32 `(x0, y0, x1, y1)` in absolute pixels, continuous coordinates,
right and bottom exclusive. `labels` are int64 in `0..C-1`; background is never a class. Empty (N = 0) is normal.

Everything is validated when it is created; the error says what was expected and what came.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from aweigh.classes import Pairs
from aweigh.detections import PER_INSTANCE, check_instances, instance_fields, select, shape_of
from aweigh.errors import DataError, UsageError, counted
from aweigh.geometry.frames import Frame, exchanged

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class Images:
    """A batch of images of different sizes, each in the top left corner of one padded tensor.

    pixels: `[B, 3, H, W]` float, RGB in `[0, 1]`; H and W are multiples of the model's `stride_divisor`.
    sizes_hw: height and width of each image inside the padding.
    proposals: `[B, P, 4]` float32 xyxy, P at least 1: where a detector that does not propose regions itself looks, best
    first, in these pixels; rows without area are padding. The others leave them alone.
    """

    pixels: Tensor
    sizes_hw: list[tuple[int, int]]
    proposals: Tensor | None = None

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or not self.pixels.is_floating_point():
            raise UsageError(f"Images.pixels must be a float tensor [B, 3, H, W], got {shape_of(self.pixels)}.")
        if len(self.sizes_hw) != len(self.pixels):
            raise UsageError(f"Images: {counted(len(self.pixels), 'image')} but {counted(len(self.sizes_hw), 'size')}.")
        limit = tuple(self.pixels.shape[-2:])
        for index, (height, width) in enumerate(self.sizes_hw):
            if not (0 < height <= limit[0] and 0 < width <= limit[1]):
                raise UsageError(f"Images: size {(height, width)} of image {index} does not fit the batch of {limit}.")
        if self.proposals is not None and not self._are_proposals(self.proposals):
            raise UsageError(
                f"Images.proposals must be a float32 tensor [{len(self.pixels)}, P, 4] with a P above 0, got "
                f"{shape_of(self.proposals)}; `padded_proposals` makes one."
            )

    def _are_proposals(self, given: Tensor) -> bool:
        batch, number, side = given.shape if given.ndim == 3 else (0, 0, 0)
        return (batch, side) == (len(self.pixels), 4) and number > 0 and given.dtype == torch.float32

    @classmethod
    def stack(
        cls,
        images: Sequence[Tensor],
        *,
        divisor: int = 32,
        fill: Sequence[float] = IMAGENET_MEAN,
        allocate: Callable[[int], Tensor] | None = None,
    ) -> Images:
        """Pad images `[3, h, w]`, float in `[0, 1]` or uint8, at the right and bottom to a common size.

        The common size is a multiple of `divisor`; uint8 is divided by 255. fill: the colour of the padding, `[0, 1]`
        RGB. With the model's own mean it is zero after normalisation. allocate: gives an empty float tensor of so many
        elements to put the batch in, which then is in channels-last memory.
        """
        if not images:
            raise UsageError("Images.stack needs at least one image.")
        for index, image in enumerate(images):
            if image.ndim != 3 or image.shape[0] != len(fill):
                raise UsageError(f"Images.stack: image {index} must be [{len(fill)}, h, w], got {tuple(image.shape)}.")
        sizes_hw = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        height, width = (math.ceil(max(sizes) / divisor) * divisor for sizes in zip(*sizes_hw))
        dtype = next((image.dtype for image in images if image.is_floating_point()), torch.float32)
        shape = (len(images), len(fill), height, width)
        if allocate is None:
            pixels = torch.empty(shape, dtype=dtype, device=images[0].device)
        else:
            pixels = allocate(math.prod(shape)).view(len(images), height, width, len(fill)).permute(0, 3, 1, 2)
        for slot, image in zip(pixels, images):
            _place(slot, image, pixels.new_tensor(fill))
        return cls(pixels, sizes_hw)

    def __len__(self) -> int:
        return len(self.sizes_hw)

    def mirrored(self) -> Images:
        """Each image mirrored left to right in its own corner, with its proposals; the padding stays."""
        pixels, proposals = self.pixels.clone(), None
        for slot, image, (height, width) in zip(pixels, self.pixels, self.sizes_hw):
            slot[:, :height, :width] = image[:, :height, :width].flip(-1)
        if self.proposals is not None:
            proposals = self.proposals[..., [2, 1, 0, 3]]
            widths = proposals.new_tensor([width for _, width in self.sizes_hw])[:, None, None]  # [B, 1, 1]
            proposals[..., [0, 2]] = widths - proposals[..., [0, 2]]
        return Images(pixels, self.sizes_hw, proposals)

    def to(self, device: torch.device | str, **kwargs: Any) -> Images:
        """kwargs: of the pixels alone, such as their memory order."""
        proposals = None if self.proposals is None else self.proposals.to(device)
        return Images(self.pixels.to(device, **kwargs), self.sizes_hw, proposals)


def padded_proposals(boxes: Sequence[Tensor]) -> Tensor:
    """Proposals `[P_i, 4]` of each image as `Images` holds them: `[B, P, 4]`, filled with boxes without area."""
    padded = boxes[0].new_zeros(len(boxes), max(1, *map(len, boxes)), 4)
    for row, own in zip(padded, boxes):
        row[: len(own)] = own
    return padded


def _place(slot: Tensor, image: Tensor, colour: Tensor) -> None:
    """Write an image `[C, h, w]` into the corner of a slot `[C, H, W]` and the colour `[C]` into the rest."""
    channels, height, width = image.shape
    if slot.stride(0) == 1:  # channels last: whole rows `[H, W * C]`, which are much faster to write than triples
        rows, content = slot.permute(1, 2, 0).flatten(1), image.permute(1, 2, 0).flatten(1)
        padding, width = colour.repeat(slot.shape[2]), width * channels  # [W * C]
    else:
        rows, content, padding = slot, image, colour[:, None, None].expand(-1, 1, slot.shape[2])  # [C, 1, W]
    inside = rows[..., :height, :width]
    inside.copy_(content)
    if image.dtype == torch.uint8:
        inside.div_(torch.full((), 255.0, device=slot.device))  # by a number, a GPU would multiply by 1 / 255
    rows[..., height:, :] = padding
    rows[..., :height, width:] = padding[..., width:]


_DTYPES = {
    "boxes": torch.float32, "labels": torch.int64, "ignore": torch.bool, "area": torch.float32, "ids": torch.int64,
    "masks": torch.bool, "keypoints": torch.float32, "uncertain": torch.bool, "known": torch.bool,
    "proposals": torch.float32, "cuboids": torch.float32,
}  # fmt: skip
_DERIVED = cast(Tensor, None)  # filled in on creation when it is not given


@dataclass(frozen=True, eq=False)
class Targets:
    """The annotated objects of one image, in the pixels of the image the model sees.

    boxes: `[N, 4]` float32 xyxy with positive width and height. labels: `[N]` int64, `0..C-1`.
    ignore: `[N]` bool; a region (COCO crowd, VOC difficult) inside which nothing is a mistake: it gives no loss.
    area: `[N]` float32, the object's area in pixels (of its mask where there is one). ids: `[N]` int64, the
    annotation ids. masks: `[N, H, W]` bool. keypoints: `[N, K, 3]` float32 `(x, y, visibility 0 | 1 | 2)`.
    cuboids: `[N, 7]` float32 `(u, v, depth, height, width, length, alpha)`, the object as the camera sees it, see
    `aweigh.geometry.cuboids`; u and v in pixels of this image, NaN for what is not known.
    uncertain: `[N]` bool; an object that may or may not be there, another detector's guess, not `ignore`: it is
    nobody's target, and inside its box its own class gives no negative loss.
    known: `[C]` bool, of the image: the classes it was labelled for, None for all; of any other it may show objects
    that have no box, so that such a class gives no negative loss anywhere in it.
    proposals: `[P, 4]` float32 xyxy, of the image: no annotations, but where a detector will be told to look. They go
    with the boxes through every change of the image, until a batch has them in its `Images`.
    Indexing with a slice, a mask or an index tensor carries all of them together.
    """

    boxes: Tensor = field(metadata=PER_INSTANCE)
    labels: Tensor = field(metadata=PER_INSTANCE)
    ignore: Tensor = field(default=_DERIVED, metadata=PER_INSTANCE)
    area: Tensor = field(default=_DERIVED, metadata=PER_INSTANCE)
    ids: Tensor = field(default=_DERIVED, metadata=PER_INSTANCE)
    masks: Tensor | None = field(default=None, metadata=PER_INSTANCE)
    keypoints: Tensor | None = field(default=None, metadata=PER_INSTANCE)
    uncertain: Tensor = field(default=_DERIVED, metadata=PER_INSTANCE)
    known: Tensor | None = None
    proposals: Tensor | None = None
    cuboids: Tensor | None = field(default=None, metadata=PER_INSTANCE)

    def __post_init__(self) -> None:
        check_instances(self, Tensor)
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        if not (sides > 0).all():
            index = int((sides <= 0).any(dim=1).nonzero()[0, 0])
            which = f" (annotation {int(self.ids[index])})" if self.ids is not None else ""
            raise DataError(
                f"Targets: box {index}{which} is {self.boxes[index].tolist()}; a box needs x1 > x0 and y1 > y0. "
                "Remove or mend it; the data reader does so and lists it."
            )
        derived: dict[str, Callable[[], Tensor]] = {
            "ignore": lambda: self.boxes.new_zeros(len(self.boxes), dtype=torch.bool),
            "area": lambda: sides.prod(dim=1),
            "ids": lambda: torch.arange(len(self.boxes), device=self.boxes.device),
            "uncertain": lambda: self.boxes.new_zeros(len(self.boxes), dtype=torch.bool),
        }
        for name, value in derived.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value())
        for name in ("uncertain", "known"):
            value = getattr(self, name)
            if value is not None and (value.ndim != 1 or value.dtype != torch.bool):
                raise DataError(f"Targets.{name} must be a bool tensor of one dimension, got {shape_of(value)}.")

    @property
    def learned(self) -> Tensor:
        """`[N]` bool: the objects to find, which are neither `ignore` nor `uncertain`."""
        return ~(self.ignore | self.uncertain)

    @classmethod
    def of(cls, boxes: ArrayLike, labels: ArrayLike, **fields: ArrayLike | None) -> Targets:
        """From lists, arrays or tensors of any numbers, copied: `Targets.of([[10, 20, 50, 80]], [0])`.

        fields: any of the others, as `ids=[7]`.
        """
        given = {"boxes": boxes, "labels": labels, **fields}
        unknown = sorted(set(given) - set(_DTYPES))
        if unknown:
            raise UsageError(f"Targets: unknown field {unknown[0]!r}; known: {', '.join(_DTYPES)}.")
        tensors = {
            name: torch.as_tensor(np.array(value) if not isinstance(value, Tensor) else value.clone()).to(_DTYPES[name])
            for name, value in given.items()
            if value is not None
        }
        tensors["boxes"] = tensors["boxes"].reshape(-1, 4) if not len(tensors["boxes"]) else tensors["boxes"]
        return cls(**tensors)

    @classmethod
    def empty(cls, device: torch.device | str = "cpu") -> Targets:
        return cls(torch.zeros(0, 4, device=device), torch.zeros(0, dtype=torch.int64, device=device))

    def __len__(self) -> int:
        return len(self.boxes)

    __getitem__ = select

    def to(self, device: torch.device | str) -> Targets:
        """The same objects with all tensors on the device."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in values.items() if value is not None})

    def arrays(self) -> dict[str, np.ndarray | None]:
        """All fields as arrays, as `aweigh.annotations.split.Split.objects` gives them."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: None if value is None else value.numpy(force=True) for name, value in values.items()}

    def moved(
        self, frame: Frame, size_hw: tuple[int, int], *, class_pairs: Pairs = (), keypoint_pairs: Pairs = ()
    ) -> Targets:
        """The same objects in an image of `size_hw` (height, width), to whose pixels `frame` leads.

        class_pairs, keypoint_pairs: what changes places in a mirror. Nothing is clipped but masks; a keypoint that is
        not given stays at 0, 0.
        """
        if frame == Frame() and (self.masks is None or self.masks.shape[1:] == size_hw):
            return self
        arrays = {name: value.numpy(force=True) for name, value in instance_fields(self).items()}
        changed = frame.objects(arrays, class_pairs=class_pairs, keypoint_pairs=keypoint_pairs)
        changed["area"] = frame.areas(arrays["area"])
        if "masks" in arrays:
            changed["masks"] = frame.masks(arrays["masks"], size_hw)
        if "keypoints" in arrays:
            changed["keypoints"] = np.where(changed["keypoints"][..., 2:] > 0, changed["keypoints"], np.float32(0))
        if self.proposals is not None:
            changed["proposals"] = frame.boxes(self.proposals.numpy(force=True))
        if frame.mirrors and self.known is not None:
            known = self.known.numpy(force=True)
            changed["known"] = known[exchanged(np.arange(len(known)), class_pairs)]
        tensors = {name: torch.from_numpy(value).to(self.boxes.device) for name, value in changed.items()}
        return replace(self, **tensors)

    def resized(self, before_hw: tuple[float, float], size_hw: tuple[int, int]) -> Targets:
        """The same objects in the same image in another size; `before_hw` is the one they are in."""
        return self.moved(Frame.resize(before_hw, size_hw), size_hw)

    def split(self, counts: Sequence[int]) -> list[Targets]:
        """The first `counts[0]` objects, the next `counts[1]`, and so on; they are valid, and not checked again."""
        parts = {name: torch.split(value, list(counts)) for name, value in instance_fields(self).items()}
        return [self._unchecked({name: value[index] for name, value in parts.items()}) for index in range(len(counts))]

    def _unchecked(self, changed: dict[str, Tensor]) -> Targets:
        copied = object.__new__(Targets)
        copied.__dict__.update(self.__dict__ | changed)
        return copied
