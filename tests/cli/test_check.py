"""`aweigh data check` as it is typed: what it prints, writes and ends with."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.edit.test_clean import broken, tree
from tests.inspect.test_doctor import sound

from aweigh.cli.main import run

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Typed:
    def type_command(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(["data", "check", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return type_command


def test_it_ends_with_3_only_when_strict(typed: Typed, tmp_path: Path) -> None:
    bad, good = broken(tmp_path / "bad"), sound(tmp_path / "good")
    code, out, _ = typed(bad, "--model", "none")
    assert code == 0
    assert "error zero-size box\n  train: 1 of 31 boxes" in out and "t1.jpg annotation 900" in out
    assert out.rstrip().splitlines()[-1] == "4 errors, 4 warnings"
    assert typed(bad, "--strict", "--model", "none")[0] == 3
    code, out, _ = typed(good, "--strict")
    assert code == 0 and "nothing to complain of" in out and "best possible recall" in out


def test_lines_fit_a_terminal_of_80_columns(typed: Typed, tmp_path: Path) -> None:
    _, out, _ = typed(broken(tmp_path / "bad"), "--no-pictures")
    lines = out.splitlines()[1:]  # the first holds the path
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80
    assert "the pixels of the images were not read" in out


def test_the_files_it_writes(typed: Typed, tmp_path: Path) -> None:
    root = broken(tmp_path / "bad")
    before = tree(root)
    files = ["--html", tmp_path / "report.html", "--json", tmp_path / "report.json", "--fix-to", tmp_path / "clean"]
    code, out, _ = typed(root, *files)
    assert code == 0 and tree(root) == before
    content = json.loads((tmp_path / "report.json").read_text())
    assert {"zero-size box", "unreadable image"} <= {one["kind"] for one in content["findings"]}
    assert content["fit"]["model"] == "fcos_shufflenet_v2_x1_0_lite" and content["fit"]["levels"]
    assert "zero-size box" in (tmp_path / "report.html").read_text()
    assert "train: 1 of 'box over the edge': clipped" in out and "for you to decide" in out
    code, out, _ = typed(tmp_path / "clean", "--model", "none")
    assert code == 0 and "error" not in out


def test_what_cannot_be_written_is_said_before_the_work(typed: Typed, tmp_path: Path) -> None:
    root = sound(tmp_path / "set")
    before = tree(root)
    for words in (["--fix-to", root], ["--html", tmp_path], ["--json", tmp_path / "no" / "where.json"]):
        code, out, err = typed(root, *words)
        assert code == 2 and out == "" and str(words[1]) in err and len(err.strip().splitlines()) == 1
    assert typed(root, "--model", "fcos_resnet18")[0] == 2
    assert typed(tmp_path / "nowhere")[0] == 3
    assert tree(root) == before


def test_names_that_a_terminal_cannot_show(typed: Typed, tmp_path: Path) -> None:
    root = sound(tmp_path / "set")
    file = root / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = "a\x1b[31m\udc80.jpg"
    file.write_text(json.dumps(content))
    code, out, _ = typed(root, "--html", tmp_path / "r.html", "--json", tmp_path / "r.json", "--model", "none")
    assert code == 0 and "a?[31m?.jpg" in out and "\x1b" not in out
    assert "image file missing" in (tmp_path / "r.html").read_text() and (tmp_path / "r.json").stat().st_size
