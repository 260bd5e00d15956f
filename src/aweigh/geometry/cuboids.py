"""Objects in space, as arrays: as one camera sees them, where they stand, and how much two of them share.

Two forms of the same thing:

- `cuboids` `[..., 7]`, as the camera sees them: (u, v, depth, height, width, length, alpha). u, v: where the middle of
  the object lies in the image, pixels. depth: that of its middle along the optical axis, metres. Sides in metres.
  alpha: the observation angle, radians in `[-pi, pi)`, which is how an object looks, whatever the camera.
- `solids` `[..., 7]`, in space: (x, y, z, height, width, length, rotation), as KITTI's labels have them. x to the
  right, y down, z ahead, metres; (x, y, z) is the middle of the lower face. rotation: about the y axis, radians; at 0
  the length lies along x.

A camera is the matrix `[..., 3, 4]` that takes points in space to pixels times depth (KITTI's P2). Between the two
forms a camera is all that is needed. Both may hold NaN for what is not known.
"""

import math

import numpy as np

# The corners of a cuboid as shares of (length, height, width) from the middle of the lower face: the four of that face,
# the first two in front, then the four above them.
CORNERS = ((0.5, 0, 0.5), (0.5, 0, -0.5), (-0.5, 0, -0.5), (-0.5, 0, 0.5))
EDGES = (
    (0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7),
)  # fmt: skip


def wrapped(angles: np.ndarray) -> np.ndarray:
    """The same angles in `[-pi, pi)`."""
    turned: np.ndarray = np.remainder(angles + math.pi, 2 * math.pi) - math.pi
    return turned


