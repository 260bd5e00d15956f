"""`aweigh export`: a detector as a file that other runtimes compute, and how far it is from the detector."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from aweigh.cli.flags import DATA_SET, Settings, Size, WeightsName, changed
from aweigh.cli.terminal import log, output
from aweigh.errors import UsageError, counted, printable

GRAPH = Group("The file", sort_key=50)
GATE = Group("How it is compared", sort_key=51)


def command(
    model: str,
    /,
    *,
    to: Annotated[Literal["onnx", "openvino"], Parameter(group=GRAPH)] = "onnx",
    output_file: Annotated[Path | None, Parameter(name="--output", alias="-o", group=GRAPH)] = None,
    size: Annotated[str, Parameter(group=GRAPH)] = "dynamic",
    batch: Annotated[str, Parameter(group=GRAPH)] = "dynamic",
    nms: Annotated[Literal["graph", "none"], Parameter(group=GRAPH)] = "graph",
    precision: Annotated[Literal["float32", "float16", "bf16", "int8"], Parameter(group=GRAPH)] = "float32",
    calibrate: Annotated[
        tuple[str, ...], Parameter(group=GRAPH, consume_multiple=True, negative="", show_default=False)
    ] = (),
    search: Annotated[bool, Parameter(group=GRAPH, negative="", show_default=False)] = False,
    with_preprocess: Annotated[bool, Parameter(group=GRAPH, negative="", show_default=False)] = False,
    images: Annotated[
        tuple[str, ...], Parameter(group=GATE, consume_multiple=True, negative="", show_default=False)
    ] = (),
    data: Annotated[Path | None, DATA_SET, Parameter(group=GATE)] = None,
    split: Annotated[str, Parameter(group=GATE, show_default=False)] = "",
    max_drop: Annotated[float, Parameter(group=GATE)] = 0.5,
    weights: WeightsName = "",
    settings: Settings = (),
    resize: Size = "",
) -> None:
    """Write a detector as a file that runs without torch, and compare what the two find.

    Normalisation, decoding and suppression are inside the file, and what the checkpoint says about itself. It is then
    loaded as `aweigh predict` loads it, and given the same images as the detector. Where they find something else, the
    file is kept as NAME.unverified.onnx, and the command ends with 4. NAME.json, the card, says what was compared, and
    what a program that uses the file has to know.

    Args:
        model: A checkpoint, the folder of a run (its best weights), box, or a detector with published weights.
        to: onnx: one file, for onnxruntime and many others. openvino: NAME.xml beside NAME.bin.
        output_file: The file to write; when not given called as the model, in this folder.
        size: Height and width of the padded images it takes, as 384x640; dynamic: any.
        batch: How many images it takes at a time; dynamic: any number.
        nms: none: it gives every candidate, and whoever reads it suppresses; `aweigh predict --nms` is then free.
        precision: What the network computes in; inputs, decoding and outputs are float32. float16: half the size, made
            for GPUs; onnxruntime computes it slowly on a CPU. bf16: of OpenVINO, on processors that have it. int8: the
            layers between the first and the heads' last; needs --calibrate, and --data to know what it costs.
        calibrate: Files, folders, patterns, archives or lists (@list.txt) of images like those it is to look at: they
            show the ranges of int8.
        search: With int8 and --data: the layers that harm most go back to float32 until AP falls by --max-drop at most.
        with_preprocess: It takes an image as it was decoded, uint8 of any size, and resizes and pads it itself.
        images: Files, folders, patterns, archives or lists to compare on; when not given, four drawn scenes and an
            image with nothing on it.
        data: Measure both on this data set too.
        split: Which part of the data: train, val, test, or as it is called there; val when not given.
        max_drop: Points of COCO's AP on the data that the file may lose.
    """
    from aweigh.graphs.export import export

    if split and data is None:
        raise UsageError(f"--split {split} goes with --data DATA.")
    path = export(
        model,
        output_file,
        to=to,
        weights=weights,
        settings=changed(settings),
        resize=resize or None,
        size_hw=size_of(size),
        batch=number_of(batch),
        nms=nms,
        precision=precision,
        calibrate=calibrate,
        search=search,
        with_preprocess=with_preprocess,
        images=images,
        data=data,
        split=split,
        max_drop=max_drop,
    )
    tell(path, json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))


def size_of(text: str) -> tuple[int, int] | None:
    """Height and width, or None for any."""
    if text == "dynamic":
        return None
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise UsageError(f"--size {printable(text)}: expected height and width as 384x640, or dynamic.")
    return int(height), int(width)


def number_of(text: str) -> int | None:
    """A number of images, or None for any."""
    if text == "dynamic":
        return None
    if not text.isdecimal():
        raise UsageError(f"--batch {printable(text)}: expected a number of images, or dynamic.")
    return int(text)


def tell(path: Path, card: Mapping[str, Any]) -> None:
    """The short table: what was compared, and how far the two are from each other."""
    from aweigh.cli.tables import print_table

    gate = card["gate"]
    share = gate["tolerance"]["share"]
    print_table(output(), ("", "difference" if share == 1 else f"difference of {share:.0%}", "at most"), [*rows(gate)])
    for name, found in card.get("average_precision", {}).items():
        if isinstance(found, dict):
            model, file = (100 * found[who] for who in ("model", "file"))
            print(f"AP of {name}: {model:.1f}, of the file {file:.1f}{lost_most(found['per_class'])}")
    if searched := card.get("int8", {}).get("search"):
        print_table(output(), ("layer", "harm", "computes in"), [*searched_rows(searched)])
    differences, images = gate["differences"], gate["images"]
    log().print(
        f"{counted(differences['detections'], 'detection')} on {counted(len(images), 'image')}; "
        f"score threshold: {gate['score_threshold']}"
    )
    size = sum(card["bytes"].values()) / 1e6
    log().print(f"{path}: {size:.1f} MB, {card['precision']}, computed by {gate['computed_by']}")
    beside = ", ".join(f"{path.stem}{name}" for name in (".json", "_decode.py", "_decode.hpp"))
    log().print(f"Beside it its card, and what reads its outputs in NumPy and C++: {beside}")


def lost_most(per_class: Mapping[str, Mapping[str, float]]) -> str:
    """The classes whose AP falls most, in words."""
    lost = sorted((100 * (each["file"] - each["model"]), name) for name, each in per_class.items())
    return "".join(f"; {name} {points:+.1f}" for points, name in lost[:5] if points <= -0.05)


def searched_rows(searched: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """A row of the table for each layer that was measured."""
    for layer, harm in searched["harm"].items():
        yield layer, f"{harm:.1%}", "float32" if layer in searched["float32"] else "int8"


def rows(gate: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """A row of the table for each thing that was compared."""
    found, most = gate["differences"], gate["tolerance"]
    yield "boxes", f"{found['boxes_px']:.2g} px", f"{most['boxes_px']:g} px"
    yield "scores", f"{found['scores']:.2g}", f"{most['scores']:g}"
    for name, value in found["extras"].items():
        yield name, f"{value:.2g}", f"{most['scores' if name == 'masks' else 'boxes_px']:g}"
    at_limit = f" and {found['at_limit']} at the score limit" if found["at_limit"] else ""
    yield "found by one alone", f"{found['unmatched']}{at_limit}", f"{most['unmatched']:.0%}"
