"""One self-describing safetensors file per model, and the state of a run that `--resume` goes on from.

A model file holds the weights and, under the metadata key `aweigh`, a JSON header that rebuilds everything else:
builder and arguments, class names and original ids, the resize step, thresholds and counts, metrics, training
configuration. Loading runs no code from the file and opens nothing else. Every write goes to a second file, is flushed
to the disk and renamed, so a file with the right name is always whole.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import aweigh
from aweigh.arguments import change_settings, check_arguments, settings_of
from aweigh.catalogue import Published, find_model
from aweigh.classes import Classes, KeypointSet
from aweigh.errors import AweighError, DataError, UsageError, counted, did_you_mean
from aweigh.files import atomic_file, safetensors_metadata
from aweigh.geometry.tiles import Tiles
from aweigh.header import FORMAT, METADATA_KEY, portable, read_header, selection_of
from aweigh.images.resize import Resize
from aweigh.models import DETECTORS, create
from aweigh.models.detector import Detector
from aweigh.weights.load import check_fit, load_strict

# In a configuration.
PATHS = (
    *("data", "annotations", "images", "init", "backbone_weights", "output", "resume"),
    *("proposals_file", "val_proposals_file"),
)


def save_model(
    path: str | Path,
    model: Detector,
    *,
    resize: Resize,
    tiles: Tiles | None = None,
    metrics: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    licence: str = "",
    data_hash: str = "",
) -> None:
    """Write the model and all that is needed to use it, atomically.

    model: a detector, with `builder`, `arguments` and `classes`. tiles: in which it was trained; None for whole images.
    metrics: what it reached, on which split. training: the configuration and the step it was saved at. licence: of the
    weights, as an SPDX expression.
    """
    header = header_of(
        model, resize=resize, tiles=tiles, metrics=metrics, training=training, licence=licence, data_hash=data_hash
    )
    _save(Path(path), plain(model.state_dict()), json.dumps(header, ensure_ascii=False, allow_nan=False))


def header_of(
    model: Detector,
    *,
    resize: Resize,
    tiles: Tiles | None = None,
    metrics: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    licence: str = "",
    data_hash: str = "",
) -> dict[str, Any]:
    """What `save_model` writes beside the weights."""
    return {
        "format": FORMAT,
        "builder": model.builder,
        "arguments": {name: portable(value) for name, value in model.arguments.items()},
        "classes": {"names": list(model.classes.names), "ids": list(model.classes.ids)},
        "resize": resize.to_dict(),
        **({} if tiles is None else {"tiles": asdict(tiles)}),
        "selection": settings_of(model),
        "metrics": dict(metrics or {}),
        "training": dict(training or {}),
        "data_hash": data_hash,
        "licence": licence,
        "aweigh": aweigh.__version__,
        "torch": torch.__version__,
    }


def load_model(
    model: str | Path, weights: str = "", *, device: torch.device | str = "cpu", diverged: bool = False
) -> tuple[Detector, dict[str, Any]]:
    """A detector in evaluation mode, and the header of its file; of published weights the one that `save_model` writes.

    model, weights: as `find_model` takes them. diverged: of a step that failed, whose weights may be no numbers; else
    such weights are refused. Torch's random numbers go on as if nothing had been loaded. A header that belongs to other
    weights than the file's costs no memory: its detector is laid out without any first.
    """
    found = find_model(model, weights)
    if isinstance(found, Published):
        with torch.random.fork_rng(devices=[]):
            detector = create(found.detector, weights=found.weights)
        return detector.to(device).eval(), _header_of_published(detector)
    header, state = read_header(found), _tensors(found)
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            check_fit(_built(header, found), state, what=str(found), diverged=diverged)
        detector = _built(header, found)
    load_strict(detector, state, what=str(found), diverged=diverged)
    return detector.to(device).eval(), header


def _header_of_published(model: Detector) -> dict[str, Any]:
    record = model.record
    assert record is not None  # of the weights it was created with
    shares = {name: value / 100 for name, value in record.metrics.items()}
    return header_of(model, resize=Resize(**record.resize), metrics=shares, licence=record.licence)


def contents(model: str | Path, weights: str = "") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a model, see `load_model`."""
    found = find_model(model, weights)
    if isinstance(found, Path):
        return read_header(found), _tensors(found)
    detector, header = load_model(model, weights)
    return header, plain(detector.state_dict())


