"""FCOS, RetinaNet, EfficientDet, Faster and Mask R-CNN beside their peers, with the same weights, on the CPU.

    python benchmarks/versus_peers.py [--only NAME ...] [--size 512] [--repeats 20] [--threads 2] [--markdown FILE]

The peers: torchvision's detectors on ResNet-50, and effdet's EfficientDet-D0. Prediction is the whole of it: a uint8
image in, boxes in its pixels out, suppression included, and masks as pixels of the image where there are any. A
training step is losses and gradients for one batch. Both models run in turn in one process, after a warm-up; the table
gives medians, and the median of the ratios of neighbouring runs; ours in bf16 too, where the processor has it. Peak
memory is what torch's CPU allocator holds during a step, above what it held before.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import effdet
import numpy as np
import torch
import torchvision
from measure import in_turn, peak_memory, processor, ratio
from torch import Tensor, nn

import aweigh
from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.images.resize import Resize
from aweigh.inference.device import CPU, has_bf16
from aweigh.inference.engine import TorchEngine
from aweigh.models import create
from aweigh.predictor import Predictor
from aweigh.structures import IMAGENET_MEAN, IMAGENET_STD, Images, Targets
from aweigh.weights.convert.effdet import efficientdet_from_effdet
from aweigh.weights.convert.torchvision import (
    faster_rcnn_from_torchvision,
    fcos_from_torchvision,
    retinanet_from_torchvision,
)

NUM_CLASSES = 91


class Pair(NamedTuple):
    """A peer and ours with the same weights, both in evaluation mode."""

    peer: nn.Module
    ours: nn.Module
    predict: Callable[[nn.Module, Tensor], Tensor]  # the peer's boxes [n, 4] in an image [3, H, W] uint8
    losses: Callable[[nn.Module, Images, list[Targets]], Tensor]  # the peer's sum of losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PAIRS, default=list(PAIRS), metavar="NAME", help=", ".join(PAIRS))
    parser.add_argument("--size", type=int, default=512, help="height and width of the image")
    parser.add_argument("--batch", type=int, default=2, help="images in a training step")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = [
        f"aweigh {aweigh.__version__}, torch {torch.__version__}, torchvision {torchvision.__version__}, effdet "
        f"{version('effdet')}, {options.threads} threads, {processor()}; {time.strftime('%Y-%m-%d')}; medians, runs in "
        "turn",
        "",
        "| | peer | aweigh | peer / aweigh |",
        "|---|---:|---:|---:|",
    ]
    for name in options.only:
        for what, peer, ours, unit in measured(PAIRS[name](options.size), options.size, options.batch, options.repeats):
            row = f"{statistics.median(peer):.0f} {unit} | {statistics.median(ours):.0f} {unit}"
            lines.append(f"| {name}: {what} | {row} | {ratio(peer, ours):.2f} |")
            print(lines[-1], flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


def measured(pair: Pair, size: int, batch: int, repeats: int) -> list[tuple[str, list[float], list[float], str]]:
    image = (patches(size, seed=0) * 255).to(torch.uint8)
    predictor = Predictor(pair.ours, Resize(short=size, long=size, antialias=False), device="cpu")
    with torch.inference_mode():
        runs: dict[str, Callable[[], Any]] = {
            "peer": lambda: pair.predict(pair.peer, image),
            "ours": lambda: with_pixels(predictor(image, score=0)),
        }
        if has_bf16(CPU):
            in_bf16 = TorchEngine.prepared(pair.ours, CPU, precision="bf16", threads=torch.get_num_threads())
            fast = Predictor(in_bf16, predictor.resize)
            runs["bf16"] = lambda: with_pixels(fast(image, score=0))
        frozen = with_frozen_norms(pair.peer)
        if frozen is not None:
            runs["frozen"] = lambda: pair.predict(frozen, image)
        theirs, mine = runs["peer"](), runs["ours"]()
        # Of each box the nearest of the other's, since rows of equal scores may stand in another order.
        distances = np.abs(mine.boxes[:, None] - theirs.numpy()[None]).max(axis=2)  # [N, M]
        apart = float(max(distances.min(axis=1).max(), distances.min(axis=0).max())) if distances.size else 0.0
        taken = in_turn(runs, repeats)
    what = f"prediction, {size} x {size}: {len(theirs)} and {len(mine)} boxes, at most {apart:.4f} px apart"
    rows = [(what, taken["peer"], taken["ours"], "ms")]
    if "bf16" in taken:
        rows.append(("the same, ours in bf16", taken["peer"], taken["bf16"], "ms"))
    if frozen is not None:
        frozen_norms = "the same, the peer with frozen norms, as it is built for published weights"
        rows.append((frozen_norms, taken["frozen"], taken["ours"], "ms"))

    images, targets = training_batch(size, batch)
    peer, ours = pair.peer.train(), pair.ours.train().to(memory_format=torch.channels_last)
    channels_last = images.to("cpu", memory_format=torch.channels_last)
    steps: dict[str, Callable[[], object]] = {
        "peer": lambda: step(peer, lambda: pair.losses(peer, images, targets)),
        "ours": lambda: step(ours, lambda: torch.stack(list(ours(channels_last, targets).values())).sum()),
    }
    taken = in_turn(steps, max(3, repeats // 4))
    rows.append((f"training step, {batch} images of {size} x {size}", taken["peer"], taken["ours"], "ms"))
    peaks = [[peak_memory(run) / 2**20] for run in steps.values()]
    rows.append(("peak memory of that step", *peaks, "MiB"))
    return rows


# The pairs, with random weights drawn so that there are boxes to suppress


def fcos(size: int) -> Pair:
    torch.manual_seed(0)
    peer = torchvision.models.detection.fcos_resnet50_fpn(**torchvision_options(size))
    nn.init.normal_(peer.head.classification_head.cls_logits.weight, std=0.03)
    nn.init.normal_(peer.head.regression_head.bbox_reg.weight, std=0.03)
    nn.init.constant_(peer.head.regression_head.bbox_reg.bias, 1.5)
    ours = create("fcos_resnet50_fpn_torchvision", classes=Classes.numbered(NUM_CLASSES))
    ours.load_state_dict(fcos_from_torchvision(peer.state_dict(), keep_rows=None))
    return Pair(peer.eval(), ours.eval(), torchvision_boxes, torchvision_losses)


def retinanet(size: int, version: str = "") -> Pair:
    torch.manual_seed(0)
    name = f"retinanet_resnet50_fpn{version}"
    peer = getattr(torchvision.models.detection, name)(**torchvision_options(size))
    with torch.no_grad():  # scores on both sides of the threshold
        features = list(peer.eval().backbone(peer.transform([patches(size, seed=1)])[0].tensors).values())
        head = peer.head.classification_head
        head.cls_logits.weight *= 6 / head(features).add(4.6).abs().max()
        head.cls_logits.bias.fill_(-4.0)
    ours = create(f"{name}_torchvision", classes=Classes.numbered(NUM_CLASSES))
    ours.load_state_dict(retinanet_from_torchvision(peer.state_dict(), keep_rows=None))
    return Pair(peer.eval(), ours.eval(), torchvision_boxes, torchvision_losses)


def retinanet_v2(size: int) -> Pair:
    return retinanet(size, "_v2")


def faster_rcnn(size: int, kind: str = "faster") -> Pair:
    torch.manual_seed(0)
    options = torchvision_options(size) | {"num_classes": NUM_CLASSES + 1}  # with "nothing", which is no class of ours
    peer = getattr(torchvision.models.detection, f"{kind}rcnn_resnet50_fpn")(**options)
    with torch.no_grad():  # scores on both sides of the threshold, proposals that differ from their anchors
        batch, _ = peer.eval().transform([patches(size, seed=1)])
        features = peer.backbone(batch.tensors)
        objectness, deltas = peer.rpn.head(list(features.values()))
        peer.rpn.head.cls_logits.weight *= 4 / max(level.abs().max() for level in objectness)
        peer.rpn.head.bbox_pred.weight *= 1 / max(level.abs().max() for level in deltas)
        heads = peer.roi_heads
        regions = heads.box_roi_pool(features, [torch.tensor([[10.0, 10, 200, 150]])], batch.image_sizes)
        logits, deltas = heads.box_predictor(heads.box_head(regions))
        heads.box_predictor.cls_score.weight *= 3 / logits.abs().max()
        heads.box_predictor.bbox_pred.weight *= 2 / deltas.abs().max()
    ours = create(f"{kind}_rcnn_resnet50_fpn_torchvision", classes=Classes.numbered(NUM_CLASSES))
    ours.load_state_dict(faster_rcnn_from_torchvision(peer.state_dict(), keep_rows=None))

    def losses(model: nn.Module, images: Images, targets: list[Targets]) -> Tensor:
        return torchvision_losses(model, images, [replace(target, labels=target.labels + 1) for target in targets])

    return Pair(peer.eval(), ours.eval(), torchvision_boxes, losses)


def mask_rcnn(size: int) -> Pair:
    return faster_rcnn(size, "mask")


def efficientdet_d0(size: int) -> Pair:
    torch.manual_seed(0)
    config = effdet.get_efficientdet_config("tf_efficientdet_d0")
    config.image_size, config.num_classes = (size, size), NUM_CLASSES
    network = effdet.EfficientDet(config, pretrained_backbone=False)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(take_statistics) for norm in norms]
    with torch.no_grad():  # activations of an ordinary size, and scores that differ
        network.eval()(normalised(patches(size, seed=0)[None]))
        network.class_net.predict.conv_pw.bias.fill_(-2.0)
        network.box_net.predict.conv_pw.weight.mul_(0.3)
    for hook in hooks:
        hook.remove()
    ours = create("efficientdet_d0", classes=Classes.numbered(NUM_CLASSES))
    ours.load_state_dict(efficientdet_from_effdet(network.state_dict(), keep_ids=None))
    prediction = effdet.DetBenchPredict(network)
    training = effdet.DetBenchTrain(network)

    def predict(network: nn.Module, image: Tensor) -> Tensor:
        boxes: Tensor = prediction(normalised(image[None] / 255))[0, :, :4]
        return boxes

    def losses(network: nn.Module, images: Images, targets: list[Targets]) -> Tensor:
        goals = {
            "bbox": torch.stack([target.boxes[:, [1, 0, 3, 2]] for target in targets]),
            "cls": torch.stack([target.labels for target in targets]),
        }
        total: Tensor = training(normalised(images.pixels), goals)["loss"]
        return total

    return Pair(network.eval(), ours.eval(), predict, losses)


PAIRS: dict[str, Callable[[int], Pair]] = {
    "fcos": fcos,
    "retinanet": retinanet,
    "retinanet_v2": retinanet_v2,
    "faster_rcnn": faster_rcnn,
    "mask_rcnn": mask_rcnn,
    "efficientdet_d0": efficientdet_d0,
}


def normalised(pixels: Tensor) -> Tensor:
    return (pixels - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]


def take_statistics(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
    """Make the statistics those of the input; channels that are almost constant keep a spread."""
    variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance.clamp(min=float(variance.median())))


def torchvision_options(size: int) -> dict[str, Any]:
    return {
        "weights": None,
        "weights_backbone": None,
        "num_classes": NUM_CLASSES,
        "min_size": size,
        "max_size": size,
    }


def torchvision_boxes(model: nn.Module, image: Tensor) -> Tensor:
    boxes: Tensor = model([image.float() / 255])[0]["boxes"]
    return boxes


def torchvision_losses(model: nn.Module, images: Images, targets: list[Targets]) -> Tensor:
    names = ("boxes", "labels", "masks")
    losses = model(list(images.pixels), [{name: getattr(target, name) for name in names} for target in targets])
    return torch.stack(list(losses.values())).sum()


def with_pixels(found: Detections) -> Detections:
    """The same detections; what torchvision does beside boxes, painting masks, is done too."""
    if found.masks is not None:
        found.bitmaps()
    return found


def with_frozen_norms(model: nn.Module) -> nn.Module | None:
    """A copy with torchvision's `FrozenBatchNorm2d`, which it uses whenever it loads published weights; None for
    others."""
    if not type(model).__module__.startswith("torchvision"):
        return None
    model = copy.deepcopy(model)
    for name, norm in list(model.named_modules()):
        if isinstance(norm, nn.BatchNorm2d):
            frozen = torchvision.ops.FrozenBatchNorm2d(norm.num_features, eps=norm.eps)
            frozen.load_state_dict({key: value for key, value in norm.state_dict().items() if "num_batches" not in key})
            model.set_submodule(name, frozen)
    return model.eval()


def patches(size: int, seed: int) -> Tensor:
    """An image `[3, size, size]` of coloured patches with noise: in noise alone all places look alike."""
    generator = torch.Generator().manual_seed(seed)
    coarse = nn.functional.interpolate(torch.rand(1, 3, 8, 8, generator=generator), size=(size, size), mode="bilinear")
    return 0.8 * coarse[0] + 0.2 * torch.rand(3, size, size, generator=generator)


def training_batch(size: int, batch: int) -> tuple[Images, list[Targets]]:
    generator = torch.Generator().manual_seed(0)
    images = Images.stack([torch.rand(3, size, size, generator=generator) for _ in range(batch)])
    targets = []
    for _ in range(batch):
        corner = torch.rand(10, 2, generator=generator) * size * 0.7
        boxes = torch.cat([corner, corner + 16 + torch.rand(10, 2, generator=generator) * size * 0.28], dim=1)
        x, y = torch.arange(size)[None, None], torch.arange(size)[None, :, None]
        x0, y0, x1, y1 = (edge[:, None, None] for edge in boxes.unbind(1))
        masks = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)  # [10, size, size]
        targets.append(Targets(boxes, torch.randint(1, NUM_CLASSES, (10,), generator=generator), masks=masks))
    return images, targets


def step(model: nn.Module, losses: Callable[[], Tensor]) -> None:
    model.zero_grad(set_to_none=True)
    losses().backward()


if __name__ == "__main__":
    main()
