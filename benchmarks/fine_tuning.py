"""What a start is worth: the light detector trained on a folder from several starts, for one, five and fifteen minutes.

    python benchmarks/fine_tuning.py DATA OUT [--minutes 1 5 15] [--backbone FILE] [--only START ...] [--size 416]
        [--markdown FILE]

The starts: the weights in the box; a trained body alone, from FILE; random weights. Every run has its own cosine
schedule, as long as its budget: the number of steps is what fits into the time, found by timing the same steps before.
Time is that of training steps, reading included; validation and starting up are not counted. Measured on the test
split, which is used for nothing else. A run that is there already is not run again: the whole can be stopped and gone
on with, or shared out: `--only` some starts, each in a process of its own, and then once more for the table of all.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import torch
from measure import processor, step_seconds

import aweigh
from aweigh.inference.measure import measure
from aweigh.layouts.load import load_split

matplotlib.use("agg")
from matplotlib import pyplot

TIMED_STEPS, SKIPPED_STEPS = 40, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 5, 15])
    parser.add_argument("--backbone", type=Path, help="weights of the body alone")
    parser.add_argument("--only", nargs="+", metavar="START", help="box, body, random")
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--recipe", default="lite")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    starts = {"box": ["--init", "box", "--backbone-norm", "frozen_bn"]}
    if options.backbone:
        body = ["--backbone-weights", str(options.backbone)]
        starts["body"] = ["--init", "none", *body, "--backbone-norm", "frozen_bn"]
    # From random weights the body needs batch statistics of its own; fixed ones would be those of nothing.
    starts["random"] = ["--init", "none", "--backbone-norm", "bn"]
    if options.only:
        starts = {name: starts[name] for name in options.only}
    rows = [
        {"start": name, "minutes": minutes, **result(options, name, words, minutes)}
        for minutes in options.minutes
        for name, words in starts.items()
    ]
    table = text(options, rows)
    print(table)
    if options.markdown:
        options.markdown.write_text(table + "\n", encoding="utf-8")
    plot(rows, options.out / "fine_tuning.png")


def result(options: argparse.Namespace, name: str, words: list[str], minutes: float) -> dict[str, float]:
    """AP and AP50 on the test split of a run from this start, of this many minutes of training steps."""
    folder = options.out / f"{name}_{minutes:g}min"
    kept = folder / "test.json"
    if not kept.exists():
        probe = options.out / f"{name}_timed"
        if not (probe / "log.jsonl").exists():
            train(options, probe, words, TIMED_STEPS)
        seconds = step_seconds(probe)[SKIPPED_STEPS:]
        train(options, folder, words, max(1, round(60 * minutes / (sum(seconds) / len(seconds)))))
        predictor = aweigh.load(folder / "last.safetensors", device="cpu")
        measured = measure(predictor.engine.model, predictor.resize, load_split(options.data, "test"), ["boxes"])
        metrics = measured.metrics["boxes"].to_dict()
        taken = step_seconds(folder)
        found = {"AP": metrics["AP"], "AP50": metrics["AP50"], "steps": len(taken), "seconds": sum(taken)}
        kept.write_text(json.dumps(found))
    read: dict[str, float] = json.loads(kept.read_text())
    return read


def train(options: argparse.Namespace, folder: Path, words: list[str], steps: int) -> None:
    command = [sys.executable, "-m", "aweigh", "train", str(options.data), "--recipe", options.recipe]
    command += ["--short", "0", "--long", str(options.size), "--iterations", str(steps), "--val-split", "none"]
    command += ["--workers", "0"]  # images are read in the training process, which then has all the threads there are
    subprocess.run([*command, "--output", str(folder), *words], check=True)


def text(options: argparse.Namespace, rows: list[dict[str, float]]) -> str:
    lines = [
        f"aweigh {aweigh.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads, {processor()}; "
        f"{time.strftime('%Y-%m-%d')}; {options.data.name}, test split, {options.size} px",
        "",
        "| minutes | start | steps | seconds | AP | AP50 |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['minutes']:g} | {row['start']} | {row['steps']} | {row['seconds']:.0f} | {row['AP']:.3f} "
        f"| {row['AP50']:.3f} |"
        for row in rows
    ]
    return "\n".join(lines)


def plot(rows: list[dict[str, float]], file: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(6, 4))
    labels = {"box": "the weights in the box", "body": "a trained body", "random": "random weights"}
    for start in dict.fromkeys(row["start"] for row in rows):
        own = [row for row in rows if row["start"] == start]
        axes.plot([row["minutes"] for row in own], [row["AP50"] for row in own], marker="o", label=labels[start])
    axes.set(xlabel="minutes of training", ylabel="AP50, test split", ylim=(0, 1))
    axes.legend(title="start")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
