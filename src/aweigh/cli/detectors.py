"""A detector by file or name, with what flags say of it, and the proposals that it needs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from aweigh.cli.flags import Views, Weights
from aweigh.errors import UsageError

if TYPE_CHECKING:
    from aweigh.annotations.proposals import Proposals
    from aweigh.geometry.tiles import Tiles
    from aweigh.predictor import Predictor
    from aweigh.runtime.engine import Engine


def find_detector(model: str, chosen: Weights = Weights(), views: Views = Views()) -> "Predictor":
    """The detector of that name as `aweigh.load` has it, changed as flags say.

    chosen: --weights, what --set changes, the device, the runtime, the number format, the threads. views: the size,
    the tiles and the test-time augmentation.
    """
    from aweigh.predictor import load
    from aweigh.runtime.graph import OF_SUPPRESSION
    from aweigh.runtime.open import SUFFIXES

    tta, changes = views.augmentation(), chosen.changes()
    of_torch = not changes.keys() <= {*OF_SUPPRESSION} and Path(model).suffix not in SUFFIXES
    predictor = load(
        model,
        chosen.weights,
        resize=views.resize or None,
        tta=tta,
        tiles=views.tiles(),
        device=chosen.device,
        runtime=chosen.runtime or ("torch" if of_torch else None),
        precision=chosen.precision,
        threads=chosen.threads,
    )
    if changes:
        predictor.engine = changed(predictor.engine, changes)
    tta.class_order(predictor.classes)  # where a flip pair is no class
    return predictor


def told_tiles(tiles: "Tiles", views: Views) -> str:
    """In which tiles a detector looks at images, and whether it is asked to."""
    return str(tiles) if views.tile else f"{tiles}, as the detector was trained; --tile 0 looks at whole images"


def changed(engine: "Engine", changes: Mapping[str, str]) -> "Engine":
    """The engine with these of its thresholds and counts."""
    from aweigh.runtime.graph import GraphEngine

    if isinstance(engine, GraphEngine):
        return engine.with_settings(changes)
    from aweigh.arguments import change_settings
    from aweigh.inference.engine import torch_engine

    change_settings(torch_engine(engine).model, changes)
    return engine


def given_proposals(engine: "Engine", file: Path | None) -> "Proposals | None":
    """The proposals of a file, which a detector must need, and cannot do without then."""
    from aweigh.annotations.proposals import read_proposals

    if engine.needs_proposals and file is None:
        raise UsageError(
            f"{engine.name} proposes no regions itself: add --proposals-file FILE; `aweigh proposals` makes one."
        )
    if file is not None and not engine.needs_proposals:
        raise UsageError(f"--proposals-file {file}: {engine.name} proposes regions itself; leave it out.")
    return None if file is None else read_proposals(file)
