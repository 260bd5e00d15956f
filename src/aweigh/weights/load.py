"""Find, download, verify, read and load weights.

Every failure here says which file, what was expected and what to do. Nothing from a file is executed: `.safetensors`
hold tensors only, and published `.pth` files are read with torch's tensor-only unpickler.
"""

import hashlib
import http.client
import os
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from aweigh.catalogue import PACKAGED
from aweigh.errors import AweighError, DataError, UsageError, counted
from aweigh.files import atomic_file
from aweigh.weights.convert.torchvision import mobilenet_v2_from_torchvision, mobilenet_v3_from_torchvision
from aweigh.weights.imagenet import imagenet_record
from aweigh.weights.record import PublishedWeights, State

Progress = Callable[[int, int | None], None]
"""Called with the bytes that have arrived and the bytes there will be (None where the server does not say)."""

TIMEOUT_SECONDS = 30.0
_CHUNK_BYTES = 1 << 18


class Weighted(Protocol):
    """What weights are loaded into: any `nn.Module`."""

    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True) -> Any: ...


class Body(Weighted, Protocol):
    """What weights of a classification network are loaded into.

    name: of the architecture, by which its published weights are known. activation: what follows its convolutions,
    where files may be of another, whose weights have the same names and shapes; else None.
    """

    @property
    def name(self) -> str: ...
    @property
    def activation(self) -> str | None: ...


@dataclass(frozen=True)
class LoadReport:
    """What became of a file's tensors. Counters of batches, which carry no weight, are left out everywhere.

    loaded, total: tensors of the model that were filled, and all it has. missing: tensors of the model the file lacks.
    unexpected: tensors of the file the model lacks. mismatched: name -> (shape in the file, shape in the model).
    """

    loaded: int
    total: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def __str__(self) -> str:
        """`loaded 295 of 301 tensors; new: head.logits (91 -> 7); not used: fc`."""
        shapes = self.mismatched.items()
        resized = {_module(key): f" ({old[0]} -> {new[0]})" for key, (old, new) in shapes if old and new}
        new = [module + resized.get(module, "") for module in _modules([*self.missing, *self.mismatched])]
        parts = [f"loaded {self.loaded} of {counted(self.total, 'tensor')}"]
        parts += [f"new: {_shortened(new, 6)}"] if new else []
        parts += [f"not used: {_shortened(_modules(self.unexpected), 6)}"] if self.unexpected else []
        return "; ".join(parts)


def load_backbone(
    backbone: Body, source: str | Path | PublishedWeights, *, progress: Progress | None = None
) -> LoadReport:
    """Fill a backbone from `"imagenet"` (its published weights), a record, or a local file.

    A file may be torchvision's, timm's or one of our detectors, may have a classifier and may be partial; the report
    says what stayed new. `UsageError`, with the backbone unchanged, when the file is of another architecture.
    """
    if source == "imagenet":
        source = imagenet_record(backbone.name)
    path = locate(source, progress=progress) if isinstance(source, PublishedWeights) else Path(source)
    state = read_state(path)
    if isinstance(source, PublishedWeights):
        state = source.convert(state)
    _check_activation(backbone, path)
    own = {key: value.shape for key, value in backbone.state_dict().items()}
    named = max(_spellings(state), key=lambda spelled: sum(own.get(key) == spelled[key].shape for key in spelled))
    report = compare(backbone, named)
    if report.mismatched or 2 * report.loaded < report.loaded + len(report.unexpected) or not report.loaded:
        example = next((f", {key} is {old} there and {new} here" for key, (old, new) in report.mismatched.items()), "")
        raise UsageError(
            f"{path} holds another architecture: {report.loaded} of the backbone's {counted(report.total, 'tensor')} "
            f"fit{example}. Give weights of {backbone.name}."
        )
    fitting = {key: value for key, value in named.items() if key in own}
    check_values(backbone, fitting, what=str(path))
    backbone.load_state_dict(fitting, strict=False)
    used = {id(value) for value in fitting.values()}
    unused = tuple(key for key, value in state.items() if id(value) not in used and not _is_counter(key))
    return replace(report, unexpected=unused)


def load_strict(module: Weighted, state: State, *, what: str, diverged: bool = False) -> None:
    """Fill a module with exactly these tensors; `UsageError` of at most five lines when they are not those it has.

    what: the file and the model, for the message. diverged: weights that are no numbers are what is to be looked at.
    Nothing is loaded unless everything fits.
    """
    check_fit(module, state, what=what, diverged=diverged)
    module.load_state_dict(state, strict=False)


