"""The server: uvicorn with limits on heads of requests, and the signals it obeys."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from aweigh.serving.app import LARGEST_HEAD
from aweigh.serving.limits import Limits
from aweigh.serving.service import Service

TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def serve(
    app: Starlette,
    services: Sequence[Service],
    *,
    host: str,
    port: int,
    tell: Callable[[str], None] = lambda address: None,
) -> None:
    """Answer until SIGINT or SIGTERM, then what was accepted; SIGHUP reads the model anew. tell: is given the address
    when the service is ready. `OSError` where the port cannot be had."""
    with listening(host, port) as place:
        asyncio.run(Server(configured(app, services[0].limits), services, tell).serve([place]))


def listening(host: str, port: int) -> socket.socket:
    """A socket that connections come to; port 0 is a free one. `OSError` where it cannot be had."""
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048)


def configured(app: Starlette, limits: Limits) -> uvicorn.Config:
    """uvicorn with these limits."""
    return uvicorn.Config(
        app,
        http=patient(limits),
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        h11_max_incomplete_event_size=LARGEST_HEAD,
        timeout_graceful_shutdown=round(limits.seconds) + 1,
    )


class Server(uvicorn.Server):
    """Warms its services up before it says that it is there, and lets them finish before it ends."""

    def __init__(self, config: uvicorn.Config, services: Sequence[Service], tell: Callable[[str], None]) -> None:
        super().__init__(config)
        self.services, self.tell = services, tell

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As of uvicorn, but that a stop that was asked for ends well."""
        if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():  # Windows, tests
            with super().capture_signals():
                yield
            return
        loop, handled = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)
        for number in handled:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        loop.add_signal_handler(signal.SIGHUP, lambda: loop.run_in_executor(None, self.reload))
        try:
            yield
        finally:
            for number in (*handled, signal.SIGHUP):
                loop.remove_signal_handler(number)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if not self.started:
            return
        for service in self.services:
            await asyncio.to_thread(service.warm_up)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        self.tell(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    def reload(self) -> None:
        for service in self.services:
            service.reload()

    async def shutdown(self, sockets: Any = None) -> None:
        for service in self.services:
            service.ready = False
        await super().shutdown(sockets)
        for service in self.services:
            await asyncio.to_thread(service.close)


def patient(limits: Limits) -> type[H11Protocol]:
    """uvicorn's protocol, which waits for the head of a request no longer than allowed, also where a few of its bytes
    come again and again."""

    class Patient(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is h11.IDLE and self.transport is not None:
                self._wait()
            else:
                self._stop()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _wait(self) -> None:
            if self._timer is None:
                self._timer = self.loop.call_later(limits.receive_seconds, self._too_slow)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            self._timer = None
            if not self.transport.is_closing() and self.conn.their_state is h11.IDLE:
                self.transport.write(TOO_SLOW)
                self.transport.close()

    return Patient
