"""A detector that every process of a cluster makes for itself, of a file that one machine has."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from aweigh.catalogue import find_model
from aweigh.files import read_bytes
from aweigh.predictor import Predictor


@dataclass(frozen=True)
class Loader:
    """model: as `aweigh.load` takes it. make: makes the predictor, given that. files: of a model that is a file of this
    machine, what has to lie beside each other elsewhere, by name, with their bytes."""

    model: str
    make: Callable[[str], Predictor]
    files: dict[str, bytes] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(model: str | Path, make: Callable[[str], Predictor], weights: str = "") -> Loader:
        """Which files go along. `UsageError` where there is no model of that name."""
        path = find_model(model, weights) if not Path(model).is_file() else Path(model)
        if not isinstance(path, Path) or not Path(model).exists():
            return Loader(str(model), make)  # it comes with the package, or is published
        together = [path, *([path.with_suffix(".bin")] if path.suffix == ".xml" else [])]
        return Loader(path.name, make, {file.name: read_bytes(file) for file in together})

    @property
    def digest(self) -> str:
        """Of what is in the files; empty where there are none."""
        contents = b"".join(hashlib.sha256(content).digest() for _, content in sorted(self.files.items()))
        return hashlib.sha256(contents).hexdigest()[:16] if contents else ""

    def __call__(self) -> Predictor:
        if not self.files:
            return self.make(self.model)
        folder = TemporaryDirectory(prefix="aweigh-")
        for name, content in self.files.items():
            (Path(folder.name) / name).write_bytes(content)
        predictor = self.make(str(Path(folder.name) / self.model))
        _FOLDERS.append(folder)  # until the process ends: a runtime may read on
        return predictor


_FOLDERS: list[TemporaryDirectory[str]] = []
