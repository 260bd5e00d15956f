"""Training of a backbone on classes, as the paper of ShuffleNet V2 does it on ImageNet.

`train_classifier` is the whole run; `train_epoch` one pass over the images; `evaluate` the accuracy. SGD with
momentum, a rate that falls linearly to 0, smoothed labels; at the end batch statistics are measured anew as plain means
over many batches (the authors' "bnps"). One process. The weights have the names of the backbone (of ShuffleNet V2:
torchvision's), so that `aweigh train --backbone-weights` takes them.

The state is saved at the end of each epoch. A run that was stopped goes on from there and ends, on a CPU, with the very
weights of one that was not.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from aweigh.backbones.classifier import Network, classifier, network
from aweigh.backbones.shufflenet_v2 import BUILDERS, ShuffleNetV2
from aweigh.checkpoints.checkpoint import below, load_state, plain, save_state
from aweigh.console import SafeConsole
from aweigh.errors import AweighError, DataError, UsageError, counted, lost_worker
from aweigh.files import atomic_file, numbered, remove_leftovers, write_text
from aweigh.inference.device import How, choose_device, choose_precision
from aweigh.inference.meters import Means
from aweigh.lock import hold
from aweigh.training.backbone.class_folders import (
    ClassFolders,
    LabelledBatch,
    epoch_batches,
    load_batches,
    read_class_folders,
    training_transform,
    validation_transform,
)
from aweigh.training.backbone.config import ClassifyConfig
from aweigh.training.optim import make_optimizer, parameter_groups, set_lr
from aweigh.training.prepare import choose_workers
from aweigh.training.settings import load_run, to_toml
from aweigh.visualise.charts import curves
from aweigh.weights.load import load_backbone

WEIGHTS = "weights.safetensors"


@dataclass
class ClassifierRun:
    """Everything of one run. body: the part of the model that is kept. rows: of the log, one for each epoch.
    told: unreadable images that were named. progress: is told the steps that are done and all there are."""

    config: ClassifyConfig
    body: Network
    folder: Path
    data: ClassFolders
    model: nn.Sequential
    optimizer: torch.optim.Optimizer
    how: How
    workers: int
    console: Console
    epoch: int = 0
    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    told: set[str] = field(default_factory=set)
    progress: Callable[[int, int], object] = lambda done, total: None

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.data.train) // self.config.batch)

    @property
    def total_steps(self) -> int:
        return self.config.iterations or self.config.epochs * self.steps_per_epoch

    @property
    def lr(self) -> float:
        """The rate at the first step: `config.lr`, scaled by the images of a step (Goyal et al. 2017)."""
        return self.config.lr * (self.config.batch / self.config.lr_batch if self.config.lr_batch else 1.0)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def train_classifier(
    config: ClassifyConfig,
    *,
    resume: str | Path | None = None,
    console: Console | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Path:
    """Train and return the run folder: `config.toml`, `weights.safetensors`, `log.jsonl`, `curves.png`, `last/`.

    resume: the folder of a run that goes on with the configuration it has; `config` is then not used. progress: called
    after each step with the steps that are done and all there are.
    """
    if resume is not None:
        config = replace(ClassifyConfig(**load_run(ClassifyConfig, resume)), output=str(resume))
    run = prepare(config, new=resume is None, console=console or SafeConsole(stderr=True))
    run.progress = progress
    with hold(run.folder) as remark:
        if remark:
            run.say(remark)
        if resume is None and (run.folder / "config.toml").exists():
            raise UsageError(f"{run.folder} holds a run that has begun meanwhile; give another output.")
        try:
            _train(run, resumed=resume is not None)
        except RuntimeError as error:
            if not lost_worker(error):
                raise
            raise AweighError(
                f"A process that reads images is gone ({' '.join(str(error).split())}); where memory was short, give "
                f"fewer --workers. To go on from the last epoch: aweigh train-backbone --resume {run.folder}"
            ) from error
    return run.folder


def _train(run: ClassifierRun, *, resumed: bool) -> None:
    remove_leftovers(run.folder)
    if resumed:
        restore(run)
    else:
        write_text(run.folder / "config.toml", to_toml(run.config))
    for line in describe(run):
        run.say(line)
    try:
        while run.step < run.total_steps:
            train_and_evaluate(run)
        finish(run)
    except KeyboardInterrupt:
        run.say(f"Stopped. To go on from the last epoch: aweigh train-backbone --resume {run.folder}")
        raise


def prepare(config: ClassifyConfig, *, new: bool, console: Console) -> ClassifierRun:
    """All that is decided before the first step. new: the run folder must not hold a run."""
    device = choose_device(config.device)
    torch.manual_seed(config.seed)
    body = chosen_network(config)
    data = read_class_folders(config.data, seed=config.seed)
    model = classifier(body, len(data.classes))
    started = f"Backbone from {config.init}: {load_backbone(body, config.init)}" if config.init else ""
    model.to(device).to(memory_format=torch.channels_last)
    groups = parameter_groups(model, weight_decay=config.weight_decay)
    run = ClassifierRun(
        config,
        body,
        run_folder(config, body.name, new=new),
        data,
        model,
        make_optimizer(groups, kind="sgd", lr=config.lr, momentum=config.momentum),
        How(device, choose_precision(config.precision, device)),
        choose_workers(config.workers, device),
        console,
    )
    if started:
        run.say(started)
    return run


def chosen_network(config: ClassifyConfig) -> Network:
    """The backbone that is trained."""
    options: dict[str, Any] = {"norm": config.norm} if config.norm else {}
    if not config.network:
        return ShuffleNetV2(config.width, activation=config.activation, **options)
    if config.network in BUILDERS:
        return network(config.network, activation=config.activation, **options)
    if config.activation != "relu":
        raise UsageError(f"activation = {config.activation!r} is of ShuffleNet V2 alone; leave it out.")
    return network(config.network, **options)


def run_folder(config: ClassifyConfig, name: str, *, new: bool) -> Path:
    """The folder the run writes into; one that holds a run is refused, unless it is resumed."""
    if config.output:
        folder = Path(config.output)
        if new and (folder / "config.toml").exists():
            raise UsageError(
                f"{folder} holds a run already; give another output, or go on: aweigh train-backbone --resume {folder}"
            )
        return folder
    return numbered(Path("runs") / f"{Path(config.data).resolve().name}-{name}")


def describe(run: ClassifierRun) -> Iterator[str]:
    """What the user is told before the first step."""
    data, config = run.data, run.config
    split = "a tenth of each class, set aside" if data.split_off else "val"
    yield (
        f"{counted(len(data.classes), 'class')}, {counted(len(data.train), 'image')} to train on, {len(data.val)} "
        f"to validate ({split})."
    )
    chance = max(Counter(label for _, label in data.val).values()) / len(data.val)
    yield f"Always naming the most frequent class would be right for {chance:.1%} of the latter."
    scaled = f" = {config.lr:g} x {config.batch}/{config.lr_batch}" if config.lr_batch else ""
    done = f", {run.step} of them done" if run.step else ""
    steps = f"{counted(run.total_steps, 'step')}{done}"
    yield f"lr {run.lr:g}{scaled}, falling linearly to 0 over {steps}; {run.how.device}."


def train_and_evaluate(run: ClassifierRun) -> None:
    """One epoch, its accuracy, and the state to go on from."""
    begin = time.perf_counter()
    losses = train_epoch(run)
    run.epoch += 1
    row: dict[str, Any] = {
        "kind": "epoch",
        "epoch": run.epoch,
        "step": run.step,
        "lr": run.lr * (1 - (run.step - 1) / run.total_steps),
        **losses,
        **evaluate(run),
        "seconds": round(time.perf_counter() - begin, 1),
    }
    run.rows.append(row)
    run.say(
        f"epoch {run.epoch}, step {run.step}/{run.total_steps}: loss {row['loss']:.3f}, "
        f"val_loss {row['val_loss']:.3f}, top-1 {row['top1']:.1%}, {row['seconds']:.0f} s"
    )
    write_log(run)
    save_weights(run, row)
    save(run)


def train_epoch(run: ClassifierRun) -> dict[str, float]:
    """One pass over the training images, or what is left of the run; means of the loss and of the time of a step."""
    torch.manual_seed(run.config.seed + run.epoch)  # for dropout: the same after a stop
    run.model.train()
    means = Means()
    for batch in training_batches(run, limit=run.total_steps - run.step, title=f"epoch {run.epoch + 1}"):
        if len(batch.labels):
            begin = time.perf_counter()
            loss = optimiser_step(run, batch)
            means.add({"loss": loss, "step_seconds": time.perf_counter() - begin})
        run.step += 1
        run.progress(run.step, run.total_steps)
    if not means.result():
        raise DataError(f"None of the {counted(len(run.data.train), 'image')} of {run.config.data} could be read.")
    return means.result()


def optimiser_step(run: ClassifierRun, batch: LabelledBatch) -> float:
    """One update; the loss before it. `AweighError` where that is not finite."""
    set_lr(run.optimizer, run.lr * (1 - run.step / run.total_steps))
    run.optimizer.zero_grad(set_to_none=True)
    with run.how.autocast():
        logits = run.model(run.how.pixels(batch.pixels))  # [B, C]
    loss = F.cross_entropy(logits.float(), batch.labels.to(run.how.device), label_smoothing=run.config.label_smoothing)
    if not math.isfinite(value := loss.item()):
        raise AweighError(
            f"The loss of step {run.step + 1} is {value}; lower lr ({run.config.lr:g}) and start again, or go on from "
            f"the last epoch: aweigh train-backbone --resume {run.folder}"
        )
    loss.backward()
    run.optimizer.step()
    return value


@torch.no_grad()
def evaluate(run: ClassifierRun) -> dict[str, float]:
    """Validation loss (labels not smoothed), and the shares of images whose class is the first or among five."""
    run.model.eval()
    config, loss, first, five, count = run.config, 0.0, 0, 0, 0
    rows = range(len(run.data.val))
    batches = [rows[start : start + config.batch] for start in range(0, len(rows), config.batch)]
    transform = validation_transform(size=config.size)
    for batch in _shown(
        run, load_batches(run.data.val, batches, transform, workers=run.workers), len(batches), "validate"
    ):
        if not len(batch.labels):
            continue
        labels = batch.labels.to(run.how.device)
        with run.how.autocast():
            logits = run.model(run.how.pixels(batch.pixels)).float()  # [B, C]
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices  # [B, 5]
        hits = best == labels[:, None]
        first, five, count = first + int(hits[:, 0].sum()), five + int(hits.sum()), count + len(labels)
    if not count:
        raise DataError(f"None of the {counted(len(rows), 'validation image')} of {config.data} could be read.")
    return {"val_loss": loss / count, "top1": first / count, "top5": five / count}


def finish(run: ClassifierRun) -> None:
    """Measure the batch statistics anew (the authors' "bnps") and save the weights that are the result."""
    before = run.rows[-1]["top1"]
    with atomic_file(run.folder / "curves.png") as aside:
        curves(run.rows, aside)
    limit = run.config.statistics or run.steps_per_epoch
    batches = training_batches(run, limit=limit, title="batch statistics")
    pixels = (run.how.pixels(batch.pixels) for batch in batches if len(batch.labels))
    with run.how.autocast():
        update_bn(pixels, run.model)  # momentum 1 / iteration: the mean over all these batches
    metrics = evaluate(run)
    run.rows.append({"kind": "final", "epoch": run.epoch, "step": run.step, **metrics})
    write_log(run)
    save_weights(run, metrics)
    run.say(
        f"Top-1 {metrics['top1']:.1%} ({before:.1%} before batch statistics were measured anew). Weights: "
        f"{run.folder / WEIGHTS}"
    )


def training_batches(run: ClassifierRun, *, limit: int, title: str) -> Iterator[LabelledBatch]:
    """The batches of this epoch, at most `limit` of them, under a progress bar where the console is a terminal."""
    config = run.config
    batches = epoch_batches(len(run.data.train), config.batch, seed=config.seed, epoch=run.epoch)[:limit]
    transform = training_transform(size=config.size, least_area=config.least_area, color=config.color, flip=config.flip)
    loaded = load_batches(run.data.train, batches, transform, seed=config.seed, epoch=run.epoch, workers=run.workers)
    return _shown(run, loaded, len(batches), title)


# --- what is written ------------------------------------------------------------------------------------------------


def save_weights(run: ClassifierRun, metrics: Mapping[str, float]) -> None:
    """The weights, and what they are in the file's metadata (texts)."""
    metadata = {
        "format": "pt",
        "architecture": run.body.name,
        **({"activation": run.body.activation} if run.body.activation else {}),
        "classes": json.dumps(list(run.data.classes), ensure_ascii=False),
        "top1": f"{metrics['top1']:.4f}",
        "size": str(run.config.size),
        "input": "RGB in [0, 1], ImageNet mean and standard deviation",
    }
    with atomic_file(run.folder / WEIGHTS) as aside:
        save_file(plain(run.model.state_dict()), aside, metadata=metadata)


def write_log(run: ClassifierRun) -> None:
    """`log.jsonl`: a row for each epoch, then one of the result."""
    write_text(run.folder / "log.jsonl", "".join(json.dumps(row) + "\n" for row in run.rows))


def save(run: ClassifierRun) -> None:
    """The state to go on from."""
    tensors: dict[str, Tensor] = {f"model.{name}": value for name, value in run.model.state_dict().items()}
    for name, parameter in run.model.named_parameters():
        if (momentum := run.optimizer.state[parameter].get("momentum_buffer")) is not None:
            tensors[f"momentum.{name}"] = momentum
    values = {"epoch": run.epoch, "step": run.step, "rows": run.rows, "classes": list(run.data.classes)}
    save_state(run.folder / "last", tensors, values)


def restore(run: ClassifierRun) -> None:
    """Take over the state of the last finished epoch, where there is one."""
    if not any((run.folder / "last").glob("*.safetensors")):
        run.say("No epoch was finished yet: from the beginning.")
        return
    tensors, values, remark = load_state(run.folder / "last")
    if remark:
        run.say(remark)
    if values["classes"] != list(run.data.classes):
        raise UsageError(
            f"{run.folder} was trained on {counted(len(values['classes']), 'class')}, and {run.config.data} now holds "
            f"{len(run.data.classes)}, or others; start a new run."
        )
    run.model.load_state_dict(below("model.", tensors))
    for name, parameter in run.model.named_parameters():
        if (momentum := tensors.get(f"momentum.{name}")) is not None:
            run.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
    run.epoch, run.step, run.rows = values["epoch"], values["step"], values["rows"]


# --- helpers --------------------------------------------------------------------------------------------------------


def _shown(run: ClassifierRun, batches: Iterator[LabelledBatch], count: int, title: str) -> Iterator[LabelledBatch]:
    """The batches, with a bar, and each image that could not be read named once."""
    with Progress(console=run.console, transient=True, disable=not run.console.is_terminal) as progress:
        task = progress.add_task(title, total=count)
        for batch in batches:
            for problem in batch.problems:
                if problem not in run.told:
                    run.told.add(problem)
                    run.say(f"  skipped: {problem}")
            yield batch
            progress.advance(task)
