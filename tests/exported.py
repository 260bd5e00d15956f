"""A detector so small that it can be exported in a test, and its graph, which is made once for all processes."""

import os
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch import nn

from aweigh.checkpoints.checkpoint import save_model
from aweigh.images.resize import Resize
from aweigh.models import create


@pytest.fixture(scope="session")
def small_detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a detector of three classes with random weights, which finds some 40 things in any image."""
    path = tmp_path_factory.mktemp("small") / "small.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create("fcos_shufflenet_v2_x0_5_lite", num_classes=3, channels=32).train()
        with torch.no_grad():
            for _ in range(30):  # statistics of normalisation that keep maps from fading out
                model.network(nn.functional.interpolate(torch.rand(4, 3, 4, 6), size=(64, 96), mode="bilinear"))
            nn.init.normal_(model.head.logits.weight, std=1.0)
            nn.init.normal_(model.head.distances.weight, std=2.0)
    save_model(path, model, resize=Resize(short=None, long=96), licence="Apache-2.0", metrics={"AP": 0.25})
    return path


@pytest.fixture(scope="session")
def small_graph(small_detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It as an ONNX file, of any size and number of images, without a look at whether the two are the same."""
    from aweigh.graphs.export import export

    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own  # by the processes of one run
    path = shared / "small-graph" / "small.onnx"
    with FileLock(shared / "small-graph.lock"):
        if not path.exists():
            export(small_detector, path)
    return path
