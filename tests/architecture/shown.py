"""What the documents show to be typed: commands, calls that build a detector, blocks of Python, names with values.

Documents are the README, CONTRIBUTING, everything below docs/, the card of the detector in the box, the notes beside
the benchmarks' numbers, and the headers of the recipes. A command is a line of a code block that begins with the name
of a program, continued after a backslash, or words in backticks that do.
"""

import ast
import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from aweigh.models import PUBLISHED, create

TOP = Path(__file__).parents[2]
DOCUMENTS = [
    *(TOP / "README.md", TOP / "CONTRIBUTING.md", TOP / "src" / "aweigh" / "weights" / "box" / "README.md"),
    *sorted((TOP / "docs").rglob("*.md")),
    *sorted((TOP / "benchmarks" / "results").glob("*.md")),
    *sorted((TOP / "recipes").glob("*.toml")),
]
PROGRAMS = ("aweigh", "torchrun", "python", "uv run", r"\.ci/(?:run|wheel)")
BEGINNING = rf"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:{'|'.join(PROGRAMS)})(?=\s|$)"
LINE = re.compile(rf"^(?: {{2,}}|\t)({BEGINNING}.*)$")
CALL = re.compile(r"(?:aweigh\.)?create\(")
FILES = ("FILE",)  # stands for a file of weights
ROW_OF_CODE = re.compile(r"\| `[a-z_/0-9]+\.py` \| `")  # equation | what | file | line, which another test compares


@dataclass(frozen=True)
class Shown:
    """A piece of a document. text: without what stands round it. inline: it stood in backticks, in a sentence."""

    file: Path
    line: int
    text: str
    inline: bool = False

    def __str__(self) -> str:
        return f"{self.file.relative_to(TOP).as_posix()}:{self.line}"

    @cached_property
    def words(self) -> list[str]:
        """A command as it reaches the program, without what is set before it, `uv run`, and dots for the rest."""
        words = shlex.split(self.text.removeprefix("$ "), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        before = ["uv", "run", "--no-dev"]
        while before and words[: len(before)] != before:
            before.pop()
        return [word for word in words[len(before) :] if word != "..."]


def lines_of(document: Path) -> list[str]:
    """The lines; of a recipe those of its header, without the sign of a comment."""
    lines = document.read_text(encoding="utf-8").splitlines()
    if document.suffix == ".toml":
        lines = [line.removeprefix("#") for line in lines if line.startswith("#")]
    return lines


def commands(document: Path) -> list[Shown]:
    found, lines, fence = [], lines_of(document), ""
    for number, line in enumerate(lines, start=1):
        if line.lstrip().startswith("```"):
            fence = "" if fence else line.strip().removeprefix("```") or "sh"
            continue
        if fence not in ("", "sh", "bash", "console"):
            continue
        match = LINE.match(f"  {line}" if fence else line)
        if match:
            text, next_line = match[1], number
            while text.endswith("\\"):
                text, next_line = f"{text[:-1]} {lines[next_line].strip()}", next_line + 1
            found.append(Shown(document, number, text))
        elif not fence:
            spans = (span for span in spans_of(line) if re.match(BEGINNING, span))
            found += [Shown(document, number, span, inline=True) for span in spans]
    return found


def calls(document: Path) -> list[Shown]:
    """Calls of `create` in backticks, and every one in a block of Python."""
    found = []
    for number, line in enumerate(lines_of(document), start=1):
        spans = [] if ROW_OF_CODE.search(line) else spans_of(line)
        found += [Shown(document, number, span, inline=True) for span in spans if CALL.match(span)]
    for block in python_blocks(document):
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.Call) and CALL.match(ast.unparse(node)):
                found.append(Shown(document, block.line + node.lineno, ast.unparse(node)))
    return found


def settings(document: Path) -> list[Shown]:
    """`name=value` and `name = value` in backticks: an argument of a builder, or a setting of a run."""
    return [
        Shown(document, number, span, inline=True)
        for number, line in enumerate(lines_of(document), start=1)
        if not ROW_OF_CODE.search(line)
        for span in spans_of(line)
        if re.fullmatch(r"[a-z_][a-z0-9_]* ?= ?[^=\s].*", span)
    ]


def python_blocks(document: Path) -> list[Shown]:
    found: list[Shown] = []
    block: list[str] | None = None
    for number, line in enumerate(lines_of(document), start=1):
        if line.startswith("```python"):
            block = []
        elif line.startswith("```") and block is not None:
            found.append(Shown(document, number - len(block) - 1, "\n".join(block)))
            block = None
        elif block is not None:
            block.append(line)
    return found


def spans_of(line: str) -> list[str]:
    return re.findall(r"(?<!`)`([^`]+)`(?!`)", line)


def given(shown: Shown) -> tuple[str, dict[str, Any]]:
    """The detector and the arguments of a call; no name where it stands for any (`create(..., weights="3x")`)."""
    call = ast.parse(shown.text, mode="eval").body
    assert isinstance(call, ast.Call) and len(call.args) == 1, shown.text
    names = {name: name for name in FILES} | constants(shown)
    arguments: dict[str, Any] = {}
    for keyword in call.keywords:
        value = names[keyword.value.id] if isinstance(keyword.value, ast.Name) else ast.literal_eval(keyword.value)
        arguments |= value if keyword.arg is None else {keyword.arg: value}
    name = ast.literal_eval(call.args[0])
    return ("" if name is ... else name), arguments


def constants(shown: Shown) -> dict[str, Any]:
    found = {}
    for block in python_blocks(shown.file):
        for node in ast.parse(block.text).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                try:
                    found[node.targets[0].id] = ast.literal_eval(node.value)
                except ValueError:  # not a plain value
                    continue
    return found


def build(name: str, arguments: dict[str, Any]) -> Any:
    """The detector of a call, without memory, and without the weights it would load."""
    weights = arguments.pop("weights", None)
    if weights is not None:
        published = PUBLISHED[name]
        record = next(iter(published.values())) if weights in FILES else published[weights]
        name, arguments = record.builder, {"classes": record.classes, **record.arguments, **arguments}
    assert arguments.pop("backbone_weights", "imagenet") == "imagenet"
    with torch.device("meta"):
        return create(name, **arguments)


BUILT: dict[tuple[str, str], Any] = {}


def built(shown: Shown) -> Any:
    """The detector of a call; of equal calls the same."""
    name, arguments = given(shown)
    key = name, repr(sorted(arguments.items()))
    if key not in BUILT:
        BUILT[key] = build(name, arguments)
    return BUILT[key]


COMMANDS = [shown for document in DOCUMENTS for shown in commands(document)]
CALLS = [shown for document in DOCUMENTS for shown in calls(document)]
SETTINGS = [shown for document in DOCUMENTS for shown in settings(document)]
BLOCKS = [shown for document in DOCUMENTS for shown in python_blocks(document)]
