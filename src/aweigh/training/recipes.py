"""The recipes that come with the package, and which of them hold the settings that a detector was measured with.

This file imports no torch.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aweigh.errors import UsageError, did_you_mean

# Detectors whose settings were measured on people's own data, and the recipe that holds them: these are what a run of
# that detector has where nothing else is said. The recipes for COCO and KITTI are no such defaults: they are as long
# as these data sets are large, and fetch weights.
MEASURED = {"fcos_shufflenet_v2_x1_0_lite": "lite"}


def recipes_folder() -> Path:
    """Where the recipes lie that come with the package: in an installed one inside it, in a clone at its top."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parents[1] / "recipes"


def packaged_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(recipes_folder().glob("*.toml"))}


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


def recipes_for(model: str) -> list[str]:
    """The names of the recipes that come with the package and train this detector, as they are or, as a command in
    their header says, with `--model`."""
    named = re.compile(rf'^model = "{re.escape(model)}"$|^#   aweigh train .* --model {re.escape(model)}( |$)', re.M)
    return [name for name, path in packaged_recipes().items() if named.search(path.read_text(encoding="utf-8"))]


def other_recipes(model: str, origin: Mapping[str, str]) -> str:
    """One line on the recipes of a detector of which none was taken; nothing where one was, or where there is none."""
    named = recipes_for(model) if set(origin.values()) <= {"default", "command line"} else []
    if not named:
        return ""
    return f"settings: the general ones; recipes that come with aweigh and train {model}: {', '.join(named)}"


def from_this_start(own: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """A detector's measured settings as they suit the start that was chosen for it.

    own: the settings. chosen: the values that go before them. Random weights have no statistics that a normalisation
    could keep, and nothing that a stage could stay as: both are the detector's own then.
    """
    random = chosen.get("init") == "none" and chosen.get("backbone_weights", "none") in ("", "none")
    return {name: value for name, value in own.items() if not (random and name in ("backbone_norm", "frozen_stages"))}


def check_length(
    recipe: Mapping[str, Any], given: Mapping[str, Any], recipe_name: str, *, resumed: bool = False
) -> None:
    """A run is as long as `iterations` says, else as `epochs` says: `UsageError` where the other one is asked for."""
    asked = [name for name in ("epochs", "iterations") if name in given]
    if len(asked) == 2 and given["iterations"] != 0:
        raise UsageError(
            f"epochs = {given['epochs']} and iterations = {given['iterations']} are both given; a run has one length: "
            "leave one of them out."
        )
    steps = recipe.get("iterations", 0)
    if asked == ["epochs"] and steps:
        raise UsageError(
            f"epochs = {given['epochs']} would change nothing: {recipe_name} counts in optimiser steps (iterations = "
            f"{steps}). Give --iterations N for a run of N steps in all"
            + ("." if resumed else f", or --iterations 0 --epochs {given['epochs']} to count in epochs.")
        )
    if resumed and not steps and given.get("iterations"):
        raise UsageError(
            f"iterations = {given['iterations']}: {recipe_name} counts in epochs (epochs = "
            f"{recipe.get('epochs')}). Give --epochs N for a run of N epochs in all."
        )
