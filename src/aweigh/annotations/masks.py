"""The outlines of annotations in flat arrays: polygons and COCO's run lengths, made into pixels only when asked.

Pixels follow the rules of COCO's mask code, by hotcoco. A run-length text is COCO's compressed form (column by column,
the lengths of ground and object in turn).
Legend: N annotations, P polygons, V coordinates.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aweigh.annotations.flat import offsets, ranges
from aweigh.errors import DataError, counted
from aweigh.geometry.masks import decode_counts, encode_counts

NONE, POLYGONS, COUNTS, COUNT_LIST = 0, 1, 2, 3  # the last two are the same, written as a text or as a list
SHORT_TEXT = 24  # bytes: a longer text of run lengths tells of pixels
SMALLEST_AREA = 1e-6  # pixels, of polygons: below it is a line or a point
FARTHEST = 1e7  # pixels: a coordinate beyond is no place in any image
MOST_PIXELS = 2**32  # of all masks of one image together: 4 GiB


@dataclass(frozen=True, eq=False)
class Masks:
    """kinds: `[N]` uint8, `NONE`, `POLYGONS`, `COUNTS` or `COUNT_LIST`.

    The polygons of annotation n are rows `first_polygon[n]` to `first_polygon[n + 1]` of `first_value` `[P + 1]`, which
    bounds each in `values` `[V]` float64 (x, y, x, y, ...). Its run lengths are the letters `first_byte[n]` to
    `first_byte[n + 1]` of `texts` uint8.
    """

    kinds: np.ndarray
    first_polygon: np.ndarray
    first_value: np.ndarray
    values: np.ndarray
    first_byte: np.ndarray
    texts: np.ndarray

    @classmethod
    def read(cls, segmentations: Sequence[Any], sizes_hw: np.ndarray) -> tuple[Masks, list[tuple[int, str]]]:
        """Masks as COCO writes them, `None` or `[]` for none; with `(row, why)` for each that cannot be used.

        sizes_hw: `[N, 2]`, the size of the image of each.
        """
        kinds = np.zeros(len(segmentations), dtype=np.uint8)
        values, lengths, counts = array("d"), array("q"), array("q", [0]) * len(segmentations)
        texts = [b""] * len(segmentations)
        found: list[tuple[int, str]] = []
        for row, given in enumerate(segmentations):
            if not given:
                continue
            try:
                if isinstance(given, dict):
                    height, width = sizes_hw[row].tolist()
                    texts[row] = _run_lengths(given, height, width)
                    kinds[row] = COUNTS if isinstance(given["counts"], str | bytes) else COUNT_LIST
                else:
                    parts = [array("d", part) for part in _parts(given)]
                    for part in parts:
                        values.extend(part)
                    lengths.extend(len(part) for part in parts)
                    counts[row] = len(parts)
                    kinds[row] = POLYGONS if parts else NONE
            except (_Unusable, OverflowError) as error:
                found.append((row, str(error)))
        masks = cls(
            kinds=kinds,
            first_polygon=offsets(np.array(counts, dtype=np.int64)),
            first_value=offsets(np.array(lengths, dtype=np.int64)),
            values=np.array(values, dtype=np.float64),
            first_byte=offsets(np.array([len(text) for text in texts], dtype=np.int64)),
            texts=np.frombuffer(b"".join(texts), dtype=np.uint8),
        )
        return masks._without_bad_values(found)

    @classmethod
    def none(cls, count: int) -> Masks:
        """`count` annotations without a mask."""
        zeros = np.zeros(count + 1, dtype=np.int64)
        empty = np.zeros(0)
        kinds = np.zeros(count, dtype=np.uint8)
        return cls(kinds, zeros, np.zeros(1, dtype=np.int64), empty, zeros, empty.astype(np.uint8))

    @classmethod
    def join(cls, parts: Sequence[Masks]) -> Masks:
        """All annotations of several, in order."""
        return cls(
            kinds=np.concatenate([part.kinds for part in parts]),
            first_polygon=offsets(np.concatenate([np.diff(part.first_polygon) for part in parts])),
            first_value=offsets(np.concatenate([np.diff(part.first_value) for part in parts])),
            values=np.concatenate([part.values for part in parts]),
            first_byte=offsets(np.concatenate([np.diff(part.first_byte) for part in parts])),
            texts=np.concatenate([part.texts for part in parts]),
        )

    def with_pixels(self, sizes_hw: np.ndarray) -> tuple[Masks, list[tuple[int, str]]]:
        """The masks that cover something of their images, with `(row, why)` for each that is left out.

        sizes_hw: `[N, 2]`. Left out are run lengths without a pixel, and polygons without an area or outside the image.
        """
        found: dict[int, str] = {}
        lengths = np.diff(self.first_byte)
        coded = (self.kinds == COUNTS) | (self.kinds == COUNT_LIST)
        for row in np.flatnonzero(coded & (lengths <= SHORT_TEXT)).tolist():
            if not decode_counts(self._text(row))[1::2].any():
                found[row] = "it has no pixel"
        rows, areas, corners = self.extents()
        outside = ((corners[:, 2:] <= 0) | (corners[:, :2] >= sizes_hw[rows, ::-1])).any(axis=1)
        found |= dict.fromkeys(rows[outside].tolist(), "it lies outside the image")
        found |= dict.fromkeys(rows[areas < SMALLEST_AREA].tolist(), "its polygons have no area")
        return (self._without(list(found)) if found else self), sorted(found.items())

    def extents(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The rows that have polygons `[K]`, the area of these `[K]`, and the corners round them `[K, 4]`."""
        rows = np.flatnonzero(self.kinds == POLYGONS)
        if len(rows) == 0:
            return rows, np.zeros(0), np.zeros((0, 4))
        points = self.values.reshape(-1, 2)
        first, last = self.first_value[:-1] // 2, self.first_value[1:] // 2 - 1  # of each polygon
        follows = np.arange(1, len(points) + 1)
        follows[last] = first
        twice = points[:, 0] * points[follows, 1] - points[follows, 0] * points[:, 1]
        areas = np.add.reduceat(np.abs(np.add.reduceat(twice, first)) / 2, self.first_polygon[rows])
        start = first[self.first_polygon[rows]]
        corners = [np.minimum.reduceat(points, start), np.maximum.reduceat(points, start)]
        return rows, areas, np.concatenate(corners, axis=1)

    def __len__(self) -> int:
        return len(self.kinds)

    def take(self, rows: np.ndarray) -> Masks:
        """The masks of these annotations, in this order."""
        polygons = np.diff(self.first_polygon)[rows]
        kept = ranges(self.first_polygon[rows], polygons)
        lengths = np.diff(self.first_value)[kept]
        sizes = np.diff(self.first_byte)[rows]
        return Masks(
            kinds=self.kinds[rows],
            first_polygon=offsets(polygons),
            first_value=offsets(lengths),
            values=self.values[ranges(self.first_value[kept], lengths)],
            first_byte=offsets(sizes),
            texts=self.texts[ranges(self.first_byte[rows], sizes)],
        )

    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.kinds, self.first_polygon, self.first_value, self.values, self.first_byte, self.texts

    def polygons(self, row: int) -> list[np.ndarray]:
        """The polygons of one annotation, each `[K, 2]` float64 (x, y) in pixels."""
        numbers = range(int(self.first_polygon[row]), int(self.first_polygon[row + 1]))
        return [self.values[self.first_value[n] : self.first_value[n + 1]].reshape(-1, 2) for n in numbers]

    def segmentation(self, row: int, size_hw: tuple[int, int]) -> list[list[float]] | dict[str, Any] | None:
        """The mask as a COCO file writes it; None where there is none."""
        kind = int(self.kinds[row])
        if kind == POLYGONS:
            return [polygon.reshape(-1).tolist() for polygon in self.polygons(row)]
        if kind == NONE:
            return None
        text = self._text(row)
        counts = text.decode("ascii") if kind == COUNTS else decode_counts(text).tolist()
        return {"size": list(size_hw), "counts": counts}

    def pixels(
        self,
        rows: range,
        size_hw: tuple[int, int],
        *,
        out_hw: tuple[int, int] | None = None,
        step_yx: tuple[float, float] = (1.0, 1.0),
    ) -> np.ndarray:
        """`[R, H, W]` bool. An annotation without a mask has no pixel in it.

        size_hw: of the image that was annotated. out_hw, step_yx: a smaller image of it, whose pixels are so many
        of its pixels apart; of each the one in its middle is taken, none beyond the edge. Only one mask at a time is
        ever there in full size, so that hundreds of objects in a large photograph need no more than is handed out.
        """
        height, width = out_hw or size_hw
        if len(rows) * height * width > MOST_PIXELS:
            raise DataError(f"Memory cannot hold {counted(len(rows), 'mask')} of {width} x {height} pixels.")
        out = np.zeros((len(rows), height, width), dtype=bool)
        if out_hw is None or (out_hw == size_hw and step_yx == (1.0, 1.0)):
            for number, row in enumerate(rows):
                if self.kinds[row] != NONE:
                    out[number] = self._decoded(row, size_hw)
            return out
        ys, xs = (((np.arange(count) + 0.5) * step).astype(np.int64) for count, step in zip((height, width), step_yx))
        ys, xs = ys[ys < size_hw[0]], xs[xs < size_hw[1]]
        for number, row in enumerate(rows):
            if self.kinds[row] != NONE:
                out[number, : len(ys), : len(xs)] = self._decoded(row, size_hw)[ys[:, None], xs]
        return out

    def in_window(
        self, rows: Sequence[int] | np.ndarray, size_hw: tuple[int, int], window: tuple[int, int, int, int]
    ) -> np.ndarray:
        """`[R, h, w]` bool: of the masks of an image of `size_hw` the pixels in a part `(x0, y0, x1, y1)` of it."""
        x0, y0, x1, y1 = window
        out = np.zeros((len(rows), y1 - y0, x1 - x0), dtype=bool)
        for number, row in enumerate(rows):
            if self.kinds[row] != NONE:
                out[number] = self._decoded(int(row), size_hw)[y0:y1, x0:x1]
        return out

    def _decoded(self, row: int, size_hw: tuple[int, int]) -> np.ndarray:
        """`[H, W]` uint8."""
        from hotcoco import mask

        height, width = size_hw
        if self.kinds[row] == POLYGONS:
            shapes = [polygon.reshape(-1).tolist() for polygon in self.polygons(row)]
            return mask.decode(mask.merge(mask.frPyObjects(shapes, height, width)))
        return mask.decode({"size": [height, width], "counts": self._text(row)})

    def _text(self, row: int) -> bytes:
        return self.texts[self.first_byte[row] : self.first_byte[row + 1]].tobytes()

    def _without_bad_values(self, found: list[tuple[int, str]]) -> tuple[Masks, list[tuple[int, str]]]:
        """Masks with coordinates that are no places are taken out, and added to what was found."""
        bad = np.flatnonzero(~(np.abs(self.values) <= FARTHEST))
        if len(bad) == 0:
            return self, found
        polygons = np.searchsorted(self.first_value, bad, side="right") - 1
        rows = np.searchsorted(self.first_polygon, polygons, side="right") - 1
        why = {int(row): f"a coordinate is {self.values[place]:g}" for row, place in zip(rows[::-1], bad[::-1])}
        return self._without(list(why)), sorted([*found, *why.items()])

    def _without(self, rows: Sequence[int]) -> Masks:
        """The same annotations, these without a mask."""
        order = np.arange(len(self))
        order[list(rows)] = len(self)  # the one that has none
        return Masks.join([self, Masks.none(1)]).take(order)


