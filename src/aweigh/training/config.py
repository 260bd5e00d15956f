"""What the training of a detector is decided by: defaults < the recipe that the detector was measured with < TOML
recipe < command line. This file imports no torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aweigh.arguments import Norm, NotNegative, Positive, Precision, Share, check_value
from aweigh.catalogue import DEFAULT_MODEL
from aweigh.errors import UsageError, did_you_mean
from aweigh.evaluation.metrics import METRICS, NUMBERS, NUMBERS_OF_CLASS, VALIDATED
from aweigh.geometry.tiles import OVERLAP, Tiles
from aweigh.training.recipes import MEASURED, check_length, find_recipe, from_this_start, packaged_recipes
from aweigh.training.settings import Whole, WholeAbove0, check_ranges, load_recipe, load_run, put_together


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run is decided by. Learning rates are stated for `lr_batch` images and scaled."""

    data: str = ""
    """Folder of the data set, in any layout that is read: COCO, VOC, YOLO, KITTI and more."""
    annotations: str = ""
    """COCO file of the training images, when the folder is no known layout; validation is then split off."""
    images: str = ""
    """Image folder that goes with --annotations."""
    classes: tuple[str, ...] = ()
    """Names of the classes to learn; all classes of the data when not given."""
    proposals_file: str = ""
    """File of proposals for the training images, for a detector that proposes none itself (Fast R-CNN); see `aweigh
    proposals`."""
    val_proposals_file: str = ""
    """The same for the split that is validated on; proposals_file when not given."""
    val_split: str = "auto"
    """Split to validate on: a name, none, or auto (val, else valid, else a tenth of the training images)."""
    model: str = DEFAULT_MODEL
    """Name of the detector; `aweigh models` lists them. The default starts from weights that come with aweigh."""
    arguments: tuple[str, ...] = ()
    """Options of the detector's builder, each as name=value, for example channels=128."""
    init: str = ""
    """Start of the same detector: a checkpoint, box (comes with aweigh; the default where there is one) or none."""
    backbone_weights: str = "none"
    """Start of the backbone: a weight file, imagenet (downloads the published file) or none."""
    frozen_stages: int = -1
    """Stages of the backbone that stay as loaded; -1 leaves it to the detector."""
    backbone_norm: str = ""
    """Normalisation of the backbone: bn, sync_bn, frozen_bn, gn, gn_16, gn_of_16, ln or in; the detector's own when not
    given."""
    output: str = ""
    """Run folder; runs/DATA-MODEL, numbered, when not given."""
    resume: str = ""
    """Run folder to go on with, from the last state it saved."""
    licence: str = ""
    """Licence of the trained weights, written into the checkpoints."""

    epochs: WholeAbove0 = 30
    """Passes over the training images."""
    iterations: Whole = 0
    """Optimiser steps of the whole run; replaces epochs when above 0."""
    batch: WholeAbove0 | Literal["auto"] = 8
    """Images per step of one process; auto finds the largest that fits, by trying the worst images of the data."""
    accumulate: WholeAbove0 = 1
    """Batches whose gradients are added before each optimiser step."""
    workers: int = -1
    """Processes that read images; 0 reads in the training process, -1 chooses by device and cores."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, mps."""
    seed: int = 0
    """Seed of weights, order and augmentation; the same seed on the same CPU gives the same losses."""
    precision: Precision = "auto"
    """Number format of the network's forward pass: float32, bf16, float16; auto is bf16 on a GPU that has it, else
    float32."""
    channels_last: bool = True
    """Keep images as [B, H, W, 3] in memory, which is faster for convolutions."""
    compile: bool = False
    """Compile the network with torch.compile, once for all image sizes."""
    deterministic: bool = False
    """Allow only algorithms that give the same bits again; on a GPU slower, and an error where there is none."""
    save_every: Whole = 0
    """Steps between saved states of the run, beside the end of each epoch; 0 saves every ten minutes."""
    max_bad: Share = 0.01
    """Share of images that may turn out to be unreadable before the run stops."""
    strict: bool = False
    """Refuse to train on data with problems, instead of mending or leaving them out."""
    tensorboard: bool = False
    """Also write the log for TensorBoard (needs aweigh[track])."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd (with momentum) or adamw."""
    lr: Positive = 0.01
    """Learning rate, stated for lr_batch images per step."""
    lr_batch: Whole = 16
    """Images per step that lr is stated for; lr is scaled to the real number. 0: not scaled."""
    momentum: Share = 0.9
    """Momentum of sgd, beta1 of adamw."""
    weight_decay: NotNegative = 1e-4
    """Weight decay of weights."""
    norm_weight_decay: NotNegative = 0.0
    """Weight decay of the weights of normalisation layers."""
    bias_lr: NotNegative = 2.0
    """Factor on the learning rate of biases."""
    bias_weight_decay: NotNegative = 0.0
    """Weight decay of biases."""
    backbone_lr: NotNegative = 1.0
    """Factor on the learning rate of the backbone."""
    schedule: Literal["step", "cosine", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    steps: tuple[float, ...] = (2 / 3, 8 / 9)
    """Where schedule step multiplies by gamma: fractions of the run (up to 1), else epochs or iterations."""
    gamma: Share = 0.1
    """Factor of each step of schedule step."""
    final_lr: Share = 0.0
    """Fraction of lr that schedule cosine ends at."""
    schedule_steps: Whole = 0
    """Steps the schedule is laid out for, after which lr stays as it is; 0 is the whole run."""
    warmup: Whole = 500
    """Steps of warm-up; never more than a tenth of the run."""
    warmup_factor: Share = 1 / 3
    """Factor on lr where the warm-up begins."""
    warmup_kind: Literal["linear", "constant"] = "linear"
    """linear rises to lr; constant stays at warmup_factor until the warm-up ends."""
    clip: NotNegative = 10.0
    """Largest norm of all gradients together; 0 does not clip."""
    ema: Share = 0.0
    """Decay of the moving average of the weights that is evaluated and saved (0.999 for short runs); 0 is off."""

    short: Whole = 0
    """Short side of the resized image in pixels; 0 makes the long side `long` exactly."""
    long: Whole = 416
    """Limit of the long side of the resized image (its size where short is 0); 0 is no limit."""
    tile: Whole = 0
    """Train on squares of so many pixels of the images, as 640, for small objects in large images; 0: whole images."""
    overlap: Share = OVERLAP
    """How much of a tile the next one sees as well, of its side."""
    empty_tiles: Share = 0.25
    """Share of the tiles of an epoch that show no object, drawn anew for each; 1 takes all there are."""
    min_visible: Share = 0.25
    """Share of an object that a tile, a crop or a mosaic has to leave in sight; with less it is neither found nor
    background."""
    aug: Literal["on", "none"] = "on"
    """none turns every random change of the images off, whatever the settings below say."""
    multi_scale: tuple[int, ...] = ()
    """Short sides drawn from while training: two are a range, several a list; `long` stays the limit."""
    flip: Share = 0.5
    """Probability of mirroring left to right; 0 where left and right matter."""
    flip_pairs: tuple[str, ...] = ()
    """Classes or keypoints that change places in a flip, as left_hand=right_hand; found by name when not given,
    none for no pair."""
    scale_jitter: tuple[float, ...] = ()
    """Range of a random scale factor, as 0.8 1.25; 0.1 2 is large-scale jitter."""
    crop: Share = 0.0
    """Probability of a random crop."""
    affine_crop: tuple[float, ...] = ()
    """Shares of the longer side, of which one is drawn: the side of a square that is cut out round a random point."""
    object_crop: Whole = 0
    """Side in pixels of a square that is cut out round one object, in place of the resize (CornerNet-Saccade: 255)."""
    color: NotNegative = 0.0
    """Strength of random brightness, contrast and colour."""
    shuffled_color: Share = 0.0
    """Largest change of brightness, contrast and saturation, made in random order (CenterNet: 0.4)."""
    lighting: NotNegative = 0.0
    """Standard deviation of a shift along the principal colours (CenterNet: 0.1)."""
    mosaic: Share = 0.0
    """Probability of putting four training images together into one."""
    mixup: Share = 0.0
    """Probability of blending in a second training image."""
    copy_paste: Share = 0.0
    """Probability of pasting objects of another image in; cut along their masks where there are any."""
    close_mixing: Share = 0.1
    """Last part of the run without mosaic, mixup and copy_paste, as a fraction."""
    sampler: Literal["uniform", "repeat_factor", "class_aware"] = "uniform"
    """How often an image is drawn: all alike, repeated by its rarest class, or each class alike."""
    repeat_threshold: Share = 0.001
    """Share of images below which sampler repeat_factor repeats a class."""
    class_draws: tuple[str, ...] = ()
    """Weights of sampler class_aware by class name, as truck=3; 1 for the others."""
    empty: Literal["keep", "drop", "background"] = "keep"
    """Images without objects: keep those said to be empty, drop all, or take unlabelled ones for background too."""

    eval_every: WholeAbove0 = 1
    """Epochs between validations; the last epoch is always validated."""
    patience: Whole = 0
    """Epochs without a better validation after which the run stops; 0 never does."""
    select: str = ""
    """What makes a checkpoint the best: AP, AP50, val_loss, AP:CLASS, mask_AP, ...; not given, AP of what is found."""
    keypoint_sigmas: tuple[float, ...] = ()
    """How loosely each keypoint is placed, as a share of the object; not given, COCO's for its persons, else 0.05."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.short == 0 and self.long == 0:
            raise UsageError("short = 0 and long = 0: give at least one of the two, they say how images are resized.")
        if self.scale_jitter and (len(self.scale_jitter) != 2 or not 0 < self.scale_jitter[0] <= self.scale_jitter[1]):
            raise UsageError(f"scale_jitter = {list(self.scale_jitter)}: expected two factors, as [0.8, 1.25].")
        if min(self.multi_scale, default=1) < 1:
            raise UsageError(f"multi_scale = {list(self.multi_scale)}: expected short sides in pixels, as [640, 800].")
        if not all(0 < share < math.inf for share in self.affine_crop):
            raise UsageError(
                f"affine_crop = {list(self.affine_crop)}: expected shares above 0, as [0.6, 0.8, 1.0, 1.2]."
            )
        if not all(0 < sigma < math.inf for sigma in self.keypoint_sigmas):
            raise UsageError(
                f"keypoint_sigmas = {list(self.keypoint_sigmas)}: expected numbers above 0, one a keypoint."
            )
        if self.backbone_norm:
            check_value("backbone_norm", self.backbone_norm, Norm)
        if not self.tile and self.overlap != OVERLAP:
            raise UsageError(f"overlap = {self.overlap:g} goes with a tile; give one, or leave overlap out.")
        _ = self.tiles  # made once, so that what is wrong with it is said here
        self._check_select()

    @property
    def tiles(self) -> Tiles | None:
        """In which images are trained on and validated; None for whole ones."""
        return Tiles(self.tile, self.overlap) if self.tile else None

    def _check_select(self) -> None:
        if not self.select:
            return
        name, colon, class_name = self.select.partition(":")
        known = (*NUMBERS, "val_loss")
        if (name not in NUMBERS_OF_CLASS or not class_name) if colon else name not in known:
            of_boxes = ", ".join((*METRICS["boxes"].numbers, "val_loss"))
            prefixes = ", ".join(metric.prefix for metric in VALIDATED.values() if metric.prefix)
            raise UsageError(
                f"select = {self.select!r}: expected one of {of_boxes}, AP:CLASS or AP50:CLASS, or an AP of these "
                f"after {prefixes}." + did_you_mean(name, known)
            )


def configuration(recipe: str, given: Mapping[str, Any]) -> tuple[TrainConfig, dict[str, str]]:
    """`resolve` with the recipe of a file, or one that comes with the package; "" is none."""
    values = load_recipe(TrainConfig, find_recipe(recipe)) if recipe else None
    return resolve(values, given, recipe_name=f"recipe {recipe}")


def resolve(
    recipe: Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None, *, recipe_name: str = "recipe"
) -> tuple[TrainConfig, dict[str, str]]:
    """The configuration and, for each field, where its value came from: `default`, the recipe that the detector was
    measured with, `recipe_name`, `command line`; the later goes before the earlier.

    recipe: what `load_recipe` returned. overrides: values of the command line; `None` means "not given". With
    `resume` among the overrides and no recipe, the written configuration of that run is the recipe.
    """
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    resumed = bool(given.get("resume")) and recipe is None
    if resumed:
        recipe_name = str(Path(given["resume"]) / "config.toml")
        recipe = load_run(TrainConfig, given["resume"])
    chosen = {**(recipe or {}), **given}
    check_length(recipe or {}, given, recipe_name, resumed=resumed)
    own_name = "" if resumed else MEASURED.get(chosen.get("model", DEFAULT_MODEL), "")
    own = from_this_start(load_recipe(TrainConfig, packaged_recipes()[own_name]), chosen) if own_name else {}
    sources = ((f"recipe {own_name} of the model", own), (recipe_name, recipe or {}), ("command line", given))
    config, origin = put_together(TrainConfig, *sources)
    if "model" not in chosen:
        origin["model"] = "default"
    return config, origin
