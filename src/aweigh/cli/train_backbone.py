"""`aweigh train-backbone`: train a backbone on images sorted into folders by class.

Its flags are the fields of `ClassifyConfig`, with its help texts.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from aweigh.cli.flags import Recipe
from aweigh.cli.settings import flags_of
from aweigh.errors import UsageError
from aweigh.training.backbone.config import ClassifyConfig, resolve
from aweigh.training.recipes import find_recipe
from aweigh.training.settings import load_recipe

GROUPS = {"network": "Network", "epochs": "Run", "lr": "Optimiser", "size": "Images"}
FIRST = ("network", "width", "init", "output", "epochs", "batch", "workers", "device", "precision", "lr", "size")

if TYPE_CHECKING:
    Flags = Any
else:
    Flags = flags_of(ClassifyConfig, GROUPS, FIRST)
NO_FLAGS: Any = Flags()


def command(
    data: str | None = None,
    /,
    *,
    recipe: Recipe = "",
    resume: Annotated[str, Parameter(show_default=False)] = "",
    flags: Flags = NO_FLAGS,
) -> None:
    """Train a ShuffleNet V2, or a network it is compared with, to tell classes apart, to start detectors from.

    The classes are the folders. The result, weights.safetensors, is what aweigh train --backbone-weights takes.
    Images that cannot be read are named and skipped. Values come from the flags, else the recipe, else the paper.

    Args:
        data: Folder with train/CLASS/pictures and val/CLASS/pictures; without val a tenth of each class is set aside.
        resume: Go on with the run in this folder, from its last finished epoch.
    """
    if resume:
        if data is not None or recipe or flags != NO_FLAGS:
            raise UsageError("--resume goes on with the values of the run; give nothing else.")
        config = ClassifyConfig()
    else:
        values = load_recipe(ClassifyConfig, find_recipe(recipe)) if recipe else None
        config = resolve(values, {"data": data, **asdict(flags)})
        if not config.data:
            raise UsageError("Name the folder of the images: aweigh train-backbone FOLDER, with FOLDER/train/CLASS/.")
    from aweigh.training.backbone.classify import train_classifier

    train_classifier(config, resume=resume or None)
