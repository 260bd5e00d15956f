"""Small data sets in every layout that is read, and random damage to their annotation files: the same for each number.

Each has three images of 32 x 24 for training (a.png, b.jpg, c.png) and one for validation (v.png), with boxes in a, b
and v. What is changed is a token of a text (a number, a word, a name), its bytes, its lines, or the file itself.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.layouts import fuzz
from tests.layouts.fuzz import HEIGHT, WIDTH

Boxes = Mapping[str, list[tuple[str, int, int, int, int]]]  # of each image: class and corners
PICTURES = {"train": ("a.png", "b.jpg", "c.png"), "val": ("v.png",)}
BOXES: Boxes = {
    "a.png": [("cat", 2, 3, 12, 11), ("dog", 15, 5, 27, 17)],
    "b.jpg": [("cat", 1, 1, 21, 21)],
    "c.png": [],
    "v.png": [("dog", 2, 3, 12, 11)],
}


def write(folder: Path, layout: str) -> Path:
    """A sound data set of a layout of `LAYOUTS`."""
    if layout in fuzz.LAYOUTS:
        return fuzz.write(folder, layout)
    _WRITERS[layout](folder)
    return folder


def annotation_files(folder: Path) -> list[Path]:
    """Everything in it but the images."""
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix not in (".png", ".jpg"))


def damage(folder: Path, layout: str, number: int) -> str:
    """Changes one annotation file, and says which and how."""
    dice = random.Random(f"{layout} {number}")
    file = dice.choice(annotation_files(folder))
    name, change = dice.choice(list(_CHANGES.items()))
    for _ in range(50):
        before = file.read_bytes()
        change(file, dice)
        if not file.is_file() or file.read_bytes() != before:
            break
    return f"{file.relative_to(folder)}: {name}"


# --- data sets as they should be ------------------------------------------------------------------------------------


def _put(folder: Path, split: str, name: str) -> None:
    fuzz._picture(folder / split / name)


def _kitti(folder: Path) -> None:
    for split, names in PICTURES.items():
        lists = folder / "ImageSets"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text("".join(f"{name[0]}\n" for name in names))
        for name in names:
            fuzz._picture(folder / "training" / "image_2" / name)
            for part in ("label_2", "calib"):
                (folder / "training" / part).mkdir(exist_ok=True)
            solid = "1.5 1.6 3.9 1.0 1.5 10.0 -1.59"
            lines = [
                f"{ {'cat': 'Car', 'dog': 'Cyclist'}[kind] } 0.00 0 -1.58 {x0} {y0} {x1} {y1} {solid}\n"
                for kind, x0, y0, x1, y1 in BOXES[name]
            ]
            (folder / "training" / "label_2" / f"{name[0]}.txt").write_text("".join(lines))
            camera = "P2: 30 0 16 0 0 30 12 0 0 0 1 0\n"
            (folder / "training" / "calib" / f"{name[0]}.txt").write_text(camera)


def _labelme(folder: Path) -> None:
    for split, names in PICTURES.items():
        for name in names:
            _put(folder, split, name)
            shapes = [
                {"label": kind, "points": [[x0, y0], [x1, y1]], "shape_type": "rectangle", "group_id": None}
                for kind, x0, y0, x1, y1 in BOXES[name]
            ]
            content = {"version": "5.0", "flags": {}, "shapes": shapes, "imagePath": name}
            content |= {"imageHeight": HEIGHT, "imageWidth": WIDTH, "imageData": None}
            (folder / split / f"{name[0]}.json").write_text(json.dumps(content))


def _via(folder: Path) -> None:
    for split, names in PICTURES.items():
        table = {}
        for name in names:
            _put(folder, split, name)
            regions = [
                {
                    "shape_attributes": {"name": "rect", "x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0},
                    "region_attributes": {"class": kind},
                }
                for kind, x0, y0, x1, y1 in BOXES[name]
            ]
            table[f"{name}99"] = {"filename": name, "size": 99, "regions": regions, "file_attributes": {}}
        (folder / split / "via_region_data.json").write_text(json.dumps(table))


def _via_3(folder: Path) -> None:
    for split, names in PICTURES.items():
        numbered = {str(number): name for number, name in enumerate(names, start=1)}
        shapes = [(view, box) for view, name in numbered.items() for box in BOXES[name]]
        project = {
            "project": {"pid": "x", "data_format_version": "3.1.1", "vid_list": list(numbered)},
            "attribute": {"1": {"aname": "class", "options": {"0": "cat", "1": "dog"}}},
            "file": {number: {"fid": number, "fname": name, "type": 2} for number, name in numbered.items()},
            "view": {number: {"fid_list": [number]} for number in numbered},
            "metadata": {
                f"{view}_{row}": {
                    "vid": view,
                    "z": [],
                    "xy": [2, x0, y0, x1 - x0, y1 - y0],
                    "av": {"1": str(("cat", "dog").index(kind))},
                }
                for row, (view, (kind, x0, y0, x1, y1)) in enumerate(shapes)
            },
        }
        for name in names:
            _put(folder, split, name)
        (folder / split / "via_project.json").write_text(json.dumps(project))


def _createml(folder: Path) -> None:
    for split, names in PICTURES.items():
        entries = []
        for name in names:
            _put(folder, split, name)
            objects = [
                {
                    "label": kind,
                    "coordinates": {"x": (x0 + x1) / 2, "y": (y0 + y1) / 2, "width": x1 - x0, "height": y1 - y0},
                }
                for kind, x0, y0, x1, y1 in BOXES[name]
            ]
            entries.append({"image": name, "annotations": objects})
        (folder / split / "_annotations.createml.json").write_text(json.dumps(entries))


def _labelstudio(folder: Path) -> None:
    for split, names in PICTURES.items():
        tasks = []
        for number, name in enumerate(names, start=1):
            _put(folder, split, name)
            regions = [
                {
                    "id": f"r{row}",
                    "type": "rectanglelabels",
                    "original_width": WIDTH,
                    "original_height": HEIGHT,
                    "value": {
                        "x": 100 * x0 / WIDTH,
                        "y": 100 * y0 / HEIGHT,
                        "width": 100 * (x1 - x0) / WIDTH,
                        "height": 100 * (y1 - y0) / HEIGHT,
                        "rotation": 0,
                        "rectanglelabels": [kind],
                    },
                }
                for row, (kind, x0, y0, x1, y1) in enumerate(BOXES[name])
            ]
            done = {"id": number, "was_cancelled": False, "updated_at": "2024-01-01T00:00:00Z", "result": regions}
            data = {"image": f"/data/upload/1/0a1b2c3d-{name}"}
            tasks.append({"id": number, "annotations": [done], "predictions": [], "data": data})
        (folder / split / "project-1-at-2024-01-01.json").write_text(json.dumps(tasks))


def _cvat(folder: Path) -> None:
    for split, names in PICTURES.items():
        lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "<version>1.1</version>"]
        for number, name in enumerate(names):
            _put(folder, split, name)
            boxes = "".join(
                f'<box label="{kind}" source="manual" occluded="0" xtl="{x0}" ytl="{y0}" xbr="{x1}" ybr="{y1}"/>\n'
                for kind, x0, y0, x1, y1 in BOXES[name]
            )
            lines.append(f'<image id="{number}" name="{name}" width="{WIDTH}" height="{HEIGHT}">\n{boxes}</image>')
        (folder / split / "annotations.xml").write_text("\n".join([*lines, "</annotations>\n"]))


def _dota(folder: Path) -> None:
    for split, names in PICTURES.items():
        for name in names:
            fuzz._picture(folder / split / "images" / name)
            (folder / split / "labelTxt").mkdir(exist_ok=True)
            lines = [f"{x0} {y0} {x1} {y0} {x1} {y1} {x0} {y1} {kind} 0\n" for kind, x0, y0, x1, y1 in BOXES[name]]
            head = "imagesource:GoogleEarth\ngsd:0.15\n"
            (folder / split / "labelTxt" / f"{name[0]}.txt").write_text(head + "".join(lines))


def _darknet(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "obj.names").write_text("cat\ndog\n")
    (folder / "obj.data").write_text(
        "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n"
    )
    for split, names in {"train": PICTURES["train"], "valid": PICTURES["val"]}.items():
        inside = f"obj_{split}_data"
        (folder / f"{split}.txt").write_text("".join(f"data/{inside}/{name}\n" for name in names))
        for name in names:
            fuzz._picture(folder / inside / name)
            lines = [
                f"{('cat', 'dog').index(kind)} {(x0 + x1) / 2 / WIDTH} {(y0 + y1) / 2 / HEIGHT} {(x1 - x0) / WIDTH} "
                f"{(y1 - y0) / HEIGHT}\n"
                for kind, x0, y0, x1, y1 in BOXES[name]
            ]
            (folder / inside / f"{name[0]}.txt").write_text("".join(lines))


def _csv(folder: Path) -> None:
    for split, names in PICTURES.items():
        lines = ["filename,width,height,class,xmin,ymin,xmax,ymax\n"]
        for name in names:
            _put(folder, split, name)
            start = f"{name},{WIDTH},{HEIGHT}"
            lines += [f"{start},{kind},{x0},{y0},{x1},{y1}\n" for kind, x0, y0, x1, y1 in BOXES[name]]
            lines += [] if BOXES[name] else [f"{start},,,,,\n"]
        (folder / split / "_annotations.csv").write_text("".join(lines))


_WRITERS: dict[str, Callable[[Path], None]] = {
    "kitti": _kitti,
    "labelme": _labelme,
    "via": _via,
    "via_3": _via_3,
    "labelstudio": _labelstudio,
    "cvat": _cvat,
    "createml": _createml,
    "dota": _dota,
    "darknet": _darknet,
    "csv": _csv,
}
LAYOUTS = (*fuzz.LAYOUTS, *_WRITERS)

# --- damage ---------------------------------------------------------------------------------------------------------

_TOKENS = re.compile(rb"[^\s\"',:;<>{}\[\]=]+")
_HOSTILE = [
    *(name.encode("utf-8", "surrogatepass") for name in fuzz.NAMES.values()),
    b"nan", b"inf", b"-inf", b"1e308", b"-1e308", b"1e-308", b"-7", b"0", b"-0.0", b"9" * 400, b"0x10", b"1_000",
    b"null", b"true", b"{}", b"[]", b"\xff\xfe", b"\x00", b"\x1b[2J", b"&x;", b"%s", b"${HOME}",
    b"../../outside/list.txt",
    b"NaN", b"Infinity", b"\"", b"\\", b"{\"a\": [[[[", b"=1+1",
    b"\xe2\x80\xae", b"a" * 5000,
]  # fmt: skip


def _token(file: Path, dice: random.Random) -> None:
    data = file.read_bytes()
    if places := list(_TOKENS.finditer(data)):
        place = dice.choice(places)
        file.write_bytes(data[: place.start()] + dice.choice(_HOSTILE) + data[place.end() :])


def _tokens(file: Path, dice: random.Random) -> None:
    for _ in range(dice.randint(2, 6)):
        _token(file, dice)


def _bytes(file: Path, dice: random.Random) -> None:
    file.write_bytes(fuzz._bits(file.read_bytes(), dice))


def _lines(file: Path, dice: random.Random) -> None:
    """Lines, or parts between commas, taken away, doubled or mixed."""
    data = file.read_bytes()
    mark = b"\n" if data.count(b"\n") > 2 else b","
    parts = data.split(mark)
    at = dice.randrange(len(parts))
    kind = dice.choice(["gone", "twice", "mixed", "many"])
    if kind == "gone":
        del parts[at]
    elif kind == "mixed":
        dice.shuffle(parts)
    else:
        parts[at:at] = [parts[at]] * (1 if kind == "twice" else 500)
    file.write_bytes(mark.join(parts))


def _exchanged(file: Path, dice: random.Random) -> None:
    """Two tokens of the file in each other's places."""
    data = file.read_bytes()
    places = list(_TOKENS.finditer(data))
    if len(places) < 2:
        return
    first, second = sorted(dice.sample(places, 2), key=lambda place: place.start())
    between = data[first.end() : second.start()]
    file.write_bytes(data[: first.start()] + second.group() + between + first.group() + data[second.end() :])


