"""Values of any structure that hold tensors, such as the raw outputs of a detector: look through them, take parts.

A structure is built of named tuples, tuples, lists and mappings. Levels of a pyramid are recognised as lists of tensors
of one length, images by comparing with the outputs of a single image.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Range = tuple[float, float, float]  # lowest and highest finite value, share of the values that are finite


def tensors(value: Any) -> list[Tensor]:
    """Every tensor in the structure, in order."""
    found: list[Tensor] = []
    _rebuilt(value, lambda name, part: found.append(part) if isinstance(part, Tensor) else None)
    return found


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with every tensor exchanged."""
    return _rebuilt(value, lambda name, part: change(part) if isinstance(part, Tensor) else None)


def level_lists(raw: Any) -> dict[str, list[Tensor]]:
    """The lists of tensors in the structure by name, one tensor for each level; empty when their lengths differ."""
    found: dict[str, list[Tensor]] = {}

    def look(name: str, value: Any) -> None:
        if _is_list_of_tensors(value) and len(value) > 1:
            found[name] = list(value)

    _rebuilt(raw, look)
    return found if len({len(values) for values in found.values()}) == 1 else {}


def only_level(raw: Any, level: int) -> Any:
    """The same structure in which every other level has no cells: the sides that differ between levels are 0."""

    def emptied(name: str, value: Any) -> Any:
        if not _is_list_of_tensors(value) or len({part.ndim for part in value}) > 1:
            return None
        spatial = [dim for dim in range(value[0].ndim) if len({part.shape[dim] for part in value}) > 1]
        if not spatial:
            return None
        return type(value)(part if at == level else part.narrow(spatial[0], 0, 0) for at, part in enumerate(value))

    return _rebuilt(raw, emptied)


def only_image(raw: Any, image: int, single: Any) -> Any:
    """The part of the structure that belongs to one image of the batch.

    single: the outputs of a batch of one image with the same padding. A tensor is per image where its first side is 1
    there and another number here.
    """
    shapes = iter([part.shape for part in tensors(single)])

    def take(value: Tensor) -> Tensor:
        shape = next(shapes)
        return value[image : image + 1] if value.shape != shape and shape[0] == 1 else value

    return map_tensors(raw, take)


def all_finite(*values: Any) -> bool:
    """Whether every number in these structures is finite; integers always are."""
    return all(
        bool(part.isfinite().all())
        for value in values
        for part in tensors(value)
        if (part.is_floating_point() or part.is_complex()) and not part.is_meta
    )


def value_range(value: Tensor) -> Range:
    """The range of a tensor's finite values, and how many of all they are."""
    value = value.detach().float()
    finite = value[value.isfinite()]
    if len(finite) == 0:
        return math.nan, math.nan, 0.0 if value.numel() else 1.0
    return float(finite.min()), float(finite.max()), len(finite) / value.numel()


def magnitude(value: Any) -> float:
    """The largest absolute value in the structure, leaving out what is not finite; 0 where there is none."""
    parts = [part.detach() for part in tensors(value) if part.is_floating_point() and part.numel()]
    return max((float(torch.nan_to_num(part, 0, 0, 0).abs().max()) for part in parts), default=0.0)


def _is_list_of_tensors(value: Any) -> bool:
    is_list = isinstance(value, list | tuple) and not hasattr(value, "_fields")
    return is_list and len(value) > 0 and all(isinstance(part, Tensor) for part in value)


def _rebuilt(value: Any, change: Callable[[str, Any], Any], name: str = "output") -> Any:
    """The same structure, each part exchanged for which `change` returns something else than None."""
    changed = change(name, value)
    if changed is not None:
        return changed
    if isinstance(value, dict):
        return {key: _rebuilt(part, change, str(key)) for key, part in value.items()}
    if hasattr(value, "_fields"):
        return type(value)(*(_rebuilt(part, change, key) for key, part in zip(value._fields, value, strict=True)))
    if isinstance(value, list | tuple):
        return type(value)(_rebuilt(part, change, f"{name}.{at}") for at, part in enumerate(value))
    return value
