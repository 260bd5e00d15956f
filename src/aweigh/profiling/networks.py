"""Networks by their names or files, as `aweigh profile` takes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from aweigh.backbones.classifier import NETWORKS, classifier, network
from aweigh.backbones.shufflenet_v2 import BUILDERS, ShuffleNetV2
from aweigh.backbones.timm import TimmBackbone
from aweigh.catalogue import BOX, find_model
from aweigh.checkpoints.checkpoint import contents, load_model
from aweigh.errors import UsageError, did_you_mean
from aweigh.models import DETECTORS, Detector, create
from aweigh.models.detector import network_inputs
from aweigh.profiling.cost import Cost, count
from aweigh.profiling.reuse import body_of
from aweigh.structures import Images
from aweigh.weights.load import load_backbone, read_state


def cost_of(model: str, size: int, arguments: Mapping[str, Any] | None = None) -> Cost:
    """The cost for one square image of this size of a model (see `find_model`), one of `NETWORKS` with its classifier,
    or a backbone of timm. arguments: of the builder of a detector that is named."""
    import timm

    size_hw = (size, size)
    if arguments and model not in DETECTORS:
        raise UsageError(f"arguments ({', '.join(arguments)}) go with a detector of `aweigh models`; {model} is none.")
    with torch.device("meta"):
        if model in DETECTORS:
            return count(cast(nn.Module, create(model, **(arguments or {}))), size_hw, run=run_network)
        if model in NETWORKS and not timm.is_model(model):
            return count(classifier(network(model)), size_hw)
    if timm.is_model(model):
        return count(TimmBackbone(model).body, size_hw)
    if model == BOX or Path(model).suffix or Path(model).exists():
        return count(cast(nn.Module, load_model(model)[0]), size_hw, run=run_network)
    raise UsageError(
        f"{model!r} is neither a checkpoint, nor a detector, nor a backbone."
        f"{did_you_mean(model, [*DETECTORS, *NETWORKS, *timm.list_models()])} `aweigh models` lists the detectors."
    )


def run_network(detector: Detector, pixels: Tensor) -> object:
    """On one image `[1, 3, H, W]`, with one proposal for a detector that needs them."""
    size_hw = (pixels.shape[2], pixels.shape[3])
    return detector.network(*network_inputs(detector, Images(pixels, [size_hw], pixels.new_zeros(1, 1, 4))))


def shufflenet_of(model: str) -> ShuffleNetV2:
    """The ShuffleNet V2 of a file, a classifier's or a detector's too; of a name, with its published weights; of a
    model, see `find_model`."""
    if model in BUILDERS:
        body = BUILDERS[model]()
        load_backbone(body, "imagenet")
        return body
    if model != BOX and model not in DETECTORS and not (Path(model).suffix or Path(model).exists()):
        raise UsageError(f"{model!r} is neither a file nor a ShuffleNet V2.{did_you_mean(model, BUILDERS)}")
    found = find_model(model)
    return body_of(read_state(found) if isinstance(found, Path) else contents(model)[1], what=model)
