"""TensorBoard's event files, beside the log of a run."""

from aweigh.errors import UsageError
from aweigh.evaluation.metrics import NUMBERS
from aweigh.training.logs.callback import Beginning, Callback, Row


class Board(Callback):
    """`train/...` per step, `val/...` and `epoch/...` per epoch."""

    def start(self, beginning: Beginning) -> None:
        require_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        purge = beginning.step + 1 if beginning.step else None  # hides what was written after the state that is resumed
        self._writer = SummaryWriter(str(beginning.folder), purge_step=purge)

    def step(self, row: Row) -> None:
        self._write(row)

    def epoch(self, row: Row, *, best: bool) -> None:
        self._write(row)

    def end(self, *, complete: bool) -> None:
        self._writer.close()

    def _write(self, row: Row) -> None:
        for name, value in row.items():
            if name in ("kind", "step", "epoch") or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            validation = name in NUMBERS or "val_" in name
            group = "train" if row["kind"] == "step" else "val" if validation else "epoch"
            self._writer.add_scalar(f"{group}/{name.removeprefix('val_')}", value, row["step"])


def require_tensorboard() -> None:
    """`UsageError` where TensorBoard's writer is not installed; to be called before anything long begins."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UsageError(
            'tensorboard = true needs a package that is not installed: pip install "aweigh[track]"'
        ) from error
