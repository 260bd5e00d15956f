"""The loop: it learns, leaves what it promises, repeats itself, and survives what a user does to it."""

import io
import json
import math
import os
import re
import signal
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from tests.runs import TINY, charts_not_rendered, write_coco

from aweigh.checkpoints.checkpoint import load_model
from aweigh.errors import AweighError, DataError, UsageError
from aweigh.header import read_header
from aweigh.training import loop
from aweigh.training.config import TrainConfig, resolve
from aweigh.training.debug.crash import read_bundle
from aweigh.training.logs.json_lines import read_log
from aweigh.training.loop import selected
from aweigh.training.prepare import builder_arguments, prepare, run_folder
from aweigh.training.settings import load_recipe
from aweigh.training.step import TrainingLosses, groups, optimiser_step
from aweigh.training.train import train

FILES = {
    "config.toml",
    "log.jsonl",
    "results.csv",
    "last",
    "best.safetensors",
    "last.safetensors",
    "curves.png",
    "inputs_train.png",
    "inputs_val.png",
    "best_val_results.json",
    "pr_curves.png",
    "confusion.png",
    "worst.jpg",
    "errors.json",
    "val_predictions.png",
}


def weights(path):
    return load_model(path)[0].state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rows(folder, kind):
    return [row for row in read_log(folder / "log.jsonl") if row["kind"] == kind]


@pytest.fixture(scope="module")
def learned(toys, tmp_path_factory):
    """One longer run that several tests look at."""
    output = tmp_path_factory.mktemp("learned") / "run"
    changes = {"epochs": 40, "eval_every": 20, "optimizer": "adamw", "lr": 2e-3, "lr_batch": 0, "ema": 0.9}
    config, origin = resolve({}, {"data": str(toys), "output": str(output), **TINY, **changes, "licence": "CC0-1.0"})
    console = Console(file=io.StringIO(), width=400)
    with charts_not_rendered():
        return train(config, origin, console=console), console.file.getvalue()


def test_it_learns_and_leaves_what_it_promises(learned):
    folder, _ = learned
    assert {entry.name for entry in folder.iterdir()} == FILES
    epochs = rows(folder, "epoch")
    assert epochs[-1]["loss"] < 0.6 * epochs[0]["loss"]
    assert epochs[-1]["AP50"] > 0.3
    assert [row["epoch"] for row in epochs if "AP" in row] == [20, 40]
    assert {"val_loss", "AP", "AP50", "lr", "seconds", "data_share"} <= epochs[-1].keys()
    step = rows(folder, "step")[0]
    assert {"step", "epoch", "lr", "loss", "loss_box", "grad_norm", "data_seconds", "step_seconds"} <= step.keys()
    assert step["loss"] == pytest.approx(step["loss_classification"] + step["loss_box"] + step["loss_centerness"])


def test_the_user_is_told_what_happens(learned):
    folder, told = learned
    for words in (
        "8 images, 16 boxes",
        "validation on val",
        "parameters",
        "start: random weights",
        "horizontal flip, probability 0.5",
        "lr 0.002 = as given, not scaled",
        "epoch 40/40  loss",
        "waiting for images",
        f"Weights: {folder / 'best.safetensors'}",
    ):
        assert words in told


def test_the_checkpoint_says_where_it_comes_from(learned):
    folder, _ = learned
    header = read_header(folder / "best.safetensors")
    assert header["classes"] == {"names": ["box", "ball"], "ids": [1, 7]}
    assert header["resize"]["short"] == 64 and header["licence"] == "CC0-1.0" and len(header["data_hash"]) == 64
    assert header["metrics"]["AP50"] > 0.3 and header["metrics"]["split"] == "val"
    assert header["training"]["config"]["lr"] == 2e-3
    assert resolve(load_recipe(TrainConfig, folder / "config.toml"))[0].lr == 2e-3
    assert "# command line" in (folder / "config.toml").read_text()


def test_the_same_seed_gives_the_same_losses_and_weights(configure, quiet, tmp_path):
    first = train(configure(color=0.5, scale_jitter=(0.8, 1.2)), console=quiet)
    second = train(configure(color=0.5, scale_jitter=(0.8, 1.2), output=str(tmp_path / "b"), workers=1), console=quiet)
    other = train(configure(seed=1, output=str(tmp_path / "c"), epochs=1), console=quiet)
    losses = [[row["loss"] for row in rows(folder, "step")] for folder in (first, second, other)]
    assert losses[0] == losses[1] and losses[0][0] != losses[2][0]
    assert same(weights(first / "last.safetensors"), weights(second / "last.safetensors"))


