"""`aweigh predict`: objects found in pictures, drawn on them and written in a format that other programs read."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict

from cyclopts import Parameter

from aweigh.cli.common import (
    AS_TRAINED,
    Views,
    bar,
    check_loading,
    find_detector,
    given_proposals,
    log,
    one_line,
    sample_photograph,
)
from aweigh.errors import AweighError, DataError, UsageError, counted, printable
from aweigh.weights import DEFAULT_MODEL

if TYPE_CHECKING:
    from aweigh.detections import Detections
    from aweigh.images.decode import ValueRange


class Reading(TypedDict):
    """How pictures are read, the same for the network and for the drawing."""

    exif: Literal["apply", "ignore"]
    value_range: "ValueRange"


MOST_DRAWN = 1 << 25  # pixels of a drawing, ours; a larger picture is drawn smaller
LONGEST_JPEG = 65_500  # pixels of a side that libjpeg writes


def command(
    *pictures: str,
    data: Annotated[Path | None, Parameter(show_default=False)] = None,
    split: Annotated[str, Parameter(show_default=False)] = "",
    output: Annotated[str, Parameter(alias="-o", allow_leading_hyphen=True)] = "out",
    model: Annotated[str, Parameter(alias="-m")] = DEFAULT_MODEL,
    weights: Annotated[str, Parameter(show_default=False)] = "",
    proposals_file: Annotated[Path | None, Parameter(show_default=False)] = None,
    score: float = 0.5,
    classes: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="", show_default=False)] = (),
    format: str = "jsonl",
    camera: Annotated[Path | None, Parameter(show_default=False)] = None,
    draw: bool = True,
    batch: Annotated[int, Parameter(show_default=False)] = 0,
    device: str = "auto",
    exif: Literal["apply", "ignore"] = "apply",
    value_range: Annotated[tuple[float, float] | None, Parameter(negative="")] = None,
    sample: Annotated[bool, Parameter(negative="")] = False,
    views: Annotated[Views, Parameter(name="*")] = AS_TRAINED,
) -> int:
    """Find objects in pictures: draw the boxes, masks, keypoints and places in space and write them to a file.

    Boxes are in the pixels of the picture as it is seen, after the rotation its EXIF data ask for. A picture that
    cannot be read is named and left out; the others are done, and the command ends with 1.

    Parameters
    ----------
    pictures
        Files, folders, or patterns such as 'photos/**/*.jpg'.
    data
        In place of pictures a data set: its pictures, with the numbers and category ids they have there, and boxes in
        the pixels its own boxes are in. What --format coco then writes fits its annotations.
    split
        Which part of the data: train, val, test, or as it is called there; all when not given.
    output
        Folder for pictures with boxes and the file of detections; - writes the latter to the output stream.
    model
        A checkpoint that training wrote, or the name of a detector. The default comes with aweigh and finds COCO's 80
        classes.
    weights
        Published weights by name (box, which come with aweigh, or torchvision), or a file of them.
    proposals_file
        File of proposals for these pictures, found by their names, for a detector that proposes none itself (Fast
        R-CNN).
    score
        Leave out detections below this score.
    classes
        Look for these classes only.
    format
        jsonl: a line of JSON per picture. coco: COCO's results. csv: a line per box. yolo, voc, kitti: a file per
        picture. Masks are in jsonl and coco, keypoints in csv too, places in space in jsonl, coco and kitti. A word
        that is none of them lists all there are.
    camera
        For a detector that finds objects in space: a calibration file as KITTI has it (P2), or a folder with one for
        each picture, by its name. When not given, it is looked for where KITTI has it, in calib beside the folder of
        pictures.
    draw
        Draw what was found on the pictures.
    batch
        Pictures that go through the network together; 1 on a CPU and 8 on a GPU when not given.
    device
        auto, cpu, cuda, cuda:1 or mps.
    exif
        Whether the rotation in a photograph's EXIF data is applied.
    value_range
        For pictures of more than 8 bits: which values are black and white, as 0 4095.
    sample
        A photograph to try things on, which matplotlib brings along.
    """
    if sample:
        pictures = (*pictures, str(sample_photograph()))
    if data is not None and (pictures or exif != "apply"):
        raise UsageError("--data takes the pictures of a data set, rotated as they were annotated: name no others.")
    if split and data is None:
        raise UsageError(f"--split {split} goes with --data DATA.")
    if not pictures and data is None:
        raise UsageError(
            "Name the pictures: files, folders or patterns such as 'photos/**/*.jpg'; or try --sample, a photograph "
            "that is on this machine already."
        )
    if not 0 <= score <= 1:  # nor NaN, which no score reaches
        raise UsageError(f"score = {score:g}: expected a number from 0 to 1.")
    if not output:
        raise UsageError("-o is empty; name a folder, or - for the output stream.")
    check_loading(batch, 0)
    from aweigh.layouts.kitti import read_camera
    from aweigh.prediction.data_pictures import DataPictures
    from aweigh.prediction.extras import extras
    from aweigh.predictor import sources
    from aweigh.results.writers import DetectionWriter, format_named

    written = format_named(format)
    of_data = None if data is None else DataPictures.of(data, split, distinct=format == "coco")
    given_paths = (Path(str(path)) for picture in pictures for path in sources(picture))
    paths = list(dict.fromkeys(given_paths if of_data is None else of_data.ids))
    predictor = find_detector(model, weights, device, views)
    if not predictor.tta.plain:
        log().print("\n".join(predictor.tta.describe(predictor.model)), markup=False)
    given = given_proposals(predictor.model, proposals_file)
    in_space = "cuboids" in extras(predictor.model)
    if camera is not None and not in_space:
        raise UsageError(f"--camera {camera}: {predictor.model.builder} finds no objects in space; leave it out.")
    if camera is not None and not camera.is_dir():
        read_camera(camera)  # one for all of them: what is wrong with it is told at once
    seen = partial(with_camera, given=camera) if in_space else lambda result: result
    labels = [predictor.classes.label(name) for name in classes] or list(range(len(predictor.classes)))
    reading: Reading = {"exif": exif, "value_range": value_range or "auto"}
    folder = None if output == "-" else Path(output)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UsageError(f"-o {folder} is a file; name a folder, or - for the output stream.")
    target = "-" if folder is None else folder / written.file
    drawn = drawn_paths(paths, folder) if draw and folder is not None else {}

    tally = Tally()
    results = predictor.stream(paths, batch or predictor.usual_batch, proposals=given, **reading)
    with bar("predicting", len(paths)) as show:
        kept = (keep(seen(result), score, labels) for result in results)
        found = draw_each(kept, drawn, reading, tally.lose)
        if of_data is not None:

            def unrotated(path: Path) -> "Detections":
                stored = predictor.stream([path], 1, proposals=given, value_range=reading["value_range"], exif="ignore")
                return keep(seen(next(stored)), score, labels)

            found = of_data.framed(found, predictor.classes, unrotated)
        ids = None if of_data is None else [of_data.ids[path] for path in paths]
        with DetectionWriter(target, format, image_ids=ids) as writer:
            for result in tally.watch(found, show):
                writer.write(result)
    tally.tell(folder, written.file, drawn=bool(drawn))
    if in_space and tally.without_camera:
        log().print(
            f"The camera of {counted(tally.without_camera, 'picture')} is not known, nor where "
            "objects stand; --camera names a calibration file."
        )
    if writer.renamed_count:
        log().print(
            f"{counted(writer.renamed_count, 'file')} of detections could not be called as the picture, whose name is "
            f"that of another or too long: {one_line('; '.join(writer.renamed))}",
            markup=False,
        )
    lost = [what for what in extras(predictor.model) if what in written.left_out]
    if lost:
        log().print(f"Format {format} has no place for {' and '.join(lost)}; --format jsonl and coco have.")
    return 1 if tally.failed or tally.lost else 0


def keep(result: "Detections", score: float, labels: Sequence[int]) -> "Detections":
    """The detections of at least this score, of these classes."""
    import torch

    return result[(result.scores >= score) & torch.isin(result.labels, torch.tensor(labels))]


def with_camera(result: "Detections", *, given: Path | None) -> "Detections":
    """The detections with the camera of their picture: of the file or folder given, else where KITTI has it.

    A calibration that cannot be read is the error of its picture.
    """
    from dataclasses import replace

    from aweigh.layouts.kitti import camera_beside, read_camera

    picture = Path(result.path or "")
    file = camera_beside(picture) if given is None else given / f"{picture.stem}.txt" if given.is_dir() else given
    if result.error is not None or (given is None and not file.is_file()):
        return result
    try:
        return replace(result, camera=read_camera(file))
    except DataError as error:
        return type(result).empty(result.classes, path=result.path, error=str(error))


def draw_each(
    results: Iterable["Detections"],
    drawn: Mapping[Path, Path],
    reading: "Reading",
    lost: Callable[[Path, Exception], object],
) -> Iterator["Detections"]:
    """Write each picture with its boxes to the place `drawn` has for it, and pass the result on.

    lost: called with the picture and the reason where a drawing fails; its detections and the others are not lost.
    """
    for result in results:
        source = Path(result.path or "")
        if source in drawn and result.error is None:
            try:
                _draw(source, result, drawn[source], reading)
            except (AweighError, OSError, ValueError, RuntimeError, MemoryError) as error:
                lost(source, error)
        yield result


def _draw(source: Path, result: "Detections", target: Path, reading: "Reading") -> None:
    """A large picture is drawn at a half, a quarter or an eighth of its size, see `drawn_hw`."""

    from aweigh.files import atomic_file
    from aweigh.images.reader import read_reduced
    from aweigh.visualise import draw_detections, draw_in_space

    image, full_hw = read_reduced(source, drawn_hw, **reading)
    size_hw = (image.shape[1], image.shape[2])
    stands = result.cuboids is not None and result.camera is not None
    if size_hw != full_hw:
        result = result.resized(size_hw)
    picture = (draw_in_space if stands else draw_detections)(image, result)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target) as path:
        picture.save(path, quality=92)


def drawn_hw(height: int, width: int) -> tuple[int, int]:
    """What `read_reduced` has to keep twice of: the whole picture, or what JPEG and the memory hold of a large one."""
    factor = 1
    while factor < 8 and (height * width > MOST_DRAWN * factor**2 or max(height, width) > LONGEST_JPEG * factor):
        factor *= 2
    return max(1, height // factor // 2), max(1, width // factor // 2)


def drawn_paths(paths: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Where each picture with boxes goes: below `folder` as the sources lie below the folder they share, as JPEG.

    Pictures that differ only in their suffix keep it in the name. `UsageError` where a source would be overwritten.
    """
    from aweigh.files import fitting_name

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


