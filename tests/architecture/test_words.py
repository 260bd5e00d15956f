"""One word for one thing: comments, docstrings, messages and documents keep to the glossary of CONTRIBUTING.md."""

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = re.findall(
    r"^\| ([\w -]+) \| .* \| ((?:\"[^\"]+\"(?:, )?)+) \|$",
    (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)
INSTEAD = {bad: good for good, listed in GLOSSARY for bad in re.findall(r'"([^"]+)"', listed)}
# A name in code, a path, a flag or a key is no prose, nor is what stands in backticks or in braces.
WORDS = re.compile(rf"(?<![-\w/.`<$\\])({'|'.join(map(re.escape, INSTEAD))})(?![\w/=(`.:-]| \{{)", re.IGNORECASE)


def prose(path: Path) -> list[tuple[int, str]]:
    """The lines of a file that people read as sentences, with their numbers."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        blocks = re.sub(r"^```.*?^```", lambda block: "\n" * block[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
        return [(number, line) for number, line in enumerate(blocks.splitlines(), start=1) if line[:4] != "    "]
    lines: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        words = token.string.strip("rbf\"'# ")
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and " " in words):
            lines += [(token.start[0] + row, line) for row, line in enumerate(words.splitlines())]
    return lines


def wrong_words(line: str) -> list[str]:
    told = re.sub(r"\{[^}]*\}", "{}", re.sub(r"`[^`]*`|\]\([^)]*\)|^ *[\w, ]+: ", " ", line))
    return [found.lower() for found in WORDS.findall(told)]


@pytest.mark.parametrize("folder", ["src/aweigh", "docs", "README.md", "CONTRIBUTING.md"])
def test_the_words_of_the_glossary_are_used(folder: str) -> None:
    files = [ROOT / folder] if folder.endswith(".md") else sorted((ROOT / folder).rglob("*.*"))
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {word!r}, say {INSTEAD[word]!r}"
        for path in files
        if path.suffix in (".py", ".md")
        for number, line in prose(path)
        if not line.startswith("|") or path.name != "CONTRIBUTING.md"
        for word in wrong_words(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_a_wrong_word_is_seen_in_prose_alone() -> None:
    assert "picture" in INSTEAD and INSTEAD["picture"] == "image"
    assert wrong_words("Each picture is read.") == ["picture"]
    assert wrong_words("The flag --no-pictures, the name `pictures`, the folder a/pictures.") == []
    assert wrong_words("pictures: files or folders") == []
