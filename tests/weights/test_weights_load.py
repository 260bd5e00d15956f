"""Finding, downloading, verifying, reading and loading weights; nothing here leaves this machine."""

import hashlib
import http.server
import threading
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from aweigh.backbones.shufflenet_v2 import ShuffleNetV2
from aweigh.backbones.timm import TimmBackbone
from aweigh.errors import AweighError, DataError, UsageError
from aweigh.weights.imagenet import TORCHVISION, imagenet_record
from aweigh.weights.load import load_backbone, load_matching, load_strict, locate, read_state
from aweigh.weights.record import PublishedWeights, by_builder

CONTENT = bytes(range(256)) * 5000  # several pieces of a download
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """`/good.pth` is CONTENT; `/short.pth` ends early; `/gone.pth` is not there."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path == "/gone.pth":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1000] if self.path == "/short.pth" else CONTENT)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.asked = []
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("AWEIGH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AWEIGH_OFFLINE", raising=False)
    return tmp_path / "cache"


def record(url, sha256=DIGEST[:8]):
    return PublishedWeights(name="toy", url=url, file="toy.pth", sha256=sha256, licence="none", source="made here")


def at(server, path):
    return f"http://127.0.0.1:{server.server_address[1]}/{path}"


class TestLocate:
    def test_downloads_once_and_verifies(self, server, cache):
        seen = []
        path = locate(record(at(server, "good.pth")), progress=lambda done, total: seen.append((done, total)))
        assert path == cache / "toy.pth"
        assert path.read_bytes() == CONTENT
        assert seen[-1] == (len(CONTENT), len(CONTENT))
        assert len(seen) > 1 and seen == sorted(seen)
        assert locate(record(at(server, "good.pth"))) == path
        assert server.asked == ["/good.pth"]
        assert [each.name for each in cache.iterdir()] == ["toy.pth"]

    def test_a_file_address(self, cache, tmp_path):
        (tmp_path / "origin.pth").write_bytes(CONTENT)
        assert locate(record((tmp_path / "origin.pth").as_uri())).read_bytes() == CONTENT

    def test_a_wrong_file_is_deleted_and_named(self, server, cache):
        with pytest.raises(AweighError, match=f"begins {DIGEST[:8]}, expected 00000000") as caught:
            locate(record(at(server, "good.pth"), sha256="00000000"))
        assert "\n" not in str(caught.value)
        assert list(cache.iterdir()) == []

    @pytest.mark.parametrize(
        ("path", "said"), [("gone.pth", "404"), ("short.pth", "1,000 of 1,280,000 bytes|IncompleteRead")]
    )
    def test_a_failed_download_leaves_nothing(self, server, cache, path, said):
        with pytest.raises(AweighError, match=said):
            locate(record(at(server, path)))
        assert list(cache.iterdir()) == []

    def test_an_unreachable_server(self, cache):
        with pytest.raises(AweighError, match=r"failed .* put toy\.pth"):
            locate(record("http://127.0.0.1:9/toy.pth"))
        assert list(cache.iterdir()) == []

    def test_an_interrupted_download_leaves_nothing(self, server, cache):
        def stop(done, total):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            locate(record(at(server, "good.pth")), progress=stop)
        assert list(cache.iterdir()) == []

    def test_offline_says_which_file_to_put_where_and_asks_nobody(self, server, cache, monkeypatch):
        monkeypatch.setenv("AWEIGH_OFFLINE", "1")
        with pytest.raises(AweighError) as caught:
            locate(record(at(server, "good.pth")))
        for part in ("toy.pth", str(cache), at(server, "good.pth"), DIGEST[:8]):
            assert part in str(caught.value)
        assert server.asked == []
        cache.mkdir()
        (cache / "toy.pth").write_bytes(CONTENT)
        assert locate(record(at(server, "good.pth"))) == cache / "toy.pth"

    def test_a_changed_file_in_the_cache_is_not_used(self, cache):
        cache.mkdir()
        (cache / "toy.pth").write_bytes(CONTENT[:-1])
        with pytest.raises(AweighError, match="not the published file"):
            locate(record("http://127.0.0.1:9/toy.pth"))

    def test_a_cache_that_cannot_be_written(self, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("AWEIGH_CACHE", str(tmp_path / "file" / "cache"))
        monkeypatch.delenv("AWEIGH_OFFLINE", raising=False)
        with pytest.raises(AweighError, match="set AWEIGH_CACHE"):
            locate(record("http://127.0.0.1:9/toy.pth"))


class Harmful:
    """Runs code when an ordinary unpickler reads it."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (Path(self.mark),)


