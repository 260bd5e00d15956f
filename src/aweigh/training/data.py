"""The images a run trains and validates on: which splits, what is left out, what is set aside."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aweigh import distributed
from aweigh.annotations.proposals import read_proposals
from aweigh.annotations.records import EmptySplit
from aweigh.annotations.split import NEVER_LABELLED, REVIEWED, Split
from aweigh.edit.held_out import FILE as HELD_OUT
from aweigh.edit.held_out import HeldOut, choose
from aweigh.errors import DataError, UsageError, counted, did_you_mean
from aweigh.inference.supervision import takes_keypoints
from aweigh.layouts.finding import ALIASES
from aweigh.layouts.load import find_splits, load_split
from aweigh.training.config import TrainConfig


@dataclass(frozen=True)
class Data:
    """The splits of a run, and one line on where the validation images come from."""

    train: Split
    val: Split | None
    note: str
    held_out: bool = False  # `val` is a part of the training images, set aside


def held_out_by(folder: Path) -> HeldOut | None:
    """The list of what the run of a folder held out, None where it validates on a split of the data."""
    return HeldOut.read(folder / HELD_OUT) if (folder / HELD_OUT).exists() else None


def load_data(config: TrainConfig, held_out: HeldOut | None = None) -> Data:
    """The training split and the one to validate on; where there is none, a tenth of the training images is set aside.

    held_out: what the run has set aside already. The test split is never touched.
    """
    if not config.data and not config.annotations:
        raise UsageError("There is nothing to train on: give the folder of a data set, or annotations and images.")
    source = Path(config.data or config.images or Path(config.annotations).parent)
    keypoints = takes_keypoints(config.model)
    train = load_split(
        source,
        "train",
        annotations=config.annotations or None,
        images=config.images or None,
        classes=list(config.classes) or None,
        strict=config.strict,
        drop_empty=config.empty == "drop",
        keypoints=keypoints,
    )
    train, left_out = _teaching(train, config)
    known = () if config.annotations else tuple(find_splits(source, keypoints=keypoints))
    if config.val_split == "none":
        return Data(train, None, f"no validation: val_split is none{left_out}")
    name = ALIASES.get(config.val_split, config.val_split)
    why = "no val split"
    if name == "auto" and held_out is not None:
        return _apart(train, held_out.rows_in(train), "as before", why, left_out)
    if name in known or (name == "auto" and "val" in known):
        try:
            val = _validation(source, "val" if name == "auto" else name, train, config, keypoints)
        except EmptySplit as error:
            if name != "auto":
                raise
            why = f"the val split cannot be used ({str(error).rstrip('.')})"
        else:
            return Data(train, val, f"validation on {val.name}{left_out}")
    elif name != "auto":
        raise UsageError(
            f"val_split = {name!r}: {source} has only {', '.join(known) or 'what was given by hand'}; give one of "
            f"these, auto or none.{did_you_mean(name, known)}"
        )
    whole = np.flatnonzero(train.complete)
    if len(train) < 2 or len(whole) == 0:
        alone = "one training image cannot be divided" if len(train) < 2 else "every training image lost labels"
        return Data(train, None, f"no validation: {why}, and {alone}{left_out}")
    chosen = choose(train.take(whole), seed=config.seed) if distributed.is_main() and len(whole) > 1 else None
    rows, remark = distributed.from_main(chosen) or (np.arange(1), "")
    return _apart(train, whole[rows], f"a tenth{remark}", why, left_out)


def _validation(source: Path, name: str, train: Split, config: TrainConfig, keypoints: bool) -> Split:
    """The split of that name; `EmptySplit` where it has no image of which the objects are known."""
    try:
        val = load_split(source, name, classes=list(train.classes.names), strict=config.strict, keypoints=keypoints)
    except UsageError as error:
        load_split(source, name, keypoints=keypoints)  # an empty one, which need not name any class, is told as such
        named = find_splits(source, keypoints=keypoints)["train"].annotations
        raise DataError(
            f"{error} The splits must name the same classes; those of train come from {named}. `aweigh data check` "
            "compares them."
        ) from error
    val = _said_empty(val) if config.empty == "background" else val
    if not val.complete.any():
        count = counted(len(val), "image")
        raise EmptySplit(f"{val.root}: {name} has {count}, but nobody labelled them, or their labels are lost.")
    return val.measurable()


def _teaching(train: Split, config: TrainConfig) -> tuple[Split, str]:
    """The training images that teach something, and a remark on the others.

    Without a box, and without anybody's word that there is none to draw, an image gives no loss at all.
    """
    train = _said_empty(train) if config.empty == "background" else train
    rows = np.flatnonzero(train.complete | (np.diff(train.first) > 0))
    if len(rows) == len(train):
        return train, ""
    count = counted(len(train) - len(rows), "training image")
    what = f"; left out: {count}, never labelled or with all labels lost"
    return replace(train.take(rows), problems=train.problems), what


def _said_empty(split: Split) -> Split:
    """The split where an image that nobody labelled is one that shows nothing."""
    reviewed = np.where(split.reviewed == NEVER_LABELLED, REVIEWED, split.reviewed)
    return replace(split, reviewed=reviewed.astype(np.int8))


def _apart(train: Split, rows: Sequence[int] | np.ndarray, how: str, why: str, left_out: str) -> Data:
    """The training split without the images that are held out, and these."""
    val = train.take(rows, name="val")
    rest = replace(train.take(np.setdiff1d(np.arange(len(train)), rows)), problems=train.problems)
    note = f"{why}: {counted(len(val), 'training image')} set aside for validation, {how}{left_out}"
    return Data(rest, val, note, held_out=True)


def with_proposals(config: TrainConfig, data: Data, *, needed: bool) -> Data:
    """The data with the proposals of the configuration, which a detector must need, and cannot do without then."""
    if needed != bool(config.proposals_file):
        raise UsageError(
            f"{config.model} proposes no regions itself: give proposals_file, which `aweigh proposals` makes."
            if needed
            else f"proposals_file = {config.proposals_file!r}: {config.model} proposes regions itself; leave it out."
        )
    if not needed:
        return data
    given = read_proposals(config.proposals_file)
    train, val = data.train.with_proposals(given), data.val
    if val is not None:
        val = val.with_proposals(read_proposals(config.val_proposals_file) if config.val_proposals_file else given)
    return replace(data, train=train, val=val)
