"""Detectors in every engine beside their peers' eager models: whole predictions from pixels, in turn in one process.

    python benchmarks/exported.py [--only NAME ...] [--size 512] [--repeats 15] [--threads 2] [--calibrate FOLDER]
                                  [--markdown FILE]

A prediction is the whole of it: a uint8 image in, boxes in its pixels out, suppression included. Peers and weights are
those of `versus_peers.py`; CenterNet has no peer here. "box" is the detector that comes along, on the street of
`aweigh predict --sample` at 416 px, beside torchvision's SSDLite with random weights (as in `lite.py`), and, where
AWEIGH_SHARED names the folder that has it, NanoDet-Plus-m in onnxruntime, resized and run, but without its selection of
boxes, which favours it. Everything is warmed up; the table has medians, and the median over the rounds of how many
times as long the peer took. A row that this version cannot make (a number format that is not exported, a runtime that
is not installed) is named with the reason.
"""

import argparse
import inspect
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lite
import numpy as np
import torch
import versus_peers
from measure import in_turn, processor, ratio
from torch import Tensor, nn

import aweigh
from aweigh.checkpoints.checkpoint import save_model
from aweigh.errors import AweighError
from aweigh.images.reader import read_image
from aweigh.images.resize import Resize
from aweigh.runtime.engine import Batch
from aweigh.scenes import STREET

NAMES = ("fcos", "retinanet", "faster_rcnn", "mask_rcnn", "efficientdet_d0", "centernet", "box")
NANODET = "nanodet_plus_m_416"
BOX_SIZE = 416

Run = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """An engine: what `aweigh.export` is asked for, None for the checkpoint itself, and what `aweigh.load` is."""

    exported: dict[str, Any] | None
    loaded: dict[str, Any] = field(default_factory=dict)


