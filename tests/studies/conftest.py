"""Studies written for a test."""

from collections.abc import Callable
from pathlib import Path

import pytest

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
