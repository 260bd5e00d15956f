"""Losses against torchvision, against written-out formulas, and in the corners where others give NaN."""

import math

import pytest
import torch
import torchvision

from aweigh.ops import losses


def test_focal_loss_equals_torchvision() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(50, 7) * 4, torch.randint(0, 2, (50, 7)).float()
    for alpha, gamma in ((0.25, 2.0), (0.5, 1.5)):
        expected = torchvision.ops.sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma)
        torch.testing.assert_close(losses.sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma), expected)


def test_focal_sum_equals_the_one_hot_form_and_its_gradient() -> None:
    torch.manual_seed(0)
    labels = torch.randint(-2, 7, (200,))
    one_hot = torch.nn.functional.one_hot(labels.clamp(min=0), 7).float() * (labels >= 0)[:, None]
    first = (torch.randn(200, 7) * 3).requires_grad_()
    second = first.detach().clone().requires_grad_()
    ours = losses.sigmoid_focal_loss_sum(first, labels)
    reference = torchvision.ops.sigmoid_focal_loss(second[labels != -2], one_hot[labels != -2], reduction="sum")
    torch.testing.assert_close(ours, reference)
    ours.backward()
    reference.backward()
    torch.testing.assert_close(first.grad, second.grad, atol=1e-6, rtol=1e-4)
    assert first.grad[labels == -2].eq(0).all()


def test_focal_loss_is_finite_for_extreme_logits() -> None:
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    total = losses.sigmoid_focal_loss_sum(logits, torch.tensor([0, -1]))
    total.backward()
    assert total.isfinite() and logits.grad.isfinite().all()


def test_box_losses_equal_torchvision(random_boxes) -> None:
    boxes, targets = random_boxes(60), random_boxes(60, seed=1)
    pairs = {
        "giou": torchvision.ops.generalized_box_iou_loss,
        "diou": torchvision.ops.distance_box_iou_loss,
        "ciou": torchvision.ops.complete_box_iou_loss,
    }
    for kind, reference in pairs.items():
        torch.testing.assert_close(losses.box_loss(boxes, targets, kind), reference(boxes, targets), msg=kind)


def test_iou_losses_follow_their_formulas() -> None:
    boxes, targets = torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[2.0, 0.0, 6.0, 4.0]])  # 8 of 24 overlap
    assert losses.box_loss(boxes, targets, "linear_iou").item() == pytest.approx(1 - 8 / 24)
    assert losses.box_loss(boxes, targets, "iou").item() == pytest.approx(-torch.tensor(8 / 24).log().item())
    assert losses.box_loss(boxes, targets, "iou", smoothing=1).item() == pytest.approx(
        -torch.tensor(9 / 25).log().item()
    )


@pytest.mark.parametrize("kind", ["iou", "linear_iou", "giou", "diou", "ciou"])
def test_box_losses_are_finite_where_boxes_do_not_meet(kind: losses.BoxLoss) -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1], [5, 5, 5, 5], [0, 0, 1e5, 1e5]], requires_grad=True)
    targets = torch.tensor([[10.0, 10, 12, 12], [4, 4, 6, 6], [1, 1, 2, 2]])
    if kind == "ciou":  # its aspect ratio is not defined for an empty box
        boxes = torch.tensor([[0.0, 0, 1, 1], [5, 5, 5.01, 5.01], [0, 0, 1e5, 1e5]], requires_grad=True)
    loss = losses.box_loss(boxes, targets, kind, smoothing=1)
    loss.sum().backward()
    assert loss.isfinite().all() and boxes.grad.isfinite().all()


def test_no_boxes_no_loss() -> None:
    assert losses.box_loss(torch.zeros(0, 4), torch.zeros(0, 4), "giou").shape == (0,)


def test_normalisers_are_averaged_where_processes_compute_a_step_together() -> None:
    assert losses.world_mean(torch.tensor(3.0)) == 3
    with losses.normalised_together(lambda value: value / 2):
        assert losses.world_mean(torch.tensor(3.0)) == 1.5
    assert losses.world_mean(torch.tensor(3.0)) == 3


def test_entries_of_which_nobody_knows_give_no_negative_loss() -> None:
    torch.manual_seed(0)
    labels, no_loss = torch.randint(-2, 7, (200,)), torch.rand(200, 7) < 0.5
    one_hot = torch.nn.functional.one_hot(labels.clamp(min=0), 7).float() * (labels >= 0)[:, None]
    counted = (~no_loss | (one_hot > 0)) & (labels != -2)[:, None]
    assert bool((no_loss & (one_hot > 0)).any())  # an object of a class that the image was not labelled for
    first = (torch.randn(200, 7) * 3).requires_grad_()
    second = first.detach().clone().requires_grad_()
    ours = losses.sigmoid_focal_loss_sum(first, labels, no_loss=no_loss)
    reference = torchvision.ops.sigmoid_focal_loss(second, one_hot)[counted].sum()
    torch.testing.assert_close(ours, reference)
    ours.backward()
    reference.backward()
    torch.testing.assert_close(first.grad, second.grad, atol=1e-6, rtol=1e-4)
    assert first.grad[~counted].eq(0).all() and first.grad[counted].ne(0).all()
    whole = losses.sigmoid_focal_loss_sum(first.detach(), labels)
    assert torch.equal(losses.sigmoid_focal_loss_sum(first.detach(), labels, no_loss=torch.zeros(200, 7).bool()), whole)


