"""Killed ten times at random moments, driver or worker, and begun again by the same command: nothing is lost, nothing
twice, and the parts are byte for byte what one machine writes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.cluster.spotting import draw_spots
from tests.cluster.two_nodes import ALONE, REPOSITORY

from aweigh.cluster.job import find_job, status_of

IMAGES, KILLS = 2000, 10


def aweigh(*words: str) -> list[str]:
    return [sys.executable, "-m", "aweigh", *words, "--resize", "96", "--score", "0.05", "--threads", "1"]


def below(process: int) -> dict[int, str]:
    """The processes that one has started, and what these have, with their names."""
    found: dict[int, str] = {}
    parents = {process}
    names, above = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            names[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            above[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended
    while parents:
        parents = {one for one, parent in above.items() if parent in parents}
        found |= {one: names[one] for one in parents}
    return found


@pytest.mark.thorough
def test_what_is_killed_ten_times_writes_what_one_machine_writes(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    draw_spots(tmp_path / "photos", IMAGES, bad=77)
    environment = {**os.environ, **ALONE}
    once = ["predict", "photos", "--no-draw", "-o", "one", "--batch", "1"]
    subprocess.run(aweigh(*once), cwd=tmp_path, env=environment, check=False)
    command = aweigh("predict", "photos", "--cluster", "--processes", "2", "-o", "out", "--batch", "1")
    chance, killed = random.Random(0), Counter[str]()
    deadline = time.monotonic() + 1500
    seen: set[int] = set()
    while time.monotonic() < deadline:
        driver = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
        while driver.poll() is None:
            time.sleep(chance.uniform(0.2, 1.5))
            done = len([*(tmp_path / "out/parts").glob("part-*")])
            if killed.total() >= KILLS or done in seen:  # it has not gone on since the last kill
                continue
            workers = [one for one, name in below(driver.pid).items() if "MapWorker" in name]
            if not workers:
                continue
            which = chance.choice(["driver", "worker"])
            os.kill(driver.pid if which == "driver" else chance.choice(workers), signal.SIGKILL)
            killed[which] += 1
            seen.add(done)
        if driver.returncode == 1:  # there is an image with an error
            break
    job = find_job(str(tmp_path / "out"))
    assert job is not None and killed.total() == KILLS and min(killed.values()) > 0, killed

    parts = b"".join(Path(job.file(part)).read_bytes() for part in range(job.parts))
    names = [json.loads(line)["path"] for line in parts.splitlines()]
    assert names == [f"photos/{index:05d}.png" for index in range(IMAGES)]
    assert parts == (tmp_path / "one/detections.jsonl").read_bytes()
    status = status_of(str(tmp_path / "out"))
    assert (status.counts.images, status.counts.errors) == (IMAGES, 1)
    print(f"{dict(killed)}; {IMAGES} images in {job.parts} parts; at {REPOSITORY}")
