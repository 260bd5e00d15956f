"""The decoders that come with a graph, on random candidates: equal to the engine, in NumPy and compiled from C++."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aweigh.geometry.frames import Frame
from aweigh.graphs.decoders import decode
from aweigh.graphs.decoders.write import write_decoders
from aweigh.images.resize import Resize
from aweigh.runtime.engine import Batch
from aweigh.runtime.graph import Graph, GraphEngine

PLACES = {"graph": "in the graph", "none": "by the reader"}
WHOLE_HW, RESIZED_HW, CANDIDATES = (300, 451), (133, 200), 80


def header(nms: str = "class", inside: bool = False, **resize: Any) -> dict[str, Any]:
    graph = Graph(pixel_mean=(0.5, 0.25, 0.125), nms="graph" if inside else "none", extras=("keypoints",))
    return {
        "builder": "any",
        "classes": {"names": ["cat", 'the "big" dog\\', "Käfer ✓"], "ids": [3, 5, 90]},
        "resize": Resize(**{"short": None, "long": 200, **resize}).to_dict(),
        "selection": {"score_threshold": 0.05, "nms": nms, "nms_threshold": 0.4, "max_detections": 25},
        "graph": graph.to_dict(),
    }


def card_of(header: dict[str, Any]) -> dict[str, Any]:
    """What `decode.py` reads of the card of a graph."""
    graph = header["graph"]
    pad = {"size_hw": graph["size_hw"], "multiple_of": graph["stride_divisor"], "colour": graph["pixel_mean"]}
    return {
        "classes": header["classes"],
        "preprocess": {"resize": header["resize"], "pad": pad},
        "selection": {**header["selection"], "suppressed": PLACES[graph["nms"]]},
    }


def outputs(seed: int = 0, count: int = CANDIDATES) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, [150, 90], (1, CANDIDATES, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, corner.shape)], axis=2).astype(np.float32)
    return {
        "boxes": boxes,
        "scores": np.sort(rng.uniform(0.06, 1, (1, CANDIDATES)).astype(np.float32))[:, ::-1],
        "labels": rng.integers(0, 3, (1, CANDIDATES)),
        "count": np.array([count]),
        "keypoints": rng.uniform(0, 100, (1, CANDIDATES, 4, 3)).astype(np.float32),
    }


def expected(card: dict[str, Any], given: dict[str, np.ndarray]) -> Any:
    graph = Graph(**{**card["graph"], "keypoint_set": {"names": ["a", "b", "c", "d"]}})
    batch = Batch(np.zeros((1, 3, 160, 224), np.float32), [RESIZED_HW])
    (found,) = GraphEngine(card, graph, lambda inputs: given, "").run(batch)
    return found.moved(Frame.resize(RESIZED_HW, WHOLE_HW), WHOLE_HW)


@pytest.mark.parametrize("count", [CANDIDATES, 1, 0])
@pytest.mark.parametrize("nms", ["class", "agnostic", "soft", "none", "inside"])
def test_numpy_gives_what_the_engine_gives(nms: str, count: int) -> None:
    card = header("class" if nms == "inside" else nms, inside=nms == "inside")
    found = decode.decode(card_of(card), outputs(count=count), RESIZED_HW, WHOLE_HW, score=0.3)
    engine = expected(card, outputs(count=count))
    engine = engine[engine.scores >= 0.3]
    assert len(found) == len(engine) and (len(found) > 3 or count < 2)
    for one, box, score, label, points in zip(
        found, engine.boxes, engine.scores, engine.labels, engine.keypoints, strict=True
    ):
        np.testing.assert_allclose(one["box"], box, atol=1e-4)
        np.testing.assert_allclose(one["keypoints"], points, atol=1e-4)
        assert one["score"] == pytest.approx(float(score), rel=1e-6) and one["label"] == label
        assert (one["name"], one["category_id"]) == (card["classes"]["names"][label], card["classes"]["ids"][label])


@pytest.mark.parametrize(
    "resize",
    [{}, {"short": 80, "long": 133}, {"short": 90, "long": None}, {"long": None}, {"long": 300, "within": (96, 128)}],
    ids=["long", "both", "short", "original", "within"],
)
def test_the_size_and_the_inputs_are_those_of_prediction(resize: dict[str, Any]) -> None:
    card, step = card_of(header(**resize)), Resize(**{"short": None, "long": 200, **resize})
    for size_hw in [(300, 451), (451, 300), (1, 500), (7, 7), (96, 128), (333, 333)]:
        assert decode.size_for(card, *size_hw) == step.size_for(*size_hw)
    resized = np.random.default_rng(0).integers(0, 256, (45, 70, 3)).astype(np.uint8)
    batch = Batch.stack([Resize(None, None)(resized)], divisor=32, fill=(0.5, 0.25, 0.125))
    given = decode.inputs(card, resized)
    np.testing.assert_array_equal(given["images"], batch.pixels)
    assert given["sizes_hw"].tolist() == [[45, 70]]


MAIN = """
#include "any_decode.hpp"
#include <cstdio>
#include <iostream>
int main() {
    int count; std::cin >> count;
    std::vector<float> boxes(4 * count), scores(count); std::vector<std::int64_t> labels(count);
    for (auto& value : boxes) std::cin >> value;
    for (auto& value : scores) std::cin >> value;
    for (auto& value : labels) std::cin >> value;
    const auto size = aweigh::size_for(300, 451);
    std::printf("%d %d\\n", int(size[0]), int(size[1]));
    std::vector<std::uint8_t> image(133 * 200 * 3, 51); aweigh::Size room;
    const auto pixels = aweigh::inputs(image.data(), 133, 200, room);
    std::printf("%d %d %.4f %.4f\\n", int(room[0]), int(room[1]), pixels[0], pixels.back());
    for (const auto& one : aweigh::decode(boxes.data(), scores.data(), labels.data(), count, size, {300, 451}, 0.3f))
        std::printf("%.4f %.4f %.4f %.4f %.6f %d %s\\n", one.x0, one.y0, one.x1, one.y1, one.score,
                    int(one.category_id), aweigh::card.names[one.label].c_str());
}
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ here")
@pytest.mark.parametrize("nms", ["class", "soft"])
def test_cpp_gives_what_the_engine_gives(nms: str, tmp_path: Path) -> None:
    card, given = header(nms), outputs()
    write_decoders(tmp_path / "any.onnx", card)
    (tmp_path / "main.cpp").write_text(MAIN)
    subprocess.run(
        ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "main.cpp", "-o", "main"], cwd=tmp_path, check=True
    )
    values = [CANDIDATES, *(f"{value!r}" for name in ("boxes", "scores") for value in given[name].ravel().tolist())]
    text = " ".join(map(str, [*values, *given["labels"].ravel().tolist()]))
    said = subprocess.run([tmp_path / "main"], input=text, capture_output=True, text=True, check=True).stdout
    size, room, *rows = said.splitlines()
    assert (size, room) == ("133 200", "160 224 0.2000 0.1250")
    engine = expected(card, given)
    engine = engine[engine.scores >= 0.3]
    assert len(rows) == len(engine) > 3
    for row, one in zip(rows, engine, strict=True):
        *numbers, category, name = row.split(" ", 6)
        np.testing.assert_allclose([float(value) for value in numbers], [*one.box, one.score], atol=2e-4)
        assert (int(category), name) == (engine.classes.ids[one.label], one.name)


def test_a_card_in_cpp_is_text_that_any_compiler_reads(tmp_path: Path) -> None:
    _, cpp = write_decoders(tmp_path / "any.onnx", header())
    assert cpp.read_bytes().isascii()
    assert r'"the \042big\042 dog\134", "K\303\244fer \342\234\223"' in cpp.read_text()
