"""Flags out of the fields of a settings dataclass (`training/settings.py`), with their help texts and defaults."""

from collections.abc import Collection, Mapping
from dataclasses import fields, make_dataclass
from typing import Annotated, Any, get_origin

from cyclopts import Group, Parameter

from aweigh.cli.help import FirstFlags
from aweigh.training.settings import Settings, field_types, help_texts


def flags_of(kind: type[Settings], groups: Mapping[str, str], first: Collection[str]) -> Any:
    """A dataclass with every field of `kind` but `data`, each a flag that is None when not given.

    groups: the first field of each group of flags, in the order of the fields, and the name of the group. first: the
    fields that the help shows without being asked for all.
    """
    types, texts = field_types(kind), help_texts(kind)
    members, group = [], None
    for position, entry in enumerate(fields(kind)):
        if entry.name in groups:
            group = Group(groups[entry.name], sort_key=position, help_formatter=FirstFlags(first))
        if entry.name == "data":
            continue
        several = get_origin(types[entry.name]) is tuple
        flag = Parameter(
            help=texts[entry.name].replace("`", ""),
            alias="-o" if entry.name == "output" else None,
            group=group,
            show_default=_shown(entry.default),
            consume_multiple=several,
            negative="" if several else None,
        )
        members.append((entry.name, Annotated[types[entry.name] | None, flag], None))
    made = make_dataclass("Flags", members, frozen=True)
    made.__module__ = __name__  # the command line opens up classes of a module, and takes others as one value
    return Parameter(name="*")(made)


def _shown(default: Any) -> Any:
    """How the help shows a default: as it is typed; nothing for what means "not given"."""
    if default in ("", (), -1):
        return False
    text = " ".join(f"{value:.4g}" for value in default) if isinstance(default, tuple) else str(default)
    return lambda _: f"{default:.4g}" if isinstance(default, float) else text
