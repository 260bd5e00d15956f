"""Tables of every command: whole numbers at every width of a terminal, and no width at all in a file."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from tests.inspect.test_doctor import load, sound

from aweigh.cli import check, models, profile
from aweigh.cli.main import run
from aweigh.cli.tables import print_table
from aweigh.inspect.doctor import examine
from aweigh.training.logs.progress import epoch_table

WIDTHS = (1, 7, 12, 20, 33, 40, 61, 80, 100, 200)
TITLES = ("detector", "parameters", "metrics")
ROWS = [("fcos_resnet50_fpn", "32.3 M", "AP 46.7, AP50 65.25"), ("d0", "1,234.5 M", "")]


def numbers(text: str) -> list[str]:
    return re.findall(r"\d[\d.,]*\d|\d", text)


def terminal(width: int) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None, highlight=False)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", WIDTHS)
def test_no_number_is_cut_at_any_width(width: int) -> None:
    console = terminal(width)
    print_table(console, TITLES, ROWS)
    assert numbers(shown(console)) == [number for row in ROWS for cell in row for number in numbers(cell)]


def test_a_table_that_fits_is_aligned_and_another_is_a_list() -> None:
    wide, narrow = terminal(80), terminal(40)
    print_table(wide, TITLES, ROWS, left=(0, 2))
    assert [line.rstrip() for line in shown(wide).splitlines()] == [
        "detector           parameters  metrics",
        "fcos_resnet50_fpn      32.3 M  AP 46.7, AP50 65.25",
        "d0                  1,234.5 M",
    ]
    print_table(narrow, TITLES, ROWS, left=(0, 2))
    assert shown(narrow).splitlines() == [
        "fcos_resnet50_fpn: parameters 32.3 M,",
        "    metrics AP 46.7, AP50 65.25",
        "d0: parameters 1,234.5 M",
    ]


def test_a_file_has_no_width() -> None:
    console = Console(file=io.StringIO(), width=10)
    print_table(console, TITLES, ROWS)
    assert len(shown(console).splitlines()) == 1 + len(ROWS)


@pytest.mark.parametrize("width", WIDTHS)
def test_models_shows_whole_numbers(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ "AP 46.7" was "AP 46" at 80 columns; in a terminal of any width, and where the output is no terminal."""
    for environment in ({}, {"FORCE_COLOR": "1"}):
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.delenv("NO_COLOR", raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert run(["models", "faster_rcnn_resnet50_fpn"]) == 0
        out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
        assert {"41.8", "43.7", "46.7", "40.2", "37.9"} <= set(numbers(out))


@pytest.mark.parametrize("width", [12, 80])
def test_profile_and_check_show_whole_numbers(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    profile.cost("shufflenet_v2_x0_5", size=64)
    whole = set(numbers(capsys.readouterr().out))
    monkeypatch.setenv("FORCE_COLOR", "1")
    profile.cost("shufflenet_v2_x0_5", size=64)
    assert whole <= set(numbers(re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)))

    examination = examine(load(sound(tmp_path / "set")), pictures=False)
    console = terminal(width)
    check._print_tables(console, examination)
    assert {"160", "120", "24", "12"} <= set(numbers(shown(console)))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_of_epochs_shows_whole_numbers(width: int) -> None:
    """Columns that do not fit are left out; of those that are shown every cell is whole."""
    rows = [{"epoch": 100 + n, "loss": 1.2345, "AP": 0.5, "lr": 1.25e-5, "images_per_second": 12345.6} for n in (0, 1)]
    console = terminal(width)
    console.print(epoch_table(rows, 101, (width, 24)))
    known = {"100", "101", "1.234", "0.500", "1.25", "05", "12345.6"}
    assert set(numbers(shown(console))) <= known
    assert width < 13 or {"100", "101", "1.234"} <= set(numbers(shown(console)))


@pytest.mark.parametrize(
    ("which", "names"),
    [
        ("fcos_resnet50_fpn_base", ["fcos_resnet50_fpn_base"]),
        ("LITE0", ["efficientdet_lite0"]),
        ("efficientdet_d[01]", ["efficientdet_d0", "efficientdet_d1"]),
        ("*_vgg16", ["faster_rcnn_vgg16", "fast_rcnn_vgg16"]),
    ],
)
def test_a_filter(which: str, names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", which]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.split("\n\n")[0].splitlines()[1:] if line[0] != " "] == names


@pytest.mark.parametrize(
    ("which", "near"),
    [
        ("resnt50", "fcos_resnet50_fpn"),
        ("retinet", "retinanet_resnet18_fpn"),
        ("mask_rcn_resnet18", "mask_rcnn_resnet18"),
    ],
)
def test_the_nearest_names_where_nothing_matches(which: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", which]) == 2
    err = capsys.readouterr().err
    assert f"no detector {which!r}" in err and f"The nearest: {near}" in err and err.count("\n") == 1


def test_nothing_is_near_to_nonsense(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "qqq"]) == 2
    assert "`aweigh models` lists all of them" in capsys.readouterr().err


def test_data_that_forbid_commerce_are_said_beside_the_licence() -> None:
    licence = "MIT (xingyizhou/CenterNet); trained on KITTI, whose data are CC BY-NC-SA 3.0"
    assert models.short(licence) == "MIT, data NC" and models.short("BSD-3-Clause (torchvision); x") == "BSD-3-Clause"
