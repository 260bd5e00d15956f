"""What a run is decided by, as one flat frozen dataclass: read from recipes, put together, checked, written.

A field is a number, a text, yes or no, or a tuple of these; numbers have their range beside them (`Share`, `Above0`
...). The text under a field is its help on the command line and in the documents. There is no inheritance and no
nesting; 0 or an empty text means "off" or "not given", so that every value can be written in TOML. Training a detector
(`config.py`) and training a backbone (`backbone/config.py`) use this alike. This file imports no torch.
"""

import ast
import inspect
import json
import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import Field, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from aweigh.arguments import Within
from aweigh.errors import UsageError, check_reach, did_you_mean


class Settings(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


C = TypeVar("C", bound=Settings)
Whole = Annotated[int, Within(0)]
WholeAbove0 = Annotated[int, Within(0, above=True)]
# What values of runs and recipes were once called.
FORMER_WORDS = {("precision", "fp32"): "float32", ("precision", "fp16"): "float16"}


def load_recipe(kind: type[Settings], path: str | Path) -> dict[str, Any]:
    """The values of a TOML recipe, checked: an unknown key or a wrong type is a `UsageError` that names it."""
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"The recipe {path} cannot be read: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"The recipe {path} is not valid TOML: {error}.") from error
    return {name: _checked(kind, name, value, where=f"in {path}") for name, value in values.items()}


def load_run(kind: type[Settings], folder: str | Path) -> dict[str, Any]:
    """The values that the run of a folder was begun with."""
    path = Path(folder) / "config.toml"
    if not path.is_file():
        raise UsageError(f"{folder} is no run folder to go on with: there is no {path}.")
    return load_recipe(kind, path)


def put_together(kind: type[C], *sources: tuple[str, Mapping[str, Any]]) -> tuple[C, dict[str, str]]:
    """The settings, and for each field where its value came from: the name of a source, or `default`.

    sources: each with its name and its values; the later goes before the earlier.
    """
    values, origin = {}, {entry.name: "default" for entry in fields(kind)}
    for source, given in sources:
        for name, value in given.items():
            values[name] = _checked(kind, name, value, where=f"from the {source}")
            origin[name] = source
    return kind(**values), origin


def check_ranges(settings: Settings) -> None:
    """`UsageError` for a number outside the range of its annotation; for `__post_init__`."""
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        if not isinstance(value, bool) and isinstance(value, int | float):
            for within in _ranges(hint):
                if not within.holds(value):
                    raise UsageError(f"{name} = {value}: expected a number {within}.")
        check_reach(name, value)


def to_toml(settings: Settings, origin: Mapping[str, str] | None = None) -> str:
    """The settings as a recipe that gives them again, each value with its origin as a comment."""
    rows = [(entry.name, _toml_value(getattr(settings, entry.name))) for entry in fields(settings)]
    if origin is None:
        return "".join(f"{name} = {value}\n" for name, value in rows)
    lines = [(f"{name} = {value}", origin.get(name, "default")) for name, value in rows]
    width = min(60, max(len(line) for line, _ in lines))
    return "".join(f"{line:<{width}}  # {source}\n" for line, source in lines)


def to_dict(settings: Settings) -> dict[str, Any]:
    """The settings as plain values for JSON."""
    values = {entry.name: getattr(settings, entry.name) for entry in fields(settings)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@cache
def help_texts(kind: type[Settings]) -> dict[str, str]:
    """The help text of each field: the string that stands under it in the class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for entry, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name) and isinstance(after, ast.Expr):
            texts[entry.target.id] = " ".join(str(ast.literal_eval(after.value)).split())
    return texts


@cache
def field_types(kind: type[Settings]) -> dict[str, Any]:
    """The type of each field without its range, as `int`, `tuple[float, ...]` or `Literal[...]`."""
    return get_type_hints(kind)


def _ranges(hint: Any) -> list[Within]:
    """The ranges that an annotation states, also as one of several types."""
    if get_origin(hint) is Annotated:
        return [mark for mark in get_args(hint)[1:] if isinstance(mark, Within)]
    return [within for part in get_args(hint) if get_origin(part) is Annotated for within in _ranges(part)]


def _checked(kind: type[Settings], name: str, value: Any, *, where: str) -> Any:
    """The value in the type of the field (whole numbers become float, lists tuples), else `UsageError`."""
    types = field_types(kind)
    if name not in types:
        raise UsageError(f"Unknown setting {name!r} {where}.{did_you_mean(name, types)}")
    expected = types[name]
    value = FORMER_WORDS.get((name, value), value) if isinstance(value, str) else value
    if get_origin(expected) is tuple and isinstance(value, list | tuple):
        parts = [_as_type(part, get_args(expected)[0]) for part in value]
        if None not in parts:
            return tuple(parts)
    elif (converted := _as_type(value, expected)) is not None:
        return converted
    choices = get_args(expected) if get_origin(expected) is Literal else ()
    hint = did_you_mean(value, choices) if isinstance(value, str) else ""
    raise UsageError(f"{name} = {value!r} {where}: expected {_described(expected)}.{hint}")


def _as_type(value: Any, expected: Any) -> Any:
    """The value as `expected`, or None where it is something else."""
    if get_origin(expected) in (Union, UnionType):
        return next((fitted for part in get_args(expected) if (fitted := _as_type(value, part)) is not None), None)
    if get_origin(expected) is Literal:
        return value if value in get_args(expected) else None
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if expected is str and isinstance(value, Path):
        return str(value)
    return value if type(value) is expected else None


def _described(expected: Any) -> str:
    if get_origin(expected) in (Union, UnionType):
        return " or ".join(_described(part) for part in get_args(expected))
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