@pytest.mark.parametrize("changes", [{"ema": 0.9}, {"optimizer": "adamw", "lr": 1e-3}])
def test_a_resumed_run_ends_like_one_that_never_stopped(configure, quiet, tmp_path, changes, monkeypatch):
    whole = train(configure(epochs=3, **changes), console=quiet)
    config = configure(epochs=3, output=str(tmp_path / "cut"), **changes)
    calls = {"left": 2}

    def asked_to_stop(run, losses, group):
        if calls["left"] == 0:
            os.kill(os.getpid(), signal.SIGTERM)  # as a cluster does, in the middle of an epoch
        calls["left"] -= 1
        return step(run, losses, group)

    step = loop.optimiser_step
    monkeypatch.setattr(loop, "optimiser_step", asked_to_stop)
    with pytest.raises(KeyboardInterrupt):
        train(config, console=quiet)
    monkeypatch.undo()
    assert f"Stopped after step 3 of 6. To go on from there: aweigh resume {tmp_path / 'cut'}" in quiet.file.getvalue()
    assert (tmp_path / "cut" / "last.safetensors").exists()

    resumed, _ = resolve(None, {"resume": str(tmp_path / "cut")})
    folder = train(resumed, console=quiet)
    assert "Going on in epoch 2, step 3 of 6." in quiet.file.getvalue()
    assert same(weights(whole / "last.safetensors"), weights(folder / "last.safetensors"))
    assert [r["loss"] for r in rows(folder, "step")] == [r["loss"] for r in rows(whole, "step")]
    assert [r["loss"] for r in rows(folder, "epoch")] == [r["loss"] for r in rows(whole, "epoch")]
    train(resumed, console=quiet)
    assert "The run is finished (3 epochs, 6 steps); --epochs 6 would go on." in quiet.file.getvalue()


