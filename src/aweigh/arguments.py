"""Values that are given by name, to a builder or to a setting of a detector, checked where they enter.

What a value may be is its annotation: `int`, `float`, `bool`, words (`Literal`), sequences, None, and a range beside
them (`Share`, `Count` ...). A value may also come as text, as the command line has it. Nothing falls through to a
default: whatever does not fit is a `UsageError` that says what was expected, and names the nearest word.

A builder that passes `**settings` on says to what (`passes_on`), so that all names it takes are known.
"""

import inspect
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, partial, wraps
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    Protocol,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

from aweigh.errors import UsageError, did_you_mean

C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., Any])

LONGEST_SEQUENCE = 100  # no list of numbers that describes a network is longer
YES, NO = ("true", "yes", "on", "1", "y", "t"), ("false", "no", "off", "0", "n", "f")


@dataclass(frozen=True)
class Within:
    """A range of numbers, both ends included, or not the lower one where `above`. infinite: infinity will do too."""

    low: float
    high: float = math.inf
    above: bool = False
    infinite: bool = False

    def holds(self, value: float) -> bool:
        if not (math.isfinite(value) or (self.infinite and value == math.inf)):
            return False
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low:g}" if self.above else f"{self.low:g} or more"
        return f"{'above' if self.above else 'from'} {self.low:g} {'up ' if self.above else ''}to {self.high:g}"


@dataclass(frozen=True)
class Spelled:
    """A text that `pattern` fits as a whole. what: how it is spelled, for who misspells it."""

    pattern: str
    what: str


@dataclass(frozen=True)
class Made:
    """A value of which `by` makes something; it fits where that does not fail. what: its description."""

    by: Callable[[Any], object]
    what: str


Share = Annotated[float, Within(0, 1)]
Positive = Annotated[float, Within(0, above=True)]
NotNegative = Annotated[float, Within(0)]
Limit = Annotated[float, Within(0, infinite=True)]
Count = Annotated[int, Within(1, 100_000)]
Number = Annotated[int, Within(0, 100_000)]
Width = Annotated[int, Within(1, 10_000)]  # channels: more nobody has
Few = Annotated[int, Within(1, 64)]
Layers = Annotated[int, Within(0, 64)]
Frozen = Annotated[int, Within(0, 100)]  # stages
Divisor = Annotated[int, Within(1, 2048)]  # of the sides of a batch
Colour = tuple[float, float, float]
Deviation = tuple[Positive, Positive, Positive]
NMS = Literal["class", "agnostic", "soft", "none"]
"""What suppresses what: a better box those of its class that it overlaps, or any; their scores alone; or nothing."""
Precision = Literal["auto", "float32", "bf16", "float16"]  # of what a network computes


Norm = (
    Literal["bn", "sync_bn", "frozen_bn", "gn", "ln", "in"]
    | Annotated[str, Spelled(r"gn_(of_)?[1-9]\d{0,4}", "gn_16 (16 groups), gn_of_16 (16 channels a group)")]
)
"""A normalisation, see `aweigh.layers`; of groups there may be any number."""


@dataclass(frozen=True)
class Parameter:
    """What an argument may be, and its default (`inspect.Parameter.empty` for none)."""

    hint: Any
    default: Any

    @property
    def plain(self) -> bool:
        """Whether a text or a file can give it: a number, a word, a list of these."""
        return _is_plain(self.hint)


# Who takes which arguments


def checked_class(*passed_to: Callable[..., Any]) -> Callable[[C], C]:
    """Of a class: what its constructor is given by name is checked against the annotations, and comes in their types.

    passed_to: where its `**options` go, classes of the same kind. Only keyword-only parameters are meant, since those
    before are parts.
    """

    def decorate(kind: C) -> C:
        original = cast(Any, kind).__init__

        @wraps(original)
        def construct(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **check_arguments(kind, kwargs))

        cast(Any, kind).__init__ = construct
        cast(Any, kind).passes_on = (passed_to, ())
        return kind

    return decorate


def passes_on(*targets: Callable[..., Any], without: Sequence[str] = ()) -> Callable[[F], F]:
    """Of a function: its `**settings` go to the targets, so that their arguments are its own. without: those of the
    targets that it gives itself."""

    def decorate(function: F) -> F:
        vars(function)["passes_on"] = (targets, tuple(without))
        return function

    return decorate


@runtime_checkable
class Takes(Protocol):
    """Something that can be called, and says itself which arguments it takes."""

    @property
    def takes(self) -> dict[str, Parameter]: ...


