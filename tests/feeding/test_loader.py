"""Samples and batches: repeatable whatever the workers, complete, and calm about files that cannot be read."""

import json
import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.annotated import Make, coco_dict

from aweigh.annotations.split import Split
from aweigh.errors import DataError, UsageError
from aweigh.feeding.batches import Batch, Rooms, pack, unpack
from aweigh.feeding.dataset import DetectionDataset, Sample, Unreadable
from aweigh.feeding.loader import EpochSampler, make_loader
from aweigh.feeding.transforms import Augmentation, Transform
from aweigh.images.reader import read_image, read_reduced
from aweigh.images.resize import Resize
from aweigh.layouts.load import load_split
from aweigh.models import create
from aweigh.structures import Images, Targets


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
    return DetectionDataset(split, Transform(Resize(24, 48), augmentation), seed=seed)


def test_a_sample(coco: Make) -> None:
    split = many(coco, 3)
    sample = DetectionDataset(split, Transform(Resize(15, None)))[2]
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
        DetectionDataset(many(coco, 5), Transform(Resize(None, None))),
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


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_rest_of_an_epoch_is_the_same_to_the_last_bit(coco: Make, workers: int) -> None:
    data = train_set(many(coco, 11))
    whole = make_loader(data, batch=2, shuffle=True, seed=3)
    whole.set_epoch(4)
    expected = list(whole)
    loader = make_loader(data, batch=2, shuffle=True, seed=3, workers=workers)
    for skip in (0, 3, 5, 6):
        loader.set_epoch(4, skip=skip)
        assert equal(list(loader), expected[skip:]) and len(loader) == 6
    loader.set_epoch(4, skip=1)
    next(iter(loader))  # left in the middle
    loader.set_epoch(4, skip=4)
    assert equal(list(loader), expected[4:])


