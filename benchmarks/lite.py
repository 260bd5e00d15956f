"""The detector in the box beside torchvision's light ones and its FCOS: whole predictions, in one process on the CPU.

    python benchmarks/lite.py [PICTURES] [--size 416] [--repeats 20] [--threads 2] [--markdown FILE]

A whole prediction is: read and decode a JPEG file, resize it, run the network, select and suppress boxes, put them back
into the pixels of the photograph. All systems run in turn, photograph by photograph, so that a drift of the machine
hits all of them. PICTURES is a folder of photographs; without one it is the photograph that matplotlib brings along.

The peers have random weights (this downloads nothing), with a background so strong that they keep no box: their
suppression has nothing to do, which favours them. Ours has its trained weights and finds what there is. "onnx" is our
network exported to onnxruntime with the same threads; reading, resizing and selecting are those of the eager form.
Peak memory is the largest resident size of a process of its own that does nothing but predict so, libraries included.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torchvision
from measure import processor
from PIL import Image
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2 import functional as kernels

import aweigh
from aweigh.catalogue import DEFAULT_MODEL
from aweigh.cli.detectors import find_detector
from aweigh.cli.flags import Weights
from aweigh.images.reader import read_reduced
from aweigh.models.fcos_lite import FCOSLiteOutput
from aweigh.predictor import Predictor
from aweigh.runtime.engine import Batch
from aweigh.structures import Images

OURS, EXPORTED = "aweigh lite", "aweigh lite, onnx"
PEERS = ("ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn", "fcos_resnet50_fpn")
SYSTEMS = (OURS, EXPORTED, *PEERS)
NATIVE = {"ssdlite320_mobilenet_v3_large": 320, "fasterrcnn_mobilenet_v3_large_320_fpn": 320}

Predict = Callable[[Sequence[Path]], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="?")
    parser.add_argument("--size", type=int, default=416, help="long side of the input, for all systems")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file")
    parser.add_argument("--memory-of", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    portrait = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    files = sorted(options.pictures.glob("*.jp*g"))[:64] if options.pictures else [portrait]
    if options.memory_of:
        predict = system(options.memory_of, options.size, options.threads)
        for _ in range(3):
            predict((files * options.batch)[: options.batch])
        print(json.dumps(largest_resident_size()))
        return
    text = report(files, options)
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n", encoding="utf-8")


def report(files: list[Path], options: argparse.Namespace) -> str:
    lines = [
        f"aweigh {aweigh.__version__}, torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"{torch.get_num_threads()} threads, {processor()}; {time.strftime('%Y-%m-%d')}; {len(files)} photographs, "
        f"{options.repeats} predictions of each system in turn",
    ]
    for batch in (1, 16):
        repeats = options.repeats if batch == 1 else max(3, options.repeats // 5)
        systems = {name: system(name, options.size, options.threads) for name in SYSTEMS}
        seconds = in_turn(systems, files, batch, repeats)
        base = statistics.median(seconds[OURS])
        lines += [
            "",
            f"Batch {batch}, {options.size} px",
            "",
            "| | p50 | p95 | images per second | peak memory | times the p50 of aweigh lite |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for name in SYSTEMS:
            middle = statistics.median(seconds[name])
            high = statistics.quantiles(seconds[name], n=20, method="inclusive")[-1]
            memory = peak_memory(name, batch, options)
            lines.append(
                f"| {name} | {middle * 1000:.0f} ms | {high * 1000:.0f} ms | {batch / middle:.1f} | {memory:.0f} MiB "
                f"| {middle / base:.2f} |"
            )
    natives = {f"{name} at {size} px": system(name, size, options.threads) for name, size in NATIVE.items()}
    seconds = in_turn({OURS: system(OURS, options.size, options.threads), **natives}, files, 1, options.repeats)
    lines += ["", f"The light ones at the size they were made for, beside ours at {options.size} px, batch 1", ""]
    lines += ["| | p50 | times the p50 of aweigh lite |", "|---|---:|---:|"]
    base = statistics.median(seconds[OURS])
    for name, values in seconds.items():
        middle = statistics.median(values)
        lines.append(f"| {name} | {middle * 1000:.0f} ms | {middle / base:.2f} |")
    lines += ["", "Stages of one prediction of ours, medians", "", "| stage | eager | onnx |", "|---|---:|---:|"]
    eager, exported = (stages(name, files, options) for name in (OURS, EXPORTED))
    lines += [f"| {stage} | {eager[stage]:.1f} ms | {exported[stage]:.1f} ms |" for stage in eager]
    return "\n".join(lines)


def in_turn(systems: dict[str, Predict], files: list[Path], batch: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of each prediction of each system, taken alternately after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for turn in range(-2, repeats):
        chosen = [files[(max(turn, 0) * batch + index) % len(files)] for index in range(batch)]
        for name, predict in systems.items():
            start = time.perf_counter()
            predict(chosen)
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_memory(name: str, batch: int, options: argparse.Namespace) -> float:
    """MiB of a process that predicts with this system."""
    command = [sys.executable, __file__, *([str(options.pictures)] if options.pictures else [])]
    command += ["--size", str(options.size), "--threads", str(options.threads)]
    command += ["--memory-of", name, "--batch", str(batch)]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)) / 1024


def largest_resident_size() -> int:
    """KiB of this process; on Linux not from `getrusage`, where it begins at that of the process that started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1])


