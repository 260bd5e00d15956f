"""The Open Inference Protocol (version 2, as KServe and Triton speak it over HTTP), with Triton's binary tensors.

A model has one input, `images`: encoded images (`BYTES`, `[n]`, in JSON as base64) or pixels (`UINT8`, RGB, `[h, w, 3]`
or `[n, h, w, 3]`). Its outputs are padded to the image with the most detections: `boxes` (`FP32`, `[n, k, 4]`, x0 y0 x1
y1 in pixels), `scores` (`FP32`, `[n, k]`), `labels` (`INT64`, `[n, k]`, rows of the classes) and `count` (`INT64`,
`[n]`). Parameters of a request are the options of `/v1/detect`.

https://github.com/kserve/open-inference-protocol, https://github.com/triton-inference-server/server (binary data).
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from aweigh import __version__
from aweigh.detections import Detections
from aweigh.errors import UsageError, counted
from aweigh.serving.answers import json_response
from aweigh.serving.requests import Sent, asked_of, from_base64, parsed_json, read_body
from aweigh.serving.service import Service

HEADER_LENGTH = "inference-header-content-length"  # of the JSON before binary tensors
VERSION = "1"
OUTPUTS = {"boxes": ("FP32", [-1, -1, 4]), "scores": ("FP32", [-1, -1]), "labels": ("INT64", [-1, -1])}
OUTPUTS |= {"count": ("INT64", [-1])}
OPTIONS = ("score", "classes", "nms", "tile", "overlap")


def server() -> dict[str, Any]:
    """`GET /v2`."""
    return {"name": "aweigh", "version": __version__, "extensions": ["binary_tensor_data"]}


def metadata(service: Service) -> dict[str, Any]:
    """`GET /v2/models/NAME`."""
    return {
        "name": service.name,
        "versions": [VERSION],
        "platform": "aweigh",
        "inputs": [{"name": "images", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": name, "datatype": kind, "shape": shape} for name, (kind, shape) in OUTPUTS.items()],
    }


async def infer(service: Service, request: Request) -> Response:
    """`POST /v2/models/NAME/infer`."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "Send it as it is, without a Content-Encoding.")
    body = await read_body(request, service.limits)
    length = request.headers.get(HEADER_LENGTH)
    if length is not None and not (length.isdigit() and int(length) <= len(body)):
        raise HTTPException(400, f"{HEADER_LENGTH} = {length!r}: expected a number of bytes up to {len(body)}.")
    split = len(body) if length is None else int(length)
    said = parsed_json(body[:split])
    images = _images(said, body[split:])
    if not 0 < len(images) <= service.limits.images:
        raise HTTPException(
            413 if images else 400, f"{counted(len(images), 'image')}; expected 1 to {service.limits.images}."
        )
    try:
        given = _object(said.get("parameters", {}), "parameters")
        asked = asked_of({name: given[name] for name in OPTIONS if name in given}, service.predictor.classes)
    except UsageError as error:
        raise HTTPException(400, str(error)) from error
    sizes = await asyncio.to_thread(lambda: [_size(image, service) for image in images])
    found = await service.found(images, sizes, asked, request)
    if wrong := [own.error for own in found if own.error is not None]:
        raise HTTPException(400, wrong[0])
    return _answer(service, said, padded(found))


def padded(found: Sequence[Detections]) -> dict[str, np.ndarray]:
    """The outputs, by name."""
    most = max(map(len, found))
    tensors: dict[str, np.ndarray] = {
        "boxes": np.zeros((len(found), most, 4), np.float32),
        "scores": np.zeros((len(found), most), np.float32),
        "labels": np.full((len(found), most), -1, np.int64),
        "count": np.array([*map(len, found)], np.int64),
    }
    for row, own in enumerate(found):
        for name in ("boxes", "scores", "labels"):
            tensors[name][row, : len(own)] = getattr(own, name)
    return tensors


