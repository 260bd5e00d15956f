"""From an image as the user has it to detections in its own pixels, for any detector.

    detector = aweigh.load()  # the one that comes with the package; or load("run/best.safetensors"), load(NAME)
    detections = detector("photo.jpg")  # those of score 0.5 and more
    people = detector("photo.jpg", score=0.3, classes=["person"])
    one, other = detector([array, tensor])
    detector = aweigh.load(tta=aweigh.TTA(flip=True, scales=(0.75, 1, 1.25)))  # slower, and may find more
    for result in detector.stream("photos/", batch=8): ...  # or photos.zip, photos.tar, @list.txt, 'photos/**/*.jpg'
    ships = detector("harbour.png", tile=640, overlap=0.2)  # a large image with small objects

An image is a path, the bytes of a file or a file opened for reading them, a PIL image, a uint8 array `(H, W, 3)` RGB,
or a tensor `[3, H, W]` (uint8, or float in `[0, 1]`): each gives the same detections. Boxes are in the pixels of the
image after its EXIF rotation, whatever size the network saw.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, overload

import numpy as np

from aweigh.ahead import computed_ahead
from aweigh.annotations.proposals import Proposals
from aweigh.annotations.split import Split
from aweigh.arguments import NMS, Precision, Share, check_value
from aweigh.catalogue import find_model
from aweigh.detections import Detections
from aweigh.errors import AweighError, DataError, UsageError, check_reach, counted, said_if_missing
from aweigh.geometry.frames import Frame
from aweigh.geometry.tiles import OVERLAP, Tiles, check_tiles
from aweigh.header import costs_little, tiles_of
from aweigh.images.decode import ValueRange
from aweigh.images.reader import ImageSource, check_reading, read_by_rows, read_reduced
from aweigh.images.resize import Resize
from aweigh.images.sources import stands_for_several
from aweigh.images.stored import StoredImage
from aweigh.prediction.given import begun, is_batch, of_image, path_of, pays_ahead, reason, sources
from aweigh.runtime.engine import Batch, Engine, check_engine, is_out_of_memory
from aweigh.runtime.open import SUFFIXES, Runtime, open_graph
from aweigh.runtime.threads import usable_cores
from aweigh.runtime.tiled import find_in_tiles
from aweigh.runtime.tta import PLAIN, TTA, find
from aweigh.video.frames import FrameChoice

if TYPE_CHECKING:
    import torch

    from aweigh.models.detector import Detector


def load(
    model: str | Path = "box",
    weights: str = "",
    *,
    resize: Resize | str | None = None,
    tta: TTA = PLAIN,
    tiles: Tiles | Literal["own"] | None = "own",
    device: torch.device | str | None = None,
    runtime: Runtime | Literal["torch"] | None = None,
    precision: Precision = "auto",
    threads: int = 0,
) -> Predictor:
    """A detector, ready to be called; loading a file runs no code from it.

    model: a checkpoint; a graph that `aweigh export` wrote (`.onnx`, `.xml`), which needs no torch; the folder of a
    run, whose best weights are meant; `"box"`, the detector that comes with the package, for the 80 classes of COCO;
    or any name that `aweigh models` lists, with the first of its published weights, or those of `weights`, a name or a
    file. `"box"` is a graph, and a checkpoint where torch is asked for: by `runtime`, by a device that is not the CPU,
    or by a precision.
    resize: instead of the step the detector was trained with, or a size for that step, as `Resize.with_size` takes it.
    tta: test-time augmentation. tiles: in which each image is looked at; `"own"` for those that the detector was
    trained in, if any, None for whole images. device: of a checkpoint a GPU that CUDA can use when there is one, else
    the CPU; of a graph the CPU, when not given. runtime: what computes, of a checkpoint `"torch"`, of a graph, when not
    given, onnxruntime (`.onnx`) or OpenVINO (`.xml`). precision: of the numbers that the network of a checkpoint
    computes with, `"float32"`, `"bf16"` or `"float16"`; `"auto"` is bf16 on a
    CPU that has it where the header says that it costs less than 0.2 AP, else float32; a graph has its own. threads: of
    the CPU, 0 for as many as there are cores to use. `.engine.computed_by` says what was chosen.
    """
    check_value("precision", precision, Precision)
    on_cpu = str(device or "auto") in ("auto", "cpu")
    of_torch = runtime == "torch" or (runtime is None and (precision != "auto" or not on_cpu))
    found = find_model(model, weights, graph=not of_torch)
    if isinstance(found, Path) and found.suffix in SUFFIXES:
        if precision != "auto":
            raise UsageError(f"precision = {precision!r}: {model} is a graph, which has its own; leave it out.")
        if runtime == "torch":
            raise UsageError(f"runtime = 'torch': {model} is a graph, which torch does not compute; leave it out.")
        graph, header = open_graph(found, runtime, None if device in (None, "auto") else str(device), threads)
        if graph.graph.whole_images and (resize is not None or tta.scales != PLAIN.scales):
            what = "scales" if resize is None else "resize"
            raise UsageError(f"{what}: {model} resizes images itself; a graph without that takes them in any size.")
        return Predictor(graph, _resize_of(header, resize), tta=tta, tiles=_tiles_of(header, tiles), file=found)
    if runtime not in (None, "torch"):
        raise UsageError(f"runtime = {runtime!r} goes with a graph ({', '.join(SUFFIXES)}); which {model} is not.")
    with said_if_missing(f"{model}", f"where torch is `aweigh export {model} -o NAME.onnx`, and name that file"):
        from aweigh.checkpoints.checkpoint import load_model
    from aweigh.inference.device import choose_device, has_bf16
    from aweigh.inference.engine import TorchEngine

    detector, header = load_model(model, weights)
    chosen = choose_device(device)
    if precision == "auto":
        cheap = chosen.type == "cpu" and has_bf16(chosen) and costs_little(header, "bf16")
        precision = "bf16" if cheap else "float32"
    engine = TorchEngine.prepared(detector, chosen, precision=precision, threads=threads)
    file = found if isinstance(found, Path) else None
    return Predictor(engine, _resize_of(header, resize), tta=tta, tiles=_tiles_of(header, tiles), file=file)


def _resize_of(header: Mapping[str, Any], asked: Resize | str | None) -> Resize:
    own = Resize.from_dict(header["resize"])
    return own.with_size(asked) if isinstance(asked, str) else asked or own


def _tiles_of(header: Mapping[str, Any], asked: Tiles | Literal["own"] | None) -> Tiles | None:
    return tiles_of(header) if asked == "own" else asked


MOST_INPUT_PIXELS = 1 << 26  # ours: 0.8 GB as the network's input, and some ten times that inside it

MOST_READERS = 8  # ours: threads that read images ahead of the network

SCORE = 0.5  # ours: the lowest of a detection that is shown


class Predictor:
    """A detector with its resize step: call it with an image or several, or let it `stream` over many.

    model: any detector, of which the predictor keeps a copy of its own, made fast for prediction (evaluation mode,
    batch normalisation folded into the convolutions, channels-last memory), and leaves the given one as it is; or an
    engine. resize: the step that was used in training. tta: test-time augmentation; an image is then read once for each
    size. tiles: in which each image is looked at, when a call does not say others; whole when not given. device: of a
    detector: a GPU that CUDA can use when there is one, else the CPU. file: that it was loaded from, where it was.
    """

    def __init__(
        self,
        model: Detector | Engine,
        resize: Resize,
        *,
        tta: TTA = PLAIN,
        tiles: Tiles | None = None,
        device: torch.device | str | None = None,
        file: Path | None = None,
    ) -> None:
        check_engine(model)
        if isinstance(model, Engine):
            self.engine: Engine = model
        else:
            from aweigh.inference.engine import TorchEngine

            self.engine = TorchEngine.prepared(model, device)
        self.resize, self.tta, self.tiles, self.file = resize, tta, tiles, file
        self.classes = self.engine.classes  # with the category ids of the data it was trained on

    @overload
    def __call__(
        self,
        image: ImageSource,
        *,
        score: float = ...,
        classes: Sequence[str] = ...,
        nms: NMS | None = ...,
        exif: Literal["apply", "ignore"] = ...,
        value_range: ValueRange = ...,
        tile: int | None = ...,
        overlap: float = ...,
        proposals: np.ndarray | None = ...,
    ) -> Detections: ...

    @overload
    def __call__(
        self,
        image: list[Any] | tuple[Any, ...],
        *,
        score: float = ...,
        classes: Sequence[str] = ...,
        nms: NMS | None = ...,
        exif: Literal["apply", "ignore"] = ...,
        value_range: ValueRange = ...,
        tile: int | None = ...,
        overlap: float = ...,
        proposals: Sequence[np.ndarray] | None = ...,
    ) -> list[Detections]: ...

    def __call__(
        self,
        image: ImageSource | list[Any] | tuple[Any, ...],
        *,
        score: float = SCORE,
        classes: Sequence[str] = (),
        nms: NMS | None = None,
        exif: Literal["apply", "ignore"] = "apply",
        value_range: ValueRange = "auto",
        tile: int | None = None,
        overlap: float = OVERLAP,
        proposals: np.ndarray | Sequence[np.ndarray] | None = None,
    ) -> Detections | list[Detections]:
        """The objects in an image, best first; of a list, a tuple, an array `(N, H, W, 3)` or a tensor `[N, 3, H, W]`
        a list with those of each. An image that cannot be read is a `DataError`.

        score: the lowest of a detection that is kept, 0.5 as in `aweigh predict`; 0 keeps all that the detector
        selects, which is what evaluation measures. classes: the names of those to keep; all when not given. nms: what
        suppresses what, in place of the detector's own setting: boxes of one class (`"class"`) or of any
        (`"agnostic"`) that overlap a better one, their scores alone (`"soft"`), or nothing (`"none"`).
        exif: whether the rotation in a photograph's EXIF data is applied; boxes are in the pixels of the image as it
        then is. value_range: which values are black and white, in images of more than 8 bits. tile, overlap: the
        image is looked at in squares of so many of its pixels, which overlap by this share of their side, and what is
        found on their seams is joined (docs/tiles.md); 0 looks at the whole. proposals: `[P, 4]` xyxy in the same
        pixels, best first, for a detector that needs them; of several images one array each.
        """
        several = isinstance(image, list | tuple) or is_batch(image)
        images: list[ImageSource] = [*cast(Any, image)] if several else [cast(Any, image)]
        for one in images:
            if isinstance(one, str | Path) and stands_for_several(one):
                raise UsageError(f"{one} stands for several images; predictor.stream({str(one)!r}) takes each in turn.")
        told: list[Any] = [*cast(Any, proposals)] if several and proposals is not None else [proposals] * len(images)
        if len(told) != len(images):
            raise UsageError(f"{counted(len(images), 'image')}, but proposals of {len(told)}; give one array for each.")
        asked = _Asked.of(self.engine, score, classes, nms, exif, value_range, self._tiles(tile, overlap))
        batch = self.engine.usual_batch
        results = []
        with closing(self._each(zip(images, told), batch, asked, ahead=pays_ahead(images, batch))) as found:
            for _, result in found:
                if isinstance(result, Exception):
                    raise result
                results.append(result)
        return results if several else results[0]

    def stream(
        self,
        source: ImageSource | Split | Iterable[ImageSource],
        batch: int = 8,
        *,
        recursive: bool = False,
        allow_net: bool = False,
        score: float = SCORE,
        classes: Sequence[str] = (),
        nms: NMS | None = None,
        exif: Literal["apply", "ignore"] = "apply",
        value_range: ValueRange = "auto",
        tile: int | None = None,
        overlap: float = OVERLAP,
        proposals: Proposals | None = None,
        every: int = 1,
        start: str | float = 0.0,
        end: str | float = math.inf,
    ) -> Iterator[Detections]:
        """The objects in each image of a source, in its order, while it is read; always a generator.

        source: a file, a folder, a pattern (`photos/**/*.jpg`), an archive (`.zip`, `.tar`, `.tar.gz`), a list of names
        (`@list.txt`, or `@-` for the standard input), a video, a split of a data set, or several images one after the
        other.
        recursive: of a folder what is in its folders too. allow_net: `https://...` is a source too, and may stand in a
        list. Where anything is wrong with one image (it cannot be read, it is no image, the memory is too small for
        it), its result is empty, `error` says why, and the run goes on. A source that is not there is an error at once.

        Of all these, but of images that a program gives one by one, threads read the next while the network runs, a few
        batches ahead, and on a CPU with several cores several batches are computed at a time. What a generator gives is
        asked for when the batch before it is taken: a camera is never behind.

        The images of a batch are padded at the right and bottom, with the mean colour, to the size of the largest.
        The network sees that margin: scores of objects next to it, and a little of everything where group
        normalisation takes its mean over the whole map, differ slightly from those of the image alone. Images of
        one size give the same detections in any batch; batch=1 never pads beyond the network's stride.

        score, classes, nms, exif, value_range, tile, overlap: as when it is called; of tiles so many go through the
        network together. proposals: of a file, for a detector that needs
        them. Images are then files, and one that they do not name, or in another size, gives an empty result with an
        error. every, start, end: of a video every `every`-th frame, from `start` until before `end` in seconds (`90`,
        `"1:30"`).
        """
        frames = FrameChoice.of(every, start, end)
        images = sources(source, recursive=recursive, allow_net=allow_net, frames=frames)
        pairs = self.with_images(
            images,
            batch,
            score=score,
            classes=classes,
            nms=nms,
            exif=exif,
            value_range=value_range,
            tile=tile,
            overlap=overlap,
            proposals=proposals,
        )

        def results() -> Iterator[Detections]:
            with closing(pairs):
                yield from (result for _, result in pairs)

        return results()

    def with_images(
        self,
        images: Iterable[ImageSource],
        batch: int = 8,
        *,
        score: float = SCORE,
        classes: Sequence[str] = (),
        nms: NMS | None = None,
        exif: Literal["apply", "ignore"] = "apply",
        value_range: ValueRange = "auto",
        tile: int | None = None,
        overlap: float = OVERLAP,
        proposals: Proposals | None = None,
    ) -> Generator[tuple[ImageSource, Detections]]:
        """As `stream` of images, each with its detections, for who needs it again, as to draw on it."""
        check_reach("batch", batch)
        tiles = self._tiles(tile, overlap)
        asked = _Asked.of(self.engine, score, classes, nms, exif, value_range, tiles)  # here, not at the first image

        def results() -> Generator[tuple[ImageSource, Detections]]:
            each, at_a_time, ahead = begun(images, batch)
            told = ((image, proposals) for image in each)
            with closing(self._each(told, at_a_time, asked, ahead=ahead)) as found:
                for image, result in found:
                    if isinstance(result, Exception):
                        result = of_image(Detections.empty(self.classes, error=reason(result, image)), image)
                    yield image, result

        return results()

    def _each(
        self, images: Iterable[_Given], batch: int, asked: _Asked, *, ahead: bool
    ) -> Generator[tuple[ImageSource, Detections | Exception]]:
        """Each image with what is kept of its detections, or why there are none.

        ahead: whether threads read further images meanwhile, and batches are computed side by side where that pays.
        """
        if asked.tiles is not None:
            yield from ((image, self._in_tiles(image, asked.tiles, batch, asked)) for image, _ in images)
            return
        engine, calls = asked.engine.side_by_side() if ahead else (asked.engine, 1)
        readers = min(usable_cores(), MOST_READERS)
        read_one = partial(self._read_or_say_why, asked)
        look = partial(self._found, replace(asked, engine=engine))
        with closing(computed_ahead(read_one, images, ahead=(batch + readers) * ahead, threads=readers)) as read:
            chunks = iter(lambda: [*islice(read, batch)], [])
            with closing(computed_ahead(look, chunks, ahead=calls if calls > 1 else 0, threads=calls)) as found:
                for results in found:
                    yield from results

    def _tiles(self, side: int | None, overlap: float) -> Tiles | None:
        """Those of a call, else the predictor's own."""
        return self.tiles if side is None else Tiles(side, overlap) if side else None

    def _in_tiles(self, image: ImageSource, tiles: Tiles, batch: int, asked: _Asked) -> Detections | Exception:
        """What is kept of the detections of an image that is looked at in tiles, or why there are none."""
        try:
            rows = read_by_rows(image, exif=asked.exif, value_range=asked.value_range)
            found = find_in_tiles(asked.engine, rows, tiles, self.resize, self.tta, batch=batch, kept=asked.kept)
        except (AweighError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            return error
        return of_image(found, image)

    def _read_or_say_why(self, asked: _Asked, given: _Given) -> tuple[ImageSource, _Read | Exception]:
        image, proposals = given
        try:
            return image, self._read(image, proposals, asked)
        except (AweighError, MemoryError) as error:
            return image, error

    def _found(
        self, asked: _Asked, chunk: list[tuple[ImageSource, _Read | Exception]]
    ) -> list[tuple[ImageSource, Detections | Exception]]:
        """What is kept of the detections of each image that was read."""
        found = iter(self._detect_or_say_why([read for _, read in chunk if isinstance(read, _Read)], asked))
        results: list[tuple[ImageSource, Detections | Exception]] = []
        for image, read in chunk:
            result = next(found) if isinstance(read, _Read) else read
            if isinstance(result, Detections):
                result = of_image(asked.kept(result), image)
            results.append((image, result))
        return results

    def _detect_or_say_why(self, images: list[_Read], asked: _Asked) -> list[Detections | Exception]:
        """`_detect`; where the memory is too small for all of them, one at a time, and why for those it is too small
        for."""
        try:
            return [*self._detect(images, asked)]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if len(images) == 1:
                return [error]
        return [result for image in images for result in self._detect_or_say_why([image], asked)]

    def _detect(self, images: list[_Read], asked: _Asked) -> list[Detections]:
        """images: as they were read, run as one padded batch for each size."""
        if not images:
            return []
        batches = [self._batch(images, number) for number in range(len(self.tta.scales))]
        return find(asked.engine, batches, [image.full_hw for image in images], self.tta)

    def _batch(self, images: list[_Read], number: int) -> Batch:
        """The images in the size of this number, with their proposals."""
        resized = [image.resized[number] for image in images]
        batch = Batch.stack(resized, divisor=self.engine.stride_divisor, fill=self.engine.pixel_mean)
        boxes = [
            Frame.resize(image.full_hw, size_hw).boxes(image.proposals)
            for image, size_hw in zip(images, batch.sizes_hw, strict=True)
            if image.proposals is not None
        ]
        return batch.with_proposals(boxes) if boxes else batch

    def _read(self, image: ImageSource, proposals: np.ndarray | Proposals | None, asked: _Asked) -> _Read:
        """Once for each size, of which each may be decoded at its own reduced one, as in evaluation."""
        resizes = self.tta.resizes(self.resize)
        read = [
            read_reduced(image, each.needed_size, exif=asked.exif, value_range=asked.value_range) for each in resizes
        ]
        full_hw = read[0][1]
        height, width = max((each.size_for(*full_hw) for each in resizes), key=math.prod)
        if height * width > MOST_INPUT_PIXELS:
            raise DataError(
                f"{path_of(image) or 'the image'}: {full_hw[1]} x {full_hw[0]} pixels would go through the network "
                f"as {width} x {height}, which is more than {MOST_INPUT_PIXELS / 1e6:.0f} megapixels. Choose a smaller "
                "size with --resize."
            )
        if isinstance(proposals, Proposals):
            if not isinstance(image, str | Path | StoredImage):
                raise UsageError(f"Proposals are found by the names of files, and a {type(image).__name__} has none.")
            proposals = proposals.of_picture(Path(str(image)), full_hw)
        boxes = None if proposals is None else proposals.astype(np.float32)
        resized = [each(pixels, full_hw=full_hw) for each, (pixels, _) in zip(resizes, read, strict=True)]
        return _Read(resized, full_hw, boxes)


_Given = tuple[ImageSource, "np.ndarray | Proposals | None"]  # an image, with its proposals


class _Read(NamedTuple):
    """resized: the image in each size it is looked at in, float32 `[3, h, w]` in `[0, 1]`. full_hw: the size of the
    whole. proposals: `[P, 4]` float32 xyxy in its pixels."""

    resized: list[np.ndarray]
    full_hw: tuple[int, int]
    proposals: np.ndarray | None


@dataclass(frozen=True)
class _Asked:
    """What is asked of every image: how it is read, what looks at it, and which detections are kept."""

    engine: Engine
    score: float
    labels: list[int] | None
    exif: Literal["apply", "ignore"]
    value_range: ValueRange
    tiles: Tiles | None

    @classmethod
    def of(
        cls,
        engine: Engine,
        score: float,
        classes: Sequence[str],
        nms: NMS | None,
        exif: Literal["apply", "ignore"],
        value_range: ValueRange,
        tiles: Tiles | None,
    ) -> _Asked:
        """Checked; `UsageError` for what there is not."""
        check_reading(exif, value_range)
        if isinstance(classes, str):
            raise UsageError(f"classes are a list of names, got {classes!r}.")
        labels = [engine.classes.label(name) for name in classes] or None
        if tiles is not None:
            check_tiles(engine.name, engine.extras, needs_proposals=engine.needs_proposals)
        if nms is not None:
            engine = engine.with_nms(check_value("nms", nms, NMS))
        return cls(engine, check_value("score", score, Share), labels, exif, value_range, tiles)

    def kept(self, found: Detections) -> Detections:
        """Those of the score and the classes that are asked for."""
        keep = found.scores >= self.score
        return found[keep if self.labels is None else keep & np.isin(found.labels, self.labels)]


def computes_with_torch(engine: Engine) -> bool:
    """Whether this is an engine of torch, which is not imported for it."""
    return any(kind.__module__ == "aweigh.inference.engine" for kind in type(engine).__mro__)