class TestReadState:
    def test_both_kinds_of_file(self, tmp_path):
        state = {"a.weight": torch.randn(3, 2).half(), "a.bias": torch.randn(3)}
        save_file(state, tmp_path / "a.safetensors")
        torch.save(OrderedDict(state), tmp_path / "a.pth")
        torch.save({"epoch": 3, "state_dict": state}, tmp_path / "b.pt")
        torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
        for name in ("a.safetensors", "a.pth", "b.pt", "old.pth"):
            read = read_state(tmp_path / name)
            assert read.keys() == state.keys()
            assert all(torch.equal(read[key], state[key]) and read[key].dtype == state[key].dtype for key in state)

    def test_code_in_a_file_is_never_run(self, tmp_path):
        torch.save({"weight": Harmful(str(tmp_path / "mark"))}, tmp_path / "bad.pth")
        with pytest.raises(DataError, match="never run") as caught:
            read_state(tmp_path / "bad.pth")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "mark").exists()

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    @pytest.mark.parametrize("keep", [0, 30, 400])
    def test_a_truncated_file(self, tmp_path, suffix, keep):
        whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
        state = {"weight": torch.randn(64, 64)}
        save_file(state, whole) if suffix == ".safetensors" else torch.save(state, whole)
        cut.write_bytes(whole.read_bytes()[:keep])
        with pytest.raises(DataError, match=cut.name):
            read_state(cut)

    def test_other_files(self, tmp_path):
        with pytest.raises(UsageError, match="no file of weights"):
            read_state(tmp_path / "none.pth")
        (tmp_path / "a.onnx").write_bytes(b"")
        with pytest.raises(UsageError, match=r"not \.onnx"):
            read_state(tmp_path / "a.onnx")
        torch.save([torch.zeros(1)], tmp_path / "list.pth")
        with pytest.raises(DataError, match="found list"):
            read_state(tmp_path / "list.pth")


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 7, 1))


class TestLoadStrict:
    def test_casts_and_does_without_counters(self):
        source, target = small(), small()
        state = {key: value.half() for key, value in source.state_dict().items() if "num_batches" not in key}
        load_strict(target, state, what="toy")
        assert target[0].weight.dtype == torch.float32
        assert torch.equal(target[0].weight, source[0].weight.half().float())
        load_strict(
            nn.Sequential(nn.Conv2d(3, 4, 1)),
            {**small()[:1].state_dict(), "1.num_batches_tracked": torch.tensor(1)},
            what="toy",
        )

    def test_names_what_does_not_fit_in_five_lines_and_loads_nothing(self):
        target = small()
        before = {key: value.clone() for key, value in target.state_dict().items()}
        state = {f"other.{index}": torch.zeros(1) for index in range(300)}
        state |= {"0.weight": torch.ones(4, 3, 1, 1), "2.weight": torch.zeros(91, 4, 1, 1)}
        with pytest.raises(UsageError) as caught:
            load_strict(target, state, what="toy.pth into small")
        message = str(caught.value)
        assert len(message.splitlines()) == 5
        for part in (
            "toy.pth into small: 1 of 8",
            "0.bias",
            "other.0",
            "297 more",
            "2.weight (91, 4, 1, 1), expected (7, 4, 1, 1)",
        ):
            assert part in message
        assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


def test_load_matching_reports_a_new_head():
    source, target = nn.Sequential(*small()[:2], nn.Conv2d(4, 91, 1)), small()
    report = load_matching(target, source.state_dict())
    assert (report.loaded, report.total) == (6, 8)
    assert str(report) == "loaded 6 of 8 tensors; new: 2 (91 -> 7)"
    assert torch.equal(target[0].weight, source[0].weight)


