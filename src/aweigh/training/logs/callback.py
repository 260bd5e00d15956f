"""What a run tells whoever listens: `Callback`, which our own logs are and which `train` takes more of.

class Told(aweigh.Callback):
    def epoch(self, row, *, best):
        print(row["epoch"], row.get("AP"), "the best so far" if best else "")

aweigh.train("data", epochs=20, callbacks=[Told()])
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Row = Mapping[str, Any]  # of log.jsonl, whose columns docs/logs.md explains; None where a number is not finite


@dataclass(frozen=True)
class Beginning:
    """What is known before the first step.

    folder: of the run. epochs, total_steps: of the whole run. classes: the names in the order of their labels. select:
    the number that makes an epoch the best. step, epoch: those done, where the run goes on. earlier: the rows of these
    epochs.
    """

    folder: Path
    epochs: int = 0
    total_steps: int = 0
    classes: tuple[str, ...] = ()
    select: str = "AP"
    step: int = 0
    epoch: int = 0
    earlier: Sequence[Row] = ()


class Callback(Protocol):
    """Is told how a run goes, by the first of several processes alone; what it does not define does nothing.

    An exception in any of these ends the run, which can be resumed from its last saved state.
    """

    def start(self, beginning: Beginning) -> None:
        """Before the first step, once all that can be wrong with data and configuration has been checked."""
        return None

    def step(self, row: Row) -> None:
        """After each update of the weights: step, epoch, lr, loss, each part of it, grad_norm and seconds."""
        return None

    def epoch(self, row: Row, *, best: bool) -> None:
        """After each epoch, its validation and its checkpoints: means of the epoch, val_loss and the metrics.

        best: whether it is the best of the validated epochs so far. Told again where the run is ended before the state
        behind this epoch is saved, and resumed.
        """
        return None

    def end(self, *, complete: bool) -> None:
        """After all else, however the run ends. complete: whether it came to its own end."""
        return None
