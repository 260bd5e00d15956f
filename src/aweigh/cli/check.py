"""`aweigh data check`: what is in a data set, what is wrong with it, and what to do about it."""

import textwrap
from collections.abc import Callable
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from aweigh.catalogue import DEFAULT_MODEL
from aweigh.cli.flags import DATA_SET, Files
from aweigh.cli.tables import print_table
from aweigh.cli.terminal import bar, output
from aweigh.errors import UsageError, counted

if TYPE_CHECKING:
    from rich.console import Console

    from aweigh.annotations.split import Split
    from aweigh.inspect.coverage import Rule
    from aweigh.inspect.doctor import Examination
    from aweigh.inspect.findings import Finding
    from aweigh.inspect.fit import Fit

CLASSES_SHOWN = 10
STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold cyan"}


def check(
    data: Annotated[Path, DATA_SET],
    /,
    *,
    html: Path | None = None,
    json: Path | None = None,
    strict: bool = False,
    fix_to: Path | None = None,
    model: str = DEFAULT_MODEL,
    short: int = 0,
    long: int = 416,
    pictures: bool = True,
    files: Files = Files(),
) -> int:
    """Say what is in a data set, what is wrong with it, and what to change. Nothing in it is changed.

    Looks at every box, class and image file, for the same image in two splits, and at what the levels of the
    detector make of the sizes of the objects.

    Args:
        html: Write the report as one page, with images of the worst cases.
        json: Write the report as JSON, with up to 1000 examples of each finding.
        strict: End with 3 where there is an error or a warning.
        fix_to: Write a cleaned copy into this new folder, and say what was changed.
        model: Detector whose levels are held against the sizes of the objects; none for no detector.
        short: Short side of the images as the detector sees them, in pixels; 0 makes the long side `long` exactly.
        long: Limit of their long side; 0 is no limit.
        pictures: Decode every image to find damaged ones and duplicates; with --no-pictures only their headers are
            read.
    """
    from aweigh.files import write_text
    from aweigh.inspect.doctor import examine
    from aweigh.layouts.load import load_splits

    _check_places(html, json, fix_to)
    splits, empty = load_splits(data, **files.to_dict())
    if fix_to is not None and any(split.layout == "kitti" for split in splits.values()):
        raise UsageError("--fix-to does not write KITTI's layout; mend the label files that the report names.")
    fit = None
    if model != "none":  # first, since a wrong name or size is told here
        from aweigh.inspect.fit import measure_fit

        fit = measure_fit(splits, model, short=short, long=long, own_rule=_own_rule(model))
    examination = _with_bar(splits, lambda tell: examine(splits, empty=empty, pictures=pictures, progress=tell))
    console = output()
    print_report(console, data, examination, fit)
    fit_said = None if fit is None else fit.to_dict()
    if json is not None:
        write_text(json, dumps(examination.to_dict() | {"fit": fit_said}, indent=1, allow_nan=False) + "\n")
    if html is not None:
        from aweigh.inspect.report_html import report_html

        write_text(html, report_html(next(iter(splits.values())).data_set or str(data), splits, examination, fit_said))
        console.print(f"The report with images: {html}")
    if fix_to is not None:
        _write_clean(console, splits, examination, fix_to)
    return 3 if strict and not examination.sound else 0


def _own_rule(model: str) -> "Rule | None":
    """Of a detector that assigns points to boxes in a way that only itself knows, which needs torch."""
    from aweigh.inspect.fit import has_own_rule

    if not has_own_rule(model):
        return None
    from aweigh.inference.assignment import rule_of

    return rule_of(model)


def print_report(console: "Console", data: Path, examination: "Examination", fit: "Fit | None") -> None:
    """The whole report, for a terminal of any width."""
    from rich.text import Text

    from aweigh.inspect.findings import by_kind

    splits = examination.splits
    images, boxes = sum(split.pictures for split in splits), sum(split.boxes for split in splits)
    sizes = counted(images, "image"), counted(boxes, "box"), counted(len(examination.classes), "class")
    said = ", ".join([*dict.fromkeys(split.layout for split in splits), *sizes])
    console.print(Text.assemble((str(data), "bold"), f": {said}"), soft_wrap=True)
    _print_tables(console, examination)
    for group in by_kind(examination.findings):
        _print_finding(console, group)
    if fit is not None:
        _print_fit(console, fit)
    console.print()
    style = "bold green" if examination.sound else STYLES["error" if examination.count("error") else "warning"]
    console.print(examination.verdict(), style=style)


