"""`aweigh explain`: where detections come from, and what their scores rest on."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from aweigh.catalogue import DEFAULT_MODEL
from aweigh.cli.explained import Picture, explainer, given_boxes, show
from aweigh.cli.flags import AsJson, ProposalsFile, Settings, Size, WeightsName


def command(
    image: Path,
    /,
    *,
    box: Annotated[int | None, Parameter(show_default=False)] = None,
    score: float = 0.5,
    model: Annotated[str, Parameter(alias="-m")] = DEFAULT_MODEL,
    output: Picture = None,
    json: AsJson = False,
    weights: WeightsName = "",
    settings: Settings = (),
    resize: Size = "",
    device: str = "auto",
    proposals_file: ProposalsFile = None,
) -> None:
    """Say where the detections of an image come from: place, parts of the score, tests, what they suppressed.

    Needs torch and a checkpoint.

    Args:
        image: A file.
        box: Only the detection of this number, from 1, the best first.
        score: Detections from this score on.
        model: A checkpoint, the folder of a run, or the name of a detector with published weights; box comes with
            aweigh.
        output: Also draw each detection on the image, over a heat map of what its score rests on.
        json: Print JSON in place of text.
        device: auto, cpu, cuda or mps.
    """
    detector = explainer(model, weights, settings, resize, device)
    proposals = given_boxes(detector.model, proposals_file, image)
    found = detector.explain(image, box=box, score=score, proposals=proposals, evidence=output is not None)
    show(found, as_json=json, picture=output)
