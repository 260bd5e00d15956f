"""The documents say what is so: their commands parse, their recipes exist, their files are there."""

import re
import shlex
from pathlib import Path

import pytest

from aweigh.cli.common import packaged_recipes
from aweigh.cli.main import app

TOP = Path(__file__).parents[2]
DOCUMENTS = [TOP / "README.md", TOP / "CONTRIBUTING.md", *sorted((TOP / "docs").rglob("*.md"))]


def commands(text: str) -> list[str]:
    """The lines of code that call aweigh, without what stands before it and their comments."""
    lines = re.findall(r"^(?:    |\$ ?)?(?:uv run )?(aweigh [a-z].*)$", text, re.MULTILINE)
    return [re.split(r"\s+#", line)[0] for line in lines]


@pytest.mark.parametrize("command", commands((TOP / "README.md").read_text(encoding="utf-8")))
def test_commands_of_the_readme_parse(command: str) -> None:
    app.parse_args(shlex.split(command)[1:], exit_on_error=False, print_error=False)


def test_enough_commands_are_found() -> None:
    assert len(commands((TOP / "README.md").read_text(encoding="utf-8"))) >= 6


def test_python_of_the_readme_compiles() -> None:
    for block in re.findall(r"```python\n(.*?)```", (TOP / "README.md").read_text(encoding="utf-8"), re.DOTALL):
        compile(block, "README.md", "exec")


@pytest.mark.parametrize("name", packaged_recipes())
def test_commands_of_the_recipes_parse(name: str) -> None:
    header = re.sub(r"^# *", "", packaged_recipes()[name].read_text(encoding="utf-8"), flags=re.MULTILINE)
    for command in commands(header):
        app.parse_args(shlex.split(command)[1:], exit_on_error=False, print_error=False)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(TOP).as_posix())
def test_linked_files_are_there(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (document.parent / target).exists(), target


@pytest.mark.parametrize("document", sorted((TOP / "docs" / "papers").glob("*.md")), ids=lambda path: path.stem)
def test_every_line_that_a_paper_page_names_is_in_that_file(document: Path) -> None:
    """The rows `| equation | what | file | line |` of the page."""
    rows = re.findall(r"\| `([a-z_/0-9]+\.py)` \| `(.+?)` \|$", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) >= 10
    for file, line in rows:
        source = (TOP / "src" / "aweigh" / file).read_text(encoding="utf-8").splitlines()
        assert [text.strip() for text in source].count(line) == 1, f"{file}: {line}"
