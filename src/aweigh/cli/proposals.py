"""`aweigh proposals`: proposals for the images of a split, for Fast R-CNN, and how many objects they reach."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import aweigh
from aweigh.cli.detectors import find_detector
from aweigh.cli.flags import DATA_SET, Files, JsonFile, Loading, OwnIds, Weights
from aweigh.cli.terminal import bar, log, one_line, write_numbers
from aweigh.errors import UsageError, counted

if TYPE_CHECKING:
    from aweigh.annotations.proposals import Proposals
    from aweigh.annotations.split import Split
    from aweigh.evaluation.recall import ProposalRecall
    from aweigh.predictor import Predictor

SUFFIX = ".safetensors"


def command(
    source: str,
    data: Annotated[str, DATA_SET],
    /,
    *,
    split: str = "train",
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    number: int = 2000,
    json_file: JsonFile = None,
    own_ids: OwnIds = False,
    files: Files = Files(),
    weights: Weights = Weights(),
    loading: Loading = Loading(),
) -> None:
    """Write proposals for the images of a split, for Fast R-CNN, and measure how many objects they reach.

    A detector with a proposal network (Faster R-CNN and its kin) gives what its second stage would look at, any other
    its boxes, classes left aside. Prints the average recall of the best 100 and 1,000 of each image.

    Args:
        source: A checkpoint, a graph that `aweigh export` wrote (.onnx, .xml), the folder of a run (its best weights),
            box, or the name of a detector with published weights. Or a file: proposals that this command wrote,
            boxes in COCO's results format (.json), selective search as its authors gave it out (.mat).
        split: Which part of the data: train, val, test, or as it is called there.
        output: The file to write, NAME.safetensors; nothing is written when not given.
        number: How many of each image, best first.
    """
    from aweigh.evaluation.recall import recall_of
    from aweigh.files import atomic_file
    from aweigh.layouts.load import load_split

    loading.check()
    if number < 1:
        raise UsageError(f"--number {number}: expected a number of proposals above 0.")
    if output is not None and output.suffix != SUFFIX:
        raise UsageError(f"-o {output}: a file of proposals is called NAME{SUFFIX}; see docs/proposals.md.")
    predictor = detector_of(source, weights)
    part = load_split(data, split, strict=loading.strict, **files.to_dict())
    log().print(part.summary())
    found, unread = collect(source, predictor, part, number, data=data, loading=loading, own_ids=own_ids)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(output) as path:
            found.write(path)
        log().print(f"Proposals: {output}, {len(found.boxes):,} of {counted(len(found), 'image')}")
    tell_recall(recall_of(found, part, unread), found.made, part.without(unread), json_file)


def tell_recall(recall: "ProposalRecall", made: Mapping[str, Any], part: "Split", json_file: Path | None) -> None:
    print(recall.table())
    if json_file is not None:
        measured_on = {"split": part.name, "data_hash": part.content_hash}
        write_numbers(json_file, {**recall.to_dict(), "settings": {**made, "measured_on": measured_on}})


def detector_of(source: str, weights: Weights) -> "Predictor | None":
    """The detector of that name; None where it is a file of proposals."""
    from aweigh.annotations.proposals import is_proposals
    from aweigh.proposals.from_files import CONVERTED

    return None if Path(source).suffix in CONVERTED or is_proposals(Path(source)) else find_detector(source, weights)


def collect(
    source: str,
    predictor: "Predictor | None",
    part: "Split",
    number: int,
    *,
    data: str,
    loading: Loading,
    own_ids: bool = False,
) -> tuple["Proposals", list[int]]:
    """The `number` best proposals of each image of a split, in its order, from a detector or a file; and the rows of
    images that could not be read.

    predictor: of the source, see `detector_of`. data: the folder of the data set, whose name they keep. own_ids: as for
    `from_coco_results`.
    """
    from aweigh.annotations.proposals import read_proposals
    from aweigh.commands import propose
    from aweigh.proposals.from_files import CONVERTED, read_converted

    path, unread = Path(source), list[int]()
    made = {"source": path.name, "data": Path(data).resolve().name, "aweigh": aweigh.__version__}
    if predictor is None and path.suffix in CONVERTED:
        found, remarks = read_converted(path, part, number=number, made=made, own_ids=own_ids)
    elif predictor is None:
        given = part.with_proposals(read_proposals(path)).proposals
        assert given is not None
        found, remarks = given.best(number), []
    else:
        with bar("proposing", len(part)) as show:
            found, problems, unread = propose(
                predictor,
                part,
                number=number,
                made=made,
                batch=loading.batch,
                workers=loading.workers,
                progress=lambda done, total: show(done),
                max_bad=loading.max_bad,
            )
        remarks = [one_line(str(problem)) for problem in problems]
    for remark in remarks:
        log().print(f"  {remark}")
    return found, unread
