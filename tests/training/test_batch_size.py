"""`batch = "auto"`: the worst that the data can give is tried, and nothing is left behind."""

import copy
import itertools

import pytest
import torch

from aweigh.errors import AweighError
from aweigh.feeding.dataset import DetectionDataset
from aweigh.feeding.loader import make_loader
from aweigh.feeding.transforms import Augmentation, Transform
from aweigh.images.resize import Resize
from aweigh.inference import memory
from aweigh.inference.device import How
from aweigh.training import batch_size
from aweigh.training.batch_size import find_batch, worst_batch, worst_of
from aweigh.training.prepare import prepare

CPU = How(torch.device("cpu"))


@pytest.fixture
def run(configure, tmp_path):
    return prepare(configure(optimizer="adamw"), tmp_path / "run")


def find(run, **changes):
    return find_batch(run.model, run.optimizer, run.train_set, CPU, **changes)


def test_nothing_is_left_behind(run):
    batch = next(iter(run.loader))
    run.model.train()
    sum(run.model.loss(run.model.network(batch.images.pixels), batch.targets).values()).backward()
    run.optimizer.step()  # so that the optimiser has a state
    run.optimizer.zero_grad()
    run.model.head.eval()
    weights = {name: value.clone() for name, value in run.model.state_dict().items()}
    state, random = copy.deepcopy(run.optimizer.state_dict()), torch.get_rng_state()
    modes = [module.training for module in run.model.modules()]
    drop_out = run.model.head.register_forward_hook(lambda *rest: torch.rand(1) and None)
    count, line = find(run)
    drop_out.remove()
    assert 1 <= count <= len(run.train_set) and line.startswith(f"batch auto: {count} (worst images 96 x 96 with 2 ob")
    assert all(torch.equal(weights[name], value) for name, value in run.model.state_dict().items())
    after = run.optimizer.state_dict()
    assert after["param_groups"] == state["param_groups"] and after["state"].keys() == state["state"].keys()
    for number, entries in state["state"].items():
        assert all(torch.equal(value, after["state"][number][name]) for name, value in entries.items())
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [module.training for module in run.model.modules()]
    assert all(parameter.grad is None for parameter in run.model.parameters())


def test_no_batch_is_worse_than_the_one_that_is_tried(run):
    """Whatever is drawn, no batch is padded to more or has an image of more objects."""
    split, resize = run.train_set.split, Resize(64, 160)
    change = Augmentation(short_sides=(48, 80), crop=0.7, scale_jitter=(0.5, 2.0), mosaic=0.5, mixup=0.5)
    train_set = DetectionDataset(split, Transform(resize, change))
    worst = worst_of(DetectionDataset(split, Transform(resize, change)), 32)
    tried = worst_batch(worst, train_set, 3)
    assert tuple(tried.images.pixels.shape) == (3, 3, *worst.size_hw)
    assert [len(targets) for targets in tried.targets] == [10, 10, 10] and worst.objects == 10
    loader = make_loader(train_set, batch=3, shuffle=True)
    met = []
    for epoch in range(6):
        loader.set_epoch(epoch)
        for batch in loader:
            assert all(a <= b for a, b in zip(batch.images.pixels.shape[2:], worst.size_hw, strict=True))
            met += [len(targets) for targets in batch.targets]
    assert 4 < max(met) <= worst.objects
    assert worst.size_hw != worst_of(DetectionDataset(split, Transform(resize, Augmentation.none())), 32).size_hw


def test_a_square_is_worse_than_the_pictures(run):
    split, resize, change = run.train_set.split, Resize(None, 160), Augmentation(affine_crop=(0.6, 1.3))
    split.sizes_hw[:] = [90, 120]
    assert worst_of(DetectionDataset(split, Transform(resize, Augmentation.none())), 32).size_hw == (128, 160)
    worst = worst_of(DetectionDataset(split, Transform(resize, change)), 32)
    assert worst.size_hw == (160, 160)
    tried = worst_batch(worst, DetectionDataset(split, Transform(resize, change)), 2)
    assert tuple(tried.images.pixels.shape) == (2, 3, 160, 160)


