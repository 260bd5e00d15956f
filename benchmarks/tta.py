"""What test-time augmentation gives and costs: AP with flips and sizes, each way of merging, and the time beside plain.

    python benchmarks/tta.py box PATH/TO/coco --split val --markdown benchmarks/results/tta.md
    python benchmarks/tta.py run/best.safetensors PATH/TO/coco --split val

Every image is looked at in each way in turn, so that a drift of the machine hits all of them. The time of a way is
that of its looks (resizing, network, decoding), each taken once, and of merging; reading is left out. The ratio is the
median over the images.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any, get_args

import torch
from measure import processor

from aweigh.detections import Detections
from aweigh.evaluation.coco import evaluate_coco
from aweigh.images.reader import read_reduced
from aweigh.images.resize import Resize
from aweigh.inference.detect import matching_category_ids
from aweigh.layouts.load import load_split
from aweigh.predictor import load
from aweigh.runtime.engine import Batch, Engine
from aweigh.runtime.tta import PLAIN, SCALES, TTA, Merge, look, merge, views

WAYS = {
    "none": PLAIN,
    "flip": TTA(flip=True),
    "multiscale": TTA(scales=SCALES),
    "flip, multiscale": TTA(flip=True, scales=SCALES),
}
Look = tuple[list[Detections], float]  # what it found, and its seconds


def looks(engine: Engine, path: Path, resize: Resize) -> dict[tuple[float, bool], list[Look]]:
    """The looks at an image in each scale, without a flip and with it."""
    made = {}
    for size, scale in zip(TTA(scales=SCALES).resizes(resize), SCALES):
        pixels, full_hw = read_reduced(path, size.needed_size)
        start = time.perf_counter()
        resized = size(pixels, full_hw=full_hw)
        batch = Batch.stack([resized], divisor=engine.stride_divisor, fill=engine.pixel_mean)
        resizing = time.perf_counter() - start
        for flip in (False, True) if engine.averages_flips else (True,):
            tta, own = TTA(flip, (scale,)), []
            start = time.perf_counter()
            for view in views(engine, tta):
                found = look(engine, batch, [full_hw], view, tta)
                own.append((found, time.perf_counter() - start + (resizing if not own else 0)))
                start = time.perf_counter()
            made[scale, flip] = own
        made.setdefault((scale, False), made[scale, True][:1])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", help="a checkpoint, or box")
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--resize", default="", help="as --resize of aweigh eval")
    parser.add_argument("--limit", type=int, default=0, help="the first so many images; all when not given")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    predictor = load(options.detector, device="cpu")
    resize = predictor.resize.with_size(options.resize) if options.resize else predictor.resize
    engine = predictor.engine
    split = load_split(str(options.data), options.split)
    split = split.take(range(min(options.limit or len(split), len(split))))
    category_ids = matching_category_ids(engine.classes, split.classes)

    results: dict[tuple[str, Merge | None], list[dict[str, Any]]] = {}
    times: dict[tuple[str, Merge | None], list[float]] = {}
    for row in range(-1, len(split)):  # the first one twice, to warm up
        path, image_id = split.paths[max(row, 0)], split.image_ids[max(row, 0)]
        own = looks(engine, path, resize)
        for name, tta in WAYS.items():
            used = [one for scale in tta.scales for one in own[scale, tta.flip]]
            for method in get_args(Merge) if tta.method(engine) else (None,):
                start = time.perf_counter()
                (found,) = merge(engine, [detections for detections, _ in used], TTA(tta.flip, tta.scales, method))
                seconds = time.perf_counter() - start + sum(taken for _, taken in used)
                if row >= 0:
                    times.setdefault((name, method), []).append(seconds)
                    results.setdefault((name, method), []).extend(
                        {**entry, "category_id": category_ids[label]}
                        for entry, label in zip(found.to_coco(int(image_id)), found.labels.tolist())
                        if label in category_ids
                    )
        if row % 20 == 0:
            print(f"{row} of {len(split)}", flush=True)

    truth = split.to_coco()  # of the classes that the detector knows
    for part, key in (("categories", "id"), ("annotations", "category_id")):
        truth[part] = [entry for entry in truth[part] if entry[key] in category_ids.values()]
    plain = times["none", None]
    lines = [
        f"{engine.name} ({options.detector}), {len(split)} images of {options.data.name} {options.split}; "
        f"resize {resize.to_dict()}; torch {torch.__version__}, {torch.get_num_threads()} threads, {processor()}",
        "",
        "| test-time augmentation | merge | AP | AP50 | AP small | AP medium | AP large | AR100 | times as long |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (name, method), entries in results.items():
        numbers = evaluate_coco(truth, entries)
        shown = [numbers.AP, numbers.AP50, numbers.APs, numbers.APm, numbers.APl, numbers.AR100]
        taken = times[name, method]
        cost = statistics.median(one / other for one, other in zip(taken, plain, strict=True))
        how = method or ("maps averaged" if name == "flip" else "")
        lines.append(f"| {name} | {how} | {' | '.join(f'{value:.3f}' for value in shown)} | {cost:.2f} |")
    lines.append(f"\nPlain: {1000 * statistics.median(plain):.0f} ms an image (median).")
    print("\n".join(lines))
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
