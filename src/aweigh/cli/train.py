"""`aweigh train` and `aweigh config show`: their flags are the fields of `TrainConfig`, with its help texts."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from aweigh.cli.flags import Processes, Recipe
from aweigh.cli.help import several
from aweigh.cli.processes import run_in_processes
from aweigh.cli.settings import flags_of
from aweigh.errors import UsageError
from aweigh.training.config import TrainConfig, configuration
from aweigh.training.settings import to_toml

GROUPS = {
    "data": "Data and model",
    "epochs": "Run",
    "optimizer": "Optimiser",
    "short": "Images",
    "eval_every": "Validation",
}
FIRST = (
    "classes", "val_split", "model", "init", "output", "epochs", "batch", "device", "lr", "short", "long", "flip",
    "patience",
)  # fmt: skip


if TYPE_CHECKING:
    Flags = Any
else:
    Flags = flags_of(TrainConfig, GROUPS, FIRST)
NO_FLAGS: Any = Flags()

config_app = several("config", "Show the configuration a training run would have.", "config show")


def command(
    data: str | None = None,
    /,
    *,
    recipe: Recipe = "",
    processes: Processes = 1,
    flags: Flags = NO_FLAGS,
) -> int:
    """Train a detector on a folder of labelled images (COCO, VOC, YOLO, KITTI and more).

    Nothing has to be said about the classes: they come from the data. What is wrong with the data is listed, mended or
    left out. Values come from the flags, else the recipe, else the settings the detector was measured with, else the
    defaults; `aweigh config show` prints them. Ctrl-C stops; `aweigh resume` goes on.

    Args:
        data: Folder of the data set, recognised by looking at it.
    """
    config, origin = configuration(recipe, {"data": data, **asdict(flags)})
    if not (config.data or config.annotations):
        raise UsageError(
            "Name the folder of the data set: aweigh train DATA. `aweigh data synth OUT` makes one to try."
        )
    if processes != 1:
        return run_in_processes(processes)
    from aweigh.training.train import train

    train(config, origin)
    return 0


@config_app.command(name="show")
def show(data: str | None = None, /, *, recipe: Recipe = "", flags: Flags = NO_FLAGS) -> None:
    """Print every value a training run would have, and where it comes from: a flag, the recipe, the recipe that
    the detector was measured with, or the default.

    Takes the arguments of `aweigh train` and prints a recipe that gives the same run.

    Args:
        data: Folder of the data set.
    """
    print(to_toml(*configuration(recipe, {"data": data, **asdict(flags)})), end="")
