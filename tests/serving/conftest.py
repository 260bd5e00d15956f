"""A service on a free port of this machine, in a thread of the test, and a client that says what it sent."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.applications import Starlette
from tests.runtime.toy_engines import Spots

import aweigh
from aweigh.arguments import change_settings
from aweigh.images.resize import Resize
from aweigh.predictor import Predictor
from aweigh.serving.app import application
from aweigh.serving.limits import Limits
from aweigh.serving.metrics import Metrics
from aweigh.serving.server import Server, configured, listening
from aweigh.serving.service import Batching, Service


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """services: those that answer. port: where."""

    services: list[Service]
    port: int

    @property
    def metrics(self) -> str:
        return self.services[0].metrics.text().decode()

    def ask(
        self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, method: str = ""
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def detect(self, body: bytes, query: str = "", kind: str = "image/png") -> Answer:
        return self.ask(f"/v1/detect{query}", body, {"Content-Type": kind})


LIMITS, ONE_WORKER = Limits(), Batching(workers=1)
Serve = Callable[..., Client]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts services that end with the test."""
    running: list[tuple[Server, threading.Thread]] = []

    def start(
        *engines: Any,
        limits: Limits = LIMITS,
        batching: Batching = ONE_WORKER,
        token: str = "",
        origins: Sequence[str] = (),
        load: Callable[[], Predictor] | None = None,
        explainer: Callable[[], Any] | None = None,
    ) -> Client:
        metrics = Metrics()
        loads = [load] if load is not None else [lambda own=own: predictor_of(own) for own in engines or (Spots(),)]
        services = [
            Service(each, f"toy{number or ''}", limits, batching, metrics, explainer)
            for number, each in enumerate(loads)
        ]
        app: Starlette = application(services, metrics, token=token, origins=origins)
        address: list[str] = []
        told = threading.Event()

        def tell(said: str) -> None:
            address.append(said)
            told.set()

        server, place = Server(configured(app, limits), services, tell), listening("127.0.0.1", 0)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([place])), daemon=True)
        thread.start()
        running.append((server, thread))
        assert told.wait(20)
        return Client(services, int(address[0].rpartition(":")[2]))

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def explaining(serve: Serve) -> Client:
    """A service of a detector of torch that learned nothing, so that it finds something everywhere."""
    torch.manual_seed(0)
    resize = Resize(short=None, long=64)
    model = aweigh.create("fcos_shufflenet_v2_x0_5_lite", classes=["a", "b"]).eval()
    change_settings(model, {"score_threshold": 0.0})
    return serve(load=lambda: Predictor(model, resize, device="cpu"), explainer=lambda: aweigh.Explainer(model, resize))


def predictor_of(engine: Any) -> Predictor:
    return Predictor(engine, Resize(short=None, long=None))


def png(
    width: int = 64,
    height: int = 32,
    *,
    box: tuple[int, int, int, int] = (8, 4, 24, 20),
    green: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> bytes:
    """A grey image with a red rectangle, and a green one where one is asked for."""
    pixels = np.full((height, width, 3), 60, np.uint8)
    for channel, (x0, y0, x1, y1) in enumerate((box, green)):
        pixels[y0:y1, x0:x1, channel] = 255
    content = BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def form(*parts: tuple[str, bytes, str | None]) -> tuple[bytes, str]:
    """A body of name, content and file name for each part, and its type."""
    lines = []
    for name, content, file in parts:
        named = f'; filename="{file}"' if file is not None else ""
        lines.append(f'--edge\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + content)
    return b"\r\n".join([*lines, b"--edge--\r\n"]), "multipart/form-data; boundary=edge"
