"""Every rule of the doctor finds what it is for, names it, and is silent on data that are sound."""

import json
import re
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import pytest
from PIL import Image
from tests.annotated import picture, voc_xml
from tests.scenes_on_disk import entry, scene, write_coco

from aweigh.annotations.split import Split
from aweigh.inspect import findings
from aweigh.inspect.doctor import Examination, examine, quick
from aweigh.inspect.findings import Finding
from aweigh.layouts.load import find_splits, load_split

BOX = [20.0, 20.0, 30.0, 30.0]


def load(root: Path) -> dict[str, Split]:
    return {name: load_split(root, name) for name in find_splits(root)}


def sound(root: Path, *, boxes: int = 24) -> Path:
    """Train and val of six and four images, 12 boxes of each class in train."""
    train = {f"t{number}.jpg": scene(number) for number in range(6)}
    val = {f"v{number}.jpg": scene(100 + number) for number in range(4)}
    rows = [entry(n, 1 + n % 6, [5 + n, 10 + n, 40, 30 + n], 1 + n % 2) for n in range(1, boxes + 1)]
    write_coco(root, "train", train, rows)
    return write_coco(root, "val", val, [entry(n, n, [5 + n, 10, 40, 30], 1 + n % 2) for n in (1, 2, 3, 4)])


def change(root: Path, split: str, edit: Any) -> None:
    """Edit the annotation file of a split in place."""
    file = root / "annotations" / f"instances_{split}.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def found(examination: Examination, kind: str, split: str | None = None) -> Finding:
    matching = [one for one in examination.findings if one.kind == kind and split in (None, one.split)]
    assert len(matching) == 1, [(one.kind, one.split) for one in examination.findings]
    return matching[0]


def kinds(examination: Examination) -> set[str]:
    return {one.kind for one in examination.findings}


def test_sound_data_have_nothing_to_complain_of(tmp_path: Path) -> None:
    splits = load(sound(tmp_path / "set"))
    examination = examine(splits)
    assert examination.findings == () and examination.sound
    assert examination.verdict() == "nothing to complain of"
    assert [(split.pictures, split.boxes) for split in examination.splits] == [(6, 24), (4, 4)]
    assert [(row.name, row.boxes, row.pictures["val"]) for row in examination.classes] == [
        ("cat", {"train": 12, "val": 2}, 2),
        ("dog", {"train": 12, "val": 2}, 2),
    ]
    assert sum(examination.splits[0].sizes) == 24
    assert quick(splits["train"], splits["val"]) == ["data check: 28 boxes in 10 images, nothing to complain of"]


@pytest.mark.parametrize(
    ("kind", "boxes", "severity", "count"),
    [
        ("zero-size box", [[20, 20, 0, 10]], "error", 1),
        ("corners exchanged", [[40, 20, -9, 10]], "warning", 1),
        ("box outside the image", [[500, 20, 9, 10]], "error", 1),
        ("box under one pixel", [[20, 20, 0.5, 10]], "error", 1),
        ("box over the edge", [[150, 20, 30, 10]], "warning", 1),
        ("box as large as the image", [[0, 0, 160, 120]], "note", 1),
        ("very long box", [[5, 60, 126, 6]], "note", 1),
        ("tiny box", [[5, 60, 3, 6]], "note", 1),
        ("same box twice", [BOX, BOX, BOX], "warning", 2),
        ("nearly the same box twice", [BOX, [20, 20, 30, 30.5]], "warning", 1),
    ],
)
def test_bad_boxes(tmp_path: Path, kind: str, boxes: list[list[float]], severity: str, count: int) -> None:
    root = sound(tmp_path / "set")
    change(
        root, "train", lambda data: data["annotations"].extend(entry(900 + n, 2, box) for n, box in enumerate(boxes))
    )
    examination = examine(load(root))
    assert kinds(examination) == {kind}
    finding = found(examination, kind)
    assert (finding.split, finding.severity, finding.count) == ("train", severity, count)
    assert finding.count < finding.of <= 24 + len(boxes) and finding.unit == "boxes" and finding.advice
    problem = finding.examples[-1].problem
    assert problem.where == "t1.jpg" and problem.annotation == 900 + len(boxes) - 1
    assert "t1.jpg annotation 90" in examination.text() and finding.examples[0].image == 1


