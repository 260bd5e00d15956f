"""`aweigh why-not`: what became of objects that are in an image, and in which test they were lost."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from aweigh.catalogue import DEFAULT_MODEL
from aweigh.cli.explained import Picture, explainer, given_boxes, given_objects, show
from aweigh.cli.flags import SEVERAL, AsJson, ProposalsFile, Settings, Size, WeightsName


def command(
    image: Path,
    /,
    *,
    gt: Annotated[tuple[str, ...], SEVERAL],
    score: float = 0.5,
    iou: float = 0.5,
    model: Annotated[str, Parameter(alias="-m")] = DEFAULT_MODEL,
    output: Picture = None,
    json: AsJson = False,
    weights: WeightsName = "",
    settings: Settings = (),
    resize: Size = "",
    device: str = "auto",
    proposals_file: ProposalsFile = None,
) -> None:
    """Say which objects of an image are found, and in which test the others were lost.

    Needs torch and a checkpoint.

    Args:
        image: A file.
        gt: The objects: each as NAME:X0,Y0,X1,Y1 in pixels of the image, or a data set that has the image, whose
            objects are then asked about.
        score: Detections from this score on count as found.
        iou: How much the box of a detection has to overlap that of the object.
        model: A checkpoint, the folder of a run, or the name of a detector with published weights; box comes with
            aweigh.
        output: Also draw each object that was not found, with the answer that came nearest.
        json: Print JSON in place of text.
        device: auto, cpu, cuda or mps.
    """
    detector = explainer(model, weights, settings, resize, device)
    objects, exif = given_objects(gt, image, detector.model.classes)
    proposals = given_boxes(detector.model, proposals_file, image)
    show(
        detector.why_not(image, objects, score=score, iou=iou, proposals=proposals, exif=exif),
        as_json=json,
        picture=output,
    )
