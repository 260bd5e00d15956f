"""An image at an address (`http`, `https`), fetched where that is allowed: `--allow-net`, `allow_net=True`."""

from __future__ import annotations

import re
import time
import urllib.request
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import unquote, urlsplit

from aweigh.errors import DataError, UsageError, counted
from aweigh.images.sources.source import Given, Images, Kind
from aweigh.images.stored import MOST_BYTES, StoredImage

MOST_SECONDS = 60.0  # ours: for one image, and for each silence half of it
CHUNK = 1 << 16  # bytes


def image_of_address(given: Given) -> Images:
    """The image at an address alone."""
    image = image_at(given.name, allow_net=given.allow_net)
    return Images(lambda: iter([image]))


def image_at(address: str, *, allow_net: bool) -> StoredImage:
    """The image at an address; `UsageError` where it may not be asked.

    It is fetched when it is read; what goes wrong then is the error of this image.
    """
    if not allow_net:
        raise UsageError(
            f"{address} is an address, and nothing is fetched unless it is allowed: add --allow-net, in Python "
            "allow_net=True."
        )
    name = Path(unquote(urlsplit(address).path).replace("\\", "/")).name
    place = Path(re.sub(r'[\0-\x1f:*?"<>|]', "_", name) or "image")
    return StoredImage(address, partial(fetch, address), place)


def fetch(address: str, *, most_bytes: int = MOST_BYTES, most_seconds: float = MOST_SECONDS) -> bytes:
    """What is at an address; `DataError` where that cannot be had, is larger, or takes longer."""
    until = time.monotonic() + most_seconds
    try:
        with _opener().open(address, timeout=most_seconds / 2) as answer:
            return b"".join(_chunks(answer, most_bytes, until))
    except (OSError, HTTPException, ValueError) as error:  # no such server, 404, cut short, no address
        why = " ".join(str(getattr(error, "reason", None) or error).split()) or type(error).__name__
        code = f"{error.code} " if isinstance(error, urllib.request.HTTPError) else ""
        raise DataError(f"{address}: cannot be fetched ({code}{why}). Check the address.") from error


def _chunks(answer: HTTPResponse, most_bytes: int, until: float) -> list[bytes]:
    chunks: list[bytes] = []
    total = 0
    while chunk := answer.read1(CHUNK):
        chunks.append(chunk)
        total += len(chunk)
        if total > most_bytes:
            raise ValueError(f"it is larger than {counted(most_bytes, 'byte')}")
        if time.monotonic() > until:
            raise TimeoutError("it takes too long")
    if answer.length:  # of what was announced, so much has not come
        raise ValueError("it is cut short")
    return chunks


def _opener() -> urllib.request.OpenerDirector:
    """That of Python without `file:`, `ftp:` and `data:`, to which an answer could lead."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


ADDRESS = Kind(
    "an address", lambda name: re.match(r"https?://", name, re.IGNORECASE) is not None, image_of_address, several=False
)
