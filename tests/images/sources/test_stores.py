"""Images in a store are a source as any other: a folder, one image, and the names of a list."""

import io
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image

from aweigh import stores
from aweigh.errors import DataError
from aweigh.images.reader import read_image
from aweigh.images.sources import images_of, stands_for_several
from aweigh.images.stored import StoredImage

pytest.importorskip("pyarrow")


@pytest.fixture
def folder() -> str:
    """A store of three images, of which one is in a folder, and a text."""
    folder = f"memory://{uuid4().hex}"
    for name, grey in (("b.png", 20), ("a.png", 10), ("deep/c.png", 30)):
        file = io.BytesIO()
        Image.new("RGB", (4, 3), (grey,) * 3).save(file, "png")
        stores.write(f"{folder}/{name}", file.getvalue())
    stores.write(f"{folder}/notes.txt", b"")
    return folder


def test_the_images_of_a_folder_are_read_from_the_store(folder: str) -> None:
    images = [*images_of(folder)]

    assert [str(image) for image in images] == [f"{folder}/a.png", f"{folder}/b.png"]
    assert [np.unique(read_image(image)).tolist() for image in images] == [[10], [20]]
    assert [*map(str, images_of(folder, recursive=True))][2:] == [f"{folder}/deep/c.png"]
    assert stands_for_several(folder)


def test_one_image_is_a_source(folder: str) -> None:
    (image,) = images_of(f"{folder}/deep/c.png")

    assert isinstance(image, StoredImage) and image.place.parts[1:] == ("deep", "c.png")
    assert read_image(image).shape == (3, 4, 3)


def test_a_list_names_images_of_a_store_and_may_lie_in_one(folder: str, tmp_path: Path) -> None:
    names = f"{folder}/b.png\n{folder}/none.png\n{tmp_path}/c.png\n"
    (tmp_path / "list.txt").write_text(names)
    stores.write(f"{folder}/list.txt", names.encode())

    for place in (f"@{tmp_path}/list.txt", f"@{folder}/list.txt"):
        images = [*images_of(place)]
        assert [str(image) for image in images] == names.split()
        assert read_image(images[0])[0, 0, 0] == 20
        with pytest.raises(DataError, match=r"none\.png: there is no such file"):
            read_image(images[1])


@pytest.mark.parametrize(("below", "held"), [("none", "no file that is"), ("texts", "files, none of them")])
def test_a_folder_without_images_is_said_at_once(below: str, held: str, folder: str) -> None:
    stores.write(f"{folder}/texts/a.txt", b"")

    with pytest.raises(DataError, match=f"{folder}/{below} holds {held} an image .*--recursive"):
        images_of(f"{folder}/{below}")


def test_a_name_cannot_lead_a_drawing_out_of_its_folder(folder: str) -> None:
    stores.write(f"{folder}/../b:c.png", b"")

    (image,) = images_of(f"{folder}/../b:c.png")
    assert isinstance(image, StoredImage) and ".." not in image.place.parts and image.place.name == "b_c.png"
