"""Broken data sets: each is trained on as far as it is good, or refused with exit code 3 and the name of the file.

What is checked of each mutation: no other error, no hang, nothing lost without a word, and no file opened outside the
folder because of what an annotation file says. What that means:

- Names in annotation files (COCO's file_name, VOC's and YOLO's lists, entities of an XML) never lead outside.
- `path`, `train` and `val` of a YOLO description lead outside only where the user names the description itself, as in
  `aweigh train data.yaml`: then the place is the user's, and a remark says so. In a folder they do not.
- A symbolic link in the folder is the user's own, made on purpose (`aweigh data convert` can make such folders): where
  it leads is read. Links that lead to themselves or above are not followed round and round.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch
from tests.layouts import fuzz
from tests.layouts.fuzz import LAYOUTS, MUTATIONS, Mutation

from aweigh.annotations.problems import Problem
from aweigh.annotations.split import Split
from aweigh.cli.main import run
from aweigh.errors import UNPRINTABLE, DataError
from aweigh.feeding.dataset import DetectionDataset
from aweigh.feeding.loader import make_loader
from aweigh.feeding.transforms import Augmentation, Transform
from aweigh.images.resize import Resize
from aweigh.layouts.load import load_split
from aweigh.models import create
from aweigh.training.config import TrainConfig
from aweigh.training.data import load_data

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs links, pipes and signals of POSIX"),
    pytest.mark.filterwarnings("error::RuntimeWarning"),
]

SECONDS = 10  # for one mutation
OWN = [sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), str(Path(__file__).parents[2] / "src"), "/proc"]
OWN += [__file__]  # torch reads the source of those who call it, once
OWN += [sys.pycache_prefix] if sys.pycache_prefix else []  # modules that are imported for the first time
outcomes: Counter[str] = Counter()


def is_own(path: str) -> bool:
    """Python's, or ours. In the folders of `sys.path` modules are looked for."""
    return path in sys.path or path.startswith(tuple(OWN))


# --- what was opened --------------------------------------------------------------------------------------------------

opened: list[str] | None = None  # what Python opens and lists, and whom it calls, while this is a list


def _listen(event: str, arguments: tuple[object, ...]) -> None:
    if opened is not None and event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], str | bytes):
        opened.append(os.fsdecode(arguments[0]))
    elif opened is not None and event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "urllib.")):
        opened.append(event)  # which no data set may cause, wherever it leads


sys.addaudithook(_listen)  # for the life of this process: a hook cannot be taken away


@contextmanager
def watched() -> Iterator[list[str]]:
    global opened
    opened = []
    try:
        yield opened
    finally:
        opened = None


def lies_in(path: str, folder: Path) -> bool:
    """By its name, links in the folder being the user's own; where the name goes up, by where it ends."""
    name = os.path.realpath(path) if ".." in Path(path).parts else os.path.abspath(path)
    return Path(name).is_relative_to(folder)


# --- a time limit -----------------------------------------------------------------------------------------------------


class Hangs(BaseException):
    """No `Exception`, so that nothing explains it away."""


@contextmanager
def time_limit(folder: Path) -> Iterator[None]:
    """Ends what hangs, and lets go of threads that wait for a pipe, which would otherwise hang the end."""

    def stop(*_: object) -> None:
        for path in folder.rglob("*"):
            if stat.S_ISFIFO(path.lstat().st_mode):
                os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        raise Hangs(f"{SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- the data sets ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("fuzz")
    for layout in LAYOUTS:
        fuzz.write(place / layout, layout)
    fuzz.write_outside(place / "outside")
    return place


@pytest.fixture(scope="module", autouse=True)
def told() -> Iterator[None]:
    outcomes.clear()
    yield
    if outcomes:
        print(
            f"\n{sum(outcomes.values())} mutations: " + ", ".join(f"{n} {name}" for name, n in outcomes.most_common())
        )


@pytest.fixture
def mutated(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Mutation], Path]]:
    """The folder after a mutation, with `outside` as the place where the user is."""
    folder = place / "data"

    def make(mutation: Mutation) -> Path:
        shutil.copytree(place / mutation.layout, folder)
        before = contents(folder)
        mutation.change(folder)
        assert contents(folder) != before, "the mutation changes nothing"
        monkeypatch.chdir(place / "outside")
        return folder

    yield make
    shutil.rmtree(folder)


def contents(folder: Path) -> dict[str, object]:
    return {
        str(path): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else stat.S_IFMT(path.stat().st_mode)
        for path in folder.rglob("*")
    }


# --- the tests --------------------------------------------------------------------------------------------------------


def test_there_are_many() -> None:
    names = Counter(mutation.layout for mutation in MUTATIONS)
    assert all(names[layout] >= 100 for layout in LAYOUTS) and len({str(mutation) for mutation in MUTATIONS}) >= 300


@pytest.mark.parametrize("number", range(len(MUTATIONS)), ids=[str(mutation) for mutation in MUTATIONS])
def test_mutation(number: int, mutated: Callable[[Mutation], Path]) -> None:
    mutation = MUTATIONS[number]
    folder = mutated(mutation)
    with time_limit(folder), watched() as paths:
        outcome = read_and_learn(folder, mutation, learn=number % 20 == 0)
    strangers = [path for path in paths if not lies_in(path, folder) and not is_own(path)]
    assert not strangers
    assert not mutation.whole or outcome == "read whole"
    outcomes[outcome] += 1


