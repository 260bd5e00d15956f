"""The configuration of a backbone's training on classes: defaults < TOML recipe < command line, as for detectors.

The defaults of everything that decides what is learned are the paper's (ShuffleNet V2, trained as ShuffleNet V1 was;
the numbers stand in the authors' code), but for the length of the run. This file imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from aweigh.arguments import Norm, NotNegative, Share, Within, check_value
from aweigh.errors import UsageError
from aweigh.training.recipes import check_length
from aweigh.training.settings import Whole, WholeAbove0, check_ranges, put_together

LEAST_SIZE = 64  # pixels: from here on the last maps have 2 x 2 cells, which batch statistics of one image need


@dataclass(frozen=True)
class ClassifyConfig:
    """Everything the training of a backbone is decided by. The learning rate is stated for `lr_batch` images."""

    data: str = ""
    """Folder with train/CLASS/pictures and, if validation is not to be split off, val/CLASS/pictures."""
    network: str = ""
    """Network by name, as densenet_small_x0_5 (a wrong name lists all); ShuffleNet V2 of `width` when not given."""
    width: NotNegative = 1.0
    """Width of ShuffleNet V2, where no network is named: 0.5, 1.0, 1.5 or 2.0."""
    activation: Literal["relu", "leaky_relu"] = "relu"
    """Activation of ShuffleNet V2; the other networks have their own."""
    norm: str = ""
    """Normalisation: bn, gn, gn_16, gn_of_16, ln or in, as a detector's; the network's own when not given."""
    init: str = ""
    """File with weights of the backbone to start from; random when not given."""
    output: str = ""
    """Run folder; runs/FOLDER-NETWORK, numbered, when not given."""

    epochs: WholeAbove0 = 30
    """Passes over the training images."""
    iterations: Whole = 0
    """Steps of the whole run; replaces epochs when above 0."""
    batch: WholeAbove0 = 64
    """Images per step."""
    workers: int = -1
    """Processes that read images; 0 reads in the training process, -1 chooses by device and cores."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Number format of the forward pass; auto is bf16 on a GPU that has it, else float32."""
    seed: Whole = 0
    """Seed of weights, order and augmentation."""

    lr: NotNegative = 0.5
    """Learning rate, stated for lr_batch images per step; it falls linearly to 0."""
    lr_batch: Whole = 1024
    """Images per step that lr is stated for; lr is scaled to the real number. 0: not scaled."""
    momentum: Share = 0.9
    """Momentum of SGD."""
    weight_decay: NotNegative = 4e-5
    """Weight decay of weights; normalisation layers and biases have none."""
    label_smoothing: Share = 0.1
    """Share of the target that is spread over all classes."""
    statistics: Whole = 0
    """Batches of the pass that measures batch statistics anew at the end; 0 is one pass over the training images."""

    size: Annotated[int, Within(LEAST_SIZE)] = 224
    """Side of the square input in pixels. Validation cuts it from the middle of images 256 / 224 as large."""
    least_area: Share = 0.08
    """Least share of an image's area that a random crop has."""
    color: NotNegative = 0.4
    """Strength of random brightness, contrast and saturation."""
    flip: Share = 0.5
    """Probability of mirroring left to right; 0 where left and right matter."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.norm:
            check_value("norm", self.norm, Norm)
        if self.network and self.width != 1.0:
            raise UsageError(
                f"network = {self.network!r} and width = {self.width}: a network has its width in its name; leave one "
                "of the two out."
            )


def resolve(
    recipe: Mapping[str, Any] | None, overrides: Mapping[str, Any], *, recipe_name: str = "recipe"
) -> ClassifyConfig:
    """The configuration of a recipe's values and those of the command line, where `None` means "not given"."""
    given = {name: value for name, value in overrides.items() if value is not None}
    check_length(recipe or {}, given, recipe_name)
    return put_together(ClassifyConfig, (recipe_name, recipe or {}), ("command line", given))[0]
