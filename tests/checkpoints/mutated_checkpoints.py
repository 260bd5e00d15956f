"""Damaged and hostile model files, used in one process that watches what is opened; run by `test_fuzz_checkpoints`.

`python -m tests.checkpoints.mutated_checkpoints GOOD FOLDER COUNT` prints one JSON object: outcomes by kind, and every
file that led to something else than a detector or one explained line, opened anything but itself, or reached for a
socket.
"""

import copy
import io
import json
import random
import struct
import sys
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from aweigh.cli.main import run
from aweigh.errors import UNPRINTABLE, AweighError
from aweigh.header import read_header
from aweigh.inference.memory import high_water
from aweigh.predictor import load
from aweigh.runtime.threads import CGROUPS

Header = dict[str, Any]
State = dict[str, torch.Tensor]

NAMES = [
    "backbone_weights",
    "weights",
    "num_classes",
    "classes",
    "branches",
    "pretrained",
    "norm",
    "levels",
    "backbone",
]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 3.5, 10**4, 10**9, 10**30, -(10**30), 1e300, 1e-300),
    *("", "x", "bn", "none", "giou", "imagenet", "box", "/etc/passwd", "http://127.0.0.1:9/x.pth", "hf-hub:a/b"),
    *("\x1b[2J\x1b[31mred", "line\nbreak", "cr\rback", "\u202eright", "\x00", "é" * 5000, "{" * 200),
    *([], {}, [[]], [1, 2], [1, [2]], ["a", "b"], [None], {"a": {"b": 1}}, [0] * 5000, {"names": []}, {"names": ["a"]}),
]
PLACES: list[tuple[str, ...]] = [
    *((name,) for name in ("format", "builder", "arguments", "classes", "resize", "selection", "metrics", "training")),
    *(
        (name,)
        for name in ("data_hash", "licence", "aweigh", "torch", "kind", "nms", "max_detections", "score_threshold")
    ),
    *(
        ("arguments", name)
        for name in ("channels", "head_convs", "neck", "box_loss", "top", "quality", "center_radius")
    ),
    *(("arguments", name) for name in ("level_ranges", "frozen_stages", "activation", "keypoints", *NAMES)),
    *(("classes", name) for name in ("names", "ids", "more")),
    *(("resize", name) for name in ("short", "long", "antialias", "scale", "more")),
    *(("selection", name) for name in ("nms", "nms_threshold", "max_detections", "candidates_per_level", "more")),
    *(("metrics", name) for name in ("AP", "per_class", "split")),
    *(("training", name) for name in ("epoch", "step", "config")),
    *(("training", "config", name) for name in ("data", "init")),
]
BUILDERS = [
    "fcos_timm_fpn",
    "faster_rcnn_vgg16",
    "keypoint_rcnn_resnet18_fpn",
    "cornernet_hourglass104",
    "efficientdet_d7x",
]


