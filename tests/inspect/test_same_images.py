"""Files that are the same, images that look alike, and a search for them that misses none."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.scenes_on_disk import scene

from aweigh.inspect.same_images import file_hash, fingerprint, groups_of, look_alikes, near_hashes, same_bytes


def test_files_are_told_apart_by_their_bytes(tmp_path: Path) -> None:
    for name, content in (("a", b"one"), ("b", b"two"), ("c", b"one")):
        (tmp_path / name).write_bytes(content)
    hashes: list[bytes | None] = [file_hash(tmp_path / name) for name in "abc"]
    assert same_bytes([*hashes, None, None]) == [[0, 2]]


@pytest.mark.parametrize("bits", [0, 1, 7])
def test_the_search_finds_exactly_what_comparing_all_pairs_finds(bits: int) -> None:
    random = np.random.default_rng(bits)
    values = random.integers(0, 2**63, 60, dtype=np.uint64)
    flips = [values[index] ^ np.uint64(sum(1 << int(bit) for bit in random.choice(64, index % 10, replace=False)))
             for index in range(60)]  # fmt: skip
    values = np.unique(np.concatenate([values, np.array(flips, dtype=np.uint64)]))
    expected = [
        [i, j]
        for i in range(len(values))
        for j in range(i + 1, len(values))
        if int(values[i] ^ values[j]).bit_count() <= bits
    ]
    assert near_hashes(values, bits).tolist() == expected
    assert expected or bits == 0


def test_a_picture_is_like_itself_saved_anew_and_like_no_other() -> None:
    hashes, thumbs = [], []
    for seed in range(40):
        picture = scene(seed)
        small = picture.resize((112, 84))
        stream = io.BytesIO()
        small.save(stream, "JPEG", quality=50)
        for image in (picture, Image.open(stream)):
            value, thumb = fingerprint(image.convert("L"))
            hashes.append(value)
            thumbs.append(thumb)
    pairs = look_alikes(np.array(hashes, dtype=np.uint64), np.array(thumbs))
    assert pairs.tolist() == [[2 * seed, 2 * seed + 1] for seed in range(40)]


def test_blank_pictures_are_not_alike() -> None:
    blank = [fingerprint(Image.new("L", (64, 48), grey)) for grey in (0, 3, 200)]
    pairs = look_alikes(
        np.array([value for value, _ in blank], dtype=np.uint64), np.array([thumb for _, thumb in blank])
    )
    assert len(pairs) == 0
    assert look_alikes(np.empty(0, dtype=np.uint64), np.empty((0, 256), dtype=np.uint8)).shape == (0, 2)


def test_many_copies_of_one_picture_do_not_make_a_square_of_pairs() -> None:
    value, thumb = fingerprint(scene(1).convert("L"))
    pairs = look_alikes(np.full(5000, value, dtype=np.uint64), np.tile(thumb, (5000, 1)))
    assert len(pairs) == 4999
    (group,) = groups_of(pairs, 5000)
    assert group.tolist() == list(range(5000))


def test_groups_hang_together_through_others() -> None:
    groups = groups_of(np.array([[0, 3], [3, 5], [1, 2]]), 7)
    assert [group.tolist() for group in groups] == [[0, 3, 5], [1, 2]]
    assert groups_of(np.empty((0, 2), dtype=np.int64), 3) == []
