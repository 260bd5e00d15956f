"""Images are drawn as often as the formulas say, as many in every epoch, by seed and epoch alone."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.annotated import Make
from tests.feeding.test_loader import equal, many

from aweigh.annotations.split import Split
from aweigh.classes import Classes
from aweigh.errors import DataError, UsageError
from aweigh.feeding.dataset import DetectionDataset, Sample
from aweigh.feeding.loader import EpochSampler, make_loader
from aweigh.feeding.sampling import Sampling, class_weights, epoch_rows, times_drawn
from aweigh.feeding.transforms import Augmentation, Transform
from aweigh.images.resize import Resize

few = settings(max_examples=40, deadline=None)
NAMES = ("car", "truck", "bus")


def split_of(*images: tuple[int, ...], ignored: tuple[int, ...] = ()) -> Split:
    """A split without files; each image is given by the labels of its objects. ignored: rows of objects."""
    counts = [len(labels) for labels in images]
    labels = np.array([label for labels in images for label in labels], dtype=np.int64)
    total = len(labels)
    boxes = np.tile(np.array([1, 1, 9, 9], dtype=np.float32), (total, 1))
    return Split(
        name="train",
        layout="coco",
        root=Path("."),
        classes=Classes.from_names(NAMES),
        paths=[Path(f"{row}.png") for row in range(len(images))],
        image_ids=np.arange(len(images)),
        sizes_hw=np.tile([10, 10], (len(images), 1)),
        first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=boxes,
        labels=labels,
        ignore=np.isin(np.arange(total), ignored),
        crowd=np.zeros(total, dtype=bool),
        area=np.full(total, 64.0),
        annotation_ids=np.arange(total),
        source_boxes_xywh=boxes.astype(np.float64),
    )


SKEWED = split_of(*[(0,)] * 12, (0, 1), (0, 1, 1), (2,), ())  # car in 14 of 16, truck in 2, bus in 1


def test_repeat_factors_are_those_of_the_formula() -> None:
    draws = Sampling("repeat_factor", repeat_threshold=0.5).draws(SKEWED)
    truck, bus = np.sqrt(0.5 / (2 / 16)), np.sqrt(0.5 / (1 / 16))
    factors = np.array([1.0] * 12 + [truck, truck, bus, 1])
    np.testing.assert_allclose(draws, factors * 16 / factors.sum())
    np.testing.assert_allclose(Sampling("repeat_factor", repeat_threshold=0.001).draws(SKEWED), np.ones(16))


def test_class_aware_draws_each_class_alike_or_by_weight() -> None:
    draws = Sampling("class_aware").draws(SKEWED)
    each = 15 / 3  # the empty image keeps its one draw
    np.testing.assert_allclose(draws, [each / 14] * 12 + [each / 14 + each / 2, each / 14 + each / 2, each, 1])
    weighted = Sampling("class_aware", class_draws=("bus=3", "car=0")).draws(SKEWED)
    np.testing.assert_allclose(weighted, [0.0] * 12 + [15 / 4 / 2, 15 / 4 / 2, 15 * 3 / 4, 1])
    assert Sampling().draws(SKEWED) is None


def test_what_is_to_be_ignored_is_no_object_of_its_class() -> None:
    split = split_of((0,), (1,), ignored=(1,))
    np.testing.assert_allclose(Sampling("class_aware").draws(split), [1, 1])
    np.testing.assert_allclose(
        Sampling("repeat_factor", repeat_threshold=1).draws(split), [2**0.5 / (1 + 2**0.5) * 2, 2 / (1 + 2**0.5)]
    )


@pytest.mark.parametrize("kind", ["repeat_factor", "class_aware"])
def test_data_without_objects_are_drawn_alike(kind: str) -> None:
    empty = split_of((), ())
    np.testing.assert_allclose(Sampling(kind).draws(empty), [1, 1])
    assert "no image has objects" in Sampling(kind).describe(empty)[0]
    assert Sampling(kind).draws(split_of()).shape == (0,)


@few
@given(st.lists(st.floats(0, 50), min_size=1, max_size=60), st.integers(0, 2**31), st.integers(0, 100))
def test_an_epoch_rounds_the_draws_up_or_down_and_has_its_length(weights: list[float], seed: int, epoch: int) -> None:
    draws = np.array(weights) if sum(weights) > 1e-3 else np.ones(len(weights))
    draws = draws * len(draws) / draws.sum()
    rows = epoch_rows(len(draws), seed, epoch, draws)
    counts = np.bincount(rows, minlength=len(draws))
    assert len(rows) == len(draws) == len(counts)
    assert (counts >= np.floor(draws - 1e-6)).all() and (counts <= np.ceil(draws + 1e-6)).all()
    assert np.array_equal(rows, epoch_rows(len(draws), seed, epoch, draws))


@pytest.mark.parametrize("sampling", [Sampling("repeat_factor", 0.7), Sampling("class_aware", class_draws=("bus=2",))])
def test_frequencies_over_many_epochs(sampling: Sampling) -> None:
    draws = sampling.draws(SKEWED)
    counts = np.zeros(len(SKEWED))
    for epoch in range(3000):
        counts += np.bincount(epoch_rows(len(SKEWED), 5, epoch, draws), minlength=len(SKEWED))
    share = draws % 1
    deviation = np.sqrt(3000 * share * (1 - share))  # of a binomial; whole numbers do not vary
    assert (np.abs(counts - 3000 * draws) <= 5 * deviation + 1e-6).all()


def test_uniform_is_each_once_in_a_random_order() -> None:
    assert sorted(epoch_rows(9, 0, 0)) == list(range(9)) and list(epoch_rows(9, 0, 0)) != list(epoch_rows(9, 0, 1))
    assert len(epoch_rows(0, 0, 0)) == len(epoch_rows(0, 0, 0, np.zeros(0))) == 0


def test_what_is_drawn_again_is_spread_over_the_epoch() -> None:
    rows = epoch_rows(40, 0, 0, np.array([2.0] * 20 + [0] * 20))
    assert sorted(rows) == sorted([*range(20)] * 2) and (np.diff(rows) == 0).sum() < 10


def test_rows_are_counted() -> None:
    assert times_drawn(np.array([3, 1, 3, 3, 0, 1])).tolist() == [0, 0, 1, 2, 0, 1]
    assert times_drawn(np.zeros(0, dtype=np.int64)).tolist() == []


def test_shares_of_several_processes_and_the_way_into_an_epoch() -> None:
    draws = Sampling("class_aware").draws(SKEWED)

    def batches(rank: int, world: int, skip: int = 0) -> list[list[tuple[int, ...]]]:
        sampler = EpochSampler(16, 2, shuffle=True, seed=1, drop_last=False, rank=rank, world=world, draws=draws)
        sampler.epoch, sampler.skip = 4, skip
        assert len(sampler) == {1: 8, 2: 4, 3: 3}[world]
        return list(sampler)

    alone = [entry for batch in batches(0, 1) for entry in batch]
    assert [row for _, row, _ in alone] == epoch_rows(16, 1, 4, draws).tolist() and len(set(alone)) == 16
    for world in (2, 3):
        shares = [[entry for batch in batches(rank, world) for entry in batch] for rank in range(world)]
        dealt = [shares[number % world][number // world] for number in range(len(shares[0]) * world)]
        assert dealt[:16] == alone and len(set(dealt)) == len(dealt)
    assert batches(0, 1, skip=5) == batches(0, 1)[5:]


def test_a_picture_drawn_again_is_changed_anew(coco: Make) -> None:
    split = many(coco, 4)
    draws = np.array([0, 0, 4.0, 0])
    transform = Transform(Resize(24, 48), Augmentation(color=1.0, flip=0))
    data = DetectionDataset(split, transform, draws=draws)
    loader = make_loader(data, batch=2, shuffle=True)
    again = make_loader(data, batch=2, shuffle=True, workers=1, start_method="fork")
    batches = list(loader)
    assert [batch.indices for batch in batches] == [[2, 2], [2, 2]] and equal(batches, list(again))
    seen = {batch.images.pixels[number].float().mean().item() for batch in batches for number in range(2)}
    assert len(seen) == 4
    first = data[0, 2]
    assert isinstance(first, Sample) and first.image.float().equal(data[0, 2, 0].image.float())


def test_what_the_user_is_shown() -> None:
    assert Sampling().describe(SKEWED) == []
    (line,) = Sampling("class_aware", class_draws=("bus=2",)).describe(split_of((0,), (0,), (0,), (1,)))
    assert line == (
        "sampler class_aware, weights bus=2: an epoch draws 4 images, most often truck x2, car x0.67; "
        "no image shows bus"
    )
    (line,) = Sampling("repeat_factor", 0.5).describe(SKEWED)
    assert line.startswith("sampler repeat_factor, threshold 0.5: an epoch draws 16 images, most often bus x2.")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["trukc=3"], r"no class 'trukc' among car, truck, bus\. Did you mean 'truck'"),
        (["truck"], "'truck' is not a class and its weight"),
        (["truck=many"], "'truck=many' is not"),
        (["truck=-1"], "0 or more"),
        (["truck=nan"], "0 or more"),
        (["truck=1", "truck=2"], "'truck' is given twice"),
    ],
)
def test_wrong_weights(given: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        class_weights(given, NAMES)


def test_wrong_use() -> None:
    with pytest.raises(UsageError, match=r"expected one of uniform.*Did you mean 'repeat_factor'"):
        Sampling("repeat_facto")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="repeat_threshold = 0"):
        Sampling("repeat_factor", 0.0)
    with pytest.raises(UsageError, match="class_draws needs sampler = 'class_aware'"):
        Sampling("uniform", class_draws=("car=1",))
    with pytest.raises(DataError, match="has weight 0"):
        Sampling("class_aware", class_draws=("car=0",)).draws(split_of((0,)))
