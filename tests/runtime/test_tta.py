"""Test-time augmentation: mirrored and in several sizes, one answer in the pixels of the image; rows stay whole."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.runtime.toy_engines import HANDS, Told, detections

from aweigh.checkpoints.checkpoint import save_model
from aweigh.classes import Classes, KeypointSet
from aweigh.cli.flags import Views
from aweigh.cli.main import run
from aweigh.errors import UsageError
from aweigh.geometry.frames import Frame
from aweigh.images.resize import Resize
from aweigh.inference.detect import detect
from aweigh.inference.engine import TorchEngine
from aweigh.layouts.load import load_split
from aweigh.models import create
from aweigh.predictor import Predictor, load
from aweigh.runtime.engine import Batch
from aweigh.runtime.tta import PLAIN, SCALES, TTA, find, merge

EYES = KeypointSet(("nose", "left_eye", "right_eye"), flip_pairs=((1, 2),))
RESIZE = Resize(short=None, long=70)


def found_by(engine, tta, size_hw=(40, 60)):
    """What an engine finds in one image that it sees in half its size and scales of that."""
    dice = np.random.default_rng(0)
    sizes = [(round(size_hw[0] * scale / 2), round(size_hw[1] * scale / 2)) for scale in tta.scales]
    images = [dice.random((3, *size), np.float32) for size in sizes]
    batches = [Batch.stack([image], divisor=32, fill=engine.pixel_mean) for image in images]
    (found,) = find(engine, batches, [size_hw], tta)
    return found


@pytest.fixture(scope="module")
def fcos():
    torch.manual_seed(0)
    arguments = {"channels": 32, "head_convs": 1}
    model = create("fcos_shufflenet_v2_x0_5_fpn", classes=Classes(("box", "ball", "nut"), (1, 7, 9)), **arguments)
    model.score_threshold = 0.0
    with torch.no_grad():  # so that scores differ
        for level in model.head.modules():
            if isinstance(level, torch.nn.Conv2d):
                level.weight.mul_(3)
    return model.eval()


# --- by hand --------------------------------------------------------------------------------------------------------


def test_a_mirrored_view_comes_back_and_the_best_of_each_group_stays():
    engine = Told([[2, 4, 12, 14, 0.5, 0], [20, 0, 30, 10, 0.3, 2]], [[18, 4, 28, 14, 0.8, 1], [0, 0, 10, 10, 0.2, 2]])
    found = found_by(engine, TTA(flip=True))  # views of 20 x 30: 18 to 28 is 2 to 12, a right hand there a left one
    plain, mirrored = (batch.pixels[..., :20, :30] for batch in engine.batches)
    np.testing.assert_array_equal(mirrored, plain[..., ::-1])
    np.testing.assert_allclose(found.boxes, [[4, 8, 24, 28], [40, 0, 60, 20]], rtol=1e-6)
    np.testing.assert_array_equal(found.scores, np.float32([0.8, 0.3]))
    assert found.labels.tolist() == [0, 2] and found.size_hw == (40, 60)


def test_pairs_of_a_flip_can_be_refused():
    views = [[2, 4, 12, 14, 0.5, 0]], [[18, 4, 28, 14, 0.8, 1]]
    found = found_by(Told(*views), TTA(flip=True, flip_pairs=("none",)))
    assert found.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("method", "scores"),
    [("nms", [0.8]), ("soft", [0.8, 0.6 * 0.135335]), ("weighted", [0.7])],  # exp(-1 / 0.5) = 0.135335
)
def test_two_sizes_are_merged(method, scores):
    engine = Told([[2, 4, 12, 14, 0.6, 2]], [[1, 2, 6, 7, 0.8, 2]])
    found = found_by(engine, TTA(scales=(1.0, 0.5), merge=method))
    np.testing.assert_allclose(found.scores, scores, rtol=1e-5)
    assert found.boxes.tolist() == [[4, 8, 24, 28]] * len(scores)
    assert [batch.pixels.shape[-2:] for batch in engine.batches] == [(32, 32), (32, 32)]


def test_no_more_than_the_detector_gives_and_nothing_is_fine():
    rows = [[10.0 * n, 0, 10.0 * n + 9, 9, 0.9 - n / 10, 2] for n in range(3)]
    other = [[10.0 * n, 12, 10.0 * n + 9, 19, 0.85 - n / 10, 2] for n in range(3)]
    for method in ("nms", "soft", "weighted"):
        found = found_by(Told(rows, other), TTA(flip=True, merge=method))
        factor = 2 if method == "weighted" else 1  # one of two views
        assert (found.scores * factor).tolist() == pytest.approx([0.9, 0.85, 0.8])
        assert len(found_by(Told([], []), TTA(flip=True, merge=method))) == 0


def test_masks_and_keypoints_are_mirrored_and_stay_with_their_row():
    masks = np.random.default_rng(0).random((2, 4, 4), np.float32)
    keypoints = np.float32([[[10, 5, 1], [12, 4, 2], [8, 4, -3]], [[40, 5, 1], [50, 4, 2], [44, 4, 3]]])
    rest = {"masks": masks, "keypoints": keypoints, "keypoint_set": EYES}
    found = replace(detections([[4, 2, 14, 12, 0.9, 0], [40, 2, 52, 12, 0.4, 2]], (20, 60)), **rest)
    how = {"size_hw": (20, 60), "class_pairs": TTA().class_pairs(HANDS)}
    turned = found.moved(Frame.mirror(60), **how)
    assert turned.boxes.tolist() == [[46, 2, 56, 12], [8, 2, 20, 12]] and turned.labels.tolist() == [1, 2]
    assert turned.keypoints[0].tolist() == [[50, 5, 1], [52, 4, -3], [48, 4, 2]]  # the eyes have changed places
    np.testing.assert_array_equal(turned.masks[:, :, 0], masks[:, :, 3])
    back = turned.moved(Frame.mirror(60), **how)
    for name in ("boxes", "labels", "masks", "keypoints"):
        np.testing.assert_array_equal(getattr(back, name), getattr(found, name))
    other = detections([[4, 3, 14, 13, 0.5, 0], [40, 3, 52, 13, 0.6, 2]], (20, 60))
    other = replace(other, **rest | {"masks": masks + 1, "keypoints": keypoints + 1})
    for method in ("nms", "weighted"):
        (merged,) = merge(Told(), [[found], [other]], TTA(scales=(1, 2), merge=method))
        np.testing.assert_array_equal(merged.masks, [masks[0], masks[1] + 1], method)  # of 0.9 and of 0.6
        np.testing.assert_array_equal(merged.keypoints, [keypoints[0], keypoints[1] + 1])
        assert merged.keypoint_set == EYES
    assert merged.boxes[0].tolist() == pytest.approx([4, 2 + 0.5 / 1.4, 14, 12 + 0.5 / 1.4])


def test_proposals_are_scaled_and_mirrored_with_the_picture():
    engine = Told(*[[]] * 4, needs_proposals=True)
    predictor = Predictor(engine, Resize(None, 30), tta=TTA(flip=True, scales=(1, 2)))
    predictor(np.zeros((40, 60, 3), np.uint8), proposals=np.array([[4, 8, 24, 28]]))
    expected = [[[2, 4, 12, 14]], [[18, 4, 28, 14]], [[4, 8, 24, 28]], [[36, 8, 56, 28]]]
    assert [batch.proposals.tolist() for batch in engine.batches] == [[boxes] for boxes in expected]


# --- a detector -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["nms", "soft", "weighted"])
def test_a_mirrored_picture_gives_mirrored_detections(fcos, method):
    picture = torch.rand(3, 50, 77, generator=torch.Generator().manual_seed(0))
    predictor = Predictor(fcos, RESIZE, tta=TTA(flip=True, scales=(0.5, 1), merge=method), device="cpu")
    found, mirrored = predictor(picture, score=0), predictor(picture.flip(-1), score=0)
    assert len(found) > 20
    turned = mirrored.moved(Frame.mirror(77), (50, 77), class_pairs=TTA().class_pairs(fcos.classes))
    np.testing.assert_allclose(turned.scores, found.scores, atol=1e-5, rtol=1.3e-6)
    np.testing.assert_allclose(turned.boxes, found.boxes, atol=1e-3, rtol=0)


def test_one_scale_is_the_resize_of_that_scale(fcos):
    picture = torch.rand(3, 50, 77, generator=torch.Generator().manual_seed(0))
    expected = Predictor(fcos, Resize(short=None, long=70, scale=1.5), device="cpu")(picture, score=0)
    found = Predictor(fcos, RESIZE, tta=TTA(scales=(1.5,)), device="cpu")(picture, score=0)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.scores, expected.scores)
    plain = Predictor(fcos, RESIZE, device="cpu")(picture, score=0)
    assert len(found) > 0 and not np.array_equal(plain.boxes, found.boxes)


def test_prediction_and_evaluation_are_one(fcos, toys):
    val = load_split(toys, "val")
    tta = TTA(flip=True, scales=(1, 0.5), merge="weighted")
    predictor = Predictor(fcos, RESIZE, tta=tta, device="cpu")
    measured = detect(predictor.engine.model, RESIZE, val, batch=2, tta=tta).results
    files = sorted((toys / "images" / "val").iterdir())
    predicted = [
        entry
        for number, found in enumerate(predictor.stream(files, batch=2, score=0))
        for entry in found[found.labels != 2].to_coco(100 + number)  # the data know no nuts
    ]
    assert len(measured) == len(predicted) > 0
    for one, other in zip(measured, predicted, strict=True):
        assert one["image_id"] == other["image_id"] and one["category_id"] == other["category_id"]
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-3)
        assert one["score"] == pytest.approx(other["score"], abs=1e-6)
    plain = detect(predictor.engine.model, RESIZE, val, batch=2).results
    assert [entry["score"] for entry in plain] != [entry["score"] for entry in measured]
    with pytest.raises(UsageError, match="losses are those of the plain images"):
        detect(fcos, RESIZE, val, losses=True, tta=tta)


def test_the_command_line_measures_and_predicts_with_it(fcos, toys, tmp_path, capsys):
    fcos.builder = "fcos_shufflenet_v2_x0_5_fpn"
    file = str(tmp_path / "model.safetensors")
    save_model(file, fcos, resize=RESIZE)
    flags = ["--tta", "flip,multiscale", "--scales", "0.5,1", "--merge", "soft", "--resize", "64"]
    assert run(["eval", file, str(toys), "--json", str(tmp_path / "numbers.json"), *flags]) == 0
    assert "test-time augmentation: flip; scales 0.5, 1; merged by soft" in capsys.readouterr().out
    settings = json.loads((tmp_path / "numbers.json").read_text())["settings"]
    assert settings["resize"]["long"] == 64 and settings["resize"]["short"] is None
    assert settings["tta"] == {"flip": True, "scales": [0.5, 1.0], "merge": "soft", "flip_pairs": []}
    picture = toys / "images" / "val" / "0.png"
    given = [str(picture), "--model", file, "--no-draw", "--score", "0"]
    assert run(["predict", *given, "-o", str(tmp_path / "out"), *flags]) == 0
    line = json.loads((tmp_path / "out" / "detections.jsonl").read_text())
    tta = TTA(flip=True, scales=(0.5, 1), merge="soft")
    found = load(file, resize=Resize(None, 64), tta=tta, device="cpu")(picture, score=0)
    assert [entry["score"] for entry in line["detections"]] == pytest.approx(found.scores.tolist(), abs=1e-4)
    assert run(["eval", file, str(toys), "--proposals", "--tta", "flip"]) == 2
    assert "leave out --resize and --tta" in capsys.readouterr().err


# --- what is said of it ---------------------------------------------------------------------------------------------


def test_the_flags_as_they_are_typed():
    assert Views().augmentation() == PLAIN and PLAIN.plain
    assert Views(tta="flip").augmentation() == TTA(flip=True)
    assert Views(tta="multiscale").augmentation() == TTA(scales=SCALES)
    both = Views(tta="flip, multiscale", scales="1,2", merge="weighted", flip_pairs="a=b,c=d").augmentation()
    assert both == TTA(flip=True, scales=(1.0, 2.0), merge="weighted", flip_pairs=("a=b", "c=d"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"tta": "flop"}, r"--tta flop: expected flip, multiscale.*Did you mean 'flip'"),
        ({"scales": "1,2"}, "--scales 1,2 goes with --tta multiscale"),
        ({"tta": "flip", "scales": "1,2"}, "--scales 1,2 goes with --tta multiscale"),
        ({"tta": "multiscale", "flip_pairs": "a=b"}, "--flip-pairs a=b goes with --tta flip"),
        ({"merge": "soft"}, "--merge soft goes with --tta"),
        ({"tta": "multiscale", "scales": "1,x"}, "--scales 1,x: expected numbers above 0"),
        ({"tta": "multiscale", "scales": ","}, "--scales ,: expected numbers above 0"),
        ({"tta": "multiscale", "scales": "0,1"}, "expected different numbers above 0"),
        ({"tta": "multiscale", "scales": "-1"}, "expected different numbers above 0"),
        ({"tta": "multiscale", "scales": "nan"}, "expected different numbers above 0"),
        ({"tta": "multiscale", "scales": "1,1"}, "expected different numbers above 0"),
    ],
)
def test_flags_that_do_not_go_together_are_named(flags, said):
    with pytest.raises(UsageError, match=said):
        Views(**flags).augmentation()


def test_errors_in_python():
    with pytest.raises(UsageError, match=r"scales = \[\]: expected different numbers"):
        TTA(scales=())
    with pytest.raises(UsageError, match=r"merge = 'sotf': expected nms, soft, weighted.*Did you mean 'soft'"):
        TTA(merge="sotf")


def test_a_merge_that_there_is_not_and_a_class_that_there_is_not(fcos, tmp_path, capsys):
    assert run(["predict", "photo.jpg", "--tta", "flip", "--merge", "mean"]) == 2
    assert "--merge" in capsys.readouterr().err
    picture = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(picture)
    save_model(str(tmp_path / "model.safetensors"), fcos, resize=RESIZE)
    flags = ["--model", str(tmp_path / "model.safetensors"), "--tta", "flip", "--flip-pairs", "box=bal"]
    assert run(["predict", str(picture), *flags]) == 2
    assert "'bal' is neither a class nor a keypoint" in capsys.readouterr().err


def test_what_is_done_in_words(fcos):
    lines = TTA(flip=True, scales=(0.5, 1)).describe(Told())
    assert lines == [
        "test-time augmentation: flip; scales 0.5, 1; merged by nms",
        "a flip exchanges the classes left hand/right hand",
    ]
    centernet = TorchEngine(create("centernet_shufflenet_v2_x0_5_lite", num_classes=2))
    assert TTA(flip=True).describe(centernet) == ["test-time augmentation: flip, its maps averaged"]
    assert TTA(scales=(1, 2)).describe(centernet) == ["test-time augmentation: scales 1, 2; merged by soft"]
    assert PLAIN.describe(TorchEngine(fcos)) == ["test-time augmentation: none"]
