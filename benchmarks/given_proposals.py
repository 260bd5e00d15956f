"""The step from Fast to Faster R-CNN: the same second stage on proposals that are given, and on its own.

    python benchmarks/given_proposals.py DATA OUT --body WEIGHTS [--steps 300] [--results FILE.md]

A Faster R-CNN is trained, its proposals of every image are written, and a Fast R-CNN is trained on these for as many
steps, both on ResNet-18 from WEIGHTS with the same options. The table has what each detector finds on the test split,
and how many objects the proposals reach. A run that is there is not trained again.

Small on purpose, for a CPU: it shows that the chain works and what it costs, not what the papers reach.
"""

import argparse
import json
import platform
import subprocess
import time
from pathlib import Path

import aweigh
from aweigh.cli.main import run

COMMON = ["--backbone-norm", "frozen_bn", "--short", "0", "--batch", "4", "--workers", "0", "--device", "cpu"]
COMMON += ["--optimizer", "adamw", "--lr", "5e-4", "--lr-batch", "0", "--bias-lr", "1", "--warmup", "50"]
SMALL = ["channels=64", "sampled=128"]  # of both builders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a data set with the splits train, val and test")
    parser.add_argument("out", type=Path)
    parser.add_argument("--body", required=True, help="weights of the backbone to start from, as `aweigh train` takes")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--long", type=int, default=192, help="long side of the input")
    parser.add_argument("--number", type=int, default=300, help="proposals of an image")
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    data, out = str(options.data), options.out
    common = [*COMMON, "--long", str(options.long), "--iterations", str(options.steps), "--eval-every", "100000"]
    common += ["--backbone-weights", options.body]

    own = [
        f"train_proposals=[{options.number},{options.number}]",
        f"test_proposals=[{options.number},{options.number}]",
    ]
    faster = train(data, out / "faster", "faster_rcnn_resnet18_fpn", [*SMALL, *own], common)
    files = {split: out / f"{split}.safetensors" for split in ("train", "val", "test")}
    recall = {}
    for split, file in files.items():
        arguments = [faster, data, "--split", split, "-o", str(file), "--number", str(options.number)]
        measured("proposals", arguments, file.with_suffix(".json"))
        recall[split] = json.loads(file.with_suffix(".json").read_text())
    given = ["--proposals-file", str(files["train"]), "--val-proposals-file", str(files["val"])]
    fast = train(data, out / "fast", "fast_rcnn_resnet18_fpn", SMALL, [*common, *given])

    rows = {"Faster R-CNN": measured("eval", [faster, data, "--split", "test"], out / "faster.json")}
    arguments = [fast, data, "--split", "test", "--proposals-file", str(files["test"])]
    rows["Fast R-CNN on its proposals"] = measured("eval", arguments, out / "fast.json")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True)
    lines = [
        f"aweigh {aweigh.__version__}, {processor()}, {time.strftime('%Y-%m-%d')}; {options.data.name}, test split, "
        f"{options.long} px, {options.steps} steps of 4, {options.number} proposals of an image; commit "
        f"{commit.stdout.decode().strip() or 'unknown'}",
        "",
        "| | AP | AP50 | AP75 |",
        "|---|---:|---:|---:|",
        *(f"| {name} | {v['AP']:.3f} | {v['AP50']:.3f} | {v['AP75']:.3f} |" for name, v in rows.items()),
        "",
        f"The proposals reach {recall['test']['AR100']:.3f} of the test split's objects with 100 of an image and "
        f"{recall['test']['AR1000']:.3f} with all (COCO's average recall, classes left aside); "
        f"{recall['train']['AR1000']:.3f} of those trained on.",
    ]
    print("\n".join(lines))
    if options.results is not None:
        options.results.write_text("\n".join(lines) + "\n", encoding="utf-8")


def train(data: str, folder: Path, model: str, arguments: list[str], common: list[str]) -> str:
    weights = folder / "last.safetensors"
    if not weights.exists():
        done(["train", data, "--model", model, "--arguments", *arguments, "--output", str(folder), *common])
    return str(weights)


def measured(command: str, arguments: list[str], file: Path) -> dict[str, float]:
    done([command, *arguments, "--device", "cpu", "--json", str(file)])
    numbers: dict[str, float] = json.loads(file.read_text())
    return numbers


def done(arguments: list[str]) -> None:
    print("aweigh", *arguments, flush=True)
    if code := run(arguments):
        raise SystemExit(code)


def processor() -> str:
    """What the machine calls its processor."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
