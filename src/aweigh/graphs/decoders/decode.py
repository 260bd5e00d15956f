"""Images to the inputs of an exported detector, and its outputs to boxes, with NumPy alone; free to copy and change.

    card = json.load(open("NAME.json"))
    height, width = size_for(card, *image.shape[:2])  # image: uint8 (height, width, 3), RGB
    resized = ...  # with any library, to this size; smoothed when it shrinks, if card["preprocess"]["resize"] says so
    found = decode(card, run(inputs(card, resized)), (height, width), image.shape[:2])

`run` is the runtime, as `lambda given: dict(zip(names, session.run(names, given)))` of onnxruntime.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Card = dict[str, Any]
Arrays = dict[str, np.ndarray]


def size_for(card: Card, height: int, width: int) -> tuple[int, int]:
    """Height and width that an image is resized to."""
    short, long, within = (card["preprocess"]["resize"].get(name) for name in ("short", "long", "within"))
    shortest, longest = min(height, width), max(height, width)
    scale = min([limit / side for limit, side in ((short, shortest), (long, longest)) if limit], default=1.0)
    sides = [max(1, math.floor(side * scale)) for side in (height, width)]
    if not short and long:
        sides = [long if side == longest else scaled for side, scaled in zip((height, width), sides)]
    if within:
        scale = min(1.0, *(most / side for most, side in zip(within, sides)))
        sides = [max(1, math.floor(side * scale)) for side in sides]
    return sides[0], sides[1]


def inputs(card: Card, resized: np.ndarray) -> Arrays:
    """A resized image, uint8 `(height, width, 3)` RGB, as the graph takes it: padded at the right and bottom."""
    pad, (height, width) = card["preprocess"]["pad"], resized.shape[:2]
    step = pad["multiple_of"]
    room_hw = pad["size_hw"] or [-(-side // step) * step for side in (height, width)]
    room = np.empty((1, 3, *room_hw), np.float32)
    room[:] = np.array(pad["colour"], np.float32).reshape(3, 1, 1)
    room[0, :, :height, :width] = resized.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    return {"images": room, "sizes_hw": np.array([[height, width]], np.int64)}


def decode(
    card: Card,
    outputs: Arrays,
    resized_hw: tuple[int, int],
    whole_hw: tuple[int, int],
    score: float = 0.5,
    image: int = 0,
) -> list[dict[str, Any]]:
    """What was found in one image of a batch, best first: a list of dictionaries.

    outputs: of the graph, by name. resized_hw, whole_hw: height and width of the image as the graph saw it, and as it
    is; of a graph that takes whole images both are those of the image. Each object has `box` (x0, y0, x1, y1) in pixels
    of the whole image, `score`, `label`, `name`, `category_id`, and what its detector says beside them: `keypoints`
    `(K, 3)` (x, y, score) in these pixels, `masks` `(S, S)`, probabilities over the box, `cuboids` `(7,)`.
    """
    rows = slice(0, int(outputs["count"][image]))
    found = {name: values[image][rows] for name, values in outputs.items() if name != "count"}
    if card["selection"]["suppressed"] == "by the reader":
        index, scores = suppress(card["selection"], found["boxes"], found["scores"], found["labels"])
        found = {**{name: values[index] for name, values in found.items()}, "scores": scores}
    scale = np.array([whole_hw[1] / resized_hw[1], whole_hw[0] / resized_hw[0]], np.float32)  # x, y
    for name in {"boxes", "keypoints", "cuboids"} & found.keys():
        found[name] = found[name].copy()
        found[name][..., :2] *= scale
    found["boxes"][..., 2:] *= scale
    limits = np.array([whole_hw[1], whole_hw[0]] * 2, np.float32)
    found["boxes"] = np.clip(found["boxes"], 0, limits)
    classes = card["classes"]
    return [
        {
            "box": found["boxes"][row],
            "score": float(found["scores"][row]),
            "label": int(label),
            "name": classes["names"][label],
            "category_id": classes["ids"][label],
            **{name: found[name][row] for name in ("keypoints", "masks", "cuboids") if name in found},
        }
        for row, label in enumerate(found["labels"])
        if found["scores"][row] >= score
    ]


def suppress(
    selection: dict[str, Any], boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are kept of boxes that overlap, best first, and their scores; soft suppression lowers these."""
    method, threshold, most = selection["nms"], selection["nms_threshold"], selection["max_detections"]
    left = scores.copy()
    kept: list[tuple[int, float]] = []
    if method == "soft":
        left[left < 1e-3] = 0
    while len(kept) < most and left.size and left.max() > 0:
        best = int(left.argmax())
        kept.append((best, left[best]))
        near = overlaps(boxes[best], boxes) * (labels == labels[best] if method != "agnostic" else 1)
        if method == "soft":  # Bodla et al. 2017, equation 3
            left = left * np.exp(-np.square(near) / 0.5).astype(left.dtype)
            left[left < 1e-3] = 0
        elif method != "none":
            left[near > threshold] = 0
        left[best] = 0
    return np.array([row for row, _ in kept], int), np.array([value for _, value in kept], np.float32)


def overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of a box `(4,)` with each of `(N, 4)`, 0 where both are empty."""
    box, boxes = box.astype(np.float64), boxes.astype(np.float64)
    sides = np.clip(np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]), 0, None)
    areas = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)
    shared, own = sides.prod(axis=1), np.clip(box[2:] - box[:2], 0, None).prod()
    union = areas + own - shared
    shares: np.ndarray = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return shares
