"""Images that are the same: files with the same bytes, and images that look alike.

Looking alike is decided in two steps. A difference hash of 64 bits (is a cell of a 9 x 8 grey image darker than its
right neighbour?) finds candidates: scaling, compression and a change of brightness turn only a few of its bits. A
thumbnail of 16 x 16 grey cells then confirms them. Images with hardly any contrast have no hash worth the name, and
are compared by their bytes alone.

Legend: P images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

HASH_WH, THUMB_WH = (9, 8), (16, 16)
MAX_BITS = 7  # of 64 that may differ; ours: of 800 photographs scaled to 70 % and compressed anew, none differs by more
MAX_DIFFERENCE = 4.0  # grey levels, mean over the cells of the thumbnail, once its mean brightness is taken off
LEAST_CONTRAST = 4.0  # grey levels, standard deviation over the thumbnail: below it the hash is noise
_PAIRS_AT_ONCE = 1 << 22  # bounds the memory of the search: 32 MiB of differences


def file_hash(path: Path) -> bytes:
    """128 bits of BLAKE2 over the bytes of a file, which is read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).digest()


def fingerprint(grey: Image.Image) -> tuple[int, np.ndarray]:
    """The difference hash of an image of mode "L", and its thumbnail `[256]` uint8."""
    small = np.asarray(grey.resize(HASH_WH, Image.Resampling.BILINEAR), dtype=np.int16)  # [8, 9]
    bits = (small[:, 1:] > small[:, :-1]).reshape(-1)  # [64]
    thumb = np.asarray(grey.resize(THUMB_WH, Image.Resampling.BILINEAR), dtype=np.uint8).reshape(-1)  # [256]
    return int.from_bytes(np.packbits(bits).tobytes(), "big"), thumb


def same_bytes(hashes: Sequence[bytes | None]) -> list[list[int]]:
    """Groups of two or more indices whose hashes are equal, in order; None stands for a file that was not read."""
    groups: dict[bytes, list[int]] = {}
    for index, value in enumerate(hashes):
        if value is not None:
            groups.setdefault(value, []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def look_alikes(
    hashes: np.ndarray, thumbs: np.ndarray, *, max_bits: int = MAX_BITS, max_difference: float = MAX_DIFFERENCE
) -> np.ndarray:
    """Pairs of images that look alike, `[K, 2]` int64, the smaller index first.

    hashes: `[P]` uint64. thumbs: `[P, 256]` uint8. Of several images with one hash, each is compared with the first
    alone, and the first ones with one another: enough to find every group, without a square of pairs.
    """
    usable = np.flatnonzero(thumbs.std(axis=1) >= LEAST_CONTRAST) if len(thumbs) else np.empty(0, dtype=np.int64)
    values, first, group = np.unique(hashes[usable], return_index=True, return_inverse=True)
    heads = usable[first]  # the first image of each hash
    to_head = np.column_stack([heads[group], usable])
    to_head = to_head[to_head[:, 0] != to_head[:, 1]]
    pairs = np.sort(np.concatenate([to_head, heads[near_hashes(values, max_bits)]]), axis=1)
    kept = [part[_difference(thumbs, part) <= max_difference] for part in _portions(pairs, 1 << 16)]
    alike = np.concatenate([np.empty((0, 2), dtype=np.int64), *kept])
    return alike[np.lexsort((alike[:, 1], alike[:, 0]))]


def near_hashes(values: np.ndarray, max_bits: int = MAX_BITS) -> np.ndarray:
    """All pairs of distinct hashes `[P]` uint64 that differ in at most `max_bits` bits: indices `[K, 2]`, exactly.

    The 64 bits are cut into one band more than may differ, so that a near pair agrees wholly in one band at least;
    only hashes that share a band are compared.
    """
    ends = np.linspace(0, 64, max_bits + 2).round().astype(int)
    found = []
    for low, high in pairwise(ends.tolist()):
        band = (values >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order], prepend=np.iinfo(np.uint64).max))
        for members in np.split(order, starts[1:]):
            found.extend(_near_within(values, members, max_bits))
    if not found:
        return np.empty((0, 2), dtype=np.int64)
    return np.unique(np.concatenate(found), axis=0)  # a pair that shares several bands is found several times


def groups_of(pairs: np.ndarray, count: int) -> list[np.ndarray]:
    """The images that hang together through pairs `[K, 2]`, as arrays of two or more indices below `count`."""
    parent = np.arange(count)

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = int(parent[index])
        return index

    for one, other in pairs.tolist():
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    touched = np.unique(pairs)
    roots = np.array([root(int(index)) for index in touched], dtype=np.int64)
    return [touched[roots == value] for value in np.unique(roots)] if len(touched) else []


def _near_within(values: np.ndarray, members: np.ndarray, max_bits: int) -> list[np.ndarray]:
    """Near pairs among the hashes of these members, a portion of rows at a time."""
    if len(members) < 2:
        return []
    rows = max(1, _PAIRS_AT_ONCE // len(members))
    own = values[members]
    found = []
    for start in range(0, len(members), rows):
        bits = np.bitwise_count(own[start : start + rows, None] ^ own[None, start:])  # [rows, M - start]
        one, other = np.nonzero(bits <= max_bits)
        later = other > one
        found.append(np.sort(np.column_stack([members[start + one[later]], members[start + other[later]]]), axis=1))
    return found


def _difference(thumbs: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Mean absolute difference of the thumbnails of each pair `[K]`, whatever their brightness."""
    one, other = (thumbs[pairs[:, side]].astype(np.float32) for side in (0, 1))  # [K, 256]
    apart = (one - one.mean(axis=1, keepdims=True)) - (other - other.mean(axis=1, keepdims=True))
    return np.asarray(np.abs(apart).mean(axis=1))


def _portions(pairs: np.ndarray, size: int) -> list[np.ndarray]:
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]