@pytest.mark.parametrize("name", fuzz.NAMES.values(), ids=fuzz.NAMES.keys())
def test_names_from_where_the_user_is(name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`aweigh train .` with the images beside the JSON, so that the folder itself has no name to begin with."""
    for number in range(3):
        shutil.copy(place / "coco" / "images" / "train" / "a.png", tmp_path / f"{number}.png")
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(3)] + [{"id": 3, "file_name": name}]
    boxes = [{"image_id": number, "category_id": 1, "bbox": [1, 1, 9, 9]} for number in range(4)]
    (tmp_path / "train.json").write_text(json.dumps({"images": images, "annotations": boxes}))
    monkeypatch.chdir(tmp_path)
    with watched() as paths:
        split = load_split(".")
    assert len(split) == 3 and {problem.action for problem in split.problems} <= {"image skipped", "dropped"}
    assert all(lies_in(path, tmp_path) or is_own(path) for path in paths)


TINY = "--model fcos_shufflenet_v2_x0_5_fpn --iterations 1 --batch 2 --workers 0 --device cpu --short 32 --long 64"
WHOLE_RUNS = {
    "coco: annotations.0.bbox infinity": 0,
    "coco: file_name terminal": 0,
    "coco: JSON is nested deeply": 3,
    "coco: category named surrogate": 3,
    "voc: XML has a billion laughs": 0,
    "voc: ImageSets/Main/train.txt is a pipe": 3,
    "yolo: an image is named b'caf\\xe9.png'": 0,
    "yolo: line class 10^20, no names": 0,
    "yolo: train leads to outside": 3,
    "yolo: image is a link to itself": 0,
}


TRAINED = ["coco: annotations.0.bbox infinity", "coco: file_name terminal"]  # every time; the others take seconds each
USUAL = [name for name, code in WHOLE_RUNS.items() if code or name in TRAINED]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        pytest.param(*run, marks=[] if run[0] in USUAL else pytest.mark.thorough, id=run[0])
        for run in WHOLE_RUNS.items()
    ],
)
def test_whole_runs(
    name: str, code: int, mutated: Callable[[Mutation], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mutation = next(mutation for mutation in MUTATIONS if str(mutation) == name)
    folder = mutated(mutation)
    words = [*TINY.split(), "--arguments", "channels=16", "--arguments", "head_convs=1", "--output", str(tmp_path)]
    with time_limit(folder):
        ended = run(["train", str(folder), *words])
    written = capfd.readouterr().err
    assert ended == code and "Traceback" not in written, written
    assert not UNPRINTABLE.search(written.replace("\n", "")), written
    mistakes = [line for line in written.splitlines() if line.startswith("error: ")]
    if code == 0:
        assert not mistakes and (tmp_path / "best.safetensors").is_file()
    else:
        assert len(mistakes) == 1 and Path(mutation.file).name in mistakes[0]
        assert not any(tmp_path.iterdir())


def read_and_learn(folder: Path, mutation: Mutation, *, learn: bool) -> str:
    """What `aweigh train` does before its first step, and the loss of that; the outcome in words."""
    try:
        data = load_data(TrainConfig(data=str(folder)))
        train = data.train
        check(train)
        problems = [*train.problems, *read_all(train, learn=learn)]
        if data.val is not None:
            check(data.val)
            problems += data.val.problems
    except DataError as error:
        assert error.exit_code == 3
        assert Path(mutation.file).name in str(error) or not os.path.lexists(folder / mutation.file), error
        return "refused with exit code 3"
    lost = len(train) < 3 or len(train.boxes) < 3 or any(problem.action == "image skipped" for problem in problems)
    assert problems or mutation.less or not lost, "something was lost without a word"
    assert all(problem.where and "\n" not in str(problem) for problem in problems)
    return "trained on the rest" if problems else "read whole"


def check(split: Split) -> None:
    """What training relies on."""
    sizes = torch.from_numpy(split.sizes_hw).flip(1).repeat(1, 2)
    rows = torch.repeat_interleave(torch.arange(len(split)), torch.from_numpy(split.first).diff())
    boxes = torch.from_numpy(split.boxes)
    assert ((boxes >= 0) & (boxes <= sizes[rows])).all() and (boxes[:, 2:] - boxes[:, :2] > 0.99).all()
    assert ((split.labels >= 0) & (split.labels < len(split.classes))).all()
    assert len(set(split.annotation_ids.tolist())) == len(split.annotation_ids)
    assert len(split.content_hash) == 64 and not UNPRINTABLE.search(split.summary().replace("\n", ""))
    json.dumps(split.to_coco(), allow_nan=False)


def read_all(split: Split, *, learn: bool) -> list[Problem]:
    """The problems of reading every image. learn: compute the loss too."""
    transform = Transform(Resize(short=32, long=64), Augmentation())
    loader = make_loader(DetectionDataset(split, transform), batch=8, max_bad=0.5)
    for batch in loader:
        assert sum(len(targets) for targets in batch.targets) <= len(split.boxes)
        if learn:
            losses = tiny(len(split.classes))(batch.images, batch.targets)
            assert all(torch.isfinite(loss).all() for loss in losses.values())
    return loader.problems


@cache
def tiny(classes: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return create("fcos_shufflenet_v2_x0_5_fpn", num_classes=classes, channels=16, head_convs=1)
