"""The configuration of a training run: one flat, typed dataclass, filled from defaults < the recipe that the detector
was measured with < TOML recipe < command line.

`load_recipe` reads a file, `resolve` puts them together and says where every value came from, `to_toml` writes the
result into the run folder. The text under each field is its help text on the command line and in the written file.
There is no inheritance and no nesting; 0 or an empty text means "off" or "not given", so that every value can
be written in TOML. This file imports no torch.
"""

import ast
import inspect
import json
import math
import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from aweigh.errors import UsageError, check_reach, did_you_mean
from aweigh.evaluation.metrics import METRICS, NUMBERS, NUMBERS_OF_CLASS, VALIDATED
from aweigh.training.recipes import MEASURED, check_length, from_this_start, packaged_recipes
from aweigh.weights import DEFAULT_MODEL


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run is decided by. Learning rates are stated for `lr_batch` images and scaled."""

    data: str = ""
    """Folder of the data set: COCO, VOC, YOLO, KITTI, DOTA, labelme, VIA or Create ML, recognised by looking at it."""
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
    backbone_norm: Literal["", "bn", "sync_bn", "frozen_bn", "gn"] = ""
    """Normalisation of the backbone; the detector's own when not given."""
    output: str = ""
    """Run folder; runs/DATA-MODEL, numbered, when not given."""
    resume: str = ""
    """Run folder to go on with, from the last state it saved."""
    licence: str = ""
    """Licence of the trained weights, written into the checkpoints."""

    epochs: int = 30
    """Passes over the training images."""
    iterations: int = 0
    """Optimiser steps of the whole run; replaces epochs when above 0."""
    batch: int | Literal["auto"] = 8
    """Images per step of one process; auto finds the largest that fits, by trying the worst images of the data."""
    accumulate: int = 1
    """Batches whose gradients are added before each optimiser step."""
    workers: int = -1
    """Processes that read images; 0 reads in the training process, -1 chooses by device and cores."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, mps."""
    seed: int = 0
    """Seed of weights, order and augmentation; the same seed on the same CPU gives the same losses."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the network's forward pass; auto is bf16 on a GPU that has it, else fp32."""
    channels_last: bool = True
    """Keep images as [B, H, W, 3] in memory, which is faster for convolutions."""
    compile: bool = False
    """Compile the network with torch.compile, once for all image sizes."""
    deterministic: bool = False
    """Allow only algorithms that give the same bits again; on a GPU slower, and an error where there is none."""
    save_every: int = 0
    """Steps between saved states of the run, beside the end of each epoch; 0 saves every ten minutes."""
    max_bad: float = 0.01
    """Share of pictures that may turn out to be unreadable before the run stops."""
    strict: bool = False
    """Refuse to train on data with problems, instead of mending or leaving them out."""
    tensorboard: bool = False
    """Also write the log for TensorBoard (needs aweigh[track])."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd (with momentum) or adamw."""
    lr: float = 0.01
    """Learning rate, stated for lr_batch images per step."""
    lr_batch: int = 16
    """Images per step that lr is stated for; lr is scaled to the real number. 0: not scaled."""
    momentum: float = 0.9
    """Momentum of sgd, beta1 of adamw."""
    weight_decay: float = 1e-4
    """Weight decay of weights."""
    norm_weight_decay: float = 0.0
    """Weight decay of the weights of normalisation layers."""
    bias_lr: float = 2.0
    """Factor on the learning rate of biases."""
    bias_weight_decay: float = 0.0
    """Weight decay of biases."""
    backbone_lr: float = 1.0
    """Factor on the learning rate of the backbone."""
    schedule: Literal["step", "cosine", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    steps: tuple[float, ...] = (2 / 3, 8 / 9)
    """Where schedule step multiplies by gamma: fractions of the run (up to 1), else epochs or iterations."""
    gamma: float = 0.1
    """Factor of each step of schedule step."""
    final_lr: float = 0.0
    """Fraction of lr that schedule cosine ends at."""
    schedule_steps: int = 0
    """Steps the schedule is laid out for, after which lr stays as it is; 0 is the whole run."""
    warmup: int = 500
    """Steps of warm-up; never more than a tenth of the run."""
    warmup_factor: float = 1 / 3
    """Factor on lr where the warm-up begins."""
    warmup_kind: Literal["linear", "constant"] = "linear"
    """linear rises to lr; constant stays at warmup_factor until the warm-up ends."""
    clip: float = 10.0
    """Largest norm of all gradients together; 0 does not clip."""
    ema: float = 0.0
    """Decay of the moving average of the weights that is evaluated and saved (0.999 for short runs); 0 is off."""

    short: int = 0
    """Short side of the resized image in pixels; 0 makes the long side `long` exactly."""
    long: int = 416
    """Limit of the long side of the resized image (its size where short is 0); 0 is no limit."""
    aug: Literal["on", "none"] = "on"
    """none turns every random change of the images off, whatever the settings below say."""
    multi_scale: tuple[int, ...] = ()
    """Short sides drawn from while training: two are a range, several a list; `long` stays the limit."""
    flip: float = 0.5
    """Probability of mirroring left to right; 0 where left and right matter."""
    flip_pairs: tuple[str, ...] = ()
    """Classes or keypoints that change places in a flip, as left_hand=right_hand; found by name when not given,
    none for no pair."""
    scale_jitter: tuple[float, ...] = ()
    """Range of a random scale factor, as 0.8 1.25; 0.1 2 is large-scale jitter."""
    crop: float = 0.0
    """Probability of a random crop."""
    affine_crop: tuple[float, ...] = ()
    """Shares of the longer side, of which one is drawn: the side of a square that is cut out round a random point."""
    color: float = 0.0
    """Strength of random brightness, contrast and colour."""
    shuffled_color: float = 0.0
    """Largest change of brightness, contrast and saturation, made in random order (CenterNet: 0.4)."""
    lighting: float = 0.0
    """Standard deviation of a shift along the principal colours (CenterNet: 0.1)."""
    mosaic: float = 0.0
    """Probability of putting four training images together into one."""
    mixup: float = 0.0
    """Probability of blending in a second training image."""
    copy_paste: float = 0.0
    """Probability of pasting objects of another image in; cut along their masks where there are any."""
    close_mixing: float = 0.1
    """Last part of the run without mosaic, mixup and copy_paste, as a fraction."""
    sampler: Literal["uniform", "repeat_factor", "class_aware"] = "uniform"
    """How often an image is drawn: all alike, repeated by its rarest class, or each class alike."""
    repeat_threshold: float = 0.001
    """Share of images below which sampler repeat_factor repeats a class."""
    class_draws: tuple[str, ...] = ()
    """Weights of sampler class_aware by class name, as truck=3; 1 for the others."""
    empty: Literal["keep", "drop", "background"] = "keep"
    """Images without objects: keep those said to be empty, drop all, or take unlabelled ones for background too."""

    eval_every: int = 1
    """Epochs between validations; the last epoch is always validated."""
    patience: int = 0
    """Epochs without a better validation after which the run stops; 0 never does."""
    select: str = ""
    """What makes a checkpoint the best: AP, AP50, val_loss, AP:CLASS, mask_AP, ...; not given, AP of what is found."""
    keypoint_sigmas: tuple[float, ...] = ()
    """How loosely each keypoint is placed, as a share of the object; not given, COCO's for its persons, else 0.05."""

    def __post_init__(self) -> None:
        positive = {"epochs", "batch", "accumulate", "lr", "eval_every"}
        free = {"frozen_stages", "workers", "seed"}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or entry.name in free:
                continue
            if not math.isfinite(value) or value < 0 or (entry.name in positive and value == 0):
                bound = "above 0" if entry.name in positive else "0 or more"
                raise UsageError(f"{entry.name} = {value}: expected a number {bound}.")
        for entry in fields(self):
            check_reach(entry.name, getattr(self, entry.name))
        shares = ("flip", "crop", "mosaic", "mixup", "copy_paste", "close_mixing", "repeat_threshold", "max_bad")
        for name in (*shares, "shuffled_color", "momentum", "ema", "warmup_factor", "final_lr", "gamma"):
            if getattr(self, name) > 1:
                raise UsageError(f"{name} = {getattr(self, name)}: expected a number from 0 to 1.")
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
        self._check_select()

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


def load_recipe(path: str | Path) -> dict[str, Any]:
    """The values of a TOML recipe, checked: an unknown key or a wrong type is a `UsageError` that names it."""
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"The recipe {path} cannot be read: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"The recipe {path} is not valid TOML: {error}.") from error
    return {name: _checked(name, value, where=f"in {path}") for name, value in values.items()}


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
        if not Path(recipe_name).is_file():
            raise UsageError(f"{given['resume']} is no run folder to go on with: there is no {recipe_name}.")
        recipe = load_recipe(recipe_name)
    chosen = {**(recipe or {}), **given}
    check_length(recipe or {}, given, recipe_name, resumed=resumed)
    own_name = "" if resumed else MEASURED.get(chosen.get("model", DEFAULT_MODEL), "")
    own = from_this_start(load_recipe(packaged_recipes()[own_name]), chosen) if own_name else {}
    values, origin = {}, {entry.name: "default" for entry in fields(TrainConfig)}
    sources = ((own, f"recipe {own_name} of the model"), (recipe or {}, recipe_name), (given, "command line"))
    for source, name_of_source in sources:
        for name, value in source.items():
            values[name] = _checked(name, value, where=f"from the {name_of_source}")
            origin[name] = name_of_source
    if "model" not in chosen:
        origin["model"] = "default"
    return TrainConfig(**values), origin


def to_toml(config: TrainConfig, origin: Mapping[str, str] | None = None) -> str:
    """The configuration as a recipe that gives it again, each value with its origin as a comment."""
    rows = [(entry.name, _toml_value(getattr(config, entry.name))) for entry in fields(config)]
    if origin is None:
        return "".join(f"{name} = {value}\n" for name, value in rows)
    lines = [(f"{name} = {value}", origin.get(name, "default")) for name, value in rows]
    width = min(60, max(len(line) for line, _ in lines))
    return "".join(f"{line:<{width}}  # {source}\n" for line, source in lines)


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain values for JSON."""
    values = {entry.name: getattr(config, entry.name) for entry in fields(config)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@cache
def help_texts() -> dict[str, str]:
    """The help text of each field: the string that stands under it in `TrainConfig`."""
    body = ast.parse(textwrap.dedent(inspect.getsource(TrainConfig))).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for entry, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name) and isinstance(after, ast.Expr):
            texts[entry.target.id] = " ".join(str(ast.literal_eval(after.value)).split())
    return texts


def field_types() -> dict[str, Any]:
    """The type of each field, as `int`, `tuple[float, ...]` or `Literal[...]`."""
    return get_type_hints(TrainConfig)


def _checked(name: str, value: Any, *, where: str) -> Any:
    """The value in the type of the field (whole numbers become float, lists tuples), else `UsageError`."""
    types = field_types()
    if name not in types:
        raise UsageError(f"Unknown setting {name!r} {where}.{did_you_mean(name, types)}")
    expected = types[name]
    if get_origin(expected) is tuple and isinstance(value, list | tuple):
        parts = [_as_type(part, get_args(expected)[0]) for part in value]
        if None not in parts:
            return tuple(parts)
    elif (converted := _as_type(value, expected)) is not None:
        return converted
    choices = get_args(expected) if get_origin(expected) is Literal else ()
    hint = did_you_mean(value, choices) if isinstance(value, str) else ""
    raise UsageError(f"{name} = {value!r} {where}: expected {_describe(expected)}.{hint}")


def _as_type(value: Any, expected: Any) -> Any:
    """The value as `expected`, or None where it is something else."""
    if get_origin(expected) in (Union, UnionType):
        return next((found for part in get_args(expected) if (found := _as_type(value, part)) is not None), None)
    if get_origin(expected) is Literal:
        return value if value in get_args(expected) else None
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if expected is str and isinstance(value, Path):
        return str(value)
    return value if type(value) is expected else None


def _describe(expected: Any) -> str:
    if get_origin(expected) in (Union, UnionType):
        return " or ".join(_describe(part) for part in get_args(expected))
    if get_origin(expected) is Literal:
        choices = [repr(choice) for choice in get_args(expected)]
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    if get_origin(expected) is tuple:
        kind = {str: "texts", int: "whole numbers", float: "numbers"}[get_args(expected)[0]]
        return f"a list of {kind}"
    return {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}[expected]


def _toml_value(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml_value(part) for part in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)
