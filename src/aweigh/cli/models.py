"""`aweigh models`: every detector that can be built, its size, and the weights others have published for it.

It answers from `aweigh.catalogue`; `python -m aweigh.cli.models` writes that table anew.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any

from aweigh.catalogue import TABLE, detectors
from aweigh.cli.flags import AsJson
from aweigh.cli.tables import print_table
from aweigh.cli.terminal import output
from aweigh.errors import UsageError

if TYPE_CHECKING:
    from aweigh.models import Detector


def command(which: str = "", /, *, as_json: AsJson = False) -> None:
    """List the detectors that can be built, and what is known of each.

    Parameters are counted with 80 classes. Under a detector stand the weights that others have published for it, with
    the metrics that their source states and their licence.

    Args:
        which: Only those with this word in their name, as resnet50; or with a name of this pattern, as 'fcos_*_fpn'.
        as_json: Print the table as JSON, with source, file and whole licence of all weights.
    """
    rows = chosen(detectors(), which)
    if as_json:
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    screen = output()
    print_table(screen, ("detector", "parameters", "licence"), list(lines(rows)), left=(0, 2))
    for known in {weights["file"]: weights for row in rows for weights in row["weights"]}.values():
        about = f"\n{known['name']}: {known['source']}\n  licence: {known['licence']}\n  file: {known['file']}"
        screen.print(about, soft_wrap=True)
    screen.print(
        "\nBuild one: aweigh.create(NAME, num_classes=3). Train one: aweigh train DATA --model NAME.", soft_wrap=True
    )


def chosen(rows: Sequence[Mapping[str, Any]], which: str) -> list[Mapping[str, Any]]:
    """The detectors with this word in their name, or whose name has this pattern; `UsageError` where none has."""
    wanted = which.strip().casefold()
    pattern = wanted if any(letter in wanted for letter in "*?[") else f"*{wanted}*"
    found = [row for row in rows if fnmatchcase(row["name"], pattern)]
    if not found:
        near = ", ".join(nearest(wanted, [row["name"] for row in rows]))
        advice = f"The nearest: {near}." if near else "`aweigh models` lists all of them."
        raise UsageError(f"There is no detector {which!r}, nor one with that in its name. {advice}")
    return found


def nearest(word: str, names: Sequence[str], count: int = 5) -> list[str]:
    """The names that are, begin with, or hold something close to the word; the closest first."""

    def closeness(name: str) -> float:
        parts = name.split("_")
        spans = [
            "_".join(parts[first:last]) for first in range(len(parts)) for last in range(first + 1, len(parts) + 1)
        ]
        return max(difflib.SequenceMatcher(None, word, span).ratio() for span in spans)

    by_name = {name: closeness(name) for name in names}
    return [name for name in sorted(names, key=lambda name: -by_name[name])[:count] if by_name[name] >= 0.6]


def lines(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """A row for each detector, then one for each of its published weights."""
    found = []
    for row in rows:
        found.append((row["name"], f"{row['parameters'] / 1e6:.1f} M", ""))
        for weights in row["weights"]:
            metrics = ", ".join(f"{name} {value:g}" for name, value in weights["metrics"].items())
            found.append((f"  {weights['name']}: {metrics or 'not measured'}", "", short(weights["licence"])))
    return found


def short(licence: str) -> str:
    """The name of the licence of weights, and a word where the data they were trained on forbid commerce."""
    return licence.split(" (")[0] + (", data NC" if "-NC" in licence else "")


def built(name: str) -> dict[str, Any]:
    """The entry of a detector in the table, by building it without making its weights."""
    import torch

    from aweigh.models import create

    with torch.device("meta"):
        detector = create(name)
    numbers = sum(parameter.numel() for parameter in detector.parameters())
    return {"name": name, "parameters": numbers, "weights": published(name), **assignment(detector)}


def assignment(detector: "Detector") -> dict[str, Any]:
    """How it assigns points to boxes, as the table has it; nothing where it does not."""
    from aweigh.inspect.coverage import LevelRanges
    from aweigh.models import fcos

    if detector.assign is None or detector.candidates is None:
        return {}
    if isinstance(detector.assign, partial) and detector.assign.func is fcos.assign:
        assert isinstance(detector.candidates, partial)
        return {"assignment": LevelRanges(**detector.candidates.keywords).to_json()}
    return {"assignment": "own"}


def published(name: str) -> list[dict[str, Any]]:
    """What is known of the published weights of a detector."""
    from aweigh.models import PUBLISHED

    keys = ("name", "metrics", "licence", "source", "file")
    return [{key: getattr(record, key) for key in keys} for record in PUBLISHED.get(name, {}).values()]


if __name__ == "__main__":
    from aweigh.models import DETECTORS

    rows = ",\n".join(json.dumps(built(name), ensure_ascii=False) for name in DETECTORS)
    TABLE.write_text(f"[\n{rows}\n]\n", encoding="utf-8")