class _Unusable(Exception):
    pass


def _parts(given: Any) -> list[list[float]]:
    """The polygons of a COCO annotation, empty ones left out; one that is not in a list of its own is taken too."""
    if not isinstance(given, list | tuple):
        raise _Unusable(f"expected polygons or run lengths, got {str(given)[:40]!r}")
    parts = [given] if isinstance(given[0], int | float) else list(given)
    for part in parts:
        if not isinstance(part, list | tuple):
            raise _Unusable(f"expected a list of x, y, x, y, ..., got {str(part)[:40]!r}")
        if part and (len(part) < 6 or len(part) % 2):
            raise _Unusable(
                f"a polygon of {counted(len(part), 'number')}; three points or more are needed, two numbers each"
            )
        if not set(map(type, part)) <= {int, float}:
            raise _Unusable(f"a polygon holds something that is no number: {str(part)[:40]}")
    return [list(part) for part in parts if part]


def _run_lengths(given: dict[str, Any], height: int, width: int) -> bytes:
    size, counts = given.get("size"), given.get("counts")
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        raise _Unusable(f"run lengths for the size {str(size)[:40]} (height, width) in an image of {width} x {height}")
    if isinstance(counts, list | tuple):
        if not set(map(type, counts)) <= {int} or min(counts, default=0) < 0 or sum(counts) != height * width:
            raise _Unusable(f"run lengths must be whole numbers that add up to the {counted(height * width, 'pixel')}")
        return encode_counts(np.array(counts, dtype=np.int64))
    text = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    if not isinstance(text, bytes):
        raise _Unusable(f"run lengths must be a list or a text, got {type(counts).__name__}")
    values = decode_counts(text)
    if (values < 0).any() or values.sum() != height * width:
        raise _Unusable(f"the run lengths {text[:20]!r}... do not add up to the {counted(height * width, 'pixel')}")
    return text
