"""The table of layouts: each is read from files of its kind, named in the documents and, where it can be, written."""

import re
from pathlib import Path

import numpy as np
import pytest
from tests.annotated import Make, coco_dict
from tests.layouts import fuzz_layouts

from aweigh.cli.flags import DATA_SET
from aweigh.cli.main import run
from aweigh.errors import DataError
from aweigh.layouts import LAYOUTS
from aweigh.layouts.load import find_splits, load_split
from aweigh.layouts.save import not_held, save_dataset

ROOT = Path(__file__).parents[2]
TITLES = {name: layout.looks_for.split(" (")[0] for name, layout in LAYOUTS.items()}
WRITTEN = [name for name, layout in LAYOUTS.items() if layout.writing is not None]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_of_each_layout_is_recognised_and_read(name: str, tmp_path: Path) -> None:
    folder = fuzz_layouts.write(tmp_path / "set", name)
    assert {key: files.layout for key, files in find_splits(folder).items()} == {"train": name, "val": name}
    split = load_split(folder)
    assert split.layout == name and len(split) == 3 and len(split.boxes) == 3 and split.problems == []


@pytest.mark.parametrize("name", WRITTEN)
def test_boxes_survive_every_layout_that_is_written(name: str, coco: Make, tmp_path: Path) -> None:
    split = load_split(coco(coco_dict([[5, 6, 10, 12], [1.5, 2.25, 30, 20]])))
    assert save_dataset({"train": split}, tmp_path / "out", name) == not_held({"train": split}, name)
    again = load_split(tmp_path / "out")
    assert again.layout == name and again.problems == [] and again.classes.names == split.classes.names
    np.testing.assert_allclose(again.boxes, split.boxes, atol=1e-3)
    assert [path.name for path in again.paths] == [path.name for path in split.paths]


def test_the_documents_name_every_layout() -> None:
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    read = page[page.index("### Layouts that are read") :].split("\n### ")[0]
    rows = "\n".join(line.split("|")[1] for line in read.splitlines() if line.startswith("| "))
    assert [title for title in TITLES.values() if title not in rows] == []
    (head,) = re.findall(r"^\| \| (.*) \|\n\|---.*\n\| boxes", page, re.M)
    assert head.split(" | ") == [TITLES[name] for name in WRITTEN]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [title for title in TITLES.values() if title not in readme] == []
    assert [title for title in TITLES.values() if title not in str(DATA_SET.help)] == []


def test_a_word_that_is_no_layout_lists_all_that_are_written(
    coco: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["data", "convert", str(coco()), "--to", "yalo", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"known: {', '.join(WRITTEN)}. Did you mean 'yolo'?" in said


def test_a_folder_of_no_layout_is_told_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError) as told:
        find_splits(tmp_path)
    assert [layout.looks_for for layout in LAYOUTS.values() if layout.looks_for not in str(told.value)] == []
