"""`aweigh predict`: objects found in images, drawn on them and written in a format that other programs read."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from aweigh.arguments import Share, check_value
from aweigh.catalogue import DEFAULT_MODEL
from aweigh.cli.detectors import find_detector, given_proposals, told_tiles
from aweigh.cli.flags import Batch, Cluster, Frames, ProposalsFile, Tracks, Views, Weights
from aweigh.cli.live import until_interrupted
from aweigh.cli.terminal import bar, log, one_line
from aweigh.errors import UsageError, check_reach, counted, printable
from aweigh.scenes import STREET

if TYPE_CHECKING:
    from aweigh.prediction.summary import Summary


def command(
    *pictures: str,
    data: Path | None = None,
    split: Annotated[str, Parameter(show_default=False)] = "",
    recursive: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    allow_net: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    output: Annotated[str, Parameter(alias="-o", allow_leading_hyphen=True)] = "out",
    model: Annotated[str, Parameter(alias="-m")] = DEFAULT_MODEL,
    proposals_file: ProposalsFile = None,
    score: float | None = None,
    classes: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="", show_default=False)] = (),
    format: str = "jsonl",
    camera: Path | None = None,
    resume: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    draw: bool = True,
    batch: Batch = 0,
    exif: Literal["apply", "ignore"] = "apply",
    value_range: Annotated[tuple[float, float] | None, Parameter(negative="")] = None,
    sample: Annotated[bool, Parameter(negative="")] = False,
    frames: Frames = Frames(),
    cluster: Cluster = Cluster(),
    weights: Weights = Weights(),
    views: Views = Views(),
    tracks: Tracks = Tracks(),
) -> int:
    """Find objects in images: draw the boxes, masks, keypoints and 3D boxes and write them to a file.

    With --cluster, parts of the file lie in OUTPUT/parts, where each is written once, and nothing is drawn.
    Boxes are in the pixels of the image as it is seen, after the rotation its EXIF data ask for. An image that
    cannot be read is named and left out; the others are done, and the command ends with 1.

    Args:
        pictures: Files, folders, patterns such as 'photos/**/*.jpg', archives (.zip, .tar, .tar.gz), lists of names
            (@list.txt, or @- for the standard input), videos, cameras (camera:0), folders and images in stores
            (s3://bucket/photos, gs://, abfs://), with --allow-net addresses (https://...) and streams (rtsp://...).
        data: In place of images a data set: its images, with the numbers and category ids they have there, and
            boxes in the pixels its own boxes are in. What --format coco then writes fits its annotations.
        split: Which part of the data: train, val, test, or as it is called there; all when not given.
        recursive: Of a folder take the images in its folders too.
        allow_net: Addresses, named here or in a list, may be fetched.
        output: Folder for images and videos with boxes and the file of detections; - writes the latter to the output
            stream.
        model: A checkpoint, a graph that `aweigh export` wrote (.onnx, .xml), the folder of a run (its best weights),
            or the name of a detector with published weights. The default, box, comes with aweigh and finds COCO's 80
            classes.
        score: Leave out detections below this score; 0.5 when not given, with --track 0.
        classes: Look for these classes only.
        format: jsonl: a line of JSON per image. parquet: a table with a row per image. coco: COCO's results. csv: a
            line per box. mot: the same as MOTChallenge has tracks. labelstudio and cvat: annotations to begin with,
            which Label Studio and CVAT import and people correct. yolo, voc, kitti and labelme: a file per image.
            geojson: a layer per image for maps, in the coordinates of a GeoTIFF.
            Masks are in jsonl, parquet, coco and cvat, keypoints in jsonl, parquet, coco, csv and labelstudio, 3D boxes
            in jsonl, parquet, coco and kitti, tracks in jsonl, parquet, coco, csv, mot and labelme.
        camera: For a detector that finds objects in space: a calibration file as KITTI has it (P2), or a folder with
            one for each image, by its name. When not given, it is looked for where KITTI has it, in calib beside the
            folder of images.
        resume: Go on where a run into this folder was stopped: do what is missing, and write the same file.
        draw: Draw what was found on the images.
        exif: Whether the rotation in a photograph's EXIF data is applied.
        value_range: For images of more than 8 bits: which values are black and white, as 0 4095.
        sample: An image to try things on, which comes along: a drawn street.
    """
    pictures = (*pictures, str(STREET)) if sample else pictures
    check_pictures(pictures, data, split, exif)
    if cluster.wanted:
        if (data, proposals_file, camera, frames, tracks) != (None, None, None, Frames(), Tracks()):
            raise UsageError("--cluster looks at images: leave out --data, proposals, cameras, frames and tracks.")
        from aweigh.cli.on_cluster import predict_on

        return predict_on(
            cluster,
            pictures,
            output,
            model,
            weights,
            views,
            format=format,
            recursive=recursive,
            allow_net=allow_net,
            score=0.5 if score is None else score,
            classes=classes,
            batch=batch,
            reading={"exif": exif, "value_range": value_range or "auto"},
        )
    check_output(output, resume)
    tracker = tracks.tracker()
    if score is not None:
        check_value("score", score, Share)
    if tracker is not None and data is not None:
        raise UsageError("--track goes with frames in order, and the images of --data DATA are in none.")
    check_reach("batch", batch or 1)
    from aweigh.images.sources import images_of, together
    from aweigh.images.sources.source import Images
    from aweigh.prediction.annotated_images import AnnotatedImages
    from aweigh.results.writers import format_named
    from aweigh.to_files import predict_files

    format_named(format)
    source: Images | AnnotatedImages
    if data is None:
        chosen = frames.choice()
        source = together(
            [images_of(name, recursive=recursive, allow_net=allow_net, frames=chosen) for name in pictures]
        )
    else:
        source = AnnotatedImages.of(data, split, distinct=format == "coco")
    predictor = find_detector(model, weights, views)
    if not predictor.tta.plain:
        log().print("\n".join(predictor.tta.describe(predictor.engine)))
    if predictor.tiles is not None:
        log().print(told_tiles(predictor.tiles, views))
    with until_interrupted(source), bar("predicting") as show:
        summary = predict_files(
            source,
            output,
            model=predictor,
            format=format,
            resume=resume,
            draw=draw,
            tracker=tracker,
            score=score,
            classes=classes,
            exif=exif,
            value_range=value_range or "auto",
            proposals=given_proposals(predictor.engine, proposals_file),
            camera=camera,
            batch=batch,
            progress=show,
            remark=lambda text: log().print(one_line(text)),
        )
    if not summary.finished_before:
        tell(summary, predictor.engine.computed_by, drawn=draw)
        tell_lost(summary, format, [*predictor.engine.extras, *["tracks"] * (tracker is not None)])
    if tracker is not None:
        log().print(tracker.told())
    return 1 if summary.failed or summary.not_drawn else 0


def check_pictures(pictures: Sequence[str], data: Path | None, split: str, exif: str) -> None:
    """Whether images are named, and in one way alone."""
    if data is not None and (pictures or exif != "apply"):
        raise UsageError("--data takes the images of a data set, rotated as they were annotated: name no others.")
    if split and data is None:
        raise UsageError(f"--split {split} goes with --data DATA.")
    if not pictures and data is None:
        raise UsageError(
            "Name the images: files, folders, patterns such as 'photos/**/*.jpg', archives or lists; or try --sample, "
            "an image that comes with aweigh."
        )


def check_output(output: str, resume: bool) -> None:
    """Whether it is a folder, or the output stream."""
    if not output:
        raise UsageError("-o is empty; name a folder, or - for the output stream.")
    if output == "-" and resume:
        raise UsageError("--resume goes on with what lies in a folder; name it with -o.")
    if output != "-" and Path(output).exists() and not Path(output).is_dir():
        raise UsageError(f"-o {output} is a file; name a folder, or - for the output stream.")


def tell(summary: "Summary", computed_by: str, *, drawn: bool) -> None:
    """How much was found, how quickly, and where it is."""
    read = summary.images - summary.failed
    names = ", ".join(f"{printable(name)} {count}" for name, count in summary.objects.most_common(8))
    more = f" and {counted(len(summary.objects) - 8, 'more class')}" if len(summary.objects) > 8 else ""
    looked_at = read - summary.done_before
    speed = f"; {summary.seconds / looked_at:.2f} s per image ({computed_by})" if looked_at > 0 else ""
    log().print(
        f"{counted(read, 'image')}, {counted(summary.objects.total(), 'object')}{f' ({names}{more})' if names else ''}"
        f"{speed}"
    )
    if summary.done_before:
        log().print(f"{counted(summary.done_before, 'image', 'was')} done before.")
    if summary.failed:
        log().print(f"{summary.failed} of {counted(summary.images, 'image')} could not be read.")
    if summary.file is not None:
        boxes = f"; boxes drawn in {summary.file.parent}" if drawn and read else ""
        log().print(f"Detections: {summary.file}{boxes}")


def tell_lost(summary: "Summary", format: str, extras: Sequence[str]) -> None:
    """What could not be written, or not as it should."""
    from aweigh.results import FORMATS

    if "cuboids" in extras and summary.without_camera:
        log().print(
            f"The camera of {counted(summary.without_camera, 'image')} is not known, nor where "
            "objects stand; --camera names a calibration file."
        )
    if summary.renamed_count:
        log().print(
            f"{counted(summary.renamed_count, 'file')} of detections could not be called as the image, whose name is "
            f"that of another or too long: {one_line('; '.join(summary.renamed))}",
        )
    if lost := [what for what in extras if what in FORMATS[format].left_out]:
        log().print(f"Format {format} has no place for {' and '.join(lost)}; --format jsonl and coco have.")
