"""From a configuration to everything a run needs before its first step: data, model, optimiser, schedule."""

import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from aweigh import distributed
from aweigh.annotations.flip_pairs import flip_pairs
from aweigh.annotations.problems import Problem
from aweigh.annotations.split import Split
from aweigh.arguments import check_arguments, given_by_name
from aweigh.checkpoints.checkpoint import start_from
from aweigh.errors import DataError, UsageError, did_you_mean
from aweigh.feeding.dataset import DetectionDataset
from aweigh.feeding.loader import make_loader
from aweigh.feeding.mixing import epochs_with_mixing
from aweigh.feeding.sampling import Sampling
from aweigh.feeding.tiles import TileRows
from aweigh.feeding.transforms import Augmentation, Transform
from aweigh.files import numbered
from aweigh.geometry.tiles import Tiles, check_tiles
from aweigh.images.resize import Resize
from aweigh.inference.detect import mean_colour
from aweigh.inference.device import How, choose_device, choose_precision
from aweigh.inference.measure import choose_select
from aweigh.inference.supervision import check_taught, keypoint_set, supervision, takes_keypoints
from aweigh.models import DETECTORS, PUBLISHED, create
from aweigh.models.detector import Detector
from aweigh.training.batch_size import find_batch
from aweigh.training.config import TrainConfig
from aweigh.training.data import Data, held_out_by, load_data, with_proposals
from aweigh.training.optim import ModelEma, Schedule, make_optimizer, parameter_groups


@dataclass
class Run:
    """A run: first what stays as it is, then what changes with every step or epoch and is saved for `resume`."""

    config: TrainConfig
    folder: Path
    how: How
    data: Data
    resize: Resize
    transform: Transform
    sampling: Sampling
    train_set: DetectionDataset
    val_tiles: TileRows | None  # of the validation images, where they are looked at in tiles
    loader: Any
    workers: int
    start_note: str  # what the weights start from
    select: str  # the number that makes a checkpoint the best
    batch: int  # images per step of one process
    batch_note: str  # how it was found, where it was
    schedule: Schedule

    model: Detector
    ema: ModelEma | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    epoch: int = 0  # finished epochs
    batches: int = 0  # batches done of the epoch under way
    step: int = 0  # optimiser steps done, skipped ones too
    best: float = -math.inf
    best_epoch: int = 0
    epochs_without_gain: int = 0
    skipped: int = 0
    bad_in_a_row: int = 0
    bad_images: list[str] = field(default_factory=list)
    val_problems: list[Problem] = field(default_factory=list)
    unread: list[int] = field(default_factory=list)  # rows of the validation split that could not be read
    told: set[str] = field(default_factory=set)  # problems of reading the user has been told of

    @property
    def device(self) -> torch.device:
        return self.how.device

    @property
    def evaluated_model(self) -> Detector:
        """The weights that are evaluated and saved: the moving average where there is one."""
        return self.ema.model if self.ema is not None else self.model

    @property
    def finished(self) -> bool:
        return self.epoch >= self.schedule.epochs

    @property
    def out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.epochs_without_gain