def system(name: str, size: int, threads: int) -> Predict:
    """What predicts whole photographs in one batch."""
    if name in (OURS, EXPORTED):
        parts = Parts.of(name, size, threads)

        def ours(files: Sequence[Path]) -> object:
            pictures = [parts.read(file) for file in files]
            batch = parts.stack(pictures)
            return parts.finish(parts.network(batch.pixels), batch, pictures)

        return torch.inference_mode()(ours)
    model = peer(name, size)

    def theirs(files: Sequence[Path]) -> object:
        return model([kernels.pil_to_tensor(Image.open(file).convert("RGB")).float() / 255 for file in files])

    return torch.inference_mode()(theirs)


@dataclass(frozen=True)
class Parts:
    """The stages of our prediction, one by one; together they are what `Predictor` does."""

    predictor: Predictor
    network: Callable[[Tensor], FCOSLiteOutput]

    @classmethod
    def of(cls, name: str, size: int, threads: int) -> "Parts":
        predictor = find_detector(DEFAULT_MODEL, Weights(device="cpu", runtime="torch"))
        predictor = Predictor(predictor.engine.model, type(predictor.resize)(short=None, long=size), device="cpu")
        if name == OURS:
            return cls(predictor, predictor.engine.model.network)
        return cls(predictor, exported(size, threads))

    def read(self, file: Path) -> tuple[np.ndarray, tuple[int, int]]:
        return read_reduced(file, self.predictor.resize.needed_size)

    def stack(self, pictures: Sequence[tuple[np.ndarray, tuple[int, int]]]) -> Images:
        resized = [self.predictor.resize(image, full_hw=full_hw) for image, full_hw in pictures]
        engine = self.predictor.engine
        batch = Batch.stack(resized, divisor=engine.stride_divisor, fill=engine.pixel_mean)
        images = Images(torch.from_numpy(batch.pixels), batch.sizes_hw)
        return images.to("cpu", memory_format=torch.channels_last)

    def finish(
        self, raw: FCOSLiteOutput, images: Images, pictures: Sequence[tuple[np.ndarray, tuple[int, int]]]
    ) -> object:
        found = self.predictor.engine.model.decode(raw, images.sizes_hw)
        return [detections.resized(full_hw) for detections, (_, full_hw) in zip(found, pictures, strict=True)]


def exported(size: int, threads: int) -> Callable[[Tensor], FCOSLiteOutput]:
    """Our network in onnxruntime, for any batch and shape."""
    import onnxruntime

    model = find_detector(DEFAULT_MODEL, Weights(device="cpu", runtime="torch")).engine.model

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.model.network(pixels))

    example = torch.zeros(2, 3, 352, 416).contiguous()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "lite.onnx")
        free = {"pixels": {0: "batch", 2: "height", 3: "width"}, "points": {0: "cells"}, "strides": {0: "cells"}}
        free |= {name: {0: "batch", 1: "cells"} for name in ("logits", "bins")}
        torch.onnx.export(
            Network().eval(),
            (example,),
            path,
            input_names=["pixels"],
            output_names=list(FCOSLiteOutput._fields),
            dynamic_axes=free,
            dynamo=False,
            opset_version=18,
        )
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])

    def run(pixels: Tensor) -> FCOSLiteOutput:
        values = session.run(None, {"pixels": pixels.contiguous().numpy()})
        return FCOSLiteOutput(*map(torch.from_numpy, values))

    return run


def peer(name: str, size: int) -> nn.Module:
    """A detector of torchvision's for inputs whose long side is `size`, which keeps no box."""
    torch.manual_seed(0)
    limits = {} if name.startswith("ssdlite") else {"min_size": size, "max_size": size}
    model = getattr(detection, name)(weights=None, weights_backbone=None, **limits).eval()
    if name.startswith("ssdlite"):  # takes squares of 320; the network itself takes any size
        mean, std = model.transform.image_mean, model.transform.image_std
        model.transform = GeneralizedRCNNTransform(size, size, mean, std, size_divisible=1, fixed_size=(size, size))
    for part, module in model.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear) or module.bias is None:
            continue
        if part == "roi_heads.box_predictor.cls_score":
            module.bias.data[0] = 20.0  # background
        elif part.startswith("head.classification_head.module_list") and module.out_channels % 91 == 0:
            module.bias.data.view(-1, 91)[:, 0] = 20.0
        elif part == "head.classification_head.cls_logits":
            module.bias.data.fill_(-20.0)
    return model


def stages(name: str, files: list[Path], options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of each stage of our predictions, medians."""
    parts = Parts.of(name, options.size, options.threads)
    found: dict[str, list[float]] = {"read and decode": [], "resize": [], "network": [], "select, suppress": []}
    with torch.inference_mode():
        for turn in range(-2, options.repeats):
            marks = [time.perf_counter()]
            pictures = [parts.read(files[max(turn, 0) % len(files)])]
            marks.append(time.perf_counter())
            batch = parts.stack(pictures)
            marks.append(time.perf_counter())
            raw = parts.network(batch.pixels)
            marks.append(time.perf_counter())
            parts.finish(raw, batch, pictures)
            marks.append(time.perf_counter())
            for stage, before, after in zip(found, marks, marks[1:], strict=False):
                if turn >= 0:
                    found[stage].append((after - before) * 1000)
    return {stage: statistics.median(values) for stage, values in found.items()}


if __name__ == "__main__":
    main()
