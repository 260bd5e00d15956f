"""Every detector by name, and what all of them can do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from aweigh.arguments import Number, check_arguments, check_value
from aweigh.classes import Classes
from aweigh.errors import UsageError, did_you_mean
from aweigh.models import (
    centernet,
    centernet_3d,
    centernet_pose,
    centernet_triplets,
    cornernet,
    cornernet_saccade,
    efficientdet,
    fast_rcnn,
    faster_rcnn_forms,
    fcos,
    fcos_forms,
    fcos_lite,
    fcos_rpn,
    foveabox,
    keypoint_rcnn,
    light_head_rcnn,
    mask_rcnn,
    retinanet,
)
from aweigh.models.detector import Detector
from aweigh.weights.load import compare, load_backbone, load_strict, locate, read_state
from aweigh.weights.record import PublishedWeights, State

# A new detector is one file and one line in each table.
DETECTORS: dict[str, Callable[..., Any]] = {
    **fcos.BUILDERS,
    **fcos_forms.BUILDERS,
    **fcos_lite.BUILDERS,
    **retinanet.BUILDERS,
    **efficientdet.BUILDERS,
    **faster_rcnn_forms.BUILDERS,
    **mask_rcnn.BUILDERS,
    **keypoint_rcnn.BUILDERS,
    **light_head_rcnn.BUILDERS,
    **centernet.BUILDERS,
    **centernet_3d.BUILDERS,
    **cornernet.BUILDERS,
    **cornernet_saccade.BUILDERS,
    **centernet_triplets.BUILDERS,
    **foveabox.BUILDERS,
    **centernet_pose.BUILDERS,
    **fast_rcnn.BUILDERS,
    **fcos_rpn.BUILDERS,
}
PUBLISHED: dict[str, dict[str, PublishedWeights]] = {
    **fcos_forms.PUBLISHED,
    **fcos_lite.PUBLISHED,
    **retinanet.PUBLISHED,
    **efficientdet.PUBLISHED,
    **faster_rcnn_forms.PUBLISHED,
    **mask_rcnn.PUBLISHED,
    **keypoint_rcnn.PUBLISHED,
    **centernet.PUBLISHED,
    **centernet_3d.PUBLISHED,
    **cornernet.PUBLISHED,
    **cornernet_saccade.PUBLISHED,
    **foveabox.PUBLISHED,
    **centernet_triplets.PUBLISHED,
    **centernet_pose.PUBLISHED,
    **fast_rcnn.PUBLISHED,
}


def create(
    name: str,
    *,
    num_classes: int | None = None,
    classes: Classes | Sequence[str] | None = None,
    weights: str | Path | None = None,
    backbone_weights: str | Path | None = None,
    **arguments: Any,
) -> Detector:
    """Build a `Detector` (an `nn.Module`).

    Args:
        name: a key of `DETECTORS`, such as `"fcos_resnet50_fpn"`.
        classes: names, or names with original ids; or only their number, `num_classes`. Default: the builder's, COCO's
            80, or its person for keypoints.
        weights: the name of published weights (`"torchvision"`), or a file of them. Published weights bring their
            classes and, where their authors' form differs, their builder.
        backbone_weights: `"imagenet"` or a file, for the backbone alone, and for layers behind the regions that come
            from the same network.
        arguments: passed to the builder, each checked against its annotation there; texts, such as a command line has,
            will do where they say a number, yes or no, or a word.

    Raises `UsageError` for an unknown name (the nearest is offered), an unknown argument, a value that is none of those
    it may have, or weights that do not fit.
    """
    if name not in DETECTORS:
        raise UsageError(f"There is no model {name!r}.{did_you_mean(name, DETECTORS)} Known: {', '.join(DETECTORS)}.")
    if weights is not None:
        if classes is not None or num_classes is not None or backbone_weights is not None:
            raise UsageError(
                "create: published weights bring their own classes and backbone; give either `weights` or the others."
            )
        return _create_published(name, str(weights), arguments)
    if classes is not None and num_classes is not None:
        raise UsageError("create: classes and num_classes are both given; names say how many there are, leave one out.")
    if classes is None and num_classes is not None:
        classes = Classes.numbered(check_value("num_classes", num_classes, Number, of="create"))
    elif classes is not None and not isinstance(classes, Classes):
        if isinstance(classes, str) or not all(isinstance(each, str) for each in classes):
            raise UsageError(f"create: classes are a list of names, got {classes!r}.")
        classes = Classes.from_names(classes)
    if classes is not None and not len(classes):
        raise UsageError("create: a detector needs at least one class; give their names (classes) or num_classes.")
    model = _build(name, classes, arguments)
    if backbone_weights is not None:
        # Some detectors use more of the classification network than their backbone.
        model.backbone_report = load_backbone(model.classification_body(), backbone_weights)
    return model


def _build(name: str, classes: Classes | None, arguments: dict[str, Any]) -> Detector:
    chosen = {} if classes is None else {"classes": classes}
    arguments = check_arguments(DETECTORS[name], arguments, plain=True, of=name)
    try:
        model = cast(Detector, DETECTORS[name](**chosen, **arguments))
    except (TypeError, ValueError, RuntimeError) as error:  # of numbers that do not go together
        raise UsageError(f"create({name!r}): {error}.") from error
    model.builder, model.arguments = name, arguments
    return model


def _create_published(name: str, weights: str, arguments: dict[str, Any]) -> Detector:
    records = PUBLISHED.get(name, {})
    is_file = Path(weights).suffix in {".pth", ".pt", ".safetensors"}
    if not records or (weights not in records and not is_file):
        known = ", ".join(records) or "none"
        raise UsageError(
            f"There are no published weights {weights!r} for {name}; known: {known}, or a file of them."
            f"{did_you_mean(weights, records)}"
        )
    given = None if weights in records else read_state(Path(weights))
    record = records[weights] if given is None else _record_of(Path(weights).name, records.values(), given)
    assert record.classes is not None
    model = _build(record.builder, record.classes, {**record.arguments, **arguments})
    state = read_state(locate(record)) if given is None else given
    load_strict(model, record.convert(state), what=f"{weights} into {record.builder}")
    model.record = record
    return model


def _record_of(file: str, records: Iterable[PublishedWeights], state: State) -> PublishedWeights:
    """What a file is: that of this name, or the first whose form of the detector has the names of its tensors."""
    called_so_first = sorted(records, key=lambda record: record.file != file)
    for record in called_so_first:
        try:
            converted = record.convert(state)
        except UsageError:
            continue
        with torch.device("meta"):
            model = _build(record.builder, record.classes, record.arguments)
        report = compare(model, converted)
        if not (report.missing or report.unexpected):
            return record
    return called_so_first[0]


__all__ = ["DETECTORS", "PUBLISHED", "Detector", "create"]
