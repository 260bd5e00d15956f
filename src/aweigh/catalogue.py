"""What is known of each detector without building it, and which model is meant by what somebody calls it.

The former stands in `models/table.json`, which comes with the package.
Building all detectors takes half a minute. `python -m aweigh.cli.models` writes the table anew; the tests compare it
with the detectors. Each row holds:

name, parameters: with 80 classes. weights: what others have published for it. assignment: how it assigns points to
boxes: the fields of `aweigh.inspect.coverage.LevelRanges`, or "own" for another rule; missing where it assigns none.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aweigh.errors import UsageError, did_you_mean

DEFAULT_MODEL = "fcos_shufflenet_v2_x1_0_lite"  # small enough for a CPU; its weights come with the package
BOX = "box"  # what these weights are called
PACKAGED = Path(__file__).parent / "weights" / "box"  # the folder of their files
TABLE = Path(__file__).parent / "models" / "table.json"


def detectors() -> list[dict[str, Any]]:
    """A row for each detector, in the order of `aweigh.models.DETECTORS`."""
    rows: list[dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return rows


def detector_named(name: str) -> dict[str, Any]:
    """Its row; `UsageError` where there is none."""
    rows = {row["name"]: row for row in detectors()}
    if name not in rows:
        raise UsageError(f"There is no model {name!r}.{did_you_mean(name, rows)} Known: {', '.join(rows)}.")
    return rows[name]


@dataclass(frozen=True)
class Published:
    """A detector with weights that others have published. weights: their name, or a file of them."""

    detector: str
    weights: str


def find_model(model: str | Path, weights: str = "", *, graph: bool = False) -> Path | Published:
    """The checkpoint or graph that is meant, or the published weights of a detector.

    model: a checkpoint or graph; the folder of a run, whose best weights are meant; `box`, the detector that comes with
    the package; or any name that `aweigh models` lists, with the first of its published weights, or those of `weights`,
    a name or a file. What is called like a detector and lies in this folder is `./NAME`. graph: whether the detector of
    the package is meant as a graph, which needs no torch, and not as a checkpoint. `UsageError` where no model is
    called so, or nobody has published weights of it.
    """
    name = DEFAULT_MODEL if model == BOX else str(model)
    path = Path(name)
    if path.suffix == ".safetensors" and not weights and not path.is_dir():
        return path  # and nothing else is opened
    rows = {row["name"]: row for row in detectors()}
    if isinstance(model, str) and name in rows:
        files = {each["name"]: each["file"] for each in rows[name]["weights"]}
        if not files:
            raise UsageError(
                f"{name} has no published weights; name a checkpoint, which `aweigh train DATA --model {name}` writes."
            )
        weights = weights or next(iter(files))
        if weights != BOX or BOX not in files:
            return Published(name, weights)
        file: str = files[BOX]
        return (PACKAGED / file).with_suffix(".onnx" if graph else ".safetensors")
    nearest = did_you_mean(name, [BOX, *rows])
    if weights:
        raise UsageError(f"Weights ({weights}) go with the name of a detector, and {name!r} is none.{nearest}")
    if not name or not (path.suffix or path.exists()):
        raise UsageError(
            f"{name!r} is neither a checkpoint file nor a detector.{nearest} `aweigh models` lists the detectors."
        )
    if path.is_dir() and not (path / "best.safetensors").is_file():
        raise UsageError(f"{name} is a folder without best.safetensors; name a checkpoint or the folder of a run.")
    return path / "best.safetensors" if path.is_dir() else path
