"""Folders of classes: what is found, what is refused, and images that are the same whoever reads them."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from aweigh.errors import DataError
from aweigh.training.backbone.class_folders import (
    epoch_batches,
    load_batches,
    read_class_folders,
    training_transform,
    validation_transform,
)


def picture(path: Path, colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, count in (("ant", 20), ("bee", 11), ("cow", 2), ("dog", 1)):
        for number in range(count):
            picture(tmp_path / "train" / name / f"{number}.png")
    return tmp_path


def test_a_tenth_of_each_class_is_set_aside(folder: Path) -> None:
    found = read_class_folders(folder)
    assert found.classes == ("ant", "bee", "cow", "dog") and found.split_off
    labels = [label for _, label in found.val]
    assert [labels.count(label) for label in range(4)] == [2, 1, 1, 0]
    assert len(found.train) + len(found.val) == 34 and not set(found.train) & set(found.val)
    assert all(path.parent.name == found.classes[label] for path, label in (*found.train, *found.val))
    assert read_class_folders(folder) == found
    assert read_class_folders(folder, seed=1).val != found.val


def test_val_is_used_where_it_is_there(folder: Path) -> None:
    picture(folder / "val" / "bee" / "deep" / "er" / "one.JPG")
    found = read_class_folders(folder)
    assert not found.split_off and len(found.train) == 34
    assert [(path.name, label) for path, label in found.val] == [("one.JPG", 1)]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], r"there is no .*train"),
        (["train/a.png"], "no folder, so no class"),
        (["train/a/1.png"], "only one class, 'a'"),
        (["train/a/1.png", "train/b/notes.txt"], "Class 'b' has no image"),
        (["train/a/1.png", "train/b/1.png", "val/c/1.png"], "the class 'c', which .*train does not"),
        (["train/a/1.png", "train/b/1.png", "val/a/notes.txt"], "holds no image"),
    ],
)
def test_folders_that_cannot_be_trained_on(tmp_path: Path, files: list[str], said: str) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(DataError, match=said):
        read_class_folders(tmp_path)


def test_a_broken_picture_is_skipped_and_named(folder: Path) -> None:
    (folder / "train" / "ant" / "3.png").write_bytes(b"no picture")
    entries = [(folder / "train" / "ant" / f"{number}.png", 0) for number in range(4)]
    (batch,) = load_batches(entries, [[0, 3, 1]], validation_transform(size=64))
    assert batch.pixels.shape == (2, 3, 64, 64) and batch.labels.tolist() == [0, 0]
    assert len(batch.problems) == 1 and "3.png" in batch.problems[0]
    (batch,) = load_batches(entries, [[3]], validation_transform(size=64))
    assert len(batch.pixels) == len(batch.labels) == 0 and len(batch.problems) == 1


def test_a_link_that_leads_nowhere_and_a_pipe_are_named(folder: Path) -> None:
    (folder / "train" / "ant" / "link.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "train" / "bee" / "pipe.png")
    found = read_class_folders(folder)
    assert len(found.train) + len(found.val) == 36
    entries = [entry for entry in (*found.train, *found.val) if entry[0].stem in ("link", "pipe")]
    (batch,) = load_batches(entries, [[0, 1]], validation_transform(size=64))
    assert len(batch.problems) == 2 and "leads nowhere" in " ".join(batch.problems)


def test_chance_depends_on_seed_epoch_and_index_alone(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for number in range(3):
        noise = torch.randint(0, 256, (60, 80, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(tmp_path / f"{number}.png")
    entries = [(tmp_path / f"{number}.png", number) for number in range(3)]
    transform = training_transform(size=64, least_area=0.3, color=0.4, flip=0.5)

    def read(order: list[int], **options: int) -> dict[int, torch.Tensor]:
        (batch,) = load_batches(entries, [order], transform, **options)
        return dict(zip(batch.labels.tolist(), batch.pixels, strict=True))

    before = torch.get_rng_state()
    first, again, worker = read([0, 1, 2]), read([2, 0]), read([1, 2], workers=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[0], again[0]) and torch.equal(first[2], again[2]) and torch.equal(first[1], worker[1])
    assert not torch.equal(first[0], read([0], epoch=1)[0]) and not torch.equal(first[0], read([0], seed=1)[0])


def test_validation_sees_the_middle(tmp_path: Path) -> None:
    image = Image.new("RGB", (512, 256), (255, 0, 0))
    image.paste((0, 0, 255), (256 - 112, 16, 256 + 112, 240))  # 224 x 224 in the middle
    image.save(tmp_path / "a.png")
    (batch,) = load_batches([(tmp_path / "a.png", 0)], [[0]], validation_transform(size=224))
    blue = (torch.tensor([0.0, 0.0, 1.0]) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(batch.pixels[0], blue[:, None, None].expand(3, 224, 224))


def test_batches_of_an_epoch() -> None:
    batches = epoch_batches(10, 4, seed=0, epoch=0)
    assert [len(batch) for batch in batches] == [4, 4] and len({row for batch in batches for row in batch}) == 8
    assert batches == epoch_batches(10, 4, seed=0, epoch=0) != epoch_batches(10, 4, seed=0, epoch=1)
    assert sorted(epoch_batches(3, 4, seed=0, epoch=0)[0]) == [0, 1, 2]