def test_one_object_of_two_classes(tmp_path: Path) -> None:
    root = sound(tmp_path / "set")
    pair = [entry(900, 2, [20, 20, 30, 30], 1), entry(901, 2, [20, 20, 30, 30], 2)]
    change(root, "train", lambda data: data["annotations"].extend(pair))
    finding = found(examine(load(root)), "one object, two classes")
    assert finding.count == 1 and "dog" in finding.examples[0].problem.detail and len(finding.examples[0].boxes) == 2


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        ("looks like corners (x0, y0, x1, y1) stored as sizes", lambda x, y, w, h: [x, y, x + w, y + h]),
        (
            "looks like fractions of the image instead of pixels",
            lambda x, y, w, h: [x / 160, y / 120, w / 160, h / 120],
        ),
        ("looks like centres stored as corners", lambda x, y, w, h: [x + w / 2, y + h / 2, w, h]),
        ("looks like x and y exchanged", lambda x, y, w, h: [y, x, h, w]),
    ],
)
def test_coco_boxes_written_as_something_else(tmp_path: Path, kind: str, written: Any) -> None:
    random = np.random.default_rng(1)
    corners = random.uniform(0, 1, (60, 2)) * [130, 90] + [1, 1]
    sizes = random.uniform(0.3, 1, (60, 2)) * ([159, 119] - corners)
    right = [[*corner, *size] for corner, size in zip(corners.tolist(), sizes.tolist(), strict=True)]
    rows = [entry(n, 1 + n % 4, written(*box)) for n, box in enumerate(right, start=1)]
    write_coco(tmp_path, "train", {f"{n}.jpg": scene(n) for n in range(4)}, [*rows, entry(99, 1, [1, 1, 20, 20])])
    finding = found(examine({"train": load_split(tmp_path)}, pictures=False), kind)
    assert finding.severity == "error" and "%" in finding.examples[0].problem.detail
    assert finding.line() == "train: 1 file" or finding.count > 0.05 * finding.of > 1


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        ("looks like corners stored as centres", lambda x, y, w, h: [x, y, w, h]),
        (
            "looks like corners (x0, y0, x1, y1) stored as centre and size",
            lambda x, y, w, h: [x, y, x + w, y + h],
        ),
    ],
)
def test_yolo_boxes_written_as_something_else(tmp_path: Path, kind: str, written: Any) -> None:
    random = np.random.default_rng(2)
    corners = random.uniform(0, 0.7, (40, 2))
    sizes = random.uniform(0.3, 1, (40, 2)) * (1 - corners)
    rows = [written(*corner, *size) for corner, size in zip(corners.tolist(), sizes.tolist(), strict=True)]
    picture(tmp_path / "images" / "train" / "a.png", 160, 120)
    label = tmp_path / "labels" / "train" / "a.txt"
    label.parent.mkdir(parents=True)
    label.write_text("".join("0 " + " ".join(f"{value:.5f}" for value in row) + "\n" for row in rows))
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [cat]\n")
    assert found(examine({"train": load_split(tmp_path)}, pictures=False), kind).severity == "error"


@pytest.mark.parametrize(
    ("kind", "corners"),
    [
        ("corners that count from 0", [0, 4, 20, 20]),
        ("looks like sizes stored as corners", [22, 16, 12, 11]),
    ],
)
def test_voc_boxes_written_as_something_else(tmp_path: Path, kind: str, corners: list[float]) -> None:
    picture(tmp_path / "JPEGImages" / "a.png")
    (tmp_path / "Annotations").mkdir()
    good = [3, 3, 12, 12]
    objects = [("cat", corners, 0), ("cat", corners, 0), ("cat", good, 0)]
    (tmp_path / "Annotations" / "a.xml").write_text(voc_xml(objects))
    assert found(examine({"train": load_split(tmp_path)}, pictures=False), kind).count >= 1


