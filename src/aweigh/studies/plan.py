"""What a run of a study does: which rows and seeds, with which settings, and into which folder.

A plan is kept in the folder of the run. What all rows have in common may not change once it has begun; rows and seeds
may be added.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aweigh.catalogue import detector_named
from aweigh.errors import LARGEST_NUMBER, DataError, UsageError, check_reach
from aweigh.files import read_json, write_text
from aweigh.studies.rows import backbone_config_of, build, config_of
from aweigh.studies.study import OF_THE_RUN, Part, Row, Study
from aweigh.training.backbone.config import ClassifyConfig
from aweigh.training.config import TrainConfig
from aweigh.training.recipes import find_recipe

PLAN, STUDY = "plan.json", "study.toml"
LENGTHS = {"iterations", "epochs"}
ONCE = LARGEST_NUMBER  # epochs between validations: the last one alone is validated


@dataclass(frozen=True)
class Training:
    """One training: of a row, or of several that differ in how they are measured alone."""

    folder: Path
    seed: int
    rows: tuple[Row, ...]

    def __str__(self) -> str:
        more = f" and {len(self.rows) - 1} more" if len(self.rows) > 1 else ""
        return f"{self.rows[0].name}{more}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """rows: those to run. changes: settings of the run, over those of all rows. split: to measure on; "" is val, or
    what was held out. proposals: files of them, to train and to measure on, for the rows whose detectors are told any,
    which are named in `told`. device, workers: see `TrainConfig`."""

    study: Study
    rows: tuple[Row, ...]
    data: str
    output: Path
    seeds: int = 3
    changes: Mapping[str, Any] | None = None
    split: str = ""
    proposals: tuple[str, str] = ("", "")
    told: frozenset[str] = frozenset()
    device: str = "auto"
    workers: int = -1

    def config(self, row: Row, seed: int = 0, output: Path | str = "") -> TrainConfig | ClassifyConfig:
        """What a row is trained with."""
        of_run = {"data": self.data, "seed": seed, "output": str(output)}
        of_run |= {"device": self.device, "workers": self.workers}
        changes = {**(self.changes or {}), **of_run}
        for name in LENGTHS & changes.keys():
            changes[name] = max(1, round(changes[name] * self._share(row))) if changes[name] else 0
        if row.name in self.told:
            changes |= {"proposals_file": self.proposals[0], "val_proposals_file": self.proposals[1]}
        if self.study.kind == "backbone":
            return backbone_config_of(self.study, row, changes)
        config = config_of(self.study, row, {"eval_every": ONCE, **changes})
        paper = config_of(self.study, row)
        return replace(config, steps=_in_shares(paper)) if _length(config) != _length(paper) else config

    def _share(self, row: Row) -> float:
        """The part of the budget that a row has: all of it, but where the table varies the length of the training."""
        if not any(LENGTHS & each.own.settings.keys() for each in self.study.rows):
            return 1.0
        read = backbone_config_of if self.study.kind == "backbone" else config_of
        lengths = {each.name: _length(read(self.study, each)) for each in self.study.rows}
        longest = max(lengths.values())
        return sum(lengths[row.name]) / sum(longest)

    def trainings(self) -> list[Training]:
        """Seed by seed, so that every row is there early; rows that train the same share one."""
        groups: dict[str, list[Row]] = {}
        for row in self.study.rows:  # of the whole table, so that a folder stays where it is when rows are added
            groups.setdefault(str(self.config(row)), []).append(row)
        chosen = {
            folder_name(rows[0], self.study): tuple(row for row in rows if row in self.rows) for rows in groups.values()
        }
        return [
            Training(self.output / "runs" / name / f"seed{seed}", seed, rows)
            for seed in range(self.seeds)
            for name, rows in chosen.items()
            if rows
        ]

    def to_dict(self) -> dict[str, Any]:
        """What stays as it is, as JSON can hold it."""
        equal = {"recipe": self.study.recipe, "model": self.study.equal.model, "arguments": self.study.equal.arguments}
        given = {"data": self.data, "split": self.split, "proposals": list(self.proposals)}
        return {**given, "settings": dict(self.changes or {}), **equal}

    def claim(self) -> None:
        """Keep the plan in its folder; `UsageError` where that holds another run, `DataError` for a broken plan."""
        file, text = self.output / PLAN, self.study.path.read_text(encoding="utf-8")
        mine = json.loads(json.dumps({"study": self.study.name, **self.to_dict()}))
        if not file.exists():
            if any(path.name not in ("lock", STUDY) for path in self.output.iterdir()):
                raise UsageError(f"{self.output} holds something else already; give another output.")
            write_text(self.output / STUDY, text)
            write_text(file, json.dumps(mine, indent=2) + "\n")
            return
        theirs = read_json(file)
        if not isinstance(theirs, dict):
            raise DataError(f"{file}: expected a plan of `aweigh study run`.")
        different = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
        if different:
            name = different[0]
            raise UsageError(
                f"{self.output} was begun with {name} = {theirs.get(name)!r}, asked is {mine.get(name)!r}; rows and "
                "seeds may be added, for anything else give another output."
            )
        if (self.output / STUDY).read_text(encoding="utf-8") != text:
            raise UsageError(f"{self.study.path} has changed since {self.output} was begun; give another output.")


def changed_equally(
    study: Study, *, model: str = "", arguments: Mapping[str, Any] | None = None, recipe: str = "", size: int = 0
) -> Study:
    """The study with another model, recipe, or further arguments for all rows; `UsageError` where rows vary these.

    size: the side of the square image that rows are counted for.
    """
    if model:
        detector_named(model)
    given = {"model": model, "arguments": set(arguments or {})}
    for row in study.rows:
        if (model and row.own.model) or given["arguments"] & row.own.arguments.keys():
            what = "model" if model and row.own.model else "arguments"
            raise UsageError(f"Row {row.name!r} of {study.name} changes {what} that is given for all; leave it out.")
    if recipe:
        find_recipe(recipe)
    over = Part(model, arguments or {}, {}, {}, {})
    cost = replace(study.cost, size=(size, size)) if size else study.cost
    return replace(study, equal=over.over(study.equal), recipe=recipe or study.recipe, cost=cost)


def make_plan(
    study: Study,
    data: str,
    output: Path,
    *,
    rows: Sequence[str] = (),
    steps: int = 0,
    epochs: int = 0,
    size: int = 0,
    batch: int = 0,
    settings: Mapping[str, Any] | None = None,
    **rest: Any,
) -> Plan:
    """A plan whose rows can all be built; `UsageError` where what is given for all rows is what one of them varies.

    steps, epochs: the length of each training; the study's where neither is given. size: the long side of images (of a
    backbone the side of its input). settings: further ones, by name. rest: fields of `Plan`.
    """
    if study.kind == "cost":
        raise UsageError(f"{study.name} trains nothing: aweigh study cost {study.name}")
    if steps and epochs:
        raise UsageError(f"steps = {steps} and epochs = {epochs} are both given; a training has one length.")
    chosen = study.chosen(rows)
    changes = dict(settings or {})
    if refused := [name for name in changes if name in OF_THE_RUN and name not in ("init", "val_split", "classes")]:
        raise UsageError(f"{refused[0]} is no setting of all rows; see the flags of aweigh study run.")
    changes |= {"iterations": steps} if steps else {"epochs": epochs, "iterations": 0} if epochs else {}
    if size:
        changes |= {"size": size} if study.kind == "backbone" else {"short": 0, "long": size}
    changes |= {"batch": batch} if batch else {}
    for row in chosen:
        if varied := sorted((changes.keys() - LENGTHS) & row.own.settings.keys()):
            raise UsageError(f"Row {row.name!r} of {study.name} varies {varied[0]}; leave it out for all rows.")
    if steps and len({study.whole(row).settings.get("batch") for row in chosen}) > 1:
        raise UsageError(
            f"The rows of {study.name} differ in batch: with equal steps one would see more images; give epochs."
        )
    plan = Plan(study, chosen, data, output, changes=changes, **rest)
    if study.kind == "assignment":
        plan = replace(plan, seeds=1)
    check_reach("seed", plan.seeds)
    if plan.seeds < 1:
        raise UsageError(f"seeds = {plan.seeds}: expected a number above 0.")
    networks = {row.name: build(study, row) for row in chosen}
    told = frozenset(name for name, network in networks.items() if getattr(network, "needs_proposals", False))
    if told and not plan.proposals[0]:
        raise UsageError(f"Row {min(told)!r} of {study.name} proposes no regions itself: give --proposals-file.")
    plan = replace(plan, told=told)
    for row in chosen:
        plan.config(row)
    return plan


def folder_name(row: Row, study: Study) -> str:
    """Its place in the table and its name, in letters that every file system takes."""
    names = [each.name for each in study.rows]
    return f"{names.index(row.name) + 1:02d}-{re.sub(r'[^a-z0-9]+', '-', row.name.lower()).strip('-') or 'row'}"[:60]


def _length(config: TrainConfig | ClassifyConfig) -> tuple[int, int]:
    return config.iterations, 0 if config.iterations else config.epochs


def _in_shares(config: TrainConfig) -> tuple[float, ...]:
    """Where schedule `step` falls, as shares of the run, so that they keep their place in one of another length."""
    whole = config.iterations or config.epochs
    return tuple(step / whole if step > 1 else step for step in config.steps)
