"""`aweigh train-backbone`: train a ShuffleNet V2 on pictures sorted into folders by class."""

from typing import Annotated, Literal

from cyclopts import Parameter

from aweigh.errors import UsageError
from aweigh.training.recipes import find_recipe

Unset = Parameter(show_default=False)


def command(
    data: str | None = None,
    /,
    *,
    recipe: Annotated[str, Parameter(alias="-r", show_default=False)] = "",
    resume: Annotated[str, Unset] = "",
    width: Annotated[float | None, Unset] = None,
    activation: Annotated[Literal["relu", "leaky_relu"] | None, Unset] = None,
    init: Annotated[str | None, Unset] = None,
    epochs: Annotated[int | None, Unset] = None,
    iterations: Annotated[int | None, Unset] = None,
    batch: Annotated[int | None, Unset] = None,
    size: Annotated[int | None, Unset] = None,
    lr: Annotated[float | None, Unset] = None,
    least_area: Annotated[float | None, Unset] = None,
    flip: Annotated[float | None, Unset] = None,
    workers: Annotated[int | None, Unset] = None,
    device: Annotated[str | None, Unset] = None,
    seed: Annotated[int | None, Unset] = None,
    output: Annotated[str | None, Parameter(alias="-o", show_default=False)] = None,
) -> None:
    """Train a ShuffleNet V2 to tell classes apart, to start detectors from.

    The classes are the folders. The result, weights.safetensors, is what aweigh train --backbone-weights takes.
    Pictures that cannot be read are named and skipped. Values come from the flags, else the recipe, else the paper.

    Parameters
    ----------
    data
        Folder with train/CLASS/pictures and val/CLASS/pictures; without val a tenth of each class is set aside.
    recipe
        Start from these values: the path of a TOML file, or shufflenet_v2_imagenet, which comes with aweigh.
    resume
        Go on with the run in this folder, from its last finished epoch.
    width
        Width of the network: 0.5, 1.0 (default), 1.5 or 2.0.
    activation
        relu (default) or leaky_relu.
    init
        File with weights of the body to start from; random when not given.
    epochs
        Passes over the training pictures (default 30).
    iterations
        Steps of the whole run; replaces epochs.
    batch
        Pictures per step (default 64).
    size
        Side of the square input in pixels (default 224).
    lr
        Learning rate for 1024 pictures per step (default 0.5); it is scaled to the real number and falls linearly to 0.
    least_area
        Least share of a picture's area that a random crop has (default 0.08).
    flip
        Probability of mirroring left to right (default 0.5); 0 where left and right matter.
    workers
        Processes that read pictures (default: by device and cores).
    device
        auto (default), cpu, cuda, cuda:1 or mps.
    seed
        Seed of weights, order and augmentation (default 0).
    output
        Run folder; runs/FOLDER-shufflenet_v2_xW, numbered, when not given.
    """
    from aweigh.training.backbone.config import ClassifyConfig, configure, read_recipe

    given = {
        "data": data,
        "width": width,
        "activation": activation,
        "init": init,
        "epochs": epochs,
        "iterations": iterations,
        "batch": batch,
        "size": size,
        "lr": lr,
        "least_area": least_area,
        "flip": flip,
        "workers": workers,
        "device": device,
        "seed": seed,
        "output": output,
    }
    if resume:
        if recipe or any(value is not None for value in given.values()):
            raise UsageError("--resume goes on with the values of the run; give nothing else.")
        config = ClassifyConfig()
    else:
        config = configure(read_recipe(find_recipe(recipe)) if recipe else None, given)
        if not config.data:
            raise UsageError("Name the folder of the pictures: aweigh train-backbone FOLDER, with FOLDER/train/CLASS/.")
    from aweigh.training.backbone.classify import train_classifier

    train_classifier(config, resume=resume or None)