def check_fit(module: Weighted, state: State, *, what: str, diverged: bool = False) -> None:
    """What `load_strict` asks for: names and shapes are the module's, and the values are weights (`check_values`)."""
    report = compare(module, state)
    shapes = [f"{key} {old}, expected {new}" for key, (old, new) in report.mismatched.items()]
    unfit = {"missing in the file": report.missing, "only in the file": report.unexpected, "of another shape": shapes}
    if any(unfit.values()):
        lines = [f"  {how}: {_shortened(keys)}" for how, keys in unfit.items() if keys]
        fit = f"{what}: {report.loaded} of {counted(report.total, 'tensor')} fit."
        raise UsageError("\n".join([fit, *lines, "Build the model the weights were made for, or give other weights."]))
    if not diverged:
        check_values(module, state, what=what)


def check_values(module: Weighted, state: State, *, what: str) -> None:
    """`DataError` with the name of a tensor that fills one of the module's and is no weight: of whole numbers where
    that has fractions (or the other way round), not finite, or a negative variance."""
    for key, own in module.state_dict().items():
        value = state.get(key)
        if value is None or value.shape != own.shape:
            continue
        if value.is_complex() or value.is_floating_point() != own.is_floating_point():
            raise DataError(f"{what}: {key} is of {_kind(value)}, expected {_kind(own)}; get or save the file again.")
        if not value.is_floating_point():
            continue
        # Of narrow kinds torch has no `isfinite`.
        finite = (value if value.element_size() > 1 else value.float()).isfinite()
        if not finite.all():
            count = counted(int(finite.numel() - finite.sum()), "value", "is")
            raise DataError(
                f"{what}: in {key} {count} not finite, of {value.numel():,}; no detector comes of that. Get the file "
                "again, or one saved before training diverged."
            )
        if key.endswith("running_var") and bool((value.float() < 0).any()):
            raise DataError(f"{what}: {key} holds a negative variance; get or save the file again.")


def load_matching(module: Weighted, state: State) -> LoadReport:
    """Fill what fits by name and shape, such as all but the classifier of a detector for other classes."""
    report = compare(module, state)
    check_values(module, state, what="the weights")
    own = module.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    module.load_state_dict(fitting, strict=False)
    return report


def compare(module: Weighted, state: State) -> LoadReport:
    """What `load_matching` would do, without doing it."""
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}

    def counts(key: str, shape: tuple[int, ...]) -> bool:
        return not _is_counter(key) or shapes.get(key, shape) != shape  # a counter is left out, unless it is none

    given = {key: tuple(value.shape) for key, value in state.items() if counts(key, tuple(value.shape))}
    own = {key: shape for key, shape in shapes.items() if not _is_counter(key) or key in given}
    mismatched = {key: (given[key], own[key]) for key in own if key in given and given[key] != own[key]}
    return LoadReport(
        loaded=sum(key in given for key in own) - len(mismatched),
        total=len(own),
        missing=tuple(key for key in own if key not in given),
        unexpected=tuple(key for key in given if key not in own),
        mismatched=mismatched,
    )


def read_state(path: str | Path) -> State:
    """The tensors of a `.safetensors`, `.pth` or `.pt` file by name, on the CPU, in the file's dtypes."""
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"There is no file of weights at {path}.")
    if path.suffix == ".safetensors":
        with _opened(path) as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    if path.suffix not in {".pth", ".pt"}:
        raise UsageError(f"{path}: weights are read from .safetensors, .pth or .pt files, not {path.suffix or 'this'}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{path} cannot be read as weights: it is cut short, or holds other objects than tensors, which are never "
            f"run ({reason[:160]}). Get it again, or save the bare state dict."
        ) from error
    # Training scripts store the weights under one of these names beside their own state.
    for name in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not content or not all(isinstance(each, Tensor) for each in content.values()):
        raise DataError(f"{path} holds no weights: expected tensors by name, found {type(content).__name__}.")
    return content


