"""How every command line ends: the exit codes, one line for a mistake, a traceback for what nobody foresaw."""

import re

import pytest
from cyclopts import App

from aweigh import __version__
from aweigh.cli import main
from aweigh.cli.terminal import one_line
from aweigh.errors import AweighError, DataError, GateError, UsageError
from aweigh.training.recipes import find_recipe, packaged_recipes


def ending(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    """The exit code of a command that raises `error`."""
    app = App(name="aweigh", suppress_keyboard_interrupt=main.app.suppress_keyboard_interrupt)

    @app.default
    def fail() -> None:
        raise error

    monkeypatch.setattr(main, "app", app)
    return main.run([])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AweighError("x"), 1),
        (UsageError("x"), 2),
        (DataError("x"), 3),
        (GateError("x"), 4),
        (KeyboardInterrupt(), 130),
        (PermissionError(13, "Permission denied", "out/a.json"), 1),
    ],
)
def test_exit_codes(monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int) -> None:
    assert ending(monkeypatch, error) == code


def test_a_mistake_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ending(monkeypatch, DataError("photo.jpg: cut short\n  after 12 rows."))
    assert capsys.readouterr() == ("", "error: photo.jpg: cut short after 12 rows.\n")
    ending(monkeypatch, PermissionError(13, "Permission denied", "out/a.json"))
    assert capsys.readouterr().err == "error: out/a.json: Permission denied.\n"


def test_what_nobody_foresaw_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        ending(monkeypatch, ZeroDivisionError())
    with pytest.raises(OSError, match="no file named"):
        ending(monkeypatch, OSError("no file named"))


def test_debug_shows_the_traceback_of_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWEIGH_DEBUG", "1")
    with pytest.raises(DataError):
        ending(monkeypatch, DataError("x"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["predct", "a.jpg"], r'"predct".*Did you mean "predict"\?.*See: aweigh --help'),
        (["train", "DATA", "--epchs", "3"], r"--epchs.*Did you mean --epochs\?.*See: aweigh train --help"),
        (["train", "DATA", "--epochs", "many"], r"epochs"),
        (["train", "DATA", "--schedule", "cosin"], r"Did you mean .cosine"),
        (["train", "DATA", "--epochs", "0"], r"epochs = 0: expected a number above 0"),
        (["train", "DATA", "--recipe", "synthtic"], r"Did you mean 'synthetic'\?"),
        (["train"], r"Name the folder"),
        (["eval", "run/best.safetensors"], r"DATA"),
        (["predict"], r"Name the images"),
        (["config", "show", "--nonsense"], r"--nonsense"),
        (["data", "snth", "out"], r"snth"),
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert re.search(expected, err), err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__
    assert main.run(["--help"]) == 0
    overview = capsys.readouterr().out
    for name, _, _ in main.COMMANDS:
        assert re.search(rf"^. {name} ", overview, re.MULTILINE), name
        assert main.run([name, "--help"]) == 0
        assert f"Usage: aweigh {name}" in capsys.readouterr().out


def test_recipes_are_found_by_name_and_by_path() -> None:
    recipes = packaged_recipes()
    assert {"synthetic", "bccd", "coco_fcos_resnet50_1x"} <= recipes.keys()
    assert find_recipe("synthetic") == find_recipe("synthetic.toml") == find_recipe(str(recipes["synthetic"]))
    with pytest.raises(UsageError, match="nor one of"):
        find_recipe("nothing-like-it")


def test_one_line() -> None:
    assert one_line(" a\n  b\tc ") == "a b c"
