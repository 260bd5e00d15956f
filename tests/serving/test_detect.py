"""What is answered to a request for detections, and what to one that cannot be answered."""

import json
import socket
from base64 import b64encode
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from tests.runtime.toy_engines import Spots
from tests.serving.conftest import Client, Serve, form, png, predictor_of

from aweigh.errors import UsageError
from aweigh.geometry.tiles import Tiles
from aweigh.results.jsonl import json_line
from aweigh.serving.limits import Limits

TEXT = b64encode(png()).decode()


@pytest.fixture
def client(serve: Serve) -> Client:
    return serve(Spots())


def of_predictor(image: bytes, path: str | None = None) -> dict[str, object]:
    return {**json_line(predictor_of(Spots())(image)), "path": path}


def test_an_image_as_it_is_gives_the_line_of_predict(client: Client):
    answer = client.detect(png())
    assert answer.status == 200 and answer.json == of_predictor(png())
    assert answer.json["detections"][0]["box"] == [8, 4, 24, 20]


def test_a_form_and_json_give_the_same(client: Client):
    body, kind = form(("image", png(), "a/../b.png"))
    assert client.detect(body, kind=kind).json == of_predictor(png(), "a/../b.png")
    for text in (TEXT, f"data:image/png;base64,{TEXT}"):
        body = json.dumps({"image": text}).encode()
        assert client.detect(body, kind="application/json").json == of_predictor(png())


def test_of_several_images_each_has_its_answer_or_its_error(client: Client):
    body, kind = form(("images", png(), "a.png"), ("images", b"no image", "b.png"), ("images", png(40, 40), "c.png"))
    answer = client.detect(body, kind=kind)
    first, second, third = answer.json["results"]
    assert answer.status == 200 and first == of_predictor(png(), "a.png")
    assert third == of_predictor(png(40, 40), "c.png")
    assert second["path"] == "b.png" and "not an image" in second["error"] and not second["detections"]
    assert client.detect(json.dumps({"images": [TEXT]}).encode(), kind="application/json").json == {
        "results": [of_predictor(png())]
    }


def test_options_of_address_form_and_json(client: Client):
    assert client.detect(png(), "?classes=ball").json["detections"] == []
    assert len(client.detect(png(), "?classes=ball&classes=left%20hand").json["detections"]) == 1
    body, kind = form(("image", png(), "x"), ("classes", b"ball", None))
    assert client.detect(body, kind=kind).json["detections"] == []
    body = json.dumps({"image": TEXT, "classes": ["ball"], "score": 0.2}).encode()
    assert client.detect(body, kind="application/json").json["detections"] == []
    assert len(client.detect(png(), "?tile=32&overlap=0.5").json["detections"]) == 1


def test_formats(client: Client):
    assert client.detect(png(), "?format=coco").json == [
        {"image_id": 1, "category_id": 0, "bbox": [8, 4, 16, 16], "score": 1.0}
    ]
    drawn = client.detect(png(), "?format=png")
    assert drawn.headers["content-type"] == "image/png" and Image.open(BytesIO(drawn.body)).size == (64, 32)
    layer = client.detect(png(), "?format=geojson").json
    assert layer["features"][0]["properties"]["box"] == [8, 4, 24, 20] and layer["crs"] is None
    several, kind = form(("images", png(), "a"), ("images", png(), "b"))
    assert {entry["image_id"] for entry in client.detect(several, "?format=coco", kind).json} == {1, 2}


BIG = Limits(bytes=20_000, pixels=5_000, images=2)