ROWS = {
    "torch, float32": Row(None, {"precision": "float32"}),
    "torch, bf16": Row(None, {"precision": "bf16"}),
    "onnxruntime, float32": Row({}, {"runtime": "onnxruntime"}),
    "onnxruntime, int8": Row({"precision": "int8"}, {"runtime": "onnxruntime"}),
    "OpenVINO, float32": Row({}, {"runtime": "openvino"}),
    "OpenVINO, bf16": Row({"precision": "bf16", "to": "openvino"}, {"runtime": "openvino"}),
    "OpenVINO, int8": Row({"precision": "int8"}, {"runtime": "openvino"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--size", type=int, default=512, help="height and width of the image, but for the box")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--calibrate", type=Path, help="photographs for int8; without them its rows are left out")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    lines = [
        f"aweigh {aweigh.__version__}, torch {torch.__version__}, {options.threads} threads, {processor()}, load "
        f"before the start {load:.1f}; {time.strftime('%Y-%m-%d')}; medians, runs in turn. Made by "
        "`benchmarks/exported.py`.",
        "",
        "| | engine | ms | times as fast as the peer |",
        "|---|---|---:|---:|",
    ]
    for name in options.only:
        for line in measured(name, options):
            lines.append(line)
            print(line, flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


def measured(name: str, options: argparse.Namespace) -> Iterator[str]:
    """The rows of one detector."""
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        checkpoint, image, peers = systems(name, options, Path(folder))
        runs, left_out = dict(peers), {}
        for title, row in ROWS.items():
            try:
                runs[title] = ours(checkpoint, row, image, options, Path(folder))
            except (AweighError, NotImplementedError) as error:
                left_out[title] = str(error).splitlines()[0]
        taken = in_turn(runs, options.repeats)
    usual = next(iter(peers), None)
    for title, times in taken.items():
        fast = f"{ratio(taken[usual], times):.2f}" if usual is not None and title != usual else ""
        yield f"| {name} | {title} | {statistics.median(times):.1f} | {fast} |"
    for title, reason in left_out.items():
        yield f"| {name} | {title} | | left out: {reason} |"


def systems(name: str, options: argparse.Namespace, folder: Path) -> tuple[str | Path, np.ndarray, dict[str, Run]]:
    """Our model by name or file, the image `(H, W, 3)` uint8, and the peers, of which the first is compared with."""
    if name == "box":
        image = read_image(STREET)
        return "box", image, {**ssdlite(image), **nanodet(image, options.threads, folder)}
    tensor = (versus_peers.patches(options.size, seed=0) * 255).to(torch.uint8)  # [3, H, W]
    image = tensor.permute(1, 2, 0).contiguous().numpy()
    peers: dict[str, Run] = {}
    if name == "centernet":
        torch.manual_seed(0)
        model: Any = aweigh.create("centernet_resnet18_dcn", num_classes=80).eval()
    else:
        pair = versus_peers.PAIRS[name](options.size)
        peers["the peer, eager"] = lambda: pair.predict(pair.peer, tensor)
        model = pair.ours
    checkpoint = folder / f"{name}.safetensors"
    save_model(checkpoint, model, resize=Resize(short=options.size, long=options.size, antialias=False))
    return checkpoint, image, peers


def ours(model: str | Path, row: Row, image: np.ndarray, options: argparse.Namespace, folder: Path) -> Run:
    """A prediction of one of our engines; `AweighError` where it cannot be had."""
    if row.exported is not None:
        asked = dict(row.exported)
        if asked.get("precision") == "int8":
            if options.calibrate is None:
                raise AweighError("int8 needs --calibrate FOLDER")
            asked["calibrate"] = options.calibrate
        if missing := asked.keys() - inspect.signature(aweigh.export).parameters.keys():
            raise AweighError(f"aweigh.export has no {', '.join(sorted(missing))} yet")
        name = "-".join(map(str, row.exported.values())) or "float32"
        file = folder / f"{name}{'.xml' if 'to' in asked else '.onnx'}"
        if not file.exists():
            with torch.inference_mode(False):
                aweigh.export(model, file, **asked)
        model = file
    predictor = aweigh.load(model, threads=options.threads, **row.loaded)
    return lambda: versus_peers.with_pixels(predictor(image, score=0))


def ssdlite(image: np.ndarray) -> dict[str, Run]:
    model: nn.Module = lite.peer("ssdlite320_mobilenet_v3_large", BOX_SIZE)
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    return {"torchvision's SSDLite, eager": lambda: model([pixels.float() / 255])}


def nanodet(image: np.ndarray, threads: int, folder: Path) -> dict[str, Run]:
    """NanoDet-Plus-m as an ONNX graph of its ncnn files; nothing where they are not at hand."""
    shared = Path(os.environ.get("AWEIGH_SHARED", "shared"))
    files = [shared / "weights" / NANODET / f"nanodet-plus-m_416.{ending}" for ending in ("param", "bin")]
    if not all(file.is_file() for file in files):
        return {}
    sys.path.insert(0, str(shared / "tools"))
    import onnxruntime
    from ncnn_torch import Net

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net(*map(str, files))
            self.outputs = [f"{what}{stride}" for what in ("cls", "dis") for stride in (8, 16, 32, 64)]

        def forward(self, pixels: Tensor) -> list[Tensor]:
            found: list[Tensor] = self.net(pixels, self.outputs)
            return found

    path = folder / "nanodet.onnx"
    with torch.inference_mode(False), torch.no_grad():
        torch.onnx.export(Network().eval(), (torch.zeros(1, 3, BOX_SIZE, BOX_SIZE),), path, dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as ours
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = (one.name for one in session.get_inputs())
    resize, mean, std = (
        Resize(short=None, long=BOX_SIZE),
        *np.float32([[103.53, 116.28, 123.675], [57.375, 57.12, 58.395]]),
    )

    def predict() -> object:
        batch = Batch.stack([resize(image)], divisor=BOX_SIZE, fill=(0, 0, 0))
        pixels = (batch.pixels[:, ::-1] * np.float32(255) - mean[:, None, None]) / std[:, None, None]  # BGR
        return session.run(None, {given: pixels})

    return {"NanoDet-Plus-m, onnxruntime float32, without selection": predict}


if __name__ == "__main__":
    main()
