"""`aweigh shrink`: a checkpoint in half precision, for shipping."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def command(checkpoint: Path, /, *, output: Annotated[Path, Parameter(alias="-o")], licence: str = "") -> None:
    """Write a checkpoint in half precision, at half the size; it is used like the one it was made from.

    The names of files and folders on the machine that trained it are left out.

    Parameters
    ----------
    checkpoint
        A .safetensors file that training wrote.
    output
        The file to write.
    licence
        Licence of the weights, in place of what the checkpoint says.
    """
    from aweigh.engine.checkpoint import shrink

    shrink(checkpoint, output, licence=licence)
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB, was {checkpoint.stat().st_size / 1e6:.2f} MB")
