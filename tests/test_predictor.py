"""An image in any form becomes detections in its own pixels; many images stream through in bounded memory."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from inspect import signature
from io import BytesIO
from itertools import islice
from pathlib import Path
from types import GeneratorType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.runtime.toy_engines import Spots
from torch import Tensor, nn

import aweigh
from aweigh.arguments import change_settings
from aweigh.checkpoints.checkpoint import save_model
from aweigh.classes import Classes
from aweigh.cli import predict
from aweigh.detections import Detections
from aweigh.errors import DataError, UsageError
from aweigh.images.resize import Resize
from aweigh.inference.device import choose_device
from aweigh.prediction.given import sources
from aweigh.predictor import SCORE, Predictor
from aweigh.structures import Images


class Whole(nn.Module):
    """A stand-in that finds one object: everything but a margin of a quarter, in the pixels it is given."""

    classes = Classes(("thing",), (7,))
    builder, extras, keypoint_set, average_flipped = "whole", (), None, None
    needs_proposals, needs_sizes = False, False
    stride_divisor = 32

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.tensor([0.1, 0.2, 0.3]))
        self.seen: list[Tensor] = []

    def network(self, pixels: Tensor) -> Tensor:
        self.seen.append(pixels)
        return pixels

    def decode(self, raw: Tensor, sizes_hw: list[tuple[int, int]]) -> list[Detections]:
        return [
            Detections(
                np.array([[w / 4, h / 4, w * 3 / 4, h * 2.0]], np.float32),
                np.array([0.9], np.float32),
                np.array([0]),
                classes=self.classes,
                size_hw=(h, w),
            )
            for h, w in sizes_hw
        ]


@pytest.fixture(scope="module")
def fcos() -> nn.Module:
    torch.manual_seed(0)
    model = aweigh.create("fcos_shufflenet_v2_x0_5_fpn", num_classes=3)
    model.score_threshold = 0.0
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics and factors that folding has to take along
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return model.eval()


@pytest.fixture(scope="module")
def detector(fcos: nn.Module) -> Predictor:
    return Predictor(fcos, Resize(short=None, long=96), device="cpu")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def same(one: Detections, other: Detections, tolerance: float = 1e-4) -> bool:
    return (
        one.size_hw == other.size_hw
        and np.array_equal(one.labels, other.labels)
        and np.allclose(one.boxes, other.boxes, atol=100 * tolerance)
        and np.allclose(one.scores, other.scores, atol=tolerance)
    )


def test_boxes_are_in_the_pixels_of_the_original() -> None:
    predictor = Predictor(Whole(), Resize(short=None, long=40), device="cpu")
    found = predictor(picture(120, 80))  # seen as 40 x 27
    assert found.size_hw == (120, 80)
    np.testing.assert_allclose(found.boxes, [[20, 30, 60, 120]])  # cut at the lower edge
    assert found.classes.ids == (7,)


def test_padding_has_the_mean_colour_of_the_model() -> None:
    predictor = Predictor(Whole(), Resize(short=None, long=40), device="cpu")
    predictor(picture(40, 20))
    seen = predictor.engine.model.seen[-1]
    assert seen.shape == (1, 3, 64, 32)
    assert seen[0, :, -1, -1].tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_every_form_of_a_picture_gives_the_same(detector: Predictor, tmp_path: Path) -> None:
    array = picture(70, 50)
    Image.fromarray(array).save(tmp_path / "a.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    expected = detector(array, score=0)
    assert len(expected) > 0
    content = (tmp_path / "a.png").read_bytes()
    forms = [tmp_path / "a.png", str(tmp_path / "a.png"), content, bytearray(content), BytesIO(content)]
    forms += [Image.fromarray(array), tensor, tensor / 255, tensor.half() / 255, array / 255]
    for form in forms:
        assert same(detector(form, score=0), expected, 0), type(form)
    with (tmp_path / "a.png").open("rb") as file:
        assert same(detector(file, score=0), expected, 0)
    assert detector(tmp_path / "a.png").path == str(tmp_path / "a.png")
    assert expected.path is None


def test_several_images_give_a_list(detector: Predictor, tmp_path: Path) -> None:
    arrays = [picture(64, 48, seed) for seed in range(3)]
    expected = [detector(array, score=0) for array in arrays]
    stacked = np.stack(arrays)
    for several in (arrays, tuple(arrays), stacked, torch.from_numpy(stacked).permute(0, 3, 1, 2)):
        found = detector(several, score=0)
        assert isinstance(found, list)
        assert all(same(one, other, 0) for one, other in zip(found, expected, strict=True))
    assert detector([]) == [] and detector(stacked[:0]) == []
    Image.fromarray(arrays[0]).save(tmp_path / "a.png")
    assert [one.path for one in detector([tmp_path / "a.png", arrays[1]])] == [str(tmp_path / "a.png"), None]
    with pytest.raises(DataError, match=r"missing\.png"):  # as of one image
        detector([arrays[0], tmp_path / "missing.png"])


def test_score_and_classes_say_what_is_kept() -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[2:8, 2:8, 0], pixels[10:15, 3:9, 1], pixels[1:5, 20:30, 2] = 140, 200, 255
    predictor = Predictor(Spots(), Resize(None, 40))
    for found in (predictor, lambda image, **asked: next(predictor.stream([image], **asked))):
        assert found(pixels).names == ["ball", "right hand", "left hand"]
        assert found(pixels, score=0.6).names == ["ball", "right hand"]
        assert found(pixels, score=200 / 255 + 1e-4).names == ["ball"]
        assert found(pixels, score=1).names == ["ball"]  # that score is reached
        assert found(pixels, classes=["left hand", "ball"]).names == ["ball", "left hand"]
        assert found(pixels, score=0.7, classes=("left hand",)).names == []
    assert predictor(pixels // 2).names == [] and predictor.engine.run(predictor.engine.batches[-1])[0].names == []


def test_the_default_score_is_that_of_the_command() -> None:
    for function in (Predictor.__call__, Predictor.stream):
        assert signature(function).parameters["score"].default == SCORE
    assert f"{SCORE:g} when not given" in str(predict.command.__doc__)


@pytest.mark.parametrize("name", ["fcos_resnet18_fpn", "centernet_shufflenet_v2_x0_5_lite", "faster_rcnn_resnet18_fpn"])
def test_nms_is_what_the_setting_of_the_detector_does(name: str) -> None:
    torch.manual_seed(0)
    model = aweigh.create(name, num_classes=2)
    change_settings(model, {"score_threshold": 0.0, "nms_threshold": 0.3})
    predictor, own = Predictor(model, Resize(None, 96), device="cpu"), model.selection.nms
    found = {}
    for nms in ("class", "agnostic", "soft", "none"):
        asked = found[nms] = predictor(picture(60, 90), score=0, nms=nms)
        model.nms = nms
        assert same(asked, Predictor(model, Resize(None, 96), device="cpu")(picture(60, 90), score=0), 0)
    assert len({*map(len, found.values())}) > 1 or not same(found["soft"], found["none"])
    assert same(predictor(picture(60, 90), score=0), found[own], 0)  # it was asked for once, and is not kept


def test_equals_the_plain_model(fcos: nn.Module, detector: Predictor) -> None:
    array = picture(70, 50)
    image = torch.from_numpy(detector.resize(array))
    with torch.inference_mode():
        (plain,) = fcos(Images.stack([image], divisor=fcos.stride_divisor, fill=fcos.pixel_mean.tolist()))
    found = detector(array, score=0)
    scale = np.array([50 / plain.size_hw[1], 70 / plain.size_hw[0]] * 2)
    assert len(found) == len(plain) > 0
    np.testing.assert_allclose(found.scores, plain.scores, atol=1e-4)
    np.testing.assert_allclose(found.boxes[:5], (plain.boxes * scale)[:5], atol=0.05)


def test_the_given_model_stays_as_it_is(fcos: nn.Module) -> None:
    before = {name: value.clone() for name, value in fcos.state_dict().items()}
    fcos.train()
    predictor = Predictor(fcos, Resize(short=None, long=64), device="cpu")
    predictor(picture(32, 32))
    assert fcos.training
    assert all(parameter.requires_grad for parameter in fcos.parameters())
    assert before.keys() == fcos.state_dict().keys()
    assert all(value.equal(before[name]) for name, value in fcos.state_dict().items())
    assert not any(parameter.requires_grad for parameter in predictor.engine.model.parameters())
    folded = [module for module in predictor.engine.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not folded
    fcos.eval()


def test_a_second_stage_is_made_fast_as_well() -> None:
    """Its layers are not a part of `network`."""
    torch.manual_seed(0)
    options = {"box_head": "4conv1fc", "head_norm": "bn", "channels": 16, "box_size": 3}
    model = aweigh.create("faster_rcnn_resnet18_fpn", num_classes=3, **options)
    predictor = Predictor(model, Resize(short=64, long=64), device="cpu")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in predictor.engine.model.modules())


def test_exif_rotation_is_applied(detector: Predictor, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(picture(40, 60)).save(tmp_path / "turned.jpg", exif=exif)
    assert detector(tmp_path / "turned.jpg").size_hw == (60, 40)
    assert detector(tmp_path / "turned.jpg", exif="ignore").size_hw == (40, 60)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (2000, 2)])
def test_extreme_sizes(detector: Predictor, size: tuple[int, int]) -> None:
    found = detector(picture(*size), score=0)
    assert found.size_hw == size
    assert len(found) > 0
    assert np.isfinite(found.boxes).all()
    assert (found.boxes >= 0).all() and (found.boxes[:, 2] <= size[1]).all() and (found.boxes[:, 3] <= size[0]).all()


def test_stream_goes_on_after_a_bad_file(detector: Predictor, tmp_path: Path) -> None:
    Image.fromarray(picture(30, 30)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("not an image")
    (tmp_path / "c.jpg").write_bytes(b"")
    Image.fromarray(picture(40, 20, seed=1)).save(tmp_path / "d.png")
    results = list(detector.stream(tmp_path, batch=3))
    assert [Path(result.path or "").name for result in results] == ["a.png", "b.png", "c.jpg", "d.png"]
    assert [result.error is None for result in results] == [True, False, False, True]
    assert "b.png" in (results[1].error or "") and len(results[1]) == 0
    assert results[3].size_hw == (40, 20)


def test_whatever_is_wrong_with_one_picture_is_its_error(detector: Predictor, tmp_path: Path) -> None:
    Image.fromarray(picture(30, 30)).save(tmp_path / "whole.png")
    broken = (tmp_path / "whole.png").read_bytes()[:-40]
    (tmp_path / "cut.png").write_bytes(broken)
    lazy = Image.open(tmp_path / "cut.png")  # Pillow reads its pixels later
    wrong = [lazy, None, 7, np.zeros((3, 8, 8), np.uint8), np.full((4, 4), np.nan), torch.zeros(8), np.array(["a"])]
    mixed = [picture(30, 30), *wrong, tmp_path / "whole.png"]
    results = list(detector.stream(mixed, batch=4))  # type: ignore[arg-type]
    assert [result.error is None for result in results] == [True, *[False] * len(wrong), True]
    assert all(result.error and "\n" not in result.error for result in results[1:-1])


def test_a_picture_that_needs_too_much_memory_costs_itself(
    detector: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, side in enumerate((20, 60, 30)):
        Image.fromarray(picture(side, side)).save(tmp_path / f"{number}.png")
    detect = detector._detect

    def scarce(images: list[Any], asked: object) -> list[Detections]:
        if sum(image.full_hw[0] for image in images) > 55:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return detect(images, asked)

    monkeypatch.setattr(detector, "_detect", scarce)
    results = list(detector.stream(tmp_path, batch=3))
    assert [result.error is None for result in results] == [True, False, True]
    assert "1.png: there is not enough memory" in (results[1].error or "")
    assert [result.size_hw for result in results] == [(20, 20), (0, 0), (30, 30)]


def test_an_input_that_no_network_has_room_for_is_refused(fcos: nn.Module, tmp_path: Path) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "huge.png")
    Image.fromarray(picture(20, 20)).save(tmp_path / "small.png")
    whole = Predictor(fcos, Resize(None, None), device="cpu")  # type: ignore[arg-type]
    results = list(whole.stream(tmp_path, batch=2))
    assert "huge.png" in (results[0].error or "") and "9000 x 9000" in (results[0].error or "")
    assert results[1].error is None


def test_stream_is_a_generator_that_reads_no_further_than_a_batch(detector: Predictor) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield picture(32, 32, seed=taken)

    stream = detector.stream(endless(), batch=2)
    assert isinstance(stream, GeneratorType)
    assert taken == 0
    assert len(list(islice(stream, 3))) == 3
    assert taken == 4


@pytest.mark.parametrize(("batch", "tta"), [(1, aweigh.TTA()), (3, aweigh.TTA(flip=True, scales=(1.0, 0.5)))])
def test_what_is_read_and_computed_ahead_is_the_same(
    fcos: nn.Module, tmp_path: Path, batch: int, tta: aweigh.TTA
) -> None:
    sizes = [(40, 60), (64, 48), (30, 30), (64, 48), (20, 70), (48, 64), (50, 50)]
    for number, size in enumerate(sizes):
        Image.fromarray(picture(*size, number)).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes(b"broken")
    predictor = Predictor(fcos, Resize(short=64, long=96), tta=tta, device="cpu")  # type: ignore[arg-type]
    one_by_one = list(predictor.stream(iter(sorted(tmp_path.iterdir())), batch, score=0))
    predictor.engine.how = replace(predictor.engine.how, threads=3)  # type: ignore[attr-defined]
    side_by_side, at_once = predictor.engine.side_by_side()
    assert at_once == 3 and side_by_side is not predictor.engine
    streams = [predictor.stream(tmp_path, batch, score=0) for _ in range(2)]
    both = list(zip(*streams, strict=True))  # two at a time
    for alone, *others in zip(one_by_one, *zip(*both, strict=True), strict=True):
        assert all(other.path == alone.path and same(other, alone) for other in others)
    assert [result.error is None for result in one_by_one] == [number != 3 for number in range(len(sizes))]
    stream = predictor.stream(tmp_path, batch)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("aweigh-ahead")]


def test_pictures_of_one_size_are_the_same_in_any_batch(detector: Predictor) -> None:
    pictures = [picture(64, 48, seed) for seed in range(5)]
    one_by_one = list(detector.stream(pictures, batch=1, score=0))
    together = list(detector.stream(pictures, batch=4, score=0))
    assert all(same(one, other) for one, other in zip(one_by_one, together, strict=True))


def test_pictures_of_several_sizes_in_one_batch(detector: Predictor) -> None:
    sizes = [(64, 48), (20, 96), (96, 96)]
    for result, size in zip(detector.stream([picture(*size) for size in sizes], score=0), sizes, strict=True):
        assert result.size_hw == size and len(result) > 0
        assert (result.boxes[:, 2] <= size[1]).all() and (result.boxes[:, 3] <= size[0]).all()


def test_load_needs_nothing_but_the_file(fcos: nn.Module, detector: Predictor, tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", fcos, resize=detector.resize)
    loaded = aweigh.load(tmp_path / "model.safetensors", device="cpu")
    assert loaded.resize == detector.resize
    assert loaded.classes == detector.classes
    assert same(loaded(picture(70, 50), score=0), detector(picture(70, 50), score=0))


def test_sources(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "labels.json", "inner/c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()

    def names(source: object) -> list[str]:
        return [Path(str(path)).name for path in sources(source)]  # type: ignore[arg-type]

    assert names(tmp_path) == ["a.PNG", "b.jpg"]
    assert names(str(tmp_path / "*.jpg")) == ["b.jpg"]
    assert names(str(tmp_path / "**" / "*")) == ["a.PNG", "b.jpg", "c.webp"]
    assert names(tmp_path / "labels.json") == ["labels.json"]  # named by the user, so it is tried
    assert names([tmp_path / "b.jpg", tmp_path / "missing.jpg"]) == ["b.jpg", "missing.jpg"]
    assert len(list(sources(np.zeros((4, 8, 8, 3), np.uint8)))) == 4
    assert len(list(sources(torch.zeros(3, 8, 8)))) == 1
    with pytest.raises(DataError, match=r"no file or folder .*missing"):
        sources(tmp_path / "missing.jpg")
    with pytest.raises(DataError, match=r"empty holds no file that is an image"):
        sources(tmp_path / "empty")
    with pytest.raises(DataError, match=r"\*\.gif"):
        sources(str(tmp_path / "*.gif"))


def test_wrong_use(detector: Predictor, tmp_path: Path) -> None:
    for several in (tmp_path, str(tmp_path), str(tmp_path / "*.jpg"), [picture(8, 8), tmp_path]):
        with pytest.raises(UsageError, match=r"stands for several images; predictor\.stream\('"):
            detector(several)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"score": 1.5}, "score = 1.5: expected a number from 0 to 1"),
        ({"score": float("nan")}, "score = nan"),
        ({"classes": ["on"]}, "There is no class 'on'"),
        ({"classes": "0"}, "classes are a list of names, got '0'"),
        ({"nms": "sofd"}, "unknown nms 'sofd'; known: class, agnostic, soft, none. Did you mean 'soft'"),
        ({"exif": "no"}, "exif must be"),
        ({"value_range": (1, 0)}, "value_range must be"),
    ]
    for asked, told in wrong:
        for ask in (detector, detector.stream):
            with pytest.raises(UsageError, match=told):
                ask(picture(8, 8), **asked)  # at once
    with pytest.raises(UsageError, match="2 images, but proposals of 1"):
        detector([picture(8, 8)] * 2, proposals=[np.zeros((1, 4))])
    for batch in (0, -1, 10**20):
        with pytest.raises(UsageError, match=f"batch = {batch}: expected a number from 1 to 4,096"):
            detector.stream([], batch=batch)
    with pytest.raises(DataError, match="no file or folder"):
        detector.stream(tmp_path / "nowhere")  # at once, not at the first image
    with pytest.raises(DataError, match=r"missing\.jpg"):
        detector(tmp_path / "missing.jpg")
    with pytest.raises(UsageError, match="'gpu'"):
        choose_device("gpu")
    with pytest.raises(
        UsageError,
        match=r"engine SimpleNamespace lacks name, classes, .*, selection, settings, with_nms, side_by_side;",
    ):
        Predictor(SimpleNamespace(run=print), Resize())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs a detector"):
        Predictor("model.safetensors", Resize())  # type: ignore[arg-type]
