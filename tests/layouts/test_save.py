"""Written data sets read back as what they were, as far as the layout can hold it; what it cannot is told."""

import json
import shutil
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.annotated import Make, coco_dict, picture, voc_xml

from aweigh.annotations.split import NEVER_LABELLED, NOT_SAID, REVIEWED, Split
from aweigh.classes import Classes
from aweigh.errors import AweighError, DataError, UsageError
from aweigh.images.reader import read_image
from aweigh.layouts.load import find_splits, load_split
from aweigh.layouts.save import not_held, save_dataset
from aweigh.layouts.yolo_write import join_polygons

OUTLINE = [5.0, 6.0, 15.0, 6.0, 15.0, 18.0, 5.0, 18.0]


def rich_dict() -> dict[str, Any]:
    """One of everything a COCO file can say."""
    data = coco_dict([[5, 6, 10, 12], [1.5, 2.25, 38.5, 20], [30, 20, 20, 20], [2, 2, 0.5, 9], [0, 0, 40, 30]])
    data["annotations"][0] |= {"segmentation": [OUTLINE], "area": 119.5, "attributes": {"rotation": 30}}
    data["annotations"][1] |= {"category_id": 7, "difficult": 1, "ignore": 1, "truncated": 1, "segmentation": []}
    data["annotations"][2] |= {"segmentation": [[30, 20, 50, 20, 50, 40, 30, 40]]}
    data["annotations"][3] |= {"segmentation": [], "occluded": True}
    data["annotations"][4] |= {"iscrowd": 1, "segmentation": {"size": [30, 40], "counts": [5, 1195]}}
    for number, entry in enumerate(data["annotations"]):
        points = [6, 7, 2, 8.25, 9.5, 1, 0, 0, 0] if number == 0 else [0] * 9
        entry |= {"keypoints": points, "num_keypoints": sum(seen > 0 for seen in points[2::3])}
    for category in data["categories"]:
        category |= {"keypoints": ["nose", "left_eye", "right_eye"], "skeleton": [[1, 2]]}
    data["categories"][0]["supercategory"] = "animal"
    data["images"][0] |= {"license": 4, "coco_url": "ä"}
    data["images"][1]["reviewed"] = True
    return data | {"info": {"year": 2020}, "licenses": [{"id": 4, "name": "free"}]}


def saved(split: Split, out: Path, layout: str) -> Split:
    save_dataset({split.name: split}, out, layout)
    return load_split(out, split.name)


def objects(split: Split) -> dict[str, list[tuple[str, list[float], bool]]]:
    """Class, box and flag of each object by the name of its image."""
    return {
        split.paths[image].name: [
            (split.classes.names[split.labels[row]], split.boxes[row].tolist(), bool(split.ignore[row]))
            for row in range(split.first[image], split.first[image + 1])
        ]
        for image in range(len(split))
    }


def assert_same_objects(one: Split, other: Split, *, atol: float) -> None:
    first, second = objects(one), objects(other)
    assert first.keys() == second.keys()
    for name, found in first.items():
        assert [entry[::2] for entry in found] == [entry[::2] for entry in second[name]]
        boxes, others = ([entry[1] for entry in entries] for entries in (found, second[name]))
        np.testing.assert_allclose(boxes, others, atol=atol)


def test_coco_holds_everything(coco: Make, tmp_path: Path) -> None:
    data = rich_dict()
    split = load_split(coco(data))
    assert save_dataset({"train": split}, tmp_path / "out", "coco") == []
    again = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
    order = {entry["id"]: entry for entry in again["annotations"]}
    for entry in data["annotations"]:
        written = order[entry["id"]]
        assert {key: written[key] for key in entry} == entry
        assert written.keys() - entry.keys() <= {"segmentation"}
    assert len(order) == len(data["annotations"]) and again["images"] == data["images"]
    assert again["categories"] == data["categories"] and again["info"] == data["info"]
    back = load_split(tmp_path / "out")
    assert back.content_hash == split.content_hash and back.to_coco() == split.to_coco()


