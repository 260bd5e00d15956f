"""Imports point one way: the table of CONTRIBUTING.md, enforced on every import, those inside functions included."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import aweigh

PACKAGE = Path(aweigh.__file__).parent

TABLE = re.compile(r"^\| `([a-z_]+)` \| (.+) \|$", re.MULTILINE)


def table() -> dict[str, set[str]]:
    """The parts, each with those that it may import, as CONTRIBUTING.md has them."""
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows: dict[str, set[str]] = {}
    for part, said in TABLE.findall(text):
        rows[part] = set(rows) if said == "everything above" else {"errors", *re.findall(r"`([a-z_]+)`", said)}
    return rows


MAY_IMPORT = table()
# A model may import another where it is an extension of it.
EXTENSIONS: set[tuple[str, str]] = {
    ("fcos_forms", "fcos"),
    ("fcos_lite", "fcos"),
    ("faster_rcnn_forms", "faster_rcnn"),
    ("fast_rcnn", "faster_rcnn_forms"),
    ("mask_rcnn", "faster_rcnn_forms"),
    ("keypoint_rcnn", "faster_rcnn_forms"),
    ("keypoint_rcnn", "mask_rcnn"),
    ("centernet_pose", "centernet"),
    ("centernet_3d", "centernet"),
    ("light_head_rcnn", "faster_rcnn"),
    ("fcos_rpn", "faster_rcnn_forms"),
    ("fcos_rpn", "fcos"),
    ("fcos_rpn", "fcos_forms"),
    ("centernet_triplets", "cornernet"),
}
EVERY_MODEL = {"builders", "detector"}  # imports them
# The package, `Detections` and `METRICS`; `verbs` imports packages that are not ours.
BY_NAME = {"__init__.py", "detections.py", "evaluation/metrics.py", "verbs.py"}
LONGEST = 500  # lines of a file
CATALOGUES = {"models", "layouts", "cli", "backbones", "results"}


def test_every_import_points_down() -> None:
    wrong = [
        f"{file.relative_to(PACKAGE.parent)}:{line} imports {target}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for line, target in imports(file)
        if not allowed(file.relative_to(PACKAGE).with_suffix("").parts, target)
    ]
    assert not wrong, "imports against the table of CONTRIBUTING.md:\n" + "\n".join(wrong)


def test_the_table_points_up_and_has_every_part() -> None:
    above: set[str] = {"errors"}
    for part, imported in MAY_IMPORT.items():
        assert imported <= above, f"{part} imports what stands below it: {imported - above}"
        above.add(part)
    parts = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if not path.name.startswith(("_", "."))}
    assert set(MAY_IMPORT) == {
        part for part in parts if (PACKAGE / part / "__init__.py").exists() or (PACKAGE / f"{part}.py").exists()
    }


def test_the_drawing_of_the_house_has_every_part_in_its_half() -> None:
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn = re.findall(r"^  ([a-z_]+)(?:/|\.py) ", text, re.MULTILINE)
    assert sorted(drawn) == sorted({*MAY_IMPORT, "__init__"})
    torch_half = text[text.index("-- the torch half") : text.index("recipes/ ")]
    below = text[text.index("| **the torch half** | |") :]
    assert {*re.findall(r"^  ([a-z_]+)(?:/|\.py) ", torch_half, re.MULTILINE)} == {
        part for part, _ in TABLE.findall(below) if part in MAY_IMPORT
    }


def test_the_table_allows_nothing_that_nobody_imports() -> None:
    used = {
        (file.relative_to(PACKAGE).with_suffix("").parts[0], target.split(".")[1])
        for file in PACKAGE.rglob("*.py")
        for _, target in imports(file)
        if target.startswith("aweigh.")
    }
    idle = {
        (part, other)
        for part, row in MAY_IMPORT.items()
        if part != "cli"
        for other in row - {"errors"}
        if (part, other) not in used
    }
    assert not idle


def test_no_folder_is_a_corridor() -> None:
    """Catalogues hold one file an entry, other folders at most twelve."""
    long = {
        folder.relative_to(PACKAGE).as_posix(): len(files)
        for folder in PACKAGE.rglob("*")
        if folder.is_dir() and len(files := list(folder.glob("[!_]*.py"))) > 12
    }
    assert set(long) <= CATALOGUES, long


def test_no_file_is_long() -> None:
    lines = {file.relative_to(PACKAGE).as_posix(): len(file.read_text().splitlines()) for file in PACKAGE.rglob("*.py")}
    assert not {name: count for name, count in lines.items() if count > LONGEST}


def test_what_is_imported_by_its_name_is_listed() -> None:
    """CONTRIBUTING.md says which modules do it: such an import is none that the table sees."""
    named = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__"))
    }
    assert named == BY_NAME


def test_no_modules_import_each_other_in_a_circle() -> None:
    files = {module_of(file): file for file in PACKAGE.rglob("*.py")}
    targets = {
        module: {
            found for _, target in imports(file) if (found := nearest(target, files)) not in (module, "aweigh", "")
        }
        for module, file in files.items()
    }
    while targets:  # what imports nothing that is left belongs to no circle, and goes
        free = {module for module, imported in targets.items() if not imported & targets.keys()}
        assert free, f"modules in a circle, or above one: {sorted(targets)}"
        targets = {module: imported for module, imported in targets.items() if module not in free}


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def nearest(target: str, modules: Mapping[str, Path]) -> str:
    """The module that an import is of: a name may be one, or stand in one."""
    return next((name for name in (target, target.rpartition(".")[0]) if name in modules), "")


@pytest.mark.parametrize(
    ("importer", "target", "expected"),
    [
        (("models", "fcos"), "aweigh.ops.boxes", True),
        (("models", "fcos"), "aweigh.feeding.dataset", False),
        (("models", "retinanet"), "aweigh.models.fcos", False),
        (("models", "__init__"), "aweigh.models.fcos", True),
        (("ops", "losses"), "aweigh.ops.boxes", True),
        (("ops", "boxes"), "aweigh.structures", False),
        (("necks", "fpn"), "aweigh.backbones.timm", False),
        (("feeding", "loader"), "aweigh.models", False),
        (("predictor",), "aweigh.checkpoints.checkpoint", True),
        (("training", "train"), "aweigh.predictor", False),
        (("training", "train"), "aweigh.cli.main", False),
        (("cli", "predict"), "aweigh.training.train", True),
        (("models", "fcos"), "torch", True),
    ],
)
def test_the_rule_itself(importer: tuple[str, ...], target: str, expected: bool) -> None:
    assert allowed(importer, target) is expected


def test_function_level_imports_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "sample.py"
    file.write_text("import os\ndef f():\n    from aweigh.cli import main\n    import aweigh.images.reader\n")
    assert list(imports(file)) == [(1, "os"), (3, "aweigh.cli.main"), (4, "aweigh.images.reader")]


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a file imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports name the package in full"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def allowed(importer: tuple[str, ...], target: str) -> bool:
    """Whether the module `importer` (its path inside the package) may import `target`."""
    part, names = importer[0], target.split(".")
    if part.startswith("__") or names[0] != "aweigh" or len(names) == 1 or names[1] not in MAY_IMPORT:
        return True
    other = names[1]
    if part == other == "models" and importer[1] != "__init__" and len(names) > 2:
        return names[2] in {importer[1], *EVERY_MODEL} or (importer[1], names[2]) in EXTENSIONS
    return part == other or other in MAY_IMPORT[part]
