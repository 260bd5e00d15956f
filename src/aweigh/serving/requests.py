"""What a request to `/v1/detect` asks: its images and options, from what was sent and its address.

What is sent is an image as it is, a form (`multipart/form-data`), or JSON with images in base64. Nothing in it is ever
taken for the name of a file or for an address. What is wrong with it is an `HTTPException` with a status from 400 on
and one line of words.
"""

from __future__ import annotations

import asyncio
import binascii
import json
from base64 import b64decode
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Annotated, Any, Literal

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from aweigh.arguments import NMS, Share, Within, check_value
from aweigh.classes import Classes
from aweigh.errors import AweighError, UsageError, counted, did_you_mean
from aweigh.geometry.tiles import OVERLAP, OVERLAPS, SIDES, Tiles
from aweigh.images.decode import stored_wh
from aweigh.images.opening import opened
from aweigh.serving.batching import Asked
from aweigh.serving.limits import Limits

Format = Literal["json", "coco", "geojson", "png"]
OF_ONE = ("geojson", "png")  # formats that hold a single image
OPTIONS: dict[str, Any] = {
    "score": Share,
    "nms": NMS,
    "tile": Annotated[int, Within(0, SIDES[1])],
    "overlap": Annotated[float, Within(*OVERLAPS)],
    "masks": bool,
    "format": Format,
}
NAMES = ("classes", *OPTIONS)  # of all options


@dataclass(frozen=True)
class Sent:
    """An image as it came. name: of its file, where the request says one; it is told back and never opened."""

    content: bytes
    name: str | None = None


@dataclass
class Wanted:
    """images: of the request. several: whether they were asked for together, which the answer then says of each. asked:
    of each of them. format: of the answer. masks: whether they are in it."""

    images: list[Sent]
    several: bool
    asked: Asked = field(default_factory=Asked)
    format: Format = "json"
    masks: bool = True


