"""The documents say what is so: their files are there, and the lines of code that they name."""

import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
DOCUMENTS = [TOP / "README.md", TOP / "CONTRIBUTING.md", *sorted((TOP / "docs").rglob("*.md"))]


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
