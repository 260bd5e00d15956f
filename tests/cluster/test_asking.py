"""What is refused before a cluster is asked, what is sent to its processes, and the line that says how far it is."""

from pathlib import Path

import numpy as np
import pytest
from tests.cluster.spotting import draw_spots

from aweigh.cli.flags import Cluster, Weights
from aweigh.cli.main import run
from aweigh.cli.on_cluster import Pace
from aweigh.cluster.dataset import images_of_columns
from aweigh.cluster.job import Counts, Job
from aweigh.cluster.loader import Loader
from aweigh.cluster.ray_cluster import joined_cluster
from aweigh.errors import UsageError
from aweigh.images.reader import read_image
from aweigh.predictor import Predictor


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--processes", "2"], "--processes 2 goes with --cluster"),
        (["--cluster", "--format", "csv"], "a cluster writes jsonl or parquet"),
        (["--cluster", "--every", "5"], "--cluster looks at images"),
        (["--cluster", "-o", "-"], "-o names the folder"),
        (["--cluster", "--score", "2"], "score"),
        (["--cluster", "--overlap", "0.5"], "--overlap 0.5 goes with --tile"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw_spots(tmp_path / "photos", 1)

    assert run(["predict", "photos", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_archive_is_refused_and_nothing_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import zipfile

    (file,) = draw_spots(tmp_path / "photos", 1)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(file, "a.png")

    assert run(["predict", str(tmp_path / "photos.zip"), "--cluster", "-o", str(tmp_path / "out")]) == 2
    assert "photos.zip/a.png: a cluster opens no archives" in capsys.readouterr().err
    assert not (tmp_path / "out/job.json").exists()


def test_a_client_of_ray_is_refused() -> None:
    with pytest.raises(UsageError, match=r"ray://host:1: Ray's clients cannot do this"), joined_cluster("ray://host:1"):
        pass


def test_a_process_has_as_many_cores_as_threads_and_a_gpu_where_one_is_asked_for() -> None:
    workers = Cluster((), 3).workers(Weights(threads=4, device="cuda"))

    assert (workers.count, workers.cpus, workers.gpus) == (3, 4, 1)
    assert Cluster(()).workers(Weights()).cpus == 1


def test_a_file_of_a_model_is_sent_along_with_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "net.xml").write_bytes(b"net")
    (tmp_path / "net.bin").write_bytes(b"numbers")
    seen: list[bytes] = []

    def make(name: str) -> Predictor:
        seen.extend([Path(name).read_bytes(), Path(name).with_suffix(".bin").read_bytes()])
        raise UsageError("enough")

    loader = Loader.of(tmp_path / "net.xml", make)
    (tmp_path / "net.xml").unlink()
    with pytest.raises(UsageError, match="enough"):
        loader()
    assert seen == [b"net", b"numbers"]
    (tmp_path / "net.xml").write_bytes(b"another")
    assert loader.digest != Loader.of(tmp_path / "net.xml", make).digest != ""
    assert not Loader.of("box", make).files


def test_rows_of_files_and_of_arrays_are_images(tmp_path: Path) -> None:
    (file,) = draw_spots(tmp_path, 1)
    pixels = read_image(file)

    (named,) = images_of_columns({"bytes": [file.read_bytes()], "path": ["a.png"]})
    assert str(named) == "a.png" and (read_image(named) == pixels).all()
    (array,) = images_of_columns({"image": np.stack([pixels])})
    assert (array == pixels).all()
    with pytest.raises(UsageError, match="a column bytes or image, these have id"):
        images_of_columns({"id": [1]})


def test_the_line_tells_images_rate_time_left_and_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 10.0, 10.0, 20.0])
    monkeypatch.setattr("aweigh.cli.on_cluster.time.monotonic", lambda: next(now))
    pace, job = Pace(), Job("out", ("photos",), "jsonl", 1100, 16, {})

    assert "? left" in pace.line(job, Counts(100))
    assert pace.line(job, Counts(600, 2)) == "600 of 1,100 images, 50.0/s, 10 s left, 2 images with an error"
