"""Batch normalisation against group normalisation at several batch sizes: the validation loss of FCOS lite.

    python benchmarks/norm_by_batch.py DATA OUT [--batches 2 4 8 16] [--seeds 0 1] [--epochs 24] [--size 160]
        [--only bn gn] [--markdown FILE]

The comparison of Wu and He, "Group Normalization" (ECCV 2018, section 4.1, figure 5), on a data set and a network that
a CPU can train: FCOS lite on ShuffleNet V2 0.5x from random weights, the same normalisation in backbone, neck and head.
(In FCOS's own head each level has batch statistics of its own in training, and one running mean for all after it, which
would be measured instead.) As in the paper each run sees the same number of images, and the learning rate is
proportional to the batch.

A run that is there already is not run again: the whole can be stopped and gone on with, or shared out by `--only`.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import torch
from measure import processor

import aweigh
from aweigh.training.logs.json_lines import read_log

matplotlib.use("agg")
from matplotlib import pyplot

NORMS = {"bn": "batch", "gn": "group"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--size", type=int, default=160, help="long side of the images")
    parser.add_argument("--only", nargs="+", choices=NORMS, default=list(NORMS), help="of the two normalisations")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    losses = {
        (norm, batch): [validation_loss(options, norm, batch, seed) for seed in options.seeds]
        for batch in options.batches
        for norm in options.only
    }
    table = text(options, losses)
    print(table)
    if options.markdown:
        options.markdown.write_text(table + "\n", encoding="utf-8")
    plot(options, losses)


def validation_loss(options: argparse.Namespace, norm: str, batch: int, seed: int) -> float:
    """After the last epoch of a run."""
    folder = options.out / f"{norm}_batch{batch}_seed{seed}"
    if not (folder / "last.safetensors").exists():
        command = [sys.executable, "-m", "aweigh", "train", str(options.data), "--recipe", "bccd", "--init", "none"]
        command += ["--model", "fcos_shufflenet_v2_x0_5_lite", "--backbone-norm", norm]
        command += ["--arguments", f"neck_norm={norm}", f"head_norm={norm}"]
        command += ["--short", "0", "--long", str(options.size), "--batch", str(batch), "--epochs", str(options.epochs)]
        command += ["--eval-every", str(options.epochs), "--ema", "0", "--seed", str(seed), "--workers", "0"]
        subprocess.run([*command, "--output", str(folder)], check=True)
    epochs = [row for row in read_log(folder / "log.jsonl") if row["kind"] == "epoch"]
    return float(epochs[-1]["val_loss"])


def text(options: argparse.Namespace, losses: dict[tuple[str, int], list[float]]) -> str:
    lines = [
        f"aweigh {aweigh.__version__}, torch {torch.__version__}, {processor()}; {time.strftime('%Y-%m-%d')}; "
        f"{options.data.name}, {options.size} px, {options.epochs} epochs; validation loss, mean of "
        f"{len(options.seeds)} seeds (each seed)",
        "",
        "| images in a batch | " + " | ".join(NORMS[norm] for norm in options.only) + " |",
        "|---:|" + "---:|" * len(options.only),
    ]
    for batch in options.batches:
        cells = [
            f"{statistics.mean(losses[norm, batch]):.3f} ({', '.join(f'{loss:.3f}' for loss in losses[norm, batch])})"
            for norm in options.only
        ]
        lines.append(f"| {batch} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(options: argparse.Namespace, losses: dict[tuple[str, int], list[float]]) -> None:
    figure, axes = pyplot.subplots(figsize=(6, 4))
    for norm in options.only:
        means = [statistics.mean(losses[norm, batch]) for batch in options.batches]
        axes.plot(options.batches, means, marker="o", label=f"{NORMS[norm]} normalisation")
    axes.set_xscale("log", base=2)
    axes.set_xticks(options.batches, [str(batch) for batch in options.batches])
    axes.invert_xaxis()
    axes.set(xlabel="images in a batch", ylabel="validation loss")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(options.out / "norm_by_batch.png", dpi=120)


if __name__ == "__main__":
    main()
