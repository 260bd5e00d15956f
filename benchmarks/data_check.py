"""Seconds and peak memory of `aweigh data check` on 100,000 annotations, for images of two sizes.

    python benchmarks/data_check.py --out benchmarks/results/data_check.md

The data are drawn first: images of soft patches, 8 boxes in each, as COCO. The check runs as a process of its own,
once without images, once with all of them decoded, and its peak memory is what the kernel says of that process.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

import aweigh

BOXES_PER_IMAGE, CLASSES = 8, 20
ROWS = (
    ("header only", ["--no-pictures", "--model", "none"]),
    ("all images decoded", ["--model", "none"]),
    ("all, and the levels of FCOS", []),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=int, default=100_000)
    parser.add_argument("--widths", type=int, nargs="+", default=[640, 1920], help="of the images, 4 : 3")
    parser.add_argument("--out", type=Path, help="write the table there as well")
    parser.add_argument("--draw", type=Path, help=argparse.SUPPRESS)  # in a process of its own, see `peak`
    arguments = parser.parse_args()
    if arguments.draw is not None:
        return draw(arguments.draw, arguments.annotations, arguments.widths[0])

    load = os.getloadavg()[0]
    images = arguments.annotations // BOXES_PER_IMAGE
    rows = [("pictures", "what is looked at", "seconds", "of the processor", "peak memory", "above the start")]
    bare = peak([sys.executable, "-c", "import aweigh.layouts.load, aweigh.inspect.fit"])[2]
    for width in arguments.widths:
        with tempfile.TemporaryDirectory() as folder:
            itself = [sys.executable, __file__, "--annotations", str(arguments.annotations)]
            subprocess.run([*itself, "--widths", str(width), "--draw", folder], check=True)
            for title, words in ROWS:
                command = [sys.executable, "-m", "aweigh", "data", "check", folder, *words]
                seconds, processor, memory = peak(command)
                size = f"{images:,} of {width} x {width * 3 // 4}"
                megabytes = f"{memory / 2**20:.0f} MiB", f"{(memory - bare) / 2**20:.0f} MiB"
                rows.append((size, title, f"{seconds:.1f}", f"{processor:.1f}", *megabytes))
    text = table(rows)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(report(text, arguments.annotations, load), encoding="utf-8")


def draw(folder: Path, annotations: int, width: int) -> None:
    """A COCO training set of images that all differ."""
    height = width * 3 // 4
    random = np.random.default_rng(0)
    count = annotations // BOXES_PER_IMAGE
    (folder / "train").mkdir()
    (folder / "annotations").mkdir()
    grounds = [
        Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
        for _ in range(64)
    ]
    for number in range(count):
        picture = grounds[number % 64].copy()
        corner = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        picture.paste(corner.resize((width // 2, height // 2), Image.NEAREST), (0, 0))
        picture.save(folder / "train" / f"{number}.jpg", quality=85)
    sizes = np.exp(random.uniform(np.log(6), np.log(height / 2), (annotations, 2)))
    corners = random.uniform(0, 1, (annotations, 2)) * ([width, height] - sizes)
    boxes = np.column_stack([corners, sizes]).round(2).tolist()
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": width, "height": height} for n in range(count)],
        "annotations": [
            {"id": n, "image_id": n % count, "category_id": n % CLASSES, "bbox": box, "iscrowd": 0}
            for n, box in enumerate(boxes, start=1)
        ],
        "categories": [{"id": n, "name": f"class {n}"} for n in range(CLASSES)],
    }
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(content))


def peak(command: list[str]) -> tuple[float, float, int]:
    """Seconds, seconds of the processor and the largest resident memory in bytes of a process.

    The kernel counts the memory from the fork on, so this process has to stay small.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    seconds = time.perf_counter() - started
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def report(text: str, annotations: int, load: float) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return f"""# Checking a data set

{annotations:,} annotations, {BOXES_PER_IMAGE} in each image, {CLASSES} classes.

{text}

Seconds are those of the whole command, from start to end; those of the processor hardly depend on what else the machine
does (the load is below). Peak memory is the largest resident size of its process; above the start is what is more than
that of a process which has only loaded the libraries. Decoding holds the pixels of one image per thread, those of a
JPEG already reduced, so the memory does not grow with the size of the images.

{datetime.date.today().isoformat()}, commit {commit}; {os.cpu_count()} CPU cores ({platform.machine()}), load before \
the start {load:.1f}; Python {platform.python_version()}, torch {metadata.version("torch")}, Pillow \
{PIL.__version__}, aweigh {aweigh.__version__}. Made by `benchmarks/data_check.py`.
"""


if __name__ == "__main__":
    main()
