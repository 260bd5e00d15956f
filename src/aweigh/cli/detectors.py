"""A detector by file or name, with what flags say of it, and the proposals that it needs."""

from pathlib import Path
from typing import TYPE_CHECKING

from aweigh.cli.flags import Views, Weights
from aweigh.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from aweigh.annotations.proposals import Proposals
    from aweigh.predictor import Predictor
    from aweigh.runtime.engine import Engine


def find_detector(model: str, chosen: Weights = Weights(), views: Views = Views()) -> "Predictor":
    """The detector of a checkpoint, or of published weights by the detector's name.

    model: a checkpoint that training wrote, or its run folder (then the best weights), or a name that `aweigh models`
    lists; the latter needs --weights, the name of published weights or a file of them, unless its weights come with the
    package. chosen: those, what --set changes, the device. views: the size and the test augmentation.
    """
    from aweigh.arguments import change_settings
    from aweigh.inference.engine import torch_engine

    tta = views.augmentation()
    predictor = _find_detector(model, chosen.weights, chosen.device)
    if changes := chosen.changes():
        change_settings(torch_engine(predictor.engine).model, changes)
    if views.resize:
        predictor.resize = predictor.resize.with_size(views.resize)
    predictor.tta = tta
    tta.class_order(predictor.classes)  # where a flip pair is no class
    return predictor


def _find_detector(model: str, weights: str, device: str) -> "Predictor":
    from aweigh.images.resize import Resize
    from aweigh.inference.device import choose_device
    from aweigh.models import DETECTORS, PUBLISHED, create
    from aweigh.predictor import Predictor, load

    chosen = choose_device(device)
    if model not in DETECTORS:
        if weights:
            raise UsageError(
                f"--weights goes with the name of a detector, and {model!r} is none.{did_you_mean(model, DETECTORS)}"
            )
        if not Path(model).suffix and not Path(model).exists():
            raise UsageError(
                f"{model!r} is neither a checkpoint file nor a detector.{did_you_mean(model, DETECTORS)} "
                "`aweigh models` lists the detectors."
            )
        return load(checkpoint_of(model), device=chosen)
    if not weights and "box" not in PUBLISHED.get(model, {}):
        raise UsageError(
            f"{model} has no weights yet: add --weights NAME or FILE (`aweigh models` lists the published ones), "
            "or give a checkpoint that `aweigh train` wrote."
        )
    detector = create(model, weights=weights or "box")
    assert detector.record is not None  # of the weights just loaded
    return Predictor(detector, Resize(**detector.record.resize), device=chosen)


def checkpoint_of(model: str) -> str:
    """The file of a checkpoint: of a run folder its best weights."""
    best = Path(model) / "best.safetensors"
    if Path(model).is_dir() and not best.is_file():
        raise UsageError(f"{model} is a folder without best.safetensors; name a checkpoint or the folder of a run.")
    return str(best) if Path(model).is_dir() else model


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
