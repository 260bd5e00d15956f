"""The loader beside torchvision's: images per second, and the memory of its workers.

    python benchmarks/loader.py DATA [--workers 2] [--batch 8] [--images 400] [--epochs 5] [--markdown FILE]
    python benchmarks/loader.py --memory [--workers 2] [--steps 1000]

DATA is a folder in COCO's layout. Both loaders do the same work on the same images with the same number of workers:
decode, flip half of them, scale to a short side of 640 and a long side of at most 1066 (antialiased), floats in
`[0, 1]`, boxes with them. torchvision's is `CocoDetection` with `wrap_dataset_for_transforms_v2` and its v2
transforms, and hands out a list of tensors, as in its reference training; ours hands out one padded tensor. The two
orders its reference offers, tensors from the start or Pillow to the end, are both run, and the faster one counts.
Epochs alternate, after one to warm up; the table gives medians. The same is done on photographs of 12 megapixels,
made by enlarging those of DATA: smooth, and with grain, by which their files are as large as a camera's.

--memory prints what each worker holds for itself, and what it shares, while a split of 100,000 objects is read.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2

from aweigh.annotations.flat import Packed
from aweigh.feeding.dataset import DetectionDataset
from aweigh.feeding.loader import make_loader
from aweigh.feeding.transforms import Augmentation, Transform
from aweigh.images.resize import Resize
from aweigh.layouts.load import find_splits, load_split

SHORT, LONG = 640, 1066
LARGE_PIXELS = 12_000_000
GRAIN = 6.0  # standard deviation, of 255: files of 4 to 5 MB, as a camera's of 12 megapixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--images", type=int, default=400, help="of DATA, per epoch")
    parser.add_argument("--large", type=int, default=48, help="photographs of 12 megapixels, per epoch")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000, help="with --memory")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    if options.memory:
        text = memory(options.workers, options.steps)
    elif options.data is None:
        parser.error("name a folder in COCO's layout, or give --memory")
    else:
        text = speed(options)
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n", encoding="utf-8")


# --- images per second ----------------------------------------------------------------------------------------------


def speed(options: argparse.Namespace) -> str:
    load_before = os.getloadavg()[0]
    started = time.perf_counter()
    lines = [
        "# The loader beside torchvision's",
        "",
        "| photographs | torchvision, tensors | torchvision, Pillow | aweigh | ratio to the faster |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        smooth, grainy = Path(folder) / "smooth", Path(folder) / "grainy"
        small = subset(options.data, Path(folder) / "small", options.images)
        enlarge(small, smooth, options.large, grain=0.0)
        enlarge(small, grainy, options.large, grain=GRAIN)
        named = {"as they are": small, "12 megapixels, smooth": smooth, "12 megapixels, with grain": grainy}
        for name, root in named.items():
            lines.append(measured(name, root, options))
    lines += [
        "",
        f"Images per second, and processor time per image in all processes; medians of {options.epochs} epochs each,",
        f"interleaved. {options.workers} workers, batches of {options.batch}; short side {SHORT}, long at most {LONG}.",
        "Ours includes the padded float batch, which torchvision leaves to its models.",
        "",
        f"{time.strftime('%Y-%m-%d')}; {os.cpu_count()} CPU cores ({processor()}), load {load_before:.1f} before it "
        f"began; Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"Pillow {PIL.__version__}; commit {commit()}; {time.perf_counter() - started:.0f} s for everything. Made by "
        "`benchmarks/loader.py`.",
    ]
    return "\n".join(lines)


def measured(name: str, root: Path, options: argparse.Namespace) -> str:
    runs = {
        "tensors": theirs(root, options.batch, options.workers, tensors=True),
        "pillow": theirs(root, options.batch, options.workers, tensors=False),
        "aweigh": ours(root, options.batch, options.workers),
    }
    rates: dict[str, list[float]] = {which: [] for which in runs}
    costs: dict[str, list[float]] = {which: [] for which in runs}
    for epoch in range(options.epochs + 1):
        for which, loader in runs.items():
            started, used = time.perf_counter(), processor_seconds()
            images = sum(loader())
            if epoch:
                rates[which].append(images / (time.perf_counter() - started))
                costs[which].append((processor_seconds() - used) / images * 1000)
    rate = {which: statistics.median(values) for which, values in rates.items()}
    shown = " | ".join(f"{rate[which]:.1f} ({statistics.median(costs[which]):.1f} ms)" for which in runs)
    sizes = [path.stat().st_size for path in (root / "images").iterdir()]
    count = f"{name}: {len(sizes)} files, {statistics.mean(sizes) / 1e6:.2f} MB each"
    return f"| {count} | {shown} | {rate['aweigh'] / max(rate['tensors'], rate['pillow']):.2f} |"


def theirs(root: Path, batch: int, workers: int, *, tensors: bool) -> Callable[[], Iterable[int]]:
    """torchvision's loader; each call is an epoch, and gives the number of images of each batch."""
    steps: list[Any] = [v2.ToImage()] if tensors else []
    steps += [v2.RandomHorizontalFlip(0.5), v2.Resize(SHORT, max_size=LONG, antialias=True)]
    steps += [] if tensors else [v2.ToImage()]
    steps += [v2.ToDtype(torch.float32, scale=True), v2.SanitizeBoundingBoxes(), v2.ToPureTensor()]
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = CocoDetection(root / "images", root / "annotations.json", transforms=v2.Compose(steps))
    wrapped = wrap_dataset_for_transforms_v2(dataset, target_keys=("image_id", "boxes", "labels"))
    loader: DataLoader[Any] = DataLoader(
        wrapped,
        batch_size=batch,
        shuffle=True,
        num_workers=workers,
        collate_fn=as_lists,
        persistent_workers=workers > 0,
    )
    return lambda: (len(images) for images, _ in loader)