def test_pictures_that_training_could_not_use(tmp_path: Path) -> None:
    root = sound(tmp_path / "set")
    folder = root / "images" / "train"
    folder.joinpath("t0.jpg").write_bytes(folder.joinpath("t0.jpg").read_bytes()[:1500])
    folder.joinpath("t1.jpg").write_text("no image")
    scene(2, 80, 60).save(folder / "t2.jpg")
    scene(3, 160, 60).save(folder / "t3.jpg")
    turned = scene(4).getexif()
    turned[0x0112] = 6
    scene(4).save(folder / "t4.jpg", exif=turned)
    turned[0x0112] = 3
    scene(5).save(folder / "t5.jpg", exif=turned)

    examination = examine(load(root))
    unreadable = found(examination, "unreadable image")
    assert [case.problem.where for case in unreadable.examples] == ["t0.jpg", "t1.jpg"]
    assert "cut short" in unreadable.examples[0].problem.detail
    assert "80 x 60" in found(examination, "another size than declared").examples[0].problem.detail
    assert found(examination, "another shape than declared").severity == "error"
    assert found(examination, "annotated before EXIF rotation").examples[0].problem.where == "t4.jpg"
    assert found(examination, "EXIF rotation that the size cannot confirm").examples[0].problem.where == "t5.jpg"
    header = examine(load(root), pictures=False)
    assert [case.problem.where for case in found(header, "unreadable image").examples] == ["t1.jpg"]
    assert "pixels of the images were not read" in header.verdict()


def test_the_same_picture_within_and_across_splits(tmp_path: Path) -> None:
    root = sound(tmp_path / "set")
    train, val = root / "images" / "train", root / "images" / "val"
    val.joinpath("v0.jpg").write_bytes(train.joinpath("t0.jpg").read_bytes())
    train.joinpath("t2.jpg").write_bytes(train.joinpath("t1.jpg").read_bytes())
    scene(3, 120, 90).resize((160, 120)).save(val / "v3.jpg", quality=60)
    scene(5).save(train / "t4.jpg", quality=50)

    examination = examine(load(root))
    leak = found(examination, "same image in two splits")
    assert (leak.split, leak.count, leak.of, leak.severity) == ("train, val", 1, 10, "error")
    assert leak.examples[0].problem.where == "v0.jpg" and "t0.jpg in train" in leak.examples[0].problem.detail
    assert leak.examples[0].beside == ("train", 0)
    assert found(examination, "same image twice").examples[0].problem.where == "t2.jpg"
    assert found(examination, "look-alike images in two splits").examples[0].problem.where == "v3.jpg"
    assert found(examination, "look-alike images").examples[0].problem.where == "t5.jpg"
    assert kinds(examine(load(root), pictures=False)) == set()


def test_one_file_in_two_splits_is_found_without_opening_it(tmp_path: Path) -> None:
    root = sound(tmp_path / "set")
    splits = load(root)
    lines = quick(splits["train"], splits["train"].take([0, 3], name="val"))
    assert any("same file in two splits" in line and "t0.jpg" in line for line in lines)


