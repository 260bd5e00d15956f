"""What all detectors can do: the contract between `models/` and the rest of the library.

Nothing else is asked of a detector anywhere, and nothing is looked up by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from aweigh.arguments import NMS, Count, Share, check_fields, checked_class, with_selection
from aweigh.backbones import Backbone
from aweigh.classes import Classes, KeypointSet
from aweigh.detections import Detections
from aweigh.errors import UsageError, counted
from aweigh.heads.answers import Answers
from aweigh.structures import Images, Targets
from aweigh.weights.load import Body
from aweigh.weights.record import PublishedWeights

D = TypeVar("D", bound=type)
Assign = Callable[[Sequence[Tensor], Targets], Tensor]
"""Which box each point learns, or each of its anchors: points of each level `[H*W, 2]` and the targets of an image to
an index `[A]`, all anchors of the first point first, -1 for background, -2 inside a region to ignore."""
Candidates = Callable[[Sequence[Tensor], Tensor], Iterator[tuple[Tensor, Tensor]]]
"""Which boxes each point, or anchor, could learn: points of each level `[H*W, 2]` and boxes `[N, 4]` to portions of the
points, or of the middles of anchors, `[p, 2]`, in order, and which boxes each could: `[p, N]` bool."""


@runtime_checkable
class Detector(Protocol):
    """What `create` returns: an `nn.Module`, and what the rest of the library may ask it.

    Called with images alone it gives the `Detections` of each, with targets too the losses, a scalar each, whether it
    is training or not. `decode(network(...))` is the one and `loss(network(...), targets)` the other. `network` has no
    Python branch on data: it is what is compiled and exported; its inputs are the pixels `[B, 3, H, W]`, RGB in
    `[0, 1]`, where `needs_proposals` is true, the proposals `[B, P, 4]`, and where `needs_sizes` is, the sizes `[B, 2]`
    (height, width) of the images in the padding. `select` has no branch on data either: of
    raw outputs and the sizes `[B, 2]` (height, width) of the images it gives boxes `[B, K, 4]` float32 inside each
    image, scores `[B, K]`, labels `[B, K]`, how many count `[B]` (the rest is padding with score 0), and a tensor for
    each of `extras`. `decode` cuts that to what counts: the `Detections` of each image, best first, in its pixels.

    One on a pyramid is made of a `backbone` and a `neck`, image `[B, 3, H, W]` -> feature maps -> pyramid, which both
    have `channels` and `strides`, a `head` that all levels share, and `classes`, names and original ids, as many as the
    head's.

    `answers` are all that raw outputs of one image say, before anything is chosen, with each test on the way to what
    `select` gives of them; sizes `[1, 2]`. wanted: objects, in the pixels of the batch, of which they are to be known
    even where `select` looks at the best points alone.

    extras: what it says beside boxes, of "masks" (`[B, K, S, S]` probabilities in the frame of each box), "keypoints"
    (`[B, K, number of keypoints, 3]`: x, y, score) and "cuboids" (`[B, K, 7]`, see `aweigh.geometry.cuboids`).
    keypoint_set: those that it finds. selection: thresholds and counts.
    pixel_mean: `[3]`, the colour of padding. stride_divisor: what the sides of a batch are multiples of.
    strides, assign, candidates: of one that assigns points to boxes: the strides of its levels in pixels; which box
    each point learns; which boxes each could. average_flipped: of one that averages raw outputs of an image and its
    mirror image: `(raw, flipped, class_order) -> raw`. propose: of one that proposes regions of any class: raw outputs
    and sizes `[B, 2]` to boxes `[B, P, 4]`, scores `[B, P]` and how many count `[B]`. All are None where it cannot.
    builder, arguments: what built it. record: of the published weights it holds. backbone_report: what was loaded into
    its backbone.
    """

    training: bool
    backbone: Backbone
    classes: Classes
    selection: Selection
    extras: tuple[str, ...]
    needs_proposals: bool
    needs_sizes: bool
    keypoint_set: KeypointSet | None
    stride_divisor: int
    strides: tuple[int, ...] | None
    assign: Assign | None
    candidates: Candidates | None
    average_flipped: Callable[[Any, Any, Tensor], Any] | None
    propose: Callable[[Any, Tensor], tuple[Tensor, Tensor, Tensor]] | None
    builder: str
    arguments: dict[str, Any]
    record: PublishedWeights | None
    backbone_report: object

    @property
    def pixel_mean(self) -> Tensor: ...

    def __call__(self, images: Images, targets: Sequence[Targets] | None = None) -> Any: ...
    def network(self, *inputs: Tensor) -> Any: ...
    def loss(self, raw: Any, targets: Sequence[Targets]) -> dict[str, Tensor]: ...
    def select(self, raw: Any, sizes_hw: Tensor) -> tuple[Tensor, ...]: ...
    def decode(self, raw: Any, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]: ...
    def answers(self, raw: Any, sizes_hw: Tensor, wanted: Targets | None = None) -> Answers: ...
    def classification_body(self) -> Body: ...  # what weights of a classification network fill

    # Of every `nn.Module`.
    def train(self, mode: bool = True) -> Any: ...
    def eval(self) -> Any: ...
    def to(self, *args: Any, **kwargs: Any) -> Any: ...
    def zero_grad(self, set_to_none: bool = True) -> None: ...
    def requires_grad_(self, requires_grad: bool = True) -> Any: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...
    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def named_buffers(self) -> Iterator[tuple[str, Tensor]]: ...
    def buffers(self, recurse: bool = True) -> Iterator[Tensor]: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True) -> Any: ...


@dataclass(frozen=True)
class Selection:
    """Which of a network's answers become detections: thresholds and counts, saved with the model.

    score_threshold: lowest score. nms, nms_threshold: what suppresses what, and from which overlap on. max_detections:
    of one image. A detector's own is one of these, with its defaults and what it has beside them.
    """

    score_threshold: Share = 0.05
    nms: NMS = "class"
    nms_threshold: Share = 0.5
    max_detections: Count = 100

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class LevelSelection(Selection):
    """Of a detector that looks at each level of its pyramid by itself. candidates_per_level: the best of each."""

    candidates_per_level: Count = 1000


def detector(selection: type[Selection]) -> Callable[[D], D]:
    """Of the class of a detector: its arguments are checked, its thresholds and counts are a `selection`, and what it
    does not say of itself is as in `Detector` for one that cannot."""

    def decorate(kind: D) -> D:
        for name, value in UNSAID.items():
            if not hasattr(kind, name):
                setattr(kind, name, value)
        return with_selection(selection)(checked_class()(kind))

    return decorate


UNSAID: dict[str, Any] = {
    "extras": (),
    "needs_proposals": False,
    "needs_sizes": False,
    "keypoint_set": None,
    "strides": None,
    "assign": None,
    "candidates": None,
    "average_flipped": None,
    "propose": None,
    "builder": "",
    "record": None,
    "backbone_report": None,
    "pixel_mean": property(lambda self: self.backbone.normalise.mean),
    "classification_body": lambda self: self.backbone,
}


def check_classes(what: str, predicted: int, classes: Classes) -> None:
    """`UsageError` unless the head of the detector `what` predicts as many classes as are named."""
    if predicted != len(classes):
        named = counted(len(classes), "class", "is")
        raise UsageError(f"{what}: the head predicts {counted(predicted, 'class')}, but {named} named.")


def network_inputs(model: Detector, images: Images) -> tuple[Tensor, ...]:
    """What the `network` of a detector takes: the pixels and, where it needs them, the proposals and the sizes."""
    inputs = [images.pixels]
    if model.needs_proposals:
        if images.proposals is None:
            raise UsageError(
                f"{model.builder or type(model).__name__} proposes no regions itself; give it proposals "
                "(--proposals-file FILE, Images.proposals). `aweigh proposals` makes such a file."
            )
        inputs.append(images.proposals)
    if model.needs_sizes:
        inputs.append(torch.tensor(images.sizes_hw, device=images.pixels.device))
    return tuple(inputs)