def test_a_crop_round_an_object_is_as_large_as_it_says(run):
    split, change = run.train_set.split, Augmentation(object_crop=96)
    worst = worst_of(DetectionDataset(split, Transform(Resize(None, 640), change)), 1)
    assert worst.size_hw == (96, 96)
    tried = worst_batch(worst, DetectionDataset(split, Transform(Resize(None, 640), change)), 2)
    assert tuple(tried.images.pixels.shape) == (2, 3, 96, 96)
    assert max(float(targets.boxes.max()) for targets in tried.targets) <= 96


def test_the_fullest_images_come_first(run):
    split = run.train_set.split
    split.first[:] = [0, 1, 2, 3, 4, 12, 14, 15, 16]
    worst = worst_of(DetectionDataset(split, Transform(run.resize, Augmentation.none())), 32)
    assert worst.order[:2].tolist() == [4, 5] and worst.objects == 8
    batch = worst_batch(worst, run.train_set, 2)
    assert [len(targets) for targets in batch.targets] == [8, 2]
    assert batch.image_ids == split.image_ids[[4, 5]].tolist()


def steps_of(monkeypatch, *, image, seconds, free):
    """A process in which `n` images take `n * image` bytes and `seconds(n)`."""
    used, clock = [0], [0.0]

    def step(count):
        used[0] = max(used[0], count * image)
        clock[0] += seconds(count)

    monkeypatch.setattr(memory, "available", lambda: 2 * free)
    monkeypatch.setattr(memory, "high_water", lambda: 1000 + used[0])
    monkeypatch.setattr(memory, "resident", lambda: 1000)
    monkeypatch.setattr(memory, "begin_high_water_anew", lambda: bool(used.__setitem__(0, 0)) or True)
    monkeypatch.setattr(batch_size.time, "perf_counter", lambda: clock[0])
    return step


@pytest.mark.parametrize(
    ("most", "free", "seconds", "expected"),
    [
        (64, 10**9, lambda count: count, 8),  # not faster in larger batches
        (64, 10**9, lambda count: 10 + 0.01 * count, 64),  # faster and faster
        (64, 10**9, lambda count: max(12, count), 16),  # up to that many at once
        (64, 350, lambda count: count, 3),  # what fits
        (64, 5000, lambda count: 10 + 0.01 * count, 32),  # the next power of two does not fit
        (64, 50, lambda count: count, 1),  # not even one: one all the same
        (5, 10**9, lambda count: count, 4),  # no more than there are images
        (1, 10**9, lambda count: count, 1),
    ],
)
def test_what_a_cpu_takes(monkeypatch, most, free, seconds, expected):
    step = steps_of(monkeypatch, image=100, seconds=seconds, free=free)
    assert batch_size._fill_cpu(step, most)[0] == expected


@pytest.mark.parametrize(("whole", "expected"), [(1000, 8), (900, 8), (888, 6), (250, 2), (150, 1), (10**6, 64)])
def test_what_a_gpu_takes(monkeypatch, whole, expected):
    used = [0]

    def step(count):
        used[0] = count * 100
        if used[0] > whole:
            raise torch.OutOfMemoryError("CUDA out of memory")

    cuda = {
        "empty_cache": lambda: None,
        "mem_get_info": lambda device: (whole, 0),
        "memory_reserved": lambda device: 0,
        "reset_peak_memory_stats": lambda device: None,
        "synchronize": lambda device: None,
        "max_memory_reserved": lambda device: used[0],
    }
    for name, function in cuda.items():
        monkeypatch.setattr(torch.cuda, name, function)
    count, told = batch_size._fill_gpu(step, 64, torch.device("cuda"))
    assert count == expected and "GiB" in told


def test_what_does_not_fit_at_all_is_explained(run, monkeypatch):
    def step(*rest):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.")

    weights = [value.clone() for value in run.model.parameters()]
    monkeypatch.setattr(batch_size, "_train_step", step)
    with pytest.raises(AweighError, match=r"Out of memory with 1 image of 96 x 96.*smaller short"):
        find(run)
    assert all(map(torch.equal, weights, run.model.parameters()))


def test_memory_is_measured_here():
    assert memory.available() > 2**20
    before = memory.high_water()
    if before is None:
        pytest.skip("this system does not tell the memory of a process")
    block = torch.ones(2**24)  # 64 MiB
    memory.begin_high_water_anew()
    assert memory.high_water() >= memory.resident() * 0.9 and memory.resident() > block.nbytes


def test_sizes_rise_by_half():
    assert list(itertools.islice(batch_size._sizes(64), 12)) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
