"""The pages of `aweigh profile` hold what was measured and need nothing from elsewhere."""

import re

import numpy as np
import torch
from tests.inspect.test_report_html import Tags
from torch import nn

from aweigh.page import LONG, bars, table
from aweigh.profiling import profile
from aweigh.profiling.engines import Setting
from aweigh.profiling.guidelines import EXPERIMENTS, Found
from aweigh.profiling.machine import Machine
from aweigh.profiling.report.html import guidelines_page, machine_page, speed_page
from aweigh.profiling.sweep import Sweep, Timed
from aweigh.speed import Noise

QUIET, NOISY = Noise(0.0, 1.0), Noise(0.5, 3.0)
MACHINE = Machine(1, {"float32": 50.0}, {1000: 40.0, 100_000: 10.0}, QUIET)


def needs_nothing(page: str) -> None:
    tags = Tags(page)
    assert all(link.startswith("data:image/png;base64,") for link in tags.links)
    assert "http" not in page and "url(" not in page and "@import" not in page and "script" not in tags.seen


def test_the_page_of_speed() -> None:
    model, runs = "<script>.onnx", np.array([0.002, 0.002, 0.004])
    found = Sweep(
        (Timed(Setting(model, threads=1), 0.5, None, runs), Timed(Setting("toy", batch=4, threads=1), 0.1, 3.0, runs)),
        ((Setting("toy", "onnx", "bf16"), "onnxruntime computes float32 here"),),
        NOISY,
    )
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
    page = speed_page(found, {"toy": profile(module, torch.rand(1, 3, 8, 8), repeats=1, machine=MACHINE)})
    needs_nothing(page)
    for said in (
        "too noisy",
        "Left out: toy, onnx, bf16",
        "2000.0",
        "4.00",
        "element-wise",
        "pooling",
        "under the roof",
    ):
        assert said in page  # 4 images in 2 ms, four times as fast as one
    assert page.count("data:image/png") == 1 and "prefers-color-scheme: dark" in page


def test_the_pages_of_the_machine_and_of_the_guidelines() -> None:
    page = machine_page([MACHINE])
    needs_nothing(page)
    assert "1 thread:" in page and "<h2></h2>" not in page
    seconds = np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 1.0], [2.0, 2.0, 2.0], [4.0, 4.0, 4.0]])
    page = guidelines_page([Found(EXPERIMENTS["G1"], seconds)], "eager", 1, QUIET)
    needs_nothing(page)
    assert "Equal channel widths" in page and "0.25" in page and "Spearman" in page


def test_bars_are_as_long_as_their_values_and_marks_stand_where_theirs_are() -> None:
    chart = bars("Time", {"a": 2.0, "b": 1.0}, {"b": 4.0}, unit="ms", mark="the roof")
    assert re.findall(r"width:([\d.]+)%", chart) == ["50.00", "25.00"] and re.findall(r"left:([\d.]+)%", chart) == [
        "100.00"
    ]
    assert "the roof" in chart and "2.00 ms" in chart
    without = bars("Time", {"a": 0.0}, {}, unit="ms", mark="the roof")
    assert "the roof" not in without and "width:0.00%" in without


def test_long_texts_have_several_lines_and_numbers_none() -> None:
    long = "x" * (LONG + 1)
    assert "<td class=long>" in table(["", "what"], [["row", long]], numbers=[])
    assert "class=long" not in table(["", "what", "n"], [[long, "x" * LONG, long]], numbers=[2])
