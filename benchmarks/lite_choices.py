"""What each choice of FCOS lite gains: the same training for the detector as it is, and with one choice undone.

    python benchmarks/lite_choices.py DATA OUT --backbone FILE [--epochs 4] [--size 320] [--seed 0]
        [--only NAME ...] [--markdown FILE]

Every row starts from the same backbone (FILE, frozen) with neck and head from nothing, and sees the same images in the
same order. AP is that of the averaged weights on the validation split at the end. The control is FCOS's own neck and
head of 128 channels on this backbone. A run that is there already is not run again.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from measure import processor
from torch import Tensor, nn
from torch.nn import functional as F

import aweigh
from aweigh.backbones import shufflenet_v2_backbone
from aweigh.classes import Classes
from aweigh.models import DETECTORS, fcos_lite
from aweigh.models.builders import Builder
from aweigh.models.fcos import centerness_targets, fcos
from aweigh.models.fcos_lite import BOX_WEIGHT, FCOSLite, FCOSLiteOutput, LiteHead, expectation
from aweigh.necks.pan import LitePAN
from aweigh.ops.boxes import decode_distances, encode_distances
from aweigh.ops.losses import box_loss, sigmoid_focal_loss_sum, unknown_in_batch
from aweigh.ops.matching import BACKGROUND, IGNORED, task_aligned
from aweigh.structures import Targets
from aweigh.training.config import resolve
from aweigh.training.logs.json_lines import read_log
from aweigh.training.train import train


class TaskAligned(FCOSLite):
    """Assignment by what the network says already (Feng et al. 2021): the points that do best, on any level."""

    def loss(self, raw: FCOSLiteOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        self.said = zip([raw] * len(raw.logits), raw.logits.detach().sigmoid(), strict=True)
        return super().loss(raw, targets)

    def _targets(self, points: list[Tensor], target: Targets, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raw, scores = next(self.said)
        objects = target[target.learned]
        reach = (self.head.bins - 1) * raw.strides  # [A, 1]
        index, goals = task_aligned(raw.points, reach, objects.boxes, objects.labels, scores, boxes.detach())
        learns = index >= 0
        labels = torch.full_like(index, BACKGROUND)
        ignored = target.boxes[target.ignore]
        if len(ignored):
            inside = encode_distances(raw.points[:, None], ignored).amin(dim=-1) > 0  # [A, n]
            labels[inside.any(dim=1)] = IGNORED
        labels[learns] = objects.labels[index[learns]]
        return labels, goals, objects.boxes[index[learns]]


class WithCenterness(FCOSLite):
    """FCOS's quality: focal loss for the classes, and the centre-ness as one more output of the prediction layer."""

    def loss(self, raw: FCOSLiteOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        classes, quality = raw.logits[..., :-1], raw.logits[..., -1]
        levels = [raw.points[raw.strides[:, 0] == stride] for stride in self.strides]
        boxes = decode_distances(raw.points, expectation(raw.bins) * raw.strides)
        found = [self._targets(levels, target, boxes[i]) for i, target in enumerate(targets)]
        labels = torch.stack([part[0] for part in found])
        matched, positive = torch.cat([part[2] for part in found]), labels >= 0
        centerness = centerness_targets(encode_distances(raw.points[positive.nonzero()[:, 1]], matched))
        count, total = positive.sum().clamp(min=1), centerness.sum().clamp(min=1)
        known = [(t.boxes, t.labels, t.uncertain, t.known) for t in targets]
        unknown = unknown_in_batch(raw.points, known, len(self.classes))
        sides = encode_distances(raw.points[positive.nonzero()[:, 1]], matched)
        bins = fcos_lite.distribution_focal_loss(raw.bins[positive], sides / raw.strides[positive.nonzero()[:, 1]]).sum(
            dim=-1
        )
        return {
            "classification": sigmoid_focal_loss_sum(classes.flatten(0, 1), labels.flatten(), no_loss=unknown) / count,
            "box": BOX_WEIGHT * (box_loss(boxes[positive], matched, "giou") * centerness).sum() / total,
            "distribution": fcos_lite.DISTRIBUTION_WEIGHT * (bins * centerness).sum() / total,
            "centerness": F.binary_cross_entropy_with_logits(quality[positive], centerness, reduction="sum") / count,
        }

    def select(self, raw: FCOSLiteOutput, sizes_hw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        product = raw.logits[..., :-1].sigmoid() * raw.logits[..., -1:].sigmoid()
        return super().select(raw._replace(logits=product.logit(eps=1e-6)), sizes_hw)


class Direct(FCOSLite):
    """Without the loss of distributions, for `DirectHead`."""

    def loss(self, raw: FCOSLiteOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        return {name: value for name, value in super().loss(raw, targets).items() if name != "distribution"}


class DirectHead(LiteHead):
    """Distances as FCOS has them, relu of one number in strides, that begin at 4."""

    def __init__(self, channels: int, num_classes: int, **options: Any) -> None:
        super().__init__(channels, num_classes, **options)
        self.distances = nn.Conv2d(channels, 4, 1)
        nn.init.normal_(self.distances.weight, std=0.01)
        nn.init.constant_(cast(Tensor, self.distances.bias), 4.0)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        logits, distances = super().forward(features)
        # A distribution over the first and the last bin whose mean is the distance, since the detector takes the mean.
        share = (distances.relu() / (self.bins - 1)).clamp(1e-4, 1 - 1e-4)  # [B, A, 4, 1]
        empty = share.new_full((*share.shape[:-1], self.bins - 2), -1e4)
        return logits, torch.cat([(1 - share).log(), empty, share.log()], dim=-1)


def lite(
    make: type[FCOSLite] = FCOSLite,
    head: type[LiteHead] = LiteHead,
    *,
    extra: int = 0,
    activation: str = "leaky_relu",
    kernel: int = 5,
) -> Callable[..., nn.Module]:
    """A builder of FCOS lite with one choice changed; the backbone stays as it is."""

    def build(*, classes: Classes, backbone_norm: Any = "bn", frozen_stages: int = 0) -> nn.Module:
        body = shufflenet_v2_backbone(
            1.0, backbone_norm=backbone_norm, frozen_stages=frozen_stages, activation="leaky_relu"
        )
        shape: dict[str, Any] = {"activation": activation, "kernel": kernel}
        neck = LitePAN(body.channels, body.strides, channels=128, **shape)
        names = Classes.numbered(len(classes) + extra) if extra else classes
        detector = make(body, neck, head(128, len(names), **shape), classes=names)
        if extra:
            nn.init.zeros_(cast(Tensor, detector.head.logits.bias)[-extra:])
        detector.classes = classes
        return detector

    return build


CONTROL = Builder(fcos, partial(shufflenet_v2_backbone, 1.0), {"channels": 128, "activation": "leaky_relu"})
CHOICES: dict[str, tuple[Callable[..., nn.Module], str]] = {
    "lite": (lite(), "as it is"),
    "lite_task_aligned": (lite(TaskAligned), "assignment by task alignment"),
    "lite_centerness": (lite(WithCenterness, extra=1), "centre-ness and focal loss"),
    "lite_direct": (lite(Direct, DirectHead), "distances as one number each"),
    "lite_relu": (lite(activation="relu"), "ReLU in neck and head"),
    "lite_kernel3": (lite(kernel=3), "3x3 instead of 5x5 depthwise convolutions"),
    "fcos": (CONTROL, "control: FCOS's own neck and head"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(CHOICES), default=list(CHOICES))
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    lines = [
        f"aweigh {aweigh.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads, {processor()}; "
        f"{time.strftime('%Y-%m-%d')}; {options.data.name}, {options.epochs} epochs, 8 images a step, "
        f"{options.size} px, seed {options.seed}",
        "",
        "| | AP | AP50 | small | medium | large | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in options.only:
        row = trained(name, options)
        numbers = " | ".join(f"{100 * row[key]:.1f}" for key in ("AP", "AP50", "APs", "APm", "APl"))
        lines.append(f"| {CHOICES[name][1]} | {numbers} | {row['time']:.0f} |")
    print("\n".join(lines))
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


def trained(name: str, options: argparse.Namespace) -> dict[str, float]:
    """COCO's numbers after the training, and its seconds."""
    DETECTORS[name] = CHOICES[name][0]
    folder = options.out / name
    values: dict[str, Any] = {
        "data": str(options.data),
        "output": str(folder),
        "model": name,
        "init": "none",
        "backbone_weights": str(options.backbone),
        "backbone_norm": "frozen_bn",
        "frozen_stages": 4,
        "short": 0,
        "long": options.size,
        "scale_jitter": (0.6, 1.4),
        "color": 0.2,
        "sampler": "repeat_factor",
        "repeat_threshold": 0.02,
        "seed": options.seed,
        "epochs": options.epochs,
        "eval_every": options.epochs,
        "batch": 8,
        "optimizer": "adamw",
        "lr": 0.002,
        "lr_batch": 0,
        "weight_decay": 0.05,
        "warmup": 100,
        "ema": 0.995,
    }
    if not (folder / "last.safetensors").exists():
        train(*resolve({}, values))
    epochs = [row for row in read_log(folder / "log.jsonl") if row["kind"] == "epoch"]
    return {**epochs[-1], "time": sum(row["seconds"] for row in epochs)}


if __name__ == "__main__":
    main()
