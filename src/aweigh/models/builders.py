"""What an entry of `DETECTORS` is: a form of detector on a backbone, and the values by which it differs from its form.

A form is a function that makes a detector of its parts: `form(backbone, classes, **settings)`. What it is told by name,
its backbone and its other parts are told as well, is one flat set of arguments: each goes to all that have a parameter
of its name. So a variant is a row of a table, not a function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from torch import nn

from aweigh.arguments import Parameter, check_arguments, parameters, passes_on
from aweigh.backbones import Backbone
from aweigh.classes import Classes
from aweigh.necks import Neck
from aweigh.weights.coco import COCO_CLASSES


@dataclass(frozen=True, eq=False)
class Builder:
    """Called with the arguments that `takes` lists, it builds the detector.

    form: `form(backbone, classes, **parts, **settings)` makes the detector. backbone: makes the backbone. values: where
    this entry differs from the defaults of form and parts. parts: parameters of the form that are functions themselves,
    such as `proposer`: each is given to the form with the arguments that are its own bound to it. classes: where none
    are named.
    """

    form: Callable[..., nn.Module]
    backbone: Callable[..., Backbone]
    values: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    classes: Classes = COCO_CLASSES

    @cached_property
    def takes(self) -> dict[str, Parameter]:
        """Every argument that can be given by name, with its default in this entry."""
        together: dict[str, Parameter] = {}
        for part in (self.backbone, *self.parts.values(), self.form):
            together |= parameters(part)
        return {
            name: replace(each, default=self.values.get(name, each.default))
            for name, each in together.items()
            if name not in self.parts
        }

    def __call__(self, *, classes: Classes | None = None, **arguments: Any) -> nn.Module:
        values = {**self.values, **check_arguments(self, arguments)}

        def own(part: Callable[..., Any]) -> dict[str, Any]:
            return {name: value for name, value in values.items() if name in parameters(part)}

        parts = {name: partial(part, **own(part)) for name, part in self.parts.items()}
        backbone = self.backbone(**own(self.backbone))
        return self.form(backbone, self.classes if classes is None else classes, **parts, **own(self.form))


def on_each(
    name: str,
    form: Callable[..., nn.Module],
    backbones: Mapping[str, Callable[..., Backbone]],
    values: Mapping[str, Any] | None = None,
    **rest: Any,
) -> dict[str, Builder]:
    """An entry for each of the backbones, called `name` with the backbone's name in the place of `{}`."""
    return {name.format(key): Builder(form, backbone, values or {}, **rest) for key, backbone in backbones.items()}


def with_neck_and_heads(kind: Callable[..., nn.Module], *, without: Sequence[str] = ()) -> Callable[..., nn.Module]:
    """The form of the detectors of a class, `kind(backbone, neck, heads, classes=..., **settings)`.

    Its parts: `neck`, of the channels and strides of the backbone, and `heads`, of the channels of the neck and the
    number of classes. Settings: those of the class, `without` some that no builder is told.
    """

    @passes_on(kind, without=without)
    def form(
        backbone: Backbone, classes: Classes, neck: Callable[..., Neck], heads: Callable[..., Any], **settings: Any
    ) -> nn.Module:
        maps = neck(backbone.channels, backbone.strides)
        return kind(backbone, maps, heads(maps.channels, len(classes)), classes=classes, **settings)

    return form