def test_what_yolo_and_voc_cannot_hold_is_told(coco: Make, tmp_path: Path) -> None:
    splits = {"train": load_split(coco(rich_dict()))}
    told = {layout: {line.split(": ")[0]: line for line in not_held(splits, layout)} for layout in ("voc", "yolo")}
    both = {
        "category ids", "image ids", "annotation ids", "boxes over the edge", "boxes too small or outside the image",
        "crowd", "masks", "areas", "field 'license' of 1 image", "field 'coco_url' of 1 image",
        "field 'info' of the data set", "field 'licenses' of the data set", "field 'supercategory' of the data set",
    }  # fmt: skip
    both -= {"image ids"}
    assert told["voc"].keys() == both | {"keypoints", "skeleton"}
    assert told["yolo"].keys() == both | {
        "difficult", "field 'attributes' of 1 object", "field 'truncated' of 1 object"
    }  # fmt: skip
    assert told["yolo"]["masks"].startswith("masks: 3 masks left out")
    assert save_dataset(splits, tmp_path / "yolo", "yolo") == list(told["yolo"].values())


def test_coco_to_voc_and_back(coco: Make, tmp_path: Path) -> None:
    split = load_split(coco(rich_dict()))
    voc = saved(split, tmp_path / "voc", "voc")
    assert voc.layout == "voc" and voc.problems == [] and voc.classes.names == ("cat", "dog")
    assert_same_objects(voc, split, atol=1e-3)
    assert voc.extras is not None and json.loads(voc.extras[1]) == {"truncated": 1}
    back = saved(voc, tmp_path / "back", "coco")
    assert_same_objects(back, split, atol=1e-3)
    assert back.reviewed.tolist() == [REVIEWED, REVIEWED]
    again = saved(back, tmp_path / "again", "voc")
    for file in sorted((tmp_path / "voc").rglob("*.xml")):
        assert file.read_text() == (tmp_path / "again" / file.relative_to(tmp_path / "voc")).read_text()
    assert not_held({"train": again}, "coco") == not_held({"train": voc}, "voc") == []


boxes = st.tuples(st.floats(0, 395), st.floats(0, 295), st.floats(1, 400), st.floats(1, 300)).map(
    lambda box: [box[0], box[1], min(max(box[2], 1.0), 400 - box[0]), min(max(box[3], 1.0), 300 - box[1])]
)