def _built(header: Mapping[str, Any], path: str | Path) -> Detector:
    """The detector that a header describes, without its weights."""
    name = header["builder"]
    if name not in DETECTORS:
        raise UsageError(
            f"{path} holds a {name!r}, which is no detector of this version.{did_you_mean(name, DETECTORS)}"
        )
    try:
        # Here, since `create` takes more: weights and classes from elsewhere.
        arguments = check_arguments(DETECTORS[name], header["arguments"], plain=True)
        model = create(name, classes=_classes(header), **arguments)
        change_settings(model, selection_of(header))
    except AweighError as error:
        raise DataError(f"{path}: its Aweigh header builds no detector ({error}).") from error
    return model


def shrink(
    source: str | Path, target: str | Path, *, licence: str = "", metrics: Mapping[str, float] | None = None
) -> None:
    """Write a model, see `load_model`, with weights in float16 and without the paths of the machine it was trained on.

    licence, metrics: take the place of what the header says. A weight that float16 cannot hold is a `DataError`.
    """
    header, full = contents(source)
    state = {name: value.half() if value.is_floating_point() else value for name, value in full.items()}
    lost = [name for name, value in state.items() if not value.isfinite().all()]
    if lost:
        raise DataError(f"{source}: {lost[0]} has values that half precision cannot hold; ship the file as it is.")
    config = header.get("training", {}).get("config", {})
    header["training"] = {
        **header.get("training", {}),
        "config": {name: value for name, value in config.items() if name not in PATHS},
    }
    header["licence"] = licence or header.get("licence", "")
    header["metrics"] = dict(metrics) if metrics is not None else header.get("metrics", {})
    _save(Path(target), state, json.dumps(header, ensure_ascii=False, allow_nan=False))


def keep_cost(path: Path, precision: str, cost: Mapping[str, Any]) -> None:
    """Write into the header of a checkpoint what a number format costs, which `aweigh.header.costs_little` reads.

    cost: the AP that is lost as `lost_AP`, in shares, and what it was measured on.
    """
    header, state = read_header(path), _tensors(path)
    header["precisions"] = {**header.get("precisions", {}), precision: dict(cost)}
    _save(path, state, json.dumps(header, ensure_ascii=False, allow_nan=False))


