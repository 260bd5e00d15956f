"""One training step looked at closely: where its numbers stop being finite, and which image and annotation does it.

`examine` runs forward, loss and backward as a training step does them; `blame` looks for the images and annotations
without which it would not fail. Both work on any detector: they use what the `Detector` protocol lists, hooks on its
modules, and the shapes of its raw outputs.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from aweigh import distributed
from aweigh.feeding.batches import Batch
from aweigh.inference.device import How
from aweigh.models.detector import Detector
from aweigh.structures import Images, Targets
from aweigh.training.debug.origin import first_bad_gradient, first_bad_operation
from aweigh.training.debug.outputs import (
    Range,
    all_finite,
    level_lists,
    magnitude,
    map_tensors,
    only_image,
    only_level,
    tensors,
    value_range,
)


@dataclass(frozen=True)
class BadModule:
    """The first module with an output that is not finite. kind: its class. bad_share: of the numbers it put out."""

    name: str
    kind: str
    inputs_finite: bool
    weights_finite: bool
    bad_share: float


@dataclass(frozen=True)
class Level:
    """One level of the pyramid: ranges of each raw output that is learned and of its gradient, and the level's losses.

    losses: as if the other levels had no cells, so each divided by its own normaliser; empty where the detector's loss
    cannot be computed so.
    """

    name: str
    raw: dict[str, Range]
    gradients: dict[str, Range]
    losses: dict[str, float]


@dataclass
class Examination:
    """What a step did. losses: as the step adds them up. error: what it raised. batch: the first that went bad, or 0.

    bad_weights: parameters and buffers that were not finite before the step. module, operation, bad_gradient,
    gradient_operation: where it first went bad, forward and (the first parameter, the line of code) backward.
    """

    losses: dict[str, float] = field(default_factory=dict)
    gradient_norm: float = math.nan
    error: str = ""
    batch: int = 0
    bad_weights: list[str] = field(default_factory=list)
    largest_weight: tuple[str, float] = ("", 0.0)
    largest_output: tuple[str, float] = ("", 0.0)
    module: BadModule | None = None
    operation: str = ""
    bad_gradient: str = ""
    gradient_operation: str = ""
    levels: list[Level] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return bool(self.error) or not all(map(math.isfinite, [*self.losses.values(), self.gradient_norm]))


@dataclass(frozen=True)
class Blame:
    """What makes a batch fail. images: rows of the batch whose part of the loss fails, with the raw outputs that they
    have within the batch. by_themselves: the rows that fail when the network sees them alone, looked for where all of
    them fail in the batch; else None. annotations: for each of `images`, the rows of its targets that fail without the
    others, or together where none does; none where its raw outputs are not finite or it fails without objects.
    """

    images: list[int]
    by_themselves: list[int] | None
    annotations: dict[int, list[int]]


def examine(model: Detector, batches: Sequence[Batch], how: How, *, lines: bool = True) -> Examination:
    """Forward, loss and backward over `batches`, as a training step does them; no update.

    model: it should be in training mode; its gradients and running statistics are changed. lines: look for the lines of
    code too, which computes the batch that failed twice more. Other processes take no part.
    """
    result = Examination(bad_weights=_bad_weights(model), largest_weight=_largest_weight(model))
    model.zero_grad(set_to_none=True)
    with distributed.alone():
        _step(model, batches, how, result)
        if lines and result.failed and not result.bad_weights:
            batch = batches[result.batch]
            targets = _targets(batch, how)

            def losses() -> dict[str, Tensor]:
                return model.loss(how.outputs(model, batch.images), targets)

            result.operation = first_bad_operation(losses)
            if result.bad_gradient and not result.operation and not result.error:
                result.gradient_operation = first_bad_gradient(losses)
    model.zero_grad(set_to_none=True)
    return result


def losses_of(model: Detector, batch: Batch, how: How) -> dict[str, Tensor]:
    """The losses of one batch, each a scalar that has a gradient, as training computes them."""
    return model.loss(how.outputs(model, batch.images), _targets(batch, how))


# --- the step -------------------------------------------------------------------------------------------------------


def _step(model: Detector, batches: Sequence[Batch], how: How, result: Examination) -> None:
    """Fill in what the step computes. The first batch that goes bad is the one that is told of."""
    sums: dict[str, Tensor] = {}
    shown: tuple[Any, list[Targets]] | None = None
    went_bad = False
    with ExitStack() as stack:
        _watch(model, result, stack)
        for number, batch in enumerate(batches):
            targets = _targets(batch, how)
            try:
                raw = how.outputs(model, batch.images)
                for value in tensors(raw):
                    if value.requires_grad:
                        value.retain_grad()
                losses = model.loss(raw, targets)
                (torch.stack(list(losses.values())).sum() / len(batches)).backward()
            except Exception as error:  # whatever a detector raises is what is looked for
                result.error, result.batch = in_one_line(error), number
                return
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach() / len(batches)
            bad = result.module is not None or bool(result.bad_gradient) or not all_finite(*losses.values())
            if shown is None or (bad and not went_bad):
                shown, result.batch = (raw, targets), number
            went_bad = went_bad or bad
    result.losses = {name: float(value) for name, value in sums.items()}
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    result.gradient_norm = float(nn.utils.get_total_norm(gradients))
    if shown is not None:
        result.levels = _levels(model, *shown)


def _watch(model: Detector, result: Examination, stack: ExitStack) -> None:
    """Note, until the stack ends, the first bad output, the largest one, and the first bad gradient."""

    def after_module(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        largest = magnitude(output)
        if largest > result.largest_output[1]:
            result.largest_output = name, largest
        if result.module is None and not all_finite(output):
            shares = [value_range(value)[2] for value in tensors(output)]
            finite = all_finite(inputs)
            weights = not _bad_weights(module)
            result.module = BadModule(name, type(module).__name__, finite, weights, 1 - min(shares))

    def after_gradient(name: str, parameter: Tensor) -> None:
        if not result.bad_gradient and not all_finite(parameter.grad):
            result.bad_gradient = name

    for name, module in model.named_modules():
        if name:
            stack.callback(module.register_forward_hook(partial(after_module, name)).remove)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            stack.callback(parameter.register_post_accumulate_grad_hook(partial(after_gradient, name)).remove)


def _levels(model: Detector, raw: Any, targets: list[Targets]) -> list[Level]:
    """What each level of the raw outputs holds and, where the loss takes it, its loss alone."""
    lists = level_lists(raw)
    levels = []
    for number in range(len(next(iter(lists.values()), []))):
        own = {name: values[number] for name, values in lists.items()}
        size = next((f" ({value.shape[2]} x {value.shape[3]})" for value in own.values() if value.ndim == 4), "")
        learned = {name: value for name, value in own.items() if value.requires_grad}
        try:
            with torch.no_grad():
                losses = model.loss(only_level(raw, number), targets)
        except Exception:  # a loss that needs its levels together; their ranges are told all the same
            losses = {}
        levels.append(
            Level(
                name=f"{number}{size}",
                raw={name: value_range(value) for name, value in learned.items()},
                gradients={n: value_range(value.grad) for n, value in learned.items() if value.grad is not None},
                losses={name: float(value) for name, value in losses.items()},
            )
        )
    return levels


def _bad_weights(module: nn.Module | Detector) -> list[str]:
    named = [*module.named_parameters(), *module.named_buffers()]
    return [name for name, value in named if not all_finite(value)]


def _largest_weight(model: Detector) -> tuple[str, float]:
    sizes = ((name, magnitude(value)) for name, value in model.named_parameters())
    return max(sizes, key=lambda entry: entry[1], default=("", 0.0))


# --- images and annotations -----------------------------------------------------------------------------------------


def blame(model: Detector, batch: Batch, how: How) -> Blame:
    """The images, and in them the annotations, without which the batch would not fail.

    Loss and gradient are computed for each image from its part of the raw outputs; where an image fails, for each half
    of its annotations, down to single ones.
    """
    targets = _targets(batch, how)
    with distributed.alone():
        try:
            raw = how.outputs(model, batch.images)
        except Exception:  # the network itself fails: which image does it not take?
            return Blame([], [image for image in range(len(batch)) if _fails_by_itself(model, batch, image, how)], {})
        parts = _per_image(model, raw, batch, how)
        images = [image for image, part in enumerate(parts) if _fails(model, part, [targets[image]])]
        by_themselves = None
        if len(batch) > 1 and len(images) == len(batch):
            by_themselves = [image for image in images if _fails_by_itself(model, batch, image, how)]
        annotations = {image: _bad_annotations(model, parts[image], targets[image]) for image in images}
    return Blame(images, by_themselves, annotations)


def _bad_annotations(model: Detector, raw: Any, targets: Targets) -> list[int]:
    if not all_finite(raw) or _fails(model, raw, [targets[:0]]):
        return []
    return _smallest_failing(list(range(len(targets))), lambda rows: _fails(model, raw, [targets[torch.tensor(rows)]]))


def _smallest_failing(rows: list[int], fails: Callable[[list[int]], bool]) -> list[int]:
    """Of rows that fail together, those that fail by themselves, by halving; all of a group that needs each other."""
    if len(rows) < 2:
        return rows
    middle = len(rows) // 2
    halves = [half for half in (rows[:middle], rows[middle:]) if fails(half)]
    return [row for half in halves for row in _smallest_failing(half, fails)] if halves else rows


def _fails(model: Detector, raw: Any, targets: list[Targets]) -> bool:
    """Whether the loss or its gradient with respect to the raw outputs is not finite, or the loss raises."""
    learned: list[Tensor] = []

    def leaf(value: Tensor) -> Tensor:
        if value.requires_grad:
            value = value.detach().requires_grad_()
            learned.append(value)
        return value

    raw = map_tensors(raw, leaf)
    try:
        total = torch.stack(list(model.loss(raw, targets).values())).sum()
        gradients = torch.autograd.grad(total, learned, allow_unused=True) if total.requires_grad else ()
    except Exception:  # whatever a detector raises is what is looked for
        return True
    return not all_finite(total, [gradient for gradient in gradients if gradient is not None])


def _fails_by_itself(model: Detector, batch: Batch, image: int, how: How) -> bool:
    try:
        raw = how.outputs(model, one_image(batch, image).images)
    except Exception:
        return True
    return _fails(model, raw, [_targets(batch, how)[image]])


def _per_image(model: Detector, raw: Any, batch: Batch, how: How) -> list[Any]:
    """The raw outputs of each image of the batch."""
    if len(batch) == 1:
        return [raw]
    was_training = model.training
    model.eval()  # in training mode a batch of one may have no statistics
    with torch.no_grad():
        single = how.outputs(model, one_image(batch, 0).images)
    model.train(was_training)
    return [only_image(raw, image, single) for image in range(len(batch))]


def one_image(batch: Batch, image: int) -> Batch:
    """The batch of one of its images, with the padding that it had."""
    rows, images = slice(image, image + 1), batch.images
    proposals = None if images.proposals is None else images.proposals[rows]
    return replace(
        batch,
        images=Images(images.pixels[rows], images.sizes_hw[rows], proposals),
        targets=batch.targets[rows],
        indices=batch.indices[rows],
        image_ids=batch.image_ids[rows],
        original_sizes_hw=batch.original_sizes_hw[rows],
        problems=(),
    )


def _targets(batch: Batch, how: How) -> list[Targets]:
    return [targets.to(how.device) for targets in batch.targets]


def in_one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
