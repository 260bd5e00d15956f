"""Box functions against torchvision and against properties."""

from types import SimpleNamespace

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from aweigh.ops import boxes as box_ops


def test_areas_and_pairwise_iou_equal_torchvision(random_boxes) -> None:
    boxes, others = random_boxes(40), random_boxes(30, seed=1)
    torch.testing.assert_close(box_ops.areas(boxes), torchvision.ops.box_area(boxes))
    torch.testing.assert_close(box_ops.pairwise_iou(boxes, others), torchvision.ops.box_iou(boxes, others))


def test_iou_family_equals_torchvision(random_boxes) -> None:
    boxes, others = random_boxes(40), random_boxes(40, seed=1)
    pairs = {
        box_ops.aligned_iou: torchvision.ops.box_iou,
        box_ops.aligned_giou: torchvision.ops.generalized_box_iou,
        box_ops.aligned_diou: torchvision.ops.distance_box_iou,
        box_ops.aligned_ciou: torchvision.ops.complete_box_iou,
    }
    for ours, reference in pairs.items():
        torch.testing.assert_close(ours(boxes, others), reference(boxes, others).diagonal(), rtol=1e-5, atol=1e-5)


def test_empty_boxes_have_no_overlap_and_no_nan() -> None:
    empty = torch.zeros(2, 4)
    assert box_ops.pairwise_iou(empty, empty).eq(0).all()
    for function in (box_ops.aligned_giou, box_ops.aligned_diou):
        assert function(empty, empty).isfinite().all()
    assert box_ops.pairwise_iou(torch.zeros(0, 4), empty).shape == (0, 2)


coordinate = st.floats(-500, 500, width=32)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate, coordinate, coordinate), min_size=1, max_size=8)
)
def test_distances_decode_to_the_boxes_they_encode(rows: list[tuple[float, ...]]) -> None:
    points, boxes = torch.tensor(rows)[:, :2], torch.tensor(rows)[:, 2:]
    decoded = box_ops.decode_distances(points, box_ops.encode_distances(points, boxes))
    torch.testing.assert_close(decoded, boxes, atol=1e-3, rtol=0)


def test_distances_are_left_top_right_bottom() -> None:
    distances = box_ops.encode_distances(torch.tensor([[10.0, 20.0]]), torch.tensor([[7.0, 18.0, 15.0, 29.0]]))
    assert distances.tolist() == [[3.0, 2.0, 5.0, 9.0]]


def test_clip_uses_each_images_own_size() -> None:
    boxes = torch.tensor([[-5.0, -5.0, 500.0, 500.0]]).expand(2, 1, 4)
    clipped = box_ops.clip(boxes, torch.tensor([[50, 60], [70, 80]]))
    assert clipped[:, 0].tolist() == [[0, 0, 60, 50], [0, 0, 80, 70]]


def test_grid_points_run_row_by_row() -> None:
    points = box_ops.grid_points(2, 3, (8, 4), (1, 2), like=torch.zeros(1))
    assert points.tolist() == [[2, 1], [6, 1], [10, 1], [2, 9], [6, 9], [10, 9]]


def suppress(boxes, scores, labels, **options):
    (index,), (kept,), (count,) = box_ops.non_maximum_suppression(
        boxes[None], scores[None], labels[None], max_detections=50, **options
    )
    assert index.shape == kept.shape == (50,)
    assert (kept[:count] > 0).all() and (kept[count:] == 0).all()
    return index[:count], kept[:count]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [0, 1, 40])
def test_hard_suppression_equals_torchvision(random_boxes, seed: int, count: int) -> None:
    boxes = random_boxes(count, seed, scale=30)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(count, generator=generator) + 0.01
    labels = torch.randint(0, 3, (count,), generator=generator)
    index, kept = suppress(boxes, scores, labels, iou_threshold=0.5)
    expected = torchvision.ops.batched_nms(boxes, scores, labels, 0.5)
    assert torch.equal(index, expected)
    assert torch.equal(kept, scores[expected])
    index, _ = suppress(boxes, scores, labels, iou_threshold=0.5, method="agnostic")
    assert torch.equal(index, torchvision.ops.nms(boxes, scores, 0.5))


@pytest.mark.parametrize("overlap", [0.01, 0.5, 0.99])
def test_looking_at_the_best_only_changes_nothing(random_boxes, overlap: float) -> None:
    """2,000 boxes and 50 wanted: at the lowest threshold the best 500 are not enough, and all are looked at."""
    boxes, labels = random_boxes(2000, scale=60), torch.zeros(2000, dtype=torch.int64)
    scores = torch.rand(2000, generator=torch.Generator().manual_seed(0)) + 0.01
    index, _ = suppress(boxes, scores, labels, iou_threshold=overlap)
    assert torch.equal(index, torchvision.ops.nms(boxes, scores, overlap)[:50])