def locate(record: PublishedWeights, *, progress: Progress | None = None) -> Path:
    """The record's file in the package or in the cache, verified; downloaded first where it is not there.

    The cache is the folder `AWEIGH_CACHE`, by default `~/.cache/aweigh`. `AWEIGH_OFFLINE=1` never downloads.
    """
    path = (cache_folder() if record.url else PACKAGED) / record.file
    if not record.sha256 and path.suffix != ".pkl":
        raise AweighError(
            f"{record.file} ({record.source}) is published without a checksum, at {record.url}, and so not downloaded. "
            f"Get it there and give the file itself as the weights: --weights {record.file}, or "
            f"create(..., weights={record.file!r}). Licence: {record.licence}."
        )
    if path.is_file():
        digest = _sha256(path)
        if not digest.startswith(record.sha256):
            remedy = f"Delete it, or put the file from {record.url} there." if record.url else "Install aweigh again."
            raise AweighError(
                f"{path} is not the published file: its SHA-256 begins {digest[: len(record.sha256)]}, expected "
                f"{record.sha256}. {remedy}"
            )
        return path
    if not record.url:
        raise AweighError(f"{path}, which comes with aweigh, is not there. Install aweigh again.")
    if path.suffix == ".pkl":
        code = (
            "import pickle, torch; from safetensors.torch import save_file; "
            f"state = pickle.load(open('{record.file}', 'rb'), encoding='latin1')['model']; "
            "save_file({key: torch.as_tensor(value).contiguous() for key, value in state.items()}, "
            f"'{path.with_suffix('.safetensors').name}')"
        )
        raise AweighError(
            f"{record.url} is a pickle, which can run code when it is read, so aweigh does not. Where you trust it: "
            f'python -c "{code}", and give that file as the weights. Licence: {record.licence}.'
        )
    if os.environ.get("AWEIGH_OFFLINE", "0") not in ("", "0"):
        raise AweighError(
            f"AWEIGH_OFFLINE is set and the weights {record.name!r} are not here: put {record.file} (from "
            f"{record.url}, SHA-256 {record.sha256}...) into {path.parent}, or unset AWEIGH_OFFLINE."
        )
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = stack.enter_context(atomic_file(path))
        except OSError as error:
            raise AweighError(
                f"The folder for downloaded weights, {path.parent}, cannot be written ({error}); "
                "set AWEIGH_CACHE to another."
            ) from error
        with part.open("wb") as file:
            digest = _download(record, file.write, path, progress)
        if not digest.startswith(record.sha256):
            raise AweighError(
                f"{record.url} sent another file than was published: its SHA-256 begins "
                f"{digest[: len(record.sha256)]}, expected {record.sha256}. It was deleted; try again, or put "
                f"{record.file} from elsewhere into {path.parent}."
            )
    return path


def cache_folder() -> Path:
    """Where downloaded weights are kept."""
    return Path(os.environ.get("AWEIGH_CACHE") or Path.home() / ".cache" / "aweigh").expanduser()


def _download(record: PublishedWeights, write: Callable[[bytes], object], path: Path, progress: Progress | None) -> str:
    """Write the file at the record's address, piece by piece, and return its SHA-256."""
    digest = hashlib.sha256()
    done = 0
    try:
        with urllib.request.urlopen(record.url, timeout=TIMEOUT_SECONDS) as response:
            stated = response.headers.get("Content-Length")
            total = int(stated) if stated and stated.isdigit() else None
            while chunk := response.read(_CHUNK_BYTES):
                write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
    except (OSError, http.client.HTTPException) as error:
        raise AweighError(
            f"The download of {record.url} failed ({error}). Try again, or put {record.file} (SHA-256 "
            f"{record.sha256}...) into {path.parent}."
        ) from error
    if total is not None and done != total:
        raise AweighError(
            f"The download of {record.url} ended after {done:,} of {counted(total, 'byte')}; nothing was kept. Try "
            "again."
        )
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is no whole .safetensors file ({error}); get or save it again.") from error


def _check_activation(backbone: Body, path: Path) -> None:
    """Refuse weights trained with another activation than the backbone has, where the file states one.

    Names and shapes are the same, and the network's answers would be worthless.
    """
    if path.suffix != ".safetensors" or backbone.activation is None:
        return
    with _opened(path) as file:
        stated = (file.metadata() or {}).get("activation", "")
    wanted = "leaky_relu" if "leaky" in stated.lower() else "relu"
    if stated and wanted != backbone.activation:
        raise UsageError(
            f"{path} was trained with the activation {stated}, and the backbone has {backbone.activation!r}; "
            f"build it with activation={wanted!r}."
        )


def _spellings(state: State) -> Iterable[State]:
    """The tensors under each of the names a backbone of ours may have for them."""
    for prefix in ("", "module.", "backbone.", "backbone.body.", "body."):
        inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        yield inner
        yield {f"body.{key}": value for key, value in inner.items()}
        # timm joins the first two parts of a name where it takes a Sequential apart (VGG, ConvNeXt).
        yield {f"body.{key.replace('.', '_', 1)}": value for key, value in inner.items()}
    mobilenets = {"conv": mobilenet_v2_from_torchvision, "block": mobilenet_v3_from_torchvision}
    for block, convert in mobilenets.items():
        if "features.0.0.weight" in state and f"features.1.{block}.0.0.weight" in state:
            try:
                yield convert(state)
            except UsageError:
                return  # Another network with such names; the spellings above have been tried.


def _kind(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def _module(key: str) -> str:
    return key.rpartition(".")[0] or key


def _modules(keys: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(_module(key) for key in keys))


def _shortened(names: Iterable[str], limit: int = 3) -> str:
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