def slow_quality_focal(logits: torch.Tensor, labels: torch.Tensor, goals: torch.Tensor) -> float:
    """Entry by entry, as equation 2 of Li et al. 2020 says it; rows of label -2 do not count."""
    total = 0.0
    for row, (label, goal) in enumerate(zip(labels.tolist(), goals.tolist(), strict=True)):
        for column in range(logits.shape[1]) if label != -2 else ():
            y = goal if column == label else 0.0
            p = 1 / (1 + math.exp(-float(logits[row, column])))
            total -= abs(y - p) ** 2 * ((1 - y) * math.log(1 - p) + y * math.log(p))
    return total


def test_quality_focal_loss_equals_the_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 5, generator=generator, dtype=torch.float64) * 3
    labels = torch.randint(-2, 5, (40,), generator=generator)
    goals = torch.rand(40, generator=generator, dtype=torch.float64)
    assert float(losses.quality_focal_loss_sum(logits, labels, goals)) == pytest.approx(
        slow_quality_focal(logits, labels, goals), rel=1e-9
    )


def test_quality_focal_loss_leaves_out_what_nobody_knows_and_keeps_objects() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    labels = torch.tensor([0, -1, -1, 2, -2, 1])
    unknown = torch.zeros(6, 3, dtype=torch.bool)
    unknown[:, 1] = True
    loss = losses.quality_focal_loss_sum(logits, labels, torch.full((6,), 0.7), no_loss=unknown)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[:4, 1] == 0).all() and (gradient[4] == 0).all()
    assert gradient[5, 1] != 0 and gradient[0, 0] != 0 and gradient[1, 0] != 0


def test_distribution_focal_loss_is_smallest_at_the_two_bins_next_to_the_value() -> None:
    values = torch.tensor([0.0, 2.25, 4.0, 9.0])  # the last one beyond the last bin
    share = torch.tensor([0.0, 0.25, 1.0, 1.0])
    lower = torch.tensor([0, 2, 3, 3])
    best = torch.full((4, 5), -30.0)
    rows = torch.arange(4)
    best[rows, lower] = (1 - share).clamp(min=1e-9).log()
    best[rows, lower + 1] = share.clamp(min=1e-9).log()
    entropy = torch.special.entr(share) + torch.special.entr(1 - share)
    torch.testing.assert_close(losses.distribution_focal_loss(best, values), entropy, atol=1e-5, rtol=1e-5)
    other = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    assert (losses.distribution_focal_loss(other, values) > entropy).all()


@pytest.mark.parametrize("image", [[], [0], [1, 1], [0, 2, 0, 0, 2, 2, 2]])
def test_pull_and_push_are_those_of_a_slow_form(image: list[int]) -> None:
    embeddings = torch.randn(len(image), 2, generator=torch.Generator().manual_seed(3)).double()
    pull = push = 0.0
    for index in range(3):
        own = [values for values, which in zip(embeddings.tolist(), image, strict=True) if which == index]
        means = [sum(pair) / 2 for pair in own]
        for pair, mean in zip(own, means, strict=True):
            pull += sum((value - mean) ** 2 for value in pair) / len(own)
        for one in range(len(own)):
            for other in range(len(own)):
                if one != other:
                    push += max(0.0, 1 - abs(means[one] - means[other])) / (len(own) * (len(own) - 1))
    ours, theirs = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
    got = losses.pull_and_push(ours, torch.tensor(image, dtype=torch.int64), 3)
    assert [float(value.detach()) for value in got] == pytest.approx([pull / 3, push / 3])

    got[1].backward()
    means, which = theirs.mean(dim=1), torch.tensor(image, dtype=torch.int64)
    total = theirs.sum() * 0
    for index in range(3):
        own = means[which == index]
        near = (1 - (own[:, None] - own).abs()).clamp(min=0)
        total = total + (near.sum() - near.diagonal().sum()) / max(1, len(own) * (len(own) - 1)) / 3
    total.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_pull_and_push_of_nothing_have_a_gradient_of_zero() -> None:
    everything = torch.randn(4, 2, requires_grad=True)
    sum(losses.pull_and_push(everything[:0], torch.zeros(0, dtype=torch.int64), 2)).backward()
    assert everything.grad.eq(0).all()
