"""What is answered: the JSON of `aweigh predict`, another format of detections, or a drawing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO, StringIO
from typing import Any

from starlette.responses import Response

from aweigh.detections import Detections
from aweigh.results import FORMATS
from aweigh.results.format import OneFile
from aweigh.results.jsonl import json_line
from aweigh.serving.requests import Wanted


def answer(wanted: Wanted, found: Sequence[Detections]) -> Response:
    """The detections of each image of a request, in its format."""
    if wanted.format == "png":
        return Response(drawing(wanted.images[0].content, found[0]), media_type="image/png")
    if wanted.format == "json":
        named = [replace(own, path=image.name) for own, image in zip(found, wanted.images, strict=True)]
        return json_response(results(wanted, named))
    return Response(in_format(wanted.format, found), media_type="application/json")


def results(wanted: Wanted, found: Sequence[Detections]) -> dict[str, Any]:
    """Of one image the object that is a line of `aweigh predict`; of several `{"results": [...]}`."""
    lines = [json_line(own, masks=wanted.masks) for own in found]
    return {"results": lines} if wanted.several else lines[0]


def in_format(name: str, found: Sequence[Detections]) -> str:
    """The text of a file that holds all images, numbered from 1, or of the file of the one image.

    Formats look for what they can learn of the file of an image: these detections are of none.
    """
    format = FORMATS[name]
    if not isinstance(format, OneFile):
        return format.text(found[0])
    stream = StringIO()
    writer = format.open(stream, None)
    for number, own in enumerate(found, start=1):
        writer.add(own, number)
    writer.finish()
    return stream.getvalue()


def drawing(image: bytes, found: Detections) -> bytes:
    """A PNG of the image with what was found."""
    content = BytesIO()
    found.draw(image).save(content, "PNG", compress_level=1)
    return content.getvalue()


def json_response(value: Any, status: int = 200) -> Response:
    """As `aweigh predict` writes it: every character beyond ASCII spelled out."""
    return Response(json.dumps(value, allow_nan=False), status, media_type="application/json")