def mutate_header(dice: random.Random, header: Header) -> str:
    """The header with one to three values exchanged, as JSON."""
    for _ in range(dice.randint(1, 3)):
        *way, last = dice.choice(PLACES)
        inside: Any = header
        for step in way:
            inside = inside.get(step) if isinstance(inside, dict) else None
        if isinstance(inside, dict):
            if dice.random() < 0.2:
                inside.pop(last, None)
            else:
                inside[last] = copy.deepcopy(dice.choice(VALUES))
    if dice.random() < 0.1:
        header["builder"] = dice.choice(BUILDERS)
    if dice.random() < 0.1:
        count = dice.choice([1, 3, 5000, 20000])
        header["classes"] = {"names": [f"c{i}" for i in range(count)], "ids": list(range(count))}
    text = json.dumps(header)
    kind = dice.random()
    if kind < 0.06:  # said twice
        return text[:-1] + f', "{dice.choice([*header, "nms"])}": {json.dumps(dice.choice(VALUES))}}}'
    if kind < 0.12:  # deeper than anything of ours
        depth = dice.choice([20, 500, 5000, 100_000])
        return (
            text[:-1]
            + ', "metrics2": '
            + dice.choice(["[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth])
            + "}"
        )
    if kind < 0.16:
        return text.replace("1", dice.choice(["NaN", "Infinity", "1e999", "9" * 5000]), 1)
    if kind < 0.2:
        at = dice.randrange(len(text))
        return text[:at] + dice.choice(['"', "}", ",", "\ud800", "", "\\"]) + text[at + 1 :]
    return text


def mutate_tensors(dice: random.Random, state: State) -> State:
    state = dict(state)
    name = dice.choice(sorted(state))
    value = state[name].clone()
    flat = value.view(-1)
    kind = dice.randrange(9)
    if kind == 0:
        state[name] = value.to(dice.choice([torch.int16, torch.uint8, torch.bool, torch.int64]))
    elif kind == 1 and value.is_floating_point():
        flat[dice.randrange(flat.numel())] = dice.choice([float("nan"), float("inf"), -float("inf")])
        state[name] = value
    elif kind == 2:
        state[name] = value.unsqueeze(0)
    elif kind == 3:
        state[name] = flat[: flat.numel() // 2].clone()
    elif kind == 4:
        del state[name]
    elif kind == 5:
        state[f"{name}.more"] = value
    elif kind == 6:
        state[name] = value.to(dice.choice([torch.complex64, torch.float16, torch.bfloat16, torch.float8_e4m3fn]))
    elif kind == 7:
        state[name] = torch.full_like(value, -1)
    else:
        state = {}
    return state


def mutate_bytes(dice: random.Random, data: bytes) -> bytes:
    """Truncated, with other bytes, or with another length or other offsets at the top."""
    length = struct.unpack("<Q", data[:8])[0]
    kind = dice.randrange(4)
    if kind == 0:
        return data[: dice.choice([0, 7, 8, 9, length // 2, 8 + length, len(data) - 1])]
    if kind == 1:
        return struct.pack("<Q", dice.choice([0, 1, length - 1, length + 1, len(data), 2**63])) + data[8:]
    if kind == 2:
        top = json.loads(data[8 : 8 + length])
        name = dice.choice([key for key in top if key != "__metadata__"])
        field = dice.choice(["data_offsets", "shape", "dtype"])
        offsets = [[0, 2**62], [5, 1], [-1, 4], [0, 4]]
        shapes = [[2**40, 2**40], [-1], [0], [1] * 100]
        wrong = {"data_offsets": offsets, "shape": shapes, "dtype": ["F128", "I16", "BOOL", "F8_E4M3", 7]}
        top[name][field] = dice.choice(wrong[field])
        text = json.dumps(top).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]
    changed = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        changed[dice.randrange(8 + length)] = dice.randrange(256)
    return bytes(changed)


def mutated(number: int, header: Header, state: State) -> bytes:
    dice = random.Random(number)
    text = mutate_header(dice, copy.deepcopy(header)) if number % 3 != 1 else json.dumps(header)
    if number % 3 == 1:
        state = mutate_tensors(dice, state)
    data = save(state, metadata={"aweigh": text.encode("utf-8", "replace").decode()})
    return mutate_bytes(dice, data) if number % 6 == 5 else data


class Watch:
    """Notes what is opened while `on`; an audit hook cannot be taken away again."""

    def __init__(self, allowed: Path) -> None:
        self.on, self.seen, self.allowed = False, [], allowed.resolve()
        self.code = tuple(str(Path(place).resolve()) for place in (sys.prefix, sys.base_prefix, *sys.path) if place)
        sys.addaudithook(self.note)

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = Path(arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0]).absolute()
            of_python = path.suffix in (".py", ".pyc", ".so") and any(
                str(path).startswith(place) for place in self.code
            )
            if path != self.allowed and not of_python and not path.is_relative_to(CGROUPS):
                self.seen.append(f"open {path}")
        elif event.split(".")[0] in ("socket", "urllib", "subprocess", "ftplib", "http") or event in (
            "os.system",
            "exec_",
        ):
            self.seen.append(f"{event} {arguments}"[:200])


def use(path: Path) -> tuple[str, str]:
    """What came of a file, and what is wrong with that."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run(["info", str(path)])
    if code not in (0, 2, 3) or (code and len(err.getvalue().splitlines()) != 1):
        return "info", f"exit code {code}: {err.getvalue()[-300:]}"
    if UNPRINTABLE.search(out.getvalue().replace("\n", "") + err.getvalue().replace("\n", "")):
        return "info", f"control characters: {out.getvalue()[:300]!r}"
    try:
        found = load(path)(torch.zeros(3, 24, 32, dtype=torch.uint8))
        return "used", "" if np.isfinite(found.boxes).all() else "boxes that are not finite"
    except AweighError as error:
        return type(error).__name__, "" if path.name in str(error) else f"no name of the file: {error}"


def main(good: Path, folder: Path, count: int, first: int = 0) -> dict[str, Any]:
    header, state = read_header(good), load_file(good)
    path = folder / "mutated.safetensors"
    path.write_bytes(good.read_bytes())
    assert use(path) == ("used", "")  # which imports what is needed
    watch, outcomes, wrong = Watch(path), Counter[str](), []
    for number in range(first, first + count):
        path.write_bytes(mutated(number, header, state))
        watch.seen.clear()
        watch.on = True
        try:
            outcome, problem = use(path)
        except Exception as error:
            outcome, problem = "traceback", f"{type(error).__name__}: {error}"[:300]
        watch.on = False
        outcomes[outcome] += 1
        wrong += [f"{number}: {what}" for what in (problem, *watch.seen) if what]
    most = (high_water() or 0) / 2**30
    return {"outcomes": dict(outcomes), "wrong": wrong, "gigabytes": round(most, 2)}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))))
