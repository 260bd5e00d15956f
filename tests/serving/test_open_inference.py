"""The Open Inference Protocol, with its published client and by hand."""

import json
from base64 import b64encode
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from tests.runtime.toy_engines import Spots
from tests.serving.conftest import Client, Serve, png, predictor_of

triton = pytest.importorskip("tritonclient.http", reason="Triton's client is not installed")

PLACE = "/v2/models/toy/infer"


@pytest.fixture
def client(serve: Serve) -> Client:
    return serve(Spots())


def tensors(answer: object) -> dict[str, np.ndarray]:
    return {name: answer.as_numpy(name) for name in ("boxes", "scores", "labels", "count")}  # type: ignore[attr-defined]


def test_tritons_client_asks_and_understands(client: Client):
    with triton.InferenceServerClient(f"127.0.0.1:{client.port}") as asking:
        assert asking.is_server_live() and asking.is_server_ready() and asking.is_model_ready("toy")
        assert asking.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        assert asking.get_model_metadata("toy")["outputs"][0] == {
            "name": "boxes",
            "datatype": "FP32",
            "shape": [-1, -1, 4],
        }
        images = [png(), png(40, 40, box=(0, 0, 1, 1))]
        given = triton.InferInput("images", [2], "BYTES")
        given.set_data_from_numpy(np.array(images, dtype=object))
        found = tensors(asking.infer("toy", [given], request_id="7"))
        for row, image in enumerate(images):
            own = predictor_of(Spots())(image)
            assert found["count"][row] == len(own) == 1
            np.testing.assert_array_equal(found["boxes"][row, :1], own.boxes)
            np.testing.assert_array_equal(found["scores"][row, :1], own.scores)
        pixels = triton.InferInput("images", [1, 32, 64, 3], "UINT8")
        pixels.set_data_from_numpy(np.array(Image.open(BytesIO(png())))[None])
        wanted = [triton.InferRequestedOutput("boxes", binary_data=True), triton.InferRequestedOutput("count", False)]
        answer = asking.infer("toy", [pixels], outputs=wanted, parameters={"score": 0.2})
        assert answer.as_numpy("boxes").tolist() == [[[8, 4, 24, 20]]] and answer.as_numpy("count").tolist() == [1]
        with pytest.raises(triton.InferenceServerException, match="no model"):
            asking.get_model_metadata("other")


def test_plain_json(client: Client):
    said = {
        "id": "a",
        "inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "data": [b64encode(png()).decode()]}],
        "parameters": {"classes": ["ball"]},
    }
    answer = client.ask(PLACE, json.dumps(said).encode()).json
    assert answer["id"] == "a" and answer["model_name"] == "toy"
    assert {output["name"]: output["shape"] for output in answer["outputs"]} == {
        "boxes": [1, 0, 4],
        "scores": [1, 0],
        "labels": [1, 0],
        "count": [1],
    }


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        "images",
        [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["aGk="]}],
        [{"name": "images", "datatype": "BYTES", "shape": [2], "data": ["aGk="]}],
        [{"name": "images", "datatype": "BYTES", "shape": [1], "data": ["aGk="]}],
        [{"name": "images", "datatype": "BYTES", "shape": [-1], "data": ["aGk="]}],
        [{"name": "images", "datatype": "BYTES", "shape": [1], "data": "aGk="}],
        [{"name": "images", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}}],
        [{"name": "images", "datatype": "FP32", "shape": [1, 3, 4, 4], "data": [0] * 48}],
        [{"name": "images", "datatype": "UINT8", "shape": [2, 2, 3], "data": [0] * 11}],
        [{"name": "images", "datatype": "UINT8", "shape": [2, 2, 3], "data": [256] * 12}],
        [{"name": "images", "datatype": "UINT8", "shape": [2, 2, 3], "data": ["a"] * 12}],
        [{"name": "images", "datatype": "UINT8", "shape": [0, 2, 3], "data": []}],
        [{"name": "images", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [[1], [2, 3]]}],
    ],
)
def test_what_cannot_be_read_is_said(client: Client, inputs: object):
    answer = client.ask(PLACE, json.dumps({"inputs": inputs}).encode())
    assert answer.status in (400, 413) and answer.json["error"] and client.detect(png()).status == 200


@pytest.mark.parametrize(("length", "content"), [("-1", b"{}"), ("9", b"{}"), ("x", b"{}"), ("2", b"{}abc")])
def test_a_wrong_length_of_the_header_is_said(client: Client, length: str, content: bytes):
    assert client.ask(PLACE, content, {"Inference-Header-Content-Length": length}).status == 400
