"""The light half needs no torch: its modules are imported, and its commands run, where nothing of the torch half is.

One process does all of it, in which torch, torchvision, timm, safetensors and matplotlib cannot be imported.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.runtime.toy_graphs import header, toy_graph
from tests.scenes_on_disk import entry, scene, write_coco

from aweigh.catalogue import detectors
from aweigh.errors import EXTRAS
from aweigh.studies.results import Results
from aweigh.studies.study import find_study

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "aweigh"
# Below the torch half in the table, since they call it: they import it when they are asked for what needs it.
CALLERS = {"predictor", "commands", "cluster", "cli"}

SCRIPT = """
import contextlib, importlib, importlib.abc, io, json, sys, traceback
hidden, modules, commands = json.loads(sys.stdin.read())

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
failed = {}
for name in modules:
    try:
        importlib.import_module(name)
    except Exception:
        failed[name] = traceback.format_exc()
from aweigh.cli.main import run
ended = []
for words in commands:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = run(words)
        except BaseException:
            code = traceback.format_exc()
    ended.append([code, out.getvalue(), err.getvalue()])
print(json.dumps([failed, ended]))
"""


def light_modules() -> list[str]:
    """Those of the parts that the table of CONTRIBUTING.md calls the light half, and what calls both halves."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    light = text[text.index("| **the light half**") : text.index("| **the torch half**")]
    parts = {*re.findall(r"^\| `([a-z_]+)` \|", light, re.MULTILINE), *CALLERS}
    files = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).with_suffix("").parts[0] in parts]
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in files]
    return sorted(name.removesuffix(".__init__") for name in names)


def without_torch(modules: list[str], commands: list[list[str]]) -> tuple[dict[str, str], list[list[str]]]:
    """The modules that cannot be imported, with why; and how each command ends, and what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([[*EXTRAS], modules, commands]), capture_output=True, text=True, check=True,
    )  # fmt: skip
    failed, ended = json.loads(done.stdout)
    return failed, ended


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split, first in (("train", 0), ("val", 3)):
        rows = [entry(n + 1, n + 1, [10 + n, 20, 40, 30]) for n in range(3)]
        write_coco(folder, split, {f"{split}{n}.jpg": scene(first + n) for n in range(3)}, rows)
    return folder


def test_the_light_half_needs_no_torch(data: Path, tmp_path: Path) -> None:
    checkpoint = str(PACKAGE / "weights" / "box" / "fcos_shufflenet_v2_x1_0_lite.safetensors")
    results = tmp_path / "results.json"
    found = {"image_id": 1, "category_id": 1, "bbox": [10, 20, 40, 30], "score": 0.9, "file_name": "val0.jpg"}
    results.write_text(json.dumps([found]))
    (tmp_path / "study").mkdir()
    study = find_study("fcos/4")
    paper = {row.name: row.paper for row in study.rows}
    Results(study.to_dict(), {"data": "x", "settings": {}, "seeds": 1}, paper).write(tmp_path / "study")
    commands = [
        ["--help"],
        ["models"],
        ["models", "fcos", "--json"],
        ["info", checkpoint],
        ["data", "check", str(data)],
        ["data", "check", str(data), "--no-pictures", "--html", str(tmp_path / "report.html")],
        ["data", "convert", str(data), "--to", "yolo", "--out", str(tmp_path / "yolo")],
        ["data", "merge", str(data), str(data), "--out", str(tmp_path / "merged")],
        ["predict", "--help"],
        ["train", "--help"],
        ["eval", "--help"],
        ["eval", str(results), str(data)],
        ["config", "show"],
        ["study", "list"],
        ["study", "list", "--json"],
        ["study", "show", str(tmp_path / "study")],
        ["predict", "--sample", "-o", str(tmp_path / "out")],
        ["predict", "--sample", "--nms", "soft", "--set", "max_detections=3", "-o", str(tmp_path / "soft")],
    ]
    photo = str(next(data.rglob("*.jpg")))
    cat = {"names": ["left hand", "cat", "dog"], "ids": [3, 1, 2]}
    graph = str(toy_graph(tmp_path / "toy.onnx", said=header(classes=cat)))
    takes = {"inputs": ("images", "sizes_hw", "proposals"), "said": header({"needs_proposals": True}, classes=cat)}
    told = str(toy_graph(tmp_path / "told.onnx", **takes))
    proposals = str(tmp_path / "val.safetensors")
    commands += [
        ["info", graph],
        ["predict", photo, "--model", graph, "-o", str(tmp_path / "out"), "--tta", "flip"],
        ["eval", graph, str(data), "--json", str(tmp_path / "numbers.json")],
        ["eval", graph, str(data), "--picture", str(tmp_path / "found.png"), "--tta", "flip,multiscale"],
        ["eval", graph, str(data), "--proposals"],
        ["proposals", graph, str(data), "--split", "val", "-o", proposals],
        ["eval", told, str(data), "--proposals-file", proposals],
        [
            *("data", "complete", str(data), "--with", str(results), "--own-ids"),
            *("--categories", graph, "--split", "val", "--out", str(tmp_path / "completed")),
        ],
    ]
    needing = [
        ["data", "check", str(data), "--model", "foveabox_resnet18_fpn"],
        ["eval", checkpoint, str(data)],
        ["predict", photo, "--model", checkpoint, "-o", str(tmp_path / "out")],
        ["predict", photo, "--model", "fcos_resnet50_fpn", "-o", str(tmp_path / "out")],
        ["predict", "--sample", "--runtime", "torch", "-o", str(tmp_path / "out")],
        ["predict", "--sample", "--set", "score_threshold=0.3", "-o", str(tmp_path / "out")],
        ["proposals", checkpoint, str(data), "-o", str(tmp_path / "proposals.safetensors")],
        ["train", str(data), "--output", str(tmp_path / "run")],
        ["train-backbone", str(data)],
        ["resume", str(tmp_path)],
        ["debug", str(tmp_path)],
        ["average", checkpoint, checkpoint, "-o", str(tmp_path / "mean.safetensors")],
        ["shrink", checkpoint, "-o", str(tmp_path / "small.safetensors")],
        ["profile", "cost", "box"],
        ["profile", "reuse", "box", "-o", str(tmp_path / "reuse.png")],
        [
            "data",
            "complete",
            str(data),
            "--with",
            str(results),
            "--categories",
            "retinanet_resnet50_fpn",
            "--out",
            "all",
        ],
    ]
    modules = light_modules()
    assert {"aweigh.errors", "aweigh.inspect.fit", "aweigh.results.coco", "aweigh.cli.main"} <= {*modules}
    assert not [name for name in modules if name.startswith("aweigh.models")]
    failed, ended = without_torch(modules, [*commands, *needing])
    assert not failed, "\n".join(failed.values())
    for words, (code, out, err) in zip(commands, ended):
        assert code == 0 and (out or err or words[1:2] == ["convert"]), (words, code, out, err)
    told = 'which is not installed: pip install "aweigh[train]"'
    asked = [(words, code, err) for words, (code, _, err) in zip(needing, ended[len(commands) :])]
    assert not [each for each in asked if each[1] != 2 or told not in each[2] or each[2].count("\n") != 1]
    assert len(json.loads(ended[2][1])) < len(detectors())


def test_what_is_hidden_is_missed() -> None:
    """The torch half cannot be imported there, so that a light module which reaches for it is seen."""
    failed, _ = without_torch(["aweigh.errors", "aweigh.models", "aweigh.ops.boxes"], [])
    assert set(failed) == {"aweigh.models", "aweigh.ops.boxes"} and "No module named 'torch" in failed["aweigh.models"]
