"""Proposals that other programs wrote: COCO's results, and selective search's MATLAB files."""

import base64
import json
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.annotated import Make, coco_dict

from aweigh.errors import DataError
from aweigh.layouts.load import load_split
from aweigh.proposals.from_files import from_coco_results, from_selective_search
from aweigh.proposals.matlab import read_mat

OBJECTS = [[5.0, 5, 10, 10], [20, 3, 19, 25], [0, 10, 12.5, 20]]  # xywh


@pytest.fixture
def split(coco: Make):
    """Two images, 1.png and 2.png, of 40 x 30; three objects in the first."""
    return load_split(coco(coco_dict(OBJECTS)))


def test_coco_results_of_any_class(split, tmp_path: Path) -> None:
    entries = [
        {"image_id": 2, "category_id": 5, "bbox": [30, 20, 50, 50], "score": 0.5},
        {"image_id": 1, "bbox": [5, 5, 10, 10], "score": 1},
        {"image_id": 2, "bbox": [1, 2, 3, 4.5], "score": 0.75},
        {"image_id": 9, "bbox": [1, 2, 3, 4.5], "score": 0.75},
    ]
    (tmp_path / "r.json").write_text(json.dumps(entries))
    found, remarks = from_coco_results(tmp_path / "r.json", split, number=5, made={}, own_ids=True)
    assert found.boxes.tolist() == [[5, 5, 15, 15], [1, 2, 4, 6.5], [30, 20, 40, 30]]
    assert found.first.tolist() == [0, 1, 3] and remarks == ["1 box of 1 other image left out"]
    split.with_proposals(found)
    for wrong, message in (
        ([{"image_id": 1, "bbox": [1, 2, 3], "score": 1}], "entry 0 is"),
        ([{"image_id": 1, "bbox": [1, 2, 3, float("nan")], "score": 1}], "entry 0 is"),
        ([{"image_id": "1", "bbox": [1, 2, 3, 4], "score": 1}], "entry 0 is"),
        ([{"image_id": 1, "bbox": [1, 2, -3, 4], "score": 1}], "entry 0 is"),
        ([{"image_id": 5, "bbox": [1, 2, 3, 4], "score": 1}], "its image ids are 5, those here 1, 2"),
        ({}, "a list of boxes with scores, this is a dict"),
    ):
        (tmp_path / "w.json").write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=message):
            from_coco_results(tmp_path / "w.json", split, number=5, made={}, own_ids=True)


# Written by scipy 1.17.1, `savemat` of {"images": cell [3, 1] of texts "000005", "picture_b", "c", "boxes": cell [1, 3]
# of uint16 [[1, 1, 10, 20], [3, 5, 8, 16]], double [[2, 3, 7, 9]] and double [0, 4], "number": 3.5, "info": struct};
# the first without compression, packed by zlib to be short here, the second with MATLAB's own.
PLAIN = zlib.decompress(
    base64.b64decode(
        "eNqdklFPgzAQx1tkBHVZfPDRh4vPaipx0/AE+rREzB54NzCLkgy6MDB8bD+C7TgcdkwSmzSXu97/17teAz989h9hesMg8MPrJF1xWKyiMhFF"
        "5sJabNL6Cp4KHpX8DUTuQvhRwYv4BGcGzq3r3LnsHhzmzMg/Fp0HE2m+5LbktlUIj0boH2GMYk6aRe98Q4jSPXR0pqZr81veGfpMrWmj9wb0"
        "x5pe+et0WVYFf40xrjhsgEN/cShZos6mh/umnd5VLBa1anuv7lNNZ2ANLc/E2qmkUZl1IrPOZURxFh2O1XN/l6N6h93kvMbYaC/QXnr6e+hc"
        "0sMlPX1Zf7yjOsurLOZFo7d/yhpv7687HOMgxyRpnoiRtMbWN0hE9v/VZGCeY21+32gELG8="
    )
)
PACKED = base64.b64decode(
    "TUFUTEFCIDUuMCBNQVQtZmlsZSBQbGF0Zm9ybTogcG9zaXgsIENyZWF0ZWQgb246IFRodSBOb3YgMjYgMjE6MjQ6MDcgMjAyNgAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABSU0PAAAAXQAAAHic42NgYPgAxGxAzAHEjAwQwArlM0PFGKFq"
    "MnMT01OLGRj4gGwLJH0saPpg6mHmCUD5BiBgCtHvQEA/J5p+EL8gM7mktCg1PgkqDjLHgIA5jCjmMDIkA2kAP4UKZg8AAABqAAAAeJzjY2Bg"
    "4GBkYGAD0UAMZIIBKxKfGUqDxJLyK1KLgTQfEDswIPRxo+ljAmIWJPNAbAEwnxmIWRm4gKpEgCIgcwKQzGHDYj+yOZxArMAABw4QigNKy0Bp"
    "JQeQuQZ4zIW5CdlcEAAAaloFjw8AAAAqAAAAeJzjY2BgcABiNiDmgNIgwArlMyJhkFxeaW5SahEDAydUHgJ4HABVKQNfDwAAADsAAAB4nONj"
    "YGCoAGI2IOYAYiYGCGCF8hnhmIUhMy8tnxVIM4H5TAyJQJoPiC2Q9PPh1A8BPEjiIAAAEggDTQ=="
)


