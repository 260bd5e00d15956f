"""Memory and time of images of gigapixels looked at in tiles, read by rows and read whole.

    python benchmarks/large_images.py --side 20000 --out benchmarks/results/large_images.md

A street, repeated, is written as PNG, as TIFF in strips and as TIFF in tiles. Each file is looked at in tiles of 640 by
a detector that finds nothing, once by rows and once read whole (with Pillow's limit lifted), and drawn as an overview;
each in a process of its own, whose peak memory (Linux) and processor time are taken. `--model box` looks with the
detector in the box as well.
"""

import argparse
import datetime
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

import aweigh
from aweigh.detections import Detections
from aweigh.images import reader
from aweigh.images.reader import read_reduced
from aweigh.images.resize import Resize
from aweigh.prediction.drawing import drawn_hw
from aweigh.runtime.engine import Batch
from aweigh.scenes import STREET

FILES = {"PNG": "street.png", "TIFF, strips of 16 rows, LZW": "strips.tif", "TIFF, tiles of 512, deflate": "tiles.tif"}
WAYS = {"rows": "in tiles, by rows", "whole": "in tiles, read whole", "overview": "overview of an eighth to a half"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20_000, help="pixels of the image's height and width")
    parser.add_argument("--model", default="", help="a detector that looks too, as box")
    parser.add_argument("--out", type=Path, help="write the table there as well")
    parser.add_argument(
        "--files", type=Path, help="where the images are, or are written; a folder that is removed if not"
    )
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # a file and a way, in a process of its own
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(Path(arguments.one[0]), arguments.one[1])))
        return
    with tempfile.TemporaryDirectory() as folder:
        files = arguments.files or Path(folder)
        files.mkdir(parents=True, exist_ok=True)
        write(files, arguments.side)
        rows = [("file", "MB", "how", "peak memory, MB", "processor time, s")]
        for name, file in FILES.items():
            size = f"{(files / file).stat().st_size / 1e6:,.0f}"
            for way in (*WAYS, *([arguments.model] if arguments.model and name == "PNG" else [])):
                found = apart("--one", str(files / file), way)
                how = WAYS.get(way, f"`predict` with {way}: {found['objects']:,} objects")
                rows.append((name, size, how, f"{found['megabytes']:,.0f}", f"{found['seconds']:.0f}"))
                print(*rows[-1], sep="; ", file=sys.stderr)
    text = report(rows, arguments.side)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")


def apart(*words: str) -> dict[str, float]:
    """What this program prints in a process of its own, which has no memory of this one's."""
    done = subprocess.run([sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def write(folder: Path, side: int) -> None:
    """The files that are not there yet."""
    street = np.asarray(Image.open(STREET).convert("RGB"))
    times = [-(-side // length) for length in street.shape[:2]]
    image = np.tile(street, (*times, 1))[:side, :side]
    png, strips, tiles = (folder / file for file in FILES.values())
    if not png.exists():
        Image.fromarray(image).save(png, compress_level=1)
    if not strips.exists():
        tifffile.imwrite(strips, image, photometric="rgb", rowsperstrip=16, compression="lzw")
    if not tiles.exists():
        level = {"level": 1}
        tifffile.imwrite(tiles, image, photometric="rgb", tile=(512, 512), compression="zlib", compressionargs=level)


class Blind:
    """An engine that finds nothing."""

    name, extras, keypoint_set, computed_by = "blind", (), None, "nothing"
    needs_proposals = averages_flips = False
    stride_divisor, pixel_mean, usual_batch = 32, (0.5, 0.5, 0.5), 1
    classes = aweigh.Classes.from_names(["thing"])
    selection, settings = aweigh.load().engine.selection, {}

    def run(self, batch: Batch, *, flipped_classes: np.ndarray | None = None) -> list[Detections]:
        return [Detections.empty(self.classes, size_hw) for size_hw in batch.sizes_hw]

    def with_nms(self, nms: str) -> "Blind":
        return self

    def side_by_side(self) -> tuple["Blind", int]:
        return self, 1


def measured(path: Path, way: str) -> dict[str, float]:
    """Peak memory in MB and processor time in seconds of one way, what is imported included."""
    objects = 0
    if way == "overview":
        read_reduced(path, drawn_hw)
    elif way in WAYS:
        if way == "whole":
            reader.LARGE = reader.MAX_PIXELS = Image.MAX_IMAGE_PIXELS = 1 << 40
        aweigh.Predictor(Blind(), Resize(None, None), tiles=aweigh.Tiles(640))(path)
    else:
        objects = len(aweigh.load(way, tiles=aweigh.Tiles(640))(path))
    status = Path("/proc/self/status").read_text()  # getrusage would have what the parent had as well
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return {"megabytes": int(peak) * 1024 / 1e6, "seconds": time.process_time(), "objects": objects}


def report(rows: list[tuple[str, ...]], side: int) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "-|-".join("-" * width for width in widths))
    table = "\n".join(f"| {line} |" for line in lines)
    made = f"Python {platform.python_version()}, Pillow {Image.__version__}, aweigh {aweigh.__version__}"
    return f"""# Images of {side:,} x {side:,} pixels

{table}

{side**2 * 3 / 1e6:,.0f} MB of pixels. Tiles of 640 that overlap by a fifth; where no detector is named, one that finds
nothing looks. Python, NumPy and onnxruntime are in the memory, and their start in the time.

{datetime.date.today()}; {platform.machine()}; {made}; processor time, on a machine that others used. Made by
`benchmarks/large_images.py`."""


if __name__ == "__main__":
    main()
