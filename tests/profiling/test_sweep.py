"""The same network in every engine, and settings that cannot be run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.runtime.toy_graphs import toy_graph
from torch import nn

from aweigh.errors import UsageError
from aweigh.profiling.engines import Setting, engine_of, find, opened
from aweigh.profiling.networks import Network
from aweigh.profiling.sweep import in_turn, sweep


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.drop = nn.Dropout(0.9)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.drop(self.conv(x).relu())]


@pytest.fixture
def network() -> Network:
    return Network(Toy(), nn.Module.__call__)


@pytest.mark.parametrize("engine", ["eager", "onnx", "openvino"])
def test_engines_compute_the_same(engine: str, network: Network) -> None:
    torch.manual_seed(0)
    expected = network.module.eval()(torch.rand(2, 3, 16, 16))[0].detach().numpy()
    torch.manual_seed(0)
    network.module.train()
    found = opened(Setting("toy", engine, size=16, batch=2, threads=1), network)()
    values = found[0] if engine != "openvino" else next(iter(found.values()))
    assert np.allclose(np.asarray(values.detach() if engine == "eager" else values), expected, atol=1e-5)


def test_settings_are_timed_in_turn_and_those_that_cannot_be_run_are_named(network: Network) -> None:
    settings = [Setting("toy", "eager", size=16, threads=1), Setting("toy", "onnx", "bf16", size=16)]
    done: list[int] = []
    found = sweep(settings, {"toy": network}, repeats=3, progress=done.append)
    assert [row.setting for row in found.rows] == settings[:1] and done == [1, 2, 3]
    assert found.rows[0].runs.shape == (3,) and (found.rows[0].runs > 0).all() and found.rows[0].first_s > 0
    assert [(setting.engine, "float32 here" in why) for setting, why in found.left_out] == [("onnx", True)]
    ms = found.to_dict()["rows"][0]["ms"]
    assert ms.keys() == {"p50", "p95", "p99"} and ms["p50"] == np.median(found.rows[0].runs) * 1000


def test_each_is_called_once_before_it_is_timed() -> None:
    order: list[str] = []
    ticks = iter(range(100))
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    runs, _ = in_turn(calls, 2, clock=lambda: float(next(ticks)))
    assert order == [*"aabb", *"bbaa"] and runs["a"].tolist() == [1.0, 1.0]


def test_an_exported_file_is_run_whole(tmp_path: Path) -> None:
    file = toy_graph(tmp_path / "toy.onnx")
    assert find(str(file)) is None
    found = opened(Setting(str(file), size=64, threads=1), None)()
    assert len(found) == 1


def test_a_processor_without_bf16_says_so(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aweigh.profiling.engines.has_bf16", lambda device: False)
    with pytest.raises(UsageError, match="does not multiply numbers of bf16"):
        opened(Setting("toy", "eager", "bf16", size=16), network)


def test_a_network_is_exported_once_for_each_size_and_batch(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, int, int]] = []

    def write(setting: Setting, network: Network, file: Path) -> Path:
        written.append((setting.model, setting.size, setting.batch))
        return file

    monkeypatch.setattr("aweigh.profiling.sweep.export", write)
    monkeypatch.setattr("aweigh.profiling.sweep.opened", lambda setting, network, exported: lambda: exported)
    settings = [
        Setting("toy", engine, size=16, batch=batch, threads=threads)
        for engine in ("eager", "onnx", "openvino")
        for batch in (1, 2)
        for threads in (1, 2)
    ]
    assert len(sweep(settings, {"toy": network}, repeats=1).rows) == len(settings)
    assert written == [("toy", 16, 1), ("toy", 16, 2)]


def test_an_exported_file_has_its_own_engine_and_format() -> None:
    assert (engine_of("a.xml"), engine_of("a.onnx")) == ("openvino", "onnx")
    assert Setting("a.xml", "openvino").shown_format == "own" and not Setting("a.xml", "openvino").needs_export
    assert Setting("resnet18", "openvino", "bf16").shown_format == "bf16"
