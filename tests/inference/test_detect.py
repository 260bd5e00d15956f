"""Detections come back in original pixels with original ids; an all-knowing detector has AP 1."""

import numpy as np
import pytest
import torch
from tests.runs import write_coco

from aweigh.classes import Classes
from aweigh.detections import Detections
from aweigh.errors import UsageError
from aweigh.images.resize import Resize
from aweigh.inference.detect import detect, matching_category_ids
from aweigh.inference.measure import measure
from aweigh.layouts.load import load_split
from aweigh.models import create
from aweigh.predictor import Predictor


class Oracle(torch.nn.Module):
    """Finds exactly what is annotated: it is told the split, and knows each image by its order."""

    builder, stride_divisor = "oracle", 32
    extras, needs_proposals, needs_sizes, average_flipped, keypoint_set = (), False, False, None, None

    def __init__(self, split, resize, classes=None):
        super().__init__()
        self.split, self.resize, self.classes = split, resize, classes or split.classes
        self.seen = 0
        self.register_buffer("pixel_mean", torch.tensor([0.5, 0.5, 0.5]))

    def network(self, pixels):
        return pixels

    def decode(self, raw, sizes_hw):
        found = []
        for size_hw in sizes_hw:
            boxes, labels = (self.split.objects(self.seen)[name] for name in ("boxes", "labels"))
            height, width = (int(side) for side in self.split.sizes_hw[self.seen])
            assert tuple(size_hw) == self.resize.size_for(height, width)
            scale = np.array([size_hw[1] / width, size_hw[0] / height] * 2, np.float32)
            own = np.array([self.classes.label(self.split.classes.names[label]) for label in labels], np.int64)
            scores = np.linspace(0.9, 0.8, len(labels), dtype=np.float32)
            found.append(Detections(boxes * scale, scores, own, classes=self.classes, size_hw=tuple(size_hw)))
            self.seen += 1
        return found

    def loss(self, raw, targets):
        return {"one": torch.tensor(float(len(targets))), "boxes": torch.tensor(float(sum(map(len, targets))))}


@pytest.fixture
def val(toys):
    return load_split(toys, "val")


@pytest.mark.parametrize("resize", [Resize(short=48, long=50), Resize(short=None, long=123)])
def test_what_is_found_in_resized_images_is_measured_in_original_pixels(val, resize):
    measured = measure(Oracle(val, resize), resize, val, ["boxes"], batch=3)
    metrics, results, speed = measured.metrics["boxes"], measured.results, measured.speed
    assert abs(metrics.AP - 1) < 1e-9 and abs(metrics.AR100 - 1) < 1e-9
    assert {entry["category_id"] for entry in results} <= {1, 7}
    assert {entry["image_id"] for entry in results} == {100, 101, 102, 103}
    truth = {(a["image_id"], *(round(v, 2) for v in a["bbox"])) for a in val.to_coco()["annotations"]}
    assert {(r["image_id"], *(round(v, 2) for v in r["bbox"])) for r in results} == truth
    assert set(speed) == {"read", "network", "decode", "total"}
    assert speed["total"] == pytest.approx(speed["read"] + speed["network"] + speed["decode"])


def test_classes_are_matched_by_name_not_by_number(val):
    resize = Resize(short=64, long=96)
    classes = Classes(("nothing", "ball", "box"), (0, 1, 2))
    measured = measure(Oracle(val, resize, classes), resize, val, ["boxes"])
    metrics, results = measured.metrics["boxes"], measured.results
    assert abs(metrics.AP - 1) < 1e-9 and {entry["category_id"] for entry in results} <= {1, 7}


def test_a_model_of_other_classes_is_refused():
    with pytest.raises(UsageError, match=r"knows none of the data's classes\. Model: cat\. Data: dog\."):
        matching_category_ids(Classes.from_names(["cat"]), Classes.from_names(["dog"]))


def test_losses_are_weighted_by_images_and_the_mode_is_kept(val):
    model = Oracle(val, Resize(short=64, long=96)).train()
    found = detect(model, model.resize, val, batch=3, losses=True)  # batches of 3 and 1
    assert found.losses["one"] == pytest.approx((3 * 3 + 1 * 1) / 4)
    assert model.training and found.problems == []


def test_a_model_made_for_prediction_with_frozen_stages_can_be_measured(val):
    model = create("fcos_resnet18_fpn", classes=val.classes, channels=16, head_convs=1, frozen_stages=2)
    predictor = Predictor(model, Resize(64, 96), device="cpu")
    metrics = measure(predictor.engine.model, predictor.resize, val.take([0]), ["boxes"]).metrics["boxes"]
    assert metrics.images == 1 and not predictor.engine.model.training


def test_boxes_end_at_the_original_edge():
    found = Detections(np.float32([[0, 0, 10, 20]]), np.float32([0.5]), np.array([0]), size_hw=(20, 10))
    moved = found.resized((39, 21))
    assert moved.boxes.tolist() == [[0.0, 0.0, 21.0, 39.0]] and moved.size_hw == (39, 21)


def test_an_empty_result_has_an_ap_of_zero(val):
    class Blind(Oracle):
        def decode(self, raw, sizes_hw):
            return [Detections.empty(self.classes, tuple(size_hw)) for size_hw in sizes_hw]

    resize = Resize(short=64, long=96)
    measured = measure(Blind(val, resize), resize, val, ["boxes"])
    metrics, results = measured.metrics["boxes"], measured.results
    assert metrics.AP == 0.0 and results == []


def test_a_picture_that_cannot_be_read_is_told(tmp_path):
    val = load_split(write_coco(tmp_path, {"train": 1, "val": 2}), "val")
    path = val.paths[0]
    path.write_bytes(path.read_bytes()[:100])
    resize = Resize(64, 96)
    told = measure(Oracle(val.take([1]), resize), resize, val, ["boxes"]).problems
    assert [problem.where for problem in told] == [str(path)]
