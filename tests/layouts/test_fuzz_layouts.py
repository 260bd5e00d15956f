"""Data sets of every layout, damaged at random: each is read as far as it goes, or refused in one line.

Nothing outside the folder is opened because of what its files say, and no socket is made: an audit hook listens.
`AWEIGH_FUZZ` sets how many there are, over all layouts; 1,500 take some minutes.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.layouts import fuzz, fuzz_layouts
from tests.layouts.test_fuzz import OWN, check, lies_in, read_all, time_limit, watched

from aweigh.errors import UNPRINTABLE, DataError
from aweigh.inspect.doctor import examine
from aweigh.layouts.finding import split_name
from aweigh.layouts.load import load_split, load_splits
from aweigh.layouts.save import save_dataset
from aweigh.training.config import TrainConfig
from aweigh.training.data import load_data

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs links, pipes and signals of POSIX"),
    pytest.mark.filterwarnings("error::RuntimeWarning"),
]
COUNT = int(os.environ.get("AWEIGH_FUZZ", "90"))
CASES = [(fuzz_layouts.LAYOUTS[n % len(fuzz_layouts.LAYOUTS)], n // len(fuzz_layouts.LAYOUTS)) for n in range(COUNT)]
outcomes: Counter[str] = Counter()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("fuzz_layouts")
    for layout in fuzz_layouts.LAYOUTS:
        fuzz_layouts.write(place / layout, layout)
    fuzz.write_outside(place / "outside")
    outcomes.clear()
    yield place
    print(f"\n{sum(outcomes.values())} damaged data sets: {', '.join(f'{n} {name}' for name, n in outcomes.items())}")


@pytest.mark.parametrize("layout", fuzz_layouts.LAYOUTS)
def test_each_is_sound_to_begin_with(layout: str, place: Path) -> None:
    splits, empty = load_splits(place / layout)
    assert [(name, len(split)) for name, split in splits.items()] == [("train", 3), ("val", 1)]
    assert len(splits["train"].boxes) == 3 and len(splits["val"].boxes) in (1, 3)
    assert not empty and not any(split.problems for split in splits.values())
    assert splits["train"].layout == {"darknet": "yolo", "via_3": "via"}.get(layout, layout)


@pytest.mark.parametrize(("layout", "number"), CASES, ids=[f"{layout}-{number}" for layout, number in CASES])
def test_damaged(layout: str, number: int, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place / "data"
    shutil.copytree(place / layout, folder)
    monkeypatch.chdir(place / "outside")
    try:
        said = fuzz_layouts.damage(folder, layout, number)
        with time_limit(folder), watched() as paths:
            outcome = used(folder, tmp_path / "out")
        own = (folder, tmp_path)
        strangers = [path for path in paths if not any(lies_in(path, place) for place in own)]
        assert not [path for path in strangers if not path.startswith(tuple(OWN))], said
        outcomes[outcome] += 1
    finally:
        shutil.rmtree(folder)


def used(folder: Path, out: Path) -> str:
    """What check, conversion and training do with it, the images included; the outcome in words."""
    outcome = "used"
    try:
        splits, _ = load_splits(folder)
        for split in splits.values():
            check(split)
            assert all(problem.where and "\n" not in str(problem) for problem in split.problems)
        examine(splits, pictures=False).text()
        named = {name: split for name, split in splits.items() if split_name(name) == name}
        save_dataset(named, out, "coco")
        again = {name: len(load_split(out, name, without_boxes=True)) for name in named}
        assert again == {name: len(split) for name, split in named.items()}
        data = load_data(TrainConfig(data=str(folder)))
        read_all(data.train, learn=False)
    except DataError as error:
        assert error.exit_code == 3 and not UNPRINTABLE.search(str(error)), str(error)
        outcome = "refused"
    return outcome


def test_the_hook_hears_sockets() -> None:
    import socket

    with watched() as heard:
        socket.socket().close()
    assert any(event.startswith("socket.") for event in heard)


def test_a_link_in_a_circle_beside_the_pictures(place: Path) -> None:
    """It is no image that somebody forgot, and stops nothing."""
    folder = fuzz_layouts.write(place / "circle", "darknet")
    (folder / "obj_train_data" / "loop.png").symlink_to("loop.png")
    assert not [one for one in examine(load_splits(folder)[0]).findings if one.kind.startswith("not named")]


def test_names_that_cannot_be_shown_are_spelled_out(place: Path) -> None:
    kitti = fuzz_layouts.write(place / "names-kitti", "kitti")
    (kitti / "training" / "label_2" / "c.txt").write_text("Ca\x00r 0 0 0 5 6 15 18 1.5 1.6 3.9 1.0 1.5 10.0 0\n")
    assert load_split(kitti).classes.names[-1] == "Ca\\x00r"
    darknet = fuzz_layouts.write(place / "names-darknet", "darknet")
    said = (darknet / "obj.data").read_text()
    (darknet / "obj.data").write_text(said.replace("valid =", "va\x1blid ="))
    assert "va\\x1blid" in load_splits(darknet)[0]
