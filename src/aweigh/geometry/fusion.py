"""Weighted box fusion: boxes of several predictions of one image become their mean, none of them is thrown away.

Paper: Solovyev, Wang and Gabruseva, "Weighted boxes fusion: Ensembling boxes from different object detection models",
Image and Vision Computing 2021 (arXiv 1910.13302), section 3. Every model has the weight 1 here.
"""

import numpy as np

from aweigh.geometry.boxes import pairwise_iou

IOU_THRESHOLD = 0.55  # the authors'


def weighted_box_fusion(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, *, predictions: int, iou_threshold: float = IOU_THRESHOLD
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fuse boxes of one class that overlap: `(boxes [M, 4], scores [M], index [M])`, best first.

    boxes: `[N, 4]` float32 xyxy; scores: `[N]` in `[0, 1]`, a row with 0 is empty; labels: `[N]`. predictions: how many
    put their boxes together here. Best first, each box goes to the fused box of its class with which its IoU is
    highest, if that is above `iou_threshold`, else it opens a new one. Corners are the mean weighted by scores. The
    score is the mean, times min(T, N) / N where T boxes of N predictions came together: fewer agree, less is sure.
    index: the best row of each fused box, which opened it. Computed in float64, box after box.
    """
    rows = np.argsort(-scores, kind="stable")
    rows = rows[scores[rows] > 0]
    of_class = labels[rows]
    corners, confidences = boxes[rows].astype(np.float64), scores[rows].astype(np.float64)
    fused, means, first = [np.zeros((0, 4))], [np.zeros(0)], [np.zeros(0, dtype=np.int64)]
    for label in np.unique(of_class):
        own = of_class == label
        *result, opened = _fuse(corners[own], confidences[own], predictions, iou_threshold)
        fused.append(result[0])
        means.append(result[1])
        first.append(rows[own][opened])
    made, scored, index = np.concatenate(fused), np.concatenate(means), np.concatenate(first)
    best = np.argsort(-scored, kind="stable")
    return made[best].astype(boxes.dtype), scored[best].astype(scores.dtype), index[best]


def _fuse(
    boxes: np.ndarray, scores: np.ndarray, predictions: int, iou_threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of one class: boxes `[N, 4]` and scores `[N]`, best first, to boxes, scores and first rows `[M]`."""
    fused, sums, counts = np.zeros_like(boxes), np.zeros_like(scores), np.zeros(len(boxes), dtype=np.int64)
    weighted = np.zeros_like(boxes)  # sum of scores times corners
    first = np.zeros(len(boxes), dtype=np.int64)
    number = 0
    for row, (box, score) in enumerate(zip(boxes, scores)):
        overlaps = pairwise_iou(box[None], fused[:number])[0]
        at = int(overlaps.argmax()) if number else 0
        if number == 0 or overlaps[at] <= iou_threshold:
            at, number = number, number + 1
            first[at] = row
        weighted[at] += score * box
        sums[at] += score
        counts[at] += 1
        fused[at] = weighted[at] / sums[at]
    together = counts[:number]
    means = sums[:number] / together * np.minimum(together, predictions) / predictions
    return fused[:number], means, first[:number]