def _answer(service: Service, said: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Response:
    """In JSON, and in binary what was asked for so."""
    usual = _object(said.get("parameters", {}), "parameters").get("binary_data_output") is True
    wanted = said.get("outputs") or [{"name": name} for name in OUTPUTS]
    if not isinstance(wanted, list):
        raise HTTPException(400, "outputs: expected a list.")
    outputs, blobs = [], []
    for each in wanted:
        name = _object(each, "an output").get("name")
        if name not in OUTPUTS:
            raise HTTPException(400, f"There is no output {name!r}; known: {', '.join(OUTPUTS)}.")
        values = tensors[name]
        entry: dict[str, Any] = {"name": name, "datatype": OUTPUTS[name][0], "shape": list(values.shape)}
        if _object(each.get("parameters", {}), "parameters").get("binary_data", usual) is True:
            blobs.append(np.ascontiguousarray(values).tobytes())
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = values.reshape(-1).tolist()
        outputs.append(entry)
    head: dict[str, Any] = {"model_name": service.name, "model_version": VERSION, "outputs": outputs}
    if isinstance(said.get("id"), str):
        head["id"] = said["id"]
    if not blobs:
        return json_response(head)
    text = json.dumps(head, allow_nan=False).encode()
    return Response(
        text + b"".join(blobs), media_type="application/octet-stream", headers={HEADER_LENGTH: str(len(text))}
    )


def _images(said: Mapping[str, Any], blobs: bytes) -> list[bytes | np.ndarray]:
    """The images of the one input."""
    inputs = said.get("inputs")
    if not (isinstance(inputs, list) and len(inputs) == 1):
        raise HTTPException(400, "Expected one input, images.")
    given = _object(inputs[0], "an input")
    name, kind, shape = (given.get(key) for key in ("name", "datatype", "shape"))
    if name != "images":
        raise HTTPException(400, f"There is no input {name!r}; known: images.")
    if not (isinstance(shape, list) and shape and all(type(side) is int and side >= 0 for side in shape)):
        raise HTTPException(400, f"shape = {shape!r}: expected a list of whole numbers.")
    size = _object(given.get("parameters", {}), "parameters").get("binary_data_size")
    if size is not None and size != len(blobs):
        raise HTTPException(400, f"binary_data_size = {size!r}, but {counted(len(blobs), 'byte', 'follows')} the JSON.")
    if kind == "BYTES":
        images: list[bytes | np.ndarray] = [
            *(_texts(given.get("data")) if size is None else _length_prefixed(blobs, math.prod(shape)))
        ]
        if len(images) != math.prod(shape):
            raise HTTPException(400, f"shape = {shape}, but there came {counted(len(images), 'image')}.")
        return images
    if kind == "UINT8" and len(shape) in (3, 4) and shape[-1] == 3:
        return [*_pixels(given.get("data") if size is None else blobs, shape)]
    raise HTTPException(400, f"images in {kind!r} of shape {shape}: expected BYTES [n], or UINT8 [n, h, w, 3].")


def _texts(data: Any) -> list[bytes]:
    if not isinstance(data, list):
        raise HTTPException(400, "data: expected a list of images in base64.")
    return [from_base64(text) for text in data]


def _length_prefixed(blobs: bytes, most: int) -> list[bytes]:
    """Byte strings, each after its length in four bytes, the lowest first."""
    found: list[bytes] = []
    start = 0
    while start < len(blobs) and len(found) < most:
        end = start + 4 + int.from_bytes(blobs[start : start + 4], "little")
        found.append(blobs[start + 4 : end])
        start = end
    if start != len(blobs):
        raise HTTPException(400, "The binary images do not end where they say.")
    return found


def _pixels(data: Any, shape: Sequence[int]) -> np.ndarray:
    """`[n, h, w, 3]` uint8."""
    try:
        flat = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else np.array(data)
        if flat.dtype.kind not in "ui" or (flat.size and not 0 <= flat.min() <= flat.max() <= 255):
            raise ValueError("they are not whole numbers from 0 to 255")
        return flat.astype(np.uint8).reshape(shape if len(shape) == 4 else [1, *shape])
    except (ValueError, TypeError) as error:
        raise HTTPException(400, f"The pixels do not fit their shape {[*shape]} ({error}).") from error


def _size(image: bytes | np.ndarray, service: Service) -> tuple[int, int] | HTTPException:
    if isinstance(image, np.ndarray):
        height, width = image.shape[:2]
        if not 0 < height * width <= service.limits.pixels:
            return HTTPException(413, f"{width} x {height}: expected one to {counted(service.limits.pixels, 'pixel')}.")
        return height, width
    return service.size(Sent(image))


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise HTTPException(400, f"{what}: expected an object, got {type(value).__name__}.")
    return value
