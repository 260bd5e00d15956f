"""KITTI's object data: images in `image_2`, one label file each in `label_2`, and the camera of each in `calib`.

A line of a label file has 15 columns: type, truncated, occluded, alpha, box (left, top, right, bottom, pixels), height,
width, length, x, y, z (metres, the middle of the lower face before the left colour camera) and rotation about the y
axis; a detection has its score as a 16th. A calibration file has the camera's matrix as `P2`, twelve numbers.

What each type becomes, as CenterNet's authors have it (Zhou et al. 2019, their code's `ddd`): Pedestrian, Car and
Cyclist are classes; a Van or a Truck is neither a car nor background for cars, and so is a sitting person for
pedestrians (`uncertain`); DontCare is a region to ignore for every class; Tram and Misc are background. Any other type
is a class of its own. Boxes are taken as continuous coordinates, as KITTI's own overlaps take them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aweigh.annotations.problems import DROPPED, KEPT, SKIPPED, Problem
from aweigh.annotations.records import UNKNOWN, as_number, build_split, choose_classes, known_sizes
from aweigh.annotations.split import LABELS_LOST, NEVER_LABELLED, REVIEWED, Split
from aweigh.errors import DataError, printable
from aweigh.files import read_text
from aweigh.geometry.cuboids import cuboids_from_solids
from aweigh.layouts.finding import in_order, listed_splits
from aweigh.layouts.layout import Layout, SplitFiles
from aweigh.layouts.rows import Row, label_lines, pictures_by_stem, records_of

CLASSES = ("Pedestrian", "Car", "Cyclist")
NEIGHBOURS = {"Van": "Car", "Truck": "Car", "Person_sitting": "Pedestrian"}
REGION = "DontCare"
BACKGROUND = ("Tram", "Misc")
# Height, width, length, x, y, z and rotation of what has no 3D box.
NOT_KNOWN = (-1.0, -1.0, -1.0, -1000.0, -1000.0, -1000.0, -10.0)


@dataclass(frozen=True)
class Label:
    """A line of a label file. box: xyxy, pixels. solid: height, width, length, x, y, z, rotation, in this order."""

    kind: str
    truncated: float
    occluded: int
    alpha: float
    box: tuple[float, ...]
    solid: tuple[float, ...]
    score: float | None = None


def find(root: Path) -> dict[str, SplitFiles]:
    """`label_2` and `image_2` in the folder or in its `training`; KITTI's `testing` has no labels and is no split."""
    for base in (root, root / "training"):
        labels, pictures = base / "label_2", base / "image_2"
        if labels.is_dir() and pictures.is_dir() and any(labels.glob("*.txt")):
            listed = listed_splits(base.parent / "ImageSets") | listed_splits(base / "ImageSets")
            if (base.parent / "testing").is_dir():  # whose images, which have no labels, are those of test.txt
                listed.pop("test", None)
            found = {name: SplitFiles(name, "kitti", labels, (pictures,), file) for name, file in listed.items()}
            return in_order(found) or {"train": SplitFiles("train", "kitti", labels, (pictures,))}
    return {}


def by_hand(annotations: Path, name: str) -> SplitFiles | None:
    """The folder `label_2`; None for another."""
    if annotations.name != "label_2":
        return None
    return SplitFiles(name, "kitti", annotations, (annotations.parent / "image_2",))


