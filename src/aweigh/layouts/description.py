"""What a YOLO `data.yaml` says, taken as text that anybody may have written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aweigh.annotations.records import MAX_CLASSES, distinct_names
from aweigh.errors import DataError, counted
from aweigh.files import read_text

MOST_BRACKETS = 5000  # ours: so many within each other take PyYAML a second, and four times as many sixteen


def read_description(file: Path) -> dict[str, Any]:
    """The keys of a YAML file; none when it holds something else than keys."""
    import yaml  # type: ignore[import-untyped]

    text = read_text(file)
    if text.count("[") + text.count("{") > MOST_BRACKETS:
        raise DataError(f"{file}: has more than {counted(MOST_BRACKETS, 'bracket')}, which takes too long to read.")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise DataError(
                f"{file}: refers back to parts of itself (*name), by which a small file can grow without end."
            )
        keys = [key.value for key, _ in getattr(yaml.compose(text, Loader=yaml.SafeLoader), "value", []) if key.value]
        if twice := {str(key) for key in keys if keys.count(key) > 1}:
            raise DataError(f"{file}: says {', '.join(sorted(twice))} twice; keep one of them.")
        content = yaml.safe_load(text)
    except DataError:
        raise
    except Exception as error:  # its constructors raise whatever Python's own types raise for a false number or date
        raise DataError(f"{file}: cannot be read as YAML ({' '.join(str(error).split())}).") from error
    return content if isinstance(content, dict) else {}


def class_names(file: Path, description: dict[str, Any]) -> tuple[str, ...] | None:
    """`names`, a list or an object by number (numbers left out stand for themselves); else as many as `nc` says."""
    names, count = description.get("names"), description.get("nc")
    if names is None and count is None:
        return None
    if isinstance(names, dict):
        wrong = [key for key in names if type(key) is not int or not 0 <= key < MAX_CLASSES]
        if wrong:
            raise DataError(
                f"{file}: names are numbered from 0 to {MAX_CLASSES - 1} at most, got {str(wrong[0])[:40]!r}."
            )
        names = [names.get(label, label) for label in range(max(names, default=-1) + 1)]
    elif names is None:
        if type(count) is not int or not 0 < count <= MAX_CLASSES:
            raise DataError(f"{file}: nc must be a number of classes from 1 to {MAX_CLASSES}, got {str(count)[:40]!r}.")
        names = list(range(count))
    if not isinstance(names, list) or not names:
        raise DataError(f"{file}: names must be a list of class names, got {str(names)[:40]!r}.")
    for name in names:
        if name is None or isinstance(name, list | dict | set | bytes):
            raise DataError(f"{file}: a class name must be a text, got {str(name)[:40]!r}.")
    return distinct_names([str(name) for name in names], file)
