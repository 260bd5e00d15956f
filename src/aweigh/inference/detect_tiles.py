"""Run a detector over a split in tiles, with its losses: as `detect`, of images that are cut and joined again.

Tiles go through the network in the batches in which a prediction in tiles takes them, and are joined by the same rule,
so that both find the same. Losses are those of tiles.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import torch

from aweigh import distributed
from aweigh.annotations.split import Split
from aweigh.detections import Detections
from aweigh.feeding.batches import Batch
from aweigh.feeding.dataset import DetectionDataset
from aweigh.feeding.loader import MAX_BAD, make_loader
from aweigh.feeding.tiles import TileRows
from aweigh.feeding.transforms import Transform
from aweigh.geometry.frames import Frame
from aweigh.images.resize import Resize
from aweigh.inference.detect import Part, evaluating, mean_colour, together
from aweigh.inference.device import How, synchronise
from aweigh.inference.engine import TorchEngine
from aweigh.inference.meters import Stopwatch
from aweigh.inference.supervision import supervision
from aweigh.models.detector import Detector
from aweigh.prediction.of_split import SplitDetections, entries, matching_category_ids
from aweigh.runtime.seams import join


@torch.no_grad()
def detect_in_tiles(
    model: Detector,
    resize: Resize,
    split: Split,
    *,
    rows: TileRows,
    batch: int,
    how: How,
    workers: int = 0,
    max_bad: float = MAX_BAD,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> SplitDetections:
    """Detections of every image of the split, and the mean losses of its tiles. rows: all tiles of the split.

    Several processes share out the images. The rest is as of `detect`.
    """
    category_ids = matching_category_ids(model.classes, split.classes)
    engine, agnostic = TorchEngine(model, how), model.selection.nms == "agnostic"
    loader = make_loader(
        DetectionDataset(split, Transform(resize, tile=rows.tiles.side), tiles=rows, **supervision(model)),
        batch=batch,
        workers=workers,
        stride_divisor=model.stride_divisor,
        fill=mean_colour(model),
        rank=distributed.rank(),
        world=distributed.world_size(),
        device=how.device,
        max_bad=max_bad,
    )
    first = np.searchsorted(rows.image_of, np.arange(len(split) + 1))  # the rows of image i: first[i] to first[i + 1]
    parts: list[Part] = []
    watch, done = Stopwatch(), 0
    with evaluating(model), how.with_threads():
        for image, batches in groupby(loader, key=lambda tiles: int(rows.image_of[tiles.indices[0]])):
            seen: list[Detections] = []
            for tiles in batches:
                watch.lap("read")
                if tiles.blank:  # the image cannot be read
                    continue
                raw = engine.outputs(tiles.images)
                synchronise(how.device)
                watch.lap("network")
                seen += in_image(model.decode(raw, tiles.images.sizes_hw), tiles, rows, split.sizes_hw[image])
                watch.lap("decode")
                losses = model.loss(raw, [targets.to(how.device) for targets in tiles.targets])
                parts.append((tiles.indices[0], len(tiles), [], {name: float(v) for name, v in losses.items()}))
                watch.lap("loss")
            windows = rows.windows[first[image] : first[image + 1]].tolist()
            if len(seen) == len(windows):
                whole = join(seen, [(x0, y0, x1, y1) for x0, y0, x1, y1 in windows], agnostic=agnostic)
                parts.append((int(first[image]), 0, entries(whole, split.image_ids[image], category_ids), {}))
                done += 1
            watch.lap("decode")
            progress(min(done * distributed.world_size(), len(split)), len(split))
    speed = {name: 1000 * watch.seconds.get(name, 0.0) / max(1, done) for name in ("read", "network", "decode")}
    return together(parts, {**speed, "total": sum(speed.values())}, loader)


def in_image(found: Sequence[Detections], tiles: Batch, rows: TileRows, size_hw: np.ndarray) -> list[Detections]:
    """The detections of a batch of tiles of one image, in the pixels of that image, whose size is `size_hw`."""
    whole = []
    for own, row, tile_hw in zip(found, tiles.indices, tiles.original_sizes_hw, strict=True):
        x, y = rows.windows[row, :2].tolist()
        frame = Frame.resize(own.size_hw, tile_hw).then(Frame.shift(x, y))
        whole.append(own.moved(frame, (int(size_hw[0]), int(size_hw[1]))))
    return whole