@dataclass
class Tally:
    """What was seen, for the summary at the end."""

    pictures: int = 0
    failed: int = 0
    lost: int = 0  # drawings
    without_camera: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.perf_counter)

    def watch(self, results: Iterable["Detections"], show: Callable[[int], None]) -> Iterator["Detections"]:
        for result in results:
            self.pictures += 1
            self.objects.update(result.names)
            self.without_camera += result.camera is None and result.error is None
            if result.error is not None:
                self.failed += 1
                log().print(f"left out: {one_line(result.error)}", markup=False)
            show(self.pictures)
            yield result

    def lose(self, picture: Path, error: Exception) -> None:
        """Say why a picture could not be drawn."""
        self.lost += 1
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        log().print(f"not drawn: {one_line(f'{picture}: {reason}')}", markup=False)

    def tell(self, folder: Path | None, file: str, *, drawn: bool) -> None:
        screen = log()
        read = self.pictures - self.failed
        names = ", ".join(f"{printable(name)} {count}" for name, count in self.objects.most_common(8))
        more = f" and {counted(len(self.objects) - 8, 'more class')}" if len(self.objects) > 8 else ""
        speed = f"; {(time.perf_counter() - self.started) / read:.2f} s per picture" if read else ""
        screen.print(
            f"{counted(read, 'picture')}, {counted(self.objects.total(), 'object')}"
            f"{f' ({names}{more})' if names else ''}{speed}",
            markup=False,
        )
        if self.failed:
            screen.print(f"{self.failed} of {counted(self.pictures, 'picture')} could not be read.", markup=False)
        if folder is not None:
            boxes = f"; boxes drawn in {folder}" if drawn and read else ""
            screen.print(f"Detections: {folder / file}{boxes}", markup=False)
