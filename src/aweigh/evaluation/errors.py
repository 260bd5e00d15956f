"""What a detector gets wrong: precision over recall, the score to deploy at, the confusion matrix, the worst images.

`match_results` decides once which detection found which object; everything else reads that. The matching is COCO's,
done by hotcoco, the same that AP is made of: within an image and class, best score first, each object once; what lies
in a crowd region of its class is neither right nor wrong, and of each class only the best `max_detections` count.

How ours differs from confusion matrices elsewhere (hotcoco's too): these match across all classes at once, so that a
detection may be taken for the object of another class although its own has found it, and the matrix contradicts
precision and recall. Here an object found by its own class stays so; only what is left over is matched across classes.
Hence the diagonal over the sum of its column is the precision, and over the sum of its row the recall.

Legend: I images, D detections, N objects, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import hotcoco
import numpy as np

from aweigh.errors import UsageError, counted
from aweigh.evaluation.overlaps import corners, paired_iou, pairs_of_same
from aweigh.evaluation.records import GroundTruth, Results, class_names, read_both

NEAR = 0.1  # below this IoU a detection has nothing to do with an object (Bolya et al., TIDE, ECCV 2020, section 2.2)

NOTHING_THERE = "nothing there"  # what a detection is that no object is near


def match_results(
    ground_truth: GroundTruth, results: Results, *, iou: float = 0.5, max_detections: int = 100, own_ids: bool = False
) -> Matches:
    """Which detection found which object at one overlap, over all images of the ground truth.

    ground_truth: a COCO dictionary or its JSON file. results: COCO box results, or the JSON file that holds them;
    own_ids: as for `evaluate_coco`.
    """
    if not 0 < iou < 1 or max_detections < 1:
        raise UsageError(f"match_results: iou must be in (0, 1) and max_detections above 0: {iou}, {max_detections}.")
    truth, found = read_both(ground_truth, results, own_ids=own_ids)
    coco = hotcoco.COCO(truth)
    evaluation = hotcoco.COCOeval(coco, coco.load_res(found), "bbox")
    evaluation.params.iou_thrs = [iou]
    evaluation.params.area_rng, evaluation.params.area_rng_lbl = [[0.0, 1e10]], ["all"]
    evaluation.params.max_dets = [max_detections]
    evaluation.evaluate()
    judged = evaluation.image_diagnostics(iou_thr=iou)  # detections are numbered from 1, in the order of `found`
    evaluation.accumulate()

    names = class_names(truth["categories"])
    image_row = {number: row for row, number in enumerate(sorted(image["id"] for image in truth["images"]))}
    label = {category: row for row, category in enumerate(names)}
    objects = truth["annotations"]
    row_of = {annotation["id"]: row for row, annotation in enumerate(objects)}
    status = [judged["dt_status"].get(number) for number in range(1, len(found) + 1)]
    matched = [judged["dt_match"].get(number) for number in range(1, len(found) + 1)]
    return Matches(
        names=tuple(names.values()),
        image_ids=np.array(list(image_row), dtype=np.int64),
        iou=iou,
        precision=(evaluation.eval or {})["precision"][0, :, :, 0, 0].T.copy(),
        image=np.array([image_row[entry["image_id"]] for entry in found], dtype=np.int64),
        label=np.array([label[entry["category_id"]] for entry in found], dtype=np.int64),
        score=np.array([entry["score"] for entry in found], dtype=np.float64),
        box=corners(found),
        counted=np.array([entry is not None for entry in status], dtype=bool),
        object=np.array([-1 if number is None else row_of[number] for number in matched], dtype=np.int64),
        object_image=np.array([image_row[entry["image_id"]] for entry in objects], dtype=np.int64),
        object_label=np.array([label[entry["category_id"]] for entry in objects], dtype=np.int64),
        object_box=corners(objects),
        ignored=np.array([entry["iscrowd"] for entry in objects], dtype=bool),
    )


@dataclass(frozen=True, eq=False)
class Matches:
    """Detections and objects of a whole split, and which belong together.

    names: class names in label order. image_ids: `[I]`. precision: `[C, 101]`, COCO's precision at the recalls
    0, 0.01, ... 1, -1 for a class without objects. Per detection: image, label `[D]` int64, score `[D]`, box `[D, 4]`
    xyxy, counted `[D]` bool (False in a crowd region or beyond `max_detections`), object `[D]`, the row of the object
    it found or -1. Per object: object_image, object_label `[N]`, object_box `[N, 4]`, ignored `[N]` bool.
    """

    names: tuple[str, ...]
    image_ids: np.ndarray
    iou: float
    precision: np.ndarray
    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    box: np.ndarray
    counted: np.ndarray
    object: np.ndarray
    object_image: np.ndarray
    object_label: np.ndarray
    object_box: np.ndarray
    ignored: np.ndarray


# --- precision, recall and the score to deploy at -----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """One class, or all together, at one overlap.

    AP: the mean of `curve`, -1 without objects. curve: `[101]`, COCO's precision at the recalls 0, 0.01, ... 1.
    scores: `[K]`, the different scores, falling; precision, recall, f1: `[K]`, of the detections with at least that
    score. best: the row of the highest F1 (of the highest score where several are equal), -1 if nothing was found.
    """

    name: str
    objects: int
    AP: float
    curve: np.ndarray
    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    best: int

    @property
    def best_score(self) -> float | None:
        """The score threshold with the highest F1."""
        return float(self.scores[self.best]) if self.best >= 0 else None

    def to_dict(self) -> dict[str, float | int | None]:
        """The operating point: `score`, `precision`, `recall`, `f1`, with `objects` and `AP`; ready for JSON."""
        values = {name: getattr(self, name) for name in ("precision", "recall", "f1")}
        point = {name: float(value[self.best]) if self.best >= 0 else None for name, value in values.items()}
        return {"score": self.best_score, **point, "objects": self.objects, "AP": self.AP}


def precision_recall(matches: Matches) -> list[PrecisionRecall]:
    """One entry for each class, in label order."""
    return [
        _precision_recall(
            matches, name, matches.label == label, matches.object_label == label, matches.precision[label]
        )
        for label, name in enumerate(matches.names)
    ]


def precision_recall_of_all(matches: Matches) -> PrecisionRecall:
    """All detections and objects counted together, whatever their class: for one threshold that suits all.

    Its `curve` and `AP` are the means over the classes that have objects, as in COCO's AP50.
    """
    defined = matches.precision[(matches.precision > -1).all(axis=1)]
    curve = defined.mean(axis=0) if len(defined) else np.full(101, -1.0)
    everything = np.ones(len(matches.label), dtype=bool), np.ones(len(matches.object_label), dtype=bool)
    return _precision_recall(matches, "all classes", *everything, curve)


def _precision_recall(
    matches: Matches, name: str, detections: np.ndarray, objects: np.ndarray, curve: np.ndarray
) -> PrecisionRecall:
    number = int((objects & ~matches.ignored).sum())
    rows = np.flatnonzero(detections & matches.counted)
    rows = rows[np.argsort(-matches.score[rows], kind="stable")]
    score, right = matches.score[rows], np.cumsum(matches.object[rows] >= 0)
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True)) if len(rows) else rows  # a threshold takes all ties
    right, taken = right[last], last + 1
    f1 = 2 * right / np.maximum(taken + number, 1)
    best = int(np.argmax(f1)) if number and right.any() else -1
    return PrecisionRecall(
        name=name,
        objects=number,
        AP=float(curve.mean()),
        curve=curve,
        scores=score[last],
        precision=right / taken,
        recall=right / max(number, 1),
        f1=f1,
        best=best,
    )


# --- which class is taken for which ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ConfusionMatrix:
    """counts: `[C + 1, C + 1]` int64. Rows are the truth, columns what was predicted.

    The last column holds the objects that nothing found, the last row the detections that found nothing: background,
    doubles, and those too far off. Detections with at least `min_score` count; they find an object from `iou` on.
    """

    names: tuple[str, ...]
    counts: np.ndarray
    min_score: float
    iou: float

    def to_dict(self) -> dict[str, object]:
        """Ready for JSON."""
        thresholds = {"min_score": self.min_score, "iou": self.iou}
        return {"names": list(self.names), "counts": self.counts.tolist(), "rows": "truth", **thresholds}


def confusion_matrix(matches: Matches, *, min_score: float) -> ConfusionMatrix:
    """Each object and each counted detection of at least `min_score` once, the pairs together."""
    classes = len(matches.names)
    found_by, other = _pairs(matches, min_score)
    real = np.flatnonzero(~matches.ignored)
    predicted = np.append(matches.label, classes)[found_by[real]]  # -1, nothing, is the last
    counts = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    np.add.at(counts, (matches.object_label[real], predicted), 1)
    alone = _shown(matches, min_score) & (matches.object < 0) & (other < 0)
    np.add.at(counts, (np.full(int(alone.sum()), classes), matches.label[alone]), 1)
    return ConfusionMatrix(matches.names, counts, min_score, matches.iou)


def _shown(matches: Matches, min_score: float) -> np.ndarray:
    return matches.counted & (matches.score >= min_score)


def _pairs(matches: Matches, min_score: float) -> tuple[np.ndarray, np.ndarray]:
    """found_by: for each object the detection that found it, of its own class or another, or -1, `[N]`.

    other: for each detection the object of another class that it found, or -1, `[D]`. Left-over pairs are taken by
    overlap, the largest first.
    """
    shown = _shown(matches, min_score)
    found_by, other = np.full(len(matches.ignored), -1), np.full(len(matches.label), -1)
    right = np.flatnonzero(shown & (matches.object >= 0))
    found_by[matches.object[right]] = right
    detection, thing, overlap = _overlaps(matches, shown & (matches.object < 0), (found_by < 0) & ~matches.ignored)
    candidates = (overlap >= matches.iou) & (matches.label[detection] != matches.object_label[thing])
    for pair in np.flatnonzero(candidates)[np.argsort(-overlap[candidates], kind="stable")].tolist():
        if found_by[thing[pair]] < 0 and other[detection[pair]] < 0:
            found_by[thing[pair]], other[detection[pair]] = detection[pair], thing[pair]
    return found_by, other


def _overlaps(
    matches: Matches, detections: np.ndarray, objects: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair of the chosen detections and objects of one image: rows of both, and their IoU, `[P]` each."""
    rows, things = np.flatnonzero(detections), np.flatnonzero(objects)
    row, thing = pairs_of_same(matches.image[rows], matches.object_image[things])
    row, thing = rows[row], things[thing]
    return row, thing, paired_iou(matches.box[row], matches.object_box[thing])


