"""Results are joined to images by the names of their files, never by a number that another program counted."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tests.runs import write_coco

from aweigh.checkpoints.checkpoint import save_model
from aweigh.classes import Classes
from aweigh.cli.main import run
from aweigh.detections import Detections
from aweigh.edit.complete import complete, read_proposals
from aweigh.errors import DataError
from aweigh.evaluation.coco import evaluate_coco
from aweigh.evaluation.errors import match_results
from aweigh.evaluation.voc import evaluate_voc
from aweigh.images.resize import Resize
from aweigh.layouts.load import load_split
from aweigh.models import create
from aweigh.proposals.from_files import from_coco_results
from aweigh.results.coco import Named, list_of, read_results_file
from aweigh.results.writers import write_detections

FOUND = Classes(("person", "ball", "box"), (1, 5, 7))  # ids of its own: 1 is no box here


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four images with two objects each, numbered from 1 to 4 as by any converter."""
    root = write_coco(tmp_path / "data", {"train": 4, "val": 2}, sizes=((96, 80),))
    for split in ("train", "val"):
        file = root / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        for image in content["images"]:
            image["id"] -= 99
        for annotation in content["annotations"]:
            annotation["image_id"] -= 99
        file.write_text(json.dumps(content))
    return root


def detections(root: Path, split: str = "train", classes: Classes = FOUND) -> list[Detections]:
    """Exactly what is annotated, of the last image first: numbers 1 to 4 mean other images than those of the data."""
    part = load_split(root, split)
    found = []
    for row in reversed(range(len(part))):
        objects, names = part.objects(row), part.classes.names
        labels = np.array([classes.label(names[label]) for label in objects["labels"].tolist()], np.int64)
        scores = np.linspace(0.9, 0.8, len(labels), dtype=np.float32)
        size = (int(part.sizes_hw[row, 0]), int(part.sizes_hw[row, 1]))
        path = str(part.paths[row])
        found.append(Detections(objects["boxes"], scores, labels, classes=classes, size_hw=size, path=path))
    return found


@pytest.fixture
def written(data: Path, tmp_path: Path) -> Path:
    write_detections(detections(data), tmp_path / "found.json", "coco")
    return tmp_path / "found.json"


def truth_of(data: Path) -> Path:
    return data / "annotations" / "instances_train.json"


def rewrite(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("listed", [True, False])
def test_every_number_is_measured_on_the_images_that_are_named(data: Path, written: Path, listed: bool) -> None:
    """With the list beside the file, and with the names in the results alone, whose classes are then the data's."""
    if not listed:
        list_of(written).unlink()
        write = {5: 7, 7: 1}  # ball and box
        rewrite(written, lambda entries: [e.update(category_id=write[e["category_id"]]) for e in entries])
    assert pytest.approx(1) == evaluate_coco(truth_of(data), written).AP
    assert evaluate_voc(truth_of(data), written).mAP == pytest.approx(1)
    assert match_results(truth_of(data), written).names == ("box", "ball")
    split = load_split(data)
    found, _ = from_coco_results(written, split, number=10, made={})
    assert np.sort(found.of_image(0), axis=0).tolist() == np.sort(split.objects(0)["boxes"], axis=0).tolist()


def test_complete_writes_each_box_into_its_image(data: Path, written: Path, tmp_path: Path) -> None:
    """The classes are those of the list beside the file; what lands on objects of people's is left out."""
    wanted = [len(load_split(data).objects(row)["boxes"]) for row in range(4)]
    result = complete({"train": load_split(data)}, read_proposals(written))
    split = result.splits["train"]
    assert [len(split.objects(row)["boxes"]) for row in range(4)] == wanted  # each found where people have it
    assert split.classes.names == ("person", "ball", "box") and result.objects.total() == 0

    # Where nobody labelled, each box is added to the image it was found in.
    wanted_boxes = [load_split(data).objects(row)["boxes"].tolist() for row in range(4)]
    cups = [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 4, 4], "iscrowd": 0}]
    rewrite(truth_of(data), lambda content: content.update(annotations=cups, categories=[{"id": 3, "name": "cup"}]))
    split = complete({"train": load_split(data)}, read_proposals(written)).splits["train"]
    for row in range(4):
        added = [box for box in split.objects(row)["boxes"].tolist() if box != [1, 1, 5, 5]]
        assert sorted(added) == sorted(wanted_boxes[row])