def test_evaluation_batches_are_the_same_on_any_number_of_processes(coco: Make) -> None:
    data = DetectionDataset(many(coco, 9), Transform(Resize(24, 48)))
    alone = list(make_loader(data, batch=2))
    for world in (2, 4):
        shares = [list(make_loader(data, batch=2, rank=rank, world=world)) for rank in range(world)]
        dealt = [shares[number % world][number // world] for number in range(len(alone))]
        assert equal(dealt, alone) and sum(map(len, shares)) == len(alone)


@pytest.mark.parametrize("antialias", [True, False])
def test_a_batch_holds_the_pixels_that_prediction_sees(coco: Make, antialias: bool) -> None:
    split, resize = many(coco, 3, width=90, height=70), Resize(24, 48, antialias)
    (batch,) = make_loader(DetectionDataset(split, Transform(resize)), batch=3, fill=(0.1, 0.2, 0.3))
    predicted = Images.stack([torch.from_numpy(resize(read_image(path))) for path in split.paths], fill=(0.1, 0.2, 0.3))
    torch.testing.assert_close(batch.images.pixels, predicted.pixels, rtol=0, atol=0 if antialias else 1e-6)
    assert batch.images.sizes_hw == predicted.sizes_hw
    assert batch.images.pixels.is_contiguous(memory_format=torch.channels_last)


def test_training_evaluation_and_prediction_read_a_large_photograph_alike(coco: Make) -> None:
    root = coco(coco_dict([[100, 60, 200, 120]]))
    shades = torch.arange(640).expand(3, 480, 640) * torch.arange(480)[:, None] // 1900
    Image.fromarray(shades.permute(1, 2, 0).to(torch.uint8).numpy()).save(root / "images" / "1.jpg")
    data = json.loads((root / "annotations" / "instances_train.json").read_text())
    data["images"] = [{"id": 1, "file_name": "1.jpg", "width": 640, "height": 480}]
    (root / "annotations" / "instances_train.json").write_text(json.dumps(data))
    split, resize = load_split(root), Resize(60, 80)
    reduced, full_hw = read_reduced(split.paths[0], resize.needed_size)
    assert reduced.shape == (120, 160, 3) and full_hw == (480, 640)
    predicted = Images.stack([torch.from_numpy(resize(reduced, full_hw=full_hw))]).pixels
    for transform in (Transform(resize), Transform(resize, Augmentation.none())):
        (batch,) = make_loader(DetectionDataset(split, transform), batch=1)
        assert torch.equal(batch.images.pixels, predicted) and batch.problems == ()
        assert batch.original_sizes_hw == [(480, 640)] and batch.targets[0].boxes.tolist() == [[12.5, 7.5, 37.5, 22.5]]
        assert batch.targets[0].area.tolist() == [100 * 120 / 64]  # what the file says, in the pixels of the batch


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
    data = DetectionDataset(split, Transform(Resize(24, 48)))
    assert isinstance(data[2], Unreadable)
    for batch, indices in ((2, [[0, 1], [3], [4]]), (1, [[0], [1], [2], [3], [4]])):
        loader = make_loader(data, batch=batch)
        assert [entry.indices for entry in loader] == indices and [entry.indices for entry in loader] == indices
        (problem,) = loader.problems
        assert problem.where == str(bad) and problem.action == "image skipped" and "cut short" in problem.detail


def test_a_batch_of_which_nothing_can_be_read_is_blank_and_gives_no_loss(coco: Make) -> None:
    split = many(coco, 5)
    for path in split.paths[2:4]:
        path.write_text("no image")
    data = DetectionDataset(split, Transform(Resize(24, 48)))
    for workers in (0, 1):
        loader = make_loader(data, batch=2, max_bad=0.5, fill=(0.1, 0.2, 0.3), workers=workers)
        batches = list(loader)
        assert len(batches) == len(loader) == 3 and [batch.blank for batch in batches] == [False, True, False]
        assert len(loader.problems) == 2 and all(problem.action == "image skipped" for problem in loader.problems)
    blank = batches[1]
    assert blank.indices == [2] and blank.image_ids == [102] and blank.original_sizes_hw == [(30, 42)]
    assert len(blank) == 1 and len(blank.problems) == 2 and blank.targets[0].ignore.tolist() == [True]
    assert (blank.images.pixels - torch.tensor([0.1, 0.2, 0.3]).reshape(3, 1, 1)).abs().max() < 1e-7

    model = create("fcos_shufflenet_v2_x0_5_fpn", num_classes=2).train()
    losses = model(blank.images, blank.targets)
    torch.stack(list(losses.values())).sum().backward()
    assert all(value.item() == 0 for value in losses.values())
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())


def test_too_many_unreadable_pictures_stop_the_run(coco: Make) -> None:
    split = many(coco, 5)
    for path in split.paths[1:3]:
        path.write_text("no image")
    loader = make_loader(DetectionDataset(split, Transform(Resize(24, 48))), batch=2)
    with pytest.raises(DataError, match=r"2 of 5 images cannot be read.*1%.*n1\.png.*n2\.png") as caught:
        list(loader)
    assert caught.value.exit_code == 3
    assert [entry.indices for entry in make_loader(loader.dataset, batch=2, max_bad=0.5)] == [[0], [3], [4]]


def test_sizes_that_differ_from_the_file(coco: Make) -> None:
    data = coco_dict([[4, 6, 10, 12]])
    data["images"][0] |= {"width": 80, "height": 60}
    data["images"][1] |= {"width": 300, "height": 60}
    loader = make_loader(DetectionDataset(load_split(coco(data)), Transform(Resize(None, None))), batch=2)
    (batch,) = list(loader)
    assert batch.targets[0].boxes.tolist() == [[2, 3, 7, 9]] and batch.original_sizes_hw == [(60, 80)]
    assert {problem.kind: problem.action for problem in loader.problems} == {
        "another size than declared": "changed",
        "unreadable image": "image skipped",
    }


def test_annotated_before_rotation(coco: Make) -> None:
    root = coco(coco_dict([[4, 6, 10, 12]]))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(root / "images" / "1.png", exif=exif)
    sample = DetectionDataset(load_split(root), Transform(Resize(None, None)))[0]
    assert sample.image.shape == (3, 30, 40) and sample.targets.boxes.tolist() == [[4, 6, 14, 18]]
    assert sample.problem is not None and sample.problem.kind == "annotated before EXIF rotation"


def test_a_batch_travels_in_few_pieces_and_arrives_whole() -> None:
    def sample(index: int, count: int) -> Sample:
        random = torch.Generator().manual_seed(index)
        corner, size = torch.rand(count, 2, generator=random) * 4, torch.rand(count, 2, generator=random) * 4 + 1
        targets = Targets(
            torch.cat([corner, corner + size], dim=1),
            torch.randint(5, (count,), generator=random),
            ignore=torch.rand(count, generator=random) < 0.5,
            ids=torch.arange(count) + 100 * index,
            masks=torch.rand(count, 9, 10 + index, generator=random) < 0.5,
            keypoints=torch.rand(count, 3, 3, generator=random),
        )
        image = torch.randint(0, 256, (3, 9, 10 + index), dtype=torch.uint8, generator=random)
        return Sample(image, targets, index, 7 + index, (90, 100))

    samples = [sample(0, 3), sample(1, 0), sample(2, 2)]
    packed = pack(samples, eight_bits=True)
    assert sum(isinstance(value, torch.Tensor) for value in vars(packed).values()) == 2  # pixels and masks
    how = {"divisor": 4, "fill": (0.0, 0.0, 0.0), "device": torch.device("cpu")}
    batch = unpack(pickle.loads(pickle.dumps(packed)), **how, allocate=torch.empty)
    for number, (entry, targets) in enumerate(zip(samples, batch.targets)):
        height, width = batch.images.sizes_hw[number]
        assert torch.equal(batch.images.pixels[number, :, :height, :width], entry.image / 255)
        for name, value in vars(entry.targets).items():
            found = getattr(targets, name)
            assert found is value is None or torch.equal(found, value), name
    assert batch.indices == [0, 1, 2] and batch.image_ids == [7, 8, 9] and batch.original_sizes_hw == [(90, 100)] * 3
    floats = [replace(entry, image=entry.image / 255) for entry in samples]
    assert torch.equal(pack(floats, eight_bits=True).pixels, packed.pixels)
    assert torch.equal(pack(samples, eight_bits=False).pixels, packed.pixels / 255)
    bare = replace(samples[0], targets=replace(samples[0].targets, masks=None))
    with pytest.raises(UsageError, match="Some images of a batch have masks"):
        pack([bare, samples[2]], eight_bits=True)


def test_memory_is_used_again_when_a_batch_is_gone_and_not_before() -> None:
    rooms = Rooms(keep=1)
    first = rooms(100)
    place = first.data_ptr()
    part = first[10:20].view(2, 5)
    del first
    other = rooms(100)
    assert other.data_ptr() != place  # part of the first is still in use
    del part
    assert rooms(50).data_ptr() == place


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="this system does not tell a process's memory")
def test_workers_do_not_grow(coco: Make) -> None:
    small = many(coco, 20, width=12, height=9)
    split = small.take(np.resize(np.arange(20), 20_000))
    data = DetectionDataset(split, Transform(Resize(9, 32)))
    # From a process without gaps in its memory, which one forked from this one would fill, and have for itself then.
    loader = make_loader(data, batch=4, workers=2, start_method="forkserver")
    held = []
    for step, _ in zip(range(1, 1601), loader):
        if step in (400, 1600):
            held.append([own_kilobytes(child.pid or 0) for child in multiprocessing.active_children()])
    before, after = held
    assert len(before) == len(after) >= 2 and min(before) > 1000
    assert max(b - a for a, b in zip(before, after)) < 6000  # of 2400 samples; kept, each would be 4 kB


def own_kilobytes(process: int) -> int:
    """What a process holds for itself alone."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


def test_a_data_set_stays_small_when_sent(coco: Make, tmp_path: Path) -> None:
    split = many(coco, 3)
    data = train_set(split)
    assert pickle.loads(pickle.dumps(data))[1].image_id == 101
    assert data.split.problems == []


def test_wrong_use(coco: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    data = train_set(many(coco, 2))
    with pytest.raises(UsageError, match="at least 1"):
        make_loader(data, batch=0)
    monkeypatch.setattr("aweigh.feeding.loader.shutil.disk_usage", lambda path: type("Free", (), {"free": 1000}))
    with pytest.raises(UsageError, match=r"/dev/shm.*workers=0.*--shm-size"):
        make_loader(data, batch=2, workers=2)
