"""A study: a table of a paper as a TOML file of rows, each of which says what it changes, with the paper's numbers.

`recipes/studies/README.md` says how such a file is written. Those that come with the package are called by paper and
table, as `fcos/4`; any other by its path. What a row gives is laid over what all rows have (`equal`), name by name.
Whether a builder takes the arguments of a row is seen where it is built (`rows.py`): this file imports no torch.
"""

import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from aweigh.arguments import check_value
from aweigh.catalogue import DEFAULT_MODEL, detectors
from aweigh.errors import UsageError, did_you_mean
from aweigh.images.resize import Resize
from aweigh.runtime.tta import TTA
from aweigh.studies.figures import FIGURES
from aweigh.training.backbone.config import ClassifyConfig
from aweigh.training.config import TrainConfig
from aweigh.training.recipes import find_recipe, recipes_folder
from aweigh.training.settings import load_recipe, put_together

Kind = Literal["detector", "backbone", "evaluation", "assignment", "cost"]
# What a study of each kind needs, in the words of `aweigh study list`.
NEEDS: dict[str, str] = {
    "detector": "trains a detector for each row",
    "backbone": "trains a backbone for each row",
    "evaluation": "trains one detector",
    "assignment": "no training",
    "cost": "no training, no data",
}
# Settings that a run of a study decides, not its file.
OF_THE_RUN = ("data", "annotations", "images", "classes", "output", "resume", "seed", "device", "workers", "model",
              "arguments", "init", "licence", "tensorboard", "val_split")  # fmt: skip
TEXTS = ("title", "paper", "table", "varies", "kind")


@dataclass(frozen=True)
class Part:
    """What a row gives, or all rows do: of each only what is given.

    model: of `aweigh models`. arguments: of its builder. settings: of `aweigh train`, or of a backbone's training where
    the study is of that kind. selection: thresholds and counts of the trained detector. views: the size and test-time
    augmentation it is measured with, `resize` and the fields of `TTA`.
    """

    model: str
    arguments: Mapping[str, Any]
    settings: Mapping[str, Any]
    selection: Mapping[str, Any]
    views: Mapping[str, Any]

    def over(self, below: "Part") -> "Part":
        """This laid over another."""
        return Part(
            self.model or below.model,
            {**below.arguments, **self.arguments},
            {**below.settings, **self.settings},
            {**below.selection, **self.selection},
            {**below.views, **self.views},
        )


@dataclass(frozen=True)
class Row:
    """A line of the table. own: what it changes. paper: the paper's numbers as printed, by names of `FIGURES`."""

    name: str
    own: Part
    paper: Mapping[str, float]


@dataclass(frozen=True)
class CostOf:
    """What the table counts. size: of the image, height and width; when not given, `short` and `long` of the settings,
    which may differ by row, else 800 x 1344, and 224 x 224 of backbones. part: of the detector, as neck; all of it when
    not given. relative_to: the row that ratios are taken to, the first when not given."""

    size: tuple[int, int] | None = None
    part: str = ""
    relative_to: str = ""


@dataclass(frozen=True)
class Study:
    """A table. name: what it is called. metric: the figure by which its rows are ordered. recipe: values that settings
    are laid over. notes: where it differs from the paper."""

    name: str
    path: Path
    title: str
    paper: str
    table: str
    varies: str
    kind: Kind
    metric: str
    notes: tuple[str, ...]
    recipe: str
    equal: Part
    rows: tuple[Row, ...]
    cost: CostOf

    def whole(self, row: Row) -> Part:
        """All that a row is built, trained and measured with."""
        return row.own.over(self.equal)

    def image_hw(self, row: Row) -> tuple[int, int]:
        """Of the image that a row is counted for."""
        if self.cost.size:
            return self.cost.size
        sides = self.whole(row).settings
        if self.kind == "backbone":
            return (sides.get("size", 224),) * 2
        return (sides.get("short") or sides["long"], sides["long"]) if "long" in sides else (800, 1344)

    def chosen(self, names: Collection[str]) -> tuple[Row, ...]:
        """The rows of these names in the order of the table, all where there are none; `UsageError` for another."""
        _known(names, [row.name for row in self.rows], str(self.path), what="row")
        return tuple(row for row in self.rows if not names or row.name in names)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: what it varies and needs, and each row with what it changes and the paper's numbers."""
        rows = [{"name": row.name, **_given(row.own), "paper": dict(row.paper)} for row in self.rows]
        texts = {key: getattr(self, key) for key in ("name", *TEXTS, "metric")}
        return {**texts, "notes": list(self.notes), "needs": NEEDS[self.kind], "rows": rows}


def _given(part: Part) -> dict[str, Any]:
    """What a part gives, without what it does not."""
    return {name: value for name, value in asdict(part).items() if value}


def packaged_studies() -> dict[str, Path]:
    """The studies that come with the package, by name (`"fcos/4"`)."""
    folder = recipes_folder() / "studies"
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.glob("*/*.toml"))}


def find_study(name: str) -> Study:
    """The study of a file, or one that comes with the package."""
    if Path(name).is_file():
        return load_study(Path(name))
    known = packaged_studies()
    if name not in known:
        raise UsageError(
            f"There is no study {name!r}: neither a file of that path nor one that comes with aweigh."
            f"{did_you_mean(name, known)} `aweigh study list` lists them."
        )
    return load_study(known[name], name)


