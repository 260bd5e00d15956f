"""A drawn video through `aweigh.predict_files`, beside the plain loop: decode, predict, draw, encode, one by one.

    python benchmarks/video.py [--frames 300] [--size 1280x720] [--repeats 3] [--model box] [--out FILE]

The video moves over the street that comes along. The plain loop is what a user of PyAV would write, with the same
detector, the same drawing and the same encoder. Both have the same cores; they run in turn, each in a process of its
own, and their boxes are compared. Processor seconds say what a run costs, wall seconds how long one waits for it.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from measure import processor, ratio
from PIL import Image
from start import ROOT, commit

import aweigh
from aweigh.scenes import STREET

RATE = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--size", default="1280x720", help="width and height, even")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="box")
    parser.add_argument("--out", type=Path, help="write the table there as well")
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--clip", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        RUNS[given.run](given.clip, given.folder, given.model)
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as room:
        clip = drawn_clip(Path(room) / "clip.mp4", given.frames, given.size)
        wall: dict[str, list[float]] = {name: [] for name in RUNS}
        used: dict[str, list[float]] = {name: [] for name in RUNS}
        for _ in range(given.repeats):
            for name in RUNS:
                seconds, processor_seconds = taken(name, clip, Path(room) / name, given.model)
                wall[name].append(seconds)
                used[name].append(processor_seconds)
        same = boxes(Path(room) / "plain") == boxes(Path(room) / "aweigh")
    rows = [
        "| | wall | frames a second | processor |",
        "|---|---|---|---|",
        *(
            f"| {name} | {(middle := statistics.median(wall[name])):.1f} s | {given.frames / middle:.1f} | "
            f"{statistics.median(used[name]):.1f} s |"
            for name in RUNS
        ),
    ]
    text = "\n".join(
        [
            "# A video",
            "",
            *rows,
            "",
            f"{ratio(wall['plain'], wall['aweigh']):.2f} times the rate of the plain loop, in the median of rounds; "
            f"the boxes are {'the same' if same else 'NOT the same'}.",
            f"{given.frames} frames of {given.size}, H.264, drawn and encoded again; detector {given.model}; medians "
            f"of {given.repeats}, in turn, with the start of the process.",
            f"{datetime.date.today()}, commit {commit(ROOT)}; {os.cpu_count()} CPU cores ({processor()}), load before "
            f"the start {load:.1f}. Made by `benchmarks/video.py`.",
            "",
        ]
    )
    print(text)
    if given.out:
        given.out.write_text(text)


def drawn_clip(path: Path, frames: int, size: str) -> Path:
    """A window that wanders over the street."""
    width, height = map(int, size.split("x"))
    street = Image.open(STREET).convert("RGB")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            left, top = 160 + 150 * np.sin(number / 40), 40 + 35 * np.cos(number / 25)
            window = street.resize((width, height), box=(left, top, left + 640, top + 640 * height / width))
            container.mux(stream.encode(av.VideoFrame.from_image(window)))
        container.mux(stream.encode(None))
    return path


def plain(clip: Path, folder: Path, model: str) -> None:
    """One after the other."""
    detector = aweigh.load(model)
    folder.mkdir(exist_ok=True)
    with (
        av.open(str(clip)) as source,
        av.open(str(folder / "clip.mp4"), "w") as target,
        open(folder / "detections.jsonl", "w") as lines,
    ):
        video = source.streams.video[0]
        video.thread_type = "AUTO"
        stream = target.add_stream("libx264", rate=video.average_rate, options={"preset": "veryfast", "crf": "20"})
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 60_000)
        for frame in source.decode(video):
            pixels = frame.to_ndarray(format="rgb24")
            found = detector(pixels)
            lines.write(json.dumps(found.to_dict()) + "\n")
            drawn = av.VideoFrame.from_ndarray(np.asarray(found.draw(pixels)), format="rgb24")
            drawn.pts, drawn.time_base = frame.pts, frame.time_base
            target.mux(stream.encode(drawn))
        target.mux(stream.encode(None))


def aweighs(clip: Path, folder: Path, model: str) -> None:
    aweigh.predict_files(clip, folder, model=model)


RUNS = {"plain": plain, "aweigh": aweighs}


def taken(name: str, clip: Path, folder: Path, model: str) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    words = [sys.executable, __file__, "--run", name, "--clip", str(clip), "--folder", str(folder), "--model", model]
    started, before = time.perf_counter(), os.times()
    subprocess.run(words, check=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - started, used


def boxes(folder: Path) -> list[list[list[float]]]:
    lines = (folder / "detections.jsonl").read_text().splitlines()
    return [[found["box"] for found in json.loads(line)["detections"]] for line in lines]


if __name__ == "__main__":
    main()
