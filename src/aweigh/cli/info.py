"""`aweigh info`: what a checkpoint says about itself, or is known of a detector, without building it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aweigh.catalogue import detector_named, find_model
from aweigh.cli.flags import AsJson
from aweigh.cli.terminal import one_line
from aweigh.errors import counted


def command(model: str, /, *, as_json: AsJson = False) -> None:
    """Show what a checkpoint or a graph says about itself, or what is known of a detector with published weights.

    Args:
        model: A checkpoint, a graph that `aweigh export` wrote, the folder of a run, box, or a detector that `aweigh
            models` lists.
        as_json: Print all that is known as JSON.
    """
    from aweigh.runtime.open import model_header

    found = find_model(model)
    known = model_header(found) if isinstance(found, Path) else detector_named(found.detector)
    if as_json:
        print(json.dumps(known, ensure_ascii=False, indent=2))
        return
    rows = describe(known) if isinstance(found, Path) else describe_published(known)
    width = max(len(name) for name, _ in rows)
    print(model)
    print(*(f"  {name:<{width}}  {value}" for name, value in rows), sep="\n")


def describe(header: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The header as rows of name and value, the most asked for first."""
    from aweigh.header import selection_of, tiles_of

    names, ids = header["classes"]["names"], header["classes"]["ids"]
    arguments = ", ".join(f"{name}={value}" for name, value in header["arguments"].items())
    numbers = header.get("metrics", {})
    metrics = [
        f"{name} {value:.3f}" for name, value in numbers.items() if isinstance(value, int | float) and value >= 0
    ]
    training = header.get("training", {})
    config, epochs = training.get("config", {}), training.get("epoch")
    graph = header.get("graph", {})
    trained = "" if epochs is None else f"{counted(epochs, 'epoch')}, {counted(training.get('step', 0), 'step')}"
    rows = [
        ("detector", header["builder"] + (f" ({arguments})" if arguments else "")),
        ("classes", f"{len(names)}: " + ", ".join(f"{name} (id {ids[label]})" for label, name in enumerate(names))),
        ("resize", ", ".join(f"{name} {value}" for name, value in header["resize"].items())),
        ("tiles", str(tiles) if (tiles := tiles_of(header)) else None),
        ("selection", ", ".join(f"{name} {value}" for name, value in selection_of(header).items())),
        ("graph", ", ".join(f"{name} {value}" for name, value in graph.items() if value not in (None, False))),
        ("measured on", numbers.get("split")),
        ("metrics", ", ".join(metrics)),
        ("trained", trained),
        ("data", config.get("data")),
        ("data hash", header.get("data_hash")),
        ("licence", header.get("licence") or "not stated"),
        ("written by", f"aweigh {header.get('aweigh')}, torch {header.get('torch')}"),
    ]
    return [(name, one_line(str(value))) for name, value in rows if value not in (None, "")]


def describe_published(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What `aweigh.catalogue` knows of a detector; each of its published weights with metrics, source and licence."""
    rows = [("detector", row["name"]), ("parameters", f"{row['parameters']:,} with 80 classes")]
    for weights in row["weights"]:
        metrics = ", ".join(f"{name} {value:g}" for name, value in weights["metrics"].items()) or "not measured"
        rows += [(weights["name"], f"{metrics}; {weights['source']}"), ("licence", weights["licence"])]
    return rows