def test_accumulated_batches_step_like_one_large_batch(configure):
    """Batch-normalisation apart (it is frozen here), two batches of 4 with accumulation equal one of 8."""
    fixed = {
        "flip": 0.0,
        "short": 0,
        "long": 96,
        "arguments": ("channels=32", "head_convs=1", "backbone_norm=frozen_bn"),
    }
    one, two = (prepare(configure(batch=b, accumulate=a, **fixed), None) for b, a in ((8, 1), (4, 2)))
    assert one.schedule.lr == two.schedule.lr and one.schedule.total_steps == two.schedule.total_steps == 2
    batch = next(iter(one.loader))
    for run in (one, two):
        run.model.loss = lambda raw, targets: {"mean": torch.cat([t.flatten(1) for t in raw.logits], 1).mean()}
    optimiser_step(one, TrainingLosses(one), [batch])
    optimiser_step(two, TrainingLosses(two), list(two.loader))
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_groups_end_with_what_is_left():
    assert list(groups([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]
    assert list(groups([], 2)) == []


def test_a_step_without_a_finite_loss_changes_nothing_and_three_end_the_run(configure, quiet, tmp_path):
    run = prepare(configure(clip=1.0, ema=0.9, backbone_norm="bn"), tmp_path)
    run.model.train()
    batch = next(iter(run.loader))
    optimiser_step(run, TrainingLosses(run), [batch])
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    real = run.model.loss
    run.model.loss = lambda raw, targets: {name: value * math.nan for name, value in real(raw, targets).items()}
    row = optimiser_step(run, TrainingLosses(run), [batch])
    assert row["skipped"] == 1.0 and run.skipped == 1 and same(before, run.model.state_dict())
    assert run.ema.updates == 1
    optimiser_step(run, TrainingLosses(run), [batch])
    with pytest.raises(AweighError) as caught:
        optimiser_step(run, TrainingLosses(run), [batch])
    message = str(caught.value)
    assert "3 steps in a row" in message and "classification nan" in message and "\n" not in message
    assert all(str(image_id) in message for image_id in batch.image_ids)

    assert f"aweigh debug {tmp_path / 'crash-000004'}" in message
    assert read_bundle(tmp_path / "crash-000004").record["batches"]

    run.bad_in_a_row, run.model.loss = 2, real
    assert optimiser_step(run, TrainingLosses(run), [batch])["skipped"] == 0.0 and run.bad_in_a_row == 0


def test_a_scaled_loss_that_is_not_finite_does_not_stop_the_steps_after_it(configure, tmp_path):
    """With fp16's scaler: the scale falls, the step is left out, and the next one is as any other."""
    run = prepare(configure(), tmp_path)
    run.model.train()
    run.scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=64.0)
    batch, real = next(iter(run.loader)), run.model.loss
    run.model.loss = lambda raw, targets: {name: value * math.nan for name, value in real(raw, targets).items()}
    assert optimiser_step(run, TrainingLosses(run), [batch])["skipped"] == 1.0
    assert run.scaler.get_scale() == 32.0
    run.model.loss = real
    assert optimiser_step(run, TrainingLosses(run), [batch])["skipped"] == 0.0


def test_unreadable_pictures_of_the_validation_are_let_pass_by_the_same_share(tmp_path, configure, quiet):
    data = write_coco(tmp_path / "data", {"train": 4, "val": 4})
    for number in (0, 1):
        (data / "images" / "val" / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="2 of 4 images cannot be read"):
        train(configure(data=str(data), epochs=1), console=quiet)
    folder = train(configure(data=str(data), epochs=1, max_bad=0.5, output=str(tmp_path / "b")), console=quiet)
    assert len(rows(folder, "problem")) == 2


def test_an_exception_in_a_step_is_kept_too(configure, tmp_path):
    run = prepare(configure(), tmp_path)
    batch = next(iter(run.loader))

    def broken(raw, targets):
        raise IndexError("out of a table")

    run.model.loss = broken
    with pytest.raises(IndexError) as caught:
        optimiser_step(run, TrainingLosses(run), [batch])
    assert caught.value.__notes__ == [
        f"The failed step is kept; to look into it: aweigh debug {tmp_path / 'crash-000001'}"
    ]
    run.model.loss = lambda raw, targets: exec('raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory")')
    with pytest.raises(AweighError, match="batch"):
        optimiser_step(run, TrainingLosses(run), [batch])


def test_an_automatic_batch_is_found_said_and_kept(configure, quiet):
    folder = train(configure(batch="auto", epochs=1), console=quiet)
    assert "batch auto: 8" in quiet.file.getvalue()
    assert load_recipe(TrainConfig, folder / "config.toml")["batch"] == 8
    assert "lr 0.005 = 0.01 x 8/16" in quiet.file.getvalue()


def test_compilation_serves_all_image_sizes_at_once(configure, tmp_path, monkeypatch):
    """One graph without a break for four shapes; the losses are those without compilation.

    The shapes are those of real inputs: where the coarsest map is a single cell, torch makes a graph of its own.
    """
    graphs = []

    def count(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network, **options: compiled(network, backend=count, **options))
    run = prepare(configure(compile=True, batch=2, backbone_norm="frozen_bn"), tmp_path)
    losses, targets = TrainingLosses(run), next(iter(run.loader)).targets
    for height, width in ((160, 192), (192, 160), (160, 320), (224, 288)):
        pixels = torch.rand(2, 3, height, width).contiguous(memory_format=torch.channels_last)
        found, expected = losses(pixels, targets), run.model.loss(run.model.network(pixels), targets)
        assert all(torch.allclose(found[name], expected[name], rtol=1e-4) for name in expected)
    assert len(graphs) == 1


def test_what_is_drawn_mixed_and_mirrored_is_said(configure, quiet):
    train(
        configure(mosaic=0.5, mixup=0.1, copy_paste=0.2, sampler="repeat_factor", repeat_threshold=0.9, epochs=1),
        console=quiet,
    )
    said = next(line for line in quiet.file.getvalue().splitlines() if line.startswith("while training"))
    assert all(word in said for word in ("mosaic", "mixup", "copy-paste", "sampler repeat_factor", "horizontal flip"))


def test_aug_none_is_none(configure, quiet):
    train(configure(aug="none", mosaic=1.0, flip=1.0, color=1.0, epochs=1), console=quiet)
    assert "while training: none: every image is used as it is" in quiet.file.getvalue()


def test_gradients_are_clipped_to_the_norm(configure, tmp_path):
    run = prepare(configure(clip=1e-3, momentum=0.0, weight_decay=0.0, bias_lr=1.0, lr=1.0, lr_batch=0), tmp_path)
    run.schedule = replace(run.schedule, config=replace(run.config, warmup=0))
    run.model.train()
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    assert optimiser_step(run, TrainingLosses(run), [next(iter(run.loader))])["grad_norm"] > 1e-3
    moved = torch.cat([(a - b).flatten() for a, b in zip(run.model.parameters(), before, strict=True)])
    assert moved.norm().item() == pytest.approx(1e-3, rel=0.05)


def test_learning_rate_is_scaled_and_said(configure, tmp_path):
    run = prepare(configure(batch=2, accumulate=2, iterations=90, steps=(60, 80), schedule="step"), tmp_path)
    assert run.schedule.lr == pytest.approx(0.0025) and run.schedule.milestones == (60, 80) and run.schedule.warmup == 9
    assert (run.schedule.total_steps, run.schedule.epochs) == (90, 45)
    assert str(run.schedule).startswith("lr 0.0025 = 0.01 x 4/16 (sgd, step at 60, 80; 90 steps in 45 epochs")


def test_iterations_cut_the_last_epoch(configure, quiet):
    folder = train(configure(iterations=3), console=quiet)
    assert [row["step"] for row in rows(folder, "step")] == [1, 2, 3]
    assert [row["epoch"] for row in rows(folder, "epoch")] == [1, 2]


def test_without_a_val_split_a_tenth_is_set_aside_and_test_is_left_alone(tmp_path, configure, quiet):
    data = write_coco(tmp_path / "data", {"train": 10, "test": 2})
    run = prepare(configure(data=str(data)), tmp_path)
    assert (len(run.data.train), len(run.data.val)) == (9, 1)
    assert "no val split: 1 training image" in run.data.note
    with pytest.raises(UsageError, match="'vall'"):
        prepare(configure(data=str(data), val_split="vall"), tmp_path)


def test_without_validation_the_last_weights_are_the_best(configure, quiet):
    folder = train(configure(val_split="none", epochs=1), console=quiet)
    assert same(weights(folder / "best.safetensors"), weights(folder / "last.safetensors"))
    assert {entry.name for entry in folder.iterdir()} == {
        *("config.toml", "log.jsonl", "results.csv", "last", "best.safetensors", "last.safetensors"),
        *("curves.png", "inputs_train.png"),
    }
    assert "not validated" in quiet.file.getvalue()


def test_images_without_objects_and_a_batch_of_them(tmp_path, configure, quiet):
    data = write_coco(tmp_path / "data", {"train": 8, "val": 2})
    path = data / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"] = content["annotations"][:1]
    path.write_text(json.dumps(content))
    folder = train(configure(data=str(data), batch=1, epochs=1), console=quiet)
    assert "7 images without objects, kept" in quiet.file.getvalue()
    assert all(math.isfinite(row["loss"]) for row in rows(folder, "step"))
    content["annotations"] = []
    path.write_text(json.dumps(content))
    with pytest.raises(DataError):
        train(configure(data=str(data), output=str(tmp_path / "none")), console=quiet)
    assert not (tmp_path / "none").exists()


def test_an_ap_that_is_not_defined_is_never_shown_as_a_number(tmp_path, configure, quiet):
    data = write_coco(tmp_path / "data", {"train": 4, "val": 2})
    path = data / "annotations" / "instances_val.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    folder = train(configure(data=str(data), epochs=1), console=quiet)
    (row,) = rows(folder, "epoch")
    assert row["AP"] is None and math.isfinite(row["val_loss"])
    said = quiet.file.getvalue()
    line = next(line for line in said.splitlines() if line.startswith("epoch 1/1"))
    assert "AP -  AP50 -" in line and "-1" not in line and "not defined" in said


def test_a_picture_that_cannot_be_read_is_skipped_and_named(tmp_path, configure, quiet):
    data = write_coco(tmp_path / "data", {"train": 4, "val": 2})
    (data / "images" / "train" / "2.png").write_bytes((data / "images" / "train" / "2.png").read_bytes()[:120])
    folder = train(configure(data=str(data), batch=1, epochs=2), console=quiet)
    assert quiet.file.getvalue().count("unreadable image") == 1 and "2.png" in quiet.file.getvalue()
    assert len(rows(folder, "step")) == 8 and len(rows(folder, "epoch")) == 2


def test_patience_ends_a_run_that_does_not_get_better(configure, quiet, monkeypatch):
    values = iter([0.5, 0.4, 0.3, 0.2])
    monkeypatch.setattr(loop, "selected", lambda metrics, select: next(values))
    folder = train(configure(epochs=9, patience=2), console=quiet)
    assert len(rows(folder, "epoch")) == 3 and "No better AP for 2 epochs" in quiet.file.getvalue()


def test_the_best_is_chosen_by_the_named_number():
    metrics = {"AP": 0.4, "AP50": 0.6, "val_loss": 2.0, "per_class": {"box": {"AP": 0.1, "AP50": 0.2}}}
    chosen = {name: selected(metrics, name) for name in ("AP", "AP50", "val_loss", "AP50:box")}
    assert chosen == {"AP": 0.4, "AP50": 0.6, "val_loss": -2.0, "AP50:box": 0.2}
    assert selected({}, "AP") == math.inf


def test_training_goes_on_from_a_checkpoint_with_other_classes(configure, quiet, learned, tmp_path):
    data = write_coco(tmp_path / "data", {"train": 4, "val": 2})
    for split in ("train", "val"):
        path = data / "annotations" / f"instances_{split}.json"
        path.write_text(path.read_text().replace('"name": "box"', '"name": "crate"'))
    config = configure(data=str(data), init=str(learned[0] / "best.safetensors"), epochs=1)
    train(config, console=quiet)
    assert "head.logits" in quiet.file.getvalue() and "rows kept by name: ball" in quiet.file.getvalue()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": ""}, "nothing to train on"),
        ({"model": "fcos_resnet18_fpm"}, "fcos_resnet18_fpn"),
        ({"select": "AP:bal"}, "Did you mean 'ball'?"),
        ({"classes": ("boxx",)}, "box"),
        ({"arguments": ("channels",)}, "is not name=value"),
        ({"arguments": ("chanels=8",)}, "chanels"),
        ({"device": "cuda:77"}, "aweigh doctor"),
        ({"precision": "float16"}, "needs a CUDA device"),
        ({"init": "none.safetensors"}, "There is no file"),
        ({"init": "a", "backbone_weights": "b"}, "both given"),
    ],
)
def test_mistakes_end_before_anything_is_written(configure, quiet, tmp_path, changes, words):
    with pytest.raises(UsageError) as caught:
        train(configure(**changes), console=quiet)
    assert words in str(caught.value) and not (tmp_path / "run").exists()


