"""What a job writes down: its list, its parts, what is done of it, and how far it is. No cluster is needed."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from aweigh import stores
from aweigh.cluster import job as jobs
from aweigh.cluster.job import Job, Manifest, begin_job, check_free, check_same, entries_of, find_job, status_of
from aweigh.errors import DataError, UsageError

ASKED = {"model": "box", "score": 0.5}


def begun(out: Path | str, images: int = 100) -> Job:
    return begin_job(str(out), ("photos",), (f"photos/{i}.jpg" for i in range(images)), format="jsonl", asked=ASKED)


def entry(part: int, *, images: int = 16, errors: int = 0, objects: int = 3, written: float = 0.0) -> dict[str, Any]:
    told = {"part": part, "images": images, "errors": errors, "objects": objects}
    return told | {"bytes": 10, "seconds": 1.0, "written": written}


def test_a_job_is_found_again_as_it_was_written(tmp_path: Path) -> None:
    assert find_job(str(tmp_path)) is None
    job = begun(tmp_path)

    assert find_job(str(tmp_path)) == job
    assert (job.images, job.part_images, job.parts) == (100, 16, 7)


def test_a_job_may_lie_in_a_store() -> None:
    pytest.importorskip("pyarrow")
    out = f"memory://{uuid4().hex}"
    job = begun(out)

    assert find_job(out) == job
    assert job.names(6) == [f"photos/{i}.jpg" for i in range(96, 100)]


def test_parts_have_all_names_once_also_over_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LISTED", 10)
    job = begun(tmp_path)

    assert len([*(tmp_path / "lists").iterdir()]) == 10
    names = [name for part in range(job.parts) for name in job.names(part)]
    assert names == [f"photos/{i}.jpg" for i in range(100)]


def test_names_that_are_no_text_keep_their_bytes(tmp_path: Path) -> None:
    names = ["a\udcff.jpg", "b\nc.jpg", "ü.jpg"]
    job = begin_job(str(tmp_path), ("x",), names, format="jsonl", asked={})

    assert job.names(0) == names


@pytest.mark.parametrize(("images", "of_a_part"), [(1, 16), (2000, 16), (10_000, 64), (10_000_000, 1024)])
def test_parts_grow_with_the_job_up_to_a_limit(images: int, of_a_part: int) -> None:
    assert jobs.images_of_a_part(images) == of_a_part


def test_another_job_in_the_folder_is_refused_by_what_differs(tmp_path: Path) -> None:
    job = begun(tmp_path)

    check_same(job, ("photos",), "jsonl", ASKED)
    with pytest.raises(UsageError, match=r"score is 0\.5 there, and here 0\.3\. Ask the same .* or name another"):
        check_same(job, ("photos",), "jsonl", {**ASKED, "score": 0.3})
    with pytest.raises(UsageError, match="source is "):
        check_same(job, ("others",), "jsonl", ASKED)
    with pytest.raises(UsageError, match="resize is null there, and here "):
        check_same(job, ("photos",), "jsonl", {**ASKED, "resize": "96"})


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    check_free(str(tmp_path / "new"))
    (tmp_path / "thesis.tex").write_text("")

    with pytest.raises(UsageError, match=r"holds no job but thesis\.tex"):
        check_free(str(tmp_path))


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"schema": "aweigh.job/2", "sources": []}', '{"schema": "aweigh.job/1"}']
)
def test_a_damaged_job_is_said(content: str, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(content)

    with pytest.raises(DataError, match=r"job\.json: is no job that can be gone on with"):
        find_job(str(tmp_path))


def test_what_is_done_are_the_parts_that_are_there(tmp_path: Path) -> None:
    job = begun(tmp_path)
    stores.write(job.file(2), b"123")
    stores.write(str(tmp_path / "parts/.hidden.unfinished.jsonl"), b"")
    stores.write(str(tmp_path / "parts/part-000099.jsonl"), b"")

    assert job.done() == {2: 3}


def test_the_manifest_knows_what_parts_hold_and_which_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PARTS_TOLD", 2)
    job = begun(tmp_path)
    manifest = Manifest(job)
    for part in (0, 1, 4):
        manifest.add(entry(part, errors=1))
    manifest.write()

    again = Manifest(job)
    assert again.load([1, 3, 4]) == [3]  # the file of part 0 was taken away
    assert (again.counts.images, again.counts.errors, again.counts.objects) == (32, 2, 6)
    again.add(entry(3))
    again.add(entry(0))
    again.write()
    assert sorted(told["part"] for told in entries_of(str(tmp_path))) == [0, 1, 3, 4]


def test_the_manifest_is_written_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = begun(tmp_path)
    manifest = Manifest(job)
    manifest.add(entry(0))
    assert not [*entries_of(str(tmp_path))]

    monkeypatch.setattr(Manifest, "PAUSE", 0.0)
    manifest.add(entry(1))
    assert len([*entries_of(str(tmp_path))]) == 2


def test_the_status_counts_parts_and_tells_a_rate(tmp_path: Path) -> None:
    job = begun(tmp_path)
    for part in (0, 1, 6):
        stores.write(job.file(part), b"x")
    manifest = Manifest(job)
    manifest.add(entry(0, written=100.0))
    manifest.add(entry(1, errors=2, written=108.0))
    manifest.write()  # and part 6 a moment later

    status = status_of(str(tmp_path))
    assert (status.images_done, status.parts_done, status.counts.errors) == (36, 3, 2)
    assert status.rate == 2.0 and status.seconds_left == 32.0
    assert "36 of 100 images, 3 of 7 parts (jsonl)" in str(status) and "2.0 images/s, 32 s left" in str(status)
    assert json.dumps(status.to_dict())


def test_a_finished_job_says_nothing_of_what_is_left(tmp_path: Path) -> None:
    job = begun(tmp_path)
    for part in range(job.parts):
        stores.write(job.file(part), b"x")

    assert "left" not in str(status_of(str(tmp_path))) and "again" not in str(status_of(str(tmp_path)))


def test_a_folder_without_a_job_has_no_status(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no job"):
        status_of(str(tmp_path))
