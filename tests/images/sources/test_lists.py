"""Lists of names, and addresses, which are fetched only where that is allowed: from a server on the loopback."""

import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from aweigh.errors import DataError, UsageError
from aweigh.images.reader import read_image
from aweigh.images.sources import images_of, together
from aweigh.images.sources.addresses import fetch


def png(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(folder / name)


def test_each_line_is_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    png(tmp_path, "a.png", "b/c d.png")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfb/c d.png\r\n\n./a.png\nmissing.png")
    images = images_of("@list.txt")
    for _ in range(2):
        assert [str(image) for image in images] == ["b/c d.png", "a.png", "missing.png"]
    assert images.root == tmp_path
    with pytest.raises(DataError, match=r"missing\.png: there is no such file"):
        read_image([*images][-1])  # type: ignore[arg-type]


def test_names_on_the_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    png(tmp_path, "a.png")
    names = f"{tmp_path}/a.png\n" * 2
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(names.encode())))
    images = images_of("@-")
    first, second = iter(images), iter(images)  # each goes through all of them, whatever the other does
    assert [str(next(each)) for each in (first, second, second, first)] == [f"{tmp_path}/a.png"] * 4


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "there is no name"), (b"\n\n", "there is no name"), (b"x" * 70_000, "a line is longer")],
)
def test_what_is_no_list(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=words):
        images_of(f"@{tmp_path}/list.txt")


@pytest.mark.parametrize("name", ["missing.txt", "", "a\0b"])
def test_a_list_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="list"):
        images_of(f"@{tmp_path}/{name}")


def test_a_file_that_two_sources_name_comes_once(tmp_path: Path) -> None:
    png(tmp_path, "a.png", "b/c.png")
    images = together([images_of(tmp_path / "b" / "c.png"), images_of(tmp_path), images_of(f"{tmp_path}/**/*.png")])
    assert [Path(str(image)).name for image in images] == ["c.png", "a.png"]
    assert images.root == tmp_path


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        kind = self.path.partition("?")[0]
        self.send_response({"/gone.png": 404, "/away.png": 302, "/loop.png": 302}.get(kind, 200))
        if kind in ("/away.png", "/loop.png"):
            self.send_header("Location", "file:///etc/passwd" if kind == "/away.png" else "/loop.png")
        if kind == "/cut.png":
            self.send_header("Content-Length", "1000")
        self.end_headers()
        if kind == "/a%20b.png":
            Image.new("RGB", (4, 3)).save(content := io.BytesIO(), "PNG")
            self.wfile.write(content.getvalue())
        elif kind in ("/endless.png", "/slow.png"):
            try:
                while True:
                    self.wfile.write(bytes(1 << 16) if kind == "/endless.png" else b"x")
                    time.sleep(0 if kind == "/endless.png" else 0.05)
            except OSError:
                return

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_nothing_is_fetched_unless_it_is_allowed(tmp_path: Path, server: str) -> None:
    (tmp_path / "list.txt").write_text(f"{server}/a%20b.png?key=1\n")
    for name in (f"{server}/a%20b.png", f"@{tmp_path}/list.txt", "HTTPS://example.org/x.png"):
        with pytest.raises(UsageError, match="--allow-net"):
            images_of(name)


def test_an_image_at_an_address(tmp_path: Path, server: str) -> None:
    (tmp_path / "list.txt").write_text(f"{server}/a b.png?key=1\n{server}/gone.png\n".replace(" ", "%20"))
    first, second = images_of(f"@{tmp_path}/list.txt", allow_net=True)
    with pytest.raises(DataError, match=r"gone\.png: cannot be fetched \(404 Not Found\)"):
        read_image(second)
    assert str(first) == f"{server}/a%20b.png?key=1" and read_image(first).shape == (3, 4, 3)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/cut.png", "cannot be fetched"),
        ("/away.png", "cannot be fetched"),
        ("/loop.png", "cannot be fetched"),
        ("/endless.png", "larger than 1,000,000 bytes"),
        ("/slow.png", "takes too long"),
    ],
)
def test_an_answer_that_is_none_ends_in_one_line(server: str, path: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        fetch(server + path, most_bytes=1_000_000, most_seconds=0.3)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(server + path)


def test_no_server_and_no_address() -> None:
    for address in ("http://127.0.0.1:1/a.png", "http://[x/a.png", "http:///a.png"):
        with pytest.raises(DataError, match="cannot be fetched"):
            fetch(address, most_seconds=2)
