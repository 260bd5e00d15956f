"""Small data sets in every layout, and the ways in which they are broken: `MUTATIONS`, the same in every run.

Each data set has three images of 32 x 24 for training (a.png, b.jpg, c.png) and one for validation (v.png), two
classes, and boxes in a and b. Beside the folder lies `outside`, which holds files with all the names that a mutated
name could lead to; nothing in it may be opened because of what an annotation file says.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

WIDTH, HEIGHT = 32, 24
LAYOUTS = ("coco", "voc", "yolo")
FUZZED_AT_RANDOM = 20  # mutations of bytes at random places, for each layout

JSON = "annotations/instances_train.json"
YAML = "data.yaml"
PICTURES = {"coco": "images/train/a.png", "voc": "JPEGImages/a.png", "yolo": "images/train/a.png"}

GONE = object()  # the value of a key that is taken away
VALUES: dict[str, Any] = {
    "gone": GONE,
    "null": None,
    "text": "many",
    "list": [1, [2]],
    "object": {"a": {"b": 1}},
    "true": True,
    "half": 0.5,
    "1e308": 1e308,
    "10^30": 10**30,
    "negative": -7,
    "nan": float("nan"),
    "infinity": float("inf"),
    "digits": "9" * 5000,
}
NAMES = {  # what a file name in an annotation file may be
    "up": "../../../outside/a.png",
    "up a little": "../a.png",
    "up and back": "../train/a.png",
    "up inside": "x/../../../../outside/a.png",
    "root": "/etc/passwd",
    "home": "~/a.png",
    "backslashes": "..\\..\\..\\outside\\a.png",
    "drive": "C:\\outside\\a.png",
    "address": "https://example.org/a.png",
    "nul": "a\0.png",
    "long": "a" * 300 + ".png",
    "long folders": "a/" * 3000 + "a.png",
    "line end": "a\n.png",
    "terminal": "\x1b[2Ja.png",
    "empty": "",
    "dot": ".",
    "folder": "x/..",
    "up to the folder": "..",
    "decomposed": "a\u0301.png",
    "surrogate": "\ud800.png",
    "device": "/dev/zero",
    "blanks": "  a.png  ",
}


@dataclass(frozen=True)
class Mutation:
    """file: what it changes, below the folder. change: does it.

    whole: nothing is lost by it, and nothing may be. less: what it leaves is a good data set with less in it, of which
    nothing has to be said.
    """

    layout: str
    name: str
    file: str
    change: Callable[[Path], object]
    whole: bool = False
    less: bool = False

    def __str__(self) -> str:
        return f"{self.layout}: {self.name}"


# --- data sets as they should be ------------------------------------------------------------------------------------


def write(folder: Path, layout: str) -> Path:
    {"coco": _coco, "voc": _voc, "yolo": _yolo}[layout](folder)
    return folder


def write_outside(folder: Path) -> Path:
    """Files that a name could lead to: each is what would be wanted there, so that following it would succeed."""
    for layout in LAYOUTS:
        write(folder, layout)
    for place in (".", "train", "outside"):
        for name in ("a.png", "b.jpg", "c.png", "passwd"):
            _picture(folder / place / name)
    for place in (folder, folder / "train", folder / "labels"):
        place.mkdir(exist_ok=True)
        (place / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
        (place / "a.xml").write_text(_xml([("secret", 1, 1, 9, 9)]))
    (folder / "secret.txt").write_text("secret")
    (folder / "x.dtd").write_text('<!ENTITY x "secret">')
    (folder / "list.txt").write_text("images/train/a.png\n")
    return folder


def _picture(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_encoded("JPEG" if path.suffix == ".jpg" else "PNG", size=size))
    return path


def _encoded(form: str, mode: str = "RGB", *, size: tuple[int, int] = (WIDTH, HEIGHT), **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(pixels).convert("L") if mode.startswith("I") else Image.fromarray(pixels)
    image.convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def _coco(folder: Path) -> None:
    for split, names in (("train", ("a.png", "b.jpg", "c.png")), ("val", ("v.png",))):
        images = [
            {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT}
            for number, name in enumerate(names, start=1)
        ]
        annotations = [
            {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": 60, "iscrowd": 0}
            for number, (image, category, box) in enumerate(
                [(1, 3, [2, 3, 10, 8]), (1, 7, [15, 5, 12, 12]), (len(names) - len(names) // 2, 3, [1, 1, 20, 20])],
                start=1,
            )
        ]
        categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
        file = folder / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
        for name in names:
            _picture(folder / "images" / split / name)


def _xml(objects: list[tuple[str, float, float, float, float]]) -> str:
    items = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, x0, y0, x1, y1 in objects
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f'<?xml version="1.0"?><annotation><filename>a.png</filename>{size}{items}</annotation>'


def _voc(folder: Path) -> None:
    objects = {
        "a": [("cat", 3, 4, 12, 11), ("dog", 16, 6, 27, 17)],
        "b": [("cat", 2, 2, 21, 21)],
        "c": [],
        "v": [("dog", 3, 4, 12, 11)],
    }
    for stem, boxes in objects.items():
        file = folder / "Annotations" / f"{stem}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_xml(boxes))
        _picture(folder / "JPEGImages" / f"{stem}.{'jpg' if stem == 'b' else 'png'}")
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "train.txt").write_text("a\nb\nc\n")
    (lists / "val.txt").write_text("v\n")


def _yolo(folder: Path) -> None:
    for split, names in (("train", ("a.png", "b.jpg", "c.png")), ("val", ("v.png",))):
        for name in names:
            _picture(folder / "images" / split / name)
        (folder / "labels" / split).mkdir(parents=True, exist_ok=True)
    for stem, lines in {
        "train/a": "0 0.3 0.3 0.3 0.3\n1 0.6 0.5 0.4 0.5\n",
        "train/b": "0 0.5 0.5 0.6 0.8\n",
        "train/c": "",
        "val/v": "1 0.3 0.3 0.3 0.3\n",
    }.items():
        (folder / "labels" / f"{stem}.txt").write_text(lines)
    (folder / YAML).write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")


# --- changes --------------------------------------------------------------------------------------------------------


def _put(file: str, content: bytes | str) -> Callable[[Path], object]:
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return lambda folder: (folder / file).write_bytes(data)


def _put_with(file: str, content: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes(content((folder / file).read_bytes()))


def _instead(file: str, old: str, new: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1))

    return change


def _key(*path: str | int, value: Any) -> Callable[[Path], object]:
    """Set one place of the training JSON, or take it away."""

    def change(folder: Path) -> None:
        data = json.loads((folder / JSON).read_text())
        place = data
        for step in path[:-1]:
            place = place[step]
        if value is GONE:
            del place[path[-1]]
        else:
            place[path[-1]] = value
        (folder / JSON).write_text(json.dumps(data))

    return change


def _replaced(file: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Something else of the same name: a folder, a link, a pipe."""

    def change(folder: Path) -> None:
        path = folder / file
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        make(path)

    return change


