"""A detector that is prepared to predict in bf16: what is computed in it, and how near its boxes stay."""

import numpy as np
import pytest
import torch
from tests.photographs import portrait
from torch import nn

import aweigh
from aweigh.errors import UsageError
from aweigh.images.resize import Resize
from aweigh.inference.device import CPU, has_bf16
from aweigh.inference.engine import TorchEngine
from aweigh.layers import PackedConv2d
from aweigh.predictor import Predictor
from aweigh.runtime.engine import Batch

in_bf16 = pytest.mark.skipif(not has_bf16(CPU), reason="this processor has no bf16")


def formats(engine: TorchEngine, name: str = "") -> set[torch.dtype]:
    """Of the weights of convolutions and linear layers below this name."""
    kinds = (nn.Conv2d, nn.Linear, PackedConv2d)
    model = engine.model
    assert isinstance(model, nn.Module)
    return {layer.weight.dtype for layer in model.get_submodule(name).modules() if isinstance(layer, kinds)}


@in_bf16
def test_the_network_is_computed_in_bf16_and_the_second_stage_in_float32():
    torch.manual_seed(0)
    model = aweigh.create("faster_rcnn_resnet18_fpn", num_classes=3).eval()
    engine = TorchEngine.prepared(model, "cpu", precision="bf16", threads=1)
    assert formats(engine, "backbone") == formats(engine, "neck") == {torch.bfloat16}
    assert formats(engine) == {torch.bfloat16, torch.float32}
    assert engine.computed_by.endswith("on cpu, bf16, 1 thread")
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())  # the given one stays
    pixels = np.random.default_rng(0).random((1, 3, 64, 96), np.float32)
    (found,), (exact,) = (
        each.run(Batch(pixels, [(64, 96)])) for each in (engine, TorchEngine.prepared(model, "cpu", threads=1))
    )
    assert len(found) and np.abs(found.scores[:5] - exact.scores[:5]).max() < 0.01


@in_bf16
def test_boxes_in_bf16_are_near_those_in_float32():
    image = np.asarray(sample())
    exact, found = (aweigh.load(device="cpu", precision=word)(image)[:1] for word in ("float32", "bf16"))
    assert exact.names == found.names == ["person"]
    assert 0 < np.abs(exact.boxes - found.boxes).max() < 4  # pixels of 512 x 600
    assert np.abs(exact.scores - found.scores).max() < 0.03


def sample():
    from PIL import Image

    return Image.open(portrait()).convert("RGB")


def test_a_precision_there_is_not_is_named():
    with pytest.raises(UsageError, match="'bf15'"):
        aweigh.load(precision="bf15")  # type: ignore[arg-type]


def test_the_threads_of_a_predictor_are_its_own():
    seen = []

    class Watched(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            seen.append(torch.get_num_threads())
            return self.model(x)

    model = aweigh.create("fcos_shufflenet_v2_x0_5_lite", num_classes=2).eval()
    before = torch.get_num_threads()
    engine = TorchEngine.prepared(model, "cpu", threads=before + 1)
    engine.model.backbone = Watched(engine.model.backbone)  # type: ignore[attr-defined]
    Predictor(engine, Resize(long=64))(np.zeros((64, 64, 3), np.uint8))
    assert seen == [before + 1] and torch.get_num_threads() == before
