"""Studies written for a test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aweigh.studies.study import Study, load_study

Written = Callable[..., Study]

HEAD = """
title = "Widths"
paper = "Ours"
table = "1"
varies = "channels"
"""
TINY = """
[equal]
model = "fcos_shufflenet_v2_x0_5_fpn"
arguments = { head_convs = 1 }

[[rows]]
name = "narrow"
arguments = { channels = 16 }
paper = { AP = 30.0, parameters = 1e6, flops_ratio = 0.5 }

[[rows]]
name = "wide"
arguments = { channels = 32 }
paper = { AP = 31.0 }
"""


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Writes a study of two tiny detectors; `head` stands before its rows, `body` in the place of them."""

    def write(head: str = 'kind = "detector"\n', body: str = TINY) -> Study:
        path = tmp_path / "mine.toml"
        path.write_text(HEAD + head + body, encoding="utf-8")
        return load_study(path)

    return write


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in a folder for each of two classes."""
    root, dice = tmp_path_factory.mktemp("folders"), np.random.default_rng(0)
    for place in (f"{split}/{name}" for split in ("train", "val") for name in ("light", "dark")):
        (root / place).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(dice.integers(0, 255, (72, 72, 3), np.uint8)).save(root / place / f"{number}.png")
    return root