def _link(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def _link_outside(path: Path) -> None:
    path.symlink_to(next(place for place in path.parents if (place / "outside").is_dir()) / "outside" / "a.png")


def _bits(data: bytes, dice: random.Random) -> bytes:
    """A few bytes changed, taken away, put in or cut off."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(max(1, len(changed)))
        kind = dice.choice(["change", "take", "put", "cut"])
        if kind == "change" and changed:
            changed[at] = dice.choice([0, 0x22, 0x2D, 0x39, 0x5B, 0x7B, 0xFF, dice.randrange(256)])
        elif kind == "take":
            del changed[at : at + dice.randint(1, 9)]
        elif kind == "put":
            changed[at:at] = dice.choice([b"\0", b"9" * 40, b"[[[[", b"e999", b"\xff\xfe", b"<", b"../"])
        elif dice.random() < 0.3:
            del changed[at:]
    return bytes(changed)


def _png(width: int, height: int) -> bytes:
    """A PNG that declares any size and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def _pictures(layout: str) -> Iterator[Mutation]:
    """The first image as something else. Files that hold another kind of image of its size are read."""
    file = PICTURES[layout]
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "blue")]
    animated = io.BytesIO()
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    good = {
        "16 bits": _encoded("PNG", "I;16"),
        "CMYK": _encoded("JPEG", "CMYK"),
        "animated GIF": animated.getvalue(),
        "grey": _encoded("PNG", "L"),
        "one bit": _encoded("PNG", "1"),
        "TIFF": _encoded("TIFF"),
        "WebP": _encoded("WEBP"),
        "bytes after the end": _encoded("PNG") + b"\xff" * 1000,
    }
    for name, data in good.items():
        yield Mutation(layout, f"image is {name}", file, _put(file, data), whole=True)
    whole = _encoded("PNG")
    bad = {
        "empty": b"",
        "text": b"Dear reader, this is not a picture.",
        "HTML": b"<!DOCTYPE html><html><body>404</body></html>",
        "cut in half": whole[: len(whole) // 2],
        "a signature alone": whole[:8],
        "JPEG cut in half": _encoded("JPEG")[:400],
        "one pixel": _encoded("PNG", size=(1, 1)),
        "a bomb": _png(60_000, 60_000),
        "without width": _png(0, 24),
        "GIF of 65535 x 65535": b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\0\0" + b"\0" * 6 + b";",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 24\n%%EndComments\n(x) run showpage\n",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='32' height='24'/>",
        "zeros": b"\0" * 5000,
    }
    if features.check("avif"):
        bad["AVIF without its places"] = _encoded("AVIF").replace(b"iloc", b"xxxx")
    for name, data in bad.items():
        yield Mutation(layout, f"image is {name}", file, _put(file, data))
    dice = random.Random(f"image {layout}")
    for number in range(6):
        kind = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")[number]
        broken = _bits(_bits(_encoded(kind), dice), dice)
        yield Mutation(layout, f"image is {kind} with other bytes", file, _put(file, broken))
    others: dict[str, Callable[[Path], object]] = {
        "a folder": lambda path: path.mkdir(),
        "a pipe": lambda path: os.mkfifo(path),
        "a link to itself": _link("a.png"),
        "a link to nothing": _link("nowhere.png"),
        "a link to its folder": _link("."),
        "a link to a device": _link("/dev/zero"),
        "not there": lambda path: None,
    }
    for name, make in others.items():
        yield Mutation(layout, f"image is {name}", file, _replaced(file, make))
    yield Mutation(layout, "image is a link to one outside", file, _replaced(file, _link_outside), whole=True)


def _places(layout: str, files: list[str], folders: list[str]) -> Iterator[Mutation]:
    """Annotation files and folders as other things of the same name, or as other bytes."""
    for file in files:
        things: dict[str, Callable[[Path], object]] = {
            "a folder": lambda path: path.mkdir(),
            "a pipe": lambda path: os.mkfifo(path),
            "a link to itself": lambda path: path.symlink_to(path.name),
            "a link to nothing": _link("nowhere"),
            "a link to a device": _link("/dev/zero"),
            "not there": lambda path: None,
        }
        for name, make in things.items():
            yield Mutation(layout, f"{file} is {name}", file, _replaced(file, make), less=name == "not there")
        contents: dict[str, Callable[[bytes], bytes]] = {
            "empty": lambda data: b"",
            "cut": lambda data: data[: len(data) // 2],
            "NUL after NUL": lambda data: b"\0" * 300,
            "with a NUL inside": lambda data: data[:20] + b"\0" + data[20:],
            "Latin-1": lambda data: data + "é".encode("latin-1"),
            "an image": lambda data: _encoded("PNG"),
            "zipped": lambda data: b"PK\x03\x04" + zlib.compress(data),
            "with lines apart": lambda data: data.replace(b"\n", b"\r\n\r\n") + b"\n\n",
        }
        lines = file.endswith((".txt", ".yaml"))  # of which any may be missing
        for name, content in contents.items():
            yield Mutation(layout, f"{file} is {name}", file, _put_with(file, content), less=lines)
        for mark, name in ((b"\xef\xbb\xbf", "a byte order mark"), (b"\xef\xbb\xbf" * 2, "two byte order marks")):
            yield Mutation(layout, f"{file} has {name}", file, _put_with(file, lambda data, mark=mark: mark + data))
        for code in ("utf-16", "utf-32", "utf-16-be"):
            yield Mutation(
                layout, f"{file} is {code}", file, _put_with(file, lambda data, code=code: data.decode().encode(code))
            )
    for place in folders:
        for name, make in {
            "a file": lambda path: path.write_text("text"),
            "a link to itself": lambda path: path.symlink_to(path.name),
            "a link to the folder above": _link(".."),
            "a pipe": lambda path: os.mkfifo(path),
            "empty": lambda path: path.mkdir(),
        }.items():
            yield Mutation(layout, f"{place} is {name}", place, _replaced(place, make))
        for name, target in (("itself", "."), ("the folder above", ".."), ("the root", "/")):
            inside = f"{place}/loop"
            yield Mutation(
                layout, f"{place} holds a link to {name}", inside, _replaced(inside, _link(target)), whole=True
            )


def _at_random(layout: str, files: list[str]) -> Iterator[Mutation]:
    for number in range(FUZZED_AT_RANDOM):
        file = files[number % len(files)]

        def content(data: bytes, number: int = number) -> bytes:
            dice = random.Random(f"{layout} {number}")
            while (changed := _bits(data, dice)) == data:
                pass
            return changed

        yield Mutation(layout, f"{file} with other bytes {number}", file, _put_with(file, content), less=True)


def _strange_files(layout: str, folder: str) -> Iterator[Mutation]:
    """Files beside the good ones with names that no tool writes."""
    for name in (
        b"caf\xe9.png",
        b"line\nend.png",
        b"\x1b[2J.png",
        "e\u0301.png".encode(),
        b"-rf.png",
        b"..png",
        b".png",
    ):

        def change(root: Path, name: bytes = name) -> None:
            (root / folder / os.fsdecode(name)).write_bytes(_encoded("PNG"))

        yield Mutation(layout, f"an image is named {name!r}", folder, change, whole=True)


# --- COCO -----------------------------------------------------------------------------------------------------------


def coco_mutations() -> Iterator[Mutation]:
    keys: list[tuple[str | int, ...]] = [("images",), ("annotations",), ("categories",)]
    keys += [("images", 0)] + [("images", 0, key) for key in ("id", "file_name", "width", "height")]
    keys += [("annotations", 0)]
    keys += [("annotations", 0, key) for key in ("id", "image_id", "category_id", "bbox", "area", "iscrowd")]
    keys += [("annotations", 0, "bbox", 2), ("categories", 0), ("categories", 0, "id"), ("categories", 0, "name")]
    for path in keys:
        for name, value in VALUES.items():
            less = value is GONE and path == ("annotations", 0)
            yield Mutation("coco", f"{'.'.join(map(str, path))} {name}", JSON, _key(*path, value=value), less=less)
    for name, value in NAMES.items():
        yield Mutation("coco", f"file_name {name}", JSON, _key("images", 0, "file_name", value=value))
        every = _chain(*(_key("images", row, "file_name", value=value) for row in range(3)))
        yield Mutation("coco", f"every file_name {name}", JSON, every)
        yield Mutation("coco", f"category named {name}", JSON, _key("categories", 0, "name", value=value))
    deep = '{"images": ' + "[" * 100_000 + "]" * 100_000 + "}"
    texts = {
        "a list": "[]", "a number": "3", "null": "null", "an empty object": "{}", "nested deeply": deep,
        "nested deeply in a text": '{"images": [], "info": ' + '{"a":' * 50_000 + "1" + "}" * 50_000 + "}",
        "a number of 10,000 digits": '{"images": [], "info": ' + "1" * 10_000 + "}",
        "two values": '{"images": []}{"images": []}', "a comment": '{"images": [] // none\n}',
    }  # fmt: skip
    for name, text in texts.items():
        yield Mutation("coco", f"JSON is {name}", JSON, _put(JSON, text))
    first = {"id": 1, "file_name": "b.jpg", "width": WIDTH, "height": HEIGHT}
    others: dict[str, Callable[[Path], object]] = {
        "an image id twice": _key("images", 1, value=first),
        "an annotation id twice": _key("annotations", 1, "id", value=1),
        "a category twice": _key("categories", 1, value={"id": 3, "name": "dog"}),
        "a name twice": _key("categories", 1, "name", value="cat"),
        "all of the same id": _key("categories", value=[{"id": 3, "name": "cat"}] * 50),
        "an image id of 2^63": _key("images", 0, "id", value=2**63),
        "an annotation id of -2^70": _key("annotations", 0, "id", value=-(2**70)),
        "a category id of 2^63": _key("categories", 1, "id", value=2**63),
        "a size of 10^9": _chain(_key("images", 0, "width", value=10**9), _key("images", 0, "height", value=10**9)),
        "sides of one": _chain(_key("images", 0, "width", value=1), _key("images", 0, "height", value=1)),
        "boxes of all kinds": _key("annotations", 0, "bbox", value=[1e308, -1e308, 1e308, 1e308]),
        "a box of texts": _key("annotations", 0, "bbox", value=["1", "2", "9", "9e9"]),
        "a box of five": _key("annotations", 0, "bbox", value=[1, 2, 3, 4, 5]),
        "a box in a box": _key("annotations", 0, "bbox", value=[[1, 2, 3, 4]]),
        "no box anywhere": _key("annotations", value=[]),
        "a polygon of text": _key("annotations", 0, "segmentation", value="M 0 0"),
        "a polygon of three": _key("annotations", 0, "segmentation", value=[[1, 2, 3]]),
        "a polygon of infinity": _key("annotations", 0, "segmentation", value=[[float("inf")] * 6]),
        "a mask of 10^9": _key("annotations", 0, "segmentation", value={"counts": [0, 10**18], "size": [10**9, 10**9]}),
        "a mask of text": _key("annotations", 0, "segmentation", value={"counts": "\ud800zz", "size": [HEIGHT, WIDTH]}),
        "a mask without a size": _key("annotations", 0, "segmentation", value={"counts": [1, 2]}),
        "keypoints of text": _key("annotations", 0, "keypoints", value="nose"),
        "keypoints of four": _key("annotations", 0, "keypoints", value=[1, 2, 3, 4]),
        "keypoints of infinity": _key("annotations", 0, "keypoints", value=[float("nan"), float("inf"), 2]),
        "keypoint names of numbers": _key("categories", 0, "keypoints", value=[1, None]),
        "a skeleton of text": _key("categories", 0, "skeleton", value=[["a", 10**30]]),
    }
    for name, change in others.items():
        yield Mutation("coco", name, JSON, change)
    val = "annotations/instances_val.json"
    yield from _places("coco", [JSON, val], ["images/train", "images"])
    yield from _at_random("coco", [JSON])
    yield from _strange_files("coco", "images/train")
    yield from _pictures("coco")


def _chain(*changes: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        for step in changes:
            step(folder)

    return change


# --- VOC ------------------------------------------------------------------------------------------------------------


def voc_mutations() -> Iterator[Mutation]:
    file = "Annotations/a.xml"
    values = {
        "empty": "", "text": "many", "nested": "<a><b><a/></b></a>", "1e308": "1e308", "10^30": str(10**30), "-7": "-7",
        "nan": "nan", "inf": "-inf", "digits": "9" * 5000, "a half": "0.5", "../": "../../outside/a.png",
        "a control character": "&#1;", "a comment": "<!-- 5 -->", "CDATA": "<![CDATA[<5>]]>",
    }  # fmt: skip
    places = {
        "filename": "a.png", "width": str(WIDTH), "height": str(HEIGHT), "name": "cat", "difficult": "0",
        "xmin": "3", "ymax": "11",
    }  # fmt: skip
    for tag, old in places.items():
        element = f"<{tag}>{old}</{tag}>"
        for name, value in values.items():
            yield Mutation("voc", f"{tag} {name}", file, _instead(file, element, f"<{tag}>{value}</{tag}>"))
        yield Mutation("voc", f"{tag} gone", file, _instead(file, element, ""))
        yield Mutation("voc", f"{tag} twice", file, _instead(file, element, element * 2))
    secret = "file:///etc/passwd"
    head = '<?xml version="1.0"?><!DOCTYPE a [{}]><annotation><object><name>&x;</name></object></annotation>'
    laughs = "".join(f'<!ENTITY x{n} "{f"&x{n - 1};" * 10}">' for n in range(1, 12))
    texts = {
        "a billion laughs": head.format(f'<!ENTITY x0 "ha">{laughs}').replace("&x;", "&x11;"),
        "a blow-up": head.format(f'<!ENTITY x "{"a" * 100_000}">').replace("&x;", "&x;" * 1000),
        "an entity outside": head.format(f'<!ENTITY x SYSTEM "{secret}">'),
        "an entity beside": head.format('<!ENTITY x SYSTEM "../../outside/secret.txt">'),
        "a parameter entity": head.format('<!ENTITY % p SYSTEM "../../outside/x.dtd"> %p;'),
        "a DTD outside": '<!DOCTYPE annotation SYSTEM "../../outside/x.dtd">' + "<annotation>&x;</annotation>",
        "an entity nobody declared": "<annotation>&x;</annotation>",
        "an inclusion": _xml([]).replace(
            "<size>", '<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="../../outside/a.xml"/><size>'
        ),
        "nested deeply": "<a>" * 50_000 + "</a>" * 50_000,
        "objects in objects": _xml([]).replace("</annotation>", "<object>" * 500 + "</object>" * 500 + "</annotation>"),
        "another root": "<x/>", "two roots": "<annotation/><annotation/>", "not closed": "<annotation><object>",
        "an unknown encoding": _xml([]).replace('"1.0"', '"1.0" encoding="klingon"'),
        "a false encoding": _xml([]).replace('"1.0"', '"1.0" encoding="utf-16"'),
        "a Chinese encoding": _xml([]).replace('"1.0"', '"1.0" encoding="gb2312"'),
        "a codec that is no encoding": _xml([]).replace('"1.0"', '"1.0" encoding="rot13"'),
        "10,000 attributes": "<annotation " + " ".join(f'a{n}="1"' for n in range(10_000)) + "/>",
        "the same attribute twice": '<annotation a="1" a="2"/>',
        "names of all kinds": _xml([("\x7f&#x85;", 1, 1, 9, 9), ("cat dog", 1, 1, 9, 9), ("&lt;b&gt;", 1, 1, 9, 9)]),
        "a long name": _xml([("cat" * 10_000, 1, 1, 9, 9)]),
    }  # fmt: skip
    less = {"an inclusion", "10,000 attributes", "a long name"}
    for name, text in texts.items():
        yield Mutation("voc", f"XML has {name}", file, _put(file, text), less=name in less)
    listing = "ImageSets/Main/train.txt"
    for name, value in NAMES.items():
        yield Mutation("voc", f"listed {name}", listing, _put(listing, f"a\nb\nc\n{value}\n"))
        yield Mutation("voc", f"listed alone {name}", listing, _put(listing, f"{value}\n"), less=True)
    lists = {
        "twice": "a\nb\nc\na\nb\nc\n", "with flags": "a 1\nb -1\nc 0\n", "itself": "train.txt\na\n",
        "10,000 times": "a\n" * 10_000, "what is not there": "a\nx\ny\n", "the other split": "v\na\n",
        "blanks": " \n\t\n",
    }  # fmt: skip
    for name, text in lists.items():
        whole = name in ("twice", "with flags")
        yield Mutation("voc", f"listing has {name}", listing, _put(listing, text), whole=whole, less=not whole)
    names = {"other names": "fish\n", "no text": b"\xff\xfe\xff", "the same twice": "cat\ncat\ndog\n", "NUL": "\0\n"}
    for name, content in names.items():
        told = file if name == "other names" else "labels.txt"
        yield Mutation("voc", f"labels.txt has {name}", told, _put("labels.txt", content))
    yield from _places("voc", [file, listing], ["JPEGImages", "Annotations"])
    yield from _at_random("voc", [file, listing])
    yield from _strange_files("voc", "JPEGImages")
    yield from _pictures("voc")


# --- YOLO -----------------------------------------------------------------------------------------------------------


def yolo_mutations() -> Iterator[Mutation]:
    file = "labels/train/a.txt"
    good = "0 0.3 0.3 0.3 0.3\n"
    lines = {
        "letters": "cat 0.5 0.5 0.1 0.1", "three": "0 0.5 0.5", "one": "0", "six": "0 0.5 0.5 0.1 0.1 0.9",
        "401": "0 " + "0.5 " * 400, "400": "0 " + "0.5 " * 399, "100,001": "0 " + "0.5 " * 100_000,
        "nan": "0 nan 0.5 0.1 0.1", "nan class": "nan 0.5 0.5 0.1 0.1", "1e400": "0 0.5 1e400 0.1 0.1",
        "inf class": "inf 0.5 0.5 0.1 0.1", "negative class": "-1 0.5 0.5 0.1 0.1", "half class": "0.5 0.5 0.5 0.1 0.1",
        "class 10^20": f"{10**20} 0.5 0.5 0.1 0.1", "class 1e300": "1e300 0.5 0.5 0.1 0.1",
        "class 10^9": f"{10**9} 0.5 0.5 0.1 0.1", "class of 5000 digits": "9" * 5000 + " 0.5 0.5 0.1 0.1",
        "negative size": "0 0.5 0.5 -0.1 0.1", "no size": "0 0.5 0.5 0 0", "pixels": "0 16 12 10 10",
        "far away": "0 1e308 -1e308 1e308 1e308", "commas": "0,0.5,0.5,0.1,0.1", "decimal commas": "0 0,5 0,5 0,1 0,1",
        "Arabic digits": "\u0660 \u0660.\u0665 \u0660.\u0665 0.1 0.1",
        "full-width digits": "\uff10 \uff10.\uff15 0.5 0.1 0.1", "hex": "0x0 0.5 0.5 0.1 0.1",
        "polygon of nan": "0 nan 0.5 0.1 nan 0.3 0.3", "polygon of one point": "0" + " 0.5 0.5" * 3,
        "polygon of 1e308": "0 1e308 -1e308 -1e308 1e308 0.3 0.3", "NUL": "0 0.5 0.5 0.1 0.1\0", "quote": '"0 0.5',
        "a long line": "0 0.5 0.5 0.1 " + "1" * 100_000, "JSON": '{"class": 0}', "a formula": "=1+1 0.5 0.5 0.1 0.1",
    }  # fmt: skip
    no_names = _put(YAML, "train: images/train\nval: images/val\n")
    for name, line in lines.items():
        yield Mutation("yolo", f"line {name}", file, _put(file, good + line + "\n"))
        yield Mutation("yolo", f"line {name}, no names", file, _chain(no_names, _put(file, good + line + "\n")))
    head, tail = "train: images/train\nval: images/val\n", "val: images/val\nnames: [cat, dog]\n"
    aliases = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
    merges = "a0: &a0 {x: 1}\n" + "".join(
        f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12)
    )
    texts = {
        "names null": head + "names: null", "names number": head + "names: 2", "names text": head + "names: cat",
        "names nested": head + "names: [[cat], {dog: 1}]", "names twice": head + "names: [cat, cat]",
        "names null inside": head + "names: [cat, null]", "names keys of both kinds": head + "names: {0: cat, a: dog}",
        "names from 1": head + "names: {1: cat, 2: dog}", "names from -1": head + "names: {-1: cat, 0: dog}",
        "names at 10^12": head + "names: {0: cat, 1000000000000: dog}", "names too few": head + "names: [cat]",
        "names nan": head + "names: {.nan: cat, .inf: dog}", "names of dates": head + "names: [2001-01-01, 1.5]",
        "names binary": head + 'names: [!!binary "/w==", dog]', "names surrogate": head + 'names: ["\\ud800", dog]',
        "names control": head + 'names: ["\\e[2J", "a\\nb"]', "nc 10^12": head + "nc: 1000000000000",
        "names empty": head + "names: []", "names empty texts": head + 'names: ["", " "]',
        "nc -3": head + "nc: -3", "nc true": head + "nc: true", "nc text": head + "nc: two",
        "nc nan": head + "nc: .nan",
        "python object": head + 'names: !!python/object/apply:os.system ["touch pwned"]',
        "python name": "train: !!python/name:os.system\n", "an unknown tag": "train: !x images/train\n" + tail,
        "aliases": head + "names: [&a cat, *a]", "many aliases": aliases + "names: *a11\n" + head,
        "aliases for train": aliases + "train: *a11\nnames: [cat, dog]\n", "many merges": merges + head,
        "names of itself": head + "names: &a [*a, cat]", "nested deeply": head + "names: " + "[" * 20_000,
        "a false date": head + "names: [cat, dog]\nday: 2001-99-99", "a false number": head + "names: [!!int x]",
        "a number of 10,000 digits": head + f"names: [cat, dog]\nnc: {'1' * 10_000}",
        "a key that is a list": "? [1]\n: 2\n" + head,
        "the same key twice": head + "train: images/val\nnames: [cat, dog]",
        "two documents": head + "---\n" + head, "a list": "- a\n- b\n", "a number": "3",
        "tabs": "train:\timages\n\tval: x",
        "train null": "train:\n" + tail, "train number": "train: 5\n" + tail, "train object": "train: {a: b}\n" + tail,
        "train nested": "train: [[images/train]]\n" + tail, "train empty": 'train: ""\n' + tail,
        "train list of nulls": "train: [null, null]\n" + tail,
        "train twice": "train: [images/train, images/train]\n" + tail,
        "train within train": "train: [images, images/train]\n" + tail, "train is val": "train: images/val\n" + tail,
        "train is an image": "train: images/train/a.png\n" + tail, "train is itself": "train: data.yaml\n" + tail,
        "train nul": 'train: "images\\0"\n' + tail, "train long": f"train: {'a' * 300}\n" + tail,
        "train is the folder": "train: .\n" + tail, "train with a half": "train: [images/train, nowhere]\n" + tail,
        "path number": "path: 5\ntrain: images/train\n" + tail, "path list": "path: [a]\ntrain: images/train\n" + tail,
        "path nowhere": "path: /nowhere/at/all\ntrain: images/train\n" + tail,
        "path nul": 'path: "\\0"\ntrain: images/train\n' + tail, "path home": "path: ~\ntrain: images/train\n" + tail,
    }  # fmt: skip
    for name, text in texts.items():
        told = PICTURES["yolo"] if name == "train is an image" else YAML
        yield Mutation("yolo", f"YAML has {name}", told, _put(YAML, text), less=name == "train is val")
    for name, place in {
        "the root": "/", "above": "..", "outside": "../outside/images/train", "a list outside": "../outside/list.txt",
        "outside by a detour": "images/../../outside/images/train", "a device": "/dev",
        "outside, Windows": "..\\outside",
        "a file outside": "/etc/passwd", "both": "[images/train, ../outside/images/train]", "where we are": "train",
    }.items():  # fmt: skip
        yield Mutation("yolo", f"train leads to {name}", YAML, _put(YAML, f"train: {place}\n" + tail))
        named = f"path: {place.strip('[]')!r}\ntrain: images/train\n" + tail
        yield Mutation("yolo", f"path leads to {name}", YAML, _put(YAML, named))
        named = "train: images/train\nval: " + place + "\nnames: [cat, dog]\n"
        yield Mutation("yolo", f"val leads to {name}", YAML, _put(YAML, named))
    listing = "train.txt"
    described = _put(YAML, "train: train.txt\n" + tail)
    usual = "images/train/a.png\nimages/train/b.jpg\nimages/train/c.png\n"
    for name, value in NAMES.items():
        text = f"{usual}{value}\n"
        yield Mutation("yolo", f"listed {name}", listing, _chain(described, _put(listing, text)))
        yield Mutation("yolo", f"listed alone {name}", listing, _chain(described, _put(listing, f"{value}\n")))
    lists: dict[str, str | bytes] = {
        "itself": usual + "train.txt\n", "only itself": "train.txt\n", "the description": usual + "data.yaml\n",
        "files twice": usual * 2, "files by two names": usual + "./images/train/../train/a.png\n",
        "no text": b"\xff\xfe\xff", "nothing": "", "a folder": usual + "images/train\n",
        "absolute": "".join(f"/home/somebody/{line}\n" for line in usual.split()),
    }  # fmt: skip
    for name, content in lists.items():
        yield Mutation("yolo", f"listing has {name}", listing, _chain(described, _put(listing, content)))
    two = _chain(_put(YAML, "train: [train.txt, more.txt]\n" + tail), _put(listing, "images/train/a.png\n"))
    yield Mutation("yolo", "two listings", "more.txt", _chain(two, _put("more.txt", usual)), whole=True)
    crossed = _chain(_put(YAML, "train: [train.txt, images/train]\n" + tail), _put(listing, "images/train/a.png\n"))
    yield Mutation("yolo", "a listing and a folder", listing, crossed, whole=True)
    yield from _places("yolo", [file, YAML], ["images/train", "labels/train", "labels"])
    yield from _at_random("yolo", [file, YAML])
    yield from _strange_files("yolo", "images/train")
    yield from _pictures("yolo")


MUTATIONS = [*coco_mutations(), *voc_mutations(), *yolo_mutations()]
