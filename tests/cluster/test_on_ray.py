"""A cluster of two nodes writes into a bucket what one machine writes, and goes on where it was stopped."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.spotting import draw_spots, dying, spotting
from tests.cluster.two_nodes import s3_server, two_nodes

from aweigh import stores
from aweigh.cluster.job import Counts, find_job
from aweigh.cluster.loader import Loader
from aweigh.cluster.predict import Workers, predict_on_cluster
from aweigh.results.jsonl import json_line


def on_cluster(source: str, out: str, make: Any, **asked: Any) -> Counts:
    usual = {"about": {}, "address": "", "workers": Workers(), "format": "jsonl", "recursive": False}
    usual |= {"allow_net": False, "score": 0.5, "classes": (), "batch": 0, "reading": {}}
    return predict_on_cluster([source], out, Loader("spots", make), progress=lambda *_: None, **(usual | asked))


def rows_of(out: str) -> list[dict[str, Any]]:
    job = find_job(out)
    assert job is not None
    return [json.loads(line) for part in range(job.parts) for line in stores.read(job.file(part)).splitlines()]


def alone(source: str) -> list[dict[str, Any]]:
    return [json_line(each) for each in spotting().stream(source, 1)]


@pytest.mark.long
def test_two_nodes_write_into_a_bucket_what_one_machine_writes(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    files, out = draw_spots(tmp_path / "photos", 40, bad=3), "s3://bucket/out"
    with s3_server("bucket"), two_nodes() as address:
        for file in files:
            stores.write(f"s3://bucket/photos/{file.name}", file.read_bytes())
        counts = on_cluster("s3://bucket/photos", out, spotting, address=address)

        rows = rows_of(out)
        assert rows == alone("s3://bucket/photos")
        assert (counts.images, counts.errors, counts.objects) == (40, 1, 39)


@pytest.mark.thorough
def test_a_process_that_dies_of_an_image_costs_that_image(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    draw_spots(tmp_path / "photos", 70, bad=3, deadly=40)
    photos, out = str(tmp_path / "photos"), str(tmp_path / "out")
    with two_nodes() as address:
        counts = on_cluster(photos, out, dying, address=address)

    rows, whole = rows_of(out), alone(photos)
    assert counts.errors == 2 and "the process that looks at it dies each time" in rows[40]["error"]
    assert rows[:40] + rows[41:] == whole[:40] + whole[41:]
