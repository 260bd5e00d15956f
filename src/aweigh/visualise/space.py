"""Objects in space: their cuboids on the image, their front crossed out, and where they stand, seen from above."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from aweigh.detections import Detections
from aweigh.geometry.cuboids import EDGES, corners, project
from aweigh.visualise.colours import INK, PALETTE, PAPER, Colour
from aweigh.visualise.pictures import Drawable, as_picture

NEAREST = 0.1  # metres: what is nearer to the camera is cut off
FRONT = ((0, 5), (1, 4))  # the diagonals of the face that an object looks to
GROUND, LINES = (247, 247, 248), (214, 216, 220)
REACH = 60.0  # metres ahead that are shown from above, at most
RING = 10.0  # metres between two lines


def draw_in_space(image: Drawable, detections: Detections, *, min_score: float = 0.0) -> Image.Image:
    """The image with the cuboid of every detection of at least `min_score`, and beside it the view from above.

    image: as for `draw_detections`. detections: in its pixels, with its camera
    (`UsageError` without). The nearest is on top.
    """
    picture = as_picture(image)
    kept = detections[detections.scores >= min_score]
    solids = kept.solids()
    colours = [PALETTE[label % len(PALETTE)] for label in kept.labels.tolist()]
    assert kept.camera is not None
    width = max(1, round(min(picture.size) / 200))
    draw = ImageDraw.Draw(picture, "RGBA")
    for index in np.argsort(-solids[:, 2], kind="stable").tolist():
        _wire(draw, corners(solids[index]), kept.camera, colours[index], width)
    above = birds_eye(solids, colours, height=picture.height, camera=kept.camera)
    sheet = Image.new("RGB", (picture.width + above.width, picture.height), PAPER)
    sheet.paste(picture, (0, 0))
    sheet.paste(above, (picture.width, 0))
    return sheet


def birds_eye(
    solids: np.ndarray, colours: Sequence[Colour], *, height: int, camera: np.ndarray | None = None, scale: int = 3
) -> Image.Image:
    """Solids `[N, 7]` from above, the camera below in the middle, lines every ten metres: an image of this height.

    It shows what is up to 60 metres ahead, or as far as the farthest stands. camera: `[3, 4]`, whose field of view is
    drawn. scale: how much larger it is drawn before it is shrunk, so that slanted lines are smooth.
    """
    farthest = float(solids[:, 2].max()) + 5 if len(solids) else REACH
    reach = RING * math.ceil(min(max(farthest, 2 * RING), REACH) / RING)
    size = round(0.75 * height) * scale, height * scale
    sheet = Image.new("RGB", size, GROUND)
    draw = ImageDraw.Draw(sheet)
    metre = 0.96 * size[1] / reach
    origin = size[0] / 2, size[1] - 0.02 * size[1]

    def place(point: Sequence[float]) -> tuple[float, float]:
        return origin[0] + point[0] * metre, origin[1] - point[1] * metre

    for ring in range(1, round(reach / RING) + 1):
        away = ring * RING
        box = (*place((-away, away)), *place((away, -away)))
        draw.arc(box, 180, 360, fill=LINES, width=scale)
    if camera is not None:
        side = camera[0, 2] / camera[0, 0]  # of an image whose middle is the principal point
        for sign in (-1, 1):
            draw.line((*place((0, 0)), *place((sign * float(side) * reach, reach))), fill=LINES, width=scale)
    for index in range(len(solids)):
        ring_of = corners(solids[index])[:4][:, [0, 2]].tolist()
        outline = [place(point) for point in ring_of]
        draw.polygon(outline, fill=(*(round(0.55 * c + 0.45 * 255) for c in colours[index]),), outline=INK, width=scale)
        draw.line((*outline[0], *outline[1]), fill=INK, width=3 * scale)  # the front
    draw.polygon([place(point) for point in ((-0.8, 0), (0, 1.6), (0.8, 0))], fill=INK)
    return sheet.resize((size[0] // scale, size[1] // scale), Image.Resampling.LANCZOS)


def _wire(draw: ImageDraw.ImageDraw, points: np.ndarray, camera: np.ndarray, colour: Colour, width: int) -> None:
    """The edges of a cuboid by its corners `[8, 3]`, as far as they are before the camera."""
    for first, second in (*EDGES, *FRONT):
        ends = _in_front(points[first], points[second])
        if ends is not None:
            line = [tuple(pixel) for pixel in project(ends, camera)[0].clip(-1e5, 1e5).tolist()]
            draw.line([*line[0], *line[1]], fill=(*INK, 120), width=width + 2)
            draw.line([*line[0], *line[1]], fill=colour, width=width)


def _in_front(first: np.ndarray, second: np.ndarray) -> np.ndarray | None:
    """The part `[2, 3]` of a line between two points that is before the camera."""
    near, far = sorted((first, second), key=lambda point: float(point[2]))
    if far[2] <= NEAREST:
        return None
    if near[2] < NEAREST:
        near = near + (NEAREST - near[2]) / (far[2] - near[2]) * (far - near)
    return np.stack([near, far])
