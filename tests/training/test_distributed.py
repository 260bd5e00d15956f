"""Two and more processes on the CPU (gloo) train and measure as one."""

import io
import json
import socket
import textwrap
import time

import pytest
import torch
from rich.console import Console
from tests.runs import TINY, outcome, write_coco
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from aweigh.checkpoints.checkpoint import load_model
from aweigh.cli.processes import run_in_processes
from aweigh.feeding.loader import EpochSampler
from aweigh.layers import SyncBatchNorm2d
from aweigh.training.config import resolve
from aweigh.training.logs.json_lines import read_log
from aweigh.training.train import train

# Nothing that depends on how the images are shared out: no batch statistics, one size (padding is background to learn).
pytestmark = pytest.mark.long
ALIKE = {**TINY, "short": 0, "long": 96, "aug": "none", "backbone_norm": "frozen_bn", "workers": 0}


@pytest.fixture
def start_together(start):
    """Starts `count` processes, connected as torchrun connects them."""

    def begin(count, *words, **how):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        together = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        return [start(*words, **how, **together, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(count)]

    return begin


def flags(settings):
    given = []
    for name, value in settings.items():
        given += [f"--{name.replace('_', '-')}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return given


def one_process(settings, folder):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes that are started
    try:
        return train(resolve({}, {**settings, "output": str(folder)})[0], console=Console(file=io.StringIO()))
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten training images, half of them without objects, so that some batches are empty in one process or in both."""
    root = write_coco(tmp_path_factory.mktemp("data"), {"train": 10, "val": 7}, sizes=[(96, 80)])
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    kept = {image["id"] for image in content["images"][::2]}
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in kept]
    path.write_text(json.dumps(content))
    return root


def test_two_processes_train_and_measure_as_one(data, tmp_path, start_together):
    """One process with batch 2 n equals two with batch n: losses, weights, and every metric to the last digit."""
    settings = {**ALIKE, "data": str(data), "epochs": 2, "momentum": 0.0}
    one = one_process({**settings, "batch": 4}, tmp_path / "one")
    words = flags({**ALIKE, "epochs": 2, "momentum": 0.0, "batch": 2, "output": tmp_path / "two"})
    codes, outputs = outcome(start_together(2, "train", data, *words))
    assert codes == [0, 0], outputs
    assert [output.count("epoch 2/2") for output in outputs] == [1, 0]  # one of them speaks
    assert "lr 0.0025 = 0.01 x 4/16" in outputs[0]
    steps = [[row for row in read_log(run / "log.jsonl") if row["kind"] == "step"] for run in (one, tmp_path / "two")]
    assert len(steps[0]) == len(steps[1]) == 6
    for a, b in zip(*steps, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5) and a["grad_norm"] == pytest.approx(b["grad_norm"], 1e-5)
    a, b = (load_model(run / "last.safetensors")[0].state_dict() for run in (one, tmp_path / "two"))
    assert all(torch.allclose(a[name], b[name], rtol=1e-5, atol=1e-6) for name in a)


def test_metrics_do_not_depend_on_the_number_of_processes(tmp_path_factory, tmp_path, start_together):
    """1, 2 and 4 processes give the same detections, losses and metrics, to the last bit; 7 images fill no batch."""
    data = write_coco(tmp_path_factory.mktemp("uneven"), {"train": 2, "val": 7})
    script = """
        import json, sys, torch
        from aweigh.layouts.load import load_split
        from aweigh.images.resize import Resize
        from aweigh import distributed
        from aweigh.inference.detect import detect
        from aweigh.evaluation.coco import evaluate_coco
        from aweigh.models import create

        torch.set_num_threads(1)
        with distributed.join("cpu"):
            torch.manual_seed(0)
            split = load_split(sys.argv[1], "val")
            model = create("fcos_shufflenet_v2_x0_5_fpn", classes=split.classes, channels=32, head_convs=1)
            model.score_threshold = 0.0
            found = detect(model, Resize(short=64, long=96), split, batch=2, losses=True)
            metrics = evaluate_coco(split.to_coco(), found.results).to_dict()
            with open(f"{sys.argv[2]}-{distributed.rank()}.json", "w") as file:
                json.dump([found.results, found.losses, metrics], file)
    """
    for count in (1, 2, 4):
        codes, outputs = outcome(start_together(count, data, tmp_path / f"{count}", code=textwrap.dedent(script)))
        assert codes == [0] * count, outputs
    one = (tmp_path / "1-0.json").read_text()
    assert len(json.loads(one)[0]) >= 100
    assert all((tmp_path / f"{name}.json").read_text() == one for name in ("2-0", "2-1", "4-0", "4-3"))


def test_synchronised_normalisation_equals_that_of_the_whole_batch(tmp_path, start_together):
    """Outputs, gradients and running statistics, with shares of different size."""
    script = """
        import sys, torch
        from aweigh import distributed
        from aweigh.layers import SyncBatchNorm2d

        with distributed.join("cpu"):
            torch.manual_seed(0)
            x, weights = torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4)
            norm = SyncBatchNorm2d(3)
            own = slice(0, 2) if distributed.rank() == 0 else slice(2, 5)
            mine = x[own].clone().requires_grad_()
            out = norm(mine)
            (out * weights[own]).sum().backward()
            before = [norm.running_mean.clone(), norm.running_var.clone()]
            assert norm(torch.zeros(0, 3, 4, 4)).shape == (0, 3, 4, 4)  # no process has a value
            assert torch.equal(norm.running_mean, before[0]) and torch.equal(norm.running_var, before[1])
            torch.save([out, mine.grad, norm.weight.grad, norm.running_mean, norm.running_var],
                       f"{sys.argv[1]}/{distributed.rank()}.pt")
    """
    codes, outputs = outcome(start_together(2, tmp_path, code=textwrap.dedent(script)))
    assert codes == [0, 0], outputs
    torch.manual_seed(0)
    x, weights = torch.randn(5, 3, 4, 4).requires_grad_(), torch.randn(5, 3, 4, 4)
    norm = SyncBatchNorm2d(3)
    out = norm(x)
    (out * weights).sum().backward()
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for expected, parts in ((out, 0), (x.grad, 1)):
        assert torch.allclose(torch.cat([found[0][parts], found[1][parts]]), expected, atol=1e-5)
    assert torch.allclose(found[0][2] + found[1][2], norm.weight.grad, atol=1e-4)
    for rank in (0, 1):
        assert torch.allclose(found[rank][3], norm.running_mean, atol=1e-6)
        assert torch.allclose(found[rank][4], norm.running_var, atol=1e-6)


def test_the_command_starts_the_processes_itself(data, tmp_path, start):
    """By torchrun, which loads torch anew in each; the other tests start their processes themselves."""
    alike = {name: value for name, value in ALIKE.items() if name != "epochs"}
    settings = flags({**alike, "iterations": 1, "output": tmp_path / "run"})
    (code,), (output,) = outcome([start("train", data, "--processes", 2, *settings)])
    assert code == 0 and "0.01 x 8/16" in output, output


@pytest.mark.parametrize(("exitcode", "ours"), [(3, 3), (-9, 1)])
def test_the_exit_code_is_that_of_the_process_that_failed_first(exitcode, ours, monkeypatch):
    """One that was killed has none of its own."""
    failed = ProcessFailure(local_rank=1, pid=1, exitcode=exitcode, error_file="")

    def torchrun(words):
        assert words[-3:] == ["-m", "aweigh", "train"]
        raise ChildFailedError("aweigh", {1: failed})

    monkeypatch.setattr("torch.distributed.run.main", torchrun)
    monkeypatch.setattr("sys.argv", ["aweigh", "train", "--processes=2"])
    assert run_in_processes(2) == ours


def test_early_stopping_stops_all_processes_at_once(data, tmp_path, start_together):
    """Also batches in which one process, or both, have no objects, and batch normalisation over both."""
    settings = {**ALIKE, "backbone_norm": "sync_bn", "batch": 1, "epochs": 30, "patience": 2, "lr": 1e-30}
    words = flags({**settings, "select": "AP", "output": tmp_path / "run"})
    codes, outputs = outcome(start_together(2, "train", data, *words))
    assert codes == [0, 0], outputs
    assert "No better AP for 2 epochs: the run ends here." in outputs[0]
    epochs = [row for row in read_log(tmp_path / "run" / "log.jsonl") if row["kind"] == "epoch"]
    assert len(epochs) == 3 and all(row["skipped_steps"] == 0 for row in epochs)


def test_what_another_process_could_not_read_is_told_too(tmp_path, start_together):
    """The image is damaged that process 1 alone reads, in the first epoch."""
    data = write_coco(tmp_path / "data", {"train": 6, "val": 1}, sizes=[(96, 80)])
    ((_, row, _),) = next(iter(EpochSampler(6, 1, shuffle=True, seed=0, drop_last=False, rank=1, world=2)))
    (data / "images" / "train" / f"{row}.png").write_bytes(b"no picture")
    words = flags({**ALIKE, "epochs": 1, "batch": 1, "max_bad": 0.5, "output": tmp_path / "run"})
    codes, outputs = outcome(start_together(2, "train", data, *words))
    assert codes == [0, 0] and "unreadable image" in outputs[0] and f"{row}.png" in outputs[0], outputs
    (problem,) = [row for row in read_log(tmp_path / "run" / "log.jsonl") if row["kind"] == "problem"]
    assert f"{row}.png" in problem["problem"]


FAILING = """
    import sys
    from aweigh.cli.main import main
    from aweigh import distributed
    from aweigh.training import loop

    step = loop.optimiser_step

    def failing(run, losses, group):
        if run.step == 2 and distributed.rank() == 1:
            raise ValueError("a bolt came loose")
        return step(run, losses, group)

    loop.optimiser_step = failing
    main()
"""


def test_an_exception_in_one_process_ends_all_with_its_trace(data, tmp_path, start):
    (tmp_path / "failing.py").write_text(textwrap.dedent(FAILING))
    words = ["--standalone", "--nproc-per-node", 2, tmp_path / "failing.py", "train", data]
    words += flags({**ALIKE, "output": tmp_path / "run"})
    torchrun = start(*words, code="from torch.distributed.run import main; main()")
    (code,), (output,) = outcome([torchrun], timeout=60)
    assert code not in (0, None), output
    assert 'raise ValueError("a bolt came loose")' in output and "optimiser_step" in output
    assert "Traceback" in output and output.count("ValueError: a bolt came loose") == 1
    assert (tmp_path / "run" / "last" / "state.safetensors").exists()


def test_two_processes_killed_and_resumed_end_like_two_that_were_not(data, tmp_path, start_together):
    settings = {**TINY, "epochs": 3, "batch": 1, "save_every": 1, "workers": 1, "color": 0.5}
    codes, outputs = outcome(start_together(2, "train", data, *flags({**settings, "output": tmp_path / "whole"})))
    assert codes == [0, 0], outputs
    killed = start_together(2, "train", data, *flags({**settings, "output": tmp_path / "cut"}))
    while killed[0].is_alive() and len(read_log(tmp_path / "cut" / "log.jsonl")) < 8:
        time.sleep(0.01)
    for process in killed:
        process.kill()
    assert outcome(killed)[0] == [-9, -9]
    codes, outputs = outcome(start_together(2, "resume", tmp_path / "cut"))
    assert codes == [0, 0] and "Going on in epoch 2" in outputs[0], outputs
    a, b = (load_model(tmp_path / run / "last.safetensors")[0].state_dict() for run in ("whole", "cut"))
    assert all(torch.equal(a[name], b[name]) for name in a)
