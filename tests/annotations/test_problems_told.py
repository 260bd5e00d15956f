"""How problems are counted and shown in the lists that people read."""

from pathlib import Path

import pytest
from tests.annotated import picture

from aweigh.annotations.problems import SKIPPED, Problem, done, report_lines, tally
from aweigh.layouts.load import load_split


@pytest.mark.parametrize(
    ("count", "action", "text"),
    [(13, SKIPPED, "13 images skipped"), (1, SKIPPED, "1 image skipped"), (1200, "dropped", "1,200 dropped")],
)
def test_what_was_done_is_counted(count: int, action: str, text: str) -> None:
    assert done(count, action) == text


def test_a_list_of_problems_says_how_many_images_are_skipped() -> None:
    problems = [Problem("image file missing", f"{number}.jpg", None, "not there", SKIPPED) for number in range(13)]
    lines = report_lines([*problems, Problem("box over the edge", "a.jpg", 1, "[0, 0, 9, 9]", "kept")]).splitlines()
    assert lines[0] == "13 problems and 1 remark in the annotations"
    assert lines[1].startswith("  image file missing: 13 images skipped (0.jpg: not there; ")
    assert tally(problems[:1]) == ["1 problem"]


def test_fractions_stand_beside_their_pixels(tmp_path: Path) -> None:
    """A YOLO box wholly right of an image of 40 x 30: as the file has it, and where that is."""
    picture(tmp_path / "images" / "train" / "a.png")
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 1.5 0.5 0.25 0.5\n0 0.5 0.5 0.25 0.5\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [cat]\n")
    (problem,) = load_split(tmp_path, "train").problems
    assert problem.detail == (
        "[1.5, 0.5, 0.25, 0.5] as fractions, [55.0, 7.5, 65.0, 22.5] in pixels, in an image of 40 x 30"
    )
