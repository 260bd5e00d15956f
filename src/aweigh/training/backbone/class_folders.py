"""Images sorted into folders by class, as ImageNet comes: FOLDER/train/CLASS/*.jpg and FOLDER/val/CLASS/*.jpg.

Where there is no `val`, a tenth of each class is set aside. What is random in an image depends on (seed, epoch, index)
alone, whichever process reads it. An image that cannot be read is skipped and named.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from aweigh.errors import DataError
from aweigh.feeding.loader import said_if_lost
from aweigh.feeding.randomness import mixed_seed
from aweigh.images.reader import SUFFIXES, read_image
from aweigh.structures import IMAGENET_MEAN, IMAGENET_STD

Entry = tuple[Path, int]  # an image and its label
Transform = Callable[[Tensor], Tensor]

# The authors' validation: the short side to 256, 224 from the middle.
VALIDATION_MARGIN = 256 / 224


@dataclass(frozen=True)
class ClassFolders:
    """classes: names of the folders, sorted; a label is an index into them. split_off: `val` is a part of train/."""

    classes: tuple[str, ...]
    train: tuple[Entry, ...]
    val: tuple[Entry, ...]
    split_off: bool


class LabelledBatch(NamedTuple):
    """pixels: `[B, 3, size, size]` float32, normalised. labels: `[B]` int64. problems: images that were skipped."""

    pixels: Tensor
    labels: Tensor
    problems: tuple[str, ...]


def read_class_folders(folder: str | Path, *, seed: int = 0) -> ClassFolders:
    """What is in the folder; `DataError` where it cannot be trained on."""
    folder = Path(folder)
    if not (folder / "train").is_dir():
        raise DataError(
            f"{folder} is no folder of classes: there is no {folder / 'train'}. Expected train/CLASS/pictures and, if "
            "there is one, val/CLASS/pictures."
        )
    found = _pictures_by_class(folder / "train")
    if len(found) < 2:
        what = f"only one class, {next(iter(found))!r}" if found else "no folder, so no class"
        raise DataError(f"{folder / 'train'} holds {what}; expected one folder for each of at least two classes.")
    if empty := [name for name, pictures in found.items() if not pictures]:
        raise DataError(
            f"Class {empty[0]!r} has no image: none of the files in {folder / 'train' / empty[0]} ends in "
            f"{', '.join(SUFFIXES[:4])} or the like. Remove the folder, or put images there."
        )
    classes = tuple(found)
    entries = [(picture, label) for label, name in enumerate(classes) for picture in found[name]]
    if not (folder / "val").is_dir():
        train, val = _split_off(entries, seed)
        return ClassFolders(classes, train, val, split_off=True)
    known = _pictures_by_class(folder / "val")
    if unknown := sorted(set(known) - set(classes)):
        raise DataError(f"{folder / 'val'} holds the class {unknown[0]!r}, which {folder / 'train'} does not.")
    val = tuple((picture, classes.index(name)) for name, pictures in known.items() for picture in pictures)
    if not val:
        raise DataError(f"{folder / 'val'} holds no image; remove it, and a tenth of train is set aside instead.")
    return ClassFolders(classes, tuple(entries), val, split_off=False)


def training_transform(*, size: int, least_area: float, color: float, flip: float) -> Transform:
    """A random crop, random colours and a random flip (the authors' code, which has the defaults of torchvision's)."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(least_area, 1.0), antialias=True),
            v2.ToDtype(torch.float32, scale=True),  # here, as colours change four times as fast in floats
            v2.ColorJitter(brightness=color, contrast=color, saturation=color),
            v2.RandomHorizontalFlip(flip),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def validation_transform(*, size: int) -> Transform:
    """The middle of the image."""
    return v2.Compose(
        [
            v2.Resize(round(size * VALIDATION_MARGIN), antialias=True),
            v2.CenterCrop(size),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def epoch_batches(count: int, batch: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Indices of every batch of an epoch, shuffled; what does not fill the last batch is left out."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(mixed_seed(seed, epoch))).tolist()
    batch = min(batch, count)
    return [order[start : start + batch] for start in range(0, count - batch + 1, batch)]


def load_batches(
    entries: Sequence[Entry],
    batches: Sequence[Sequence[int]],
    transform: Transform,
    *,
    seed: int = 0,
    epoch: int = 0,
    workers: int = 0,
) -> Iterator[LabelledBatch]:
    """These batches of indices, read; random numbers of the transform depend on (seed, epoch, index)."""
    loader = DataLoader(
        _Pictures(entries, transform, seed, epoch),
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_collate,
        generator=torch.Generator(),  # torch draws a number here, which nothing uses
    )
    return said_if_lost(iter(loader), workers=workers)


class _Pictures(Dataset[tuple[Tensor, int] | str]):
    def __init__(self, entries: Sequence[Entry], transform: Transform, seed: int, epoch: int) -> None:
        self.entries, self.transform, self.seed, self.epoch = entries, transform, seed, epoch

    def __getitem__(self, index: int) -> tuple[Tensor, int] | str:
        """An image and its label, or what is wrong with it."""
        path, label = self.entries[index]
        try:
            pixels = torch.from_numpy(read_image(path)).permute(2, 0, 1).contiguous()
        except DataError as error:
            return str(error)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(mixed_seed(self.seed, self.epoch, index))
            return self.transform(pixels), label


def _collate(samples: list[tuple[Tensor, int] | str]) -> LabelledBatch:
    read = [sample for sample in samples if not isinstance(sample, str)]
    return LabelledBatch(
        torch.stack([pixels for pixels, _ in read]) if read else torch.empty(0, 3, 0, 0),
        torch.tensor([label for _, label in read], dtype=torch.int64),
        tuple(sample for sample in samples if isinstance(sample, str)),
    )


def _pictures_by_class(folder: Path) -> dict[str, list[Path]]:
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return {
        each.name: sorted(path for path in each.rglob("*") if path.suffix.lower() in SUFFIXES and not path.is_dir())
        for each in classes
    }


def _split_off(entries: Sequence[Entry], seed: int) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """A tenth of each class for validation, at least one image where a class has several."""
    generator = torch.Generator().manual_seed(mixed_seed(seed))
    chosen: set[int] = set()
    by_label: dict[int, list[int]] = {}
    for row, (_, label) in enumerate(entries):
        by_label.setdefault(label, []).append(row)
    for rows in by_label.values():
        many = max(1, round(len(rows) / 10)) if len(rows) > 1 else 0
        chosen |= {rows[place] for place in torch.randperm(len(rows), generator=generator)[:many].tolist()}
    train, val = (
        tuple(entry for row, entry in enumerate(entries) if (row in chosen) == wanted) for wanted in (False, True)
    )
    return train, val
