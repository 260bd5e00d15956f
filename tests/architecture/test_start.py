"""`import aweigh`, `aweigh --help`, `aweigh models` bring in no torch, and every public name is found all the same."""

import subprocess
import sys

import pytest

import aweigh

HEAVY = ("torch", "torchvision", "timm", "numpy", "PIL", "matplotlib", "hotcoco")


@pytest.mark.parametrize(
    "code",
    [
        "import aweigh; aweigh.__version__; dir(aweigh)",
        "import sys; sys.argv = ['aweigh', '--help']; from aweigh.cli.main import run; assert run(['--help']) == 0",
        "from aweigh.cli.main import run; assert run(['train', '--help']) == 0",
        "from aweigh.cli.main import run; assert run(['predict', '--help']) == 0",
        "from aweigh.cli.main import run; assert run(['predct']) == 2",
        "from aweigh.cli.main import run; assert run(['models']) == run(['models', 'fcos', '--json']) == 0",
    ],
    ids=["import", "help", "train-help", "predict-help", "mistake", "models"],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    code += f"\nimport sys; heavy = sorted(set(sys.modules) & set({HEAVY})); assert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names() -> None:
    for name in aweigh.__all__:
        assert getattr(aweigh, name) is not None
    assert set(aweigh.__all__) <= set(dir(aweigh))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        aweigh.lod  # noqa: B018


def test_a_shufflenet_needs_no_timm() -> None:
    """Neither built, loaded nor run on an image; a ResNet is built by it."""
    code = """
import sys, numpy as np, aweigh
aweigh.load()(np.zeros((64, 96, 3), dtype=np.uint8))
assert "torch" not in sys.modules
aweigh.load(runtime="torch")(np.zeros((64, 96, 3), dtype=np.uint8))
aweigh.create("fcos_shufflenet_v2_x0_5_fpn", num_classes=2)
assert "timm" not in sys.modules
aweigh.create("fcos_resnet18_fpn", num_classes=2)
assert "timm" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
