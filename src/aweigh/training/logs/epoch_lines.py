"""What a run shows where there is no terminal."""

import math

from rich.console import Console

from aweigh.errors import counted
from aweigh.training.logs.callback import Beginning, Callback, Row


class EpochLines(Callback):
    """One plain line per epoch, where no table shows it."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def start(self, beginning: Beginning) -> None:
        self._epochs = beginning.epochs

    def epoch(self, row: Row, *, best: bool) -> None:
        self._console.print(epoch_line(row, self._epochs, best=best), markup=False, highlight=False, soft_wrap=True)


def epoch_line(row: Row, epochs: int, *, best: bool) -> str:
    """The means and metrics of an epoch, of so many, in words."""
    parts = ", ".join(f"{name.removeprefix('loss_')} {row[name]:.3f}" for name in row if name.startswith("loss_"))
    words = [f"epoch {row['epoch']}/{epochs}", f"loss {row.get('loss', math.nan):.3f} ({parts})"]
    if "val_loss" in row:
        names = [name for name in ("val_loss", "AP", "AP50", "mask_AP", "keypoint_AP") if name in row]
        words += [f"{name} {'-' if row[name] is None else f'{row[name]:.3f}'}" for name in names]
    words += [f"lr {row['lr']:.3g}", f"{row['seconds']:.0f} s, {row['data_share']:.0%} waiting for images"]
    if row["skipped_steps"]:
        words.append(f"{counted(row['skipped_steps'], 'step')} skipped (loss not finite)")
    return "  ".join(words) + ("  *best" if best and "AP" in row else "")