def project(points: np.ndarray, camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points `[..., 3]` in space to pixels `[..., 2]` (u, v) and depth `[...]`. camera: `[..., 3, 4]`.

    Behind the camera the depth is negative and pixels mean nothing; at depth 0 they are not finite.
    """
    homogeneous = np.concatenate([points, np.ones_like(points[..., :1])], axis=-1)
    u, v, depth = np.moveaxis((camera @ homogeneous[..., None])[..., 0], -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([u / depth, v / depth], axis=-1), depth


def unproject(pixels: np.ndarray, depth: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """The points `[..., 3]` that `project` takes to these pixels `[..., 2]` and this depth `[...]`."""
    seen = np.concatenate([pixels, np.ones_like(pixels[..., :1])], axis=-1) * depth[..., None]
    points: np.ndarray = np.linalg.solve(camera[..., :3], (seen - camera[..., 3])[..., None])
    return points[..., 0]


def solids_from_cuboids(cuboids: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Where objects `[..., 7]` stand that a camera `[..., 3, 4]` sees so: float64 `[..., 7]`."""
    u, v, depth, height, width, length, alpha = np.moveaxis(cuboids.astype(np.float64), -1, 0)
    x, y, z = np.moveaxis(unproject(np.stack([u, v], axis=-1), depth, camera.astype(np.float64)), -1, 0)
    rotation = wrapped(alpha + np.arctan2(x, z))
    return np.stack([x, y + height / 2, z, height, width, length, rotation], axis=-1)


def cuboids_from_solids(solids: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """How a camera `[..., 3, 4]` sees objects `[..., 7]`: float64 `[..., 7]`."""
    x, y, z, height, width, length, rotation = np.moveaxis(solids.astype(np.float64), -1, 0)
    pixels, depth = project(np.stack([x, y - height / 2, z], axis=-1), camera.astype(np.float64))
    alpha = wrapped(rotation - np.arctan2(x, z))
    return np.concatenate([pixels, np.stack([depth, height, width, length, alpha], axis=-1)], axis=-1)


def corners(solids: np.ndarray) -> np.ndarray:
    """The eight corners `[..., 8, 3]` of solids `[..., 7]`: the lower face, its front first, then the upper one."""
    x, y, z, height, width, length, rotation = np.moveaxis(solids[..., None], -2, 0)
    along, up, across = np.array([*CORNERS, *((a, -1, c) for a, _, c in CORNERS)], solids.dtype).T  # [8] each
    along, up, across = along * length, up * height, across * width
    cosine, sine = np.cos(rotation), np.sin(rotation)
    return np.stack([x + cosine * along + sine * across, y + up, z - sine * along + cosine * across], axis=-1)


def birds_eye_iou(solids: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union seen from above, of each of `[N, 7]` with each of `[M, 7]`: `[N, M]` float64."""
    shared = shared_ground(solids, others)
    area, other_area = (each[:, 4].astype(np.float64) * each[:, 5] for each in (solids, others))
    return _over_union(shared, area[:, None], other_area[None])


def solid_iou(solids: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union in space, of each of `[N, 7]` with each of `[M, 7]`: `[N, M]` float64."""
    first, second = solids[:, None].astype(np.float64), others[None].astype(np.float64)
    lower = np.minimum(first[..., 1], second[..., 1])  # y points down
    upper = np.maximum(first[..., 1] - first[..., 3], second[..., 1] - second[..., 3])
    shared = shared_ground(solids, others) * (lower - upper).clip(min=0)
    return _over_union(shared, first[..., 3:6].prod(axis=-1), second[..., 3:6].prod(axis=-1))


def shared_ground(solids: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The ground that each of `[N, 7]` shares with each of `[M, 7]`, square metres: `[N, M]` float64.

    By Green's theorem: the boundary of what two rectangles share is what of the sides of each lies in the other, and
    half the sum of its cross products is the area.
    """
    first, second = (
        each[:, [0, 2, 5, 4, 6]].astype(np.float64) for each in (solids, others)
    )  # x, z, length, width, rotation
    # Drawn in by next to nothing, so that no side of one lies on a side of the other and would count twice.
    second = second * [1, 1, 1 - 1e-9, 1 - 1e-9, 1]
    first = np.broadcast_to(first[:, None], (len(solids), len(others), 5))
    second = np.broadcast_to(second[None], first.shape)
    return _inside(first, second, first[..., :2]) + _inside(second, first, first[..., :2])


def _inside(rectangles: np.ndarray, others: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Half the sum of cross products of what of the sides of `rectangles` `[..., 5]` lies inside `others`."""
    ends = _ground_corners(rectangles) - origin[..., None, :]  # [..., 4, 2]
    starts, sides = ends, np.roll(ends, -1, axis=-2) - ends
    center = (others[..., :2] - origin)[..., None, :]
    cosine, sine = np.cos(others[..., 4]), np.sin(others[..., 4])
    axes = np.stack([np.stack([cosine, -sine], -1), np.stack([sine, cosine], -1)], -1)  # [..., 2, 2]
    position, direction = (starts - center) @ axes, sides @ axes  # along and across the other rectangle
    half = others[..., None, 2:4] / 2
    moves = direction != 0
    step = np.where(moves, direction, 1)
    enter = np.where(moves, np.minimum((-half - position) / step, (half - position) / step), -np.inf)
    leave = np.where(moves, np.maximum((-half - position) / step, (half - position) / step), np.inf)
    beside = (~moves & (np.abs(position) > half)).any(axis=-1)
    begin, end = enter.max(axis=-1).clip(min=0), leave.min(axis=-1).clip(max=1)  # [..., 4], as shares of a side
    end = np.where(beside, begin, np.maximum(begin, end))
    a, b = starts + begin[..., None] * sides, starts + end[..., None] * sides
    return (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]).sum(axis=-1) / 2


def _ground_corners(rectangles: np.ndarray) -> np.ndarray:
    """`[..., 5]` (x, z, length, width, rotation) to their corners `[..., 4, 2]` (x, z), counter-clockwise."""
    x, z, length, width, rotation = np.moveaxis(rectangles[..., None], -2, 0)
    along, across = np.array([(0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5)]).T
    along, across = along * length, across * width
    cosine, sine = np.cos(rotation), np.sin(rotation)
    return np.stack([x + cosine * along + sine * across, z - sine * along + cosine * across], axis=-1)


def _over_union(shared: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    union = first + second - shared
    return np.divide(shared, union, out=np.zeros_like(union), where=union > 0)