def _print_tables(console: "Console", examination: "Examination") -> None:
    guesses = ["uncertain"] * any(split.uncertain for split in examination.splits)  # in few data sets
    unknown = ["not known"] * any(split.unknown for split in examination.splits)
    titles = ("split", "images", "boxes", "ignored", *guesses, "empty", *unknown, "most images")
    rows = []
    for split in examination.splits:
        width, height, times = split.picture_sizes[0] if split.picture_sizes else (0, 0, 0)
        share = f" ({times / split.pictures:.0%})" if times < split.pictures else ""
        counts = [split.pictures, split.boxes, split.ignored, *[split.uncertain] * len(guesses)]
        counts += [split.background, *[split.unknown] * len(unknown)]
        rows.append((split.name, *(f"{count:,}" for count in counts), f"{width} x {height}{share}"))
    console.print()
    print_table(console, titles, rows, left=(0, len(titles) - 1))
    console.print()

    names = [split.name for split in examination.splits]
    classes = sorted(examination.classes, key=lambda row: -sum(row.boxes.values()))
    shown = [(row.name, *(f"{row.boxes[name]:,}" for name in names)) for row in classes[:CLASSES_SHOWN]]
    if rest := classes[CLASSES_SHOWN:]:
        sums = (sum(row.boxes[name] for row in rest) for name in names)
        shown.append((counted(len(rest), "more class"), *(f"{number:,}" for number in sums)))
    print_table(console, ("class", *names), shown)


def _print_finding(console: "Console", group: "list[Finding]") -> None:
    from rich.text import Text

    from aweigh.inspect.doctor import example_lines

    first = group[0]
    console.print()
    console.print(Text.assemble((first.severity, STYLES[first.severity]), " ", (first.kind, "bold")))
    for found in group:
        _print_indented(console, found.line(), 2)
        for line in example_lines(found, 2 if len(group) > 1 else 3):
            _print_indented(console, line, 4, "dim")
    _print_indented(console, first.advice, 2)


def _print_fit(console: "Console", fit: "Fit") -> None:
    from rich.text import Text

    console.print()
    console.print(Text.assemble((f"The objects as {fit.model} would see them", "bold"), f" ({fit.here.flags})"))
    lines = []
    if fit.size_percentiles:
        parts = ", ".join(f"{part} % under {value:.0f}" for part, value in fit.size_percentiles.items())
        lines.append(f"sizes in pixels, square root of the area: {parts}")
    if fit.levels:
        parts = ", ".join(f"{level.stride}: {100 * level.share:.0f} %" for level in fit.levels)
        lines.append(f"levels by stride, and their share of the boxes: {parts}")
    here, of = fit.here, ""
    if fit.images_measured < fit.images:
        of = f" (on {fit.images_measured:,} of {counted(fit.images, 'image')})"
    shares = (here.best_possible_recall, here.ambiguous, here.ambiguous_classes)
    if None not in shares:
        recall, ambiguous, classes = (f"{100 * (share or 0):.1f} %" for share in shares)
        lines.append(f"best possible recall {recall}, ambiguous points {ambiguous}, of different classes {classes}{of}")
    for line in [*lines, *fit.advice]:
        _print_indented(console, line, 2)


def _print_indented(console: "Console", line: str, indent: int, style: str | None = None) -> None:
    """The line, broken between words, every part of it indented; names of files are not broken.

    What cannot be printed, as a name of a file may hold it, is shown as "?".
    """
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    for part in textwrap.wrap(line, max(20, console.width - indent), break_long_words=False, break_on_hyphens=False):
        console.print(" " * indent + part, style=style, soft_wrap=True)


def _with_bar(
    splits: "dict[str, Split]", work: "Callable[[Callable[[str, int], object]], Examination]"
) -> "Examination":
    """Run `work` with a progress bar over the images of all splits."""
    done = dict.fromkeys(splits, 0)
    with bar("looking at images", sum(map(len, splits.values()))) as show:

        def tell(split: str, count: int) -> None:
            done[split] = count
            show(sum(done.values()))

        return work(tell)


def _check_places(html: Path | None, json: Path | None, fix_to: Path | None) -> None:
    """Before minutes are spent: can the files be written where they are wanted?"""
    for flag, path in (("--html", html), ("--json", json)):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            what = "is a folder, a file was expected" if path.is_dir() else "lies in no folder that exists"
            raise UsageError(f"{flag} {path}: this {what}.")
    if fix_to is not None and (fix_to.is_file() or (fix_to.is_dir() and any(fix_to.iterdir()))):
        raise UsageError(f"--fix-to {fix_to}: exists already and is not an empty folder; name a new one.")


def _write_clean(console: "Console", splits: "dict[str, Split]", examination: "Examination", out: Path) -> None:
    from aweigh.edit.clean import write_clean

    cleaned = write_clean(splits, examination, out)
    console.print()
    console.print(f"A cleaned copy in {out}; the original is as it was. What was changed:", soft_wrap=True)
    for line in cleaned.changes or ["nothing; there was nothing that is certain to be wrong"]:
        _print_indented(console, line, 2)
    if cleaned.left:
        console.print("Left as it is, for you to decide:")
        _print_indented(console, "; ".join(cleaned.left), 2)
    if not examination.decoded:
        console.print("  The images were not read, so damaged and duplicate ones are still in it.")