def average(sources: Sequence[str | Path], target: str | Path) -> None:
    """Write the mean of the weights of several models of one detector, see `load_model`, each trained on from another.

    Trainings that begin at the same weights often end in one valley, whose middle does better than its walls (Wortsman
    et al. 2022, "Model soups"). Counters and everything but the weights are the first file's; its metrics are left
    out, since they are not those of the mean. Raises `UsageError` for fewer than two files and for different detectors.
    """
    if len(sources) < 2:
        raise UsageError("average: name two checkpoints or more.")
    headers, states = map(list, zip(*map(contents, sources), strict=True))
    shapes = {name: value.shape for name, value in states[0].items()}
    for path, header, state in zip(sources[1:], headers[1:], states[1:], strict=True):
        same = {name: value.shape for name, value in state.items()} == shapes
        if not same or any(header[what] != headers[0][what] for what in ("builder", "classes")):
            raise UsageError(
                f"average: {path} ({header['builder']}) and {sources[0]} ({headers[0]['builder']}) differ in detector, "
                "classes or the sizes of layers; only files of the same have a mean."
            )
    mean = {
        name: torch.stack([state[name].float() for state in states]).mean(dim=0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }
    header = {**headers[0], "metrics": {}, "training": {**headers[0].get("training", {}), "mean_of": len(sources)}}
    _save(Path(target), mean, json.dumps(header, ensure_ascii=False, allow_nan=False))


def start_from(model: Detector, source: str | Path, weights: str = "") -> str:
    """Copy the weights of one of the same detector into `model`; says in one line what was and was not loaded.

    source, weights: as `load_model` takes them.
    Rows that belong to a class or a keypoint are copied where one of the same name exists, the other rows stay as they
    are.
    """
    header, state = contents(source, weights)
    if header["builder"] != model.builder:
        raise UsageError(
            f"{source} holds a {header['builder']}, not a {model.builder}; give --model {header['builder']}."
        )
    own = model.state_dict()
    fresh, shared = {}, []
    # Behind the classes of a softmax stand rows of no class, if any, and "nothing".
    further = tuple(1 + each.get("unused_rows", 0) for each in (header["arguments"], model.arguments))
    for old, new, sides in _renamed(model, header):
        for name in sorted(name for name in sides if name in state and state[name].ndim == own[name].ndim):
            rows = _rows_by_name(own[name], state[name], old, new, sides[name], further)
            fresh[name] = f"{name} ({state[name].shape[sides[name]]}->{rows.shape[sides[name]]})"
            state[name] = rows
        shared += [name for name in new if name in old]
    load_strict(model, state, what=str(source))
    line = f"loaded {len(own) - len(fresh)} of {counted(len(own), 'tensor')}"
    if fresh:
        line += f"; new: {', '.join(fresh.values())}; rows kept by name: {', '.join(shared) or 'none'}"
    return line


_Names = tuple[str, ...]


def _renamed(model: Detector, header: Mapping[str, Any]) -> Iterator[tuple[_Names, _Names, dict[str, int]]]:
    """Classes and keypoints that are others in the model than in a file: names there, here, and what has rows of them.

    The latter is each state key whose shape depends on their number, and the side that does, seen by building the
    detector with one more.
    """
    wider: dict[str, Any]
    old, new = _classes(header).names, model.classes.names
    unused = [arguments.get("unused_rows", 0) for arguments in (header["arguments"], model.arguments)]
    if old != new or unused[0] != unused[1]:
        wider = {"num_classes": len(new) + 1}
        yield old, new, _grown(model, model.arguments, wider)
    if model.keypoint_set is not None:
        given = header["arguments"].get("keypoints")
        old, new = KeypointSet.of(given or KeypointSet.coco_person()).names, model.keypoint_set.names
        if old != new:
            wider = {"keypoints": {"names": [str(number) for number in range(len(new) + 1)]}}
            yield old, new, _grown(model, {**model.arguments, **wider}, {"classes": model.classes})


def _grown(model: Detector, arguments: Mapping[str, Any], classes: Mapping[str, Any]) -> dict[str, int]:
    with torch.device("meta"):
        wider = create(model.builder, **classes, **arguments).state_dict()
    own = model.state_dict()
    pairs = {name: (own[name].shape, value.shape) for name, value in wider.items() if name in own}
    return {
        name: next(side for side, (a, b) in enumerate(zip(*shapes, strict=True)) if a != b)
        for name, shapes in pairs.items()
        if shapes[0] != shapes[1]
    }


def _rows_by_name(own: Tensor, saved: Tensor, old: _Names, new: _Names, side: int, further: tuple[int, ...]) -> Tensor:
    """The model's own rows, those of names that the saved ones have too copied, and that of nothing behind them all.

    further: rows behind those with names, where there are any, in the saved ones and in the model's.
    """
    rows, source = own.clone().movedim(side, 0), saved.movedim(side, 0)
    for there, here in ((0, 0), further):
        if len(rows) == len(new) + here and source.shape == (len(old) + there, *rows.shape[1:]):
            for number, name in enumerate(new):
                if name in old:
                    rows[number] = source[old.index(name)].to(rows)
            kept = here if here == there else min(here, 1)
            rows[len(rows) - kept :] = source[len(source) - kept :].to(rows)
    return rows.movedim(0, side)


def save_state(folder: str | Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write the state of a run to `folder/state.safetensors`; the state before stays beside it as `previous`."""
    path = Path(folder) / "state.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": FORMAT, **values}, ensure_ascii=False)
    _save(path, plain(tensors), text, before_rename=lambda: _keep_previous(path))


def load_state(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """Tensors and values of the newest readable state in `folder`, and a remark where that is not the last one."""
    problems: list[str] = []
    for name in ("state.safetensors", "previous.safetensors"):
        path = Path(folder) / name
        try:
            text = safetensors_metadata(path).get(METADATA_KEY)
            if text is None:
                raise DataError(f"{path} has no Aweigh header.")
            return _tensors(path), json.loads(text), " ".join([*problems, f"Going on from {path}."] if problems else [])
        except (DataError, UsageError) as error:
            problems.append(str(error))
    raise DataError(f"There is no state to go on from in {folder}: {' '.join(problems)}")


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _save(
    path: Path, tensors: dict[str, Tensor], header: str, before_rename: Callable[[], object] = lambda: None
) -> None:
    with atomic_file(path) as aside:
        save_file(tensors, aside, metadata={"format": "pt", METADATA_KEY: header})
        before_rename()


def _keep_previous(path: Path) -> None:
    """Let `previous` name the file that `path` names, while `path` goes on naming it too where links exist."""
    previous = path.with_name("previous" + path.suffix)
    if not path.exists():
        return
    previous.unlink(missing_ok=True)
    try:
        os.link(path, previous)
    except OSError:  # a file system without hard links
        os.replace(path, previous)


def plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU in ordinary memory order, which is what safetensors writes."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}


def _classes(header: Mapping[str, Any]) -> Classes:
    return Classes(tuple(header["classes"]["names"]), tuple(header["classes"]["ids"]))


def _tensors(path: str | Path) -> dict[str, Tensor]:
    with _explained(path):
        return load_file(path)


@contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    """Turns what the safetensors library raises into one clear line."""
    if not Path(path).is_file():
        raise UsageError(f"There is no file {path}.")
    try:
        yield
    except (safetensors.SafetensorError, OSError) as error:
        raise DataError(f"{path} is truncated or is no safetensors file ({error}).") from error
