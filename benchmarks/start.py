"""Seconds from the call of a command to its end, for commands that need no network, in turn with another checkout.

    python benchmarks/start.py --beside CHECKOUT --out benchmarks/results/start.md

Each command is a process of its own, called once before it is timed, so that bytecode and files are at hand. The last
row is a bare interpreter. Memory is the largest resident size of the process.
"""

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aweigh

ROOT = Path(__file__).parents[1]
BOX = "src/aweigh/weights/box/fcos_shufflenet_v2_x1_0_lite.safetensors"
COMMANDS = {
    "`aweigh --help`": ["-m", "aweigh", "--help"],
    "`aweigh models`": ["-m", "aweigh", "models"],
    "`aweigh info`": ["-m", "aweigh", "info", str(ROOT / BOX)],
    "`aweigh data check --no-pictures`, 100 images": ["-m", "aweigh", "data", "check", "DATA", "--no-pictures"],
    "a bare interpreter": ["-c", "pass"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, required=True, help="another checkout, the one to compare with")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the table there as well")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    checkouts = {"before": arguments.beside.resolve(), "now": ROOT}
    rows = ["| command | before | now | memory before | memory now |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as data:
        run(["-m", "aweigh", "data", "synth", data, "--train", "80", "--val", "20", "--test", "0"], ROOT)
        for title, words in COMMANDS.items():
            words = [data if word == "DATA" else word for word in words]
            taken: dict[str, list[tuple[float, float]]] = {name: [] for name in checkouts}
            for turn in range(arguments.repeats + 1):
                for name, checkout in checkouts.items():
                    measured = run(words, checkout)
                    taken[name] += [measured] * (turn > 0)
            seconds = [f"{statistics.median(s for s, _ in taken[name]):.2f} s" for name in checkouts]
            memory = [f"{max(m for _, m in taken[name]):.0f} MiB" for name in checkouts]
            rows.append(f"| {title} | {' | '.join(seconds)} | {' | '.join(memory)} |")
            print(rows[-1], flush=True)
    from measure import processor  # which imports torch: a process begun after it would have its memory

    text = "\n".join(
        [
            "# The start of commands",
            "",
            *rows,
            "",
            f"Medians of {arguments.repeats}, in turn.",
            f"{datetime.date.today()}, commit {commit(ROOT)} beside {commit(checkouts['before'])};",
            f"{os.cpu_count()} CPU cores ({processor()}), load before the start {load:.1f};",
            f"Python {platform.python_version()}, aweigh {aweigh.__version__}. Made by `benchmarks/start.py`.",
            "",
        ]
    )
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")


def run(words: list[str], checkout: Path) -> tuple[float, float]:
    """Seconds and MiB of one process."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": str(checkout / "src"), "PYTHONDONTWRITEBYTECODE": ""},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(words)} ended with {os.waitstatus_to_exitcode(status)} in {checkout}.")
    return seconds, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def commit(checkout: Path) -> str:
    words = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