def prepare(config: TrainConfig, folder: Path, *, device_name: str | None = None) -> Run:
    """Load the data, build the model and all around it. Writes nothing.

    device_name: the device of this process, where that is decided by the launcher; else that of the configuration.
    """
    device = choose_device(device_name or config.device)
    how = How(device, choose_precision(config.precision, device), config.channels_last)
    builder_arguments(config)  # what is wrong there is said before the data are read
    data = load_data(config, held_out_by(folder) if config.resume else None)
    if len(data.train.boxes) == 0:
        raise DataError(f"{data.train.root}: the training images have no boxes at all; there is nothing to learn.")

    torch.manual_seed(config.seed)
    model, start_note = build_model(config, data.train)
    if config.tiles is not None:
        check_tiles(config.model, model.extras, needs_proposals=model.needs_proposals)
    data = with_proposals(config, data, needed=model.needs_proposals)
    check_taught(model, data.train, data.val)
    select = choose_select(config.select, model, data.val)
    model = model.to(device, memory_format=how.memory_format)
    optimizer = _optimizer(config, model)

    resize = Resize(short=config.short or None, long=config.long or None)
    sampling = Sampling(config.sampler, config.repeat_threshold, config.class_draws, config.empty_tiles)
    transform = Transform(resize, augmentation(config, data.train), config.tile)
    tiles = None if config.tiles is None else training_tiles(config, config.tiles, data.train)
    draws = sampling.draws(data.train) if tiles is None else sampling.draws_of_tiles(tiles, data.train.classes.names)
    train_set = DetectionDataset(
        data.train, transform, seed=config.seed, draws=draws, tiles=tiles, **supervision(model)
    )
    val_tiles = None
    if config.tiles is not None and data.val is not None:
        val_tiles = TileRows.of(data.val, config.tiles, min_visible=config.min_visible)
    batch, batch_note = config.batch, ""
    if batch == "auto":
        most, batch_note = find_batch(model, optimizer, train_set, how)
        batch = -int(distributed.reduced([-most], largest=True)[0])
        config = replace(config, batch=batch)
    workers = choose_workers(config.workers, device)
    loader = _loader(config, train_set, model, batch=min(batch, len(train_set)), workers=workers, device=device)
    images = batch * config.accumulate * distributed.world_size()
    schedule = Schedule(config, images, steps_per_epoch=math.ceil(len(loader) / config.accumulate))
    train_set.mixing_until_epoch = epochs_with_mixing(schedule.epochs, config.close_mixing)
    torch.manual_seed(config.seed + distributed.rank())
    return Run(
        config=config,
        folder=folder,
        how=how,
        data=data,
        resize=resize,
        transform=transform,
        sampling=sampling,
        train_set=train_set,
        val_tiles=val_tiles,
        loader=loader,
        workers=workers,
        start_note=start_note,
        select=select,
        batch=batch,
        batch_note=batch_note,
        schedule=schedule,
        model=model,
        ema=ModelEma(model, config.ema) if config.ema > 0 else None,
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(device.type, enabled=how.precision == torch.float16),
    )


def training_tiles(config: TrainConfig, tiles: Tiles, train: Split) -> TileRows:
    """The tiles of the training images that teach something; `DataError` where none shows an object."""
    rows = TileRows.of(train, tiles, min_visible=config.min_visible).teaching(train)
    if not rows.shows.any():
        raise DataError(
            f"{train.root}: no tile of {tiles.side} x {tiles.side} pixels shows {config.min_visible:.0%} of an object; "
            "choose a larger tile, or a smaller min_visible."
        )
    return rows


def _optimizer(config: TrainConfig, model: Detector) -> torch.optim.Optimizer:
    groups = parameter_groups(
        model,
        weight_decay=config.weight_decay,
        norm_weight_decay=config.norm_weight_decay,
        bias_lr=config.bias_lr,
        bias_weight_decay=config.bias_weight_decay,
        backbone_lr=config.backbone_lr,
    )
    return make_optimizer(groups, kind=config.optimizer, lr=config.lr, momentum=config.momentum)


def _loader(
    config: TrainConfig, train_set: DetectionDataset, model: Detector, *, batch: int, workers: int, device: torch.device
) -> Any:
    """The batches of this process, in the order of each epoch."""
    return make_loader(
        train_set,
        batch=batch,
        shuffle=True,
        seed=config.seed,
        workers=workers,
        stride_divisor=model.stride_divisor,
        fill=mean_colour(model),
        pin_memory=device.type == "cuda",
        device=device,
        max_bad=0.0 if config.strict else config.max_bad,
        rank=distributed.rank(),
        world=distributed.world_size(),
    )


