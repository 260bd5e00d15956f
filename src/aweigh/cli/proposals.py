"""`aweigh proposals`: where to look in the pictures of a split, written for Fast R-CNN, and how much that reaches."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import aweigh
from aweigh.cli.common import bar, check_loading, find_detector, log, one_line
from aweigh.errors import UsageError, counted

if TYPE_CHECKING:
    from aweigh.annotations.proposals import Proposals
    from aweigh.annotations.split import Split

SUFFIX = ".safetensors"


def command(
    source: str,
    data: str,
    /,
    *,
    split: str = "train",
    output: Annotated[Path | None, Parameter(alias="-o", show_default=False)] = None,
    number: int = 2000,
    weights: Annotated[str, Parameter(show_default=False)] = "",
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    annotations: Path | None = None,
    images: Path | None = None,
    own_ids: Annotated[bool, Parameter(negative="")] = False,
    batch: Annotated[int, Parameter(show_default=False)] = 0,
    workers: int = 0,
    strict: Annotated[bool, Parameter(negative="")] = False,
    device: str = "auto",
) -> None:
    """Write where to look in the pictures of a split, for Fast R-CNN, and measure how many objects that reaches.

    A detector with a proposal network (Faster R-CNN and its kin) gives what its second stage would look at, any other
    its boxes, classes left aside. Prints the average recall of the best 100 and 1,000 of each picture.

    Parameters
    ----------
    source
        A checkpoint, or the name of a detector with --weights. Or a file: proposals that this command wrote, boxes in
        COCO's results format (.json), selective search as its authors gave it out (.mat).
    data
        Folder of the data set, in any layout that is read: COCO, VOC, YOLO, KITTI and more.
    split
        Which part of the data: train, val, test, or as it is called there.
    output
        The file to write, NAME.safetensors; nothing is written when not given.
    number
        How many of each picture, best first.
    weights
        Published weights by name (torchvision), or a file of them.
    json_file
        Write the numbers, with all they depend on, to this file.
    annotations
        COCO file, when the folder is no known layout.
    images
        Image folder that goes with --annotations.
    own_ids
        The image ids of results in COCO's format are those of DATA, though nothing beside them says so.
    batch
        Pictures that go through the network together; 1 on a CPU and 8 on a GPU when not given.
    workers
        Processes that read pictures; 0 reads in this one.
    strict
        Refuse data with problems, pictures that cannot be read among them, which are else left out of the numbers.
    device
        auto, cpu, cuda, cuda:1 or mps.
    """
    from aweigh.files import atomic_file
    from aweigh.layouts.load import load_split

    check_loading(batch, workers)
    if number < 1:
        raise UsageError(f"--number {number}: expected a number of proposals above 0.")
    if output is not None and output.suffix != SUFFIX:
        raise UsageError(f"-o {output}: a file of proposals is called NAME{SUFFIX}; see docs/proposals.md.")
    screen = log()
    part = load_split(data, split, annotations=annotations, images=images, strict=strict)
    screen.print(part.summary(), markup=False)
    how: dict[str, Any] = {"weights": weights, "batch": batch, "workers": workers, "device": device}
    found, unread = collect(source, part, number, data=data, strict=strict, own_ids=own_ids, **how)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(output) as path:
            found.write(path)
        screen.print(f"Proposals: {output}, {len(found.boxes):,} of {counted(len(found), 'picture')}", markup=False)
    measure(found, part, json_file, unread)


def measure(found: "Proposals", part: "Split", json_file: Path | None, unread: Sequence[int]) -> None:
    """Print the recall of the proposals of a split, and write it to a file where one is given.

    unread: rows of images that could not be read; they and their objects are left out.
    """
    import numpy as np

    from aweigh.evaluation.recall import average_recall
    from aweigh.files import write_text

    found = found.take(np.setdiff1d(np.arange(len(part)), np.array(unread, dtype=np.int64)))
    part = part.without(unread)
    recall = average_recall(part.to_coco(masks=False), found.results(part.image_ids))
    print(recall.table())
    if json_file is not None:
        settings = {**found.made, "measured_on": {"split": part.name, "data_hash": part.content_hash}}
        text = json.dumps({**recall.to_dict(), "settings": settings}, indent=2)
        json_file.parent.mkdir(parents=True, exist_ok=True)
        write_text(json_file, text + "\n")
        log().print(f"Numbers: {json_file}", markup=False)


def collect(
    source: str,
    part: "Split",
    number: int,
    *,
    data: str,
    weights: str,
    batch: int,
    workers: int,
    device: str,
    strict: bool,
    own_ids: bool = False,
) -> tuple["Proposals", list[int]]:
    """The `number` best proposals of each picture of a split, in its order, from a detector or a file; and the rows of
    pictures that could not be read.

    data: the folder of the data set, whose name they keep. strict: refuse such pictures. own_ids: as for
    `from_coco_results`.
    """
    from aweigh.annotations.proposals import is_proposals, read_proposals

    if number < 1:
        raise UsageError(f"number = {number}: expected a number of proposals above 0.")
    path = Path(source)
    made = {"source": path.name, "data": Path(data).resolve().name, "aweigh": aweigh.__version__}
    if path.suffix in CONVERTED:
        return _converted(path, part, number, made, own_ids=own_ids), []
    if is_proposals(path):
        given = part.with_proposals(read_proposals(path)).proposals
        assert given is not None
        return given.best(number), []
    from aweigh.prediction.proposals import propose

    predictor = find_detector(source, weights, device)
    with bar("proposing", len(part)) as show:
        found, problems, unread = propose(
            predictor.model,
            predictor.resize,
            part,
            number=number,
            made=made,
            batch=batch or predictor.usual_batch,
            device=predictor.device,
            workers=workers,
            progress=lambda done, total: show(done),
            max_bad=0.0 if strict else 1.0,
        )
    for problem in problems:
        log().print(f"  {one_line(str(problem))}", markup=False)
    return found, unread


def _converted(path: Path, part: "Split", number: int, made: dict[str, Any], *, own_ids: bool) -> "Proposals":
    from aweigh.results.proposals import from_coco_results, from_selective_search

    if path.suffix in (".pkl", ".pickle"):
        raise UsageError(
            f"{path} is a pickle, which can run code when it is read, so aweigh does not; docs/proposals.md says how "
            "to convert detectron's where you trust them."
        )
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    convert = partial(from_coco_results, own_ids=own_ids) if path.suffix == ".json" else from_selective_search
    found, remarks = convert(path, part, number=number, made=made)
    for remark in remarks:
        log().print(f"  {remark}", markup=False)
    return found


CONVERTED = (".json", ".mat", ".pkl", ".pickle")