def test_classes(tmp_path: Path) -> None:
    root = sound(tmp_path / "set", boxes=12)
    names = ["cat", "dog", "Cats", "traffic_light", "Traffic Lights", "background", "never"]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    more = [entry(900 + n, 1, [4 + n, 5, 20, 20], category) for n, category in enumerate((3, 6))]
    change(root, "train", lambda data: data.update(categories=categories, annotations=[*data["annotations"], *more]))
    only_val = [entry(900, 1, [4, 5, 20, 20], 4)]
    change(root, "val", lambda data: data.update(categories=categories[:6], annotations=only_val))
    examination = examine(load(root), pictures=False)
    alike = found(examination, "class names that differ little")
    assert [case.problem.where for case in alike.examples] == ["cat", "traffic_light"]
    assert [case.problem.where for case in found(examination, "class named background").examples] == ["background"]
    assert [case.problem.where for case in found(examination, "class in val or test, not in train").examples] == [
        "traffic_light"
    ]
    few = found(examination, "class with few boxes")
    assert [case.problem.where for case in few.examples] == ["Cats", "background", "cat", "dog"]
    assert few.examples[0].problem.detail == "1 box"
    assert {case.problem.where for case in found(examination, "class without a box").examples} == {
        "Traffic Lights",
        "never",
    }
    assert found(examination, "splits with different classes").examples[0].problem.where == "val"
    assert found(examination, "class not in val").count == 4


def test_images_without_objects_are_counted_by_what_is_known_of_them(tmp_path: Path) -> None:
    root = sound(tmp_path / "set")

    def empty_two(data: dict[str, Any]) -> None:
        data["annotations"] = [row for row in data["annotations"] if row["image_id"] > 3]
        data["images"][0]["reviewed"] = True
        data["images"][1]["reviewed"] = False

    change(root, "train", empty_two)
    examination = examine(load(root))
    assert found(examination, "never labelled").examples[0].problem.where == "t1.jpg"
    empty = found(examination, "without objects")
    assert empty.examples[0].problem.detail == "looked at" and empty.count == 2
    assert (examination.splits[0].empty, examination.splits[0].looked_at, examination.splits[0].never_labelled) == (
        3,
        1,
        1,
    )


def test_ids_missing_files_and_forgotten_ones(tmp_path: Path) -> None:
    root = sound(tmp_path / "set")
    (root / "images" / "train" / "t5.jpg").unlink()
    scene(50).save(root / "images" / "train" / "forgotten.jpg")

    def edit(data: dict[str, Any]) -> None:
        data["annotations"][1]["id"] = data["annotations"][0]["id"]
        data["annotations"].append(entry(800, 77, BOX))
        data["annotations"].append(entry(801, 1, BOX, 99))

    change(root, "train", edit)
    examination = examine(load(root))
    assert found(examination, "duplicate annotation id").count == 1
    assert found(examination, "annotation for a missing image").examples[0].problem.annotation == 800
    assert found(examination, "label out of range").examples[0].problem.annotation == 801
    assert found(examination, "image file missing").examples[0].problem.where == "t5.jpg"
    forgotten = found(examination, "not named by any annotation file")
    assert [case.problem.where for case in forgotten.examples] == ["forgotten.jpg"]


def test_thousands_of_one_kind_are_one_finding(tmp_path: Path) -> None:
    rows = [entry(n, 1, [1 + n % 100, 1 + n % 80, 2, 2]) for n in range(1, 3001)]
    write_coco(tmp_path, "train", {"a.jpg": scene(1)}, rows)
    examination = examine({"train": load_split(tmp_path)})
    tiny = found(examination, "tiny box")
    assert tiny.count == 3000 and len(tiny.examples) == 1000
    assert len(examination.text().splitlines()) < 30
    assert len(quick(load_split(tmp_path), None)) < 4


def test_every_kind_that_a_reader_reports_has_its_advice() -> None:
    package = Path(findings.__file__).parents[1]
    source = "".join(path.read_text() for room in ("layouts", "annotations") for path in (package / room).glob("*.py"))
    reported = set(re.findall(r'Problem\(\s*"([^"]+)"', source)) | set(re.findall(r'kinds\[.*\] = "([^"]+)"', source))
    assert len(reported) > 20 and reported - set(findings.KINDS) == set()


