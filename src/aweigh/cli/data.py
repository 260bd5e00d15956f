"""`aweigh data ...`: draw a data set to try things on, and look at one before training."""

from pathlib import Path

from cyclopts import App, Group

app = App(name="data", help="Make and inspect data sets.", help_format="plaintext", group_commands=Group("Commands"))


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


@app.command
def check(data: Path, /, *, annotations: Path | None = None, images: Path | None = None) -> int:
    """Say what is in a data set, and what is wrong with it. Ends with 3 where training would drop or change something.

    Parameters
    ----------
    data
        Folder of the data set: COCO, VOC or YOLO layout.
    annotations
        COCO file, when the folder is no known layout.
    images
        Image folder that goes with --annotations.
    """
    from aweigh.data.check import KEPT, remarks, report_lines
    from aweigh.data.formats import find_splits, load_split

    found = 0
    for name in find_splits(data, annotations=annotations, images=images):
        split = load_split(data, name, annotations=annotations, images=images)
        print(split.summary())
        if problems := [*split.problems, *remarks(split)]:
            print(report_lines(problems, f"{name}: "))
        found += sum(problem.action != KEPT for problem in problems)
    print(f"{found} problem{'s' * (found != 1)} that training would mend or leave out." if found else "No problems.")
    return 3 if found else 0
