"""How well ids stay with their objects on drawn sequences, and what that takes: `aweigh.Tracker` beside its peers.

    pip install trackers trackeval; python -m benchmarks.tracking --markdown benchmarks/results/tracking.md

Objects move in lines and circles over an image of 640 x 480, come in and go out at its border, cross and cover each
other. The detections of each frame are the true boxes with noise; what is covered has a low score or is not found, and
some are of nothing. Every tracker is given the same, with its own defaults. HOTA and IDF1 are TrackEval's, over all
sequences together. The time is the processor's, of the updates alone.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tests.tracking.sequences import SIZE_HW, Mover, Truth, seen
from trackeval.metrics import CLEAR, HOTA, Identity

from aweigh.detections import Detections
from aweigh.geometry.boxes import pairwise_iou
from aweigh.tracking.tracker import Tracker

FRAMES, SEQUENCES = 200, 20
Update = Callable[[Detections, int], tuple[np.ndarray, np.ndarray]]  # boxes and ids of a frame of this number


def ours(**thresholds: Any) -> Update:
    tracker = Tracker(**thresholds)

    def update(found: Detections, frame: int) -> tuple[np.ndarray, np.ndarray]:
        kept = tracker.update(found, frame)
        assert kept.track_ids is not None
        return kept.boxes, kept.track_ids

    return update


def theirs(name: str) -> Update:
    import supervision
    import trackers

    tracker = getattr(trackers, name)()

    def update(found: Detections, frame: int) -> tuple[np.ndarray, np.ndarray]:
        given = supervision.Detections(xyxy=found.boxes, confidence=found.scores, class_id=found.labels)
        kept = tracker.update(given)
        known = kept.tracker_id >= 0
        return kept.xyxy[known], kept.tracker_id[known]

    return update


TRACKERS: dict[str, Callable[[], Update]] = {
    "aweigh.Tracker": ours,
    "aweigh.Tracker, weak detections left out": partial(ours, low=0.6),
    "trackers.ByteTrackTracker": partial(theirs, "ByteTrackTracker"),
    "trackers.SORTTracker": partial(theirs, "SORTTracker"),
    "trackers.OCSORTTracker": partial(theirs, "OCSORTTracker"),
}


def movers(seed: int, count: int) -> list[Mover]:
    """Objects that come in at the left or right border at any time, a third of them on circles."""
    random = np.random.default_rng([seed, 1])
    made = []
    for number in range(count):
        speed, slope = random.uniform(2, 7), random.uniform(-0.5, 0.5)
        from_left = random.random() < 0.5
        height = random.uniform(40, 110)
        made.append(
            Mover(
                x=1.0 if from_left else SIZE_HW[1] - 1.0,
                y=random.uniform(0.15, 0.85) * SIZE_HW[0],
                dx=speed * math.cos(slope) * (1 if from_left else -1),
                dy=speed * math.sin(slope),
                width=height * random.uniform(0.4, 0.7),
                height=height,
                first=int(random.integers(0, FRAMES - 40)),
                turn=random.uniform(-0.02, 0.02) if number % 3 == 0 else 0.0,
            )
        )
    return made


def measured(frames: Sequence[tuple[Truth, np.ndarray, np.ndarray]]) -> dict[str, dict[str, Any]]:
    """TrackEval's numbers of one sequence. frames: what is there, the boxes and the ids of a tracker."""
    there, given = ([*ids] for ids in zip(*((truth.ids, ids) for truth, _, ids in frames)))
    objects, tracks = np.unique(np.concatenate(there)), np.unique(np.concatenate(given))
    data = {
        "gt_ids": [np.searchsorted(objects, ids) for ids in there],
        "tracker_ids": [np.searchsorted(tracks, ids) for ids in given],
        "similarity_scores": [pairwise_iou(truth.boxes, boxes) for truth, boxes, _ in frames],
        "num_gt_ids": len(objects),
        "num_tracker_ids": len(tracks),
        "num_gt_dets": sum(map(len, there)),
        "num_tracker_dets": sum(map(len, given)),
        "num_timesteps": len(frames),
    }
    return {name: metric.eval_sequence(data) for name, metric in METRICS.items()}


METRICS = {
    "HOTA": HOTA(),
    "Identity": Identity({"PRINT_CONFIG": False}),
    "CLEAR": CLEAR({"PRINT_CONFIG": False}),
}


def row(name: str, count: int, every: int) -> str:
    """A line of the table: one tracker over all sequences, each n-th frame alone."""
    each: dict[str, dict[str, Any]] = {key: {} for key in METRICS}
    seconds = looked_at = 0.0
    for seed in range(SEQUENCES):
        update, frames = TRACKERS[name](), []
        for number, (truth, found) in enumerate(seen(movers(seed, count), FRAMES, seed=seed, noise=1.5, wrong=1.0)):
            if number % every:
                continue
            given = replace(found, labels=np.ones_like(found.labels))
            start = time.process_time()
            boxes, ids = update(given, number + 1)
            seconds += time.process_time() - start
            looked_at += 1
            frames.append((truth, boxes, ids))
        for key, numbers in measured(frames).items():
            each[key][str(seed)] = numbers
    hota, identity, clear = (METRICS[key].combine_sequences(each[key]) for key in METRICS)
    numbers = [100 * hota["HOTA"].mean(), 100 * hota["AssA"].mean(), 100 * identity["IDF1"]]
    cells = [*(f"{number:.1f}" for number in numbers), f"{clear['IDSW']:.0f}", f"{1000 * seconds / looked_at:.2f}"]
    return f"| {name} | {' | '.join(cells)} |"


def table() -> Iterator[str]:
    for count, every in ((12, 1), (12, 3), (60, 1)):
        frames = "every frame" if every == 1 else f"one of {every} frames"
        yield f"\n{count} objects, {frames}:\n"
        yield "| tracker | HOTA | AssA | IDF1 | id switches | ms per frame |"
        yield "|---|---|---|---|---|---|"
        for name in TRACKERS:
            yield row(name, count, every)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", type=Path, help="write the tables to this file too")
    arguments = parser.parse_args()
    lines = []
    for line in table():
        print(line, flush=True)
        lines.append(line)
    if arguments.markdown is not None:
        made = f"`python -m benchmarks.tracking`: {SEQUENCES} sequences of {FRAMES} frames."
        text = "\n".join(["# Tracks on drawn sequences", "", made, *lines, ""])
        arguments.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