# --- the images where most is wrong ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageErrors:
    """One image and its mistakes.

    cost: objects not found plus the scores of wrong detections, by which images are ranked. reason: in words.
    missed, confused, poor: rows of objects (in `Matches`) that nothing found, that were found as another class, whose
    best detection of their class lies too far off (IoU from 0.1 up to the threshold). right, wrong: rows of
    detections; notes: for each wrong one what it is.
    """

    image_id: int
    cost: float
    reason: str
    missed: tuple[int, ...]
    confused: tuple[int, ...]
    poor: tuple[int, ...]
    right: tuple[int, ...]
    wrong: tuple[int, ...]
    notes: tuple[str, ...]


def worst_images(matches: Matches, *, min_score: float, number: int = 12) -> list[ImageErrors]:
    """The images with the most mistakes, the worst first; images without a mistake are left out."""
    shown = _shown(matches, min_score)
    found_by, other = _pairs(matches, min_score)
    lost = ~matches.ignored & ((found_by < 0) | (np.append(other, -1)[found_by] >= 0))
    wrong = shown & (matches.object < 0)
    images = len(matches.image_ids)
    cost = np.bincount(matches.object_image[lost], minlength=images).astype(np.float64)
    cost += np.bincount(matches.image[wrong], weights=matches.score[wrong], minlength=images)
    chosen = np.argsort(-cost, kind="stable")[:number]
    return [_image_errors(matches, image, shown, found_by, other) for image in chosen.tolist() if cost[image] > 0]


