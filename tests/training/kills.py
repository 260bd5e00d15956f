"""Train a small run, killing it with SIGKILL again and again, and compare what it leaves with an undisturbed run.

    python tests/training/kills.py FOLDER --kills 100 [--workers 1] [--seed 0]

The process that this starts loads everything once and forks a child for each attempt, so that an attempt costs tenths
of a second. A child is really killed, at a moment drawn at random: before its first file, in a step, while a file is
being written, in the validation. Prints one line of JSON; ends with 1 where anything differs.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import safetensors.torch
import torch
from matplotlib.figure import Figure
from rich.console import Console

from aweigh.scenes.shapes import write_synthetic
from aweigh.training.config import resolve
from aweigh.training.logs.json_lines import read_log
from aweigh.training.train import train

RUN = {
    "model": "fcos_shufflenet_v2_x0_5_fpn",
    "arguments": ("channels=32", "head_convs=1"),
    "short": 64,
    "long": 64,
    "batch": 2,
    "accumulate": 2,
    "epochs": 4,
    "eval_every": 2,
    "ema": 0.9,
    "color": 0.5,
    "save_every": 2,
    "device": "cpu",
    "backbone_norm": "bn",
}


def start(data: Path, folder: Path, workers: int) -> None:
    """What the user types: `aweigh train`, or `aweigh resume` where there is a run."""
    if (folder / "config.toml").exists():
        config, origin = resolve(None, {"resume": str(folder)})
    else:
        config, origin = resolve({}, {"data": str(data), "output": str(folder), "workers": workers, **RUN})
    train(config, origin, console=Console(file=io.StringIO()))


def child(data: Path, folder: Path, workers: int) -> int:
    process = os.fork()
    if process == 0:
        os.setpgid(0, 0)  # with the processes that read images; the parent does the same, as either may be first
        try:
            start(data, folder, workers)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.setpgid(process, process)
    return process


def state_of(folder: Path) -> dict[str, str]:
    """A hash of the weights of each checkpoint, and of the logged losses and metrics."""
    found = {}
    for name in ("best", "last", "last/state"):
        tensors = safetensors.torch.load_file(folder / f"{name}.safetensors")
        digest = hashlib.sha256()
        for key in sorted(tensors):
            digest.update(key.encode() + tensors[key].numpy().tobytes())
        found[name] = digest.hexdigest()
    timed = ("seconds", "data_seconds", "step_seconds", "data_share", "images_per_second")
    rows = [{key: value for key, value in row.items() if key not in timed} for row in read_log(folder / "log.jsonl")]
    found["log"] = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    found["files"] = " ".join(sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    Figure.savefig = lambda figure, path: path.touch()  # rendering charts would take most of the time
    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    data, dice = options.folder / "data", random.Random(options.seed)
    write_synthetic(data, train=14, val=4, test=1, size=64, seed=0)

    began = time.monotonic()
    os.waitpid(child(data, options.folder / "whole", options.workers), 0)
    longest = time.monotonic() - began
    expected = state_of(options.folder / "whole")
    kills, runs, steps, differences = 0, 0, [], []
    while kills < options.kills:
        folder = options.folder / f"killed-{runs}"
        runs += 1
        while True:
            process = child(data, folder, options.workers)
            deadline = time.monotonic() + dice.uniform(0, longest / 3)
            done = 0
            while time.monotonic() < deadline and not done:
                done, status = os.waitpid(process, os.WNOHANG)
                time.sleep(0.001)
            if not done and kills < options.kills:
                os.killpg(process, signal.SIGKILL)
                kills += 1
            if not done:
                _, status = os.waitpid(process, 0)
            rows = [row for row in read_log(folder / "log.jsonl") if row["kind"] == "step"]
            steps.append(rows[-1]["step"] if rows else 0)
            if os.WIFEXITED(status):
                if os.WEXITSTATUS(status):
                    print(f"an attempt in {folder} ended with {os.WEXITSTATUS(status)}", file=sys.stderr)
                    return 1
                break
        found = state_of(folder)
        differences += [
            f"{folder.name}: {name}: {' '.join(sorted(set(found[name].split()) ^ set(expected[name].split())))}"
            for name in expected
            if found[name] != expected[name]
        ]
    print(json.dumps({"kills": kills, "runs": runs, "attempts": len(steps), "differences": differences}))
    return bool(differences)


if __name__ == "__main__":
    sys.exit(main())