def test_the_same_name_in_two_folders(tmp_path: Path) -> None:
    """The folder tells them apart; a name without one that may be either is refused, with both."""
    images = [{"id": number, "file_name": f"{folder}/a.jpg"} for number, folder in ((1, "one"), (2, "two"))]
    box = {"bbox": [0, 0, 10, 10], "category_id": 1}
    truth = {
        "images": images,
        "categories": [{"id": 1, "name": "box"}],
        "annotations": [{**box, "id": 1, "image_id": 2, "area": 100, "iscrowd": 0}],
    }
    file = tmp_path / "r.json"

    def measured(*names: str) -> float:
        entries = [{**box, "image_id": 1 + k, "score": 0.5, "file_name": name} for k, name in enumerate(names)]
        file.write_text(json.dumps(entries))
        return evaluate_coco(truth, file).AP

    assert measured("two/a.jpg") == pytest.approx(1) == measured("/elsewhere/two/a.jpg") == measured(r"C:\x\two\a.jpg")
    assert measured("one/a.jpg") == 0
    with pytest.raises(DataError, match=r"a\.jpg may be one/a\.jpg and two/a\.jpg"):
        measured("a.jpg")
    with pytest.raises(DataError, match="No box is of an image"):
        measured("three/a.jpg")
    with pytest.raises(DataError, match=r"x/two/a\.jpg and y/two/a\.jpg may both be two/a\.jpg"):
        measured("x/two/a.jpg", "y/two/a.jpg")
    with pytest.raises(DataError, match=r"does not have three/a\.jpg"):
        measured("two/a.jpg", "three/a.jpg")


def test_the_longer_agreement_of_paths_wins() -> None:
    from aweigh.results.coco import _by_name

    known = {0: Named("a.jpg", place="/d/train/a.jpg"), 1: Named("b.jpg", place="/d/train/b.jpg")}
    listed = {1: Named("/d/val/a.jpg"), 2: Named("/d/train/a.jpg"), 3: Named("b.jpg")}
    assert _by_name(listed, known, Path("r.json"), "train") == ({2: 0, 3: 1}, [1])


def test_images_that_are_not_the_same_are_refused_by_name(data: Path, written: Path, tmp_path: Path) -> None:
    split = load_split(data)
    rewrite(list_of(written), lambda content: content["images"][0].update(width=80, height=96))
    with pytest.raises(
        DataError, match=r"3\.png is 80 x 96 in the results and 96 x 80 in train\. Predict on these data"
    ):
        complete({"train": split}, read_proposals(written))
    with pytest.raises(DataError, match=r"3\.png is 80 x 96 in the results and 96 x 80 in the ground truth"):
        evaluate_coco(truth_of(data), written)
    rewrite(list_of(written), lambda content: content["images"][0].update(width=96, height=80))
    shutil.copy(data / "images" / "train" / "3.png", tmp_path / "kept.png")
    Image.new("RGB", (96, 80), (1, 2, 3)).save(data / "images" / "train" / "3.png")  # another image of that name
    with pytest.raises(DataError, match=r"3\.png is a file of [\d,]+ B in the results and of [\d,]+ B in train"):
        complete({"train": split}, read_proposals(written))
    with pytest.raises(DataError, match="No box is of an image of val"):
        complete({"val": load_split(data, "val").take([])}, read_proposals(written))


