"""From a picture as the user has it to detections in its own pixels, for any detector.

    detector = aweigh.load()  # the one that comes with the package; or load("run/best.safetensors")
    detections = detector("photo.jpg")
    detector = aweigh.load(tta=aweigh.TTA(flip=True, scales=(0.75, 1, 1.25)))  # slower, and may find more
    for result in detector.stream("photos/", batch=8): ...

A picture is a path, a PIL image, a uint8 array `[H, W, 3]` RGB, or a tensor `[3, H, W]` (uint8, or float in `[0, 1]`).
Boxes are in the pixels of the picture after its EXIF rotation, whatever size the network saw.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from aweigh.annotations.proposals import Proposals
from aweigh.detections import Detections
from aweigh.errors import AweighError, DataError, UsageError, check_reach
from aweigh.geometry.frames import Frame
from aweigh.images.decode import ValueRange
from aweigh.images.reader import ImageSource, check_reading, is_file, is_tensor, read_reduced
from aweigh.images.resize import Resize
from aweigh.images.sources import image_paths
from aweigh.runtime.engine import Batch, Engine, is_out_of_memory
from aweigh.runtime.tta import PLAIN, TTA, find

if TYPE_CHECKING:
    import torch

    from aweigh.models.detector import Detector


def load(
    path: str | Path = "box",
    *,
    resize: Resize | None = None,
    tta: TTA = PLAIN,
    device: torch.device | str | None = None,
) -> Predictor:
    """The detector of a checkpoint, ready to be called; needs nothing but the file, and runs no code from it.

    `"box"` is the detector that comes with the package, for the 80 classes of COCO. resize: instead of the one in the
    checkpoint. tta: test augmentation.
    """
    from aweigh.checkpoints.checkpoint import load_model
    from aweigh.models import PUBLISHED
    from aweigh.weights import DEFAULT_MODEL
    from aweigh.weights.load import locate

    model, header = load_model(locate(PUBLISHED[DEFAULT_MODEL]["box"]) if path == "box" else path)
    return Predictor(model, resize or Resize.from_dict(header["resize"]), tta=tta, device=device)


MOST_INPUT_PIXELS = 1 << 26  # ours: 0.8 GB as the network's input, and some ten times that inside it

# A picture for each size it is looked at in, perhaps decoded at a reduced one, and the size of the whole.
_Read = tuple[list[np.ndarray], tuple[int, int]]


class Predictor:
    """A detector with its resize step: call it with one picture, or let it `stream` over many.

    model: any detector, of which the predictor keeps a copy of its own, made fast for prediction (evaluation mode,
    batch normalisation folded into the convolutions, channels-last memory), and leaves the given one as it is; or an
    engine. resize: the step that was used in training. tta: test augmentation; a picture is then read once for each
    size. device: of a detector: a GPU that CUDA can use when there is one, else the CPU.
    """

    def __init__(
        self, model: Detector | Engine, resize: Resize, *, tta: TTA = PLAIN, device: torch.device | str | None = None
    ) -> None:
        if isinstance(model, Engine):
            self.engine: Engine = model
        else:
            from aweigh.inference.engine import TorchEngine

            self.engine = TorchEngine.prepared(model, device)
        self.resize, self.tta = resize, tta
        self.classes = self.engine.classes  # with the category ids of the data it was trained on

    def __call__(
        self,
        picture: ImageSource,
        *,
        exif: Literal["apply", "ignore"] = "apply",
        value_range: ValueRange = "auto",
        proposals: np.ndarray | None = None,
    ) -> Detections:
        """The objects in one picture, best first. A picture that cannot be read is a `DataError`.

        exif: whether the rotation in a photograph's EXIF data is applied; boxes are in the pixels of the picture as
        it then is. value_range: which values are black and white, in pictures of more than 8 bits. proposals: `[P, 4]`
        xyxy in the same pixels, best first, for a detector that needs them.
        """
        if isinstance(picture, list | tuple):
            raise UsageError(f"A predictor takes one picture, got {len(picture)}; use predictor.stream(pictures).")
        image = self._read(picture, exif, value_range)
        return replace(self._detect([(image, proposals)])[0], path=_path(picture))

    def stream(
        self,
        source: ImageSource | Iterable[ImageSource],
        batch: int = 8,
        *,
        exif: Literal["apply", "ignore"] = "apply",
        value_range: ValueRange = "auto",
        proposals: Proposals | None = None,
    ) -> Iterator[Detections]:
        """The objects in each picture of a file, folder, pattern or sequence, in its order, while it is read.

        Always a generator; it holds `batch` pictures at a time. Where anything is wrong with one picture (it cannot be
        read, it is no picture, the memory is too small for it), its result is empty, `error` says why, and the run goes
        on. A file or folder that is not there is an error at once.

        The pictures of a batch are padded at the right and bottom, with the mean colour, to the size of the largest.
        The network sees that margin: scores of objects next to it, and a little of everything where group
        normalisation takes its mean over the whole map, differ slightly from those of the picture alone. Pictures of
        one size give the same detections in any batch; batch=1 never pads beyond the network's stride.

        proposals: of a file, for a detector that needs them. Pictures are then files, and one that they do not name, or
        in another size, gives an empty result with an error.
        """
        check_reach("batch", batch)
        check_reading(exif, value_range)
        pictures = sources(source)  # here, not at the first picture: a wrong name is an error at once

        def read_or_say_why(picture: ImageSource) -> _Read | Exception:
            try:
                return self._read(picture, exif, value_range)
            except (AweighError, MemoryError) as error:
                return error

        def results() -> Iterator[Detections]:
            while chunk := list(islice(pictures, batch)):
                read = [read_or_say_why(picture) for picture in chunk]
                images = [_with_proposals(image, picture, proposals) for image, picture in zip(read, chunk)]
                del read
                found = iter(self._detect_or_say_why([image for image in images if not isinstance(image, Exception)]))
                for picture, image in zip(chunk, images):
                    result = image if isinstance(image, Exception) else next(found)
                    if isinstance(result, Exception):
                        result = Detections.empty(self.classes, error=_reason(result, picture))
                    yield replace(result, path=_path(picture))

        return results()

    def _detect_or_say_why(self, images: list[tuple[_Read, np.ndarray | None]]) -> list[Detections | Exception]:
        """`_detect`; where the memory is too small for all of them, one at a time, and why for those it is too small
        for."""
        try:
            return [*self._detect(images)]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if len(images) == 1:
                return [error]
        return [result for image in images for result in self._detect_or_say_why([image])]

    def _detect(self, images: list[tuple[_Read, np.ndarray | None]]) -> list[Detections]:
        """images: as they were read, run as one padded batch for each size; each with its proposals, in the pixels of
        the whole picture."""
        if not images:
            return []
        sizes_hw = [full_hw for (_, full_hw), _ in images]
        given = [boxes.astype(np.float32) for _, boxes in images if boxes is not None]
        batches = [
            self._batch([pictures[number] for (pictures, _), _ in images], resize, sizes_hw, given)
            for number, resize in enumerate(self.tta.resizes(self.resize))
        ]
        return find(self.engine, batches, sizes_hw, self.tta)

    def _batch(
        self, pictures: list[np.ndarray], resize: Resize, sizes_hw: list[tuple[int, int]], given: list[np.ndarray]
    ) -> Batch:
        """pictures: uint8 `(h, w, 3)` of any sizes, those of the whole are `sizes_hw`. given: proposals of each."""
        resized = [resize(picture, full_hw=full_hw) for picture, full_hw in zip(pictures, sizes_hw, strict=True)]
        batch = Batch.stack(resized, divisor=self.engine.stride_divisor, fill=self.engine.pixel_mean)
        if given:
            frames = [Frame.resize(full_hw, size_hw) for full_hw, size_hw in zip(sizes_hw, batch.sizes_hw)]
            batch = batch.with_proposals([frame.boxes(boxes) for frame, boxes in zip(frames, given, strict=True)])
        return batch

    def _read(self, picture: ImageSource, exif: Literal["apply", "ignore"], value_range: ValueRange) -> _Read:
        """Once for each size, of which each may be decoded at its own reduced one, as in evaluation."""
        resizes = self.tta.resizes(self.resize)
        read = [read_reduced(picture, each.needed_size, exif=exif, value_range=value_range) for each in resizes]
        full_hw = read[0][1]
        height, width = max((each.size_for(*full_hw) for each in resizes), key=math.prod)
        if height * width > MOST_INPUT_PIXELS:
            raise DataError(
                f"{_path(picture) or 'the picture'}: {full_hw[1]} x {full_hw[0]} pixels would go through the network "
                f"as {width} x {height}, which is more than {MOST_INPUT_PIXELS / 1e6:.0f} megapixels. Choose a smaller "
                "size with --resize."
            )
        return [image for image, _ in read], full_hw


def sources(source: ImageSource | Iterable[ImageSource]) -> Iterator[ImageSource]:
    """The pictures a source stands for, in a fixed order.

    A folder stands for the image files directly in it, a pattern (`photos/**/*.jpg`) for the image files it matches,
    any other path for itself, a sequence for what is in it. `DataError` at once when there is nothing of that name.
    """
    if isinstance(source, str | Path):
        return iter(image_paths(source))
    if isinstance(source, np.ndarray) or is_tensor(source):
        images: Any = source
        return iter(images if images.ndim == 4 else [images])
    if isinstance(source, Image.Image | bytes | bytearray | memoryview) or is_file(source):
        one: Any = source
        return iter([one])
    several: Any = source
    return iter(several)


def _with_proposals(
    image: _Read | Exception, picture: ImageSource, proposals: Proposals | None
) -> tuple[_Read, np.ndarray | None] | Exception:
    if proposals is None or isinstance(image, Exception):
        return image if isinstance(image, Exception) else (image, None)
    if not isinstance(picture, str | Path):
        raise UsageError(f"Proposals are found by the names of files, and a {type(picture).__name__} has none.")
    try:
        return image, proposals.of_picture(Path(picture), image[1])
    except DataError as error:
        return error


def _reason(error: Exception, picture: ImageSource) -> str:
    """What is wrong with a picture, in words."""
    if isinstance(error, AweighError):
        return str(error)
    return f"{_path(picture) or 'the picture'}: there is not enough memory to look at it. Choose a smaller --resize."


def _path(picture: ImageSource) -> str | None:
    return str(picture) if isinstance(picture, str | Path) else None