@cache
def parameters(target: Callable[..., Any] | Takes) -> dict[str, Parameter]:
    """Every argument that can be given to a builder by name, those that it passes on included."""
    if isinstance(target, Takes):
        return target.takes
    if isinstance(target, partial):
        return parameters(target.func)
    function = cast(Any, target).__init__ if isinstance(target, type) else target
    hints = get_type_hints(function, include_extras=True)
    own = {
        name: Parameter(hints.get(name, Any), parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    passed_to, without = vars(target).get("passes_on", ((), ()))
    further: dict[str, Parameter] = {}
    for other in passed_to:
        further = {**parameters(other), **further}
    return {**{name: parameter for name, parameter in further.items() if name not in without}, **own}


@cache
def _parts(target: Callable[..., Any]) -> frozenset[str]:
    """What may be given by place: the parts that a function or a class is made of."""
    kinds = inspect.signature(target).parameters.values()
    return frozenset(each.name for each in kinds if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD)


def check_arguments(
    target: Callable[..., Any], given: Mapping[str, Any], *, plain: bool = False, of: str = ""
) -> dict[str, Any]:
    """The arguments in the types of their annotations; `UsageError` for an unknown name and for what does not fit.

    plain: only what a text or a file can give counts as known: no modules and no functions. of: the target's name.
    """
    known = {name: each for name, each in parameters(target).items() if each.plain or not plain}
    what = of or getattr(target, "__name__", type(target).__name__)
    fitting = {}
    for name, value in given.items():
        if name in _parts(target) and not plain:
            fitting[name] = value
            continue
        if name not in known:
            listed = ", ".join(sorted(name for name, each in known.items() if each.plain)) or "none"
            raise UsageError(f"{what}: there is no option {name!r}.{did_you_mean(name, known)} Known: {listed}.")
        fitting[name] = check_value(name, value, known[name].hint, of=what)
    return fitting


def check_value(name: str, value: Any, hint: Any, *, of: str = "") -> Any:
    """The value in the type of the annotation `hint`, `UsageError` where it does not fit. of: what takes it."""
    try:
        return _fitted(value, hint)
    except _UnfitError:
        where, words = f"{of}: " if of else "", list(_words(hint))
        if words and isinstance(value, str):
            known = ", ".join(words) + (", or none" if NoneType in get_args(hint) else "")
            message = f"{where}unknown {name} {_shown(value)}; known: {known}.{did_you_mean(value, words)}"
        else:
            message = f"{where}{name} = {_shown(value)}: expected {_described(hint)}."
        raise UsageError(message) from None


def given_by_name(entries: Sequence[str], *, of: str, example: str) -> dict[str, str]:
    """The texts of entries such as `"channels=128"` by name; `UsageError` for what is none, and for a name given twice.

    of: what the entries are given as, for the message.
    """
    given: dict[str, str] = {}
    for entry in entries:
        name, equals, text = (part.strip() for part in entry.partition("="))
        if not (name and equals and text):
            raise UsageError(f"{of}: {entry!r} is not name=value, as {example}.")
        if name in given:
            raise UsageError(f"{of}: {name} is given twice.")
        given[name] = text
    return given


# Values


class _UnfitError(Exception):
    """A value that is not what an annotation says."""


def _fitted(value: Any, hint: Any) -> Any:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _fitted_annotated(value, parts[0], parts[1:])
    if origin in (Union, UnionType):
        return _fitted_to_one(value, parts)
    if origin is Literal:
        return _fitted_word(value, parts)
    if hint is bool:
        return _fitted_bool(value)
    if hint in (int, float):
        return _fitted_number(value, hint)
    if origin is tuple or (origin is not None and origin is not Mapping and _is_sequence(origin)):
        return _fitted_sequence(value, origin, parts)
    if hint is Any or (hint is NoneType and (value is None or _says_none(value))):
        return None if hint is NoneType else value
    kind = origin or hint
    if isinstance(kind, type) and not getattr(kind, "_is_protocol", False) and not isinstance(value, kind):
        raise _UnfitError
    return value


def _fitted_annotated(value: Any, hint: Any, marks: Sequence[Any]) -> Any:
    for mark in marks:
        if isinstance(mark, Made):
            value = _from_json(value)
            try:
                mark.by(value)
            except Exception as error:  # whatever it is that makes, its own words are those of the description
                raise _UnfitError from error
            return value
    fitting = _fitted(value, hint)
    for mark in marks:
        if isinstance(mark, Within) and not mark.holds(fitting):
            raise _UnfitError
        if isinstance(mark, Spelled) and not re.fullmatch(mark.pattern, fitting, re.ASCII):
            raise _UnfitError
    return fitting


def _fitted_to_one(value: Any, hints: Sequence[Any]) -> Any:
    for hint in hints:
        try:
            return _fitted(value, hint)
        except _UnfitError:
            continue
    raise _UnfitError


def _fitted_word(value: Any, words: Sequence[Any]) -> Any:
    for word in words:
        same = type(value) is type(word) or (isinstance(value, Integral) and not isinstance(value, bool))
        if (same and value == word) or (isinstance(value, str) and value == str(word)):
            return word
    raise _UnfitError


def _fitted_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral | str):
        word = str(value).strip().casefold()
        if word in YES or word in NO:
            return word in YES
    raise _UnfitError


def _fitted_number(value: Any, kind: type) -> Any:
    if isinstance(value, str):
        try:
            value = json.loads(value.strip(), parse_constant=float)
        except ValueError:
            value = {"inf": math.inf}.get(value.strip().casefold())
    if type(value).__name__ in ("bool", "bool_") or not isinstance(value, Integral if kind is int else Real):
        raise _UnfitError
    try:
        number = kind(value)
    except OverflowError:
        raise _UnfitError from None
    if math.isnan(number):
        raise _UnfitError
    return number


def _is_sequence(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Sequence)


def _fitted_sequence(value: Any, origin: Any, parts: Sequence[Any]) -> tuple[Any, ...]:
    if isinstance(value, str):
        value = _from_json(value if value.strip().startswith("[") else f"[{value}]")
    if not isinstance(value, list | tuple) or not 0 < len(value) <= LONGEST_SEQUENCE:
        raise _UnfitError
    if origin is tuple and parts[-1] is not Ellipsis:
        if len(parts) != len(value):
            raise _UnfitError
        return tuple(_fitted(entry, part) for entry, part in zip(value, parts, strict=True))
    return tuple(_fitted(entry, parts[0]) for entry in value)


def _from_json(value: Any) -> Any:
    """What a text stands for; a value that is no text, or no JSON, as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _says_none(value: Any) -> bool:
    return isinstance(value, str) and value.strip().casefold() in ("none", "null")


def _is_plain(hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return any(isinstance(mark, Made) for mark in parts[1:]) or _is_plain(parts[0])
    if origin is Literal or hint in (int, float, bool, str, NoneType, Ellipsis):
        return True
    return (origin in (Union, UnionType, tuple) or _is_sequence(origin)) and all(map(_is_plain, parts))


def _words(hint: Any) -> Iterator[str]:
    if get_origin(hint) is Literal:
        yield from map(str, get_args(hint))
    elif get_origin(hint) in (Union, UnionType, Annotated):
        for part in get_args(hint):
            yield from _words(part)
    elif isinstance(hint, Spelled):
        yield hint.what


def _described(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        made = [mark.what for mark in parts[1:] if isinstance(mark, Made)]
        ranges = [f" {mark}" for mark in parts[1:] if isinstance(mark, Within)]
        return made[0] if made else _described(parts[0]) + "".join(ranges)
    if origin in (Union, UnionType):
        return " or ".join(map(_described, parts))
    if origin is Literal:
        return ("one of " if len(parts) > 1 else "") + ", ".join(map(repr, parts))
    if origin is tuple and parts[-1] is not Ellipsis:
        return f"a list of {len(parts)}, in which each is {_described(parts[0])}"
    if origin is tuple or _is_sequence(origin):
        return f"a list, in which each is {_described(parts[0])}"
    plain = {bool: "yes or no", int: "a whole number", float: "a number", str: "a text", NoneType: "none"}
    return plain.get(hint, f"a {getattr(hint, '__name__', hint)}")


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | list | tuple | NoneType) else type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."


# Settings of a detector: the thresholds and counts of its `selection`


def check_fields(settings: Any) -> None:
    """Of a frozen dataclass, in its `__post_init__`: the fields in the types of their annotations."""
    hints = get_type_hints(type(settings), include_extras=True)
    for entry in fields(settings):
        value = check_value(entry.name, getattr(settings, entry.name), hints[entry.name])
        object.__setattr__(settings, entry.name, value)


def with_selection(kind: type[Any]) -> Callable[[C], C]:
    """Of a module with thresholds and counts: `selection`, a `kind`, holds them, and each is an attribute as well.

    kind: a frozen dataclass that calls `check_fields`. Setting the attribute exchanges the selection for one with that
    value, so that it is checked.
    """

    def attribute(name: str) -> property:
        def read(module: Any) -> Any:
            return getattr(module.selection, name)

        def write(module: Any, value: Any) -> None:
            module.selection = replace(module.selection, **{name: value})

        return property(read, write)

    def decorate(module: C) -> C:
        for entry in fields(kind):
            setattr(module, entry.name, attribute(entry.name))
        return module

    return decorate


def settings_of(model: Any) -> dict[str, Any]:
    """All thresholds and counts of a detector and of its parts, such as `nms_threshold`, `proposer.nms_threshold`."""
    return {
        f"{name}.{entry.name}" if name else entry.name: getattr(module.selection, entry.name)
        for name, module in model.named_modules()
        if is_dataclass(getattr(module, "selection", None))
        for entry in fields(module.selection)
    }


def change_settings(model: Any, changes: Mapping[str, Any]) -> None:
    """Set thresholds and counts by the names that `settings_of` has; `UsageError` for an unknown one or a bad value.

    All of them are set, or none.
    """
    known = settings_of(model)
    changed: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        if name not in known:
            raise UsageError(f"There is no setting {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
        module, _, own = name.rpartition(".")
        changed.setdefault(module, {})[own] = value
    modules = {name: model.get_submodule(name) for name in changed}
    fresh = {name: replace(module.selection, **changed[name]) for name, module in modules.items()}
    for name, module in modules.items():
        module.selection = fresh[name]