@pytest.mark.parametrize(
    ("ids", "used", "message"),
    [
        ((1, 2, 3, 4), (1, 2), "any images counted from 1 could have these numbers"),
        ((0, 1, 2, 5), (5,), "any images counted from 1"),
        ((1, 2, 90, 500, 1000), (1, 2), "any images counted from 1"),
        (tuple(range(1, 400, 4)), tuple(range(1, 400, 4))[:50], ""),
        ((397133, 37777, 252219, 87038), (397133, 1), "has no image 1"),
        ((397133, 37777, 252219, 87038), (397133, 37777), ""),
    ],
)
def test_numbers_alone_are_taken_where_they_are_certain(tmp_path: Path, ids, used, message: str) -> None:
    truth = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in ids],
        "categories": [{"id": 1, "name": "box"}],
        "annotations": [],
    }
    entries = [{"image_id": number, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5} for number in used]
    (tmp_path / "r.json").write_text(json.dumps(entries))
    if not message:
        assert evaluate_coco(truth, tmp_path / "r.json").detections == len(used)
        return
    with pytest.raises(DataError, match=message) as caught:
        evaluate_coco(truth, tmp_path / "r.json")
    assert "aweigh predict --data DATA" in str(caught.value) and "own_ids" in str(caught.value)
    if set(used) <= set(ids):
        assert evaluate_coco(truth, tmp_path / "r.json", own_ids=True).detections == len(used)
        assert evaluate_coco(truth, entries).detections == len(used)  # handed over in memory: the caller's own


def test_images_that_the_detector_could_not_read_are_no_misses(data: Path, tmp_path: Path) -> None:
    *found, last = detections(data)
    unread = Detections.empty(FOUND, error=f"{last.path}: cut short", path=last.path)
    write_detections([unread, *found], tmp_path / "r.json", "coco")
    metrics = evaluate_coco(truth_of(data), tmp_path / "r.json")
    assert pytest.approx(1) == metrics.AP and metrics.table().startswith(
        "COCO protocol, boxes: 3 of 4 images, 6 objects"
    )
    assert pytest.approx(1) == evaluate_voc(truth_of(data), tmp_path / "r.json").mAP
    assert len(match_results(truth_of(data), tmp_path / "r.json").image_ids) == 3


def test_a_list_of_other_results_is_refused(data: Path, written: Path) -> None:
    rewrite(list_of(written), lambda content: content["images"].reverse())
    assert pytest.approx(1) == evaluate_coco(truth_of(data), written).AP  # the order does not matter
    rewrite(list_of(written), lambda content: content["images"][0].update(file_name="other/x.png"))
    with pytest.raises(DataError, match="do not belong together"):
        read_results_file(written)
    for broken in ("{", "[]", '{"images": [{"id": 1}]}', '{"images": [{"id": "1", "file_name": "a"}]}'):
        list_of(written).write_text(broken)
        with pytest.raises(DataError, match=r"found\.images\.json"):
            read_results_file(written)


def test_classes_are_joined_by_name(data: Path, tmp_path: Path) -> None:
    found = detections(data, classes=Classes(("dog", "ball", "box"), (7, 1, 3)))  # 7 is the ball of the data
    write_detections(found, tmp_path / "r.json", "coco")
    assert pytest.approx(1) == evaluate_coco(truth_of(data), tmp_path / "r.json").AP
    with pytest.raises(DataError, match="category 7 is dog by the list beside it and cat by --categories"):
        read_proposals(tmp_path / "r.json", Classes(("cat",), (7,)))
    rewrite(
        list_of(tmp_path / "r.json"), lambda content: [c.update(name=f"no {c['name']}") for c in content["categories"]]
    )
    with pytest.raises(DataError, match="none of its classes is one of the ground truth's"):
        evaluate_coco(truth_of(data), tmp_path / "r.json")


# --- `aweigh predict --data` ------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    torch.manual_seed(0)
    model = create("fcos_shufflenet_v2_x0_5_fpn", classes=FOUND, channels=32, head_convs=1)
    for name, parameter in model.named_parameters():
        if name.endswith("logits.bias"):
            parameter.data.fill_(0.0)  # so that it finds something
    save_model(tmp_path / "model.safetensors", model, resize=Resize(64, 96))
    return str(tmp_path / "model.safetensors")


def predict(checkpoint: str, out: Path, *words: object) -> Path:
    fixed = ("--model", checkpoint, "--device", "cpu", "--score", "0.001", "--format", "coco", "-o", out, "--no-draw")
    assert run(["predict", *map(str, (*words, *fixed))]) == 0
    return out / "detections.json"