def run_folder(config: TrainConfig) -> Path:
    """The folder the run writes into; a folder that holds another run is refused, unless it is resumed."""
    if config.resume:
        return Path(config.resume)
    if config.output:
        folder = Path(config.output)
        if (folder / "config.toml").exists():
            raise UsageError(f"{folder} holds a run already; give another output, or go on: aweigh resume {folder}.")
        return folder
    source = Path(config.data or config.annotations)
    return numbered(Path("runs") / f"{source.resolve().stem or 'data'}-{config.model}")


def build_model(config: TrainConfig, train: Split) -> tuple[Detector, str]:
    """The detector of the data's classes and keypoints with its start weights, and one line on what those are."""
    arguments = builder_arguments(config)
    if takes_keypoints(config.model):
        arguments["keypoints"] = keypoint_set(
            config.model,
            train,
            arguments.get("keypoints"),
            flipped=config.flip_pairs,
            sigmas=config.keypoint_sigmas,
        ).to_dict()
    backbone = config.backbone_weights if config.backbone_weights not in ("", "none") else None
    init = config.init or (packaged(config.model) if backbone is None else "none")
    if init != "none" and backbone:
        raise UsageError("init and backbone_weights are both given; a checkpoint brings its own backbone.")
    model: Detector = create(config.model, classes=train.classes, backbone_weights=backbone, **arguments)
    if init != "none":
        source = (config.model, init) if init in PUBLISHED.get(config.model, {}) else (init, "")
        try:
            return model, f"start: {init}: {start_from(model, *source)}"
        except UsageError as error:
            raise UsageError(f"{error} init = none starts from random weights.") from error
    if backbone:
        return model, f"start: backbone from {backbone}: {model.backbone_report}"
    return model, "start: random weights"


def packaged(model: str) -> str:
    """`box`, the weights that come with the package, where there are any of this detector, else `none`."""
    return "box" if "box" in PUBLISHED.get(model, {}) else "none"


def builder_arguments(config: TrainConfig) -> dict[str, Any]:
    """The builder's keyword arguments out of `arguments`, `frozen_stages` and `backbone_norm`, checked."""
    if config.model not in DETECTORS:
        raise UsageError(f"There is no model {config.model!r}.{did_you_mean(config.model, DETECTORS)}")
    arguments: dict[str, Any] = {**given_by_name(config.arguments, of="arguments", example="channels=128")}
    own: dict[str, Any] = {"frozen_stages": config.frozen_stages} if config.frozen_stages >= 0 else {}
    own |= {"backbone_norm": config.backbone_norm} if config.backbone_norm else {}
    for name in own.keys() & arguments.keys():
        raise UsageError(f"{name} is given twice: as a setting of the run and in arguments; leave one of them out.")
    arguments |= own
    return check_arguments(DETECTORS[config.model], arguments, plain=True, of=config.model)


def augmentation(config: TrainConfig, train: Split) -> Augmentation:
    """What the configuration changes in the training images; the pairs of a flip are found in the names of the data."""
    if config.aug == "none":
        return replace(Augmentation.none(), min_visible=config.min_visible)
    pairs = flip_pairs(config.flip_pairs, train.classes.names, train.keypoint_names)
    return Augmentation(
        flip=config.flip,
        short_sides=config.multi_scale,
        scale_jitter=(config.scale_jitter[0], config.scale_jitter[1]) if config.scale_jitter else None,
        crop=config.crop,
        affine_crop=config.affine_crop,
        object_crop=config.object_crop,
        color=config.color,
        shuffled_color=config.shuffled_color,
        lighting=config.lighting,
        mosaic=config.mosaic,
        copy_paste=config.copy_paste,
        min_visible=config.min_visible,
        mixup=config.mixup,
        class_pairs=pairs.classes,
        keypoint_pairs=pairs.keypoints,
    )


def choose_workers(workers: int, device: torch.device) -> int:
    """As given, else: with a GPU a worker per core up to 8; without, one that reads while the other cores compute."""
    if workers >= 0:
        return workers
    cores = os.cpu_count() or 1
    return min(8, cores) if device.type == "cuda" else int(cores > 1)
