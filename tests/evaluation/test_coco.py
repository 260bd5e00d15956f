"""COCO's numbers: equal to pycocotools, and well behaved where pycocotools is not."""

import contextlib
import copy
import io
import json
import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from aweigh.errors import DataError, UsageError
from aweigh.evaluation.coco import evaluate_coco
from aweigh.geometry.masks import encode_counts

KEYS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}


def pycocotools_evaluation(
    truth: dict[str, Any], results: list[dict[str, Any]], iou_type: str, limits=None
) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), iou_type)
        if limits:
            evaluation.params.maxDets = limits
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def random_case(
    seed: int, *, images=12, classes=3, objects=8, detections=30
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Small random data: crowds, objects of all sizes, tied scores, near and far detections."""
    rng = np.random.default_rng(seed)
    truth: dict[str, Any] = {
        "images": [{"id": 10 + i, "width": 400, "height": 300} for i in range(images)],
        "categories": [{"id": 2 + 3 * k, "name": f"class {k}"} for k in range(classes)],
        "annotations": [],
    }
    results = []
    for image in truth["images"]:
        for _ in range(rng.integers(0, objects)):
            size = rng.choice([10, 50, 150])
            box = [*rng.uniform(0, 150, 2), *rng.uniform(0.5 * size, size, 2)]
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": int(2 + 3 * rng.integers(classes)),
                    "bbox": [float(x) for x in box],
                    "area": float(box[2] * box[3] * rng.uniform(0.5, 1)),
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
        mine = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        for _ in range(rng.integers(0, detections)):
            near = mine[rng.integers(len(mine))] if mine and rng.random() < 0.8 else None
            box = np.array(near["bbox"] if near else [*rng.uniform(0, 200, 2), *rng.uniform(5, 100, 2)])
            results.append(
                {
                    "image_id": image["id"],
                    "category_id": near["category_id"] if near else int(2 + 3 * rng.integers(classes)),
                    "bbox": [float(x) for x in box + rng.normal(0, 0.08, 4) * box[[2, 3, 2, 3]]],
                    "score": round(float(rng.random()), 1),
                }
            )
    return truth, results


# --- equal to pycocotools ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("iou_type", ["bbox", "segm", "keypoints"])
def test_equals_the_recorded_numbers_of_pycocotools(shared: Path, iou_type: str) -> None:
    folder = shared / "data" / "cocoapi_eval"
    run = json.loads((folder / "expected_pycocotools.json").read_text())["runs"][iou_type]
    metrics = evaluate_coco(folder / run["gt"], folder / run["dt"], iou_type=iou_type)
    assert list(metrics.numbers.values()) == pytest.approx(run["stats"], abs=1e-12, rel=0)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_equals_the_published_numbers_to_three_decimals(shared: Path, iou_type: str) -> None:
    folder = shared / "data" / "cocoapi_eval"
    text = (folder / "val2014_fake_eval_res.txt").read_text()
    published = [float(x) for x in re.findall(r"= (\d\.\d{3})", text.split(f"type={iou_type}")[1].split("type=")[0])]
    results = folder / f"instances_val2014_fake{iou_type}100_results.json"
    metrics = evaluate_coco(folder / "instances_val2014_100.json", results, iou_type=iou_type)
    assert len(published) == 12
    assert [round(value, 3) for value in metrics.numbers.values()] == published


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_equals_pycocotools_on_real_data_class_by_class(shared: Path, iou_type: str) -> None:
    folder = shared / "data" / "cocoapi_eval"
    run = json.loads((folder / "expected_pycocotools.json").read_text())["runs"][iou_type]
    truth, results = (json.loads((folder / run[name]).read_text()) for name in ("gt", "dt"))
    before = copy.deepcopy(truth)
    expected = pycocotools_evaluation(truth, results, iou_type)
    metrics = evaluate_coco(truth, results, iou_type=iou_type)
    assert truth == before
    assert list(metrics.numbers.values()) == pytest.approx(expected.stats, abs=1e-12, rel=0)
    precision = expected.eval["precision"]
    names = {category["id"]: category["name"] for category in truth["categories"]}
    assert list(metrics.per_class) == [names[category] for category in expected.params.catIds]
    for k, values in enumerate(metrics.per_class.values()):
        for name, thresholds in (("AP", slice(None)), ("AP50", slice(0, 1))):
            defined = precision[thresholds, :, k, 0, -1]
            defined = defined[defined > -1]
            assert values[name] == pytest.approx(defined.mean() if defined.size else -1, abs=1e-12, rel=0)
    assert sum(metrics.objects.values()) + metrics.crowds == len(truth["annotations"])


@pytest.mark.parametrize("seed", range(6))
def test_equals_pycocotools_on_random_data(seed: int) -> None:
    truth, results = random_case(seed)
    expected = pycocotools_evaluation(truth, results, "bbox")
    assert list(evaluate_coco(truth, results).numbers.values()) == pytest.approx(expected.stats, abs=1e-12, rel=0)


def test_more_than_100_detections_in_an_image() -> None:
    truth, results = random_case(7, images=2, classes=1, objects=40, detections=30)
    rng = np.random.default_rng(0)
    for image in truth["images"]:
        truth["annotations"].append(
            {
                "image_id": image["id"],
                "category_id": 2,
                "bbox": [300, 200, 30, 30],
                "area": 900,
                "iscrowd": 0,
                "id": 900 + image["id"],
            }
        )
        for _ in range(150):  # all of them better than the one that finds the object above
            box = [*rng.uniform(0, 200, 2).tolist(), 20.0, 20.0]
            results.append(
                {"image_id": image["id"], "category_id": 2, "bbox": box, "score": 0.5 + float(rng.random()) / 2}
            )
        results.append({"image_id": image["id"], "category_id": 2, "bbox": [300, 200, 30, 30], "score": 0.01})
    expected = pycocotools_evaluation(truth, results, "bbox")
    metrics = evaluate_coco(truth, results)
    assert list(metrics.numbers.values()) == pytest.approx(expected.stats, abs=1e-12, rel=0)

    more = evaluate_coco(truth, results, max_detections=300)
    wider = pycocotools_evaluation(truth, results, "bbox", limits=[1, 10, 300])
    assert list(more.numbers)[6:9] == ["AR1", "AR10", "AR300"]
    assert more.AR300 > metrics.AR100
    # pycocotools gives AP -1 where 100 is not among the limits, so its curves are averaged here.
    precision = wider.eval["precision"][:, :, :, 0, 2]
    assert pytest.approx(precision[precision > -1].mean(), abs=1e-12, rel=0) == more.AP
    assert "at most 300 detections" in more.table() and "AR300" in more.table()


@pytest.mark.parametrize(("limit", "names"), [(1, ["AR1"]), (5, ["AR1", "AR5"]), (10, ["AR1", "AR10"])])
def test_small_limits(limit: int, names: list[str]) -> None:
    truth, results = random_case(3)
    metrics = evaluate_coco(truth, results, max_detections=limit)
    assert [name for name in metrics.numbers if re.fullmatch(r"AR\d+", name)] == names
    expected = pycocotools_evaluation(truth, results, "bbox", limits=[1, 10, 100])
    if limit in (1, 10):
        assert metrics.numbers[names[-1]] == pytest.approx(expected.stats[6 if limit == 1 else 7], abs=1e-12)


# --- what breaks other evaluators ----------------------------------------------------------------------------------


@pytest.mark.parametrize("iou_type", ["bbox", "segm", "keypoints"])
def test_no_detections_is_zero(iou_type: str) -> None:
    metrics = evaluate_coco(one_object(), [], iou_type=iou_type)
    assert metrics.AP == 0.0 and metrics.AP50 == 0.0
    assert metrics.per_class["cat"] == {"AP": 0.0, "AP50": 0.0}


def test_a_class_without_objects_is_left_out_of_the_means() -> None:
    truth = one_object()
    truth["categories"].append({"id": 9, "name": "dog"})
    right = {"image_id": 1, "category_id": 3, "bbox": [10, 10, 40, 40], "score": 0.9}
    wrong = {"image_id": 1, "category_id": 9, "bbox": [10, 10, 40, 40], "score": 0.9}
    metrics = evaluate_coco(truth, [right, wrong])
    assert metrics.numbers["AP"] == pytest.approx(1.0)
    assert metrics.per_class["dog"] == {"AP": -1.0, "AP50": -1.0}
    assert metrics.APl == -1.0  # nothing here is large
    assert "NaN" not in json.dumps(metrics.to_dict(), allow_nan=False)
    assert re.search(r"dog +0 +- +-", metrics.table())


def test_nothing_annotated_is_not_defined_and_not_nan() -> None:
    truth = {**one_object(), "annotations": []}
    metrics = evaluate_coco(truth, [{"image_id": 1, "category_id": 3, "bbox": [0, 0, 5, 5], "score": 0.5}])
    assert set(metrics.numbers.values()) == {-1.0}
    assert evaluate_coco({"images": [], "annotations": [], "categories": []}, []).AP == -1.0


def test_missing_fields_are_filled_in() -> None:
    truth, results = random_case(1)
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = 0
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    full = evaluate_coco(truth, results)
    bare = copy.deepcopy(truth)
    for annotation in bare["annotations"]:
        del annotation["area"], annotation["iscrowd"], annotation["id"]
    assert evaluate_coco(bare, results).numbers == full.numbers
    zero = copy.deepcopy(truth)
    for annotation in zero["annotations"]:
        annotation["id"] -= 1  # an id of 0 must be as good as any
    assert evaluate_coco(zero, results).numbers == full.numbers


def test_a_missing_area_is_that_of_the_polygon() -> None:
    truth = one_object()
    del truth["annotations"][0]["area"]
    truth["annotations"][0]["segmentation"] = [[10, 10, 50, 10, 10, 50]]  # half of a 40 x 40 box: 800 < 32² pixels
    results = [{"image_id": 1, "category_id": 3, "bbox": [10, 10, 40, 40], "score": 0.9}]
    metrics = evaluate_coco(truth, results)
    assert metrics.APs == pytest.approx(1.0) and metrics.APm == -1.0


def test_numpy_values_are_as_good_as_python_ones() -> None:
    truth, results = random_case(2)
    as_numpy = [
        {
            "image_id": np.int64(r["image_id"]),
            "category_id": np.int32(r["category_id"]),
            "bbox": np.array(r["bbox"]),
            "score": np.float64(r["score"]),
        }
        for r in results
    ]
    truth["images"] = [{**image, "id": np.int64(image["id"])} for image in truth["images"]]
    assert evaluate_coco(truth, as_numpy).numbers == evaluate_coco(truth, results).numbers


def test_a_box_beside_a_mask_does_not_change_the_masks_numbers(shared: Path) -> None:
    folder = shared / "data" / "cocoapi_eval"
    results = json.loads((folder / "instances_val2014_fakesegm100_results.json").read_text())
    with_boxes = [{**result, "bbox": [0, 0, 640, 480]} for result in results]
    truth = folder / "instances_val2014_100.json"
    plain, both = (evaluate_coco(truth, r, iou_type="segm").numbers for r in (results, with_boxes))
    assert plain == both


def half_masked() -> dict[str, Any]:
    """Two objects of one class beside each other, of which only the first has a mask."""
    truth = one_object()
    first = truth["annotations"][0]
    truth["annotations"].append({**first, "id": 77, "bbox": [60, 10, 20, 20], "area": 400, "segmentation": []})
    return truth


def test_an_object_without_a_mask_is_neither_found_nor_missed_and_named() -> None:
    def square(x: float, y: float, side: float, score: float) -> dict[str, Any]:
        corners = [x, y, x + side, y, x + side, y + side, x, y + side]
        return {"image_id": 1, "category_id": 3, "segmentation": [corners], "score": score}

    truth = half_masked()
    before = copy.deepcopy(truth)
    right, on_the_other, elsewhere = square(10, 10, 40, 0.5), square(60, 10, 20, 0.9), square(60, 50, 20, 0.9)
    metrics = evaluate_coco(truth, [right, on_the_other], iou_type="segm")
    assert truth == before
    assert metrics.numbers["AP"] == pytest.approx(1.0) and metrics.objects == {"cat": 1} and metrics.crowds == 0
    assert metrics.without_mask == (77,) and "1 object without a mask" in metrics.table() and "77" in metrics.table()
    assert metrics.to_dict()["protocol"]["without_mask"] == 1
    mistaken = evaluate_coco(truth, [right, elsewhere], iou_type="segm")
    assert mistaken.numbers["AP"] == pytest.approx(0.5)
    del truth["annotations"][0]["segmentation"]
    with pytest.raises(DataError, match="No object of the ground truth has a segmentation"):
        evaluate_coco(truth, [right], iou_type="segm")


def test_a_mask_without_a_pixel_finds_nothing() -> None:
    empty = {"size": [80, 100], "counts": encode_counts(np.array([8000])).decode()}
    truth = half_masked()
    truth["annotations"][0]["iscrowd"] = 1  # whose overlap is a share of the detection
    for annotations in (half_masked()["annotations"], truth["annotations"]):
        truth["annotations"] = annotations
        found = {"image_id": 1, "category_id": 3, "segmentation": empty, "score": 0.9}
        numbers = evaluate_coco(truth, [found], iou_type="segm").numbers
        assert all(math.isfinite(value) for value in numbers.values()) and numbers["AP"] <= 0


def test_any_number_of_keypoints() -> None:
    truth = one_object()
    truth["annotations"][0]["keypoints"] = [12, 12, 2, 40, 40, 2, 20, 30, 1]
    perfect = {"image_id": 1, "category_id": 3, "keypoints": [12, 12, 1, 40, 40, 1, 20, 30, 1], "score": 0.9}
    far = {**perfect, "keypoints": [30, 30, 1, 15, 10, 1, 40, 10, 1]}
    metrics = evaluate_coco(truth, [perfect], iou_type="keypoints")
    assert metrics.numbers["AP"] == pytest.approx(1.0) and metrics.keypoint_sigmas == (0.05,) * 3
    assert "sigmas: 0.05" in metrics.table()
    assert evaluate_coco(truth, [far], iou_type="keypoints").AP == 0.0
    assert evaluate_coco(truth, [far], iou_type="keypoints", keypoint_sigmas=[5, 5, 5]).AP > 0.999
    with pytest.raises(UsageError, match="2 numbers, but the objects have 3"):
        evaluate_coco(truth, [far], iou_type="keypoints", keypoint_sigmas=[0.1, 0.1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 5}, "image 5, which the ground truth does not have"),
        ({"category_id": 4}, "category 4, but the ground truth has 3"),
        ({"score": math.nan}, "score nan"),
        ({"score": None}, "has no score"),
        ({"bbox": [0, 0, math.inf, 1]}, "four finite numbers"),
        ({"bbox": None}, "has no bbox"),
    ],
)
def test_results_that_cannot_be_measured(change: dict[str, Any], message: str) -> None:
    good = {"image_id": 1, "category_id": 3, "bbox": [10, 10, 40, 40], "score": 0.9}
    with pytest.raises(DataError, match=re.escape(message)):
        evaluate_coco(one_object(), [good, {**good, **change}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 7}, "annotation 5 of the ground truth is for image 7"),
        ({"category_id": 7}, "annotation 5 of the ground truth is of category 7"),
        ({"bbox": [0, 0, math.nan, 4]}, "annotation 5 of the ground truth has the bbox"),
        ({"bbox": None, "segmentation": None}, "has the bbox None"),
    ],
)
def test_ground_truth_that_cannot_be_measured(change: dict[str, Any], message: str) -> None:
    truth = one_object()
    truth["annotations"][0].update(change)
    with pytest.raises(DataError, match=re.escape(message)):
        evaluate_coco(truth, [])


@pytest.mark.parametrize(
    ("iou_type", "change", "message"),
    [
        ("segm", {"segmentation": {"size": [99, 100], "counts": "X"}}, "size [99, 100], but image 1 is [80, 100]"),
        ("keypoints", {"keypoints": [1, 2, 3]}, "3 numbers as keypoints; expected 9"),
        ("keypoints", {"keypoints": [1, 2, 3, 4, math.nan, 1, 5, 6, 7]}, "expected 9 finite"),
    ],
)
def test_masks_and_keypoints_that_cannot_be_measured(iou_type: str, change: dict[str, Any], message: str) -> None:
    truth = half_masked()
    with pytest.raises(DataError, match=re.escape(message)):
        evaluate_coco(truth, [{"image_id": 1, "category_id": 3, "score": 0.9, **change}], iou_type=iou_type)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        evaluate_coco(tmp_path / "none.json", [])
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        evaluate_coco(one_object(), tmp_path / "bad.json")
    with pytest.raises(DataError, match="images, annotations, categories; got the keys images"):
        evaluate_coco({"images": []}, [])
    with pytest.raises(DataError, match="a list"):
        evaluate_coco(one_object(), {"results": []})  # type: ignore[arg-type]
    twice = one_object()
    twice["images"] *= 2
    with pytest.raises(DataError, match="occurs twice"):
        evaluate_coco(twice, [])
    with pytest.raises(UsageError, match="at least 1"):
        evaluate_coco(one_object(), [], max_detections=0)


def test_metrics_survive_pickling_and_name_what_they_have() -> None:
    metrics = evaluate_coco(one_object(), [])
    assert pickle.loads(pickle.dumps(metrics)) == metrics
    with pytest.raises(AttributeError, match="AP, AP50"):
        _ = metrics.AP60


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    truth, results = random_case(0)
    evaluate_coco(truth, results).table()
    assert capfd.readouterr() == ("", "")


def one_object() -> dict[str, Any]:
    """One 40 x 40 cat in one image, with its mask and three keypoints."""
    annotation = {
        "id": 5,
        "image_id": 1,
        "category_id": 3,
        "bbox": [10, 10, 40, 40],
        "area": 1600,
        "iscrowd": 0,
        "segmentation": [[10, 10, 50, 10, 50, 50, 10, 50]],
        "keypoints": [12, 12, 2, 40, 40, 2, 20, 30, 1],
    }
    return {
        "images": [{"id": 1, "width": 100, "height": 80}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [annotation],
    }
