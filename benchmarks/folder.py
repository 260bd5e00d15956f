"""`aweigh predict FOLDER` as users run it, drawings included, in turn with another checkout; and what it is bound by.

    python benchmarks/folder.py PHOTOGRAPHS --beside CHECKOUT [--small 2000] [--large 200] [--repeats 3] [--model box]
                                [--out FILE]

PHOTOGRAPHS is searched with the folders in it; of its images as many are linked into a folder as are asked for, the
same ones again where there are fewer. The large ones are scaled to 12 megapixels. Each run is a process of its own.
"Bound by" is from `aweigh.speed`: the share of each step in the time of one image, one after the other. The detections
of both checkouts are compared byte by byte; another engine gives others, so name a checkpoint to see them equal.
"""

import argparse
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image
from start import ROOT, commit

import aweigh
from aweigh.images.reader import SUFFIXES
from aweigh.speed import measure_speed

LARGE_WH = (4000, 3000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--beside", type=Path, required=True, help="another checkout, the one to compare with")
    parser.add_argument("--small", type=int, default=2000)
    parser.add_argument("--large", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="box")
    parser.add_argument("--out", type=Path, help="write the table there as well")
    arguments = parser.parse_args()
    load, checkouts = os.getloadavg()[0], {"before": arguments.beside.resolve(), "now": ROOT}
    rows = [
        "| images | before | now | times the rate | processor before | processor now | bound by | the same bytes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    found = sorted(path for path in arguments.photographs.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        parser.error(f"{arguments.photographs} holds no image.")
    with tempfile.TemporaryDirectory() as room:
        for title, count, large in (("small", arguments.small, False), ("of 12 megapixels", arguments.large, True)):
            if not count:
                continue
            folder = Path(room) / ("large" if large else "small")
            files = collected(found, folder, count, large=large)
            taken: dict[str, list[tuple[float, float]]] = {name: [] for name in checkouts}
            for _ in range(arguments.repeats):
                for name, checkout in checkouts.items():
                    taken[name].append(predict(folder, Path(room) / f"out-{name}", arguments.model, checkout))
            same = [(Path(room) / f"out-{name}" / "detections.jsonl").read_bytes() for name in checkouts]
            wall = {name: statistics.median(seconds for seconds, _ in taken[name]) for name in checkouts}
            used = {name: statistics.median(processor for _, processor in taken[name]) for name in checkouts}
            ratio = statistics.median(a / b for (a, _), (b, _) in zip(taken["before"], taken["now"], strict=True))
            rows.append(
                f"| {count} {title} | {wall['before']:.1f} s | {wall['now']:.1f} s | {ratio:.2f} | "
                f"{used['before']:.1f} s | {used['now']:.1f} s | {shares(files, arguments.model)} | "
                f"{'yes' if same[0] == same[1] else 'no'} |"
            )
            print(rows[-1], flush=True)
    text = "\n".join(
        [
            "# A folder of photographs",
            "",
            *rows,
            "",
            f"`aweigh predict photos/ --model {arguments.model}`, drawings included; medians of {arguments.repeats},",
            "in turn.",
            f"{datetime.date.today()}, commit {commit(ROOT)} beside {commit(checkouts['before'])};",
            f"{os.cpu_count()} CPU cores, load before the start {load:.1f}. Made by `benchmarks/folder.py`.",
            "",
        ]
    )
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")


def collected(found: list[Path], folder: Path, count: int, *, large: bool) -> list[Path]:
    """So many photographs in a folder."""
    folder.mkdir()
    files = []
    for number, path in enumerate(islice(cycle(found), count)):
        file = folder / f"{number:05d}{'.jpg' if large else path.suffix}"
        if not large:
            file.symlink_to(path.resolve())
        elif number < len(found):
            Image.open(path).convert("RGB").resize(LARGE_WH).save(file, quality=90)
        else:
            file.symlink_to(files[number % len(found)])
        files.append(file)
    return files


def predict(folder: Path, out: Path, model: str, checkout: Path) -> tuple[float, float]:
    """Seconds, and seconds of the processor, of one process."""
    words = [sys.executable, "-m", "aweigh", "predict", str(folder), "--model", model, "-o", str(out)]
    start = time.perf_counter()
    process = subprocess.Popen(
        words,
        env={**os.environ, "PYTHONPATH": str(checkout / "src")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)} ended with {os.waitstatus_to_exitcode(status)} in {checkout}.")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime


def shares(files: list[Path], model: str) -> str:
    """The share of each step in the time of one image."""
    predictor = aweigh.load(model)
    opener = {model: lambda: (predictor.engine, predictor.resize)}
    (timed,) = measure_speed(opener, files[:20], repeats=2).detectors.values()
    steps = {name: float(np.median(times)) for name, times in timed.steps_ms.items()}
    whole = sum(steps.values())
    ordered = sorted(steps.items(), key=lambda step: -step[1])
    return ", ".join(f"{name} {took / whole:.0%}" for name, took in ordered if took / whole >= 0.01)


if __name__ == "__main__":
    main()
