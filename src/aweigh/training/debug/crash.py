"""A step that failed, kept in a folder that says what happened and from which it can be computed again on any machine.

`RUN/crash-000123/` (the number is the step) holds

    crash.json            why; images, files, boxes, losses, what each level held, the first bad module; configuration
    batch.safetensors     the images as the network saw them, their targets, the state of the random generator
    model.safetensors     the weights before the step, as any checkpoint: `aweigh info` and `predict` read it too

`write_bundle` writes it beside its place and renames it as a whole, `read_bundle` reads it; no code is run from it.
"""

import copy
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor

import aweigh
from aweigh import distributed
from aweigh.arguments import change_settings, settings_of
from aweigh.checkpoints.checkpoint import load_model, plain, save_model
from aweigh.errors import DataError, UsageError
from aweigh.feeding.batches import Batch
from aweigh.files import atomic_file, atomic_folder, numbered, write_text
from aweigh.inference.device import How
from aweigh.models import create
from aweigh.models.detector import Detector
from aweigh.structures import Images, Targets
from aweigh.training.debug.replay import Blame, Examination, blame, examine, in_one_line
from aweigh.training.prepare import Run
from aweigh.training.settings import to_dict

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Bundle:
    """A failed step as it was kept. record: what `crash.json` says. model: in training mode, as before the step."""

    folder: Path
    record: dict[str, Any]
    model: Detector
    batches: list[Batch]
    random_state: Tensor

    @property
    def precision(self) -> torch.dtype:
        """The number format of the network in the run."""
        return PRECISIONS[self.record["precision"]]

    def how(self, precision: torch.dtype = torch.float32) -> How:
        """Computation on the CPU, in the memory order of the run."""
        return replace(_how(self.record), precision=precision)

    def examine(self, precision: torch.dtype = torch.float32, *, lines: bool = True) -> Examination:
        """The step again, from its own random state; that of the caller stays."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.random_state)
            return examine(copy.deepcopy(self.model), self.batches, self.how(precision), lines=lines)

    def blame(self, batch: int, precision: torch.dtype = torch.float32) -> Blame:
        """Which images and annotations of a batch make it fail, on the CPU."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.random_state)
            return blame(copy.deepcopy(self.model), self.batches[batch], self.how(precision))


PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def write_bundle(
    run: Run,
    group: Sequence[Batch],
    *,
    reason: str,
    losses: Mapping[str, float],
    gradient_norm: float,
    random_state: Tensor,
    step: int | None = None,
) -> Path:
    """Keep a step that failed, and what can be found out about it here, in the run folder; returns the bundle's folder.

    run: with the weights as they were before the step. group: the batches of the step. losses, gradient_norm: as the
    step saw them; empty and NaN where it raised. random_state: of torch's generator on the CPU before the step's first
    forward pass. step: its number, `run.step` unless given. Of several processes each keeps its own images.
    """
    step = run.step if step is None else step
    rank = distributed.rank()
    folder = numbered(run.folder / (f"crash-{step:06d}" + (f"-process{rank}" if rank else "")))
    with atomic_folder(folder) as aside:
        tensors = {f"{number}.{name}": value for number, batch in enumerate(group) for name, value in _flat(batch)}
        tensors["random"] = random_state
        with atomic_file(aside / "batch.safetensors") as path:
            save_file(plain(tensors), path)
        training = {"epoch": run.epoch, "step": step, "config": to_dict(run.config)}
        save_model(aside / "model.safetensors", run.model, resize=run.resize, tiles=run.config.tiles, training=training)
        record = {
            "format": FORMAT,
            "reason": reason,
            "step": step,
            "epoch": run.epoch + 1,
            "lr": _learning_rate(run.optimizer),
            "losses": dict(losses),
            "gradient_norm": gradient_norm,
            "precision": str(run.how.precision).removeprefix("torch."),
            "device": torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else run.device.type,
            "processes": distributed.world_size(),
            "scale": run.scaler.get_scale() if run.scaler.is_enabled() else 1.0,
            "batches": [_describe(run, batch) for batch in group],
            "config": to_dict(run.config),
            "data_hash": run.data.train.content_hash,
            "versions": {
                "aweigh": aweigh.__version__,
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
                "python": platform.python_version(),
            },
            "examination": _examined(run, group, random_state),
        }
        write_text(aside / "crash.json", _to_json(record))
    return folder


def kept(run: Run, group: Sequence[Batch], **what: Any) -> str:
    """`write_bundle`, as a sentence for the end of the error that ends the run, also where nothing could be written."""
    try:
        folder = write_bundle(run, group, **what)
    except OSError as error:
        return f"The failed step could not be kept ({error.strerror or error})."
    return f"The failed step is kept; to look into it: aweigh debug {folder}"


