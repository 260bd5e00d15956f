"""Networks by their names or files, as `aweigh profile` takes them."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from aweigh.backbones.classifier import NETWORKS, classifier, network
from aweigh.backbones.shufflenet_v2 import BUILDERS, ShuffleNetV2
from aweigh.catalogue import BOX, find_model
from aweigh.checkpoints.checkpoint import contents, load_model
from aweigh.errors import UsageError, did_you_mean
from aweigh.models import DETECTORS, Detector, create
from aweigh.models.detector import network_inputs
from aweigh.profiling.cost import Cost, count
from aweigh.profiling.exported.cost import cost_of_file
from aweigh.profiling.reuse import body_of
from aweigh.runtime.open import SUFFIXES
from aweigh.structures import Images
from aweigh.weights.load import load_backbone, read_state


@dataclass(frozen=True)
class Network:
    """module: what is profiled, with its weights as they were found. run: how it is called on images `[B, 3, H, W]`.
    only_size: the side of the images where it takes no other, as a vision transformer of timm does."""

    module: nn.Module
    run: Callable[[Any, Tensor], object]
    only_size: int | None = None

    def check_size(self, size: int) -> None:
        """`UsageError` where it takes no images of this side."""
        if self.only_size not in (None, size):
            raise UsageError(
                f"This network takes no other images than {self.only_size} x {self.only_size}: --size {self.only_size}."
            )


def find_network(model: str, arguments: Mapping[str, Any] | None = None) -> Network:
    """A model (see `find_model`), or one of `NETWORKS` or of timm with its classifier.

    arguments: of the builder of a detector that is named. What is built anew has random weights.
    """
    import timm

    if arguments and model not in DETECTORS:
        raise UsageError(f"arguments ({', '.join(arguments)}) go with a detector of `aweigh models`; {model} is none.")
    if model in DETECTORS:
        return Network(cast(nn.Module, create(model, **(arguments or {}))), run_network)
    if model in NETWORKS and not timm.is_model(model):
        return Network(classifier(network(model)), nn.Module.__call__)
    if timm.is_model(model):
        found = timm.create_model(model)
        config: Any = found.pretrained_cfg
        return Network(found, nn.Module.__call__, config["input_size"][1] if config["fixed_input_size"] else None)
    if model == BOX or Path(model).suffix or Path(model).exists():
        return Network(cast(nn.Module, load_model(model)[0]), run_network)
    raise UsageError(
        f"{model!r} is neither a checkpoint, nor a detector, nor a backbone."
        f"{did_you_mean(model, [*DETECTORS, *NETWORKS, *timm.list_models()])} `aweigh models` lists the detectors."
    )


def cost_of(model: str, size: int, arguments: Mapping[str, Any] | None = None) -> Cost:
    """The cost for one square image of this size of an exported file, or of what `find_network` finds."""
    if Path(model).suffix in SUFFIXES and not arguments:
        return cost_of_file(Path(model), size)
    with torch.device("meta") if _is_built(model) else nullcontext():
        found = find_network(model, arguments)
    found.check_size(size)
    return count(found.module, (size, size), run=found.run)


def _is_built(model: str) -> bool:
    return model in DETECTORS or model in NETWORKS


def run_network(detector: Detector, pixels: Tensor) -> object:
    """On images `[B, 3, H, W]`, with one proposal each for a detector that needs them."""
    size_hw, count = (pixels.shape[2], pixels.shape[3]), len(pixels)
    images = Images(pixels, [size_hw] * count, pixels.new_zeros(count, 1, 4))
    return detector.network(*network_inputs(detector, images))


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
