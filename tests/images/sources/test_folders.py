"""Which files a folder or a pattern stands for: each once, in order, and none called like an image left out."""

import os
import socket
from pathlib import Path

import pytest
from PIL import Image

from aweigh.errors import DataError, UsageError
from aweigh.images.reader import read_image
from aweigh.images.sources import images_of


def tree(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(folder / name)


def image_paths(source: Path | str, *, recursive: bool = False) -> list[Path]:
    return [path for path in images_of(source, recursive=recursive) if isinstance(path, Path)]


def names(source: Path | str, below: Path) -> list[str]:
    return [path.relative_to(below).as_posix() for path in image_paths(source)]


def test_links_in_circles_end_and_each_folder_comes_once(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.jpg", "a/b/2.jpg", "c/3.jpg")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "a" / "b" / "top").symlink_to(tmp_path)
    (tmp_path / "c" / "itself").symlink_to(".")
    (tmp_path / "again").symlink_to("a")
    right = ["a/1.jpg", "a/b/2.jpg", "c/3.jpg"]
    assert names(f"{tmp_path}/**/*.jpg", tmp_path) == right
    assert names(f"{tmp_path}/**/*", tmp_path) == right
    assert names(f"{tmp_path}/**", tmp_path) == right
    assert names(f"{tmp_path}/**/b/**/*.jpg", tmp_path)[0] == "a/b/2.jpg"


def test_a_folder_that_only_a_link_leads_to_is_entered(tmp_path: Path) -> None:
    tree(tmp_path, "elsewhere/1.jpg", "here/2.jpg")
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here" / "twice").symlink_to(tmp_path / "elsewhere")
    assert names(f"{tmp_path}/here/**/*.jpg", tmp_path) == ["here/2.jpg", "here/linked/1.jpg"]


@pytest.mark.parametrize(
    ("pattern", "right"),
    [
        ("*.jpg", ["1.jpg"]),
        ("*/*.jpg", ["a/2.jpg"]),
        ("a*/*.jpg", ["a/2.jpg"]),
        ("**/*.JPG", ["a/b/4.JPG"]),
        ("**/a/*", ["a/2.jpg", "a/3.png"]),
        ("**/b/*", ["a/b/4.JPG"]),
        ("a/**/*", ["a/2.jpg", "a/3.png", "a/b/4.JPG"]),
        ("**/[23].*", ["a/2.jpg", "a/3.png"]),
        ("*/?.png", ["a/3.png"]),
        (".hidden/*", [".hidden/5.jpg"]),
        ("a/../*.jpg", ["a/../1.jpg"]),
    ],
)
def test_patterns(tmp_path: Path, pattern: str, right: list[str]) -> None:
    tree(tmp_path, "1.jpg", "a/2.jpg", "a/3.png", "a/b/4.JPG", ".hidden/5.jpg", "a/.6.jpg")
    (tmp_path / "a" / "notes.txt").touch()
    assert names(f"{tmp_path}/{pattern}", tmp_path) == right


def test_a_pattern_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "a/1.jpg")
    monkeypatch.chdir(tmp_path)
    assert [str(path) for path in image_paths("**/*.jpg")] == ["a/1.jpg"]
    assert [str(path) for path in image_paths("a/*")] == ["a/1.jpg"]


def test_whatever_is_called_like_an_image_is_named(tmp_path: Path) -> None:
    """A dangling link, a link in a circle, a pipe, a socket and a folder: in the list, and refused in one line each."""
    tree(tmp_path, "good.jpg")
    (tmp_path / "dangling.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "other").mkdir()
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(tmp_path / "socket.jpg"))
        said = {}
        for source in (tmp_path, f"{tmp_path}/**/*"):
            assert names(source, tmp_path) == [
                "circle.jpg", "dangling.jpg", "folder.jpg", "good.jpg", "pipe.jpg", "socket.jpg",
            ]  # fmt: skip
        for path in image_paths(tmp_path):
            if path.name != "good.jpg":
                with pytest.raises(DataError) as caught:
                    read_image(path)
                said[path.stem] = str(caught.value)
    for stem, words in (
        ("dangling", "leads nowhere"), ("pipe", "a pipe"), ("socket", "a socket"), ("folder", "a folder"),
        ("circle", "links"),
    ):  # fmt: skip
        assert f"{stem}.jpg: " in said[stem] and words in said[stem] and "\n" not in said[stem]


def test_a_link_or_pipe_that_was_named_is_tried(tmp_path: Path) -> None:
    (tmp_path / "dangling.jpg").symlink_to("nowhere.jpg")
    assert image_paths(tmp_path / "dangling.jpg") == [tmp_path / "dangling.jpg"]


@pytest.mark.parametrize("name", ["", "a\0b.jpg", "x" * 300, "x" * 300 + "*"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises((DataError, UsageError)):
        image_paths(name)


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    tree(tmp_path, "[1].jpg", "1.jpg")
    assert names(f"{tmp_path}/[1].jpg", tmp_path) == ["[1].jpg"]


def test_recursive_takes_the_folders_of_a_folder_each_once(tmp_path: Path) -> None:
    tree(tmp_path, "b.jpg", "a/2.jpg", "a/b/1.PNG", "c/3.jpg", ".thumbnails/4.jpg")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "c" / "notes.txt").touch()
    found = [path.relative_to(tmp_path).as_posix() for path in image_paths(tmp_path, recursive=True)]
    assert found == ["b.jpg", "a/2.jpg", "a/b/1.PNG", "c/3.jpg"]
    assert names(tmp_path, tmp_path) == ["b.jpg"]
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    with pytest.raises(DataError, match="no file that is an image"):
        images_of(tmp_path / "empty", recursive=True)


def test_images_are_looked_up_anew_each_time(tmp_path: Path) -> None:
    tree(tmp_path, "1.jpg")
    images = images_of(tmp_path)
    assert len([*images]) == 1
    tree(tmp_path, "2.jpg")
    assert len([*images]) == 2
