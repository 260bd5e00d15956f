"""`aweigh data ...`: draw a data set to try things on, look at one before training, convert, merge and complete."""

from pathlib import Path

from cyclopts import App, Group

from aweigh.cli.check import check
from aweigh.cli.convert import complete, convert, merge

app = App(name="data", help="Make and inspect data sets.", help_format="plaintext", group_commands=Group("Commands"))
app.command(check)
app.command(convert)
app.command(merge)
app.command(complete)


@app.command
def synth(out: Path, /, *, train: int = 300, val: int = 60, test: int = 60, size: int = 256, seed: int = 0) -> None:
    """Draw scenes of textured shapes, with boxes, masks and keypoints, as a COCO data set.

    The same seed gives the same pictures. Some scenes are empty, and some hold a crowd region, as real data do.

    Parameters
    ----------
    out
        The folder to write.
    train
        Pictures to train on.
    val
        Pictures to validate on.
    test
        Pictures to test on.
    size
        Long side of the pictures in pixels.
    seed
        Number that decides every scene.
    """
    from aweigh.data.synthetic import write_synthetic

    write_synthetic(out, train=train, val=val, test=test, size=size, seed=seed)
    print(f"{train + val + test} pictures of shapes in {out} (train {train}, val {val}, test {test})")
