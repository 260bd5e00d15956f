"""`aweigh shrink`: a checkpoint in half precision, for shipping."""

import json
from pathlib import Path

from aweigh.catalogue import find_model
from aweigh.cli.flags import OutFile
from aweigh.errors import UsageError


def command(model: str, /, *, output: OutFile, licence: str = "", metrics: Path | None = None) -> None:
    """Write a model in half precision, at half the size; it is used like the one it was made from.

    The names of files and folders on the machine that trained it are left out.

    Args:
        model: A checkpoint, the folder of a run, box, or a detector with published weights.
        licence: Licence of the weights, in place of what the checkpoint says.
        metrics: What `aweigh eval --json` wrote, in place of the numbers in the checkpoint.
    """
    from aweigh.checkpoints.checkpoint import shrink

    shrink(model, output, licence=licence, metrics=None if metrics is None else _numbers(metrics))
    source = find_model(model)
    before = f", was {source.stat().st_size / 1e6:.2f} MB" if isinstance(source, Path) else ""
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB{before}")


def _numbers(file: Path) -> dict[str, float]:
    """COCO's numbers of the whole split, by name."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {name: float(content[name]) for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} does not hold what `aweigh eval --json` writes ({error!r}).") from error