@pytest.mark.parametrize(
    ("body", "query", "kind", "status", "words"),
    [
        (b"", "", "image/png", 400, "0 bytes"),
        (b"hello", "", "image/png", 400, "not an image"),
        (png()[:60], "", "image/png", 400, "image"),
        (png(101, 50), "", "image/png", 413, "5,000 pixels"),
        (b"x" * 20_001, "", "image/png", 413, "20,000 bytes"),
        (b"<svg onload=alert(1)>", "", "image/svg+xml", 400, "not an image"),
        (b"%PDF-1.4", "", "application/pdf", 400, "not an image"),
        (b"file:///etc/passwd", "", "text/plain", 400, "not an image"),
        (b"http://127.0.0.1/", "", "text/uri-list", 400, "not an image"),
        (png(), "?score=2", "image/png", 400, "score = '2'"),
        (png(), "?score=nan", "image/png", 400, "score"),
        (png(), "?scor=0.5", "image/png", 400, "Did you mean 'score'?"),
        (png(), "?score=0.1&score=0.2", "image/png", 400, "more than once"),
        (png(), "?classes=unicorn", "image/png", 400, "no class 'unicorn'"),
        (png(), "?nms=hard", "image/png", 400, "nms"),
        (png(), "?tile=3", "image/png", 400, "tile"),
        (png(), "?tile=-1", "image/png", 400, "tile"),
        (png(), "?overlap=0.3", "image/png", 400, "tile"),
        (png(), "?format=exe", "image/png", 400, "format"),
        (png(), "?model=other", "image/png", 404, "no model 'other'"),
        (b"{", "", "application/json", 400, "no JSON"),
        (b"[]", "", "application/json", 400, "no object"),
        (b"\xff\xfe{}", "", "application/json", 400, "no JSON"),
        (b'{"image":' + b"[" * 9_000, "", "application/json", 400, "JSON"),
        (b'{"image": 5}', "", "application/json", 400, "base64"),
        (b'{"image": "%%%"}', "", "application/json", 400, "base64"),
        (b'{"image": ""}', "", "application/json", 400, "0 bytes"),
        (b'{"image": "/etc/passwd"}', "", "application/json", 400, "base64"),
        (b'{"images": "aGk="}', "", "application/json", 400, "list"),
        (b'{"images": []}', "", "application/json", 400, "no image"),
        (b'{"image": "aGk=", "images": []}', "", "application/json", 400, "Expected"),
        (b'{"image": "aGk=", "score": {"a": 1}}', "", "application/json", 400, "score"),
        (b'{"image": "aGk=", "path": "/etc/passwd"}', "", "application/json", 400, "Unknown option 'path'"),
        (b'{"images": ["aGk=", "aGk=", "aGk="]}', "", "application/json", 413, "at most 2"),
        (b"no form", "", "multipart/form-data; boundary=edge", 400, "form"),
        (b"no form", "", "multipart/form-data", 400, "form"),
        (*[form(("file", png(), "a.png"))[0], "", form()[1]], 400, "expected image or images"),
        (*[form(("image", png(), "a"), ("image", png(), "b"))[0], "", form()[1]], 400, "One file"),
        (*[form(*[("images", png(), "a")] * 4)[0], "", form()[1]], 413, "form"),
        (*[form(("images", png(), "a"))[0], "?format=png", form()[1]], 400, "one by one"),
    ],
)
def test_what_cannot_be_answered_is_said_in_a_line(
    serve: Serve, body: bytes, query: str, kind: str, status: int, words: str
):
    client = serve(Spots(), limits=BIG)
    answer = client.detect(body, query, kind)
    assert answer.status == status and words in answer.json["error"] and "\n" not in answer.json["error"]
    assert "Traceback" not in answer.body.decode() and client.detect(png()).status == 200


def test_what_comes_without_a_length_is_limited_as_well(serve: Serve):
    client = serve(Spots(), limits=BIG)
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
        connection.sendall(b"POST /v1/detect HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall((b"3e8\r\n" + b"x" * 1000 + b"\r\n") * 21)  # and it does not end there
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413")


def test_a_compressed_body_is_refused(client: Client):
    assert client.ask("/v1/detect", png(), {"Content-Encoding": "gzip"}).status == 415


def test_a_name_that_comes_with_an_image_is_no_file_of_ours(client: Client, monkeypatch: pytest.MonkeyPatch):
    """Some formats look for what they can learn of the file of an image."""
    body, kind = form(("image", png(), __file__))
    looked_at: list[str] = []
    for looks in ("stat", "open", "is_file"):
        before = getattr(Path, looks)
        monkeypatch.setattr(
            Path,
            looks,
            lambda path, *rest, before=before, **more: (looked_at.append(str(path)), before(path, *rest, **more))[1],
        )
    for format in ("json", "coco", "geojson", "png"):
        assert client.detect(body, f"?format={format}", kind).status == 200
    assert __file__ not in looked_at


def test_an_option_that_this_detector_does_not_take_is_said(serve: Serve):
    class Fixed(Spots):
        def with_nms(self, nms):  # type: ignore[no-untyped-def]
            raise UsageError("nms is inside the graph")

    answer = serve(Fixed()).detect(png(), "?nms=soft")
    assert answer.status == 400 and "inside the graph" in answer.json["error"]


def test_tiles_are_as_many_as_allowed(serve: Serve):
    client = serve(Spots(), limits=Limits(tiles=3))
    assert client.detect(png(64, 32), "?tile=32&overlap=0.5").status == 200  # three of them
    assert client.detect(png(96, 32), "?tile=32&overlap=0.5").status == 413
    assert client.detect(png(96, 32), "?tile=0").status == 200
    client.services[0].predictor.tiles = Tiles(32, 0.5)  # those of the checkpoint
    assert client.detect(png(96, 32)).status == 413 and client.detect(png(96, 32), "?tile=0").status == 200


def test_two_models_are_chosen_by_name(serve: Serve):
    client = serve(Spots(), Spots(name="other"))
    assert [model["name"] for model in client.ask("/v1/models").json["models"]] == ["toy", "toy1"]
    assert client.detect(png(), "?model=toy1").status == 200
    assert client.ask("/v1/model?model=toy1").json["detector"] == "other"
