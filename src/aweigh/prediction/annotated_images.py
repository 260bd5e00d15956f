"""Prediction on the images of a data set: with its image ids, its category ids, and in the frame of its boxes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aweigh.annotations.records import SAME_SHAPE
from aweigh.annotations.split import Split
from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.errors import DataError
from aweigh.images.sources.source import Images
from aweigh.layouts.finding import ALIASES
from aweigh.layouts.load import find_splits, load_split


@dataclass(frozen=True)
class AnnotatedImages:
    """splits: as read. ids: the id of each image in the data, sizes_hw: the size its boxes are in, by its file."""

    splits: dict[str, Split]
    ids: dict[Path, int]
    sizes_hw: dict[Path, tuple[int, int]]

    @staticmethod
    def of(data: str | Path, wanted: str = "", *, distinct: bool = True) -> AnnotatedImages:
        """The images of a split of a data set, of all its splits when none is named.

        distinct: `DataError` where two of them have one id, so that a file of results could not tell them apart.
        """
        names = [ALIASES.get(wanted, wanted)] if wanted else list(find_splits(data))
        return AnnotatedImages.of_splits({name: load_split(data, name) for name in names}, distinct=distinct)

    @staticmethod
    def of_splits(splits: dict[str, Split], *, distinct: bool = True) -> AnnotatedImages:
        """The images of splits that were loaded."""
        ids: dict[Path, int] = {}
        sizes: dict[Path, tuple[int, int]] = {}
        first: dict[int, Path] = {}
        for split in splits.values():
            for path, number, (height, width) in zip(
                split.paths, split.image_ids.tolist(), split.sizes_hw, strict=True
            ):
                if number in first and first[number] != path:
                    raise DataError(
                        f"{first[number]} and {path} both have the image id {number}; name one split of "
                        f"{', '.join(splits)} with --split."
                    )
                first[number] = path
                ids[path], sizes[path] = number, (int(height), int(width))
        return AnnotatedImages(splits, ids, sizes)

    def images(self) -> Images:
        """The image files, each once, in the order of the data."""
        folders = {path.parent for path in self.ids}
        return Images(lambda: iter(self.ids), Path(os.path.commonpath([folder.absolute() for folder in folders])))

    def classes(self, detector: Classes) -> Classes:
        """The detector's classes with the category ids of the data where these know them, else with free ids."""
        known = {name: i for one in self.splits.values() for name, i in zip(one.classes.names, one.classes.ids)}
        ids = {name: known[name] for name in detector.names if name in known}
        taken = {*known.values()}
        for name, number in zip(detector.names, detector.ids, strict=True):
            if name not in ids:
                ids[name] = number if number not in taken else max([*taken, *detector.ids]) + 1
                taken.add(ids[name])
        return Classes(detector.names, tuple(ids[name] for name in detector.names))

    def framed(
        self, results: Iterable[Detections], detector: Classes, unrotated: Callable[[Path], Detections]
    ) -> Iterator[Detections]:
        """Results of these images in the frame of the data, and with its category ids; see `in_frame`."""
        classes = self.classes(detector)
        for result in results:
            wanted = result.size_hw if result.error is not None else self.sizes_hw[Path(result.path or "")]
            yield replace(in_frame(result, wanted, unrotated), classes=classes)


def in_frame(result: Detections, wanted: tuple[int, int], unrotated: Callable[[Path], Detections]) -> Detections:
    """The detections of an image in the pixels that the boxes of the data are in, whose size is `wanted`.

    unrotated: detections of the image as it is stored, for one that was annotated before its EXIF rotation. A
    image that is of another shape than the data say has an error instead.
    """
    if result.error is not None or result.size_hw == wanted:
        return result
    path = Path(result.path or "")
    stored = unrotated(path) if result.size_hw[::-1] == wanted else result
    if stored.size_hw == wanted:
        return replace(stored, path=result.path)
    (height, width), ratio = result.size_hw, np.divide(*result.size_hw) / np.divide(*wanted)
    if abs(ratio - 1) <= SAME_SHAPE:
        return result.resized(wanted)
    error = (
        f"{path}: annotations say {wanted[1]} x {wanted[0]}, the image is {width} x {height}, another shape. "
        "Correct the annotations."
    )
    return replace(Detections.empty(result.classes, error=error), path=result.path)
