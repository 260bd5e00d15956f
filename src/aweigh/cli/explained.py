"""What `aweigh explain` and `aweigh why-not` share: the detector, the objects that are named, and how it is shown."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from aweigh.cli.flags import changed
from aweigh.cli.terminal import log, one_line, output
from aweigh.errors import DataError, UsageError, some_of

if TYPE_CHECKING:
    import numpy as np

    from aweigh.classes import Classes
    from aweigh.explanation.explain import Explainer, Explanations, Fates
    from aweigh.explanation.why_not import Object
    from aweigh.models.detector import Detector

Picture = Annotated[Path | None, Parameter(alias="-o", show_default=False)]


def explainer(model: str, weights: str, settings: tuple[str, ...], resize: str, device: str) -> "Explainer":
    from aweigh.explanation.explain import Explainer

    return Explainer.load(model, weights, resize=resize or None, settings=changed(settings), device=device)


def show(said: "Explanations | Fates", *, as_json: bool, picture: Path | None) -> None:
    """On the output stream, and drawn."""
    if as_json:
        print(said.to_json())
    else:
        output().print(said.text(), soft_wrap=True)
    if picture is not None:
        from aweigh.files import atomic_file

        with atomic_file(picture) as path:
            said.draw().save(path)
        log().print(f"image: {one_line(str(picture))}")


def given_boxes(model: "Detector", file: Path | None, image: Path) -> "np.ndarray | None":
    """The proposals of an image, where the detector needs them."""
    from aweigh.annotations.proposals import read_proposals
    from aweigh.images.reader import read_size

    if model.needs_proposals and file is None:
        raise UsageError(
            f"{model.builder} proposes no regions itself: add --proposals-file FILE; `aweigh proposals` makes one."
        )
    if file is not None and not model.needs_proposals:
        raise UsageError(f"--proposals-file {file}: {model.builder} proposes regions itself; leave it out.")
    return None if file is None else read_proposals(file).of_picture(image, read_size(image))


def given_objects(
    named: Sequence[str], image: Path, classes: "Classes"
) -> "tuple[list[Object], Literal['apply', 'ignore']]":
    """The objects that --gt names, and whether the image is rotated as its EXIF data ask for to fit their boxes."""
    from aweigh.explanation.why_not import Object

    objects: list[Object] = []
    exif: Literal["apply", "ignore"] = "apply"
    for text in named:
        name, found, numbers = text.rpartition(":")
        if Path(text).exists() or not found:
            of_data, exif = _annotated(text, image, classes)
            objects += of_data
            continue
        try:
            box = tuple(float(side) for side in numbers.split(","))
        except ValueError:
            box = ()
        if len(box) != 4:
            raise UsageError(f"--gt {text}: expected NAME:X0,Y0,X1,Y1, as person:10,20,110,220, or a data set.")
        objects.append(Object(name, box))
    return objects, exif


def _annotated(data: str, image: Path, classes: "Classes") -> "tuple[list[Object], Literal['apply', 'ignore']]":
    """The objects of an image in a data set, but those that do not count and those of classes that are not looked
    for."""
    from aweigh.explanation.why_not import Object
    from aweigh.images.reader import read_size
    from aweigh.layouts.load import find_splits, load_split

    for name in find_splits(data):
        split = load_split(data, name)
        same = [row for row, path in enumerate(split.paths) if path.name == image.name]
        if not same:
            continue
        row = next((row for row in same if split.paths[row].resolve() == image.resolve()), same[0])
        height, width = split.sizes_hw[row].tolist()
        shown, stored = read_size(image), read_size(image, exif="ignore")
        if (height, width) not in (shown, stored):
            raise DataError(f"{image} is {shown[1]} x {shown[0]} px, but {data} says {width} x {height}; correct one.")
        there = split.objects(row)
        counting = ~(there["ignore"] | there["uncertain"])
        names = [split.classes.names[label] for label in there["labels"][counting].tolist()]
        if unknown := sorted({*names} - {*classes.names}):
            log().print(f"left out, not among the classes of the detector: {some_of(unknown)}")
        pairs = zip(names, there["boxes"][counting].tolist(), strict=True)
        known = [Object(name, tuple(box)) for name, box in pairs if name in classes.names]
        return known, "apply" if (height, width) == shown else "ignore"
    raise DataError(f"--gt {data}: it has no image {image.name}; name a data set that has it, or NAME:X0,Y0,X1,Y1.")