def test_what_goes_into_json(tmp_path: Path) -> None:
    root = sound(tmp_path / "set")
    change(root, "train", lambda data: data["annotations"].append(entry(900, 2, [20, 20, 0, 10])))
    content = json.loads(json.dumps(examine(load(root)).to_dict(), allow_nan=False))
    assert content["schema"].startswith("aweigh.data_check/") and content["verdict"] == {
        "error": 1,
        "warning": 0,
        "note": 0,
    }
    (finding,) = content["findings"]
    assert finding["examples"][0]["file"] == "t1.jpg" and finding["examples"][0]["annotation"] == 900
    assert content["splits"][0]["pictures"] == 6 and len(content["size_edges"]) == len(content["splits"][0]["sizes"])


def test_counts_agree_with_the_health_check_of_hotcoco(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(3)
    pictures: dict[str, Image.Image] = {f"{n}.jpg": scene(n) for n in range(8)}
    corners, sizes = random.uniform(-10, 150, (300, 2)), random.choice([-4, 0, 8, 20, 60, 150], (300, 2))
    boxes = np.column_stack([corners, sizes]).round(1).tolist()
    rows = [entry(n, 1 + n % 8, box, 1 + n % 2) for n, box in enumerate(boxes, start=1)]
    rows += [entry(500 + n, rows[n]["image_id"], rows[n]["bbox"], rows[n]["category_id"]) for n in range(20)]
    rows += [entry(600, 99, BOX), entry(601, 1, BOX, 9)]
    write_coco(tmp_path, "train", pictures, rows)
    report = hotcoco.COCO(str(tmp_path / "annotations" / "instances_train.json")).healthcheck()
    theirs = {one["code"]: set(one["affected_ids"]) for one in [*report["errors"], *report["warnings"]]}

    split = load_split(tmp_path)
    named: dict[str, set[Any]] = {}
    for one in examine({"train": split}, pictures=False).findings:
        named[one.kind] = {case.problem.annotation for case in one.examples}
    assert named["zero-size box"] | named["corners exchanged"] == theirs["degenerate_bbox"]
    assert named["annotation for a missing image"] == theirs["orphan_image_id"] == {600}
    assert named["label out of range"] == theirs["orphan_category_id"] == {601}
    beyond = named["box over the edge"] | named["box outside the image"]
    assert beyond - theirs["bbox_out_of_bounds"] <= named["corners exchanged"]  # which theirs takes for no box
    # Theirs names boxes without a size twice over, and both of a pair of duplicates; ours each record once.
    assert theirs["bbox_out_of_bounds"] - beyond <= theirs["degenerate_bbox"] | named.get("box under one pixel", set())
    kept = {int(number) for number in split.annotation_ids}
    assert named["same box twice"] - named["corners exchanged"] <= theirs["near_duplicate"]
    assert named["same box twice"] <= kept
    capfd.readouterr()


def test_real_photographs(shared: Path) -> None:
    cells = examine(load(shared / "data" / "bccd"))
    assert [one.count for one in cells.findings if one.kind == "zero-size box"] == [1, 1]
    leak = found(cells, "look-alike images in two splits")
    assert leak.count == 1 and re.search(r"BloodImage_0003[78]", leak.examples[0].problem.where)
    assert cells.count("error") == 1 and cells.count("warning") == 1


def test_the_start_of_training_does_not_praise_what_it_lists(tmp_path: Path) -> None:
    """Two records that cannot be used: they are counted in the line that follows the list of them."""
    root = sound(tmp_path / "set")
    bad = [entry(900, 2, [20, 20, 0, 10]), entry(901, 3, [20, float("nan"), 5, 10])]
    change(root, "train", lambda data: data["annotations"].extend(bad))
    splits = load(root)
    total = quick(splits["train"], splits["val"])[0]
    assert total.startswith("data check: 28 boxes in 10 images, 2 problems") and "nothing to complain of" not in total
