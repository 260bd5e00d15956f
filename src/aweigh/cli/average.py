"""`aweigh average`: the mean of several checkpoints of one detector."""

from pathlib import Path

from aweigh.cli.flags import OutFile
from aweigh.errors import counted


def command(*checkpoints: Path, output: OutFile) -> None:
    """Write the mean of the weights of checkpoints of which each was trained on from another.

    It often does better than each of them; measure it, since it need not. The input size and the thresholds are those
    of the first.

    Args:
        checkpoints: Two or more .safetensors files of one detector that training wrote.
    """
    from aweigh.checkpoints.checkpoint import average

    average(checkpoints, output)
    print(f"{output}: the mean of {counted(len(checkpoints), 'checkpoint')}")
