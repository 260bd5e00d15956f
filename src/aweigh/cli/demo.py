"""`aweigh demo`: the whole path on drawn scenes, with the commands a user would type."""

import shlex
from pathlib import Path


def command(
    out: Path,
    /,
    *,
    pictures: int = 400,
    size: int = 192,
    epochs: int | None = None,
    seed: int = 0,
) -> int:
    """Go the whole way in a few minutes: draw data, train, measure, predict. Downloads nothing.

    Each step is printed as the command it is, so that it can be typed again and changed.

    Args:
        out: The folder for data, run and images; one that is not there yet, or empty.
        pictures: How many to train on; a sixth as many to validate on, and to test on.
        size: Long side of the images in pixels.
        epochs: Passes over the training images; as the recipe says when not given.
        seed: Number that decides scenes, weights and order.
    """
    from aweigh.cli.main import run
    from aweigh.cli.terminal import log
    from aweigh.errors import UsageError

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already; name a folder for the demo that is new or empty.")
    others = max(1, pictures // 6)
    data, trained = out / "data", out / "run"
    best = trained / "best.safetensors"
    sizes = ["--train", pictures, "--val", others, "--test", others, "--size", size, "--seed", seed]
    length = ["--seed", seed, *([] if epochs is None else ["--epochs", epochs])]
    steps = {
        "Draw images of shapes": ["data", "synth", data, *sizes],
        "Train a detector on them": ["train", data, "--recipe", "synthetic", "--output", trained, *length],
        "Measure it on images it has not seen": ["eval", best, data, "--split", "test", "--json", out / "test.json"],
        "Find the objects in them": ["predict", data / "images" / "test", "--model", best, "-o", out / "pictures"],
    }
    screen = log()
    for title, arguments in steps.items():
        words = [str(argument) for argument in arguments]
        screen.print(f"\n{title}", style="bold")
        screen.print(f"$ aweigh {shlex.join(words)}\n")
        if code := run(words):
            return code
    screen.print(f"\nImages with boxes: {out / 'images'}  Numbers: {out / 'test.json'}  Run: {trained}")
    return 0