def test_the_run_folder_is_never_overwritten(configure, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    assert run_folder(configure()) == tmp_path / "run"
    (tmp_path / "run" / "config.toml").write_text("")
    with pytest.raises(UsageError, match=r"holds a run already.*aweigh resume"):
        run_folder(configure())
    monkeypatch.chdir(tmp_path)
    config = replace(configure(), output="", data="cells")
    assert str(run_folder(config)) == "runs/cells-fcos_shufflenet_v2_x0_5_fpn"
    run_folder(config).mkdir(parents=True)
    assert run_folder(config).name == "cells-fcos_shufflenet_v2_x0_5_fpn-2"


def test_builder_arguments_are_read_as_json_where_they_are(configure):
    config = configure(arguments=("channels=96", "top=c5", "center_radius=null"), frozen_stages=1, backbone_norm="bn")
    assert builder_arguments(config) == {
        "channels": 96,
        "top": "c5",
        "center_radius": None,
        "frozen_stages": 1,
        "backbone_norm": "bn",
    }


@pytest.mark.parametrize("text", ["False", "false", "no", "off", "0"])
def test_builder_arguments_that_say_no(configure, text):
    config = replace(configure(arguments=(f"aligned={text}",)), model="faster_rcnn_resnet18_fpn")
    assert builder_arguments(config) == {"aligned": False}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("box_loss=smooth_l1",), "unknown box_loss 'smooth_l1'; known: iou, linear_iou, giou, diou, ciou"),
        (("quality=compute",), "unknown quality 'compute'; known: centerness, iou, computed, or none"),
        (("chanels=64",), "there is no option 'chanels'. Did you mean 'channels'"),
        (("channels=64", "channels=32"), "channels is given twice"),
        (("channels=many",), "channels = 'many': expected a whole number from 1 to 10000"),
        (("backbone_weights=x.pth",), "there is no option 'backbone_weights'"),
    ],
)
def test_builder_arguments_that_are_none(configure, arguments, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        builder_arguments(configure(arguments=arguments))


@pytest.mark.parametrize("precision", ["bf16"])
def test_bf16_trains_on_the_cpu(configure, quiet, precision):
    folder = train(configure(precision=precision, epochs=1), console=quiet)
    assert all(math.isfinite(row["loss"]) for row in rows(folder, "step"))
