"""What is done with the detections of images, one by one: given their camera, drawn."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
from PIL.Image import Image as PILImage

from aweigh.ahead import computed_ahead
from aweigh.detections import Detections
from aweigh.errors import AweighError, DataError, UsageError
from aweigh.files import atomic_file, fitting_name
from aweigh.images.decode import ValueRange
from aweigh.images.opening import MOST_PIXELS
from aweigh.images.reader import ImageSource, read_reduced
from aweigh.images.sources.source import Images
from aweigh.images.stored import StoredImage
from aweigh.layouts.kitti import camera_beside, read_camera
from aweigh.prediction.films import Drawn, Film, filmed
from aweigh.runtime.engine import Engine
from aweigh.runtime.threads import usable_cores
from aweigh.video.encode import ending_for
from aweigh.video.frames import Video, VideoFrame

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


def camera_adder(engine: Engine, given: Path | None) -> Callable[[Detections], Detections]:
    """What gives the detections of an image its camera, where the detector finds objects in space."""
    in_space = "cuboids" in engine.extras
    if given is not None and not in_space:
        raise UsageError(f"--camera {given}: {engine.name} finds no objects in space; leave it out.")
    if given is not None and not given.is_dir():
        read_camera(given)  # one for all of them: what is wrong with it is told at once
    return partial(with_camera, given=given) if in_space else lambda result: result


Pair = tuple[ImageSource, Detections]  # an image with its detections


def draw_each(
    pairs: Iterable[Pair],
    place: Callable[[Path | StoredImage | Video], Path] | None,
    reading: Reading,
    lost: Callable[[str, Exception], object],
    *,
    at_once: bool = False,
) -> Generator[Detections]:
    """Write each image with its boxes to its place, and pass the detections on; without a `place` nothing is drawn.

    Threads draw and write while the next results are found; a result comes when its drawing is there. Frames of a video
    are written into one video, in the thread of the caller, which the threads are ahead of.

    lost: called with the image's name and the reason where a drawing fails; its detections and the others are not lost.
    at_once: without threads, each before the next pair is asked for, as what comes from a camera.
    """

    def drawing(task: tuple[ImageSource, Detections, Path | Film | None]) -> Drawn:
        source, result, target = task
        film = target if isinstance(target, Film) else None
        try:
            if result.error is not None or target is None:
                return Drawn(result, film=film)
            picture = _drawn(source, result, reading)
            if isinstance(target, Film):
                return Drawn(result, film=film, picture=np.asarray(picture))
            _save(picture, target)
            return Drawn(result)
        except (AweighError, OSError, ValueError, RuntimeError, MemoryError) as error:
            return Drawn(result, error, film)

    def tasks() -> Iterator[tuple[ImageSource, Detections, Path | Film | None]]:
        film: Film | None = None
        for source, result in pairs:
            target: Path | Film | None = None
            if place is not None and isinstance(source, VideoFrame):
                if film is None or source.video is not film.video:
                    film = Film(source.video, place(source.video))
                target = film
            elif place is not None and isinstance(source, Path | StoredImage):
                target = place(source)  # of an image with an error too, so that the others keep their names
            yield source, result, target

    threads = min(usable_cores(), MOST_DRAWING)
    ahead = 0 if place is None or at_once else 2 * threads
    with closing(computed_ahead(drawing, tasks(), ahead=ahead, threads=threads)) as done:
        yield from filmed(done, lost)


def _drawn(source: ImageSource, result: Detections, reading: Reading) -> PILImage:
    """A large image is drawn at a half, a quarter or an eighth of its size, see `drawn_hw`."""
    image, full_hw = read_reduced(source, drawn_hw, max_pixels=MOST_PIXELS, **reading)
    size_hw = (image.shape[0], image.shape[1])
    if size_hw != full_hw:
        result = result.resized(size_hw)
    return result.draw(image)


def _save(picture: PILImage, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target) as path:
        picture.save(path, quality=92)


def drawn_hw(height: int, width: int) -> tuple[int, int]:
    """What `read_reduced` has to keep twice of: the whole image, or what JPEG and the memory hold of a large one."""
    factor = 1
    while factor < 8 and (height * width > MOST_DRAWN * factor**2 or max(height, width) > LONGEST_JPEG * factor):
        factor *= 2
    return max(1, height // factor // 2), max(1, width // factor // 2)


class Places:
    """Where each image with boxes goes: below `folder` as the images lie below the root of their source, as JPEG, and
    the frames of a video as a video.

    Of images whose names would be the same (`a.png` and `a.jpg`, or two of archives), the first to come has it; others
    keep their suffix in the name, or have a number. To be asked once for each image, in order.
    """

    def __init__(self, folder: Path, root: Path | None) -> None:
        self._folder, self._root = folder, os.path.abspath(root or ".")
        self._taken: set[int] = set()  # hashes of names: a name takes three times the memory

    def __call__(self, image: Path | StoredImage | Video) -> Path:
        ending = ".jpg"
        if isinstance(image, StoredImage):
            name = image.place
        elif isinstance(image, Path):
            name = self._below_root(image)
        else:
            name, ending = self._below_root(image.path), ending_for(image)
        stems = chain((name.stem, name.name), (f"{name.stem}-{number}" for number in count(2)))
        targets = (name.with_name(fitting_name(stem, ending)) for stem in stems)
        target = next(target for target in targets if hash(target) not in self._taken)
        self._taken.add(hash(target))
        return self._folder / target

    def _below_root(self, path: Path) -> Path:
        full = Path(os.path.abspath(path))
        return full.relative_to(self._root) if full.is_relative_to(self._root) else Path(full.name)


def refuse_overwriting(images: Images, folder: Path) -> None:
    """`UsageError` where a drawing would take the place of one of the images."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    place, there = Places(folder, images.root), dict[int, Path]()
    for image in images.each():
        if os.path.lexists(target := place(image)):
            there[hash(os.path.realpath(target))] = target
    for image in images.each() if there else ():
        path = None if isinstance(image, StoredImage) else image if isinstance(image, Path) else image.path
        overwritten = None if path is None else there.get(hash(os.path.realpath(path)))
        if overwritten is not None:
            raise UsageError(
                f"The image {overwritten} would be overwritten by a drawing; choose another folder with -o."
            )
