"""`aweigh serve` as a user starts it: a process that answers, reads its model anew, and ends when it is told to."""

import json
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.serving.conftest import Client

from aweigh.errors import UsageError
from aweigh.scenes import STREET
from aweigh.serving.service import Batching


def started(*words: str) -> tuple[subprocess.Popen[str], Client]:
    """The process, and who asks it, once it answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "aweigh", "serve", *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    said = ""
    while "http://" not in said and process.poll() is None:
        assert process.stderr is not None
        said += process.stderr.readline()
    return process, Client([], int(said.partition("127.0.0.1:")[2].partition(";")[0]))


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP here")
def test_it_answers_as_predict_does_also_while_its_model_is_read_anew_and_ends_well(tmp_path: Path) -> None:
    process, client = started("--port", "0")
    try:
        with ThreadPoolExecutor(3) as pool:
            answers = [pool.submit(client.detect, STREET.read_bytes()) for _ in range(6)]
            process.send_signal(signal.SIGHUP)
            answers += [pool.submit(client.detect, STREET.read_bytes()) for _ in range(6)]
            found = [answer.result(60) for answer in answers]
            while 'outcome="done"} 1.0' not in client.ask("/metrics").body.decode():
                assert client.ask("/readyz").status == 200
            last = [pool.submit(client.detect, STREET.read_bytes()) for _ in range(3)]
            while 'requests_total{path="/v1/detect",status="200"} 15.0' not in client.ask("/metrics").body.decode():
                pass
            process.send_signal(signal.SIGTERM)
            found += [answer.result(60) for answer in last]
    finally:
        code = process.wait(60)
    assert code == 0 and {answer.status for answer in found} == {200}
    words = [sys.executable, "-m", "aweigh", "predict", str(STREET), "-o", "-"]
    line = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert all(answer.json == {**line, "path": None} for answer in found)


def test_a_port_that_is_taken_is_said_in_a_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = [sys.executable, "-m", "aweigh", "serve", "--port", str(taken.getsockname()[1])]
        ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "cannot be listened to (Address already in use)" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("wrong", [{"workers": -1}, {"max_batch": -1}, {"max_delay": -0.1}])
def test_how_images_share_batches_is_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Batching(**wrong)  # type: ignore[arg-type]
