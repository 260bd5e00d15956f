"""Boxes, masks, keypoints and heat maps drawn on an image.

Everything here returns a `PIL.Image`, leaves what it is given untouched, and sizes its lines and letters to the
image. Drawing order: masks, trails, boxes, keypoints, then the labels; the best detection on top. What has a low score
is faint, and in a crowd the best have a label, see `label_places`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from aweigh.classes import PERSON_JOINTS, Classes
from aweigh.detections import Detections
from aweigh.errors import UsageError, counted, escaped, said_if_missing
from aweigh.geometry.masks import Window
from aweigh.images.reader import is_tensor
from aweigh.visualise.colours import IGNORED, PALETTE, Colour
from aweigh.visualise.labels import font_of, label_places, write_label
from aweigh.visualise.strokes import Box, dashed, hatch, outline, paint_keypoints, paint_mask, paint_trail

if TYPE_CHECKING:
    from torch import Tensor

SURE, FAINTEST = 0.5, 0.2  # ours: the score from which a detection is drawn in full; the opacity of one of score 0
CROWD = 50  # boxes of one image, from which on lines are thinner

Drawable: TypeAlias = "Image.Image | np.ndarray | Tensor"


def draw_detections(
    image: Drawable,
    detections: Detections,
    *,
    min_score: float = 0.0,
    skeleton: Sequence[tuple[int, int]] | None = None,
) -> Image.Image:
    """The image with every detection of at least `min_score`: box, class name and score, mask and keypoints if any.

    Where objects have tracks, the colour is that of the track instead of the class, its id stands before the name, and
    a line leads through the places where the object was.

    image: a PIL image, an array `(H, W, 3)` or a tensor `[3, H, W]`, uint8 or float in `[0, 1]`, RGB. detections: in
    the pixels of this image; a keypoint is drawn where its score is above 0. skeleton: pairs of keypoint indices to
    join; when not given, the joints of the detections' keypoint set, else those of COCO's persons where there are 17
    keypoints. Masks are made into pixels one at a time, each in its own box.
    """
    kept = detections[detections.scores >= min_score]
    kept = kept[np.argsort(-kept.scores, kind="stable")]
    captions = [f"{name} {score:.2f}" for name, score in zip(kept.names, kept.scores.tolist())]
    coloured_by = kept.labels if kept.track_ids is None else kept.track_ids
    if kept.track_ids is not None:
        captions = [f"#{track} {caption}" for track, caption in zip(kept.track_ids.tolist(), captions)]
    colours = [PALETTE[number % len(PALETTE)] for number in coloured_by.tolist()]
    windows = None
    if kept.masks is not None:
        picture_hw = _size_hw(image)
        if kept.size_hw != picture_hw:
            raise UsageError(f"Masks for an image of {kept.size_hw} do not fit one of {picture_hw} (height, width).")
        windows = kept[np.arange(len(kept))[::-1]].windows()  # in the order they are drawn, the best last
    if skeleton is None and kept.keypoint_set is not None:
        skeleton = kept.keypoint_set.joints
    opacities = np.minimum(FAINTEST + (1 - FAINTEST) * (kept.scores / SURE) ** 2, 1).tolist()
    return _draw(
        image, kept.boxes, colours, captions,
        windows=windows, keypoints=kept.keypoints, skeleton=skeleton, opacities=opacities, trails=kept.trails,
    )  # fmt: skip


def draw_objects(
    image: Drawable,
    objects: Mapping[str, np.ndarray | None],
    classes: Classes | None = None,
    *,
    skeleton: Sequence[tuple[int, int]] | None = None,
) -> Image.Image:
    """The image with every annotated object; regions to ignore and what is uncertain are hatched and dashed.

    image, skeleton: as for `draw_detections`. objects: as `Split.objects` gives them, in the pixels of this image.
    classes: for the names; label numbers stand in when not given.
    """
    boxes, labels, masks = objects["boxes"], objects["labels"], objects.get("masks")
    assert boxes is not None and labels is not None
    nothing = np.zeros(len(boxes), dtype=bool)
    uncertain, ignore = (nothing if (value := objects.get(name)) is None else value for name in ("uncertain", "ignore"))
    ignored = (ignore | uncertain).tolist()
    names = [classes.names[label] if classes is not None else str(label) for label in labels.tolist()]
    reasons = [" (uncertain)" if guess else " (ignored)" if skip else "" for guess, skip in zip(uncertain, ignored)]
    captions = [name + reason for name, reason in zip(names, reasons)]
    colours = [IGNORED if skip else PALETTE[label % len(PALETTE)] for label, skip in zip(labels.tolist(), ignored)]
    windows = None
    if masks is not None:
        if masks.shape[1:] != _size_hw(image):
            raise UsageError(f"Masks of {masks.shape[1:]} do not fit an image of {_size_hw(image)} (height, width).")
        windows = _windows_of(masks[::-1])
    return _draw(
        image, boxes, colours, captions,
        windows=windows, keypoints=objects.get("keypoints"), skeleton=skeleton, ignored=ignored,
    )  # fmt: skip


def draw_boxes(
    image: Drawable,
    boxes: np.ndarray,
    colours: Sequence[Colour],
    captions: Sequence[str],
    *,
    ignored: Sequence[bool] | None = None,
) -> Image.Image:
    """The image with boxes in colours of one's own; the first is on top.

    image: as for `draw_detections`. boxes: `[N, 4]` xyxy in its pixels. captions: one each; nothing is written where it
    is empty. ignored: which boxes are hatched and dashed.
    """
    if not len(boxes) == len(colours) == len(captions):
        raise UsageError(
            f"draw_boxes: {counted(len(boxes), 'box')}, {counted(len(colours), 'colour')} and "
            f"{counted(len(captions), 'caption')}."
        )
    return _draw(image, boxes, colours, captions, windows=None, keypoints=None, skeleton=None, ignored=ignored)


def draw_heat_map(image: Drawable, heat: np.ndarray, *, opacity: float = 0.75, colours: str = "turbo") -> Image.Image:
    """The image under a heat map: nothing where `heat` is 0, strongest where it is 1.

    heat: `[h, w]` float in `[0, 1]`, of any resolution; it is stretched over the whole image.
    colours: the name of a matplotlib colour map.
    """
    with said_if_missing("draw_heat_map"):
        from matplotlib import colormaps

    if heat.ndim != 2:
        raise UsageError(f"A heat map must be [h, w], got {heat.shape}; take the maximum over its channels.")
    picture = as_picture(image)
    small = Image.fromarray(np.nan_to_num(heat.astype(np.float32)).clip(0, 1))
    values = np.clip(np.asarray(small.resize(picture.size, Image.Resampling.BICUBIC)), 0, 1)
    colour = colormaps[colours](values)[..., :3]
    weight = opacity * np.sqrt(values)[..., None]  # the root lets weak answers be seen
    mixed = (1 - weight) * np.asarray(picture, dtype=np.float32) + weight * 255 * colour
    return Image.fromarray(mixed.round().astype(np.uint8))


def as_picture(image: Drawable) -> Image.Image:
    """A new RGB image of what can be drawn on."""
    if isinstance(image, Image.Image):
        return image.convert("RGB").copy()
    pixels = _channels_last(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        wanted = "[3, H, W]" if is_tensor(image) else "(H, W, 3)"
        raise UsageError(f"An image to draw on must be {wanted}, got {tuple(image.shape)}.")
    if pixels.dtype.kind == "f":
        pixels = (pixels.astype(np.float32).clip(0, 1) * 255).round()
    return Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8))


def _size_hw(image: Drawable) -> tuple[int, int]:
    height, width = (image.height, image.width) if isinstance(image, Image.Image) else _channels_last(image).shape[:2]
    return height, width


def _channels_last(image: Any) -> np.ndarray:
    """`(H, W, 3)` of an array of that shape, or of a tensor `[3, H, W]`."""
    if not is_tensor(image):
        return np.asarray(image)
    array: np.ndarray = (image.float() if image.is_floating_point() else image).numpy(force=True)
    return array.transpose(1, 2, 0) if array.ndim == 3 else array


def _strengths(short: int, boxes: np.ndarray) -> tuple[int, int]:
    """How wide lines and how high letters are, in pixels, in an image whose short side this is.

    In a crowd no line covers a small object, as in an overview of a large image.
    """
    width = max(1, round(short / (220 if len(boxes) <= CROWD else 330)))  # 2 px at 480, 4 px at 800
    least = 10 if short < 300 else 12  # letters would cover most of a small image
    letters = max(least, round(short / (32 if len(boxes) <= 12 else 38)))
    if len(boxes) > CROWD:
        usual = float(np.median((boxes[:, 2:] - boxes[:, :2]).min(axis=1)))  # the shorter side of a box
        width, letters = min(width, max(1, round(usual / 12))), min(letters, max(least, round(usual / 2)))
    return width, letters


def _draw(
    image: Drawable,
    boxes: np.ndarray,
    colours: Sequence[Colour],
    captions: Sequence[str],
    *,
    windows: Iterable[Window] | None,
    keypoints: np.ndarray | None,
    skeleton: Sequence[tuple[int, int]] | None,
    ignored: Sequence[bool] | None = None,
    opacities: Sequence[float] | None = None,
    trails: np.ndarray | None = None,
) -> Image.Image:
    """Everything of one image; the instances come best first. windows: of their masks, the best last."""
    picture = as_picture(image)
    captions = [escaped(caption) for caption in captions]
    width, letters = _strengths(min(picture.size), boxes)
    font = font_of(letters)
    ignored = ignored if ignored is not None else [False] * len(boxes)
    opacities = opacities if opacities is not None else [1.0] * len(boxes)
    corners = [_inside(box, picture.size) for box in boxes.tolist()]
    order = list(range(len(boxes)))[::-1]  # the best is drawn last, on top

    for index, (inside, corner) in zip(order, windows or ()):
        paint_mask(picture, inside, corner, colours[index], width, opacities[index])
    if trails is not None:
        for index in order:
            paint_trail(picture, trails[index], colours[index], width, opacities[index])
    for index in order:
        if ignored[index]:
            hatch(picture, corners[index], colours[index], width)
    draw = ImageDraw.Draw(picture, "RGBA")
    for index in order:
        if ignored[index]:
            dashed(draw, corners[index], colours[index], width)
        else:
            outline(draw, corners[index], colours[index], width, opacities[index])
    if keypoints is not None:
        if skeleton is None:
            skeleton = PERSON_JOINTS if keypoints.shape[1] == 17 else ()
        for index in order:
            paint_keypoints(
                picture, keypoints[index], skeleton, colours[index], width, corners[index], opacities[index]
            )
    named = [index for index in range(len(boxes)) if captions[index]]
    texts = [captions[index] for index in named]
    places = label_places(texts, [corners[index] for index in named], font, width, picture.size)
    for place, index in zip(places, named):
        if place is not None:
            write_label(draw, captions[index], place, colours[index], font)
    return picture


def _inside(box: Sequence[float], size_wh: tuple[int, int]) -> Box:
    """Whole pixels, first and last inside the box, kept inside the image."""
    x0, y0, x1, y1 = box
    last_x, last_y = size_wh[0] - 1, size_wh[1] - 1
    left, top = min(max(round(x0), 0), last_x), min(max(round(y0), 0), last_y)
    return left, top, max(left, min(round(x1) - 1, last_x)), max(top, min(round(y1) - 1, last_y))


def _windows_of(masks: np.ndarray) -> Iterator[Window]:
    """The part of each bitmap `[N, H, W]` that holds its pixels."""
    for mask in masks:
        rows, columns = (np.flatnonzero(mask.any(axis)).tolist() or [0, -1] for axis in (1, 0))
        yield mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], (columns[0], rows[0])
