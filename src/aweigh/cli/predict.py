"""`aweigh predict`: objects found in images, drawn on them and written in a format that other programs read."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from aweigh.arguments import Share, check_value
from aweigh.catalogue import DEFAULT_MODEL
from aweigh.cli.detectors import find_detector, given_proposals
from aweigh.cli.flags import Batch, Frames, ProposalsFile, Tracks, Views, Weights
from aweigh.cli.terminal import bar, log, one_line
from aweigh.errors import UsageError, check_reach, counted, printable
from aweigh.scenes import STREET

if TYPE_CHECKING:
    from aweigh.detections import Detections
    from aweigh.predictor import Predictor
    from aweigh.results.writers import DetectionWriter
    from aweigh.tracking.tracker import Tracker


def command(
    *pictures: str,
    data: Path | None = None,
    split: Annotated[str, Parameter(show_default=False)] = "",
    recursive: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    allow_net: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    output: Annotated[str, Parameter(alias="-o", allow_leading_hyphen=True)] = "out",
    model: Annotated[str, Parameter(alias="-m")] = DEFAULT_MODEL,
    proposals_file: ProposalsFile = None,
    score: float | None = None,
    classes: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="", show_default=False)] = (),
    format: str = "jsonl",
    camera: Path | None = None,
    draw: bool = True,
    batch: Batch = 0,
    exif: Literal["apply", "ignore"] = "apply",
    value_range: Annotated[tuple[float, float] | None, Parameter(negative="")] = None,
    sample: Annotated[bool, Parameter(negative="")] = False,
    frames: Frames = Frames(),
    weights: Weights = Weights(),
    views: Views = Views(),
    tracks: Tracks = Tracks(),
) -> int:
    """Find objects in images: draw the boxes, masks, keypoints and 3D boxes and write them to a file.

    Boxes are in the pixels of the image as it is seen, after the rotation its EXIF data ask for. An image that
    cannot be read is named and left out; the others are done, and the command ends with 1.

    Args:
        pictures: Files, folders, patterns such as 'photos/**/*.jpg', archives (.zip, .tar, .tar.gz), lists of names
            (@list.txt, or @- for the standard input), videos, folders and images in stores (s3://bucket/photos, gs://,
            abfs://), with --allow-net addresses (https://...).
        data: In place of images a data set: its images, with the numbers and category ids they have there, and
            boxes in the pixels its own boxes are in. What --format coco then writes fits its annotations.
        split: Which part of the data: train, val, test, or as it is called there; all when not given.
        recursive: Of a folder take the images in its folders too.
        allow_net: Addresses, named here or in a list, may be fetched.
        output: Folder for images and videos with boxes and the file of detections; - writes the latter to the output
            stream.
        model: A checkpoint, a graph that `aweigh export` wrote (.onnx, .xml), the folder of a run (its best weights),
            or the name of a detector with published weights. The default, box, comes with aweigh and finds COCO's 80
            classes.
        score: Leave out detections below this score; 0.5 when not given, with --track 0.
        classes: Look for these classes only.
        format: jsonl: a line of JSON per image. parquet: a table with a row per image. coco: COCO's results. csv: a
            line per box. mot: the same as MOTChallenge has tracks. labelstudio and cvat: annotations to begin with,
            which Label Studio and CVAT import and people correct. yolo, voc, kitti and labelme: a file per image.
            Masks are in jsonl, parquet, coco and cvat, keypoints in jsonl, parquet, coco, csv and labelstudio, 3D boxes
            in jsonl, parquet, coco and kitti, tracks in jsonl, parquet, coco, csv, mot and labelme.
        camera: For a detector that finds objects in space: a calibration file as KITTI has it (P2), or a folder with
            one for each image, by its name. When not given, it is looked for where KITTI has it, in calib beside the
            folder of images.
        draw: Draw what was found on the images.
        exif: Whether the rotation in a photograph's EXIF data is applied.
        value_range: For images of more than 8 bits: which values are black and white, as 0 4095.
        sample: An image to try things on, which comes along: a drawn street.
    """
    pictures = (*pictures, str(STREET)) if sample else pictures
    check_pictures(pictures, data, split, exif)
    folder = output_folder(output)
    tracker = tracks.tracker()
    least = check_value("score", score if score is not None else 0.0 if tracker is not None else 0.5, Share)
    if tracker is not None and data is not None:
        raise UsageError("--track goes with frames in order, and the images of --data DATA are in none.")
    check_reach("batch", batch or 1)
    from aweigh.images.sources import images_of, together
    from aweigh.prediction.annotated_images import AnnotatedImages
    from aweigh.prediction.drawing import Pair, Places, Reading, draw_each, refuse_overwriting
    from aweigh.results.writers import DetectionWriter, format_named

    written = format_named(format)
    of_data = None if data is None else AnnotatedImages.of(data, split, distinct=format == "coco")
    chosen = frames.choice()
    given = (images_of(name, recursive=recursive, allow_net=allow_net, frames=chosen) for name in pictures)
    images = together([*given]) if of_data is None else of_data.images()
    place = None
    if draw and folder is not None:
        refuse_overwriting(images, folder)
        place = Places(folder, images.root)
    predictor = find_detector(model, weights, views)
    if not predictor.tta.plain:
        log().print("\n".join(predictor.tta.describe(predictor.engine)))
    if predictor.tiles is not None:
        log().print(str(predictor.tiles))
    reading: Reading = {"exif": exif, "value_range": value_range or "auto"}
    proposals = given_proposals(predictor.engine, proposals_file)
    asked = partial(
        predictor.with_images, score=least if tracker is None else tracker.low, classes=classes, proposals=proposals
    )
    add_camera = camera_of(predictor, camera)
    tally = Tally()
    found: Iterable[Pair] = asked(images, batch or predictor.engine.usual_batch, **reading)
    if tracker is not None:
        found = ((image, tracker.update(result)) for image, result in found)
        found = ((image, result[result.scores >= least]) for image, result in found)
    results: Iterator[Detections] = draw_each(
        ((image, add_camera(result)) for image, result in found), place, reading, tally.lose
    )
    ids = None
    if of_data is not None:
        stored: Reading = {**reading, "exif": "ignore"}
        results = of_data.framed(
            results, predictor.classes, lambda path: add_camera(next(asked([path], 1, **stored))[1])
        )
        ids = [*of_data.ids.values()]
    total = sum(1 for _ in images) if images.quick else None
    target = "-" if folder is None else folder / written.file
    with bar("predicting", total) as show, DetectionWriter(target, format, image_ids=ids) as writer:
        for result in tally.watch(results, show):
            writer.write(result)
    tally.tell(folder, written.file, predictor.engine.computed_by, drawn=place is not None)
    tell_lost(writer, format, predictor, tally, tracker)
    return 1 if tally.failed or tally.lost else 0


def check_pictures(pictures: Sequence[str], data: Path | None, split: str, exif: str) -> None:
    """Whether images are named, and in one way alone."""
    if data is not None and (pictures or exif != "apply"):
        raise UsageError("--data takes the images of a data set, rotated as they were annotated: name no others.")
    if split and data is None:
        raise UsageError(f"--split {split} goes with --data DATA.")
    if not pictures and data is None:
        raise UsageError(
            "Name the images: files, folders, patterns such as 'photos/**/*.jpg', archives or lists; or try --sample, "
            "an image that comes with aweigh."
        )


def output_folder(output: str) -> Path | None:
    """The folder to write into, None for the output stream."""
    if not output:
        raise UsageError("-o is empty; name a folder, or - for the output stream.")
    if output == "-":
        return None
    if Path(output).exists() and not Path(output).is_dir():
        raise UsageError(f"-o {output} is a file; name a folder, or - for the output stream.")
    return Path(output)


def camera_of(predictor: "Predictor", camera: Path | None) -> "Callable[[Detections], Detections]":
    """What gives the detections of an image its camera, where the detector finds objects in space."""
    from aweigh.layouts.kitti import read_camera
    from aweigh.prediction.drawing import with_camera

    in_space = "cuboids" in predictor.engine.extras
    if camera is not None and not in_space:
        raise UsageError(f"--camera {camera}: {predictor.engine.name} finds no objects in space; leave it out.")
    if camera is not None and not camera.is_dir():
        read_camera(camera)  # one for all of them: what is wrong with it is told at once
    return partial(with_camera, given=camera) if in_space else lambda result: result


def tell_lost(
    writer: "DetectionWriter", format: str, predictor: "Predictor", tally: "Tally", tracker: "Tracker | None"
) -> None:
    """What could not be written, or not as it should."""
    from aweigh.results import FORMATS

    extras = [*predictor.engine.extras, *["tracks"] * (tracker is not None)]
    if tracker is not None:
        log().print(tracker.told())
    if "cuboids" in extras and tally.without_camera:
        log().print(
            f"The camera of {counted(tally.without_camera, 'image')} is not known, nor where "
            "objects stand; --camera names a calibration file."
        )
    if writer.renamed_count:
        log().print(
            f"{counted(writer.renamed_count, 'file')} of detections could not be called as the image, whose name is "
            f"that of another or too long: {one_line('; '.join(writer.renamed))}",
        )
    if lost := [what for what in extras if what in FORMATS[format].left_out]:
        log().print(f"Format {format} has no place for {' and '.join(lost)}; --format jsonl and coco have.")


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
                log().print(f"left out: {one_line(result.error)}")
            show(self.pictures)
            yield result

    def lose(self, picture: str, error: Exception) -> None:
        """Say why an image could not be drawn."""
        self.lost += 1
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        log().print(f"not drawn: {one_line(f'{picture}: {reason}')}")

    def tell(self, folder: Path | None, file: str, computed_by: str, *, drawn: bool) -> None:
        screen = log()
        read = self.pictures - self.failed
        names = ", ".join(f"{printable(name)} {count}" for name, count in self.objects.most_common(8))
        more = f" and {counted(len(self.objects) - 8, 'more class')}" if len(self.objects) > 8 else ""
        seconds = time.perf_counter() - self.started
        speed = f"; {seconds / read:.2f} s per image ({computed_by})" if read else ""
        screen.print(
            f"{counted(read, 'image')}, {counted(self.objects.total(), 'object')}"
            f"{f' ({names}{more})' if names else ''}{speed}",
        )
        if self.failed:
            screen.print(f"{self.failed} of {counted(self.pictures, 'image')} could not be read.")
        if folder is not None:
            boxes = f"; boxes drawn in {folder}" if drawn and read else ""
            screen.print(f"Detections: {folder / file}{boxes}")
