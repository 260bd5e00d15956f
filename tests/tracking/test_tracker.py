"""Ids stay with their objects on drawn sequences: where they cross, are covered, come and go, and frames miss."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.tracking.sequences import CLASSES, SIZE_HW, Mover, Truth, seen

from aweigh.detections import Detections
from aweigh.errors import UsageError
from aweigh.geometry.boxes import pairwise_iou
from aweigh.tracking.tracker import TRAIL, Tracker

Frames = Sequence[tuple[Truth, Detections]]

CROSSING = [
    Mover(50, 200, 5, 0),
    Mover(590, 215, -5, 0),
    Mover(320, 20, 0, 4, label=0),
    Mover(340, 460, 0, -4, label=0),
]
BEHIND_A_WALL = [Mover(50, 240, 6, 0), Mover(320, 240, 0, 0, width=120, height=160, label=0)]
COMING_AND_GOING = [
    Mover(20, 100, 6, 0),
    Mover(20, 300, 6, 1, first=30),
    Mover(600, 200, -4, 0, first=50, last=90),
    Mover(300, 400, 0, -3, first=10),
]
CIRCLES = [Mover(320, 100, 6, 0, turn=0.03), Mover(320, 380, -6, 0, turn=0.03), Mover(100, 240, 0, 6, turn=-0.05)]
SCENES = {"crossing": CROSSING, "wall": BEHIND_A_WALL, "coming and going": COMING_AND_GOING, "circles": CIRCLES}


def tracked(frames: Frames, *, every: int = 1, tracker: Tracker | None = None) -> list[tuple[Truth, Detections]]:
    tracker = tracker or Tracker()
    return [
        (truth, tracker.update(found, frame))
        for frame, (truth, found) in enumerate(frames, start=1)
        if (frame - 1) % every == 0
    ]


def ids_of(frames: Frames) -> dict[int, set[int]]:
    """The ids that each object had, by its number, in frames where it stood apart from the others."""
    ids: dict[int, set[int]] = {}
    for truth, found in frames:
        assert found.track_ids is not None and len({*found.track_ids.tolist()}) == len(found)
        apart = (pairwise_iou(truth.boxes, truth.boxes) > 0).sum(axis=1) == 1
        overlaps = pairwise_iou(truth.boxes, found.boxes) * apart[:, None]
        for object, track in zip(*np.nonzero(overlaps > 0.6), strict=True):
            ids.setdefault(int(truth.ids[object]), set()).add(int(found.track_ids[track]))
    return ids


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("scene", SCENES)
def test_each_object_has_one_id_and_each_id_one_object(scene: str, every: int) -> None:
    movers = SCENES[scene]
    ids = ids_of(tracked(seen(movers, 110), every=every))
    assert ids.keys() == {*range(len(movers))}
    assert all(len(own) == 1 for own in ids.values()) and len(set.union(*ids.values())) == len(movers), ids


@pytest.mark.parametrize("scene", SCENES)
def test_hota_and_idf1(scene: str) -> None:
    """By TrackEval, which MOTChallenge counts with, of boxes with a pixel of noise and detections of nothing."""
    metrics = pytest.importorskip("trackeval.metrics")
    frames = tracked(seen(SCENES[scene], 110, wrong=0.3))
    there, given = ([*values] for values in zip(*((truth.ids, found.track_ids) for truth, found in frames)))
    tracks = np.unique(np.concatenate(given))
    given = [np.searchsorted(tracks, ids) for ids in given]
    data = {
        "gt_ids": there,
        "tracker_ids": given,
        "similarity_scores": [pairwise_iou(truth.boxes, found.boxes) for truth, found in frames],
        "num_gt_ids": len(SCENES[scene]),
        "num_tracker_ids": len(tracks),
        "num_gt_dets": sum(map(len, there)),
        "num_tracker_dets": sum(map(len, given)),
        "num_timesteps": len(frames),
    }
    hota = float(metrics.HOTA().eval_sequence(data)["HOTA"].mean())
    idf1 = float(metrics.Identity({"PRINT_CONFIG": False}).eval_sequence(data)["IDF1"])
    assert hota > 0.9 and idf1 > 0.95, (hota, idf1)


def test_weak_detections_go_on_with_a_track_and_begin_none() -> None:
    frames = seen(CROSSING, 110)
    with_weak, without = (
        sum(len(found) for _, found in tracked(frames, tracker=Tracker(low=low))) for low in (0.1, 0.6)
    )
    weak = sum(int((found.scores < 0.6).sum()) for _, found in frames)
    assert with_weak - without > weak / 2 > 0
    dim = [(truth, replace(found, scores=np.minimum(found.scores, np.float32(0.55)))) for truth, found in frames]
    assert sum(len(found) for _, found in tracked(dim)) == 0


def one(x: float = 0, score: float = 0.9, label: int = 1, path: str | None = None) -> Detections:
    box = [[x, 10, x + 40, 90]]
    return Detections.of(box, [score], [label], classes=CLASSES, size_hw=SIZE_HW, path=path)


def nothing(path: str | None = None) -> Detections:
    return one(path=path)[:0]


def ids(found: Detections) -> list[int]:
    assert found.track_ids is not None
    return found.track_ids.tolist()


def test_a_track_is_confirmed_by_its_second_frame_but_in_the_first() -> None:
    tracker = Tracker()
    assert ids(tracker.update(nothing())) == []
    assert ids(tracker.update(one(0))) == [] and ids(tracker.update(one(2))) == [1]
    assert ids(Tracker().update(one())) == [1]


def test_a_sure_detection_that_is_not_sure_enough_begins_no_track() -> None:
    tracker = Tracker()
    assert ids(tracker.update(one(score=0.65))) == ids(tracker.update(one(score=0.65))) == []
    assert ids(tracker.update(one(score=0.75))) == [] and ids(tracker.update(one(score=0.65))) == [1]


def test_what_is_seen_once_has_no_number() -> None:
    tracker = Tracker()
    tracker.update(nothing())
    tracker.update(one(400))
    tracker.update(one(0))
    assert ids(tracker.update(one(0))) == [1] and tracker.count == 1


@pytest.mark.parametrize("absent, id", [(30, 1), (31, None)])
def test_a_track_waits_thirty_frames(absent: int, id: int | None) -> None:
    tracker = Tracker()
    tracker.update(one())
    for _ in range(absent):
        assert ids(tracker.update(nothing())) == []
    assert ids(tracker.update(one())) == ([] if id is None else [id])
    assert ids(tracker.update(one())) == [id or 2]


def test_frames_that_are_left_out_count() -> None:
    tracker = Tracker(lost=5)
    tracker.update(one(), 1)
    assert ids(tracker.update(one(), 7)) == [1]
    assert ids(tracker.update(one(), 14)) == []
    with pytest.raises(UsageError, match="Frame 14 comes after frame 14"):
        tracker.update(one(), 14)


def test_frames_of_a_video_have_their_numbers() -> None:
    tracker = Tracker(lost=5)
    for number, expected in ((60, [1]), (66, [1]), (73, [])):  # the last comes after six frames without it
        found = replace(one(path=f"clip.mp4/{number:06d}"), frame_number=number)
        assert ids(tracker.update(found)) == expected
    other = replace(one(path="other.mp4/000000"), frame_number=0)
    assert ids(tracker.update(other)) == [2]


def test_a_frame_that_cannot_be_read_costs_no_track() -> None:
    tracker = Tracker(lost=0)
    tracker.update(one())
    bad = Detections.empty(CLASSES, error="cut short")
    assert tracker.update(bad) is bad
    assert ids(tracker.update(one())) == []  # it was unseen for a frame
    tracker = Tracker(lost=1)
    for found in (one(0), one(5), one(10), bad, one(20)):
        last = tracker.update(found)
    assert ids(last) == [1]


def test_objects_of_two_classes_are_two() -> None:
    tracker = Tracker()
    assert ids(tracker.update(Detections.joined([one(label=0), one(label=1, score=0.8)]))) == [1, 2]
    assert ids(tracker.update(one(label=1))) == [2]


def test_frames_of_another_folder_are_another_sequence() -> None:
    tracker = Tracker()
    assert ids(tracker.update(one(path="a/1.png"))) == [1] == ids(tracker.update(one(path="a/2.png")))
    assert ids(tracker.update(one(path="b/1.png"))) == [2]
    tracker.begin()
    assert ids(tracker.update(one(path="b/2.png"))) == [3]


def test_frames_whose_numbers_go_back_are_in_no_order() -> None:
    tracker = Tracker()
    for name in ("a/frame1.png", "a/frame10.png"):
        tracker.update(one(path=name))
    with pytest.raises(UsageError, match=r"frame2.png comes after frame10.png.*zeros"):
        tracker.update(one(path="a/frame2.png"))
    tracker.update(one(path="b/frame1.png"))
    tracker.update(one(path="b/other0.png"))


@pytest.mark.parametrize("shift, same", [(26.0, True), (27.5, False)])  # of a box 40 wide: an IoU of 0.21 and 0.19
@pytest.mark.parametrize("confirmed", [True, False])
def test_a_sure_detection_overlaps_its_track_by_a_fifth(shift: float, same: bool, confirmed: bool) -> None:
    tracker = Tracker()
    if not confirmed:
        tracker.update(nothing())
    tracker.update(one(100))
    assert ids(tracker.update(one(100 + shift))) == ([1] if same else [])


@pytest.mark.parametrize("shift, same", [(13.0, True), (14.0, False)])  # an IoU of 0.51 and 0.48
def test_a_weak_one_overlaps_it_by_a_half(shift: float, same: bool) -> None:
    tracker = Tracker()
    tracker.update(one(100))
    assert ids(tracker.update(one(100 + shift, score=0.2))) == ([1] if same else [])


def test_a_weak_one_finds_no_track_that_was_lost() -> None:
    tracker = Tracker()
    for found in (one(), nothing(), one(score=0.5)):
        last = tracker.update(found)
    assert ids(last) == [] and ids(tracker.update(one())) == [1]


def test_what_grew_when_it_was_lost_grows_no_more() -> None:
    tracker = Tracker()
    sizes = [40 + 8 * frame for frame in range(11)]
    boxes = [
        Detections.of([[300 - size / 4, 240 - size / 2, 300 + size / 4, 240 + size / 2]], [0.9], [1]) for size in sizes
    ]
    for found in [*boxes, *[boxes[0][:0]] * 25]:
        tracker.update(found)
    assert ids(tracker.update(boxes[-1])) == [1]


def test_a_trail_leads_to_where_the_object_is() -> None:
    tracker = Tracker()
    for frame in range(40):
        found = tracker.update(one(3 * frame))
        assert found.trails is not None and found.trails.shape == (1, TRAIL, 2)
        assert found.trails[0, -1].tolist() == [3 * frame + 20, 50]
        assert np.isfinite(found.trails[0, :, 0]).sum() == min(frame + 1, TRAIL)
    assert found.trails[0, 0].tolist() == [3 * 10 + 20, 50]


@pytest.mark.parametrize("label, expected", [(1, [[], [1]]), (0, [[2], [2]])])
def test_of_two_tracks_in_one_place_the_longer_stays(label: int, expected: list[list[int]]) -> None:
    """A track that comes to where an older one of its class was lost is that one."""
    tracker = Tracker()
    for _ in range(30):
        tracker.update(one(100))
    tracker.update(Detections.joined([one(100), one(145, label=label)]))
    found = [ids(tracker.update(one(x, label=label))) for x in range(145, 99, -3)]
    assert found[-2:] == expected and tracker.count == 2


def test_boxes_are_the_detectors_in_its_order() -> None:
    tracker = Tracker()
    found = Detections.joined([one(0, 0.95), one(300, 0.9), one(100, 0.3)])
    kept = tracker.update(found)
    assert kept == replace(found[:2], track_ids=kept.track_ids, trails=kept.trails)


@pytest.mark.parametrize(
    "wrong, said", [({"high": 1.5}, "high = 1.5"), ({"low": 0.7}, "low = 0.7, high = 0.6"), ({"lost": -1}, "lost = -1")]
)
def test_thresholds_that_cannot_be(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Tracker(**wrong)  # type: ignore[arg-type]
