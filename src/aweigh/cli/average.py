"""`aweigh average`: the mean of several checkpoints of one detector."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from aweigh.errors import counted


def command(*checkpoints: Path, output: Annotated[Path, Parameter(alias="-o")]) -> None:
    """Write the mean of the weights of checkpoints of which each was trained on from another.

    It often does better than each of them; measure it, since it need not. The input size and the thresholds are those
    of the first.

    Parameters
    ----------
    checkpoints
        Two or more .safetensors files of one detector that training wrote.
    output
        The file to write.
    """
    from aweigh.checkpoints.checkpoint import average

    average(checkpoints, output)
    print(f"{output}: the mean of {counted(len(checkpoints), 'checkpoint')}")