@settings(deadline=None, max_examples=12)
@given(st.lists(st.tuples(boxes, st.sampled_from([3, 7])), min_size=1, max_size=6), st.sampled_from(["voc", "yolo"]))
@example([([0.0, 63.31999462994909, 1.0, 1.0], 3)], "voc")  # a step of 32 bits shorter once it is kept in them
def test_round_trips_move_no_box_by_half_a_pixel(entries: list[tuple[list[float], int]], layout: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = coco_dict([box for box, _ in entries])
        for image in data["images"]:
            image |= {"width": 400, "height": 300}
            picture(root / "set" / "images" / image["file_name"], 400, 300)
        for entry, (_, category) in zip(data["annotations"], entries, strict=True):
            entry["category_id"] = category
        (root / "set" / "annotations").mkdir()
        (root / "set" / "annotations" / "instances_train.json").write_text(json.dumps(data))
        split = load_split(root / "set")
        there = saved(split, root / "there", layout)
        back = saved(there, root / "back", "coco")
        assert not [problem for problem in [*there.problems, *back.problems] if problem.action != "kept"]
        assert_same_objects(back, split, atol=1e-3)


def test_yolo_agrees_with_hotcoco(coco: Make, tmp_path: Path) -> None:
    root = coco(coco_dict([[5, 6, 10, 12], [1.5, 2.25, 30, 20]]))
    save_dataset({"train": load_split(root)}, tmp_path / "ours", "yolo")
    hotcoco.COCO(str(root / "annotations" / "instances_train.json")).to_yolo(str(tmp_path / "theirs"))
    for number in (1, 2):
        files = [folder / f"{number}.txt" for folder in (tmp_path / "ours" / "labels" / "train", tmp_path / "theirs")]
        ours, theirs = ([line.split() for line in file.read_text().splitlines()] for file in files)
        np.testing.assert_allclose(np.array(ours, dtype=float), np.array(theirs, dtype=float), atol=1e-6)
    names = [yaml.safe_load((tmp_path / folder / "data.yaml").read_text())["names"] for folder in ("ours", "theirs")]
    assert names[0] == {0: "cat", 1: "dog"} and list(names[0].values()) == (
        names[1] if isinstance(names[1], list) else list(names[1].values())
    )
    shutil.copy(tmp_path / "ours" / "data.yaml", tmp_path / "ours" / "labels" / "train")
    read = hotcoco.COCO.from_yolo(str(tmp_path / "ours" / "labels" / "train"), str(root / "images")).dataset
    got = sorted(entry["bbox"] for entry in read["annotations"])
    np.testing.assert_allclose(got, [[1.5, 2.25, 30, 20], [5, 6, 10, 12]], atol=1e-4)


def test_voc_agrees_with_hotcoco(coco: Make, tmp_path: Path) -> None:
    """Their reader takes our XML for the same boxes, but for its corner rule (half a pixel to one)."""
    split = load_split(coco(coco_dict([[5, 6, 10, 12], [1, 2, 30, 20]])))
    save_dataset({"train": split}, tmp_path / "voc", "voc")
    theirs = hotcoco.COCO.from_voc(str(tmp_path / "voc")).dataset
    assert [entry["name"] for entry in theirs["categories"]] == ["cat"] or len(theirs["categories"]) == 2
    got = sorted(entry["bbox"] for entry in theirs["annotations"])
    np.testing.assert_allclose(got, sorted(split.source_boxes_xywh.tolist()), atol=1.0)


def test_polygons_survive_yolo(coco: Make, tmp_path: Path) -> None:
    data = coco_dict([[5, 6, 10, 12], [20, 2, 10, 20]])
    data["annotations"][0]["segmentation"] = [OUTLINE]
    data["annotations"][1]["segmentation"] = [[20, 2, 24, 2, 24, 8, 20, 8], [26, 15, 30, 15, 30, 22, 26, 22]]
    split = load_split(coco(data))
    lines = save_dataset({"train": split}, tmp_path / "yolo", "yolo")
    assert "masks of several parts: 1 mask written as one line around all parts" in lines
    yolo = load_split(tmp_path / "yolo")
    assert yolo.problems == []
    assert_same_objects(yolo, split, atol=1e-3)
    ours, theirs = (part.objects(0, masks=True)["masks"] for part in (yolo, split))
    assert ours is not None and theirs is not None
    assert (ours[0] == theirs[0]).all() and (ours[1] != theirs[1]).sum() <= 12  # the line between the parts
    moved = [30.0, 6, 35, 6, 35, 18]
    data["annotations"][0]["segmentation"] = [moved]  # far from its box: the box is what is kept
    mixed = load_split(coco(data))
    again = saved(mixed, tmp_path / "mixed", "yolo")
    assert_same_objects(again, mixed, atol=1e-3)
    masks = again.objects(0, masks=True)["masks"]
    assert masks is not None and masks[0].sum() == 10 * 12 and (masks[1] != theirs[1]).sum() <= 12


def lines_of(folder: Path) -> list[str]:
    return [line for file in sorted((folder / "labels").rglob("*.txt")) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("off", [0.8, 1.4, 1.9])
def test_whole_pixel_boxes_keep_their_outlines(coco: Make, tmp_path: Path, off: float) -> None:
    data = coco_dict([[5, 6, 10, 12]])
    data["annotations"][0]["segmentation"] = [
        [5 + off, 6 + off, 15 - off, 6 + off, 15 - off, 18 - off, 5 + off, 18 - off]
    ]
    again = saved(load_split(coco(data)), tmp_path / "yolo", "yolo")
    assert [len(line.split()) for line in lines_of(tmp_path / "yolo")] == [9]
    assert again.boxes[0].tolist() == pytest.approx([5 + off, 6 + off, 15 - off, 18 - off], abs=1e-3)


def test_an_outline_far_from_its_box_is_not_written(coco: Make, tmp_path: Path) -> None:
    data = coco_dict([[5, 6, 10, 12]])
    data["annotations"][0]["segmentation"] = [[8.5, 6, 15, 6, 15, 18, 8.5, 18]]
    lines = save_dataset({"train": load_split(coco(data))}, tmp_path / "yolo", "yolo")
    assert [len(line.split()) for line in lines_of(tmp_path / "yolo")] == [5]
    assert "masks: 1 mask left out; none has an outline that fills its box" in lines


def test_one_object_without_a_mask_does_not_take_those_of_the_others(coco: Make, tmp_path: Path) -> None:
    data = coco_dict([[5, 6, 10, 12], [20, 2, 10, 20], [1, 1, 9, 9]])
    data["annotations"][0]["segmentation"] = [OUTLINE]
    data["annotations"][2]["segmentation"] = {"size": [30, 40], "counts": [41, 9, 1150]}
    split = load_split(coco(data))
    told = save_dataset({"train": split}, tmp_path / "keep", "yolo")
    assert [len(line.split()) for line in lines_of(tmp_path / "keep")] == [9, 9, 9]
    assert [line.split(":")[0] for line in told if "rectangle" in line] == [
        "masks as run lengths", "objects without a mask",
    ]  # fmt: skip
    assert any("--masks drop" in line for line in told)
    assert_same_objects(load_split(tmp_path / "keep"), split, atol=1e-3)
    told = save_dataset({"train": split}, tmp_path / "drop", "yolo", masks="drop")
    assert [len(line.split()) for line in lines_of(tmp_path / "drop")] == [5, 5, 5]
    assert "masks: 2 masks left out; boxes alone are asked for" in told
    with pytest.raises(UsageError, match="masks must be 'keep' or 'drop', got 'all'"):
        save_dataset({"train": split}, tmp_path / "all", "yolo", masks="all")  # type: ignore[arg-type]


def test_joined_polygons_have_the_corners_of_all() -> None:
    parts = [np.array(part, dtype=float) for part in (
        [[0, 0], [2, 0], [2, 2]], [[9, 9], [3, 2], [9, 5]], [[9, 12], [9, 10], [12, 10]],
    )]  # fmt: skip
    joined = join_polygons(parts)
    assert {tuple(point) for point in joined.tolist()} == {tuple(point) for part in parts for point in part.tolist()}
    x, y = joined.T
    area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    assert area == pytest.approx(2 + 12 + 3)


def test_keypoints_survive_yolo(coco: Make, tmp_path: Path) -> None:
    split = load_split(coco(rich_dict()))
    yolo = saved(split, tmp_path / "yolo", "yolo")
    assert yolo.keypoint_names == split.keypoint_names and yolo.skeleton == split.skeleton and yolo.problems == []
    assert split.keypoints is not None and yolo.keypoints is not None
    np.testing.assert_allclose(yolo.keypoints, split.keypoints[~split.crowd], atol=1e-3)
    description = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text())
    assert description["kpt_shape"] == [3, 3] and description["flip_idx"] == [0, 2, 1]


@pytest.mark.parametrize("layout", ["coco", "voc", "yolo"])
def test_empty_and_unlabelled_images_stay_apart(coco: Make, tmp_path: Path, layout: str) -> None:
    data = coco_dict([[5, 6, 10, 12]])
    data["images"] += [{"id": 3, "file_name": "3.png", "width": 40, "height": 30}]
    data["images"][1]["reviewed"], data["images"][2]["reviewed"] = True, False
    root = coco(data)
    picture(root / "images" / "3.png")
    split = saved(load_split(root), tmp_path / "out", layout)
    assert split.reviewed.tolist() == [REVIEWED, REVIEWED, NEVER_LABELLED]
    back = saved(split, tmp_path / "back", "coco")
    assert back.reviewed.tolist() == [REVIEWED, REVIEWED, NEVER_LABELLED]


def test_not_said_stays_not_said_in_coco_alone(coco: Make, tmp_path: Path) -> None:
    split = load_split(coco())
    assert split.reviewed.tolist() == [REVIEWED, NOT_SAID]
    assert saved(split, tmp_path / "coco", "coco").reviewed.tolist() == [REVIEWED, NOT_SAID]
    assert [line for line in not_held({"train": split}, "yolo") if "somebody looked" in line]
    assert saved(split, tmp_path / "yolo", "yolo").reviewed.tolist() == [REVIEWED, REVIEWED]


def test_pictures_of_one_name_stay_apart(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names = ["a/1.jpg", "b/1.jpg", "b/1.png", "my photo.v2.jpg"]
    for number, name in enumerate(names):
        picture(root / "train" / name, 40 + number, 30)
    data = coco_dict([[5 + n, 5, 10, 10] for n in range(4)])
    data["images"] = [{"id": n, "file_name": name, "width": 40 + n, "height": 30} for n, name in enumerate(names)]
    for number, entry in enumerate(data["annotations"]):
        entry["image_id"] = number
    (root / "train.json").write_text(json.dumps(data))
    split = load_split(root)
    assert len(split) == 4
    for layout in ("coco", "voc", "yolo"):
        again = saved(split, tmp_path / layout, layout)
        assert again.problems == [] and len(again) == 4, layout
        by_size = {int(again.sizes_hw[row, 1]): again.objects(row)["boxes"][0, 0].item() for row in range(4)}
        for row in range(4):
            assert Image.open(again.paths[row]).size == tuple(again.sizes_hw[row, ::-1])
        assert {40 + n: pytest.approx(5 + n, abs=1e-3) for n in range(4)} == by_size, layout
    lines = save_dataset({"train": split}, tmp_path / "voc2", "voc")
    assert "file names: 2 images have a new one, since another has theirs" in lines


def test_splits_share_one_folder_in_voc(coco: Make, tmp_path: Path) -> None:
    one, two = load_split(coco(root=tmp_path / "a")), load_split(coco(root=tmp_path / "b"))
    save_dataset({"train": one, "val": two}, tmp_path / "voc", "voc")
    assert list(find_splits(tmp_path / "voc")) == ["train", "val"]
    names = [path.name for name in ("train", "val") for path in load_split(tmp_path / "voc", name).paths]
    assert len(set(names)) == 4 and load_split(tmp_path / "voc", "val").boxes.tolist() == two.boxes.tolist()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_turn_with_pictures_annotated_before_their_rotation(tmp_path: Path, orientation: int) -> None:
    """YOLO's fractions say nothing of the frame they were made in, and its readers turn the image."""
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    pixels = np.zeros((30, 40, 3), dtype=np.uint8)
    pixels[4:10, 3:20] = 255  # y 4 to 10, x 3 to 20, unrotated
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(root / "images" / "1.png", exif=exif)
    data = coco_dict([[3, 4, 17, 6]])
    data["images"] = data["images"][:1]
    (root / "instances_train.json").write_text(json.dumps(data))
    split = load_split(root)
    lines = save_dataset({"train": split}, tmp_path / "yolo", "yolo")
    assert any(line.startswith("EXIF rotation: 1 ") for line in lines)
    yolo = load_split(tmp_path / "yolo")
    ys, xs = np.nonzero(read_image(yolo.paths[0])[:, :, 0])
    np.testing.assert_allclose(yolo.boxes[0], [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=1e-3)


def test_links_lead_to_the_pictures(coco: Make, tmp_path: Path) -> None:
    split = load_split(coco())
    save_dataset({"train": split}, tmp_path / "out", "yolo", pictures="link")
    links = sorted((tmp_path / "out" / "images" / "train").iterdir())
    assert [link.readlink() for link in links] == [path.resolve() for path in split.paths]
    assert len(load_split(tmp_path / "out").boxes) == 1


def test_a_folder_is_written_whole_or_not_at_all(coco: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = load_split(coco())
    out = tmp_path / "out"
    monkeypatch.setattr(shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(AweighError, match=r"could not be written .*No space left"):
        save_dataset({"train": split}, out, "coco")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    out.mkdir()
    save_dataset({"train": split}, out, "coco")  # an empty folder may stand there already
    with pytest.raises(UsageError, match="not an empty folder"):
        save_dataset({"train": split}, out, "coco")
    with pytest.raises(UsageError, match="Did you mean 'yolo'"):
        save_dataset({"train": split}, tmp_path / "other", "yolos")  # type: ignore[arg-type]
    for name in ("../train", "dev", "holiday"):
        with pytest.raises(UsageError, match="cannot be called"):
            save_dataset({name: split}, tmp_path / "other", "coco")


def test_class_names_that_xml_cannot_hold(coco: Make, tmp_path: Path) -> None:
    data = coco_dict([[5, 6, 10, 12]])
    data["categories"][0]["name"] = "a <b> & 'c': {x}"
    assert saved(load_split(coco(data)), tmp_path / "voc", "voc").classes.names[0] == "a <b> & 'c': {x}"
    assert saved(load_split(coco(data)), tmp_path / "yolo", "yolo").classes.names[0] == "a <b> & 'c': {x}"
    split = replace(load_split(coco(data)), classes=Classes(("a\x01b", "dog"), (3, 7)))
    with pytest.raises(DataError, match="cannot be written to VOC's XML"):
        save_dataset({"train": split}, tmp_path / "bad", "voc")


def test_voc_parts_and_flags_survive_coco(tmp_path: Path) -> None:
    root = tmp_path / "set"
    picture(root / "JPEGImages" / "a.jpg")
    (root / "Annotations").mkdir()
    part = "<truncated>1</truncated><pose>Left</pose><part><name>head</name><xmin>3</xmin></part>"
    text = voc_xml([("dog", [1, 1, 10, 10], 1)]).replace("</name>", f"</name>{part}", 1)
    (root / "Annotations" / "a.xml").write_text(text)
    split = load_split(root)
    coco = saved(split, tmp_path / "coco", "coco")
    assert coco.extras is not None and split.extras is not None
    assert json.loads(coco.extras[0]) == json.loads(split.extras[0])
    assert json.loads(coco.extras[0]) == {"truncated": 1, "pose": "Left", "part": {"name": "head", "xmin": "3"}}
    assert [line.split(":")[0] for line in not_held({"train": coco}, "voc")] == ["field 'part' of 1 object"]


@pytest.mark.parametrize("name", ["bccd", "coco_tiny"])
def test_real_data_sets_survive_every_layout(shared: Path, tmp_path: Path, name: str) -> None:
    source = shared / "data" / name
    splits = {key: load_split(source, key) for key in find_splits(source)}
    for layout in ("coco", "voc", "yolo"):
        save_dataset(splits, tmp_path / layout, layout, pictures="link")
        for key, split in splits.items():
            again = load_split(tmp_path / layout, key)
            back = again
            if layout != "coco":
                save_dataset({key: again}, tmp_path / f"{layout}-{key}", "coco", pictures="link")
                back = load_split(tmp_path / f"{layout}-{key}", key)
            assert again.problems == [] and len(back) == len(split)
            kept = ~split.crowd if layout == "yolo" else np.ones(len(split.boxes), dtype=bool)
            ours = Counter(np.array(split.classes.names)[split.labels[kept]].tolist())
            assert Counter(np.array(back.classes.names)[back.labels].tolist()) == ours
            order = np.argsort([path.name for path in split.paths], kind="stable")
            theirs = np.argsort([path.name for path in back.paths], kind="stable")
            expected = split.take(order)
            flags = expected.crowd if layout == "yolo" else np.zeros(len(expected.boxes), dtype=bool)
            np.testing.assert_allclose(back.take(theirs).boxes, expected.boxes[~flags], atol=0.5)
            assert np.abs(back.take(theirs).boxes - expected.boxes[~flags]).max() < 0.01