def read(files: SplitFiles, _: Mapping[str, SplitFiles], name: str, wanted: Sequence[str] | None) -> Split:
    """The images that the list names by their stems, all of the folder without one.

    Calibrations lie in `calib` beside the labels. An object whose line has no usable 3D box keeps its box.
    """
    labels_folder, pictures, listing = files.annotations, files.images[0], files.listing
    problems: list[Problem] = []
    by_stem = pictures_by_stem(pictures)
    every = sorted(file.stem for file in labels_folder.glob("*.txt"))
    stems = sorted(by_stem)
    if listing is not None:
        stems = list(dict.fromkeys(line.split()[0] for line in read_text(listing).splitlines() if line.strip()))
    own = set(stems)
    lines: dict[str, list[tuple[str, Label]]] = {}
    lost: set[str] = set()
    for stem in every:
        found: list[Problem] = []
        lines[stem] = _read_labels(labels_folder / f"{stem}.txt", found)
        lost |= {stem} if found else set()
        problems += found if stem in own else []
    # KITTI's three classes, and whatever other types there are.
    kinds = {label.kind for entries in lines.values() for _, label in entries}
    names = [*CLASSES, *sorted(kinds - {*CLASSES, *NEIGHBOURS, *BACKGROUND, REGION})]
    classes, label_of = choose_classes(names, list(range(1, 1 + len(names))), wanted, labels_folder)

    paths = _pictures(stems, by_stem, lines, problems)
    sizes_hw = known_sizes(paths, np.zeros((len(paths), 2), dtype=np.int64), problems)
    usable = np.flatnonzero((sizes_hw > 0).all(axis=1))
    paths = [paths[row] for row in usable]
    found_cameras = [_camera(labels_folder.parent / "calib" / f"{path.stem}.txt", problems) for path in paths]
    cameras = np.array(found_cameras, dtype=np.float64).reshape(-1, 3, 4)
    rows: list[Row] = []
    objects: list[Label] = []
    for image, path in enumerate(paths):
        for mark, label in lines.get(path.stem, []):
            # A region is one for every class, so that no measure of a class counts a mistake inside it.
            one = label_of.get(NEIGHBOURS.get(label.kind, label.kind), UNKNOWN)  # or less than 0, not wanted
            wanted_as = range(len(classes)) if label.kind == REGION else [one] * (one >= 0)
            extras = json.dumps({"type": label.kind, "truncated": label.truncated, "occluded": label.occluded})
            rows += [Row(image, number, label.box, mark, extras=extras) for number in wanted_as]
            objects += [label] * len(wanted_as)
    stems = [path.stem for path in paths]
    said = [LABELS_LOST if stem in lost else REVIEWED if stem in lines else NEVER_LABELLED for stem in stems]
    records = replace(
        records_of(paths, sizes_hw[usable], said, rows, problems),
        crowd=np.array([label.kind == REGION for label in objects], dtype=bool),
        uncertain=np.array([label.kind in NEIGHBOURS for label in objects], dtype=bool),
        cuboids=_cuboids(rows, objects, paths, cameras, problems),
        cameras=cameras,
    )
    return build_split(records, name=name, layout="kitti", root=pictures, classes=classes, problems=problems)


def _pictures(
    stems: Sequence[str], by_stem: Mapping[str, Path], lines: Mapping[str, object], problems: list[Problem]
) -> list[Path]:
    """The images that are there; a missing one is named, and one without a label file."""
    for stem in stems:
        if stem not in by_stem:
            problems.append(Problem("image file missing", f"{stem}.png", None, "no image of that name", SKIPPED))
        elif stem not in lines:
            problems.append(Problem("annotation file missing", f"{stem}.txt", None, "no such label file", KEPT))
    return [by_stem[stem] for stem in stems if stem in by_stem]


def _read_labels(file: Path, problems: list[Problem]) -> list[tuple[str, Label]]:
    """The lines of a label file, each with which it is; bad ones become problems."""
    entries = []
    for mark, line in label_lines(file, problems):
        label = parse_label(line)
        if isinstance(label, str):
            problems.append(Problem("unreadable line", file.name, mark, label, DROPPED))
        else:
            entries.append((mark, label))
    return entries


def parse_label(line: str) -> Label | str:
    """A line of a label file, or what is wrong with it."""
    kind, *words = line.split()
    if len(words) not in (14, 15):
        return f"expected 15 columns, or 16 with a score, got {1 + len(words)}: {line.strip()[:60]!r}"
    values = [as_number(word) for word in words]
    if not all(map(math.isfinite, values)):
        place = next(place for place, value in enumerate(values) if not math.isfinite(value))
        return f"column {place + 2} is {words[place][:20]!r}, which is no number"
    truncated, occluded, alpha, *rest = values
    score = rest[11] if len(rest) == 12 else None
    return Label(printable(kind), truncated, int(occluded), alpha, tuple(rest[:4]), tuple(rest[4:11]), score)


