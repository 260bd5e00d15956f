"""Sources of images beside one another, and what they cost as work grows.

    python benchmarks/sources.py rows [--images 2000] [--kills 10]
    python benchmarks/sources.py growth [--counts 1000 10000 100000] [--kinds folder zip tar list files]

`rows`: the detector in the box looks at the same images as a folder, a .zip, a .tar and a list, and what it writes is
compared line by line, but for the names. Then the folder once more by a process that is killed at random moments and
gone on with; its file has to be that of the folder to the last byte. Images are crops of the drawn street, four in two
thousand of them damaged.

`growth`: one image of 8 x 8 pixels is written so often into each source, and passed through a detector that finds
nothing: by `predictor.stream`, and (`files`) by `aweigh.predict_files`, which writes JSON lines of the folder. Each row
is a process of its own: seconds to the last result, of the clock and of the processor in all threads, and the peak of
its memory above that after a source of one image.
"""

import argparse
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image

import aweigh
from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.images.resize import Resize
from aweigh.scenes import STREET

KINDS = ("folder", "zip", "tar", "list", "files")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    rows = commands.add_parser("rows")
    rows.add_argument("--images", type=int, default=2000)
    rows.add_argument("--kills", type=int, default=10)
    rows.set_defaults(run=lambda asked: compare_rows(asked.images, asked.kills))
    growth = commands.add_parser("growth")
    growth.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000, 100_000])
    growth.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    growth.set_defaults(run=lambda asked: compare_counts(asked.counts, asked.kinds))
    for name, run in (("predict", predict), ("measure", measure)):  # what the two above start
        child = commands.add_parser(name)
        child.add_argument("words", nargs="*")
        child.set_defaults(run=lambda asked, run=run: run(*asked.words))
    asked = parser.parse_args()
    asked.run(asked)


