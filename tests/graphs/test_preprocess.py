"""A graph that resizes and pads images itself: the sizes of prediction, and what it finds, in onnxruntime."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import aweigh
from aweigh.cli.main import run
from aweigh.errors import UsageError
from aweigh.graphs import form
from aweigh.graphs.gate import WHOLE_IMAGES, differences
from aweigh.graphs.preprocess import take_whole_images
from aweigh.images.resize import Resize
from aweigh.scenes.shapes import render

MEAN = (0.485, 0.456, 0.406)


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A "detector" whose outputs are its inputs: `masks` the padded image, `count` the size, `boxes` four ones."""
    helper, kinds = onnx.helper, onnx.TensorProto
    values = {
        "images": (kinds.FLOAT, [1, 3, "h", "w"]),
        "sizes_hw": (kinds.INT64, [1, 2]),
        "masks": (kinds.FLOAT, [1, 3, "h", "w"]),
        "count": (kinds.INT64, [1, 2]),
        "boxes": (kinds.FLOAT, [1, 1, 4]),
    }
    infos = [helper.make_tensor_value_info(name, *value) for name, value in values.items()]
    nodes = [
        helper.make_node("Identity", ["images"], ["masks"]),
        helper.make_node("Identity", ["sizes_hw"], ["count"]),
        helper.make_node("Constant", [], ["boxes"], value=onnx.numpy_helper.from_array(np.ones((1, 1, 4), np.float32))),
    ]
    graph = helper.make_graph(nodes, "echo", infos[:2], infos[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = tmp_path_factory.mktemp("echo") / "echo.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    "resize",
    [
        Resize(None, 96),
        Resize(60, 100),
        Resize(60, None),
        Resize(None, None),
        Resize(60, 100, antialias=False),
        Resize(None, 200, within=(64, 96)),
    ],
    ids=str,
)
def test_what_the_network_is_given_is_what_prediction_gives_it(resize: Resize, echo: Path, tmp_path: Path) -> None:
    file = shutil.copy(echo, tmp_path / "whole.onnx")
    take_whole_images(file, resize=resize, divisor=32, mean=MEAN)
    session = onnxruntime.InferenceSession(file)
    for size_hw in [(120, 161), (161, 120), (97, 97), (31, 200), (1, 7), (64, 96)]:
        image = np.random.default_rng(0).integers(0, 256, (*size_hw, 3)).astype(np.uint8)
        outputs = dict(zip([each.name for each in session.get_outputs()], session.run(None, {"image": image})))
        height, width = resize.size_for(*size_hw)
        assert outputs["count"].tolist() == [[height, width]]
        padded = outputs["masks"][0]
        assert padded.shape == (3, -(-height // 32) * 32, -(-width // 32) * 32)
        levels = 255 * np.abs(padded[:, :height, :width] - resize(image))
        assert levels.max() < 1.01 and levels.mean() < 0.05
        for margin in (padded[:, height:], padded[:, :, width:]):
            np.testing.assert_allclose(margin, np.broadcast_to(np.reshape(MEAN, (3, 1, 1)), margin.shape), atol=1e-6)
        x, y = size_hw[1] / width, size_hw[0] / height
        np.testing.assert_allclose(outputs["boxes"][0, 0], [x, y, x, y], rtol=1e-6)


def test_it_finds_what_the_graph_behind_it_finds(small_graph: Path, tmp_path: Path) -> None:
    plain = aweigh.load(small_graph)
    model = onnx.load(small_graph)
    (entry,) = (each for each in model.metadata_props if each.key == "aweigh")
    header = json.loads(entry.value)
    header["graph"].update(whole_images=True, batch=1)
    header["resize"] = Resize(None, None).to_dict()
    entry.value = json.dumps(header)
    file = tmp_path / "whole.onnx"
    onnx.save(model, file)
    take_whole_images(file, resize=plain.resize, divisor=plain.engine.stride_divisor, mean=plain.engine.pixel_mean)
    whole = aweigh.load(file)
    images = [render(number, size_hw=(200, 150 + 40 * number)).image for number in range(3)]
    ours, theirs = ([*each.stream(images, batch=2, score=0)] for each in (plain, whole))
    seen = differences(ours, theirs, most=plain.engine.selection.max_detections, tolerance=WHOLE_IMAGES)
    assert seen.detections > 60 and not seen.beyond(replace(WHOLE_IMAGES, boxes_px=10.0, share=0.9, unmatched=0.1))
    for asked in ({"tta": aweigh.TTA(scales=(0.5, 1))}, {"resize": "64"}, {"resize": Resize(long=64)}):
        with pytest.raises(UsageError, match="resizes images itself"):
            aweigh.load(file, **asked)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "openvino"], "OpenVINO resizes in another way"),
        (["--size", "64x96"], "one image of any size"),
        (["--batch", "4"], "one image of any size"),
    ],
)
def test_what_it_cannot_be_is_refused_before_it_is_traced(
    words: list[str],
    said: str,
    small_detector: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(form, "onnx_graph", lambda *_, **__: pytest.fail("refused after it was traced"))
    assert run(["export", str(small_detector), "--with-preprocess", *words]) == 2
    assert said in capsys.readouterr().err
