"""What the help shows: an example of every command, and of a command with many flags the first dozen.

`--help-all` shows all of them.
"""

from __future__ import annotations

from collections.abc import Collection
from contextvars import ContextVar
from typing import TYPE_CHECKING

from cyclopts import App, Group

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel
    from rich.console import Console, ConsoleOptions

HELP_ALL = "--help-all"
HELP_FLAGS = ("--help", "-h", HELP_ALL)
EXAMPLES = {
    "predict": "aweigh predict photos/ -o boxes",
    "cluster status": "aweigh cluster status s3://bucket/out",
    "export": "aweigh export box --to onnx",
    "train": "aweigh train my-data --epochs 50",
    "train-backbone": "aweigh train-backbone images-by-class --epochs 100",
    "resume": "aweigh resume runs/my-data-fcos",
    "debug": "aweigh debug runs/my-data-fcos/crash-000123",
    "eval": "aweigh eval runs/my-data-fcos my-data",
    "proposals": "aweigh proposals runs/my-data-fcos my-data -o proposals.safetensors",
    "config show": "aweigh config show my-data --epochs 50",
    "models": "aweigh models fcos",
    "info": "aweigh info runs/my-data-fcos/best.safetensors",
    "explain": "aweigh explain photo.jpg --box 3 -o explained.png",
    "why-not": "aweigh why-not photo.jpg --gt person:10,20,110,220 -o lost.png",
    "bench": "aweigh bench box run/ model.onnx --images photos/",
    "profile cost": "aweigh profile cost fcos_resnet50_fpn",
    "profile speed": "aweigh profile speed box resnet50 --engine eager onnx --threads 1 2",
    "profile machine": "aweigh profile machine resnet50 -o roof.png",
    "profile guidelines": "aweigh profile guidelines -o guidelines.png",
    "profile advice": "aweigh profile advice fcos_resnet50_fpn",
    "profile reuse": "aweigh profile reuse shufflenet_v2_x1_0",
    "study list": "aweigh study list",
    "study run": "aweigh study run fcos/4 my-data --steps 600 --seeds 3 --size 320",
    "study show": "aweigh study show runs/study-fcos-4-my-data",
    "study cost": "aweigh study cost fcos/4",
    "average": "aweigh average runs/a/best.safetensors runs/b/best.safetensors -o mean.safetensors",
    "shrink": "aweigh shrink runs/my-data-fcos/best.safetensors -o small.safetensors",
    "doctor": "aweigh doctor",
    "serve": "aweigh serve runs/x/best.safetensors --port 8080",
    "demo": "aweigh demo tour",
    "data check": "aweigh data check my-data --html report.html",
    "data convert": "aweigh data convert my-data --to yolo --out my-data-yolo",
    "data merge": "aweigh data merge first second --out both",
    "data complete": "aweigh data complete my-data --with box --out completed",
    "data synth": "aweigh data synth shapes",
}

all_wanted: ContextVar[bool] = ContextVar("all_wanted", default=False)  # whether `--help-all` was given


class FirstFlags:
    """How the help shows a group of flags: those named in `first`, or all of them where all are wanted."""

    def __init__(self, first: Collection[str]) -> None:
        self.first = {f"--{name.replace('_', '-')}" for name in first}

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        from cyclopts.help import DefaultFormatter

        if not all_wanted.get():
            panel = panel.copy(entries=[entry for entry in panel.entries if self.first.intersection(entry.names)])
        if panel.entries:
            DefaultFormatter()(console, options, panel)


def several(name: str, text: str, example: str) -> App:
    """A command that is several, as `aweigh data ...`."""
    return App(
        name=name,
        help=text,
        group_commands=Group("Commands"),
        help_flags=HELP_FLAGS,
        help_epilogue=epilogue(example),
    )


def epilogue(command: str) -> str:
    """What stands below the help of a command."""
    more = f"{HELP_ALL} shows every flag.\n\n" if command in ("train", "train-backbone", "config show") else ""
    return f"{more}Example: {EXAMPLES[command]}"
