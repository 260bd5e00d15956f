"""Detections as rows: one for each image, the columns as docs/rows.md has them, the numbers as jsonl has them."""

import gc
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.results.test_writers import CLASSES, all_with_shapes, found, results, with_shapes

from aweigh.detections import Detections
from aweigh.errors import UsageError
from aweigh.results import parquet as format_parquet
from aweigh.results.rows import SCHEMA, row, schema, table
from aweigh.results.writers import DetectionWriter, write_detections

PAGE = Path(__file__).parents[2] / "docs" / "rows.md"


def test_the_page_lists_the_columns_of_the_schema() -> None:
    listed = re.findall(r"^\| `(\w+)` \| `(.+?)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    kinds = [(field.name, str(field.type).replace("element: ", "")) for field in schema()]
    assert listed == kinds
    assert SCHEMA in PAGE.read_text(encoding="utf-8") and schema().metadata == {b"schema": SCHEMA.encode()}


def test_every_image_is_a_row_with_the_numbers_of_jsonl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(format_parquet, "GROUP", 3)  # so that there are several, the last one not full
    camera = np.hstack([np.diag([500.0, 500, 1]), np.zeros((3, 1))])
    cuboids = np.array([[20, 10, 8, 1.5, 1.6, 4, 0.1], [1, 2, 9, 1, 1, 1, 0.2]], np.float32)
    tracked = replace(found(), cuboids=cuboids, camera=camera, track_ids=np.array([7, 4]), frame_number=3, time=0.1)
    images = [*results(), *all_with_shapes(), tracked]
    assert write_detections(images, tmp_path / "found.parquet", "parquet") == len(images)
    write_detections(images, tmp_path / "found.jsonl")
    read = parquet.read_table(tmp_path / "found.parquet")
    assert read.schema.equals(schema(), check_metadata=True) and read.equals(table(images))
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    for values, line in zip(read.to_pylist(), lines, strict=True):
        objects, said = line["detections"], ("path", "width", "height", "error", "frame", "time", "keypoint_names")
        assert {key: values[key] for key in said} == {key: line.get(key) for key in said}
        assert values["names"] == [one["class"] for one in objects]
        assert values["category_ids"] == [one["category_id"] for one in objects]
        for column, key in (("boxes", "box"), ("scores", "score"), ("keypoints", "keypoints")):
            theirs = [one[key] for one in objects if key in one]
            np.testing.assert_array_equal(np.array(values[column] or [], np.float32), np.array(theirs, np.float32))
        theirs = [one["segmentation"]["counts"] for one in objects if "segmentation" in one]
        assert (values["masks"] or []) == theirs
    last = read.to_pylist()[-1]
    np.testing.assert_array_equal(np.array(last["cuboids"], np.float32), cuboids)
    np.testing.assert_array_equal(last["solids"], tracked.solids())
    assert last["track_ids"] == [one["track_id"] for one in lines[-1]["detections"]] == [7, 4]
    assert read["masks"].null_count == 6 and read["keypoints"].null_count == 6 and read["solids"].null_count == 7


def test_names_that_are_no_text_are_spelled_out() -> None:
    values = row(Detections.empty(CLASSES, path="a\udcff\n.jpg", error="a\udcff: no\x07"))
    assert (values["path"], values["error"]) == (r"a\udcff\n.jpg", r"a\udcff: no\x07")
    assert table([Detections.empty(CLASSES, path="a\udcff.jpg")])["path"].to_pylist() == [r"a\udcff.jpg"]


def test_one_image_in_memory() -> None:
    one = with_shapes().to_arrow()
    assert isinstance(one, pa.Table) and one.to_pylist() == [row(with_shapes())]
    assert pa.concat_tables([one, found().to_arrow()]).num_rows == 2


def test_what_fails_leaves_nothing_and_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="planted"), DetectionWriter(tmp_path / "a.parquet", "parquet") as writer:
        writer.write(found())
        raise RuntimeError("planted")
    del writer
    gc.collect()
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr().err == ""


def test_a_table_goes_through_a_pipe(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    write_detections(results(), "-", "parquet")
    sys.stdout.flush()
    (tmp_path / "read.parquet").write_bytes(capfdbinary.readouterr().out)
    assert parquet.read_table(tmp_path / "read.parquet").num_rows == len(results())


def test_a_package_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r'Format parquet needs pyarrow.*"aweigh\[parquet\]", or choose another'):
        write_detections(results(), tmp_path / "found.parquet", "parquet")
    with pytest.raises(UsageError, match=r'A table of detections needs pyarrow.*"aweigh\[parquet\]"'):
        table(results())
    assert list(tmp_path.iterdir()) == []
