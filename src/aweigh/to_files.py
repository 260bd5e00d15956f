"""From a source of images to files, as `aweigh predict` does it: `aweigh.predict_files`.

summary = aweigh.predict_files("photos/", "out", model="RUN/best.safetensors", format="csv", resume=True)
print(summary.images, summary.objects["person"], summary.file)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from aweigh.annotations.proposals import Proposals
from aweigh.annotations.split import Split
from aweigh.detections import Detections
from aweigh.images.decode import ValueRange
from aweigh.images.reader import ImageSource
from aweigh.images.sources import images_of, together
from aweigh.images.sources.source import Images
from aweigh.lock import hold
from aweigh.prediction.annotated_images import AnnotatedImages
from aweigh.prediction.drawing import Pair, Places, Reading, camera_adder, draw_each, refuse_overwriting
from aweigh.prediction.journal import kept, unfinished
from aweigh.prediction.summary import Summary
from aweigh.predictor import SCORE, Predictor, load
from aweigh.results.writers import DetectionWriter, format_named
from aweigh.tracking.tracker import Tracker
from aweigh.video.frames import FrameChoice

Source = str | Path | Split | AnnotatedImages | Images | Sequence[str | Path]


def predict_files(
    source: Source,
    output: str | Path = "out",
    *,
    model: str | Path | Predictor = "box",
    format: str = "jsonl",
    resume: bool = False,
    draw: bool = True,
    recursive: bool = False,
    allow_net: bool = False,
    tracker: Tracker | None = None,
    score: float | None = None,
    classes: Sequence[str] = (),
    exif: Literal["apply", "ignore"] = "apply",
    value_range: ValueRange = "auto",
    proposals: Proposals | None = None,
    camera: Path | None = None,
    batch: int = 0,
    every: int = 1,
    start: str | float = 0.0,
    end: str | float = math.inf,
    progress: Callable[[int, int | None], object] = lambda done, total: None,
    remark: Callable[[str], object] = lambda text: None,
) -> Summary:
    """Find objects in images, write what is found to a file, and each image with its boxes beside it.

    What is found is kept on the disk image by image until the file is there, whole. A run that was stopped, or killed
    at any moment, is gone on with by `resume`: it does what is missing, and writes the very file that it would have
    written at once.

    source: as for `Predictor.stream`, or several of these. Images of a data set have the numbers and category ids that
    they have there, and their boxes are in the pixels that its own boxes are in. output: a folder, or `-` for the
    standard output, without drawings. model: as `aweigh.load` takes it, or a predictor, whose resize, tiles and
    test-time augmentation are then used. format: a name in `aweigh.results.FORMATS`. resume: go on where a run into
    this folder was stopped. It is a `UsageError` where that one asked for anything else, and nothing is done where the
    file is there already. draw: whether to write drawings. camera: for a detector that finds objects in space, a
    calibration file or a folder with one for each image. batch: images at a time, 0 for what pays on the device.
    tracker: of frames in order, gives objects an id from frame to frame; such a run begins anew. score: 0.5 when not
    given, with a tracker 0. progress: called with the number of images that are done and of all, None where that is not
    known. remark: is told what cannot wait for the summary, as that an image cannot be read. All others are as for
    `Predictor.stream`.
    """
    written, of_data = format_named(format), _of_data(source, distinct=format == "coco")
    frames = FrameChoice.of(every, start, end)
    images = _images(source, recursive, allow_net, frames) if of_data is None else of_data.images()
    predictor = model if isinstance(model, Predictor) else load(model)
    summary = Summary(None if str(output) == "-" else Path(output) / written.file)
    if resume and summary.file is not None and summary.file.exists() and not unfinished(summary.file).exists():
        remark(f"{summary.file} is there already; leave --resume out to predict again.")
        return replace(summary, finished_before=True)
    place = None
    if draw and summary.file is not None:
        refuse_overwriting(images, Path(output))
        place = Places(Path(output), images.root)
    reading: Reading = {"exif": exif, "value_range": value_range}
    least = score if score is not None else SCORE if tracker is None else 0.0
    asked = {"score": least if tracker is None else tracker.low, "classes": classes, **reading, "proposals": proposals}
    add_camera = camera_adder(predictor.engine, camera)

    def look(images: Iterable[ImageSource], batch: int, **otherwise: Any) -> Iterator[Pair]:
        pairs = predictor.with_images(images, batch, **{**asked, **otherwise})
        return ((image, add_camera(result)) for image, result in pairs)

    def lose(image: str, error: Exception) -> None:
        summary.not_drawn += 1
        remark(f"not drawn: {image}: {getattr(error, 'strerror', None) or str(error) or type(error).__name__}")

    def found(images: Images) -> Iterator[Detections]:
        pairs = look(images, batch or predictor.engine.usual_batch)
        if tracker is not None:
            pairs = ((image, tracker.update(result)) for image, result in pairs)
            pairs = ((image, result[result.scores >= least]) for image, result in pairs)
        results = draw_each(pairs, place, reading, lose)
        if of_data is None:
            return results
        return of_data.framed(results, predictor.classes, lambda path: next(look([path], 1, exif="ignore"))[1])

    ids = None if of_data is None else [*of_data.ids.values()]
    total = sum(1 for _ in images) if images.quick else None
    with ExitStack() as stack:
        if summary.file is not None and (taken_over := stack.enter_context(hold(output))):
            remark(taken_over)
        journal, results = None, found(images)
        if summary.file is not None and tracker is None:
            depends_on = {**asked, "proposals": proposals is not None, "camera": camera, **_made_by(predictor)}
            journal = stack.enter_context(kept(summary.file, depends_on, resume=resume, remark=remark))
            results = journal.merged(found(journal.missing(images, place)))
        writer = stack.enter_context(DetectionWriter(summary.file or "-", format, image_ids=ids))
        for result in summary.watched(results, remark):
            writer.write(result)
            progress(summary.images, total)
    return replace(
        summary, done_before=journal.done if journal else 0, renamed=writer.renamed, renamed_count=writer.renamed_count
    )


def _of_data(source: Source, *, distinct: bool) -> AnnotatedImages | None:
    """The images of a data set; None for another source."""
    if isinstance(source, Split):
        return AnnotatedImages.of_splits({source.name: source}, distinct=distinct)
    return source if isinstance(source, AnnotatedImages) else None


def _images(source: Any, recursive: bool, allow_net: bool, frames: FrameChoice) -> Images:
    if isinstance(source, Images):
        return source
    names = [source] if isinstance(source, str | Path) else source
    return together([images_of(name, recursive=recursive, allow_net=allow_net, frames=frames) for name in names])


def _made_by(predictor: Predictor) -> dict[str, Any]:
    """What the results of a predictor depend on, as JSON can hold it."""
    file = predictor.file and predictor.file.stat()
    return {
        "model": [str(predictor.file or predictor.engine.name), *((file.st_size, file.st_mtime_ns) if file else ())],
        "settings": dict(predictor.engine.settings),
        "resize": predictor.resize.to_dict(),
        "tta": predictor.tta.to_dict(predictor.engine),
        "tiles": str(predictor.tiles or "none"),
    }
