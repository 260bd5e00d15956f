"""`aweigh data ...`: draw a data set to try things on, look at one before training, convert, merge and complete."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from aweigh.cli.check import check
from aweigh.cli.convert import complete, convert, merge
from aweigh.cli.help import epilogue, several
from aweigh.errors import counted

app = several("data", "Check, convert, merge and complete data sets; draw one to try.", "data check")
for _command in (check, convert, merge, complete):
    app.command(_command, help_epilogue=epilogue(f"data {_command.__name__}"))


@app.command(help_epilogue=epilogue("data synth"))
def synth(
    out: Path,
    /,
    *,
    kind: Literal["shapes", "road", "mosaic"] = "shapes",
    train: int = 300,
    val: int = 60,
    test: int = 60,
    size: Annotated[int, Parameter(show_default=False)] = 0,
    seed: int = 0,
) -> None:
    """Draw scenes of textured shapes, with boxes, masks and keypoints, as a COCO data set, or of a road, as KITTI's;
    or mosaics, large images with small shapes, as COCO.

    The same seed gives the same images. Of the shapes, some scenes are empty, and some hold a crowd region, as real
    data do. On the road stand cars, pedestrians and cyclists, with the camera and their 3D boxes.

    Args:
        out: The folder to write.
        kind: What to draw: shapes, a road for detection in space, or mosaics for tiles.
        train: Images to train on.
        val: Images to validate on.
        test: Images to test on.
        size: Long side of the images in pixels; 256 for shapes, 1280 for a road and 1536 for mosaics when not given.
        seed: Number that decides every scene.
    """
    if kind == "road":
        from aweigh.scenes.road import write_road

        write_road(out, train=train, val=val, test=test, width=size or 1280, seed=seed)
    elif kind == "mosaic":
        from aweigh.scenes.mosaic import write_mosaics

        write_mosaics(out, train=train, val=val, test=test, side=size or 1536, seed=seed)
    else:
        from aweigh.scenes.shapes import write_synthetic

        write_synthetic(out, train=train, val=val, test=test, size=size or 256, seed=seed)
    what = {"shapes": "shapes", "road": "a road", "mosaic": "small shapes"}[kind]
    print(f"{counted(train + val + test, 'image')} of {what} in {out} (train {train}, val {val}, test {test})")
