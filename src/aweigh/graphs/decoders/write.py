"""Write the decoders of an exported detector beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aweigh.files import write_text

HERE = Path(__file__).parent
SUPPRESSION = {"class": "of_class", "agnostic": "agnostic", "soft": "soft", "none": "none"}  # as C++ can call it


def write_decoders(path: Path, header: Mapping[str, Any]) -> list[Path]:
    """The files `NAME_decode.py` and `NAME_decode.hpp` of the graph `path`. header: in its metadata."""
    python, cpp = (path.with_name(f"{path.stem}_decode{suffix}") for suffix in (".py", ".hpp"))
    write_text(python, (HERE / "decode.py").read_text(encoding="utf-8"))
    write_text(cpp, (HERE / "decode.hpp").read_text(encoding="utf-8") + cpp_card(header))
    return [python, cpp]


def cpp_card(header: Mapping[str, Any]) -> str:
    """What a header says, as the constant that `decode.hpp` reads, field by field."""
    graph, resize, selection, classes = (header[name] for name in ("graph", "resize", "selection", "classes"))
    values = {
        "resize_short": resize.get("short") or 0,
        "resize_long": resize.get("long") or 0,
        "antialias": resize["antialias"],
        "within": resize.get("within") or (0, 0),
        "size": graph["size_hw"] or (0, 0),
        "divisor": graph["stride_divisor"],
        "mean": [float(value) for value in graph["pixel_mean"]],
        "suppresses": graph["nms"] == "graph",
        "nms_threshold": float(selection["nms_threshold"]),
        "max_detections": selection["max_detections"],
        "names": classes["names"],
        "category_ids": classes["ids"],
    }
    lines = {name: _cpp(value) for name, value in values.items()} | {
        "nms": f"Suppress::{SUPPRESSION[selection['nms']]}"
    }
    fields = "\n".join(f"    card.{name} = {text};" for name, text in lines.items())
    return (
        "\nnamespace aweigh {\n\ninline const Card card = [] {\n    Card card;\n"
        f"{fields}\n    return card;\n}}();\n\n}}  // namespace aweigh\n"
    )


def _cpp(value: Any) -> str:
    """A value as C++ writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(_character(byte) for byte in value.encode()) + '"'
    if isinstance(value, float):
        return f"{value!r}f"
    return f"{{{', '.join(map(_cpp, value))}}}" if isinstance(value, list | tuple) else str(value)


def _character(byte: int) -> str:
    """A byte of a text in UTF-8: printable as it is, any other by its number."""
    return chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\' else f"\\{byte:03o}"
