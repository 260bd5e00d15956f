"""`aweigh bench`: how long each step of a prediction takes, for detectors of any engines side by side."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from aweigh.arguments import Precision, Share, check_value
from aweigh.cli.flags import SEVERAL, JsonFile, Weights
from aweigh.cli.terminal import bar, output, write_numbers
from aweigh.errors import UsageError, counted

if TYPE_CHECKING:
    from aweigh.images.resize import Resize
    from aweigh.runtime.engine import Engine
    from aweigh.speed import Opener, Speed

    Openers = dict[str, Opener]

DRAWN = 12  # images, where none are given


def command(
    *models: str,
    images: Annotated[tuple[str, ...], SEVERAL] = (),
    repeats: int = 5,
    batch: int = 1,
    score: float = 0.5,
    resize: str = "",
    precision: Annotated[tuple[Precision, ...], SEVERAL] = ("auto",),
    device: str = "auto",
    threads: int = 0,
    json_file: JsonFile = None,
) -> None:
    """Time detectors: decoding, resizing, network, selection and drawing, in turn in one process.

    Every image goes through each detector, one after the other, so that what else the machine does meets all of them;
    it is said where that was too much. The first call is from the file's name to the first detections. Memory is what
    was added to the process until then, at the peak; a runtime counts where it is used first.

    Args:
        models: Checkpoints, folders of runs, graphs (.onnx, .xml), box, or names of detectors; one may be timed in
            several formats.
        images: Files, folders, patterns, archives or lists (@list.txt); twelve drawn images of 640 pixels when not
            given.
        repeats: How often all images go through, after once that is not timed.
        batch: Images that go through the network together.
        score: The lowest of a detection that is drawn.
        resize: Another size than in training: original, the long side as 512, or short side and limit as 800,1333.
        precision: Number formats that checkpoints are timed in, as float32 bf16; a graph has its own.
        device: auto, cpu, cuda, cuda:1 or mps.
        threads: Of the CPU; as many as there are cores to use when not given.
    """
    if not models:
        raise UsageError("Name the detectors to time: checkpoints, graphs, or box.")
    check_value("score", score, Share)
    from aweigh.images.sources import images_of_several
    from aweigh.speed import drawn_images, measure_speed

    given = images_of_several(images)
    with bar("measuring", repeats + 1) as show:
        speed = measure_speed(
            _openers(models, precision, device, threads, resize),
            given if given else drawn_images(DRAWN),
            repeats=repeats, batch=batch, score=score, progress=show,
        )  # fmt: skip
    show_speed(speed)
    if json_file is not None:
        write_numbers(json_file, {**speed.to_dict(), "drawn": not given, "score": score, "resize": resize or None})


def _openers(
    models: Sequence[str], precisions: Sequence[Precision], device: str, threads: int, resize: str
) -> "Openers":
    """What opens each, by the name of its row: a checkpoint in each number format, a graph in its own."""
    from aweigh.runtime.open import SUFFIXES

    found: Openers = {}
    for model in models:
        own: tuple[Precision, ...] = ("auto",)
        for precision in own if Path(model).suffix in SUFFIXES else precisions:
            name = model if precision == "auto" else f"{model}, {precision}"
            found[name] = partial(_opened, model, Weights(device=device, precision=precision, threads=threads), resize)
    return found


def _opened(model: str, weights: Weights, resize: str) -> "tuple[Engine, Resize]":
    from aweigh.cli.detectors import find_detector
    from aweigh.cli.flags import Views

    predictor = find_detector(model, weights, Views(resize=resize))
    return predictor.engine, predictor.resize


def show_speed(speed: "Speed") -> None:
    """The table: a row for each detector, milliseconds per image."""
    from aweigh.cli.tables import print_table
    from aweigh.speed import STEPS, percentiles

    titles = ("detector", *STEPS, "p50", "p95", "p99", "first call", "memory", "of the first")
    rows: list[Sequence[str]] = []
    usual = None
    for name, timed in speed.detectors.items():
        steps = [f"{percentiles(values)['p50']:.1f}" for values in timed.steps_ms.values()]
        whole = percentiles(timed.whole_ms)
        usual = usual or whole["p50"]
        memory = "-" if timed.memory_mib is None else f"{timed.memory_mib:.0f} MiB"
        row = (name, *steps, *(f"{value:.1f}" for value in whole.values()), f"{timed.first_s:.2f} s", memory)
        rows.append((*row, f"{whole['p50'] / usual:.2f}"))
    screen = output()
    screen.print(
        f"Milliseconds per image: {counted(speed.images, 'image')}, {counted(speed.repeats, 'time')} each, "
        f"batch {speed.batch}, in turn; steps are medians.",
        soft_wrap=True,
    )
    print_table(screen, titles, rows)
    for name, timed in speed.detectors.items():
        screen.print(f"{name}: {timed.computed_by}; found per image: {timed.detections:.1f}", soft_wrap=True)
    screen.print(str(speed.noise), soft_wrap=True)
