"""Messages say one image and two images: counts and their nouns go through `counted`, which knows both forms."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import aweigh
from aweigh.errors import counted

PACKAGE = Path(aweigh.__file__).parent
SOURCES = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
# What the library counts; the words of a message behind a number.
NOUNS = sorted(
    {noun.split()[-1] for text in SOURCES.values() for noun in re.findall(r"counted\([^\"']*[\"']([a-zA-Z ]+)", text)}
)
HAND_MADE = re.compile(r"""['"](?:s|es|ies)['"] (?:\*|if )|['"] if .{1,40} == 1 else ['"]e?s\b|\w\(s\)[ .,:]""")


@pytest.mark.parametrize(
    ("number", "noun", "verb", "text"),
    [
        (0, "image", "", "0 images"),
        (1, "image", "", "1 image"),
        (2, "image", "", "2 images"),
        (1200, "box", "", "1,200 boxes"),
        (1, "process", "reads", "1 process reads"),
        (3, "process", "reads", "3 processes read"),
        (2, "other class", "", "2 other classes"),
        (2, "entry", "", "2 entries"),
        (2, "epoch", "", "2 epochs"),
        (2, "day", "is", "2 days are"),
        (1, "day", "is", "1 day is"),
        (0, "mask", "has", "0 masks have"),
        (5, "anchor", "lies", "5 anchors lie"),
    ],
)
def test_a_noun_agrees_with_its_number(number: int, noun: str, verb: str, text: str) -> None:
    assert counted(number, noun, verb) == text


def test_nothing_is_counted_without_the_helper() -> None:
    """`f"{n} images"` is wrong for 1, `f"{n} image"` for 2; sizes (`{w} x {h} pixels`) and shares are no counts."""
    found = [f"{file}:{line}: {said}" for file, text in sorted(SOURCES.items()) for line, said in counts(text)]
    assert not found, "\n".join(found)


def test_no_plural_is_made_by_hand() -> None:
    found = [f"{file}: {hit.group()}" for file, text in SOURCES.items() for hit in HAND_MADE.finditer(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "wrong",
    [
        'f"{len(images)} images"',
        'f"{n:,} other classes"',
        'f"{n} of " f"{total} images"',
        'f"{len(x)} image skipped"',
        'f"with {a} boxes and {b}"',
    ],
)
def test_the_rule_sees_what_is_wrong(wrong: str) -> None:
    assert len(list(counts(wrong))) == 1


@pytest.mark.parametrize("wrong", ["""f"{n} box{'es' * (n != 1)}" """, '"s" if n > 1 else ""', 'f"{n} image(s) left"'])
def test_the_rule_sees_a_plural_made_by_hand(wrong: str) -> None:
    assert HAND_MADE.search(wrong)


@pytest.mark.parametrize("right", ['f"{w} x {h} pixels"', 'f"{share:.0%} objects"', "f\"{counted(n, 'image')} left\""])
def test_the_rule_lets_pass_what_is_right(right: str) -> None:
    assert not list(counts(right))


def counts(source: str) -> Iterator[tuple[int, str]]:
    """The places in f-strings where a value is followed by a noun of `NOUNS`, in either number."""
    forms = "|".join(f"{noun}|{counted(2, noun)[2:]}" for noun in NOUNS)
    behind = re.compile(rf" (?:other |more |[a-z]+ing )?(?:{forms})\b(?!/s| a second)")
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        before = ""
        for value, after in zip(node.values, [*node.values[1:], None]):
            if isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant):
                shown = ast.unparse(value.value)
                percent = value.format_spec is not None and "%" in ast.unparse(value.format_spec)
                side = before.endswith((" x ", " x"))
                constant = shown.isupper()  # whose number is known where the sentence is written
                text = shown.startswith(("counted(", "sorted(")) or shown == "sides" or constant
                if not (percent or side or text) and behind.match(str(after.value)):
                    yield value.lineno, f"{{{shown}}}{str(after.value)[:30]}"
            before = str(value.value) if isinstance(value, ast.Constant) else ""
