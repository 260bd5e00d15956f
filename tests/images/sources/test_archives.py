"""Archives are read in place: the same images as in the folder, and whatever is wrong in one costs one line."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aweigh.errors import DataError
from aweigh.images.reader import read_image
from aweigh.images.sources import images_of, tars, zips
from aweigh.images.sources.archive import check_size
from aweigh.images.stored import MOST_BYTES, StoredImage

TARS = {".tar": lambda data: data, ".tar.gz": gzip.compress, ".tar.bz2": bz2.compress, ".txz": lzma.compress}


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 3), (value, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def zipped(file: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


def tarred(file: Path, members: dict[str, bytes], pack: Callable[[bytes], bytes] = lambda data: data) -> Path:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    file.write_bytes(pack(stream.getvalue()))
    return file


def said(image: object) -> str:
    """What is wrong with an image, in a line."""
    with pytest.raises(DataError) as caught:
        read_image(image)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


MEMBERS = {"b/2.png": png(2), "a.png": png(1), "notes.txt": b"x", "__MACOSX/a.png": b"junk"}


@pytest.mark.parametrize("ending", [".zip", *TARS])
def test_images_come_with_their_pixels_and_names_each_time_anew(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"photos{ending}"
    zipped(file, MEMBERS) if ending == ".zip" else tarred(file, MEMBERS, TARS[ending])
    images = images_of(file)
    for _ in range(2):
        values = {str(image): int(read_image(image)[0, 0, 0]) for image in images}
        assert values == {f"{file}/a.png": 1, f"{file}/b/2.png": 2}
    held = [*images]  # read in another order, when the archive has been gone through
    order = [1, 2] if ending == ".zip" else [2, 1]  # by name, and as they lie in a tar
    assert [int(read_image(image)[0, 0, 0]) for image in reversed(held)] == order[::-1]


@pytest.mark.parametrize("name", ["../../evil.png", "/etc/evil.png", "C:\\up\\..\\evil.png", "a/../../evil.png"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_no_drawing_leaves_the_folder(tmp_path: Path, name: str, kind: str) -> None:
    file = (zipped if kind == "zip" else tarred)(tmp_path / f"x.{kind}", {name: png(1)})
    (image,) = images_of(file)
    assert isinstance(image, StoredImage)
    assert not image.place.is_absolute() and ".." not in image.place.parts and image.place.name == "evil.png"
    assert image.place.parts[0] == f"x.{kind}"


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_in_an_archive_is_refused_by_its_name(tmp_path: Path, kind: str) -> None:
    inner = zipped(tmp_path / "inner.zip", {"a.png": png(1)}).read_bytes()
    file = (zipped if kind == "zip" else tarred)(tmp_path / f"x.{kind}", {"a.png": png(1), "in/inner.zip": inner})
    first, second = images_of(file)
    assert read_image(first).shape == (3, 4, 3)
    assert said(second).startswith(f"{file}/in/inner.zip: an archive in an archive is not opened")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_without_images_is_said_at_once(tmp_path: Path, kind: str) -> None:
    file = (zipped if kind == "zip" else tarred)(tmp_path / f"x.{kind}", {"notes.txt": b"x"})
    with pytest.raises(DataError, match="an image"):
        images_of(file)


@pytest.mark.parametrize("ending", [".zip", *TARS])
def test_what_is_no_archive_or_is_not_there(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"x{ending}"
    for make in (lambda: None, lambda: file.write_bytes(b"no archive"), lambda: (file.unlink(), os.mkfifo(file))):
        make()
        with pytest.raises(DataError) as caught:
            images_of(file)
        assert str(file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", TARS)
def test_a_tar_that_is_cut_short_gives_what_it_has_and_one_error(tmp_path: Path, ending: str) -> None:
    noise = {f"{number}.bmp": os.urandom(3000) for number in range(8)}
    file = tarred(tmp_path / f"x{ending}", {"a.png": png(7), **noise}, TARS[ending])
    file.write_bytes(file.read_bytes()[:-12_000])
    images = [*images_of(file)] if ending != ".tar.bz2" else []
    if not images:  # its blocks are larger than this archive
        with pytest.raises(DataError, match="from here on"):
            images_of(file)
        return
    assert read_image(images[0])[0, 0, 0] == 7 and 1 < len(images) < 9
    assert said(images[-1]).startswith(f"{file}: the archive cannot be read from here on")
    assert [str(image) for image in images].count(str(file)) == 1


def test_damage_of_one_member_of_a_zip_costs_that_image(tmp_path: Path) -> None:
    file = zipped(tmp_path / "x.zip", {"a.png": png(1), "b.png": png(2)})
    data = bytearray(file.read_bytes())
    place = data.index(b"a.png") + len("a.png")
    data[place + 8] ^= 0xFF
    file.write_bytes(data)
    first, second = images_of(file)
    assert said(first).startswith(f"{file}/a.png: cannot be read from the archive")
    assert read_image(second)[0, 0, 0] == 2


def test_a_zip_without_its_end_is_refused(tmp_path: Path) -> None:
    file = zipped(tmp_path / "x.zip", {"a.png": png(1)})
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(DataError, match="cannot be opened"):
        images_of(file)


def test_an_encrypted_member_says_so(tmp_path: Path) -> None:
    file = zipped(tmp_path / "x.zip", {"a.png": png(1)})
    data = bytearray(file.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    file.write_bytes(data)
    (image,) = images_of(file)
    assert "is encrypted" in said(image)


def test_a_bomb_is_refused_by_its_name_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {"bomb.bmp": bytes(200_000), "a.png": png(1)}
    for module in (zips, tars):
        monkeypatch.setattr(module, "check_size", lambda name, size: check_size(name, size + MOST_BYTES - 100_000))
    for file in (
        zipped(tmp_path / "x.zip", members), tarred(tmp_path / "x.tar.gz", members, gzip.compress),
    ):  # fmt: skip
        images = {Path(str(image)).name: image for image in images_of(file)}
        assert "more than" in said(images["bomb.bmp"]) and "bomb.bmp" in said(images["bomb.bmp"])
        assert read_image(images["a.png"])[0, 0, 0] == 1


def test_a_zip_that_holds_more_than_it_says_is_not_unpacked_further(tmp_path: Path) -> None:
    file = zipped(tmp_path / "x.zip", {"a.png": png(1) + bytes(1_000_000)})
    data = bytearray(file.read_bytes())
    place = data.index(b"PK\x01\x02") + 24
    data[place : place + 4] = (100).to_bytes(4, "little")
    file.write_bytes(data)
    (image,) = images_of(file)
    assert isinstance(image, StoredImage)
    with pytest.raises(DataError, match=r"x\.zip/a\.png"):
        image.read()


def test_a_tar_is_not_read_past_what_has_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that would take hours to pass ends the archive, as does a header that asks for the whole memory."""
    monkeypatch.setattr(tars, "MOST_PASSED", 10_000)
    file = tarred(tmp_path / "x.tar.gz", {"a.png": png(1), "film.bin": bytes(20_000), "b.png": png(2)}, gzip.compress)
    first, last = images_of(file)
    assert read_image(first)[0, 0, 0] == 1 and "film.bin takes 20,000 bytes" in said(last)

    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, MOST_BYTES * 3
    plain = tarred(tmp_path / "y.tar", {"a.png": png(1)}).read_bytes()[:1024]
    (tmp_path / "y.tar").write_bytes(plain + header.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    first, last = images_of(tmp_path / "y.tar")
    assert read_image(first)[0, 0, 0] == 1 and "bytes at a time" in said(last)


def test_links_and_devices_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, kind in (("passwd.png", tarfile.SYMTYPE), ("null.png", tarfile.CHRTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    for image in images_of(tmp_path / "x.tar"):
        assert "which is not followed" in said(image)


def test_members_of_one_name_are_all_given(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.png", png(1))
        archive.writestr("a.png", png(2))
    assert sorted(int(read_image(image)[0, 0, 0]) for image in images_of(tmp_path / "x.zip")) == [1, 2]


def test_a_folder_that_is_called_like_an_archive_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x.zip").mkdir()
    (tmp_path / "x.zip" / "a.png").write_bytes(png(3))
    (image,) = images_of(tmp_path / "x.zip")
    assert np.all(read_image(image)[:, :, 0] == 3)
