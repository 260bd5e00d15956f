"""What a run without a `val` holds out: no duplicate of a training image, listed, and measured on again exactly."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from tests.runs import TINY, write_coco

from aweigh.cli.main import run
from aweigh.edit import held_out
from aweigh.edit.held_out import HeldOut, choose, duplicates
from aweigh.errors import DataError
from aweigh.header import read_header
from aweigh.layouts.load import load_split
from aweigh.training.config import resolve
from aweigh.training.data import load_data
from aweigh.training.train import train


@pytest.fixture
def photographs(tmp_path):
    """Twenty rough images, all different, in a data set without `val`."""
    root = write_coco(tmp_path / "data", {"train": 20}, sizes=((96, 80),))
    noise = np.random.default_rng(0)
    for number in range(20):
        rough = Image.fromarray(noise.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        rough.resize((96, 80), Image.Resampling.BICUBIC).save(root / "images" / "train" / f"{number}.png")
    return root


def again(root, source, target, *, changed=False):
    """Make one image a duplicate of another: the same file, or the same image a little brighter."""
    folder = root / "images" / "train"
    if changed:
        Image.open(folder / f"{source}.png").point(lambda value: min(255, value + 3)).save(folder / f"{target}.png")
    else:
        shutil.copy(folder / f"{source}.png", folder / f"{target}.png")


def test_without_duplicates_any_are_held_out(photographs):
    split = load_split(photographs)
    rows, remark = choose(split, fraction=0.2, seed=1)
    assert len(rows) == 4 and remark == "" and duplicates(split) == []
    assert choose(split, fraction=0.2, seed=1)[0].tolist() == rows.tolist() == sorted(rows.tolist())
    assert choose(split, fraction=0.2, seed=2)[0].tolist() != rows.tolist()
    assert len(choose(split, fraction=0.001)[0]) == 1 and len(choose(split.take([0, 1]), fraction=0.9)[0]) == 1


@pytest.mark.parametrize("most", [held_out.LOOKED_AT, 5])
def test_no_duplicate_of_a_training_image_is_held_out(photographs, monkeypatch, most):
    """Equal files, and images that look alike; of more images than are looked at, equal files alone."""
    split = load_split(photographs)
    first = choose(split, fraction=0.2)[0].tolist()
    again(photographs, first[0], (first[0] + 1) % 20)
    again(photographs, first[1], (first[1] + 1) % 20, changed=True)
    monkeypatch.setattr(held_out, "LOOKED_AT", most)
    rows, remark = choose(split, fraction=0.2)
    assert first[0] not in rows and len(rows) == 4
    assert (first[1] in rows) == (most == 5)
    assert remark == ("; 2 duplicates stay in training" if most == 5 else "; 4 duplicates stay in training")


def test_where_every_image_has_duplicates_whole_groups_are_held_out(photographs):
    for number in range(0, 20, 2):
        again(photographs, number, number + 1)
    split = load_split(photographs)
    rows, remark = choose(split, fraction=0.2)
    assert len(rows) == 4 and {row ^ 1 for row in rows.tolist()} == set(rows.tolist()) and "whole groups" in remark
    for number in range(1, 20):
        again(photographs, 0, number)
    rows, remark = choose(split, fraction=0.2)
    assert len(rows) == 4 and "learned by heart" in remark


def test_a_run_keeps_the_list_and_eval_measures_on_exactly_that(photographs, tmp_path, quiet, capsys):
    words = {"data": str(photographs), "output": str(tmp_path / "run"), **TINY, "epochs": 1}
    folder = train(resolve({}, words)[0], console=quiet)
    assert "no val split: 2 training images set aside for validation, a tenth" in quiet.file.getvalue()
    listed = json.loads((folder / "held_out.json").read_text())["images"]
    names = [image["file_name"] for image in listed]
    split = load_split(photographs)
    kept = load_data(resolve({}, words)[0])
    assert names == kept.val.file_names() and not {*names} & {*kept.train.file_names()}
    assert len(kept.train) + len(names) == len(split) and all(image["bytes"] > 0 for image in listed)

    measured = read_header(folder / "best.safetensors")["metrics"]
    for detector in (folder, folder / "best.safetensors", folder / "last.safetensors"):
        assert (
            run(["eval", str(detector), str(photographs), "--device", "cpu", "--json", str(tmp_path / "n.json")]) == 0
        )
        assert "COCO protocol, boxes: 2 images, 4 objects" in capsys.readouterr().out
        numbers = json.loads((tmp_path / "n.json").read_text())
        assert numbers["AP"] == pytest.approx(measured["AP"]) and numbers["settings"]["split"] == "held-out"
    assert run(["eval", str(folder), str(photographs), "--split", "train", "--device", "cpu"]) == 0
    assert "20 images" in capsys.readouterr().out
    assert run(["eval", str(folder), str(photographs), "--split", "val", "--device", "cpu"]) == 3

    (photographs / "images" / "train" / names[0]).unlink()
    assert run(["eval", str(folder), str(photographs), "--device", "cpu"]) == 0
    assert "1 of 2 images, 2 objects" in capsys.readouterr().out
    again(photographs, next(n for n in range(20) if f"{n}.png" not in names), names[1].removesuffix(".png"))
    assert run(["eval", str(folder), str(photographs), "--device", "cpu"]) == 3
    assert f"{names[1]} is not the file that the run held out" in capsys.readouterr().err
    other = write_coco(tmp_path / "other", {"train": 1})
    (other / "images" / "train" / "0.png").rename(other / "images" / "train" / "x.png")
    text = (other / "annotations" / "instances_train.json").read_text()
    (other / "annotations" / "instances_train.json").write_text(text.replace("0.png", "x.png"))
    assert run(["eval", str(folder), str(other), "--device", "cpu"]) == 3
    assert "none of the 2 images that the run held out is there" in capsys.readouterr().err


def test_a_val_that_is_named_and_empty_is_none(photographs, tmp_path, quiet, capsys):
    content = json.loads((photographs / "annotations" / "instances_train.json").read_text())
    content |= {"images": [], "annotations": []}
    (photographs / "annotations" / "instances_val.json").write_text(json.dumps(content))
    words = {"data": str(photographs), "output": str(tmp_path / "run"), **TINY, "epochs": 1}
    folder = train(resolve({}, words)[0], console=quiet)
    assert len(HeldOut.read(folder / "held_out.json").files) == 2
    assert run(["eval", str(folder), str(photographs), "--device", "cpu"]) == 0
    assert "COCO protocol, boxes: 2 images, 4 objects" in capsys.readouterr().out


def test_data_with_a_split_of_their_own_are_measured_on_that(photographs, tmp_path, quiet, capsys, toys):
    words = {"data": str(photographs), "output": str(tmp_path / "run"), **TINY, "epochs": 1}
    folder = train(resolve({}, words)[0], console=quiet)
    assert run(["eval", str(folder), str(toys), "--device", "cpu"]) == 0
    assert "COCO protocol, boxes: 4 images" in capsys.readouterr().out
    assert run(["eval", str(tmp_path), str(toys), "--device", "cpu"]) == 2
    assert "is a folder without best.safetensors" in capsys.readouterr().err


def test_a_run_that_goes_on_does_not_train_on_what_it_held_out(photographs, tmp_path, quiet):
    """Images that came to the data since change the choice, not the list."""
    words = {"data": str(photographs), "output": str(tmp_path / "run"), **TINY, "epochs": 1}
    folder = train(resolve({}, words)[0], console=quiet)
    before = HeldOut.read(folder / "held_out.json")
    file = photographs / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    for number in range(20, 25):
        again(photographs, number - 20, number)
        content["images"].insert(0, {"id": 500 + number, "file_name": f"{number}.png", "width": 96, "height": 80})
    file.write_text(json.dumps(content))
    config = resolve(None, {"resume": str(folder), "epochs": 2})[0]
    train(config, extend="stretch", console=quiet)
    assert HeldOut.read(folder / "held_out.json") == before
    assert read_header(folder / "last.safetensors")["metrics"]["protocol"]["images"] == len(before.files)
    data = load_data(config, before)
    assert set(data.val.file_names()) == set(before.files) and len(data.train) == 25 - len(before.files)


def test_a_list_that_cannot_be_read_is_one_line(tmp_path):
    for text in ("{", "[]", '{"images": [{"file_name": "a"}]}', "7"):
        (tmp_path / "held_out.json").write_text(text)
        with pytest.raises(DataError, match=r"held_out\.json: the list of what the run held out cannot be read"):
            HeldOut.read(tmp_path / "held_out.json")
