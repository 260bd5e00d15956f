"""Requests that are no proper HTTP, or take for ever."""

import socket
import time

import pytest
from tests.runtime.toy_engines import Spots
from tests.serving.conftest import Client, Serve, png

from aweigh.serving.limits import Limits


def said(client: Client, sent: bytes, *, wait: float = 10.0) -> bytes:
    """What comes back until the service closes the connection."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=wait) as connection:
        connection.sendall(sent)
        received = b""
        try:
            while chunk := connection.recv(1 << 16):
                received += chunk
        except ConnectionResetError:
            pass
        return received


POST = b"POST /v1/detect HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n", b"400"),
        (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", b"400"),
        (POST + b"Content-Length: -5\r\n\r\n", b"400"),
        (POST + b"Content-Length: 5, 5\r\nConnection: close\r\n\r\nhello", b"400"),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", b"400"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello", b"400"),
        (POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", b"400"),
        (POST + b"A: b\r\n folded: c\x00\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", b"4"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", b"4"),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(9_000)) + b"\r\n", b"4"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET http://other/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b""),
        (b"CONNECT other:80 HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n", b"4"),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_proper_request_is_refused(serve: Serve, sent: bytes, status: bytes):
    client = serve(Spots(), limits=Limits(receive_seconds=0.5))
    answer = said(client, sent)
    assert answer.startswith(b"HTTP/1.1 " + status) and b"Traceback" not in answer and b"root:" not in answer
    assert answer.count(b"HTTP/1.1 ") == 1  # nothing is taken for a second request
    assert client.detect(png()).status == 200


def test_who_sends_its_request_for_ever_is_hung_up_on(serve: Serve):
    client = serve(Spots(), limits=Limits(receive_seconds=0.4))
    assert said(client, b"", wait=3).startswith(b"HTTP/1.1 408")
    assert said(client, b"GET / HTTP/1.1\r\nHost:", wait=3).startswith(b"HTTP/1.1 408")
    assert said(client, POST + b"Content-Length: 1000\r\n\r\nabc").startswith(b"HTTP/1.1 408")
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as drip:
        drip.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert drip.recv(1 << 16).startswith(b"HTTP/1.1 200")
        drip.sendall(b"GET / HTTP/1.1\r\n")  # a second one, which never ends
        begun = time.monotonic()
        try:
            while time.monotonic() - begun < 10:
                drip.sendall(b"X: y\r\n")
                time.sleep(0.05)
        except OSError:
            pass
        assert time.monotonic() - begun < 8
    assert client.detect(png()).status == 200
