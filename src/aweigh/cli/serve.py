"""`aweigh serve`: a detector that answers requests over HTTP, and a page to try it on."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from aweigh.catalogue import DEFAULT_MODEL
from aweigh.cli.detectors import find_detector
from aweigh.cli.explained import explainer
from aweigh.cli.flags import SEVERAL, Views, Weights
from aweigh.cli.terminal import log
from aweigh.errors import AweighError, UsageError, counted, said_if_missing

LOOPBACK = ("127.0.0.1", "::1", "localhost")
TOKEN = "AWEIGH_TOKEN"


def command(
    *models: str,
    host: str = "127.0.0.1",
    port: int = 8080,
    workers: int = 0,
    max_batch: int = 0,
    max_delay: float = 0.0,
    max_bytes: int = 20_000_000,
    max_pixels: int = 50_000_000,
    max_images: int = 16,
    max_tiles: int = 500,
    max_waiting: int = 64,
    max_connections: int = 1024,
    max_seconds: float = 30.0,
    receive_seconds: float = 20.0,
    token: Annotated[str, Parameter(show_default=False)] = "",
    cors: Annotated[tuple[str, ...], SEVERAL] = (),
    weights: Weights = Weights(),
    views: Views = Views(),
) -> None:
    """Answer requests over HTTP: POST an image to /v1/detect, or open the page in a browser.

    The answer is what `aweigh predict` writes. /openapi.json describes all addresses, /healthz and /readyz are for who
    watches over it, /metrics for Prometheus, /v2 for clients of the Open Inference Protocol. SIGTERM answers what was
    accepted and ends, SIGHUP reads the model anew and loses no request.

    Args:
        models: Checkpoints, graphs that `aweigh export` wrote (.onnx, .xml), folders of runs (their best weights), or
            names of detectors with published weights; box, which comes with aweigh, when none is given. Requests
            choose by ?model=NAME, the name of the file without its suffix; the page shows the first two side by side.
        host: Whom it listens to: 127.0.0.1 programs of this machine, 0.0.0.0 every machine that reaches it.
        port: 0 takes a free one.
        workers: Threads that compute; as many as there are cores, up to four, when not given.
        max_batch: Images of one size that go through the network together; as many as pay when not given.
        max_delay: Seconds that an image waits for others to go with.
        max_bytes: Of a request.
        max_pixels: Of an image.
        max_images: Of a request.
        max_tiles: Of an image that is looked at in tiles.
        max_waiting: Images in the queue; requests beyond are told to come again (503).
        max_connections: Open at a time (503).
        max_seconds: From a complete request to its answer (504).
        receive_seconds: For the head of a request, and for what it sends (408).
        token: Requests must bear it (Authorization: Bearer ...); of the environment variable AWEIGH_TOKEN when not
            given, which other users of this machine cannot see.
        cors: Origins of web pages that may ask from a browser, as https://example.org; none when not given.
    """
    if not 0 <= port < 1 << 16:
        raise UsageError(f"--port {port}: expected 0 to 65535.")
    token = token or os.environ.get(TOKEN, "")
    with said_if_missing("aweigh serve"):
        from aweigh.serving.app import application
        from aweigh.serving.limits import Limits
        from aweigh.serving.metrics import Metrics
        from aweigh.serving.server import serve
        from aweigh.serving.service import Batching, Service

    limits = Limits(
        bytes=max_bytes,
        pixels=max_pixels,
        images=max_images,
        tiles=max_tiles,
        connections=max_connections,
        seconds=max_seconds,
        receive_seconds=receive_seconds,
        waiting=max_waiting,
    )
    metrics, batching = Metrics(), Batching(workers, max_batch, max_delay)
    services = []
    for name, model in _named(models or (DEFAULT_MODEL,)).items():
        load = partial(find_detector, model, weights, views)
        explain = partial(explainer, model, weights.weights, weights.settings, views.resize, weights.device)
        services.append(Service(load, name, limits, batching, metrics, explain))
    app = application(services, metrics, token=token, origins=cors)

    def tell(address: str) -> None:
        told = (f"{service.name} ({service.predictor.engine.computed_by})" for service in services)
        log().print(f"{' and '.join(told)} at {address}; Ctrl-C ends it")
        if host not in LOOPBACK and not token:
            log().print(f"Every machine that reaches {host} may ask; --token or {TOKEN} lets those in that bear it.")

    try:
        serve(app, services, host=host, port=port, tell=tell)
    except OSError as error:
        number = error.errno or 0  # negative where the host is none
        reason = os.strerror(number) if number > 0 else error.strerror
        raise AweighError(f"{host}:{port} cannot be listened to ({reason}).") from error
    log().print(f"{counted(metrics.answered, 'request', 'was')} answered")


def _named(models: Sequence[str]) -> dict[str, str]:
    """Each model by what it is called in addresses: the name of its file, of a run that of its folder."""
    from aweigh.runtime.open import SUFFIXES

    named: dict[str, str] = {}
    for model in models:
        path = Path(model)
        name = (
            path.resolve().name if path.is_dir() else path.stem if path.suffix in (".safetensors", *SUFFIXES) else model
        )
        if name in named:
            raise UsageError(f"{named[name]} and {model} would both be called {name}; rename one.")
        named[name] = model
    return named