def load_study(path: Path, name: str = "") -> Study:
    """The study of a file, checked; `UsageError` names the file, the row and what was expected."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"The study {path} cannot be read: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"The study {path} is not valid TOML: {error}.") from error
    where = str(path)
    _known(values, (*TEXTS, "metric", "notes", "equal", "cost", "rows"), where)
    for key in TEXTS:
        if not isinstance(values.get(key), str) or not values[key]:
            raise UsageError(f"{where}: {key} = {values.get(key)!r}: expected a text.")
    kind: Kind = check_value("kind", values["kind"], Kind, of=where)
    metric = values.get("metric", "top1_error" if kind == "backbone" else "AP")
    _known([metric], FIGURES, where, what="metric")
    equal = _table(values, "equal", where)
    recipe = _recipe(kind, equal.pop("recipe", ""), where)
    shared = _part(kind, equal, f"{where}, equal")
    rows = tuple(_rows(kind, values.get("rows"), shared, where))
    return Study(
        name=name or path.stem,
        path=path,
        **{key: values[key] for key in TEXTS if key != "kind"},
        kind=kind,
        metric=metric,
        notes=check_value("notes", values["notes"], tuple[str, ...], of=where) if "notes" in values else (),
        recipe=recipe,
        equal=shared,
        rows=rows,
        cost=_cost(_table(values, "cost", where), rows, f"{where}, cost"),
    )


def _rows(kind: Kind, given: Any, shared: Part, where: str) -> Iterator[Row]:
    if not isinstance(given, list) or not given or not all(isinstance(each, dict) for each in given):
        raise UsageError(f"{where}: expected rows, each a table that begins with [[rows]].")
    names: list[str] = []
    for number, values in enumerate(given, start=1):
        name = values.pop("name", None)
        if not isinstance(name, str) or not name:
            raise UsageError(f"{where}, row {number}: name = {name!r}: expected a text.")
        if name in names:
            raise UsageError(f"{where}: rows {names.index(name) + 1} and {number} are both called {name!r}.")
        names.append(name)
        of = f"{where}, row {name!r}"
        paper = _table(values, "paper", of)
        values.pop("paper", None)
        _known(paper, FIGURES, of, what="figure of the paper")
        figures = {figure: check_value(figure, number, float, of=of) for figure, number in paper.items()}
        own = _part(kind, values, of)
        if kind == "evaluation" and (own.model or own.arguments or own.settings):
            raise UsageError(f"{of}: a study of kind evaluation trains one detector: expected selection or views only.")
        yield Row(name, _whole_is_right(kind, own, shared, of), figures)


def _part(kind: Kind, values: dict[str, Any], where: str) -> Part:
    """What is given, each name known and each value of its type."""
    _known(values, [entry.name for entry in fields(Part)], where)
    model = check_value("model", values.get("model", ""), str, of=where)
    if kind == "backbone" and (model or values.get("arguments") or values.get("selection") or values.get("views")):
        raise UsageError(f"{where}: a study of kind backbone has settings alone, those of `aweigh train-backbone`.")
    if model:
        _known([model], [row["name"] for row in detectors()], where, what="model")
    parts = {key: _table(values, key, where) for key in ("arguments", "settings", "selection", "views")}
    if refused := [name for name in parts["settings"] if name in OF_THE_RUN]:
        raise UsageError(
            f"{where}: settings.{refused[0]} is none of a study's: the model and its arguments stand beside settings, "
            "and the rest is said where it is run."
        )
    return Part(model, **parts)


def _whole_is_right(kind: Kind, own: Part, shared: Part, where: str) -> Part:
    """The part, whose settings and views go together with those of all rows."""
    whole = own.over(shared)
    if kind == "backbone":
        put_together(ClassifyConfig, (where, whole.settings))
    else:
        put_together(TrainConfig, (where, {"model": whole.model or DEFAULT_MODEL, **whole.settings}))
    checked_views(whole.views, where)
    return own


def checked_views(views: Mapping[str, Any], where: str = "") -> tuple[str, TTA]:
    """How images are looked at: another size than in training, as `aweigh eval --resize` has it ("" is none), and
    test-time augmentation."""
    hints = {"resize": str, **get_type_hints(TTA)}
    _known(views, hints, where, what="view")
    looks = {name: check_value(name, value, hints[name], of=where) for name, value in views.items()}
    resize = looks.pop("resize", "")
    if resize:
        Resize().with_size(resize)
    return resize, TTA(**looks)


def _recipe(kind: Kind, name: Any, where: str) -> str:
    """The recipe, which is there and can be read."""
    recipe: str = check_value("recipe", name, str, of=f"{where}, equal")
    if recipe:
        load_recipe(ClassifyConfig if kind == "backbone" else TrainConfig, find_recipe(recipe))
    return recipe


def _cost(values: dict[str, Any], rows: tuple[Row, ...], where: str) -> CostOf:
    _known(values, [entry.name for entry in fields(CostOf)], where)
    hints = {"size": tuple[int, int], "part": str, "relative_to": str}
    cost = CostOf(**{name: check_value(name, value, hints[name], of=where) for name, value in values.items()})
    if cost.relative_to:
        _known([cost.relative_to], [row.name for row in rows], where, what="row")
    return cost


def _table(values: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """The table of that name, empty where there is none."""
    found = values.get(key, {})
    if not isinstance(found, dict):
        raise UsageError(f"{where}: {key} = {found!r}: expected a table, as {{ name = value }}.")
    return dict(found)


def _known(names: Collection[Any], known: Collection[str], where: str, *, what: str = "key") -> None:
    """`UsageError` for a name that is none of those."""
    for name in names:
        if name not in known:
            raise UsageError(
                f"{where}: unknown {what} {name!r}; known: {', '.join(known)}.{did_you_mean(str(name), known)}"
            )
