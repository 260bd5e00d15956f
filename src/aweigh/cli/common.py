"""What several commands share: one-line texts, the screen, recipes by name."""

from pathlib import Path
from typing import TYPE_CHECKING

from aweigh.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console


def one_line(text: str) -> str:
    """The text with every run of white space, line ends included, as one space."""
    return " ".join(text.split())


def find_recipe(name: str) -> Path:
    """The file of a recipe, given as a path or as the name of one that comes with the package."""
    if Path(name).is_file():
        return Path(name)
    known = packaged_recipes()
    stem = name.removesuffix(".toml")
    if stem in known:
        return known[stem]
    raise UsageError(
        f"There is no recipe {name!r}: neither a file of that path nor one of {', '.join(known) or 'none'}."
        f"{did_you_mean(stem, known)}"
    )


def packaged_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name: in an installed one inside it, in a clone at its top."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "recipes", package.parents[1] / "recipes"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.toml"))}
    return {}


def log() -> "Console":
    """The console for progress and remarks: the error stream, so that the output stream carries results alone."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)
