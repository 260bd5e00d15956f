"""What is done with the detections of images, one by one: given their camera, drawn."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypedDict

from aweigh.ahead import computed_ahead
from aweigh.detections import Detections
from aweigh.errors import AweighError, DataError, UsageError
from aweigh.files import atomic_file, fitting_name
from aweigh.images.decode import ValueRange
from aweigh.images.reader import read_reduced
from aweigh.layouts.kitti import camera_beside, read_camera
from aweigh.runtime.threads import usable_cores

MOST_DRAWN = 1 << 25  # pixels of a drawing, ours; a larger image is drawn smaller
LONGEST_JPEG = 65_500  # pixels of a side that libjpeg writes
MOST_DRAWING = 4  # threads, ours; each holds an image in full


class Reading(TypedDict):
    """How images are read, the same for the network and for the drawing."""

    exif: Literal["apply", "ignore"]
    value_range: ValueRange


def with_camera(result: Detections, *, given: Path | None) -> Detections:
    """The detections with the camera of their image: of the file or folder given, else where KITTI has it.

    A calibration that cannot be read is the error of its image.
    """

    picture = Path(result.path or "")
    file = camera_beside(picture) if given is None else given / f"{picture.stem}.txt" if given.is_dir() else given
    if result.error is not None or (given is None and not file.is_file()):
        return result
    try:
        return replace(result, camera=read_camera(file))
    except DataError as error:
        return type(result).empty(result.classes, path=result.path, error=str(error))


def draw_each(
    results: Iterable[Detections],
    drawn: Mapping[Path, Path],
    reading: Reading,
    lost: Callable[[Path, Exception], object],
) -> Generator[Detections]:
    """Write each image with its boxes to the place `drawn` has for it, and pass the result on.

    Threads draw and write while the next results are found; a result comes when its drawing is there.

    lost: called with the image and the reason where a drawing fails; its detections and the others are not lost.
    """

    def drawing(result: Detections) -> tuple[Detections, Exception | None]:
        source = Path(result.path or "")
        if source in drawn and result.error is None:
            try:
                _draw(source, result, drawn[source], reading)
            except (AweighError, OSError, ValueError, RuntimeError, MemoryError) as error:
                return result, error
        return result, None

    threads = min(usable_cores(), MOST_DRAWING)
    with closing(computed_ahead(drawing, results, ahead=2 * threads if drawn else 0, threads=threads)) as done:
        for result, error in done:
            if error is not None:
                lost(Path(result.path or ""), error)
            yield result


def _draw(source: Path, result: Detections, target: Path, reading: Reading) -> None:
    """A large image is drawn at a half, a quarter or an eighth of its size, see `drawn_hw`."""
    image, full_hw = read_reduced(source, drawn_hw, **reading)
    size_hw = (image.shape[0], image.shape[1])
    if size_hw != full_hw:
        result = result.resized(size_hw)
    picture = result.draw(image)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target) as path:
        picture.save(path, quality=92)


def drawn_hw(height: int, width: int) -> tuple[int, int]:
    """What `read_reduced` has to keep twice of: the whole image, or what JPEG and the memory hold of a large one."""
    factor = 1
    while factor < 8 and (height * width > MOST_DRAWN * factor**2 or max(height, width) > LONGEST_JPEG * factor):
        factor *= 2
    return max(1, height // factor // 2), max(1, width // factor // 2)


def drawn_paths(paths: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Where each image with boxes goes: below `folder` as the sources lie below the folder they share, as JPEG.

    Images that differ only in their suffix keep it in the name. `UsageError` where a source would be overwritten.
    """

    absolute = [path.absolute() for path in paths]
    shared = Path(os.path.commonpath([path.parent for path in absolute]))
    stems = Counter(path.with_suffix("") for path in absolute)
    targets = {}
    for path, full in zip(paths, absolute):
        name = full.relative_to(shared)
        alone = stems[full.with_suffix("")] == 1
        targets[path] = folder / name.with_name(fitting_name(name.stem if alone else name.name, ".jpg"))
    sources = {os.path.realpath(path) for path in paths}  # that of a link in a circle, too
    for path, target in targets.items():
        if os.path.realpath(target) in sources:
            raise UsageError(f"{target} would be overwritten by the drawing of {path}; choose another folder with -o.")
    return targets
