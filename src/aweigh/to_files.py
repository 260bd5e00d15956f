"""From a source of images to files, as `aweigh predict` does it: `aweigh.predict_files`.

summary = aweigh.predict_files("photos/", "out", model="RUN/best.safetensors", format="csv", resume=True)
print(summary.images, summary.objects["person"], summary.file)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from aweigh.annotations.proposals import Proposals
from aweigh.annotations.split import Split
from aweigh.detections import Detections
from aweigh.errors import UsageError
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
    if tracker is not None and (resume or of_data is not None):
        raise UsageError("A tracker has to see all frames in order: leave resume out, and name no data set.")
    frames = FrameChoice.of(every, start, end)
    images = _images(source, recursive, allow_net, frames) if of_data is None else of_data.images()
    predictor = model if isinstance(model, Predictor) else load(model)
    reading: Reading = {"exif": exif, "value_range": value_range}
    asked = _Asked(predictor, score, tuple(classes), reading, proposals, camera, tracker, batch)
    summary = Summary(None if str(output) == "-" else Path(output) / written.file)
    if resume and summary.file is not None and summary.file.exists() and not unfinished(summary.file).exists():
        remark(f"{summary.file} is there, whole, and nothing was done; leave --resume out to predict again.")
        return replace(summary, finished_before=True)
    place = None
    if draw and summary.file is not None:
        refuse_overwriting(images, Path(output))
        place = Places(Path(output), images.root)

    def lose(image: str, error: Exception) -> None:
        summary.not_drawn += 1
        remark(f"not drawn: {image}: {getattr(error, 'strerror', None) or str(error) or type(error).__name__}")

    def found(images: Images) -> Iterator[Detections]:
        results = draw_each(asked.of(images), place, reading, lose, at_once=images.live)
        return results if of_data is None else of_data.framed(results, predictor.classes, asked.unrotated)

    total = sum(1 for _ in images) if images.quick else None
    with ExitStack() as stack:
        if summary.file is not None and (taken_over := stack.enter_context(hold(output))):
            remark(taken_over)
        journal = None
        if summary.file is not None and tracker is None:
            journal = stack.enter_context(kept(summary.file, asked.to_dict(), resume=resume, remark=remark))
        results = found(images) if journal is None else journal.merged(found(journal.missing(images, place)))
        ids = None if of_data is None else [*of_data.ids.values()]
        writer = stack.enter_context(DetectionWriter(summary.file or "-", format, image_ids=ids))
        for result in summary.watched(results, remark):
            writer.write(result)
            progress(summary.images, total)
    done_before = journal.done if journal is not None else 0
    return replace(summary, done_before=done_before, renamed=writer.renamed, renamed_count=writer.renamed_count)


@dataclass(frozen=True)
class _Asked:
    """What is asked of every image, as `predict_files` has it."""

    predictor: Predictor
    score: float | None
    classes: tuple[str, ...]
    reading: Reading
    proposals: Proposals | None
    camera: Path | None
    tracker: Tracker | None
    batch: int
    add_camera: Callable[[Detections], Detections] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "add_camera", camera_adder(self.predictor.engine, self.camera))

    def of(self, images: Images) -> Iterator[Pair]:
        """The images with their detections."""
        pairs = self._pairs(images, self.batch or self.predictor.engine.usual_batch, self.reading)
        if self.tracker is None:
            return pairs
        tracked = ((image, self.tracker.update(result)) for image, result in pairs)
        return ((image, result[result.scores >= (self.score or 0.0)]) for image, result in tracked)

    def unrotated(self, image: Path) -> Detections:
        """Those of an image as it is stored."""
        return next(self._pairs([image], 1, {**self.reading, "exif": "ignore"}))[1]

    def _pairs(self, images: Iterable[ImageSource], batch: int, reading: Reading) -> Iterator[Pair]:
        pairs = self.predictor.with_images(
            images, batch, score=self._least(), classes=self.classes, proposals=self.proposals, **reading
        )
        return ((image, self.add_camera(result)) for image, result in pairs)

    def _least(self) -> float:
        """The lowest score of what a predictor has to keep: a tracker needs weak detections too."""
        if self.tracker is not None:
            return self.tracker.low
        return SCORE if self.score is None else self.score

    def to_dict(self) -> dict[str, Any]:
        """What the detections of an image depend on, as JSON can hold it."""
        predictor, file = self.predictor, self.predictor.file
        stamp = (file.stat().st_size, file.stat().st_mtime_ns) if file is not None else ()
        return {
            "model": [str(file or predictor.engine.name), *stamp],
            "settings": dict(predictor.engine.settings),
            "resize": predictor.resize.to_dict(),
            "tta": predictor.tta.to_dict(predictor.engine),
            "tiles": str(predictor.tiles or "none"),
            "score": self._least(),
            "classes": self.classes,
            **self.reading,
            "proposals": self.proposals is not None,
            "camera": self.camera,
        }


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
