"""Imports point one way: the table of CONTRIBUTING.md, enforced on every import, those inside functions included."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import aweigh

PACKAGE = Path(aweigh.__file__).parent

# The row of each part. A part may import any lower row, and itself.
ROWS = {
    "ops": 0,
    "errors": 0,
    "arguments": 0,
    "structures": 1,
    "weights": 1,
    "layers": 1,
    "results": 1,
    "backbones": 2,
    "necks": 2,
    "heads": 2,
    "data": 3,
    "evaluation": 3,
    "visualise": 3,
    "models": 4,
    "engine": 5,
    "export": 5,
    "predictor": 5,
    "profiling": 5,
    "cli": 6,
    "serving": 6,
}
# What the rows alone would not say. None: everything below.
ONLY = {
    "ops": {"errors"},
    "errors": set(),
    "arguments": {"errors"},
    "structures": {"ops", "errors", "arguments"},
    "weights": {"ops", "errors", "structures"},
    "layers": {"ops", "errors", "arguments"},
    "results": {"errors"},
    "data": {"structures", "results", "ops", "errors"},
    "evaluation": {"structures", "results", "ops", "errors"},
    "visualise": {"structures", "ops", "errors"},
    "models": {"backbones", "necks", "heads", "structures", "weights", "layers", "ops", "errors", "arguments"},
    "runtime": set(),
}
# Within one row: `aweigh.load` reads a checkpoint, which is the engine's file.
WITHIN_A_ROW = {("predictor", "engine"), ("weights", "structures"), ("ops", "errors"), ("arguments", "errors")}
# A model may import another where it is an extension of it.
EXTENSIONS: set[tuple[str, str]] = {
    ("fcos_lite", "fcos"),
    ("fast_rcnn", "faster_rcnn"),
    ("mask_rcnn", "faster_rcnn"),
    ("keypoint_rcnn", "faster_rcnn"),
    ("centernet_pose", "centernet"),
    ("centernet_3d", "centernet"),
    ("light_head_rcnn", "faster_rcnn"),
    ("fcos_rpn", "faster_rcnn"),
    ("fcos_rpn", "fcos"),
    ("centernet_triplets", "cornernet"),
}
# The package itself (its version, its lazily found names) belongs to every part but the free-standing runtime.


def test_every_import_points_down() -> None:
    wrong = [
        f"{file.relative_to(PACKAGE.parent)}:{line} imports {target}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for line, target in imports(file)
        if not allowed(file.relative_to(PACKAGE).with_suffix("").parts, target)
    ]
    assert not wrong, "imports against the table of CONTRIBUTING.md:\n" + "\n".join(wrong)


def test_every_part_has_a_row() -> None:
    parts = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if not path.name.startswith(("_", "."))}
    unknown = {part for part in parts if (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").exists()} - {"recipes"}
    assert unknown <= {*ROWS, "runtime"}


@pytest.mark.parametrize(
    ("importer", "target", "expected"),
    [
        (("models", "fcos"), "aweigh.ops.boxes", True),
        (("models", "fcos"), "aweigh.data.dataset", False),
        (("models", "retinanet"), "aweigh.models.fcos", False),
        (("models", "__init__"), "aweigh.models.fcos", True),
        (("ops", "losses"), "aweigh.ops.boxes", True),
        (("ops", "boxes"), "aweigh.structures", False),
        (("necks", "fpn"), "aweigh.backbones.timm", False),
        (("data", "loader"), "aweigh.models", False),
        (("predictor",), "aweigh.engine.checkpoint", True),
        (("engine", "train"), "aweigh.predictor", False),
        (("engine", "train"), "aweigh.cli.main", False),
        (("cli", "predict"), "aweigh.engine.train", True),
        (("runtime", "onnx"), "aweigh.errors", False),
        (("runtime", "onnx"), "torch", False),
        (("models", "fcos"), "torch", True),
    ],
)
def test_the_rule_itself(importer: tuple[str, ...], target: str, expected: bool) -> None:
    assert allowed(importer, target) is expected


def test_function_level_imports_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "sample.py"
    file.write_text("import os\ndef f():\n    from aweigh.cli import main\n    import aweigh.data.images\n")
    assert list(imports(file)) == [(1, "os"), (3, "aweigh.cli.main"), (4, "aweigh.data.images")]


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
    if part == "runtime":
        return names[0] not in {"aweigh", "torch", "torchvision"}
    if part.startswith("__") or names[0] != "aweigh" or len(names) == 1 or names[1] not in ROWS:
        return True
    other = names[1]
    if part == other == "models" and importer[1] != "__init__" and len(names) > 2:
        return names[2] == importer[1] or (importer[1], names[2]) in EXTENSIONS
    if part == other or (part, other) in WITHIN_A_ROW:
        return True
    return ROWS[other] < ROWS[part] and other in ONLY.get(part, ROWS)
