"""Model files that describe themselves, what happens to broken ones, and the state of a run."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import aweigh
from aweigh.checkpoints.checkpoint import average, load_model, load_state, save_model, save_state, shrink, start_from
from aweigh.classes import Classes
from aweigh.cli.main import run
from aweigh.errors import AweighError, DataError, UsageError
from aweigh.files import atomic_file
from aweigh.header import read_header
from aweigh.images.resize import Resize

SMALL = {"channels": 32, "head_convs": 1}
PETS = Classes(("cat", "dog", "owl"), (3, 7, 90))


def tiny(classes=PETS, **arguments):
    torch.manual_seed(0)
    return aweigh.create("fcos_shufflenet_v2_x0_5_fpn", classes=classes, **(SMALL | arguments))


@pytest.fixture
def saved(tmp_path):
    model = tiny()
    model.score_threshold = 0.123
    path = tmp_path / "model.safetensors"
    training = {"epoch": 3, "config": {"lr": 0.1}}
    save_model(path, model, resize=Resize(short=96, long=160), metrics={"AP": 0.5}, training=training, licence="MIT")
    return path, model


def rewritten(path, **changes):
    header = read_header(path) | changes
    save_file(load_file(path), path, metadata={"aweigh": json.dumps(header)})
    return path


def test_a_model_comes_back_with_everything_it_needs(saved):
    path, model = saved
    loaded, header = load_model(path)
    assert loaded.classes == PETS and loaded.score_threshold == 0.123 and not loaded.training
    assert Resize.from_dict(header["resize"]) == Resize(short=96, long=160)
    assert header["metrics"] == {"AP": 0.5} and header["licence"] == "MIT" and header["training"]["epoch"] == 3
    assert header["aweigh"] == aweigh.__version__ and header["torch"] == torch.__version__
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_channels_last_weights_are_saved_like_others(tmp_path):
    model = tiny().to(memory_format=torch.channels_last)
    save_model(tmp_path / "m.safetensors", model, resize=Resize(short=64, long=64))
    loaded, _ = load_model(tmp_path / "m.safetensors")
    assert torch.equal(loaded.head.logits.weight, model.head.logits.weight)


def test_files_that_are_no_checkpoints_are_explained(saved, tmp_path):
    path, _ = saved
    whole = path.read_bytes()
    bad = tmp_path / "bad.safetensors"
    for content in (b"", b"not a checkpoint", whole[:100], whole[: len(whole) // 2]):
        bad.write_bytes(content)
        with pytest.raises(DataError, match="truncated or is no safetensors file"):
            load_model(bad)
    save_file({"weight": torch.zeros(1)}, bad)
    with pytest.raises(DataError, match="no Aweigh header"):
        load_model(bad)
    save_file({"weight": torch.zeros(1)}, bad, metadata={"aweigh": "{"})
    with pytest.raises(DataError, match="cannot be read"):
        load_model(bad)
    save_file({"weight": torch.zeros(1)}, bad, metadata={"aweigh": '{"format": 1}'})
    with pytest.raises(DataError, match="lacks arguments, builder"):
        load_model(bad)
    with pytest.raises(UsageError, match="There is no file"):
        load_model(tmp_path / "none.safetensors")


def test_another_architecture_or_a_newer_format_is_a_usage_error(saved):
    path, _ = saved
    with pytest.raises(UsageError, match="Did you mean 'fcos_resnet18_fpn'"):
        load_model(rewritten(path, builder="fcos_resnet18_fpm"))
    with pytest.raises(UsageError, match="tensors fit"):
        load_model(rewritten(path, builder="fcos_shufflenet_v2_x1_0_fpn"))
    with pytest.raises(UsageError, match="update aweigh"):
        load_model(rewritten(path, format=99))


def test_a_failed_write_leaves_the_file_before(saved, monkeypatch):
    path, model = saved
    before = path.read_bytes()

    def full_disk(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("aweigh.checkpoints.checkpoint.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_model(path, model, resize=Resize(short=64, long=64))
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1


def test_head_swap_copies_the_rows_of_classes_of_the_same_name(saved):
    path, old = saved
    torch.manual_seed(1)
    new = aweigh.create("fcos_shufflenet_v2_x0_5_fpn", classes=["owl", "fox", "cat", "ant"], **SMALL)
    fresh = new.head.logits.weight.detach().clone()
    line = start_from(new, path)
    rows = new.head.logits.weight
    assert torch.equal(rows[0], old.head.logits.weight[2]) and torch.equal(rows[2], old.head.logits.weight[0])
    assert torch.equal(rows[1], fresh[1]) and torch.equal(rows[3], fresh[3])
    assert torch.equal(new.head.logits.bias[[0, 2]], old.head.logits.bias[[2, 0]])
    assert torch.equal(new.head.distances.weight, old.head.distances.weight)
    total = len(new.state_dict())
    assert line.startswith(f"loaded {total - 2} of {total} tensors; new: ")
    assert "head.logits.weight (3->4)" in line and line.endswith("rows kept by name: owl, cat")


def test_head_swap_with_as_many_other_classes_as_box_sides(tmp_path):
    """Four classes have as many rows as the four distances, which must not be taken for class rows."""
    old = tiny(Classes.from_names(["a", "b", "c", "d"]))
    save_model(tmp_path / "m.safetensors", old, resize=Resize(short=64, long=64))
    torch.manual_seed(1)
    new = aweigh.create("fcos_shufflenet_v2_x0_5_fpn", classes=["d", "c", "b", "a"], **SMALL)
    start_from(new, tmp_path / "m.safetensors")
    assert torch.equal(new.head.logits.weight, old.head.logits.weight.flip(0))
    assert torch.equal(new.head.distances.weight, old.head.distances.weight)


def test_head_swap_refuses_other_detectors(saved):
    path, _ = saved
    with pytest.raises(UsageError, match="give --model fcos_shufflenet_v2_x0_5_fpn"):
        start_from(aweigh.create("fcos_shufflenet_v2_x1_0_fpn", classes=PETS, **SMALL), path)
    with pytest.raises(UsageError):
        start_from(tiny(channels=64), path)


def test_state_falls_back_to_the_one_before_and_says_so(tmp_path):
    for step in (1, 2):
        save_state(tmp_path, {"model.weight": torch.full((2,), float(step))}, {"step": step})
    tensors, values, remark = load_state(tmp_path)
    assert values["step"] == 2 and tensors["model.weight"].tolist() == [2.0, 2.0] and remark == ""
    (tmp_path / "state.safetensors").write_bytes(b"cut")
    _, values, remark = load_state(tmp_path)
    assert values["step"] == 1 and "state.safetensors is truncated" in remark and "previous" in remark
    (tmp_path / "previous.safetensors").unlink()
    with pytest.raises(AweighError, match="no state to go on from"):
        load_state(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_a_checkpoint_can_be_read_by_those_who_can_read_other_files(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    path = tmp_path / "model.safetensors"
    with atomic_file(path) as aside:
        save_file({"a": torch.zeros(1)}, aside)
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_shrunk_file_is_half_as_large_names_no_places_and_is_used_alike(saved, tmp_path):
    path, model = saved
    rewritten(path, training={"epoch": 3, "config": {"lr": 0.1, "data": "/a/place", "init": "b", "output": "c"}})
    small = tmp_path / "small.safetensors"
    shrink(path, small, licence="Apache-2.0")
    assert 2 * small.stat().st_size < 1.1 * path.stat().st_size
    loaded, header = load_model(small)
    assert header["licence"] == "Apache-2.0" and header["training"] == {"epoch": 3, "config": {"lr": 0.1}}
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=1e-3, atol=1e-6)
    other = tiny()
    assert "loaded" in start_from(other, small)


def test_the_mean_of_two_checkpoints(saved, tmp_path):
    path, first = saved
    second, other = tiny(), tmp_path / "other.safetensors"
    with torch.no_grad():
        for value in second.parameters():
            value.add_(torch.randn_like(value) * 0.1)
    save_model(other, second, resize=Resize(short=None, long=64))
    average([path, other], tmp_path / "mean.safetensors")
    mean, header = load_model(tmp_path / "mean.safetensors")
    assert header["resize"] == {"short": 96, "long": 160, "antialias": True} and header["metrics"] == {}
    for name, value in mean.state_dict().items():
        expected = (first.state_dict()[name].float() + second.state_dict()[name].float()) / 2
        torch.testing.assert_close(value.float(), expected.to(value.dtype).float())
    with pytest.raises(UsageError, match="two checkpoints or more"):
        average([path], tmp_path / "again.safetensors")
    save_model(other, tiny(Classes.from_names(["a", "b"])), resize=Resize())
    with pytest.raises(UsageError, match="differ in detector, classes or the sizes of layers"):
        average([path, other], tmp_path / "again.safetensors")
    assert not (tmp_path / "again.safetensors").exists()


def test_average_and_shrink_as_they_are_typed(saved, tmp_path, capsys):
    path, model = saved
    mean, small, numbers = (str(tmp_path / name) for name in ("mean.safetensors", "small.safetensors", "eval.json"))
    assert run(["average", str(path), str(path), "-o", mean]) == 0
    found = {"AP": 0.25, "AP50": 0.5, "AP75": 0.2, "APs": 0.1, "APm": 0.2, "APl": 0.3}
    (tmp_path / "eval.json").write_text(json.dumps({**found, "per_class": {}}))
    assert run(["shrink", mean, "-o", small, "--metrics", numbers]) == 0
    loaded, header = load_model(small)
    assert header["metrics"] == found and header["training"]["mean_of"] == 2
    torch.testing.assert_close(loaded.head.logits.weight, model.head.logits.weight, rtol=1e-3, atol=1e-6)
    (tmp_path / "eval.json").write_text("[]")
    assert run(["shrink", mean, "-o", small, "--metrics", numbers]) == 2
    assert "does not hold what `aweigh eval --json` writes" in capsys.readouterr().err


def test_what_half_precision_cannot_hold_is_not_shrunk(saved, tmp_path):
    path, model = saved
    with torch.no_grad():
        model.head.scales[0] = 1e6
    save_model(path, model, resize=Resize())
    with pytest.raises(DataError, match=r"head\.scales has values that half precision cannot hold"):
        shrink(path, tmp_path / "small.safetensors")
    assert not (tmp_path / "small.safetensors").exists()
