"""Aweigh: object detection without anchors.

    import aweigh
    detector = aweigh.load()  # the one that comes along; or load("run/best.safetensors")
    detections = detector("photo.jpg")

The names below are imported when they are first used, so that `import aweigh` takes no time and needs no torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from aweigh.errors import said_if_missing

if TYPE_CHECKING:
    from aweigh.classes import Classes
    from aweigh.commands import evaluate, train
    from aweigh.detections import Detections
    from aweigh.errors import AweighError, DataError, GateError, UsageError
    from aweigh.evaluation.evaluator import CocoEvaluator
    from aweigh.explanation.explain import Explainer, explain, why_not
    from aweigh.geometry.tiles import Tiles
    from aweigh.graphs.export import export
    from aweigh.models import DETECTORS, create
    from aweigh.predictor import Predictor, load
    from aweigh.runtime.tta import TTA
    from aweigh.structures import Images, Targets
    from aweigh.to_files import predict_files
    from aweigh.tracking.tracker import Tracker
    from aweigh.training.logs.callback import Callback

__version__ = "0.1.0"

# Threads of torch that wait for each other sleep; else, where another program has one of the cores, each of the hundred
# steps of a network spins away its share of the other. OpenMP reads this once, when torch is imported.
if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}:
    os.environ["OMP_WAIT_POLICY"] = "passive"

_HOME = {
    **dict.fromkeys(("AweighError", "DataError", "GateError", "UsageError"), "aweigh.errors"),
    **dict.fromkeys(("DETECTORS", "create"), "aweigh.models"),
    **dict.fromkeys(("Predictor", "load"), "aweigh.predictor"),
    **dict.fromkeys(("Images", "Targets"), "aweigh.structures"),
    **dict.fromkeys(("evaluate", "train"), "aweigh.commands"),
    "Callback": "aweigh.training.logs.callback",
    "Classes": "aweigh.classes",
    "CocoEvaluator": "aweigh.evaluation.evaluator",
    "Detections": "aweigh.detections",
    **dict.fromkeys(("Explainer", "explain", "why_not"), "aweigh.explanation.explain"),
    "export": "aweigh.graphs.export",
    "predict_files": "aweigh.to_files",
    "TTA": "aweigh.runtime.tta",
    "Tiles": "aweigh.geometry.tiles",
    "Tracker": "aweigh.tracking.tracker",
}

__all__ = [
    "DETECTORS",
    "TTA",
    "AweighError",
    "Callback",
    "Classes",
    "CocoEvaluator",
    "DataError",
    "Detections",
    "Explainer",
    "GateError",
    "Images",
    "Predictor",
    "Targets",
    "Tiles",
    "Tracker",
    "UsageError",
    "__version__",
    "create",
    "evaluate",
    "explain",
    "export",
    "load",
    "predict_files",
    "train",
    "why_not",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'aweigh' has no attribute {name!r}")
    with said_if_missing(f"aweigh.{name}"):
        value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
