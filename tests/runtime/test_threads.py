"""The cores that a process may use: those it is kept to, and the processor time of its container; signals to it."""

import os
import subprocess
import sys

import pytest

from aweigh.runtime import threads


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "20000 100000"}, 1),
        ({"cpu.max": "9900000 100000"}, 8),
        ({"cpu.max": "something else"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_usable_cores(monkeypatch, tmp_path, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(threads, "CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert threads.usable_cores() == cores


SIGNALLED = """
import faulthandler, gc, os, signal, sys
import aweigh

faulthandler.enable()  # it has a stack of its own for signals, which OpenVINO's plugin replaces
predictors = [aweigh.load(sys.argv[1], runtime="openvino") for _ in range(2)]
for number in range(2):
    predictors[number] = None
    gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_signal_is_handled_when_openvino_has_let_graphs_go(small_graph):
    words = [sys.executable, "-c", SIGNALLED, str(small_graph)]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, "handled\n"), said
