"""Samples and batches: repeatable whatever the workers, complete, and calm about files that cannot be read."""

import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.data.conftest import Make, coco_dict

from aweigh.data.dataset import DetectionDataset, Sample, Unreadable
from aweigh.data.formats import load_split
from aweigh.data.loader import Batch, EpochSampler, make_loader
from aweigh.data.split import Split
from aweigh.data.transforms import Augmentation, EvalTransform, Resize, TrainTransform
from aweigh.errors import DataError, UsageError


def many(coco: Make, count: int, *, width: int = 40, height: int = 30) -> Split:
    """`count` images of noise; image n holds n % 3 boxes."""
    data = coco_dict([])
    data["images"] = [
        {"id": 100 + n, "file_name": f"n{n}.png", "width": width + n, "height": height} for n in range(count)
    ]
    data["annotations"] = [
        {"id": 10 * n + k, "image_id": 100 + n, "category_id": 3, "bbox": [1 + k, 2, 10, 10]}
        for n in range(count)
        for k in range(n % 3)
    ]
    root = coco(data)
    for n in range(count):
        noise = torch.randint(
            0, 256, (height, width + n, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(n)
        )
        Image.fromarray(noise.numpy()).save(root / "images" / f"n{n}.png")
    return load_split(root)


def train_set(split: Split, seed: int = 0) -> DetectionDataset:
    augmentation = Augmentation(crop=0.5, color=0.5, scale_jitter=(0.5, 1.5))
    return DetectionDataset(split, TrainTransform(Resize(24, 48), augmentation), seed=seed)


def test_a_sample(coco: Make) -> None:
    split = many(coco, 3)
    sample = DetectionDataset(split, EvalTransform(Resize(15, None)))[2]
    assert isinstance(sample, Sample) and sample.image.dtype == torch.uint8 and sample.image.shape == (3, 15, 21)
    assert sample.image_id == 102 and sample.original_hw == (30, 42) and sample.index == 2
    assert sample.targets.boxes.tolist() == [[0.5, 1, 5.5, 6], [1, 1, 6, 6]] and sample.targets.ids.tolist() == [20, 21]


def test_randomness_depends_on_seed_epoch_and_index_alone(coco: Make) -> None:
    split = many(coco, 4)
    data, again = train_set(split), train_set(split)
    again[0]
    for index in (2, 0, 2):
        assert torch.equal(data[index].image, again[index].image)
    data.set_epoch(1)
    assert torch.equal(data[2].image, again[1, 2].image)
    assert data[2].image.shape != again[2].image.shape or not torch.equal(data[2].image, again[2].image)
    other = train_set(split, seed=1)[2].image
    assert other.shape != again[2].image.shape or not torch.equal(other, again[2].image)


def equal(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        a.indices == b.indices
        and torch.equal(a.images.pixels, b.images.pixels)
        and all(torch.equal(x.boxes, y.boxes) for x, y in zip(a.targets, b.targets))
        for a, b in zip(first, second)
    )


def test_batches_are_the_same_with_workers_started_afresh(coco: Make) -> None:
    data = train_set(many(coco, 7))
    alone = make_loader(data, batch=3, shuffle=True, seed=5)
    workers = make_loader(data, batch=3, shuffle=True, seed=5, workers=1, start_method="spawn")
    for epoch in range(2):
        alone.set_epoch(epoch)
        workers.set_epoch(epoch)
        assert equal(list(alone), list(workers))


def test_batches(coco: Make) -> None:
    loader = make_loader(
        DetectionDataset(many(coco, 5), EvalTransform(Resize(None, None))),
        batch=2,
        stride_divisor=16,
        fill=(0.1, 0.2, 0.3),
    )
    batches = list(loader)
    assert [batch.indices for batch in batches] == [[0, 1], [2, 3], [4]] and len(loader) == 3
    first = batches[0]
    assert first.images.pixels.shape == (2, 3, 32, 48) and first.images.sizes_hw == [(30, 40), (30, 41)]
    assert first.images.pixels[0, :, -1, -1].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert first.image_ids == [100, 101] and first.original_sizes_hw == [(30, 40), (30, 41)]
    assert [len(targets) for targets in first.targets] == [0, 1] and first.problems == () and len(first) == 2
    assert first.to("cpu").indices == [0, 1]


def test_order_changes_with_the_epoch_and_can_be_joined_in_the_middle(coco: Make) -> None:
    loader = make_loader(train_set(many(coco, 9)), batch=2, shuffle=True, seed=3)
    first = list(loader)
    loader.set_epoch(1)
    second = list(loader)
    assert sorted(i for batch in first for i in batch.indices) == list(range(9))
    assert [batch.indices for batch in first] != [batch.indices for batch in second]
    loader.set_epoch(1, skip=3)
    assert equal(list(loader), second[3:]) and len(loader) == 5


def test_shares_of_several_processes() -> None:
    def rows(rank: int) -> list[int]:
        sampler = EpochSampler(7, 2, shuffle=True, seed=0, drop_last=False, rank=rank, world=3)
        return [row for batch in sampler for _, row, _ in batch]

    shares = [rows(rank) for rank in range(3)]
    assert [len(share) for share in shares] == [3, 3, 3] and set().union(*shares) == set(range(7))
    assert len(EpochSampler(7, 2, shuffle=False, seed=0, drop_last=True)) == 3


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("length", [0, 1, 4, 11, 12])
def test_in_order_every_batch_is_the_same_whatever_the_number_of_processes(length: int, world: int) -> None:
    def sampler(rank: int, world: int) -> EpochSampler:
        return EpochSampler(length, 3, shuffle=False, seed=0, drop_last=False, rank=rank, world=world)

    alone = list(sampler(0, 1))
    shares = [list(sampler(rank, world)) for rank in range(world)]
    assert [len(sampler(rank, world)) for rank in range(world)] == [len(share) for share in shares]
    dealt = {number * world + rank: batch for rank, share in enumerate(shares) for number, batch in enumerate(share)}
    assert dealt == dict(enumerate(alone)) and sorted(row for batch in alone for _, row, _ in batch) == list(
        range(length)
    )


def test_unreadable_pictures_are_skipped_and_listed(coco: Make) -> None:
    split = many(coco, 5)
    bad = split.paths[2]
    bad.write_bytes(bad.read_bytes()[:200])
    data = DetectionDataset(split, EvalTransform(Resize(24, 48)))
    assert isinstance(data[2], Unreadable)
    for batch, indices in ((2, [[0, 1], [3], [4]]), (1, [[0], [1], [2], [3], [4]])):
        loader = make_loader(data, batch=batch)
        assert [entry.indices for entry in loader] == indices and [entry.indices for entry in loader] == indices
        (problem,) = loader.problems
        assert problem.where == str(bad) and problem.action == "image skipped" and "cut short" in problem.detail


def test_too_many_unreadable_pictures_stop_the_run(coco: Make) -> None:
    split = many(coco, 5)
    for path in split.paths[1:3]:
        path.write_text("no picture")
    loader = make_loader(DetectionDataset(split, EvalTransform(Resize(24, 48))), batch=2)
    with pytest.raises(DataError, match=r"2 of 5 pictures cannot be read.*1%.*n1\.png.*n2\.png") as caught:
        list(loader)
    assert caught.value.exit_code == 3
    assert [entry.indices for entry in make_loader(loader.dataset, batch=2, max_bad=0.5)] == [[0], [3], [4]]


def test_sizes_that_differ_from_the_file(coco: Make) -> None:
    data = coco_dict([[4, 6, 10, 12]])
    data["images"][0] |= {"width": 80, "height": 60}
    data["images"][1] |= {"width": 300, "height": 60}
    loader = make_loader(DetectionDataset(load_split(coco(data)), EvalTransform(Resize(None, None))), batch=2)
    (batch,) = list(loader)
    assert batch.targets[0].boxes.tolist() == [[2, 3, 7, 9]] and batch.original_sizes_hw == [(60, 80)]
    assert {problem.kind: problem.action for problem in loader.problems} == {
        "another size than declared": "changed",
        "unreadable picture": "image skipped",
    }


def test_annotated_before_rotation(coco: Make) -> None:
    root = coco(coco_dict([[4, 6, 10, 12]]))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(root / "images" / "1.png", exif=exif)
    sample = DetectionDataset(load_split(root), EvalTransform(Resize(None, None)))[0]
    assert sample.image.shape == (3, 30, 40) and sample.targets.boxes.tolist() == [[4, 6, 14, 18]]
    assert sample.problem is not None and sample.problem.kind == "annotated before EXIF rotation"


def test_a_data_set_stays_small_when_sent(coco: Make, tmp_path: Path) -> None:
    split = many(coco, 3)
    data = train_set(split)
    assert pickle.loads(pickle.dumps(data))[1].image_id == 101
    assert data.split.problems == []


def test_wrong_use(coco: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    data = train_set(many(coco, 2))
    with pytest.raises(UsageError, match="at least 1"):
        make_loader(data, batch=0)
    monkeypatch.setattr("aweigh.data.loader.shutil.disk_usage", lambda path: type("Free", (), {"free": 1000}))
    with pytest.raises(UsageError, match=r"/dev/shm.*workers=0"):
        make_loader(data, batch=2, workers=2)
