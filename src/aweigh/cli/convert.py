"""`aweigh data convert`, `merge` and `complete`: a data set in another layout, several as one, with proposed boxes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from aweigh.catalogue import Published, find_model
from aweigh.cli.flags import DATA_SET, SEVERAL, Files, Layout, Link, OutFolder, OwnIds
from aweigh.errors import UsageError, counted

if TYPE_CHECKING:
    from aweigh.annotations.split import Split
    from aweigh.classes import Classes
    from aweigh.edit.complete import Completed
    from aweigh.layouts.layout import MaskChoice


def convert(
    data: Annotated[Path, DATA_SET],
    /,
    *,
    to: Layout,
    out: OutFolder,
    split: Annotated[tuple[str, ...], SEVERAL] = (),
    masks: Literal["keep", "drop"] = "keep",
    link: Link = False,
    strict: bool = False,
    files: Files = Files(),
) -> int:
    """Write a data set in another layout, such as COCO, VOC or YOLO, and say what the new layout could not hold.

    The layout of the source is found by looking at it. The source is not changed.

    Args:
        split: Splits to write; all of them when not given.
        masks: For YOLO, whose lines are all of one kind: keep writes outlines, and objects without one as the rectangle
            of their box; drop writes boxes alone.
        strict: Write nothing and end with 3 where anything would be lost or left out.
    """
    from aweigh.layouts.save import not_held, writing_of

    writing_of(to)
    splits = _read(data, split, files)
    problems = _problems(splits, data)
    if strict and (lost := [*problems, *not_held(splits, to, masks)]):
        print(*lost, sep="\n")
        print(f"Things of {counted(len(lost), 'kind')} would be lost or left out; nothing was written.")
        return 3
    _write(splits, out, to, problems, link=link, masks=masks)
    return 0


def merge(
    *data: Path,
    out: OutFolder,
    map: tuple[str, ...] = (),
    to: Layout = "coco",
    link: Link = False,
    hold_out: tuple[Path, ...] = (),
) -> None:
    """Unite data sets by class name, keeping which classes each of them was labelled for.

    What a set was never labelled for is neither object nor background in its images, and training leaves it so. COCO
    files hold that; the other layouts do not.

    Args:
        data: Folders of the data sets, two or more.
        map: Classes to be called otherwise, as truck=car; may be given several times.
        hold_out: Data sets that will be used for evaluation, may be given several times: images of their val and test
            splits, and of those that are written, are left out of train. They are recognised by their bytes or their
            look.
    """
    from aweigh.edit import merge as merging
    from aweigh.edit.clean import hold_out as leave_out
    from aweigh.layouts.save import writing_of

    writing_of(to)
    if len(data) < 2:
        raise UsageError(f"Name two data sets or more to merge, got {len(data)}.")
    rename = _renamed(map)
    sources = {name: _read(folder) for name, folder in _distinct_names(data).items()}
    merged = merging.merge(sources, rename)
    if hold_out:
        if "train" not in merged.splits:
            raise UsageError("--hold-out takes images out of train, but no set has such a split.")
        held = {name: split for name, split in merged.splits.items() if name != "train"}
        merged.splits["train"], lines = leave_out(merged.splits["train"], held | _evaluated_on(hold_out))
        merged.remarks.extend(lines)
    problems = [line for name, splits in sources.items() for line in _problems(splits, name)]
    _write(merged.splits, out, to, [*problems, *merged.remarks], link=link)


def _renamed(entries: Sequence[str]) -> dict[str, str]:
    """Old name -> new name, of what --map says."""
    rename: dict[str, str] = {}
    for entry in entries:
        old, equals, new = (part.strip() for part in entry.partition("="))
        if not (old and equals and new):
            raise UsageError(f"--map is OLD=NEW, two class names such as truck=car, got {entry!r}.")
        if rename.get(old, new) != new:
            raise UsageError(f"--map calls {old!r} both {rename[old]!r} and {new!r}; give it one name.")
        rename[old] = new
    return rename


def _evaluated_on(folders: Sequence[Path]) -> dict[str, "Split"]:
    """The splits but train of the data sets of --hold-out."""
    held: dict[str, Split] = {}
    for name, folder in _distinct_names(folders).items():
        others = {f"{name} {key}": split for key, split in _read(folder).items() if key != "train"}
        if not others:
            raise UsageError(f"--hold-out {folder} has no split but train; name a set that is evaluated on.")
        held |= others
    return held


def complete(
    data: Annotated[Path, DATA_SET],
    /,
    *,
    results: Annotated[Path, Parameter(name="--with")],
    out: OutFolder,
    split: Annotated[tuple[str, ...], SEVERAL] = ("train",),
    score: float = 0.4,
    uncertain: float = 0.15,
    categories: str = "",
    own_ids: OwnIds = False,
    link: Link = False,
) -> None:
    """Add what a detector proposes for the classes that people did not label, and write it as COCO.

    Of a class that an image was labelled for, nothing is taken from the detector. Of the others, sure boxes become
    annotations with their score, less sure ones are marked as uncertain: training takes them neither for objects nor
    for background. Proposals are guesses; never evaluate on them. So only train is written unless --split says more.

    Args:
        results: Boxes in COCO's results format, as `aweigh predict --data DATA --format coco` writes them: image_id,
            category_id, bbox (x, y, width, height in pixels) and score. Images are found by the names in it and in the
            list beside it.
        split: Splits to complete and write.
        score: A box of this score or more becomes an object.
        uncertain: A box of this score or more, and less than --score, may be an object or not.
        categories: What the category ids mean: a COCO file with categories, or the detector: a checkpoint, a graph, the
            folder of a run, box, or one with published weights. When not given, what the list beside the results says,
            else COCO's own 80 ids.
    """
    from aweigh.edit import complete as completing
    from aweigh.weights.coco import COCO_CLASSES

    splits = _read(data, split)
    proposals = completing.read_proposals(results, _detector_classes(categories), otherwise=COCO_CLASSES)
    completed = completing.complete(splits, proposals, score=score, uncertain=uncertain, own_ids=own_ids)
    held = [name for name in completed.splits if name != "train"]
    warning = [f"{', '.join(held)}: holds guesses of a detector now; do not evaluate on it"] * bool(held)
    said = [*_problems(splits, data), *completed.remarks, *warning, *_added(completed)]
    _write(completed.splits, out, "coco", said, link=link)


def _detector_classes(categories: str) -> "Classes | None":
    from aweigh.classes import Classes
    from aweigh.layouts.coco import read_categories
    from aweigh.runtime.open import SUFFIXES, model_header

    if not categories:
        return None
    found = find_model(categories)
    if isinstance(found, Published):
        from aweigh.checkpoints.checkpoint import load_model

        return load_model(categories)[0].classes
    if found.suffix not in (".safetensors", *SUFFIXES):
        return read_categories(found)
    classes = model_header(found)["classes"]
    return Classes(tuple(classes["names"]), tuple(classes["ids"]))


def _added(completed: "Completed") -> Iterator[str]:
    """How many were added of each class, the commonest first."""
    sure, unsure = completed.objects, completed.uncertain
    both = sure + unsure
    width = max(map(len, both), default=0)
    for name, _ in both.most_common():
        yield f"  {name:<{width}}  {counted(sure[name], 'object'):>16}  {unsure[name]:>8,} uncertain"
    yield f"added: {counted(sure.total(), 'object')} and {counted(unsure.total(), 'uncertain box')}"


def _read(data: Path, wanted: tuple[str, ...] = (), files: Files = Files()) -> dict[str, "Split"]:
    from aweigh.layouts.finding import ALIASES
    from aweigh.layouts.load import load_split, load_splits

    if not wanted:
        splits, empty = load_splits(data, **files.to_dict())
        for problem in empty:
            print(f"{data}, {problem.where}: {problem.detail} It is left out.")
        return splits
    names = [ALIASES.get(name, name) for name in wanted]
    return {name: load_split(data, name, **files.to_dict()) for name in names}


def _distinct_names(folders: Sequence[Path]) -> dict[str, Path]:
    """Each data set by the name of its folder; numbered where two have the same."""
    named: dict[str, Path] = {}
    for folder in folders:
        name = folder.resolve().stem if folder.is_file() else folder.resolve().name
        number = 1
        while (text := f"{name}-{number}" if number > 1 else name) in named:
            number += 1
        named[text] = folder
    return named


def _problems(splits: dict[str, "Split"], source: object) -> list[str]:
    """A line for each kind of record that is not written as it was read, since it was mended or left out."""
    from aweigh.annotations.problems import CHANGED, DROPPED, SKIPPED, done

    actions = (CHANGED, DROPPED, SKIPPED)
    counts = Counter((p.kind, p.action) for split in splits.values() for p in split.problems if p.action in actions)
    return [f"{source}, {kind}: {done(count, action)}" for (kind, action), count in counts.items()]


def _write(
    splits: dict[str, "Split"], out: Path, to: str, said: list[str], *, link: bool, masks: "MaskChoice" = "keep"
) -> None:
    """Write them in a layout, and say what there is to be said, what the layout cannot hold, and what was written."""
    from aweigh.layouts.save import save_dataset

    lost = save_dataset(splits, out, to, pictures="link" if link else "copy", masks=masks)
    print(*said, *lost, sep="\n", end="\n" * bool(said or lost))
    for name, split in splits.items():
        uncertain = f", {int(split.uncertain.sum()):,} uncertain" if split.uncertain.any() else ""
        print(
            f"{name}: {counted(len(split), 'image')}, {counted(len(split.boxes), 'box')} of "
            f"{counted(len(split.classes), 'class')}{uncertain}"
        )
    print(f"Written to {out}")