@pytest.mark.parametrize("content", [PLAIN, PACKED], ids=["plain", "packed"])
def test_a_matlab_file_as_scipy_writes_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.mat").write_bytes(content)
    found = read_mat(tmp_path / "s.mat")
    assert set(found) == {"images", "boxes", "number"} and found["number"].tolist() == [[3.5]]
    assert found["images"] == ["000005", "picture_b", "c"]
    first, second, third = found["boxes"]
    assert first.dtype == np.uint16 and first.tolist() == [[1, 1, 10, 20], [3, 5, 8, 16]]
    assert second.tolist() == [[2, 3, 7, 9]] and third.shape == (0, 4)


def test_selective_search_of_matlab(coco: Make, tmp_path: Path) -> None:
    """(y0, x0, y1, x1), counted from 1, the last pixel included: [1, 1, 10, 20] are the first 20 x 10 pixels."""
    data = coco_dict(OBJECTS)
    names = ["000005.png", "c.png"]
    data["images"] = [{"id": n, "file_name": name, "width": 40, "height": 30} for n, name in enumerate(names, 1)]
    root = coco(data)
    for name in names:
        Image.new("RGB", (40, 30)).save(root / "images" / name)
    split = load_split(root)
    (tmp_path / "s.mat").write_bytes(PACKED)
    found, remarks = from_selective_search(tmp_path / "s.mat", split, number=5, made={})
    assert found.boxes.tolist() == [[0, 0, 20, 10], [4, 2, 16, 8]] and found.scores.tolist() == [1, 0.5]
    assert found.first.tolist() == [0, 2, 2] and remarks == []
    assert split.with_proposals(found).objects(0)["proposals"].shape == (2, 4)


def test_a_matlab_file_of_other_pictures_or_broken(split, tmp_path: Path) -> None:
    path = tmp_path / "s.mat"
    path.write_bytes(PLAIN)
    with pytest.raises(
        DataError, match=r"none of the 2 images of train .*it names 000005, picture_b, c, here are 1, 2"
    ):
        from_selective_search(path, split, number=5, made={})
    path.write_bytes(PLAIN.replace(b"boxes", b"bones"))
    with pytest.raises(DataError, match=r"expected the cell arrays `images` and `boxes`.*bones, images, number"):
        from_selective_search(path, split, number=5, made={})
    for content, message in (
        (b"\x89HDF\r\n", "version 7.3; save it as -v7"),
        (b"MATLAB 7.3 MAT-file" + bytes(200), "version 7.3"),
        (b"boxes", "no MATLAB file of level 5"),
        (PLAIN[:300], "cut short or broken"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_mat(path)
    for seed in range(200):
        dice = random.Random(seed)
        broken = bytearray(PLAIN)
        for _ in range(dice.randint(1, 5)):
            broken[dice.randrange(128, len(broken))] = dice.randrange(256)
        path.write_bytes(broken)
        try:
            read_mat(path)
        except DataError as error:
            assert "cut short or broken" in str(error)
