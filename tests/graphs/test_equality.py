"""A graph finds what its checkpoint finds: in real photographs, and in strange files."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from tests.end_to_end import strange
from tests.scenes_on_disk import scene

import aweigh
from aweigh.detections import Detections
from aweigh.errors import DataError
from aweigh.geometry.boxes import pairwise_iou
from aweigh.images.reader import read_image
from aweigh.predictor import Predictor, load
from aweigh.runtime.open import Runtime

PIXELS, SCORE = 0.05, 1e-3  # how far a box of float32, and its score, may lie from those of torch
RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "openvino")


def unlike(ours: Detections, theirs: Detections, least: float) -> list[str]:
    """What one finds and the other does not, in words. least: the score from which on both detect anything.

    Rows are matched, since equal scores may come in either order. What has nearly the least score of what is kept, of
    all or of a full image, may be there once and not twice.
    """
    full = [found for found in (ours, theirs) if len(found) == max(len(ours), len(theirs))]
    edge = max(least, min((float(found.scores[-1]) for found in full if len(found) >= 100), default=0.0)) + SCORE
    different = []
    for one, other, whose in ((ours, theirs, "the graph"), (theirs, ours, "torch")):
        for box, score, label in zip(one.boxes, one.scores, one.labels):
            near = (other.labels == label) & (np.abs(other.boxes - box).max(axis=1) <= PIXELS)
            if not (near & (np.abs(other.scores - score) <= SCORE)).any() and score > edge:
                best = pairwise_iou(box[None], other.boxes[other.labels == label]).max(initial=0)
                different.append(
                    f"only {whose}: {one.classes.names[label]} {score:.4f} at {box.round(2).tolist()}, best IoU there "
                    f"{best:.3f}"
                )
    return different


def differences(graph: Predictor, torch: Predictor, images: Mapping[str, Path | bytes]) -> Iterator[str]:
    """Where the two do not find the same, image by image."""
    least = torch.engine.selection.score_threshold
    both = (each.stream([*images.values()], 1, score=0) for each in (graph, torch))
    for name, ours, theirs in zip(images, *both, strict=True):
        if ours.error != theirs.error:
            yield f"{name}: {ours.error or 'read'}, by torch {theirs.error or 'read'}"
        yield from (f"{name}: {what}" for what in unlike(ours, theirs, least))


def is_read(content: bytes) -> bool:
    try:
        return read_image(content).size > 0
    except DataError:
        return False


@pytest.fixture(scope="module")
def by_torch(small_detector: Path) -> Predictor:
    return load(small_detector, device="cpu")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_scenes_and_what_differs_is_said(
    small_graph: Path, by_torch: Predictor, tmp_path: Path, runtime: Runtime
) -> None:
    for number, (width, height) in enumerate(((96, 64), (64, 96), (300, 20), (97, 95), (33, 32), (1, 1))):
        scene(number, width, height).save(tmp_path / f"{number}.png")
    images = {path.name: path for path in sorted(tmp_path.iterdir())}
    graph = load(small_graph, runtime=runtime)
    assert not [*differences(graph, by_torch, images)]
    assert sum(map(len, graph.stream([*images.values()], score=0))) > 100
    graph.resize = graph.resize.with_size("80")
    assert "only the graph: " in "".join(differences(graph, by_torch, images))


@pytest.mark.long
@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.thorough)])
def test_three_hundred_strange_files(small_graph: Path, by_torch: Predictor, runtime: Runtime) -> None:
    parts = (strange.modes, strange.orientations, strange.frames, strange.damaged, strange.wrong_suffixes)
    files = dict(file for part in (*parts, strange.no_pictures, strange.headers) for file in part())
    for number, (width, height) in enumerate(((1, 1), (1, 3000), (3000, 1), (2, 700), (96, 1), (31, 97), (500, 4))):
        files[f"side {number}.png"] = strange.saved(strange.picture("RGB", (width, height)), ".png") or b""
    assert len(files) >= 300
    graph = load(small_graph, runtime=runtime)
    assert not [*differences(graph, by_torch, files)]
    assert 150 < sum(map(is_read, files.values())) < len(files) - 50


@pytest.mark.thorough
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_two_hundred_photographs(shared: Path, tmp_path: Path, runtime: Runtime) -> None:
    graph = aweigh.export("box", tmp_path / "box.onnx")
    photographs = {path.name: path for path in sorted((shared / "data").glob("coco_*/images/**/*.jpg"))[:200]}
    assert len(photographs) == 200
    assert not [*differences(load(graph, runtime=runtime), load("box", device="cpu"), photographs)]