def test_a_data_set_is_predicted_with_its_own_numbers(data: Path, checkpoint: str, tmp_path: Path, capsys) -> None:
    """What comes out is what pycocotools, `evaluate_coco` and `data complete` take for these data."""
    rewrite(truth_of(data), lambda content: content["images"].reverse())
    file = predict(checkpoint, tmp_path / "out", "--data", data, "--split", "train")
    truth = json.loads(truth_of(data).read_text())
    listed = json.loads(list_of(file).read_text())
    assert {i["id"]: Path(i["file_name"]).name for i in listed["images"]} == {
        image["id"]: image["file_name"] for image in truth["images"]
    }
    assert {c["name"]: c["id"] for c in listed["categories"]} == {"person": 8, "ball": 7, "box": 1}
    coco = COCO(str(truth_of(data)))
    reference = COCOeval(coco, coco.loadRes(str(file)), "bbox")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    assert pytest.approx(max(reference.stats[0], 0)) == evaluate_coco(truth_of(data), file).AP
    again = predict(checkpoint, tmp_path / "plain", data / "images" / "train")  # numbered 1 to 4, joined by name
    assert evaluate_coco(truth_of(data), again).numbers == evaluate_coco(truth_of(data), file).numbers
    completed = []
    for number, results in enumerate((file, again)):
        words = ["data", "complete", data, "--with", results, "--out", tmp_path / f"c{number}", "--uncertain", "0.001"]
        assert run(list(map(str, words))) == 0
        completed.append(load_split(tmp_path / f"c{number}"))
    assert completed[0].boxes.tolist() == completed[1].boxes.tolist() and len(completed[0].boxes) > 8


def test_boxes_come_in_the_frame_of_the_annotations(checkpoint: str, tmp_path: Path) -> None:
    """A photograph annotated before its rotation, one of another size than declared, one of another shape."""
    root = write_coco(tmp_path / "data", {"train": 3}, sizes=((96, 80),))
    images = root / "images" / "train"
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.open(images / "0.png").convert("RGB")
    stored.save(tmp_path / "stored.png")
    stored.save(images / "0.png", exif=exif)
    Image.open(images / "1.png").resize((192, 160)).save(images / "1.png")
    Image.new("RGB", (96, 30)).save(images / "2.png")
    fixed = ("--model", checkpoint, "--device", "cpu", "--score", "0.001", "--format", "coco", "--no-draw")
    words = ("predict", "--data", root, *fixed, "-o", tmp_path / "out")
    assert run(list(map(str, words))) == 1  # the last image has an error
    file = tmp_path / "out" / "detections.json"
    plain = json.loads(predict(checkpoint, tmp_path / "plain", tmp_path / "stored.png").read_text())
    found = json.loads(file.read_text())
    assert [e["bbox"] for e in found if e["image_id"] == 100] == [e["bbox"] for e in plain]
    listed = {image["id"]: image for image in json.loads(list_of(file).read_text())["images"]}
    assert all((listed[number]["width"], listed[number]["height"]) == (96, 80) for number in (100, 101))
    assert max(e["bbox"][0] + e["bbox"][2] for e in found if e["image_id"] == 101) <= 96.001
    assert "another shape" in listed[102]["error"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--data", "DATA"], 3, "both have the image id 1; name one split of train, val with --split"),
        (["--data", "DATA", "photo.jpg"], 2, "name no others"),
        (["photo.jpg", "--split", "val"], 2, "--split val goes with --data DATA"),
        (["--data", "DATA", "--split", "tset"], 3, "there is no split 'tset'"),
    ],
)
def test_what_cannot_be_predicted_is_said(data: Path, checkpoint: str, words, code: int, message: str, capsys) -> None:
    words = [str(data) if word == "DATA" else word for word in words]
    assert run(["predict", *words, "--model", checkpoint, "--format", "coco", "--device", "cpu"]) == code
    assert message in capsys.readouterr().err