class TestLoadBackbone:
    def equal(self, backbone, state, prefix):
        own = backbone.state_dict()
        return sum(torch.equal(own[prefix + key], value.float()) for key, value in state.items() if prefix + key in own)

    def test_torchvisions_classifier(self, tmp_path):
        reference = torchvision.models.resnet18()
        torch.save(reference.state_dict(), tmp_path / "resnet18.pth")
        backbone = TimmBackbone("resnet18")
        report = load_backbone(backbone, tmp_path / "resnet18.pth")
        assert (report.loaded, report.total, report.missing) == (100, 100, ())
        assert str(report) == "loaded 100 of 100 tensors; not used: fc"
        assert torch.equal(backbone.body.layer4[1].conv2.weight, reference.layer4[1].conv2.weight)

    def test_the_body_inside_a_detector(self, tmp_path):
        source = TimmBackbone("resnet18")
        save_file(
            {f"backbone.{key}": value for key, value in source.state_dict().items()} | {"head.x": torch.zeros(1)},
            tmp_path / "a.safetensors",
        )
        assert load_backbone(TimmBackbone("resnet18"), tmp_path / "a.safetensors").loaded == 100

    def test_a_body_whose_sequential_timm_takes_apart(self, tmp_path):
        source = TimmBackbone("vgg11_bn")
        published = {key.replace("body.features_", "features."): value for key, value in source.state_dict().items()}
        assert "features.0.weight" in published
        torch.save(published, tmp_path / "vgg.pth")
        backbone = TimmBackbone("vgg11_bn")
        report = load_backbone(backbone, tmp_path / "vgg.pth")
        assert report.loaded == report.total
        assert torch.equal(backbone.body.features_0.weight, source.body.features_0.weight)

    def test_a_mobilenet_of_torchvision_with_its_classifier(self, tmp_path):
        for build, name in (("mobilenet_v2", "mobilenetv2_100"), ("mobilenet_v3_large", "mobilenetv3_large_100")):
            torch.save(torchvision.models.get_model(build).state_dict(), tmp_path / "mobilenet.pth")
            report = load_backbone(TimmBackbone(name), tmp_path / "mobilenet.pth")
            assert report.loaded == report.total > 200 and not report.missing
        with pytest.raises(UsageError, match="another architecture"):
            load_backbone(TimmBackbone("mobilenetv2_100"), tmp_path / "mobilenet.pth")

    def test_frozen_stages_are_filled_and_stay_frozen(self, tmp_path):
        torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "a.pth")
        backbone = TimmBackbone("resnet18", norm="frozen_bn", frozen_stages=2)
        load_backbone(backbone, tmp_path / "a.pth")
        assert not backbone.body.conv1.weight.requires_grad

    @pytest.mark.parametrize(
        ("file_of", "into"),
        [
            (lambda: torchvision.models.resnet18(), lambda: TimmBackbone("resnet50")),
            (lambda: torchvision.models.shufflenet_v2_x0_5(), lambda: ShuffleNetV2(1.0)),
            (lambda: torchvision.models.mobilenet_v2(), lambda: TimmBackbone("resnet18")),
            (lambda: torchvision.models.resnet18(), lambda: ShuffleNetV2(0.5)),
        ],
    )
    def test_another_architecture_is_refused_and_changes_nothing(self, tmp_path, file_of, into):
        torch.save(file_of().state_dict(), tmp_path / "other.pth")
        backbone = into()
        before = {key: value.clone() for key, value in backbone.state_dict().items()}
        with pytest.raises(UsageError, match="another architecture") as caught:
            load_backbone(backbone, tmp_path / "other.pth")
        assert "\n" not in str(caught.value)
        assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())

    def test_a_record_goes_through_the_cache(self, tmp_path, cache):
        torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "origin.pth")
        digest = hashlib.sha256((tmp_path / "origin.pth").read_bytes()).hexdigest()
        published = replace(imagenet_record("resnet18"), url=(tmp_path / "origin.pth").as_uri(), sha256=digest[:8])
        assert load_backbone(TimmBackbone("resnet18"), published).loaded == 100
        assert (cache / published.file).is_file()

    @pytest.mark.parametrize(
        "make",
        [lambda: TimmBackbone("resnet18", pretrained=True), lambda: load_backbone(ShuffleNetV2(0.5), "imagenet")],
    )
    def test_imagenet_by_name_obeys_the_offline_switch(self, make):
        with pytest.raises(AweighError, match="AWEIGH_OFFLINE is set"):
            make()