def _another(file: Path, dice: random.Random) -> None:
    """Something else of its name."""
    kind = dice.choice(["gone", "empty", "a folder", "a pipe", "a loop", "a device", "an image", "itself twice"])
    data = file.read_bytes()
    if kind in ("empty", "an image", "itself twice"):
        file.write_bytes({"empty": b"", "an image": fuzz._encoded("PNG")}.get(kind, data + data))
        return
    file.unlink()
    if kind == "a folder":
        file.mkdir()
    elif kind == "a pipe":
        os.mkfifo(file)
    elif kind != "gone":
        file.symlink_to(file.name if kind == "a loop" else "/dev/zero")


def _encoding(file: Path, dice: random.Random) -> None:
    text = file.read_bytes().decode("utf-8", "replace")
    file.write_bytes(text.encode(dice.choice(["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "utf-7"])))


def _moved(file: Path, dice: random.Random) -> None:
    """The content of another annotation file of the data set, or of its image's folder."""
    others = [other for other in annotation_files(file.parents[1]) if other != file]
    if others:
        shutil.copyfile(dice.choice(others), file)


_CHANGES: dict[str, Callable[[Path, random.Random], None]] = {
    "a token": _token,
    "several tokens": _tokens,
    "bytes": _bytes,
    "lines": _lines,
    "tokens exchanged": _exchanged,
    "another thing": _another,
    "another encoding": _encoding,
    "another file's content": _moved,
}
