"""`aweigh doctor`: which versions are here, whether they go together, and whether every device computes.

Where nothing of the torch half is installed, what finds objects without it is looked at alone.
"""

import os
import platform
import re
import shutil
import sys
from importlib import metadata

from aweigh.cli.terminal import one_line
from aweigh.errors import counted

LIGHT = ("hotcoco", "numpy", "onnxruntime", "pillow")
TRAIN = ("torch", "torchvision", "timm", "safetensors", "matplotlib")
ADVICE = "Install a pair that belongs together: pip install --upgrade torch torchvision"


def command() -> int:
    """Check that torch, torchvision and every device of this machine work.

    Runs one convolution and one suppression of overlapping boxes on each device and compares with the known answer.
    Ends with 1, and says why, when something does not. Where torch is not installed, which only training and what else
    makes networks needs, the rest is looked at.
    """
    print(f"aweigh {metadata.version('aweigh')}, Python {platform.python_version()}, {platform.platform()}")
    versions = {name: _version(name) for name in (*LIGHT, *TRAIN)}
    light = not any(versions[name] for name in TRAIN)
    print(", ".join(f"{name} {version or ('-' if light else 'MISSING')}" for name, version in versions.items()))
    if missing := [name for name, version in versions.items() if version is None and not (light and name in TRAIN)]:
        again = 'pip install --upgrade "aweigh[train]"' if {*missing} & {*TRAIN} else "pip install --upgrade aweigh"
        return _conclude([f"{', '.join(missing)} is not installed; install aweigh again: {again}"])
    if light:
        print(f'{", ".join(TRAIN)}: not installed; training and checkpoints need them: pip install "aweigh[train]"')
        return _conclude([])

    try:
        import torch
        import torchvision
    except (ImportError, OSError, RuntimeError) as error:
        return _conclude([f"{_pair(versions)} cannot be loaded together ({error}). {ADVICE}"])

    problems = pair_problems(torch.__version__, torchvision.__version__, metadata.requires("torchvision") or [])
    threads = torch.get_num_threads()
    limit = os.environ.get("OMP_NUM_THREADS")
    print(f"{threads} of {counted(os.cpu_count() or 1, 'CPU thread')}{f' (OMP_NUM_THREADS={limit})' if limit else ''}")
    if torch.version.cuda and not torch.cuda.is_available() and shutil.which("nvidia-smi"):
        problems.append(
            f"there is an NVIDIA driver, but torch, built for CUDA {torch.version.cuda}, finds no usable GPU; "
            "update the driver or install a torch built for it."
        )
    for device, description in _devices():
        reason = check_device(device)
        print(f"{device:8} {description}: {'ok' if reason is None else 'FAILED'}")
        if reason is not None:
            problems.append(f"{device} ({description}): {reason} [{_pair(versions)}]. {ADVICE}")
    return _conclude(problems)


def pair_problems(torch: str, torchvision: str, requirements: list[str]) -> list[str]:
    """What torchvision's own requirement says about this torch; an empty list when they go together."""
    for requirement in requirements:
        match = re.match(r"torch\b[\s(]*(==|>=|~=)\s*([\d.]+)", requirement)
        if match is None:
            continue
        relation, bound = match.groups()
        here, wanted = _numbers(torch), _numbers(bound)
        fits = here >= wanted if relation == ">=" else here[: len(wanted)] == wanted
        if not fits:
            return [
                f"torchvision {torchvision} needs torch {relation} {bound}, but torch {torch} is installed. {ADVICE}"
            ]
    return []


def check_device(device: str) -> str | None:
    """Why this device does not compute, or None when a convolution and an NMS both give the known answer."""
    import torch
    from torchvision.ops import nms

    try:
        image = torch.ones(1, 1, 4, 4, device=device)
        total = torch.nn.functional.conv2d(image, torch.ones(1, 1, 3, 3, device=device)).sum().item()
        boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]], device=device)
        kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7], device=device), 0.5).tolist()
    except (RuntimeError, NotImplementedError) as error:
        return str(error).splitlines()[0]
    if total != 36.0:
        return f"a convolution of ones gives {total} instead of 36"
    if kept != [0, 2]:
        return f"non-maximum suppression keeps boxes {kept} instead of [0, 2]"
    return None


def _devices() -> list[tuple[str, str]]:
    import torch

    devices = [("cpu", platform.processor() or platform.machine())]
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        built = f"torch built for CUDA {torch.version.cuda}: {' '.join(torch.cuda.get_arch_list())}"
        devices.append((f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, sm_{major}{minor}, {built}"))
    if torch.backends.mps.is_available():
        devices.append(("mps", "Apple GPU"))
    return devices


def _conclude(problems: list[str]) -> int:
    for problem in problems:
        print(f"error: {one_line(problem)}", file=sys.stderr)
    if not problems:
        print("All is well.")
    return 1 if problems else 0


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def _pair(versions: dict[str, str | None]) -> str:
    return f"torch {versions['torch']} with torchvision {versions['torchvision']}"