class TestRealFiles:
    """The published files that lie beside the repository."""

    @pytest.mark.parametrize(
        ("folder", "make", "loaded", "total"),
        [
            ("resnet18_imagenet_partial/torchvision_fp16", lambda: TimmBackbone("resnet18"), 80, 100),
            ("resnet50_imagenet_partial/torchvision_fp16", lambda: TimmBackbone("resnet50"), 120, 265),
            ("mobilenetv2_1.0_imagenet/torchvision_fp16", lambda: TimmBackbone("mobilenetv2_100"), 255, 255),
            ("shufflenetv2_x0.5_imagenet/backbone_torchvision_fp16", lambda: ShuffleNetV2(0.5), 275, 275),
            (
                "nanodet_plus_m_416/backbone_torchvision_fp16",
                lambda: ShuffleNetV2(1.0, activation="leaky_relu"),
                275,
                275,
            ),
            (
                "nanodet_plus_m_1.5x_416_int8/backbone_torchvision_fp16",
                lambda: ShuffleNetV2(1.5, activation="leaky_relu"),
                275,
                275,
            ),
        ],
    )
    def test_loads(self, shared, folder, make, loaded, total):
        backbone = make()
        report = load_backbone(backbone, shared / "weights" / f"{folder}.safetensors")
        assert (report.loaded, report.total) == (loaded, total)
        assert not report.mismatched
        with torch.no_grad():
            maps = backbone.eval()(torch.randn(1, 3, 64, 64))
        assert all(each.isfinite().all() and each.std() > 0 for each in maps)

    def test_a_partial_file_says_what_is_new(self, shared):
        report = load_backbone(
            TimmBackbone("resnet18"), shared / "weights/resnet18_imagenet_partial/torchvision_fp16.safetensors"
        )
        assert str(report) == (
            "loaded 80 of 100 tensors; new: body.layer4.0.conv1, body.layer4.0.bn1, body.layer4.0.conv2, "
            "body.layer4.0.bn2, body.layer4.1.conv1, body.layer4.1.bn1 and 2 more; not used: fc"
        )

    def test_another_activation_is_refused(self, shared):
        file = shared / "weights/nanodet_plus_m_416/backbone_torchvision_fp16.safetensors"
        with pytest.raises(UsageError, match="activation='leaky_relu'"):
            load_backbone(ShuffleNetV2(1.0), file)


class TestImagenetRecords:
    def test_agree_with_torchvisions_own_metadata(self):
        for name, (file, top1, top5) in TORCHVISION.items():
            theirs = "mobilenet_v2" if name == "mobilenetv2_100" else name
            weights = torchvision.models.get_model_weights(theirs)["IMAGENET1K_V1"]
            found = imagenet_record(name)
            assert weights.url == found.url
            assert found.url.endswith(file) and found.sha256 in file
            assert weights.meta["_metrics"]["ImageNet-1K"] == {"acc@1": top1, "acc@5": top5}

    def test_dla34_is_its_authors(self):
        found = imagenet_record("dla34")
        assert found.url.endswith(f"/dla34-{found.sha256}.pth") and found.file == f"dla34-{found.sha256}.pth"
        assert "BSD-3-Clause" in found.licence

    def test_hrnet_is_its_authors(self):
        found = imagenet_record("hrnet_w32")
        assert found.file == f"hrnetv2_w32-{found.sha256}.pth" and len(found.sha256) == 8 and "MIT" in found.licence

    def test_other_timm_models(self):
        found = imagenet_record("efficientnet_b0")
        assert found.sha256 in found.file and found.url.endswith(found.file) and found.licence
        for name in ("resnet17", "shufflenet_v2_x3_0"):
            with pytest.raises(UsageError, match="Give a local file"):
                imagenet_record(name)


def test_records_are_found_by_their_builder_and_their_name() -> None:
    def record(name: str, builder: str) -> PublishedWeights:
        return PublishedWeights(name, "", f"{builder}-{name}", "", "", "", builder=builder)

    found = by_builder(record("3x", "a"), record("3x", "b"), record("1x", "a"))
    assert [*found] == ["a", "b"] and [*found["a"]] == ["3x", "1x"] and [*found["b"]] == ["3x"]
    assert found["b"]["3x"].file == "b-3x"
