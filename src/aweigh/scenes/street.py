"""A drawn street, to try a detector on: of objects that the one in the package knows, each drawn by a few shapes.

Ours, since a photograph would be somebody's. `street.jpg` comes with the package; `python -m aweigh.scenes.street`
draws it anew, and a test compares it. Lengths are pixels of the image; it is drawn twice as large and reduced, so that
edges are smooth. Where things stand and how large they are was chosen, of some hundred ways, by how clearly they are
found: this image is to try the commands on, and says nothing of how good the detector is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from aweigh.scenes import STREET

SIZE_WH = (960, 640)
FOOT = 428  # of the posts, on the pavement
FINE = 2  # how many times as large it is drawn
GRAIN = 4.0  # of 255, standard deviation: as a camera's sensor has it

Colour = tuple[int, int, int]
Point = tuple[float, float]

DARK, GLASS, GLASS_BELOW = (24, 24, 26), (60, 78, 92), (25, 34, 42)
WHITE, CREAM, SHADOW = (246, 246, 242), (245, 235, 215), (62, 63, 66)
HOUSES: tuple[Colour, ...] = ((196, 178, 158), (178, 150, 132), (170, 172, 170))


def draw_street() -> Image.Image:
    """The image, RGB: a bus, a car, a clock, a stop sign and a traffic light in front of houses."""
    pen = Pen(Image.new("RGB", (SIZE_WH[0] * FINE, SIZE_WH[1] * FINE)))
    _background(pen)
    _bus(pen, (39, 274), 424, 161)
    _stop_sign(pen, (529, 248), 53)
    _clock(pen, (710, 176), 63)
    _traffic_light(pen, (880, 131), 112)
    _car(pen, (622, 483), 288)
    pixels = np.asarray(pen.image.resize(SIZE_WH, Image.Resampling.LANCZOS), dtype=np.float64)
    grain = np.random.default_rng(0).normal(0, GRAIN, pixels.shape[:2])
    return Image.fromarray(np.clip(pixels + grain[:, :, None], 0, 255).astype(np.uint8))


class Pen:
    """Draws shapes by their place in the image."""

    def __init__(self, image: Image.Image) -> None:
        self.image, self._draw = image, ImageDraw.Draw(image)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, radius: float = 0) -> None:
        corners = [side * FINE for side in (x0, y0, x1, y1)]
        self._draw.rounded_rectangle(corners, radius * FINE, fill=colour)

    def shaded(
        self, x0: float, y0: float, x1: float, y1: float, above: Colour, below: Colour, radius: float = 0
    ) -> None:
        """A box whose colour changes from above to below."""
        width, height = round((x1 - x0) * FINE), round((y1 - y0) * FINE)
        share = np.linspace(0, 1, height)[:, None, None]
        colours = np.array(above) * (1 - share) + np.array(below) * share
        inside = Image.new("L", (width, height))
        ImageDraw.Draw(inside).rounded_rectangle((0, 0, width - 1, height - 1), radius * FINE, fill=255)
        pixels = np.broadcast_to(colours, (height, width, 3)).astype(np.uint8)
        self.image.paste(Image.fromarray(pixels), (round(x0 * FINE), round(y0 * FINE)), inside)

    def disc(self, centre: Point, radius: float, colour: Colour, height: float | None = None) -> None:
        """height: half of it, the radius when not given."""
        (x, y), up = centre, radius if height is None else height
        self._draw.ellipse([side * FINE for side in (x - radius, y - up, x + radius, y + up)], fill=colour)

    def shape(self, corners: Sequence[Point], colour: Colour) -> None:
        self._draw.polygon([(x * FINE, y * FINE) for x, y in corners], fill=colour)

    def line(self, ends: Sequence[Point], colour: Colour, width: float) -> None:
        self._draw.line([(x * FINE, y * FINE) for x, y in ends], fill=colour, width=round(width * FINE))

    def text(self, centre: Point, words: str, height: float, colour: Colour, bold: float = 0) -> None:
        font = ImageFont.load_default(size=height * FINE)
        x, y = centre
        self._draw.text((x * FINE, y * FINE), words, colour, font, anchor="mm", stroke_width=bold * FINE)


def _around(centre: Point, radius: float, turn: float) -> Point:
    """The point at this share of a turn, clockwise from above."""
    angle = 2 * math.pi * turn
    return centre[0] + radius * math.sin(angle), centre[1] - radius * math.cos(angle)


def _darker(colour: Colour, share: float) -> Colour:
    red, green, blue = colour
    return round(red * share), round(green * share), round(blue * share)


def _background(pen: Pen) -> None:
    """Sky, houses with windows, the pavement, and the road with its lines."""
    width, height = SIZE_WH
    pen.shaded(0, 0, width, 430, (105, 160, 220), (232, 236, 235))
    random = np.random.default_rng(3)
    left = -20
    while left < width:
        wide, high = (int(random.integers(*between)) for between in ((90, 150), (120, 250)))
        colour = HOUSES[int(random.integers(len(HOUSES)))]
        pen.shaded(left, 430 - high, left + wide, 432, colour, _darker(colour, 0.86))
        for top in range(448 - high, 400, 34):
            for side in range(left + 14, left + wide - 16, 28):
                pen.box(side, top, side + 13, top + 19, _darker(colour, 0.62))
        left += wide
    pen.shaded(0, 428, width, height, (120, 121, 123), (82, 83, 86))
    pen.box(0, 420, width, 436, (186, 184, 178))
    pen.box(0, 436, width, 440, (120, 118, 114))
    for start in range(-130, width, 170):
        pen.shape([(start, 560), (start + 90, 560), (start + 82, 570), (start - 12, 570)], (225, 222, 205))


def _bus(pen: Pen, corner: Point, width: float, height: float) -> None:
    """Seen from its right side, its door in front."""
    x, y = corner
    pen.disc((x + width / 2, y + height), width * 0.51, SHADOW, height * 0.07)
    pen.shaded(x, y, x + width, y + height * 0.93, (215, 60, 45), (150, 30, 25), radius=height * 0.08)
    left, wide = x + width * 0.03, width * 0.94
    pen.shaded(left, y + height * 0.14, left + wide, y + height * 0.5, GLASS, GLASS_BELOW, radius=height * 0.03)
    for number in range(1, 6):
        post = left + wide * number / 6
        pen.box(post - 2.4, y + height * 0.14, post + 2.4, y + height * 0.5, (120, 25, 22))
    pen.box(x, y + height * 0.58, x + width, y + height * 0.63, CREAM)
    pen.box(x + width * 0.8, y + height * 0.16, x + width * 0.9, y + height * 0.9, (40, 52, 62))
    pen.box(x + width * 0.845, y + height * 0.16, x + width * 0.855, y + height * 0.9, (200, 60, 50))
    pen.disc((x + width * 0.98, y + height * 0.75), width * 0.015, (255, 245, 200), height * 0.05)
    pen.box(x, y + height * 0.66, x + width * 0.012, y + height * 0.8, (120, 10, 10))
    pen.box(x + width * 0.7, y + height * 0.02, x + width * 0.96, y + height * 0.11, (20, 20, 20))
    pen.text((x + width * 0.83, y + height * 0.065), "12 CENTRE", height * 0.075, (255, 180, 40))
    for along in (0.2, 0.7):
        _wheel(pen, (x + width * along, y + height * 0.92), height * 0.135, (35, 10, 10))


def _car(pen: Pen, corner: Point, width: float) -> None:
    """Seen from its right side."""
    (x, y), height, paint, below = corner, width * 0.36, (60, 110, 190), (25, 55, 110)

    def points(*shares: Point) -> list[Point]:
        return [(x + width * along, y + height * down) for along, down in shares]

    pen.disc((x + width / 2, y + height * 0.97), width * 0.52, SHADOW, height * 0.09)
    pen.shape(points((0.18, 0.42), (0.3, 0.05), (0.4, 0), (0.62, 0), (0.7, 0.05), (0.84, 0.42)), paint)
    pen.shape(points((0.22, 0.41), (0.32, 0.1), (0.48, 0.07), (0.48, 0.41)), (38, 48, 58))
    pen.shape(points((0.5, 0.41), (0.5, 0.07), (0.66, 0.1), (0.78, 0.41)), (38, 48, 58))
    pen.shape(points((0.3, 0.3), (0.36, 0.1), (0.41, 0.1), (0.35, 0.3)), (82, 95, 107))
    pen.shaded(x, y + height * 0.4, x + width, y + height * 0.9, paint, below, radius=height * 0.16)
    pen.line(points((0.03, 0.52), (0.97, 0.52)), (96, 137, 200), height * 0.025)
    pen.line(points((0.49, 0.42), (0.49, 0.85)), (10, 20, 40), height * 0.015)
    for along in (0.4, 0.68):
        pen.box(x + width * along, y + height * 0.55, x + width * (along + 0.06), y + height * 0.58, (15, 25, 45))
    pen.shape(points((0.93, 0.5), (0.99, 0.55), (0.99, 0.64), (0.94, 0.62)), (255, 248, 215))
    pen.box(x, y + height * 0.5, x + width * 0.03, y + height * 0.64, (190, 20, 20), radius=1)
    pen.box(x + width * 0.02, y + height * 0.82, x + width * 0.98, y + height * 0.9, (20, 24, 30))
    for along in (0.2, 0.8):
        _wheel(pen, (x + width * along, y + height * 0.87), height * 0.22, (12, 14, 18))


def _wheel(pen: Pen, centre: Point, radius: float, arch: Colour) -> None:
    pen.disc(centre, radius * 1.25, arch)
    for share, colour in ((1, DARK), (0.62, (150, 152, 156)), (0.5, (105, 107, 110)), (0.15, (200, 200, 205))):
        pen.disc(centre, radius * share, colour)


def _stop_sign(pen: Pen, centre: Point, radius: float) -> None:
    x, y = centre
    pen.box(x - radius * 0.07, y, x + radius * 0.07, FOOT, (130, 132, 135))
    for share, colour in ((1.0, WHITE), (0.93, (186, 22, 32))):
        pen.shape([_around(centre, radius * share, (corner + 0.5) / 8) for corner in range(8)], colour)
    pen.text(centre, "STOP", radius * 0.62, WHITE, bold=radius * 0.03)


def _traffic_light(pen: Pen, top: Point, height: float) -> None:
    """On its post, red."""
    (x, y), half = top, height * 0.21
    pen.box(x - height * 0.05, y + height, x + height * 0.05, FOOT, (70, 72, 75))
    pen.shaded(x - half, y, x + half, y + height, (40, 42, 44), (18, 19, 20), radius=height * 0.063)
    for number, colour in enumerate(((255, 60, 40), (70, 55, 15), (15, 60, 30))):
        centre = (x, y + height * (number + 0.5) / 3)
        pen.disc(centre, height * 0.16, (8, 8, 8))
        pen.disc(centre, height * 0.139, colour)
    pen.disc((x - height * 0.014, y + height * (1 / 6 - 0.028)), height * 0.056, (255, 150, 120))


def _clock(pen: Pen, centre: Point, radius: float) -> None:
    """On its post, at nine minutes past ten."""
    x, y = centre
    pen.box(x - radius * 0.07, y + radius, x + radius * 0.07, FOOT, (52, 48, 44))
    for share, colour in ((1.1, (60, 45, 30)), (1.02, (170, 140, 80)), (0.93, (248, 246, 238))):
        pen.disc(centre, radius * share, colour)
    for minute in range(60):
        long = minute % 5 == 0
        ends = [_around(centre, radius * share, minute / 60) for share in (0.83 if long else 0.86, 0.9)]
        pen.line(ends, DARK, radius * (0.03 if long else 0.015))
    for hour in range(1, 13):
        pen.text(_around(centre, radius * 0.7, hour / 12), str(hour), radius * 0.26, DARK)
    for turn, reach, width in (((10 + 9 / 60) / 12, 0.45, 0.06), (9 / 60, 0.68, 0.045)):
        pen.line([_around(centre, radius * share, turn) for share in (-0.1, reach)], DARK, radius * width)
    pen.disc(centre, radius * 0.05, DARK)


if __name__ == "__main__":
    draw_street().save(STREET, quality=88)
