"""What is known of each detector without building it: `models/table.json`, which comes with the package.

Building all detectors takes half a minute. `python -m aweigh.cli.models` writes the table anew; the tests compare it
with the detectors. Each row holds:

name, parameters: with 80 classes. weights: what others have published for it. assignment: how it assigns points to
boxes: the fields of `aweigh.inspect.coverage.LevelRanges`, or "own" for another rule; missing where it assigns none.
"""

import json
from pathlib import Path
from typing import Any

from aweigh.errors import UsageError, did_you_mean

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
