"""Two nodes train as one by torchrun, are killed, and go on: two agents that meet on the loopback, as docs/cluster.md
has the commands."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from tests.runs import TINY, write_coco

from aweigh.training.logs.json_lines import read_log

SETTINGS = {**TINY, "epochs": 3, "batch": 1, "save_every": 1, "workers": 0}


def two_nodes(*words):
    """An agent for each of two nodes, which starts one process, in a group of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meet = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"]
    command = [sys.executable, "-m", "torch.distributed.run", *meet, "--rdzv-id", str(port), "-m", "aweigh", *words]
    options = {"start_new_session": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return [subprocess.Popen([*map(str, command)], env=environment, **options) for _ in range(2)]


def flags():
    for name, value in SETTINGS.items():
        yield f"--{name.replace('_', '-')}"
        yield from map(str, value if isinstance(value, tuple) else [value])


def kill(node):
    """The agent, and the process that it started, which has a group of its own."""
    below = subprocess.run(["ps", "-o", "pid=", "--ppid", str(node.pid)], capture_output=True, text=True).stdout
    for process in [node.pid, *map(int, below.split())]:
        os.kill(process, signal.SIGKILL)


@pytest.mark.thorough
def test_two_nodes_are_killed_and_go_on(tmp_path):
    data, run = write_coco(tmp_path / "data", {"train": 10, "val": 4}, sizes=[(96, 80)]), tmp_path / "run"
    nodes = two_nodes("train", data, *flags(), "--output", run)
    while all(node.poll() is None for node in nodes) and len(read_log(run / "log.jsonl")) < 8:
        time.sleep(0.05)
    for node in nodes:
        kill(node)
    outputs = [node.communicate()[0] for node in nodes]
    assert not (run / "last.safetensors").exists() or len(read_log(run / "log.jsonl")) >= 8, outputs

    nodes = two_nodes("resume", run)
    outputs = [node.communicate(timeout=500)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert any("Going on in epoch" in output for output in outputs), outputs
    assert {entry["epoch"] for entry in read_log(run / "log.jsonl") if "epoch" in entry} >= {1, 2, 3}
