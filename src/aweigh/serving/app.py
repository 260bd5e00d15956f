"""The addresses of a service, who may use them, and what every answer says beside its content."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aweigh.errors import counted
from aweigh.scenes import STREET
from aweigh.serving import open_inference
from aweigh.serving.answers import json_response
from aweigh.serving.metrics import Metrics
from aweigh.serving.openapi import document
from aweigh.serving.service import Service

LARGEST_HEAD = 1 << 14  # bytes
OPEN = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")  # asked by who has no token
SAMPLE = "sample.jpg"
PAGE = {"page.html": "text/html", "page.js": "text/javascript", "page.css": "text/css", SAMPLE: "image/jpeg"}
ALWAYS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
OF_THE_PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)

log = logging.getLogger("aweigh.serve")


def application(
    services: Sequence[Service], metrics: Metrics, *, token: str = "", origins: Sequence[str] = ()
) -> Starlette:
    """The services of one process as an ASGI application; the first is meant where a request names no model.

    token: that requests must bear, none when empty. origins: of pages that may ask from a browser (CORS).
    """
    known = {service.name: service for service in services}

    def named(request: Request) -> Service:
        name = request.query_params.get("model", services[0].name)
        if name not in known:
            raise HTTPException(404, f"There is no model {name!r}; there is {', '.join(known)}.")
        return known[name]

    def of_path(request: Request) -> Service:
        name, version = request.path_params["name"], request.path_params.get("version", open_inference.VERSION)
        if name not in known or version != open_inference.VERSION:
            raise HTTPException(404, f"There is no model {name!r}, version {version}; there is {', '.join(known)}, 1.")
        return known[name]

    async def detect(request: Request) -> Response:
        return await named(request).detect(request)

    async def explain(request: Request) -> Response:
        return await named(request).explain(request)

    async def model(request: Request) -> Response:
        return json_response(named(request).about())

    async def models(request: Request) -> Response:
        return json_response({"models": [service.about() for service in services]})

    async def live(request: Request) -> Response:
        return json_response({"live": True})

    async def ready(request: Request) -> Response:
        asked = [of_path(request)] if "name" in request.path_params else services
        said = all(service.ready for service in asked)
        return json_response({"ready": said}, 200 if said else 503)

    async def told(request: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(request: Request) -> Response:
        return json_response(document(services[0].limits, token=bool(token)))

    async def server(request: Request) -> Response:
        return json_response(open_inference.server())

    async def metadata(request: Request) -> Response:
        return json_response(open_inference.metadata(of_path(request)))

    async def infer(request: Request) -> Response:
        return await open_inference.infer(of_path(request), request)

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "page.html")
        if name not in PAGE:
            raise HTTPException(404, f"There is no {request.url.path}.")
        return Response(_page_file(name), media_type=PAGE[name])

    routes = [
        Route("/", page),
        Route("/page/{name}", page),
        Route("/v1/detect", detect, methods=["POST"]),
        Route("/v1/explain", explain, methods=["POST"]),
        Route("/v1/model", model),
        Route("/v1/models", models),
        Route("/healthz", live),
        Route("/readyz", ready),
        Route("/metrics", told),
        Route("/openapi.json", openapi),
        Route("/v2", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        *(
            Route(f"/v2/models/{{name}}{version}{ending}", place, methods=[method])
            for version in ("", "/versions/{version}")
            for ending, place, method in (("", metadata, "GET"), ("/ready", ready, "GET"), ("/infer", infer, "POST"))
        ),
    ]
    middleware = [Middleware(_Guard, metrics=metrics, token=token)]
    if origins:
        middleware.append(
            Middleware(CORSMiddleware, allow_origins=[*origins], allow_methods=["GET", "POST"], allow_headers=["*"])
        )
    handlers: Any = {HTTPException: _say, ClientDisconnect: _gone}
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)


@cache
def _page_file(name: str) -> bytes:
    return STREET.read_bytes() if name == SAMPLE else (resources.files("aweigh.serving") / "page" / name).read_bytes()


async def _say(request: Request, error: HTTPException) -> Response:
    response = json_response({"error": error.detail}, error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _gone(request: Request, error: Exception) -> Response:
    return json_response({"error": "Who asked has gone."}, 499)


def _last(value: Any, status: int) -> Response:
    """An answer after which the connection is closed: what follows on it may be anything."""
    response = json_response(value, status)
    response.headers["Connection"] = "close"
    return response


class _Guard:
    """Before an answer: who asks bears the token, and the request can be read in one way alone. With each answer: the
    headers that keep a browser from taking it for anything else. It counts them."""

    def __init__(self, app: ASGIApp, metrics: Metrics, token: str) -> None:
        self.app, self.metrics, self.token = app, metrics, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in ALWAYS.items():
                    headers.setdefault(name, value)
                if headers.get("content-type", "").startswith("text/html"):
                    headers["Content-Security-Policy"] = OF_THE_PAGE
                route = scope.get("route")
                place = route.path if route is not None else "other"
                self.metrics.answer(place, message["status"])
            await send(message)

        answer: ASGIApp = self._refused(scope["path"], Headers(scope=scope)) or self.app
        try:
            await answer(scope, receive, sent)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if begun:
                raise
            await json_response({"error": "The service failed; its log says why."}, 500)(scope, receive, sent)

    def _refused(self, path: str, headers: Headers) -> Response | None:
        """Why this is not answered; None where it is."""
        if "content-length" in headers and "transfer-encoding" in headers:
            return _last({"error": "Content-Length and Transfer-Encoding in one request."}, 400)
        if sum(len(name) + len(value) for name, value in headers.raw) > LARGEST_HEAD or len(path) > LARGEST_HEAD:
            return _last({"error": f"The head of the request is larger than {counted(LARGEST_HEAD, 'byte')}."}, 431)
        free = path in OPEN or path == "/" or path.startswith("/page/")
        if self.token and not free:
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), self.token):
                response = json_response({"error": "This service asks for a bearer token."}, 401)
                response.headers["WWW-Authenticate"] = "Bearer"
                return response
        return None
