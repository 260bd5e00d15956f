"""`aweigh export`: a detector as a file that runs without torch, written and compared with the detector."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aweigh.annotations.split import Split
from aweigh.arguments import change_settings, check_value, settings_of
from aweigh.catalogue import find_model
from aweigh.checkpoints.checkpoint import load_model
from aweigh.commands import evaluate
from aweigh.edit.held_out import split_to_measure
from aweigh.errors import GateError, UsageError
from aweigh.evaluation.measurement import Measurement
from aweigh.files import put_in_place, write_text
from aweigh.graphs.card import card_of
from aweigh.graphs.decoders.write import write_decoders
from aweigh.graphs.form import Form, Nms, To
from aweigh.graphs.gate import (
    TOLERANCES,
    WHOLE_IMAGES,
    Differences,
    Image,
    Tolerance,
    differences,
    found_by,
    images_to_compare,
)
from aweigh.header import tiles_of
from aweigh.images.resize import Resize
from aweigh.images.sources import images_of_several
from aweigh.inference.engine import TorchEngine
from aweigh.models.detector import Detector
from aweigh.predictor import Predictor, load
from aweigh.runtime.graph import Precision

if TYPE_CHECKING:
    from aweigh.graphs.int8 import Searched

SUFFIXES: dict[To, str] = {"onnx": ".onnx", "openvino": ".xml"}


def export(
    model: str | Path,
    output: str | Path | None = None,
    *,
    to: To = "onnx",
    weights: str = "",
    settings: Mapping[str, Any] | None = None,
    resize: Resize | str | None = None,
    size_hw: tuple[int, int] | None = None,
    batch: int | None = None,
    nms: Nms = "graph",
    precision: Precision = "float32",
    calibrate: str | Path | Sequence[str | Path] = (),
    search: bool = False,
    with_preprocess: bool = False,
    images: str | Path | Sequence[str | Path] = (),
    data: str | Path | Split | None = None,
    split: str = "",
    max_drop: float = 0.5,
) -> Path:
    """Write the detector as a file that `aweigh.load` takes where there is no torch, and compare what the two find.

    Beside the file lies its card, `NAME.json`: what was compared, and what a program that uses the file has to know.
    Where the two differ by more than the tolerance of the precision, the file is kept as `NAME.unverified.onnx`, and
    there is a `GateError`.

    model, weights: as `aweigh.load` takes them. output: `NAME.onnx`, or `NAME.xml` for OpenVINO, which lies beside a
    `NAME.bin`; when not given called as the model, in this folder. settings: thresholds and counts by name. resize:
    instead of the detector's own, or its size as `Resize.with_size` takes it. size_hw, batch: height and width,
    multiples of the detector's stride, and the number, of the images that it takes; None: any. nms: `"none"` gives
    every candidate, which the reader of the file suppresses. precision: what the network computes in; float16 stays
    float32 in a second stage, and bf16 is OpenVINO's. calibrate: sources of images (files, folders, archives ...),
    which show the ranges of int8. search: layers that harm most go back to float32 until int8 loses no more than
    `max_drop` on `data`, see docs/export.md. with_preprocess: the file takes an image as it was decoded, `[height,
    width, 3]` uint8, and resizes and pads it itself. images: sources to compare on; drawn when none is given. data,
    split: a labelled split as `aweigh.evaluate` takes it, on which COCO's AP of the file may be `max_drop` points below
    the model's.
    """
    started = time.perf_counter()
    asked = Form(check_value("to", to, To), size_hw, batch, check_value("nms", nms, Nms), precision)
    calibrate, images = _several(calibrate), _several(images)
    shows_ranges = images_of_several(calibrate)
    asked = replace(asked, calibrate=shows_ranges, whole_images=with_preprocess)
    path = _path(model, output, asked.to)
    detector, header = load_model(model, weights)
    change_settings(detector, settings or {})
    asked.check(detector)
    if search and (precision != "int8" or data is None):
        raise UsageError("--search goes with --precision int8 and --data DATA, on which it measures.")
    tiles = tiles_of(header)
    if tiles is not None and with_preprocess:
        raise UsageError(
            f"--with-preprocess: {model} was trained in tiles, which are cut and resized outside of a graph."
        )
    resized = Resize.from_dict(header["resize"])
    resized = resized.with_size(resize) if isinstance(resize, str) else resize or resized
    resize = replace(resized, within=size_hw)
    shown = images_to_compare(images, resize)
    measured = None if data is None else _split(model, data, split, detector)
    own = Predictor(TorchEngine.prepared(detector, "cpu"), resize, tiles=tiles)
    found = found_by(own.engine, shown, size_hw)
    kept: dict[str, Any] = {name: header[name] for name in ("metrics", "licence", "data_hash") if name in header}
    kept["tiles"] = tiles
    before = None if measured is None else evaluate(own, measured)
    searched = None
    if search and before is not None:
        searched = _searched(asked, detector, resize, kept, before, max_drop)
        asked = replace(asked, keep_float=searched.kept)
    path.parent.mkdir(parents=True, exist_ok=True)
    unverified = path.with_name(f"{path.stem}.unverified{path.suffix}")
    said = asked.write(detector, unverified, resize, kept)

    unseen = not any(map(len, found))  # as of random weights: then a second file without a threshold is compared
    exported = load(unverified)
    seen = _without_threshold(asked, detector, shown, resize) if unseen else _compared(asked, own, exported, shown)
    wrong = seen.beyond(tolerance_of(asked))
    precisions = {}
    if before is not None:
        precisions = {"model": before, "file": evaluate(exported, before.split)}
        wrong += _fallen(precisions, max_drop)
    card = card_of(
        unverified,
        said,
        named=path if not wrong else unverified,
        differences=seen,
        images=shown,
        threshold="0, since nothing was found above the detector's own" if unseen else "the detector's own",
        measured=precisions,
        max_drop=max_drop,
        wrong=wrong,
        computed_by=(own.engine.computed_by, exported.engine.computed_by),
        seconds=time.perf_counter() - started,
        inside=resize if with_preprocess else None,
        tolerance=tolerance_of(asked),
    )
    if asked.calibrate:
        card["int8"] = {"calibrate": [*map(str, calibrate)], "search": searched and searched.to_dict()}
    final = unverified if wrong else path
    if not wrong:
        for suffix in (".bin", ".xml") if asked.to == "openvino" else (".onnx",):
            put_in_place(unverified.with_suffix(suffix), path.with_suffix(suffix))
        unverified.with_suffix(".json").unlink(missing_ok=True)  # of a try before
        write_decoders(path, said)
    write_text(final.with_suffix(".json"), json.dumps(card, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
    if wrong:
        raise GateError(
            f"{final} does not find what {model} finds: {'; '.join(wrong)}. Its card {final.with_suffix('.json').name} "
            "says on which images."
        )
    return path


def _several(named: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    return [named] if isinstance(named, str | Path) else named


def _path(model: str | Path, output: str | Path | None, to: To) -> Path:
    """Where the file is written."""
    suffix = SUFFIXES[to]
    if output is None:
        found = find_model(model)
        named = isinstance(model, str) and not (isinstance(found, Path) and Path(model).exists())
        name = str(model) if named else Path(model).stem if Path(model).is_file() else Path(model).resolve().name
        return Path(name + suffix)
    path = Path(output)
    if path.suffix != suffix or path.is_dir():
        raise UsageError(f"-o {output}: --to {to} writes a file NAME{suffix}.")
    return path


def _compared(asked: Form, own: Predictor, file: Predictor, shown: Sequence[Image]) -> Differences:
    """Of what the detector finds, and the file as a user loads it."""
    if asked.whole_images:
        found = [[each(image.pixels, score=0) for image in shown] for each in (own, file)]
    else:
        found = [found_by(each.engine, shown, asked.size_hw) for each in (own, file)]
    most = own.engine.selection.max_detections
    return differences(*found, most=most, tolerance=tolerance_of(asked))


def _without_threshold(asked: Form, model: Detector, shown: Sequence[Image], resize: Resize) -> Differences:
    """Of a second file of the same network, and of the detector, that keep the best however low they score."""
    before = settings_of(model)
    change_settings(model, {"score_threshold": 0.0})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"all{SUFFIXES[asked.to]}"
        asked.write(model, file, resize, {})
        seen = _compared(asked, Predictor(TorchEngine.prepared(model, "cpu"), resize), load(file), shown)
    change_settings(model, before)
    return seen


def _searched(
    asked: Form, model: Detector, resize: Resize, kept: Mapping[str, Any], before: Measurement, max_drop: float
) -> Searched:
    """Which layers of the graph of a detector stay in float32. kept: of its header. before: what it reaches."""
    from aweigh.graphs.int8 import Quantizer, search

    with tempfile.TemporaryDirectory() as folder:
        plain, tried = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        replace(asked, to="onnx", precision="float32").write(model, plain, resize, kept)
        quantizer = Quantizer(plain, asked.calibrate)

        def drop(file: Path) -> float:
            after = evaluate(load(file), before.split)
            return max(own - its for _, own, its in _points(before, after))

        return search(quantizer, tried, drop, max_drop)


def _split(model: str | Path, data: str | Path | Split, split: str, detector: Detector) -> Split:
    if isinstance(data, Split):
        return data
    return split_to_measure(str(model), data, split, keypoints="keypoints" in detector.extras)


def _points(model: Measurement, file: Measurement) -> Iterator[tuple[str, float, float]]:
    """Each metric that has one with its AP, of the model and of the file."""
    for name, own in model.metrics.items():
        numbers = own.to_dict()
        if "AP" in numbers:
            yield name, 100 * numbers["AP"], 100 * file.metrics[name].to_dict()["AP"]


def _fallen(measured: Mapping[str, Measurement], max_drop: float) -> list[str]:
    """What COCO's AP of the file has lost beyond `max_drop` points, in words."""
    return [
        f"AP of {name} falls from {before:.1f} to {after:.1f} (at most {max_drop:g} points)"
        for name, before, after in _points(measured["model"], measured["file"])
        if before - after > max_drop
    ]


def tolerance_of(form: Form) -> Tolerance:
    """How far a file may be from its detector."""
    plain = TOLERANCES[form.precision]
    return WHOLE_IMAGES if form.whole_images and form.precision == "float32" else plain