def as_lists(samples: list[Any]) -> tuple[Any, ...]:
    return tuple(zip(*samples))


def ours(root: Path, batch: int, workers: int) -> Callable[[], Iterable[int]]:
    split = load_split(root, annotations=root / "annotations.json", images=root / "images")
    data = DetectionDataset(split, Transform(Resize(SHORT, LONG), Augmentation(flip=0.5)))
    loader = make_loader(data, batch=batch, shuffle=True, workers=workers)
    return lambda: (len(entry) for entry in loader)


def subset(source: Path, target: Path, count: int) -> Path:
    """The first `count` images that have objects, with their boxes."""
    files = find_splits(source)
    split = load_split(source, next(iter(files)))
    chosen = split.take(np.flatnonzero(np.diff(split.first) > 0)[:count])
    (target / "images").mkdir(parents=True)
    data = chosen.to_coco()
    for entry, path in zip(data["images"], chosen.paths, strict=True):
        entry["file_name"] = path.name
        shutil.copy(path, target / "images" / path.name)
    (target / "annotations.json").write_text(json.dumps(data))
    return target


def enlarge(source: Path, target: Path, count: int, *, grain: float) -> None:
    """The first `count` images at 12 megapixels."""
    data = json.loads((source / "annotations.json").read_text())
    data["images"] = data["images"][:count]
    (target / "images").mkdir(parents=True)
    factors = {}
    for entry in data["images"]:
        picture = Image.open(source / "images" / entry["file_name"]).convert("RGB")
        factors[entry["id"]] = factor = (LARGE_PIXELS / (picture.width * picture.height)) ** 0.5
        picture = picture.resize(
            (round(picture.width * factor), round(picture.height * factor)), Image.Resampling.BICUBIC
        )
        if grain:
            noise = np.random.default_rng(entry["id"]).normal(0, grain, (picture.height, picture.width, 1))
            picture = Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))
        picture.save(target / "images" / entry["file_name"], quality=92)
        entry["width"], entry["height"] = picture.size
    data["annotations"] = [
        {**entry, "bbox": [side * factors[entry["image_id"]] for side in entry["bbox"]]}
        for entry in data["annotations"]
        if entry["image_id"] in factors
    ]
    (target / "annotations.json").write_text(json.dumps(data))


# --- memory ---------------------------------------------------------------------------------------------------------


def memory(workers: int, steps: int, *, images: int = 20_000, objects: int = 5) -> str:
    """A table: what each worker holds, at several steps."""
    lines = [
        f"| step | {' | '.join(f'worker {n}: own, shared' for n in range(workers))} |",
        "|---" * (workers + 1) + "|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        data = large_split(Path(folder), images, objects)
        loader = make_loader(data, batch=16, shuffle=True, workers=workers)
        step, epoch = 0, 0
        while step < steps:
            loader.set_epoch(epoch)
            for _ in loader:
                step += 1
                if step in (10, 100, steps // 4, steps // 2, steps * 3 // 4, steps):
                    held = [memory_of(child.pid or 0) for child in multiprocessing.active_children()]
                    lines.append(f"| {step} | {' | '.join(f'{own:.1f}, {shared:.1f}' for own, shared in held)} |")
                if step == steps:
                    break
            epoch += 1
    return "\n".join(
        [f"{images} images with {images * objects} objects, batches of 16; MiB", "", *lines, "", f"commit {commit()}"]
    )


def large_split(root: Path, images: int, objects: int) -> DetectionDataset:
    """Many annotations over a hundred small images."""
    (root / "images").mkdir()
    files = 100
    for number in range(files):
        Image.effect_noise((64, 48), 40.0).save(root / "images" / f"{number}.jpg")
    data = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 64, "height": 48} for n in range(files)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": n, "image_id": n % files, "category_id": 1, "bbox": [n % 9, n % 7, 20, 20]}
            for n in range(files * objects)
        ],
    }
    (root / "annotations.json").write_text(json.dumps(data))
    split = load_split(root, annotations=root / "annotations.json", images=root / "images")
    rows = np.resize(np.arange(files), images)
    split = replace(split.take(rows), paths=Packed.of([split.paths[int(row)] for row in rows], Path))
    return DetectionDataset(split, Transform(Resize(96, 128), Augmentation(flip=0.5)))


def memory_of(process: int) -> tuple[float, float]:
    """MiB that a process holds alone, and that it shares with others."""
    values = {"Private": 0, "Shared": 0}
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]:
        key, amount, *_ = line.split()
        kind = key.split("_")[0]
        if kind in values and "Hugetlb" not in key:
            values[kind] += int(amount)
    return values["Private"] / 1024, values["Shared"] / 1024


def processor_seconds() -> float:
    """Used so far by this process and its workers."""
    processes = [os.getpid(), *(child.pid or 0 for child in multiprocessing.active_children())]
    fields = [Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split() for process in processes]
    return sum(int(entry[11]) + int(entry[12]) for entry in fields) / os.sysconf("SC_CLK_TCK")


def processor() -> str:
    found = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return found[0].split(":")[1].strip() if found else platform.machine()


def commit() -> str:
    here = Path(__file__).parent
    found = subprocess.run(["git", "-C", here, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
