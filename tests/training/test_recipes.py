"""Every recipe that comes with the package: it is read, its header shows its command, and its numbers agree.

`tests/architecture/test_shown_commands.py` builds what each command of a header trains, and knows its start.
"""

import math
import re

import pytest

from aweigh.models import DETECTORS
from aweigh.models.efficientdet import SCALING
from aweigh.training.config import TrainConfig, resolve
from aweigh.training.recipes import packaged_recipes, recipes_for
from aweigh.training.settings import load_recipe

RECIPES = {name: path for name, path in packaged_recipes().items() if not name.endswith("_imagenet")}  # of backbones
COCO_IMAGES = 118_287  # of train2017, as many as a recipe that counts in epochs has


def config(name: str) -> TrainConfig:
    return resolve(load_recipe(TrainConfig, RECIPES[name]))[0]


@pytest.mark.parametrize("name", RECIPES)
def test_it_is_read_and_its_header_shows_the_command(name: str) -> None:
    settings, text = config(name), RECIPES[name].read_text(encoding="utf-8")
    shown = re.search(rf"^#   aweigh train .*--recipe (recipes/{name}\.toml|{name})( |$)", text, re.M)
    assert shown or "what `aweigh demo` trains" in text
    assert not (settings.data or settings.output or settings.proposals_file)  # which are the user's


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith(("coco_", "voc_"))])
def test_its_numbers_agree(name: str) -> None:
    settings, text = config(name), " ".join(RECIPES[name].read_text(encoding="utf-8").replace("#", "").split())
    assert "Target" in text and "Not run here" in text
    assert settings.batch == settings.lr_batch, "the learning rate is that of its batch"
    if settings.multi_scale:
        assert settings.short == max(settings.multi_scale) <= settings.long
    steps = settings.iterations or settings.epochs * math.ceil(COCO_IMAGES / settings.lr_batch)
    if settings.schedule == "step":
        assert list(settings.steps) == sorted(settings.steps) and settings.steps[-1] < steps


@pytest.mark.parametrize("row", [row for row in SCALING if not row.startswith("lite")])
def test_efficientdets_have_one_each(row: str) -> None:
    (name,) = recipes_for(f"efficientdet_{row}")
    settings = config(name)
    assert (settings.short, settings.long) == (0, SCALING[row].size)
    assert settings.epochs == (600 if row in ("d7", "d7x") else 300)


def test_every_rcnn_has_a_recipe() -> None:
    """But for those on ResNet-18, which are ours and small."""
    rcnns = [name for name in DETECTORS if "_rcnn_" in name and "resnet18" not in name]
    assert len(rcnns) > 40
    assert not [name for name in rcnns if not recipes_for(name)]
    assert recipes_for("mask_rcnn_resnet101_fpn") == ["coco_mask_rcnn_fpn"]  # by a command of its header
    assert recipes_for("mask_rcnn_resnet101_fp") == []