def test_rows_without_score_are_never_returned(random_boxes) -> None:
    boxes, labels = random_boxes(20, scale=1000), torch.zeros(20, dtype=torch.int64)
    scores = torch.linspace(0.1, 0.9, 20)
    scores[::2] = 0
    for method in ("class", "agnostic", "soft", "none"):
        index, _ = suppress(boxes, scores, labels, iou_threshold=0.99, method=method)
        assert sorted(index.tolist()) == list(range(1, 20, 2)), method


def test_far_classes_do_not_move_boxes() -> None:
    """With 1,000 classes on a 1,333 px image a float32 shift would lose 0.1 px; the overlap decides at 0.01 px here."""
    boxes = torch.tensor([[0.0, 0.0, 100.0, 100.0], [0.0, 0.0, 100.0, 60.01], [0.0, 0.0, 1333.0, 1.0]])
    labels = torch.tensor([999, 999, 0])
    index, _ = suppress(boxes, torch.tensor([0.9, 0.8, 0.7]), labels, iou_threshold=0.6)
    assert index.tolist() == [0, 2]
    boxes[1, 3] = 59.99
    assert len(suppress(boxes, torch.tensor([0.9, 0.8, 0.7]), labels, iou_threshold=0.6)[0]) == 3


@pytest.mark.parametrize("method", ["class", "agnostic", "none", "soft"])
def test_an_exported_suppression_gives_the_same_however_little_is_found(random_boxes, method: str) -> None:
    class Suppression(torch.nn.Module):
        def forward(self, *rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return box_ops.non_maximum_suppression(*rows, iou_threshold=0.5, max_detections=20, method=method)

    boxes, scores, labels = random_boxes(30), torch.linspace(0.9, 0.1, 30), torch.arange(30) % 3
    two = boxes.expand(2, -1, -1), scores.expand(2, -1), labels.expand(2, -1)
    batch = torch.export.Dim("batch")
    program = torch.export.export(Suppression(), two, strict=False, dynamic_shapes=[({0: batch},) * 3]).module()
    for counts in ((0, 0), (0, 1), (2, 30, 3)):
        few = torch.stack([torch.where(torch.arange(30) < count, scores, 0).flip(0) for count in counts])
        rows = boxes.expand(len(few), -1, -1), few, labels.expand(len(few), -1)
        for expected, got in zip(Suppression()(*rows), program(*rows), strict=True):
            torch.testing.assert_close(got, expected)


def test_soft_suppression_equals_the_written_out_algorithm(random_boxes) -> None:
    boxes, scores = random_boxes(25, scale=30), torch.linspace(0.05, 0.95, 25)
    labels = torch.arange(25) % 2
    index, kept = suppress(boxes, scores, labels, iou_threshold=0.5, method="soft")

    left = {row: float(scores[row]) for row in range(25)}
    expected = []
    while left:
        best = max(left, key=lambda row: left[row])
        score = left.pop(best)
        if score < 1e-3:
            break
        expected.append((best, score))
        for row in left:
            if labels[row] == labels[best]:
                overlap = float(torchvision.ops.box_iou(boxes[best : best + 1], boxes[row : row + 1]))
                left[row] *= float(torch.exp(torch.tensor(-(overlap**2) / 0.5)))
    assert index.tolist() == [row for row, _ in expected]
    torch.testing.assert_close(kept, torch.tensor([score for _, score in expected]), atol=1e-5, rtol=1e-5)


def test_levels_are_suppressed_together_and_cut_off_where_the_image_ends() -> None:
    first = torch.tensor([[[0.0, 0, 10, 10], [30, 30, 90, 60]]]), torch.tensor([[0.5, 0.4]]), torch.tensor([[1, 0]])
    second = torch.tensor([[[0.0, 1, 10, 11]]]), torch.tensor([[0.9]]), torch.tensor([[1]])
    rules = SimpleNamespace(nms="class", nms_threshold=0.5, max_detections=4)
    boxes, scores, labels, count = box_ops.select_levels([first, second], torch.tensor([[50, 60]]), rules)
    assert count.tolist() == [2] and labels[0, :2].tolist() == [1, 0]
    assert boxes[0, :2].tolist() == [[0, 1, 10, 11], [30, 30, 60, 50]]
    torch.testing.assert_close(scores, torch.tensor([[0.9, 0.4, 0, 0]]))
    rules.nms, rules.max_detections = "none", 3
    assert box_ops.select_levels([first, second], torch.tensor([[50, 60]]), rules)[3].tolist() == [3]
