"""`aweigh average`: the mean of several checkpoints of one detector."""

from aweigh.cli.flags import OutFile
from aweigh.errors import counted


def command(*models: str, output: OutFile) -> None:
    """Write the mean of the weights of checkpoints of which each was trained on from another.

    It often does better than each of them; measure it, since it need not. The input size and the thresholds are those
    of the first.

    Args:
        models: Two or more of one detector: checkpoints, or folders of runs, whose best weights are meant.
    """
    from aweigh.checkpoints.checkpoint import average

    average(models, output)
    print(f"{output}: the mean of {counted(len(models), 'checkpoint')}")
