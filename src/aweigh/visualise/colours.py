"""The colours of classes, of what is ignored, of letters and outlines."""

Colour = tuple[int, int, int]

# 24 colours far apart from one another, the most distinct first (ours); class k has PALETTE[k % 24].
PALETTE: tuple[Colour, ...] = tuple(
    (int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16))
    for code in (
        "ff5a3c", "1f8bff", "3ddc5b", "ffc233", "a35cff", "22d3ee", "ff5fb4", "0fa888",
        "ff8f1f", "5b6bff", "b5e021", "b5763a", "e23bf0", "ffa58c", "8ab4ff", "a5a02a",
        "a75a9a", "86e0b3", "f02d6e", "19a04a", "c9a2ff", "4f8fb8", "e3c98a", "c24d33",
    )
)  # fmt: skip
IGNORED: Colour = (200, 200, 205)
INK: Colour = (10, 11, 14)  # outlines and dark letters
PAPER: Colour = (255, 255, 255)


def luminance(colour: Colour) -> float:
    """Relative luminance in `[0, 1]` (WCAG 2.1)."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
