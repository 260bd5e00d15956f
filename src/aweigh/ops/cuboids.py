"""Objects in space: as one camera sees them, where they stand, and how much two of them share.

Two forms of the same thing:

- `cuboids` `[..., 7]`, as the camera sees them: (u, v, depth, height, width, length, alpha). u, v: where the middle of
  the object lies in the picture, pixels. depth: that of its middle along the optical axis, metres. Sides in metres.
  alpha: the observation angle, radians in `[-pi, pi)`, which is how an object looks, whatever the camera.
- `solids` `[..., 7]`, in space: (x, y, z, height, width, length, rotation), as KITTI's labels have them. x to the
  right, y down, z ahead, metres; (x, y, z) is the middle of the lower face. rotation: about the y axis, radians; at 0
  the length lies along x.

A camera is the matrix `[..., 3, 4]` that takes points in space to pixels times depth (KITTI's P2). Between the two
forms a camera is all that is needed. Both may hold NaN for what is not known.
"""

import math

import torch
from torch import Tensor

# The corners of a cuboid as shares of (length, height, width) from the middle of the lower face: the four of that face,
# the first two in front, then the four above them.
CORNERS = ((0.5, 0, 0.5), (0.5, 0, -0.5), (-0.5, 0, -0.5), (-0.5, 0, 0.5))
EDGES = (
    (0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7),
)  # fmt: skip


def wrapped(angles: Tensor) -> Tensor:
    """The same angles in `[-pi, pi)`."""
    return torch.remainder(angles + math.pi, 2 * math.pi) - math.pi


def project(points: Tensor, camera: Tensor) -> tuple[Tensor, Tensor]:
    """Points `[..., 3]` in space to pixels `[..., 2]` (u, v) and depth `[...]`. camera: `[..., 3, 4]`.

    Behind the camera the depth is negative and pixels mean nothing; at depth 0 they are not finite.
    """
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    u, v, depth = (camera @ homogeneous[..., None]).squeeze(-1).unbind(-1)
    return torch.stack([u / depth, v / depth], dim=-1), depth


def unproject(pixels: Tensor, depth: Tensor, camera: Tensor) -> Tensor:
    """The points `[..., 3]` that `project` takes to these pixels `[..., 2]` and this depth `[...]`."""
    seen = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1) * depth[..., None]
    points: Tensor = torch.linalg.solve(camera[..., :3], (seen - camera[..., 3])[..., None])
    return points.squeeze(-1)


def solids_from_cuboids(cuboids: Tensor, camera: Tensor) -> Tensor:
    """Where objects `[..., 7]` stand that a camera `[..., 3, 4]` sees so: float64 `[..., 7]`."""
    u, v, depth, height, width, length, alpha = cuboids.double().unbind(-1)
    x, y, z = unproject(torch.stack([u, v], dim=-1), depth, camera.double()).unbind(-1)
    rotation = wrapped(alpha + torch.atan2(x, z))
    return torch.stack([x, y + height / 2, z, height, width, length, rotation], dim=-1)


def cuboids_from_solids(solids: Tensor, camera: Tensor) -> Tensor:
    """How a camera `[..., 3, 4]` sees objects `[..., 7]`: float64 `[..., 7]`."""
    x, y, z, height, width, length, rotation = solids.double().unbind(-1)
    pixels, depth = project(torch.stack([x, y - height / 2, z], dim=-1), camera.double())
    alpha = wrapped(rotation - torch.atan2(x, z))
    return torch.cat([pixels, torch.stack([depth, height, width, length, alpha], dim=-1)], dim=-1)


def corners(solids: Tensor) -> Tensor:
    """The eight corners `[..., 8, 3]` of solids `[..., 7]`: the lower face, its front first, then the upper one."""
    x, y, z, height, width, length, rotation = solids[..., None].unbind(-2)
    along, up, across = solids.new_tensor([*CORNERS, *((a, -1, c) for a, _, c in CORNERS)]).unbind(-1)  # [8] each
    along, up, across = along * length, up * height, across * width
    cosine, sine = rotation.cos(), rotation.sin()
    return torch.stack([x + cosine * along + sine * across, y + up, z - sine * along + cosine * across], dim=-1)