def compare_rows(count: int, kills: int) -> None:
    print("| source | seconds | images | could not be read | objects | lines as those of the folder |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        sources = written(Path(folder), {f"{number:07}.jpg": content for number, content in enumerate(crops(count))})
        first: list[Any] = []
        for kind, source in sources.items():
            out, started = Path(folder) / kind, time.perf_counter()
            done = aweigh.predict_files(source, out, draw=False)
            lines = [without_names(line) for line in (out / "detections.jsonl").read_text().splitlines()]
            first = first or lines
            same = sum(one == other for one, other in zip(lines, first, strict=True))
            seconds = time.perf_counter() - started
            numbers = f"{done.images:,} | {done.failed} | {done.objects.total():,}"
            print(f"| {kind} | {seconds:.1f} | {numbers} | {same:,} |", flush=True)
        took = seconds
        out, started, died = Path(folder) / "killed", time.perf_counter(), 0
        child = subprocess.Popen([sys.executable, __file__, "predict", sources["folder"], str(out)])
        chance = random.Random(0)
        while died < kills:
            time.sleep(chance.uniform(0.5, 1.5) * took / (kills + 1))
            if child.poll() is not None:
                break
            child.send_signal(signal.SIGKILL)
            child.wait()
            died += 1
            child = subprocess.Popen([sys.executable, __file__, "predict", sources["folder"], str(out)])
        assert child.wait() == 0
        whole, gone_on = ((place / "detections.jsonl").read_bytes() for place in (Path(folder) / "folder", out))
        left = sorted(path.name for path in out.iterdir())
        print(f"\nKilled {died} times and gone on with: {time.perf_counter() - started:.1f} s, ", end="")
        print(f"the file of the folder to the last byte: {whole == gone_on}; in its folder lie {', '.join(left)}.")


def crops(count: int) -> Iterator[bytes]:
    """JPEG files of 320 x 240 pixels, each another part of the street."""
    street, chance = Image.open(STREET).convert("RGB"), random.Random(0)
    for number in range(count):
        left, top = chance.randrange(street.width - 320), chance.randrange(street.height - 240)
        street.crop((left, top, left + 320, top + 240)).save(content := io.BytesIO(), "JPEG", quality=90)
        yield content.getvalue()[: 500 if number % 500 == 250 else None]


def without_names(line: str) -> Any:
    row = json.loads(line)
    name = row["path"]
    return {**row, "path": Path(name).name, "error": row["error"] and row["error"].replace(name, "")}


def predict(source: str, out: str) -> None:
    aweigh.predict_files(source, out, draw=False, resume=True)


class Nothing:
    """An engine that looks at nothing and finds nothing."""

    name, classes, extras, keypoint_set = "nothing", Classes(("thing",), (1,)), (), None
    needs_proposals = averages_flips = False
    stride_divisor, pixel_mean, usual_batch = 8, (0.0, 0.0, 0.0), 8
    selection = SimpleNamespace(score_threshold=0.5, nms="class", nms_threshold=0.6, max_detections=100)
    settings, computed_by = vars(selection), "nothing"

    def run(self, batch: Any, *, flipped_classes: Any = None) -> list[Detections]:
        return [Detections.empty(self.classes, size_hw) for size_hw in batch.sizes_hw]

    def with_nms(self, nms: Any) -> "Nothing":
        return self

    def side_by_side(self) -> "tuple[Nothing, int]":
        return self, 1


def compare_counts(counts: list[int], kinds: list[str]) -> None:
    print("| source | images | seconds | of the processor | microseconds of it an image | memory, MiB |")
    print("|---|---|---|---|---|---|")
    Image.new("RGB", (8, 8)).save(content := io.BytesIO(), "PNG")
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            sources = written(Path(folder), {f"{number:07}.png": content.getvalue() for number in range(count)})
            (Path(folder) / "first").mkdir()
            (Path(folder) / "first" / "0.png").write_bytes(content.getvalue())
            for kind in kinds:
                out = [str(Path(folder) / "out")] if kind == "files" else []
                source = sources["folder" if kind == "files" else kind]
                words = [sys.executable, __file__, "measure", source, str(Path(folder) / "first"), *out]
                answer = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
                number, seconds, computed, memory = int(answer[0]), *map(float, answer[1:])
                assert number == count, (kind, number)
                numbers = f"{count:,} | {seconds:.1f} | {computed:.1f} | {1e6 * computed / count:.0f} | {memory:.1f}"
                print(f"| {kind} | {numbers} |", flush=True)


def measure(source: str, first: str, out: str = "") -> None:
    """Prints the number of images that were read, seconds, those of the processor, and MiB."""
    predictor = aweigh.Predictor(Nothing(), Resize(None, 8))

    def read(name: str, out: str) -> int:
        if not out:
            return sum(result.error is None for result in predictor.stream(name))
        done = aweigh.predict_files(name, out, model=predictor, draw=False)
        return done.images - done.failed

    assert read(first, out and f"{out}-first") == 1
    before, started, computed = peak_mib(), time.perf_counter(), time.process_time()
    number = read(source, out)
    print(number, time.perf_counter() - started, time.process_time() - computed, peak_mib() - before)


def peak_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def written(folder: Path, images: dict[str, bytes]) -> dict[str, str]:
    """The same images in each kind of source."""
    (folder / "images").mkdir()
    with zipfile.ZipFile(folder / "x.zip", "w") as zipped, tarfile.open(folder / "x.tar", "w") as tarred:
        for name, content in images.items():
            (folder / "images" / name).write_bytes(content)
            zipped.writestr(name, content)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tarred.addfile(entry, io.BytesIO(content))
            tarred.members.clear()  # else it holds all of them
    (folder / "list.txt").write_text("".join(f"{folder / 'images' / name}{os.linesep}" for name in images))
    archives = {kind: str(folder / f"x.{kind}") for kind in ("zip", "tar")}
    return {"folder": str(folder / "images"), **archives, "list": f"@{folder / 'list.txt'}"}


if __name__ == "__main__":
    main()