async def read_wanted(request: Request, limits: Limits, classes: Classes) -> Wanted:
    """The whole of a request; its images are not looked at."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "Send it as it is, without a Content-Encoding.")
    options = _of_query(request)
    if kind == "multipart/form-data":
        wanted, own = await _of_form(request, limits)
    else:
        body = await read_body(request, limits)
        wanted, own = _of_json(body) if kind == "application/json" else (Wanted([Sent(body)], several=False), {})
    if not wanted.images or not all(image.content for image in wanted.images):
        raise HTTPException(400, "There is no image in the request, or it is empty (0 bytes).")
    if len(wanted.images) > limits.images:
        raise HTTPException(413, f"{counted(len(wanted.images), 'image')} in a request; at most {limits.images}.")
    _set(wanted, {**options, **own}, classes)
    if wanted.several and wanted.format in OF_ONE:
        raise HTTPException(400, f"format = {wanted.format} is of one image; send them one by one.")
    return wanted


async def read_body(request: Request, limits: Limits) -> bytes:
    """All that is sent, no more than allowed, in no more time than allowed."""
    content = bytearray()
    async for chunk in limited(request, limits):
        content += chunk
    return bytes(content)


async def limited(request: Request, limits: Limits) -> AsyncGenerator[bytes]:
    """What is sent as it arrives: 413 where it is too large, 408 where it takes too long."""
    size = 0
    if (said := request.headers.get("content-length", "")).isdigit() and int(said) > limits.bytes:
        raise _too_large(limits)
    chunks = request.stream()
    ends = asyncio.get_running_loop().time() + limits.receive_seconds
    while True:
        try:
            async with asyncio.timeout_at(ends):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise HTTPException(408, "The request came too slowly.", {"Connection": "close"}) from None
        size += len(chunk)
        if size > limits.bytes:
            raise _too_large(limits)
        yield chunk


def size_of(image: Sent, limits: Limits) -> tuple[int, int]:
    """Height and width of an image as it is stored, from its head alone; 400 where it is none, 413 where it is too
    large."""
    try:
        with opened(BytesIO(image.content)) as head:
            width, height = stored_wh(head)
    except AweighError as error:
        raise HTTPException(400, str(error)) from error
    if width * height > limits.pixels:
        raise HTTPException(413, f"{width} x {height} is more than {counted(limits.pixels, 'pixel')}.")
    return height, width


def _too_large(limits: Limits) -> HTTPException:
    return HTTPException(413, f"The request is larger than {counted(limits.bytes, 'byte')}.", {"Connection": "close"})


def _of_query(request: Request) -> dict[str, Any]:
    query = request.query_params
    options = {name: query.getlist(name) for name in query}
    if twice := [name for name, values in options.items() if len(values) > 1 and name != "classes"]:
        raise HTTPException(400, f"{twice[0]} is in the address more than once.")
    return {name: values if name == "classes" else values[0] for name, values in options.items() if name != "model"}


class _InMemory(MultiPartParser):
    spool_max_size = 1 << 40  # what is sent is limited, and a file system may be read-only


async def _of_form(request: Request, limits: Limits) -> tuple[Wanted, dict[str, Any]]:
    """Parts named `image`, one, or `images`; other parts are options."""
    parser = _InMemory(
        request.headers, limited(request, limits), max_files=limits.images + 1, max_fields=32, max_part_size=1 << 16
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        many = "files" in error.message and "many" in error.message.lower()
        raise HTTPException(413 if many else 400, f"The form cannot be read ({error.message}).") from error
    except (KeyError, UnicodeError, ValueError) as error:
        raise HTTPException(400, "The form cannot be read: its boundary is missing or damaged.") from error
    sent: dict[str, list[Sent]] = {"image": [], "images": []}
    options: dict[str, Any] = {}
    for name, part in form.multi_items():
        if isinstance(part, UploadFile):
            if name not in sent:
                raise HTTPException(400, f"A file is called {name!r}; expected image or images.")
            sent[name].append(Sent(await part.read(), part.filename or None))
        elif name == "classes":
            options.setdefault("classes", []).append(part)
        else:
            options[name] = part
    if len(sent["image"]) > 1 or (sent["image"] and sent["images"]):
        raise HTTPException(400, "One file called image, or several called images.")
    return Wanted(sent["image"] or sent["images"], several=bool(sent["images"])), options


def _of_json(body: bytes) -> tuple[Wanted, dict[str, Any]]:
    """`{"image": BASE64}` or `{"images": [BASE64, ...]}`, and options beside them."""
    said = parsed_json(body)
    options = {name: value for name, value in said.items() if name not in ("image", "images")}
    if ("image" in said) == ("images" in said):
        raise HTTPException(400, 'Expected {"image": "..."} or {"images": ["...", ...]} with images in base64.')
    several = "images" in said
    texts = said["images"] if several else [said["image"]]
    if not isinstance(texts, list):
        raise HTTPException(400, "images: expected a list of images in base64.")
    return Wanted([Sent(from_base64(text)) for text in texts], several), options


def parsed_json(body: bytes) -> dict[str, Any]:
    """The object that a text in JSON holds; 400 where it holds another or is none."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise HTTPException(400, f"This is no JSON that can be read ({reason}).") from error
    if not isinstance(said, dict):
        raise HTTPException(400, f"This is JSON, but no object: {type(said).__name__}.")
    return said


def from_base64(text: Any) -> bytes:
    """The bytes of an image; what stands before a comma in a `data:` address is left out."""
    if not isinstance(text, str):
        raise HTTPException(400, f"An image is a text in base64, got {type(text).__name__}.")
    try:
        return b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise HTTPException(400, f"An image is no base64 ({error}).") from error


def _set(wanted: Wanted, options: Mapping[str, Any], classes: Classes) -> None:
    """The options, checked; 400 names what is wrong."""
    try:
        wanted.asked = asked_of({name: options[name] for name in options if name not in ("format", "masks")}, classes)
        wanted.format = check_value("format", options.get("format", "json"), Format)
        wanted.masks = check_value("masks", options.get("masks", True), bool)
    except UsageError as error:
        raise HTTPException(400, str(error)) from error


def asked_of(options: Mapping[str, Any], classes: Classes) -> Asked:
    """What is asked of each image, from texts or numbers by name; `UsageError` for what there is not."""
    for name in options:
        if name not in NAMES:
            raise UsageError(f"Unknown option {name!r}; known: {', '.join(NAMES)}.{did_you_mean(name, NAMES)}")
    values = {name: check_value(name, value, OPTIONS[name]) for name, value in options.items() if name != "classes"}
    if "overlap" in values and not values.get("tile"):
        raise UsageError("overlap goes with tile; add it or leave overlap out.")
    if values.get("tile"):
        Tiles(values["tile"], values.get("overlap", OVERLAP))  # whether there are such
    given = options.get("classes", ())
    names = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    for name in names:
        classes.label(name if isinstance(name, str) else str(name))
    return Asked(classes=tuple(names), **values)
