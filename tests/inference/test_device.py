"""Which number format and how many threads are chosen, and what is said where a device does not have a format."""

import os
import subprocess
import sys

import pytest
import torch

from aweigh.errors import UsageError
from aweigh.inference import device as devices
from aweigh.inference.device import CPU, How, choose_precision, choose_threads, has_bf16


@pytest.mark.parametrize("there", [True, False])
def test_bf16_is_taken_where_the_processor_has_it(monkeypatch, there):
    monkeypatch.setattr(devices, "has_bf16", lambda device: there)
    assert choose_precision("auto", CPU) == choose_precision("float32", CPU) == torch.float32
    if there:
        assert choose_precision("bf16", CPU) == torch.bfloat16
    else:
        with pytest.raises(UsageError, match="this cpu device does not have it; use float32, which is faster here"):
            choose_precision("bf16", CPU)
    with pytest.raises(UsageError, match="needs a CUDA device"):
        choose_precision("float16", CPU)


def test_a_processor_that_would_emulate_bf16_does_not_have_it(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: True)
    for avx512, amx in ((False, False), (True, False), (False, True)):
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda avx512=avx512: avx512)
        monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda amx=amx: amx)
        assert has_bf16(CPU) == (avx512 or amx)


def test_threads_are_as_given_or_as_many_as_there_are_cores(monkeypatch):
    monkeypatch.setattr(devices, "usable_cores", lambda: 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert choose_threads(0) == 2 and choose_threads(5) == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "8")  # somebody said how many
    assert choose_threads(0) == 8
    with pytest.raises(UsageError, match="threads = -1"):
        choose_threads(-1)


def test_threads_hold_within_the_block_alone():
    before = torch.get_num_threads()
    with How(threads=before + 1).with_threads():
        assert torch.get_num_threads() == before + 1
    with How().with_threads():
        assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), How(threads=before + 1).with_threads():
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


def test_how_is_said_in_words():
    assert str(How(CPU, torch.bfloat16, threads=1)) == "cpu, bf16, 1 thread"
    assert str(How()) == "cpu, float32"


@pytest.mark.parametrize(
    ("said", "policy"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active"), ({"GOMP_SPINCOUNT": "9"}, None)]
)
def test_threads_sleep_while_they_wait_unless_somebody_said_otherwise(said, policy):
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    code = "import os, aweigh; print(os.environ.get('OMP_WAIT_POLICY'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**kept, **said}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(policy)
