"""A part is written as one machine writes it; of an image that a process dies of, its row says so. No cluster is
needed."""

import json
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.cluster.spotting import draw_spots, spotting
from tests.runtime.toy_engines import Spots

from aweigh import stores
from aweigh.cluster.attempts import Attempts
from aweigh.cluster.job import Job, begin_job
from aweigh.cluster.part import STEP, count_part, predict_part
from aweigh.detections import Detections
from aweigh.errors import AweighError
from aweigh.images.sources import images_of
from aweigh.predictor import Predictor
from aweigh.results.writers import write_detections
from aweigh.runtime.engine import Batch
from aweigh.stores import DeniedError, StoreError

predicted = partial(predict_part, batch=1, allow_net=False, score=0.5)


def job_of(folder: Path | str, out: Path, format: str = "jsonl") -> Job:
    return begin_job(str(out), (str(folder),), map(str, images_of(folder)), format=format, asked={})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw_spots(tmp_path / "photos", 40, bad=21)
    return tmp_path / "photos"


@pytest.mark.parametrize("batch", [1, 4])
def test_the_parts_together_are_what_one_machine_writes(photos: Path, tmp_path: Path, batch: int) -> None:
    job = job_of(photos, tmp_path / "out")
    entries = [predicted(job, part, spotting(), Attempts(), batch=batch) for part in (2, 0, 1)]
    write_detections(spotting().stream(str(photos), batch), tmp_path / "one.jsonl")

    parts = b"".join(Path(job.file(part)).read_bytes() for part in range(job.parts))
    assert parts == (tmp_path / "one.jsonl").read_bytes()
    told = [(entry["images"], entry["errors"], entry["objects"]) for entry in entries]
    assert told == [(8, 0, 8), (16, 0, 16), (16, 1, 15)]


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_what_a_part_holds_can_be_counted_again(photos: Path, tmp_path: Path, format: str) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow")
    job = job_of(photos, tmp_path / "out", format)
    told = predicted(job, 1, spotting(), Attempts())

    counted = count_part(job, 1, job.done()[1])
    assert {**told, "seconds": 0.0, "written": 0.0} == counted


def rows(job: Job, part: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(job.file(part)).read_text().splitlines()]


class Killed(BaseException):
    """As if the system ended the process."""


class Deadly(Spots):
    """Dies of one image, which it knows by its bright spot."""

    deadly: Any = None

    def run(self, batch: Batch, **rest: Any) -> list[Detections]:
        found = super().run(batch, **rest)
        if any((each.boxes == self.deadly).all() for each in found):
            raise Killed
        return found


def until_it_is_done(job: Job, part: int, predictor: Predictor, attempts: Attempts) -> int:
    """How many processes died."""
    for deaths in range(10):
        try:
            predicted(job, part, predictor, attempts)
            return deaths
        except Killed:
            continue
    raise AssertionError("it dies for ever")


def test_an_image_that_kills_costs_itself_after_three_deaths(photos: Path, tmp_path: Path) -> None:
    job, good = job_of(photos, tmp_path / "out"), spotting()
    predicted(job, 0, good, Attempts())
    before = rows(job, 0)
    Path(job.file(0)).unlink()
    engine = Deadly()
    engine.deadly = next(iter(good.stream([job.names(0)[5]]))).boxes

    assert until_it_is_done(job, 0, Predictor(engine, good.resize), Attempts()) == 3
    after = rows(job, 0)
    assert after[5]["error"].startswith(f"{job.names(0)[5]}: the process that looks at it dies each time")
    assert after[:5] + after[6:] == before[:5] + before[6:]


def test_a_process_that_dies_of_another_reason_costs_nothing(photos: Path, tmp_path: Path) -> None:
    job, attempts = job_of(photos, tmp_path / "out"), Attempts()
    attempts.begin(0)
    attempts.at(0, range(3, 9))  # the machine goes

    predicted(job, 0, spotting(), attempts)
    assert not any(row["error"] for row in rows(job, 0))


def test_images_are_suspected_one_by_one_only_after_a_second_death() -> None:
    attempts = Attempts()
    attempts.begin(7)
    attempts.at(7, range(0, 16))

    assert attempts.begin(7) == (set(), set())
    attempts.at(7, range(4, 6))
    assert attempts.begin(7) == ({4, 5}, set())
    attempts.at(7, range(5, 6))
    assert attempts.begin(7) == ({4, 5}, {5})
    attempts.done(7)
    assert attempts.begin(7) == (set(), set())


def test_a_part_of_one_image_is_no_reason_to_blame_it_at_once() -> None:
    attempts = Attempts()
    attempts.begin(0)
    attempts.at(0, range(0, 1))

    assert attempts.begin(0) == (set(), set())


def test_what_is_told_covers_all_that_is_looked_at(tmp_path: Path) -> None:
    told: list[range] = []

    class Listening(Attempts):
        def at(self, part: int, images: range) -> None:
            told.append(images)

    files = draw_spots(tmp_path / "photos", 1)
    names = [str(files[0])] * 5000  # parts of 32
    job = begin_job(str(tmp_path / "out"), ("x",), names, format="jsonl", asked={})
    predicted(job, 0, spotting(), Listening())
    ends = [one.stop for one in told]
    assert ends == [*range(STEP, job.part_images + 1, STEP)] and all(len(one) <= 4 * STEP for one in told)


@pytest.mark.parametrize(
    ("error", "of", "written"),
    [
        (StoreError("the store does not answer"), 1, False),
        (DeniedError("no permission"), 4, False),
        (DeniedError("no permission"), 3, True),
    ],
)
def test_what_is_the_fault_of_the_store_is_no_error_of_images(
    error: AweighError, of: int, written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    stored = f"memory://{uuid4().hex}"
    for file in draw_spots(tmp_path / "photos", 4):
        stores.write(f"{stored}/{file.name}", file.read_bytes())
    job, read = job_of(stored, tmp_path / "out"), stores.read
    lost = job.names(0)[:of]

    def answer(name: str, **rest: int) -> bytes:
        if name in lost:
            raise error
        return read(name, **rest)

    monkeypatch.setattr("aweigh.images.sources.stores.read", answer)
    if written:
        assert predicted(job, 0, spotting(), Attempts())["errors"] == of
    else:
        with pytest.raises(type(error), match=str(error)):
            predicted(job, 0, spotting(), Attempts())
    assert (0 in job.done()) == written