def read_bundle(folder: str | Path) -> Bundle:
    """The bundle of that folder. `UsageError` where there is none, `DataError` where a part is missing or broken."""
    folder = Path(folder)
    if not (folder / "crash.json").is_file():
        inside = sorted(path.name for path in folder.glob("crash-*") if (path / "crash.json").is_file())
        hint = f" It holds {', '.join(inside)}; give one of these." if inside else " It has no crash.json."
        raise UsageError(f"{folder} is no folder that a failed step was kept in.{hint if folder.is_dir() else ''}")
    try:
        record = _from_json((folder / "crash.json").read_text(encoding="utf-8"))
        version = record["format"]
        if not isinstance(version, int) or version > FORMAT:
            raise UsageError(f"{folder} has format {version}, this version reads up to {FORMAT}; update aweigh.")
        tensors = load_file(folder / "batch.safetensors")
        batches = [_batch(tensors, number, entry) for number, entry in enumerate(record["batches"])]
        missing = {"reason", "step", "epoch", "lr", "losses", "gradient_norm", "config", "device"} - record.keys()
        if missing or record["precision"] not in PRECISIONS or not batches:
            raise ValueError(f"crash.json lacks {', '.join(sorted(missing)) or 'its precision or batches'}")
        random_state = tensors["random"]
        how = _how(record)
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else error
        raise DataError(f"{folder} is not whole ({what}); copy it again from the machine that wrote it.") from error
    model, _ = load_model(folder / "model.safetensors", diverged=True)
    return Bundle(folder, record, model.to(memory_format=how.memory_format).train(), batches, random_state)


# --- writing --------------------------------------------------------------------------------------------------------


def _examined(run: Run, group: Sequence[Batch], random_state: Tensor) -> dict[str, Any]:
    """What the step does when it is computed again where it failed, with a copy of the model."""
    try:
        model = _copy(run.model, run.how)
        with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
            torch.set_rng_state(random_state)
            return asdict(examine(model, group, run.how))
    except Exception as error:  # memory is short, say; the bundle is complete without
        return {"not_possible": in_one_line(error)}


def _copy(model: Detector, how: How) -> Detector:
    """The same detector built anew: without the hooks of several processes, and not compiled."""
    other = create(model.builder, classes=model.classes, **model.arguments)
    other.load_state_dict(model.state_dict())
    change_settings(other, settings_of(model))
    return other.to(how.device, memory_format=how.memory_format).train()


def _learning_rate(optimizer: torch.optim.Optimizer) -> float:
    group = optimizer.param_groups[0]
    return float(group["lr"]) / float(group.get("lr_factor", 1.0))


def _flat(batch: Batch) -> list[tuple[str, Tensor]]:
    """The tensors of a batch by name: `pixels`, `proposals`, and `IMAGE.boxes` and so on for each image."""
    rows = [("pixels", batch.images.pixels)]
    if batch.images.proposals is not None:
        rows.append(("proposals", batch.images.proposals))
    for image, targets in enumerate(batch.targets):
        values = {entry.name: getattr(targets, entry.name) for entry in fields(targets)}
        rows += [(f"{image}.{name}", value) for name, value in values.items() if isinstance(value, Tensor)]
    return rows


def _describe(run: Run, batch: Batch) -> dict[str, Any]:
    split, names = run.data.train, run.model.classes.names
    images = []
    for image, targets in enumerate(batch.targets):
        height, width = batch.images.sizes_hw[image]
        pixels = batch.images.pixels[image, :, :height, :width]
        rows = zip(
            targets.ids.tolist(), targets.labels.tolist(), targets.boxes.tolist(), targets.ignore.tolist(), strict=True
        )
        images.append(
            {
                "id": batch.image_ids[image],
                "index": batch.indices[image],
                "file": str(split.paths[batch.indices[image]]),
                "size_hw": [height, width],
                "original_size_hw": list(batch.original_sizes_hw[image]),
                "pixels": [float(pixels.min()), float(pixels.max())],
                "objects": [
                    {
                        "annotation": annotation,
                        "label": label,
                        "class": names[label] if 0 <= label < len(names) else None,
                        "box": box,
                        "ignore": ignore,
                    }
                    for annotation, label, box, ignore in rows
                ],
            }
        )
    return {"images": images}


def _to_json(record: Any) -> str:
    """JSON, in which what is no number of JSON's is a text: "nan", "inf", "-inf"."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(name): plain(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [plain(part) for part in value]
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(record), ensure_ascii=False, indent=1, allow_nan=False)


# --- reading --------------------------------------------------------------------------------------------------------


def _from_json(text: str) -> dict[str, Any]:
    record = json.loads(text)
    if not isinstance(record, dict):
        raise ValueError("crash.json is no record")
    for name in ("lr", "gradient_norm"):
        record[name] = float(record[name])
    record["losses"] = {name: float(value) for name, value in record["losses"].items()}
    return record


def _batch(tensors: Mapping[str, Tensor], number: int, entry: Mapping[str, Any]) -> Batch:
    images = entry["images"]
    if tensors[f"{number}.pixels"].shape[0] != len(images):
        raise ValueError(f"batch {number} has other images than crash.json")
    names = [part.name for part in fields(Targets)]
    for image in images:
        image["pixels"], image["file"] = [float(value) for value in image["pixels"]], str(image["file"])
    targets = []
    for image in range(len(images)):
        values = {name: tensors.get(f"{number}.{image}.{name}") for name in names}
        targets.append(Targets(**{name: value for name, value in values.items() if value is not None}))
    sizes_hw = [_size(image["size_hw"]) for image in images]
    return Batch(
        images=Images(tensors[f"{number}.pixels"], sizes_hw, tensors.get(f"{number}.proposals")),
        targets=targets,
        indices=[int(image["index"]) for image in images],
        image_ids=[int(image["id"]) for image in images],
        original_sizes_hw=[_size(image["original_size_hw"]) for image in images],
    )


def _how(record: Mapping[str, Any]) -> How:
    return How(channels_last=bool(record["config"].get("channels_last", True)))


def _size(value: Any) -> tuple[int, int]:
    height, width = np.asarray(value, dtype=int).tolist()
    return height, width