def birds_eye_iou(solids: Tensor, others: Tensor) -> Tensor:
    """Intersection over union seen from above, of each of `[N, 7]` with each of `[M, 7]`: `[N, M]` float64."""
    shared = shared_ground(solids, others)
    area, other_area = (each.double()[:, 4] * each.double()[:, 5] for each in (solids, others))
    return _over_union(shared, area[:, None], other_area[None])


def solid_iou(solids: Tensor, others: Tensor) -> Tensor:
    """Intersection over union in space, of each of `[N, 7]` with each of `[M, 7]`: `[N, M]` float64."""
    first, second = solids.double()[:, None], others.double()[None]
    lower = torch.minimum(first[..., 1], second[..., 1])  # y points down
    upper = torch.maximum(first[..., 1] - first[..., 3], second[..., 1] - second[..., 3])
    shared = shared_ground(solids, others) * (lower - upper).clamp(min=0)
    return _over_union(shared, first[..., 3:6].prod(dim=-1), second[..., 3:6].prod(dim=-1))


def shared_ground(solids: Tensor, others: Tensor) -> Tensor:
    """The ground that each of `[N, 7]` shares with each of `[M, 7]`, square metres: `[N, M]` float64.

    By Green's theorem: the boundary of what two rectangles share is what of the sides of each lies in the other, and
    half the sum of its cross products is the area.
    """
    first, second = (each.double()[:, [0, 2, 5, 4, 6]] for each in (solids, others))  # x, z, length, width, rotation
    # Drawn in by next to nothing, so that no side of one lies on a side of the other and would count twice.
    second = second * second.new_tensor([1, 1, 1 - 1e-9, 1 - 1e-9, 1])
    first = first[:, None].expand(-1, len(others), -1)  # [N, M, 5]
    second = second[None].expand(len(solids), -1, -1)
    return _inside(first, second, first[..., :2]) + _inside(second, first, first[..., :2])


def _inside(rectangles: Tensor, others: Tensor, origin: Tensor) -> Tensor:
    """Half the sum of cross products of what of the sides of `rectangles` `[..., 5]` lies inside `others`."""
    ends = _ground_corners(rectangles) - origin[..., None, :]  # [..., 4, 2]
    starts, sides = ends, ends.roll(-1, dims=-2) - ends
    center = (others[..., :2] - origin)[..., None, :]
    cosine, sine = others[..., 4].cos(), others[..., 4].sin()
    axes = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -1)  # [..., 2, 2]
    position, direction = (starts - center) @ axes, sides @ axes  # along and across the other rectangle
    half = others[..., None, 2:4] / 2
    moves = direction != 0
    step = torch.where(moves, direction, 1)
    enter = torch.where(moves, torch.minimum((-half - position) / step, (half - position) / step), -torch.inf)
    leave = torch.where(moves, torch.maximum((-half - position) / step, (half - position) / step), torch.inf)
    beside = (~moves & (position.abs() > half)).any(dim=-1)
    begin, end = enter.amax(dim=-1).clamp(min=0), leave.amin(dim=-1).clamp(max=1)  # [..., 4], as shares of a side
    end = torch.where(beside, begin, torch.maximum(begin, end))
    a, b = starts + begin[..., None] * sides, starts + end[..., None] * sides
    return (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]).sum(dim=-1) / 2


def _ground_corners(rectangles: Tensor) -> Tensor:
    """`[..., 5]` (x, z, length, width, rotation) to their corners `[..., 4, 2]` (x, z), counter-clockwise."""
    x, z, length, width, rotation = rectangles[..., None].unbind(-2)
    along, across = rectangles.new_tensor([(0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5)]).unbind(-1)
    along, across = along * length, across * width
    cosine, sine = rotation.cos(), rotation.sin()
    return torch.stack([x + cosine * along + sine * across, z - sine * along + cosine * across], dim=-1)


def _over_union(shared: Tensor, first: Tensor, second: Tensor) -> Tensor:
    union = first + second - shared
    return torch.where(union > 0, shared / union, 0)