def _image_errors(
    matches: Matches, image: int, shown: np.ndarray, found_by: np.ndarray, other: np.ndarray
) -> ImageErrors:
    mine, things = matches.image == image, (matches.object_image == image) & ~matches.ignored
    right = np.flatnonzero(mine & shown & (matches.object >= 0))
    wrong = np.flatnonzero(mine & shown & (matches.object < 0))
    wrong = wrong[np.argsort(-matches.score[wrong], kind="stable")]
    confused = np.flatnonzero(things & (np.append(other, -1)[found_by] >= 0))  # row -1, nothing, is the last
    unfound = np.flatnonzero(things & (found_by < 0))
    detection, thing, overlap = _overlaps(matches, mine & shown & (matches.object < 0), things)
    same = matches.label[detection] == matches.object_label[thing]

    nearest = {row: float(overlap[same & (thing == row)].max(initial=0.0)) for row in unfound.tolist()}
    poor = [row for row in nearest if nearest[row] >= NEAR]
    missed = [row for row in nearest if nearest[row] < NEAR]
    notes = []
    for row in wrong.tolist():
        of_row = detection == row
        best = float(overlap[of_row & same].max(initial=0.0))
        if other[row] >= 0:
            notes.append(f"is {matches.names[matches.object_label[other[row]]]}")
        elif best >= matches.iou:
            notes.append("double")
        elif best >= NEAR:
            notes.append(f"IoU {best:.2f}")
        else:
            notes.append(NOTHING_THERE)
    parts = [f"{len(missed)} missed ({_tally(matches, missed)})"] * bool(missed)
    parts += [f"{len(confused)} taken for another class ({_tally(matches, confused)})"] * bool(len(confused))
    parts += [f"{len(poor)} poorly placed (IoU {', '.join(f'{nearest[row]:.2f}' for row in poor[:3])})"] * bool(poor)
    for kind, words in ((NOTHING_THERE, "false"), ("double", "found twice")):
        scores = [
            f"{matches.names[matches.label[r]]} {matches.score[r]:.2f}" for r, n in zip(wrong, notes) if n == kind
        ]
        parts += [f"{len(scores)} {words} ({', '.join(scores[:2])}{', ...' if len(scores) > 2 else ''})"] * bool(scores)
    return ImageErrors(
        image_id=int(matches.image_ids[image]),
        cost=float(len(confused) + len(unfound) + matches.score[wrong].sum()),
        reason=f"of {counted(int(things.sum()), 'object')}: {'; '.join(parts)}" if things.any() else "; ".join(parts),
        missed=tuple(missed),
        confused=tuple(confused.tolist()),
        poor=tuple(poor),
        right=tuple(right.tolist()),
        wrong=tuple(wrong.tolist()),
        notes=tuple(notes),
    )


def _tally(matches: Matches, rows: list[int] | np.ndarray) -> str:
    """ "3 RBC, 1 WBC": the classes of objects, the most frequent first."""
    labels = np.bincount(matches.object_label[rows], minlength=len(matches.names))
    order = [label for label in np.argsort(-labels, kind="stable").tolist() if labels[label]]
    shown = [f"{labels[label]} {matches.names[label]}" for label in order[:3]]
    return ", ".join(shown + ["..."] * (len(order) > 3))
