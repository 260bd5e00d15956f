"""A cluster of two nodes writes into a bucket what one machine writes, and goes on where it was stopped."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.spotting import draw_spots, dying, spotting
from tests.cluster.two_nodes import s3_server, two_nodes

import aweigh
from aweigh import cluster, stores
from aweigh.annotations.split import Split
from aweigh.classes import Classes
from aweigh.cli.main import run
from aweigh.cluster.job import Counts, find_job
from aweigh.cluster.loader import Loader
from aweigh.cluster.prediction import predict_on_cluster
from aweigh.cluster.ray_cluster import Workers, joined_cluster
from aweigh.layouts.load import load_split
from aweigh.results.jsonl import json_line


def on_cluster(source: str, out: str, make: Any, **asked: Any) -> Counts:
    usual = {"about": {}, "address": "", "workers": Workers(), "format": "jsonl", "recursive": False}
    usual |= {"allow_net": False, "score": 0.5, "classes": (), "batch": 0, "reading": {}}
    return predict_on_cluster([source], out, Loader("spots", make), progress=lambda *_: None, **(usual | asked))


def rows_of(out: str) -> list[dict[str, Any]]:
    job = find_job(out)
    assert job is not None
    return [json.loads(line) for part in range(job.parts) for line in stores.read(job.file(part)).splitlines()]


def renamed(split: Split) -> Split:
    """The same with names of COCO's classes, which the detector in the box knows."""
    names = aweigh.load().classes.names[: len(split.classes)]
    return replace(split, classes=Classes(names, split.classes.ids))


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


@pytest.mark.thorough
def test_the_numbers_and_rows_of_a_cluster_are_those_of_one_machine(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    assert run(["data", "synth", str(tmp_path / "DATA"), "--train", "1", "--val", "40", "--test", "0"]) == 0
    split = load_split(tmp_path / "DATA", "val")
    split.paths[7].write_bytes(b"no image")
    predictor = aweigh.load(resize="160", threads=1)
    one = aweigh.evaluate(predictor, renamed(split))

    with two_nodes() as address, joined_cluster(address):
        loader = Loader("box", partial(aweigh.load, resize="160", threads=1))
        many = cluster.evaluate(predictor, loader, renamed(split))
        images = ray.data.read_binary_files([str(path) for path in split.paths], include_paths=True)
        rows = cluster.predict(images, score=0.05).take_all()

    numbers, wanted = ({**each.to_dict(), "ms_per_image": None} for each in (many, one))
    assert many.results == one.results and numbers == wanted and len(one.results) > 100
    assert [str(problem) for problem in many.problems] == [str(problem) for problem in one.problems] != []
    found = aweigh.load(threads=1).stream([*split.paths], 1, score=0.05)
    assert sorted((row["path"], len(row["scores"])) for row in rows) == [(each.path, len(each)) for each in found]
