"""A predictor with an engine in NumPy alone gives what it should, without torch; its batches equal those of torch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.runtime.toy_engines import HANDS, Spots

from aweigh.errors import UsageError
from aweigh.images.resize import Resize
from aweigh.predictor import Predictor
from aweigh.runtime.engine import Batch, Engine
from aweigh.runtime.tta import TTA
from aweigh.structures import Images, padded_proposals

AS_IT_IS = Resize(short=None, long=None)
SIZES = [(20, 30), (32, 40), (1, 7), (64, 33)]


def picture(size_hw, *spots):
    """A black image with filled boxes `(x0, y0, x1, y1, channel, brightness)`."""
    image = np.zeros((*size_hw, 3), np.uint8)
    for x0, y0, x1, y1, channel, brightness in spots:
        image[y0:y1, x0:x1, channel] = brightness
    return image


ONE = picture((40, 60), (4, 8, 24, 28, 0, 255), (40, 0, 60, 20, 2, 204))  # a left hand and a ball
OTHER = picture((50, 30), (2, 10, 12, 30, 1, 255))  # a right hand


# --- batches --------------------------------------------------------------------------------------------------------


def padded(sizes_hw, divisor=32):
    """The same images as arrays and as tensors, padded by either, with proposals."""
    dice = np.random.default_rng(0)
    images = [dice.random((3, *size), np.float32) for size in sizes_hw]
    boxes = [dice.random((number, 4), np.float32) * 20 for number in range(len(images))]  # the first has none
    fill = (0.1, 0.4, 0.7)
    tensors = Images.stack([torch.from_numpy(image) for image in images], divisor=divisor, fill=fill)
    proposals = padded_proposals([torch.from_numpy(own) for own in boxes])
    arrays = Batch.stack(images, divisor=divisor, fill=fill).with_proposals(boxes)
    return arrays, Images(tensors.pixels, tensors.sizes_hw, proposals)


def assert_same(batch, images):
    assert batch.sizes_hw == images.sizes_hw
    for name in ("pixels", "proposals"):
        ours, theirs = getattr(batch, name), getattr(images, name).numpy()
        assert ours.dtype == theirs.dtype == np.float32
        np.testing.assert_array_equal(ours, theirs, name)


@pytest.mark.parametrize("sizes_hw", [SIZES, SIZES[:1], [(64, 64)] * 2])
@pytest.mark.parametrize("divisor", [1, 32, 128])
def test_arrays_are_padded_and_mirrored_as_tensors_are(sizes_hw, divisor):
    batch, images = padded(sizes_hw, divisor)
    assert_same(batch, images)
    assert_same(batch.mirrored(), images.mirrored())
    assert_same(batch.mirrored().mirrored(), images.mirrored().mirrored())


def test_each_image_is_mirrored_in_its_own_corner_with_its_proposals():
    images = [np.random.default_rng(0).random((3, *size), np.float32) for size in ((20, 30), (32, 40))]
    proposals = [np.float32([[1, 2, 11, 12]]), np.float32([[0, 0, 4, 4], [36, 1, 40, 9]])]
    batch = Batch.stack(images, divisor=32, fill=(0.5, 0.5, 0.5)).with_proposals(proposals)
    mirrored = batch.mirrored()
    for slot, image in zip(mirrored.pixels, images):
        np.testing.assert_array_equal(slot[:, : image.shape[1], : image.shape[2]], image[..., ::-1])
    assert (mirrored.pixels[0, :, 20:] == 0.5).all() and (mirrored.pixels[0, :, :, 30:] == 0.5).all()
    assert mirrored.proposals[1].tolist() == [[36, 0, 40, 4], [0, 1, 4, 9]]
    assert mirrored.proposals[0, 0].tolist() == [19, 2, 29, 12]
    assert mirrored.proposals[0, 1, 0] == mirrored.proposals[0, 1, 2]  # padding has no area still


# --- the predictor --------------------------------------------------------------------------------------------------


def test_objects_are_in_the_pixels_of_the_image_best_first():
    engine = Spots()
    assert isinstance(engine, Engine)
    found = Predictor(engine, AS_IT_IS)(ONE)
    assert found.boxes.tolist() == [[4, 8, 24, 28], [40, 0, 60, 20]] and found.labels.tolist() == [0, 2]
    np.testing.assert_array_equal(found.scores, np.float32([1, 0.8]))
    assert (found.size_hw, found.classes) == ((40, 60), HANDS) and engine.batches[0].sizes_hw == [(40, 60)]
    assert engine.batches[0].pixels.shape == (1, 3, 64, 64) and engine.batches[0].proposals is None
    assert (engine.batches[0].pixels[..., 40:, :] == 0.25).all()  # the engine's mean
    half = Predictor(engine, Resize(short=None, long=30))(ONE)
    assert engine.batches[1].sizes_hw == [(20, 30)] and half.size_hw == (40, 60)
    np.testing.assert_allclose(half.boxes, found.boxes, atol=2)


def test_a_batch_of_several_sizes_gives_what_each_image_gives_alone():
    engine = Spots()
    predictor = Predictor(engine, AS_IT_IS)
    together = list(predictor.stream([ONE, OTHER, ONE, OTHER], batch=3))
    assert [batch.sizes_hw for batch in engine.batches] == [[(40, 60), (50, 30), (40, 60)], [(50, 30)]]
    for image, found in zip([ONE, OTHER, ONE, OTHER], together, strict=True):
        alone = predictor(image)
        assert found.size_hw == alone.size_hw and len(found) == len(alone) > 0
        for name in ("boxes", "scores", "labels"):
            np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))


def test_a_flip_is_merged_with_the_hands_exchanged():
    engine = Spots()
    found = Predictor(engine, AS_IT_IS, tta=TTA(flip=True))(ONE)
    # A channel stays what it is in the mirror: the red hand is a left one there too, so that it comes back a right one.
    assert found.boxes.tolist() == [[4, 8, 24, 28], [4, 8, 24, 28], [40, 0, 60, 20]]
    assert found.labels.tolist() == [0, 1, 2] and len(engine.batches) == 2
    np.testing.assert_array_equal(engine.batches[1].pixels, engine.batches[0].mirrored().pixels)
    alone = Predictor(Spots(), AS_IT_IS, tta=TTA(flip=True, flip_pairs=("none",)))(ONE)
    assert alone.labels.tolist() == [0, 2]


def test_a_flip_is_averaged_by_an_engine_that_can():
    engine = Spots(averages_flips=True)
    both = picture((40, 60), (4, 8, 24, 28, 0, 255), (4, 8, 24, 28, 1, 51), (40, 0, 60, 20, 2, 204))
    found = Predictor(engine, AS_IT_IS, tta=TTA(flip=True))(both)
    assert len(engine.batches) == 1  # it is the engine that mirrors
    assert found.labels.tolist() == [2, 0, 1] and found.scores.tolist() == pytest.approx([0.8, 0.6, 0.6])


@pytest.mark.parametrize(("merge", "scores"), [("nms", [1]), ("weighted", [1]), ("soft", [1, np.exp(-2)])])
def test_scales_are_merged(merge, scores):
    engine = Spots()
    hand = picture((40, 60), (4, 8, 24, 28, 0, 255))
    found = Predictor(engine, AS_IT_IS, tta=TTA(scales=(1.0, 0.5), merge=merge))(hand, score=0)
    assert [batch.sizes_hw for batch in engine.batches] == [[(40, 60)], [(20, 30)]]
    np.testing.assert_allclose(found.boxes, [[4, 8, 24, 28]] * len(scores), atol=1)
    np.testing.assert_allclose(found.scores, scores, rtol=0.2)


def test_proposals_come_in_the_pixels_of_the_batch_and_are_filled_up():
    engine = Spots(needs_proposals=True)
    Predictor(engine, Resize(None, 30))(ONE, proposals=np.array([[4, 8, 24, 28]]))
    assert engine.batches[0].proposals.tolist() == [[[2, 4, 12, 14]]]
    assert engine.batches[0].proposals.dtype == np.float32


def test_what_the_memory_is_too_small_for_is_run_one_by_one():
    engine = Spots(most=1)
    results = list(Predictor(engine, AS_IT_IS).stream([ONE, OTHER], batch=2))
    assert [len(batch.sizes_hw) for batch in engine.batches] == [2, 1, 1]
    assert [len(found) for found in results] == [2, 1] and all(found.error is None for found in results)
    starved = list(Predictor(Spots(most=0), AS_IT_IS).stream([ONE, OTHER], batch=2))
    assert [len(found) for found in starved] == [0, 0]
    assert all("not enough memory" in found.error and "--resize" in found.error for found in starved)


def test_what_is_kept_is_asked_of_the_predictor_and_what_suppresses_of_the_engine():
    engine = Spots()
    predictor = Predictor(engine, AS_IT_IS)
    assert predictor(ONE, score=0.9).labels.tolist() == [0]  # the ball has 0.8
    assert predictor(ONE, classes=["ball"]).labels.tolist() == [2]
    assert predictor(ONE, nms="agnostic").labels.tolist() == [0, 2]
    assert engine.selection.nms == "class" and len(engine.batches) == 3  # another one was run with it


def test_depths_cannot_be_told_in_several_sizes():
    engine = Spots(extras=("cuboids",))
    with pytest.raises(UsageError, match="spots tells depths by sizes"):
        Predictor(engine, AS_IT_IS, tta=TTA(scales=(1, 2)))(ONE)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["torchvision"] = sys.modules["timm"] = None  # an import of them is an ImportError
import numpy as np
from tests.runtime.toy_engines import Spots
from aweigh.images.resize import Resize
from aweigh.predictor import Predictor
from aweigh.runtime.tta import TTA

image = np.zeros((40, 60, 3), np.uint8)
image[8:28, 4:24, 2] = 255
predictor = Predictor(Spots(), Resize(short=None, long=120), tta=TTA(flip=True, scales=(1, 0.5), merge="weighted"))
for found in predictor.stream([image, image[:30]], batch=2):
    print(found.labels.tolist(), found.boxes.round().astype(int).tolist())
"""


def test_nothing_of_it_needs_torch():
    root = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], cwd=root, capture_output=True, text=True, timeout=120)
    assert ran.stderr == "" and ran.stdout == "[2] [[4, 8, 24, 28]]\n" * 2