def label_text(label: Label) -> str:
    """A line of a label file, with KITTI's two decimals."""
    numbers = [label.alpha, *label.box, *label.solid]
    words = [label.kind, f"{label.truncated:.2f}", str(label.occluded), *(f"{value:.2f}" for value in numbers)]
    return " ".join([*words, *([] if label.score is None else [f"{label.score:.4f}"])]) + "\n"


def _cuboids(
    rows: Sequence[Row], objects: Sequence[Label], paths: Sequence[Path], cameras: np.ndarray, problems: list[Problem]
) -> np.ndarray | None:
    """`[M, 7]` float32: how each object looks to its camera, NaN where that is not known; None where it never is.

    paths, cameras: of each image, the latter `[I, 3, 4]`.
    """
    found = np.full((len(rows), 7), np.nan)
    for number, (row, label) in enumerate(zip(rows, objects, strict=True)):
        height, width, length, x, y, z, turn = solid = label.solid
        if label.kind == REGION or solid == NOT_KNOWN:
            continue
        why = ""
        if min(height, width, length) <= 0:
            why = f"height, width and length are {height:g}, {width:g} and {length:g}; each must be above 0"
        elif z <= 0:
            why = f"its depth is {z:g}; it must be above 0, before the camera"
        if why:
            kind, detail = "3D box cannot be used", f"{why}; its box is kept"
            problems.append(Problem(kind, f"{paths[row.image].stem}.txt", row.mark, detail, DROPPED))
        else:
            found[number] = x, y, z, height, width, length, turn
    given = np.isfinite(found).all(axis=1)
    images = np.array([row.image for row in rows], dtype=np.int64)
    found[given] = cuboids_from_solids(found[given], cameras[images[given]])
    return found.astype(np.float32) if np.isfinite(found).all(axis=1).any() else None


def _camera(file: Path, problems: list[Problem]) -> np.ndarray:
    """The camera `[3, 4]` of a calibration file, NaN where there is none."""
    try:
        return read_camera(file)
    except DataError as error:
        kind = "calibration unreadable" if file.exists() else "calibration missing"
        detail = f"{str(error).removeprefix(f'{file}: ')} The boxes of its image are kept, without depth."
        problems.append(Problem(kind, file.name, None, detail, DROPPED))
        return np.full((3, 4), np.nan)


def read_camera(file: Path) -> np.ndarray:
    """The matrix P2 of a calibration file, `[3, 4]` float64; `DataError` where there is none of twelve numbers."""
    if not file.is_file():
        raise DataError(f"{file}: there is no such calibration file.")
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        name, _, rest = line.partition(":")
        if name.strip() == "P2":
            values = [as_number(word) for word in rest.split()]
            if len(values) != 12 or not all(map(math.isfinite, values)) or values[0] <= 0 or values[5] <= 0:
                raise DataError(
                    f"{file}: line {number}: P2 must be twelve numbers, a focal length first, got {rest[:60]!r}."
                )
            return np.array(values, dtype=np.float64).reshape(3, 4)
    raise DataError(f"{file}: no line begins with P2, the matrix of the left colour camera.")


def calibration_text(camera: np.ndarray) -> str:
    """A calibration file: `P2`, and what else KITTI's readers look for, which here says nothing."""
    eye = np.eye(3, 4)
    matrices = {**{f"P{number}": camera for number in range(4)}, "R0_rect": np.eye(3)}
    matrices |= {"Tr_velo_to_cam": eye, "Tr_imu_to_velo": eye}
    return "".join(
        f"{name}: {' '.join(f'{value:.12e}' for value in matrix.reshape(-1))}\n" for name, matrix in matrices.items()
    )


def camera_beside(picture: Path) -> Path:
    """Where the calibration of an image lies in KITTI's folders: `.../image_2/x.png`, `.../calib/x.txt`."""
    return picture.parent.parent / "calib" / f"{picture.stem}.txt"


LAYOUT = Layout(looks_for="KITTI (training/label_2/*.txt)", find=find, by_hand=by_hand, read=read)
