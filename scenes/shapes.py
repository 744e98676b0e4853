"""Convex shapes that rays can hit: quads, boxes, rounded boxes and spheres.

Vocabulary of this package
    rays        `origins` [3, 1] or [3, N] and `directions` [3, N], one contiguous row per axis: on a CPU
                reductions over a short last axis are slow, over a short first axis they are not.
    t           ray parameter: a point is origin + t * direction. Camera rays have z_cam = 1, so t is z-depth.
    part        integer per hit that names the face or segment of the shape that was hit.
    local       the frame of one shape, a rigid motion away from the world, so t is the same in both.
    uv          surface coordinates in scene units, u to the right and v down as seen from outside.

A hit is the nearest crossing of the surface in front of the origin, from outside or from inside (a box around
the camera is a room). A miss is t = inf. Rays parallel to a face never give NaN.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["T_MIN", "Box", "Quad", "RoundedBox", "Shape", "Sphere", "aimed", "length", "nonzero", "placed"]
__all__ += ["unit"]

T_MIN = 1e-4  # a hit closer than this to the origin is the surface the ray starts from
_TINY = 1e-12


def placed(
    at: Sequence[float] = (0.0, 0.0, 0.0),
    yaw_deg: float = 0.0,
    pitch_deg: float = 0.0,
    roll_deg: float = 0.0,
) -> Tensor:
    """A `world_from_local` [4, 4] float64: roll about x, then pitch about y, then yaw about z, then move."""
    cy, sy = math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))
    cp, sp = math.cos(math.radians(pitch_deg)), math.sin(math.radians(pitch_deg))
    cr, sr = math.cos(math.radians(roll_deg)), math.sin(math.radians(roll_deg))
    yaw = torch.tensor([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]], dtype=torch.float64)
    pitch = torch.tensor([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]], dtype=torch.float64)
    roll = torch.tensor([[1, 0, 0], [0, cr, -sr], [0, sr, cr]], dtype=torch.float64)
    world_from_local = torch.eye(4, dtype=torch.float64)
    world_from_local[:3, :3] = yaw @ pitch @ roll
    world_from_local[:3, 3] = torch.tensor(tuple(at), dtype=torch.float64)
    return world_from_local


def aimed(start: Sequence[float], end: Sequence[float]) -> Tensor:
    """A `world_from_local` [4, 4] float64 at the middle of two points with local z from start to end."""
    first, last = (
        torch.tensor(tuple(start), dtype=torch.float64),
        torch.tensor(tuple(end), dtype=torch.float64),
    )
    z = torch.nn.functional.normalize(last - first, dim=0)
    helper = torch.eye(3, dtype=torch.float64)[int(z.abs().argmin())]
    y = torch.nn.functional.normalize(torch.linalg.cross(z, helper), dim=0)
    world_from_local = torch.eye(4, dtype=torch.float64)
    world_from_local[:3, :3] = torch.stack([torch.linalg.cross(y, z), y, z], 1)
    world_from_local[:3, 3] = (first + last) / 2
    return world_from_local


def length(vectors: Tensor) -> Tensor:
    """Lengths [N] of vectors [D, N]; `Tensor.norm` over a short first axis is ten times slower on a CPU."""
    return vectors.square().sum(0).sqrt()


def unit(vectors: Tensor) -> Tensor:
    """Vectors [D, N] scaled to length 1 (zero vectors stay)."""
    return vectors / length(vectors).clamp_min(_TINY)


def nonzero(directions: Tensor) -> Tensor:
    """The same directions with zeros replaced by a tiny number: a division gives a huge finite value."""
    return torch.where(directions.abs() < _TINY, _TINY, directions)


def first_crossing(near: Tensor, far: Tensor) -> Tensor:
    """The smallest parameter in front of the origin of an interval [near, far], or inf."""
    t = torch.where(near > T_MIN, near, far)
    return torch.where((near <= far) & (t > T_MIN), t, torch.inf)


def slab_interval(origins: Tensor, directions: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays are inside the box |p| <= half [3, 1]: near [N], far [N] (near > far: never)."""
    inverse = 1.0 / nonzero(directions)
    middle, reach = -origins * inverse, half * inverse.abs()
    return (middle - reach).amax(0), (middle + reach).amin(0)


def ball_interval(origins: Tensor, directions: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Where rays are inside a ball (or, given two rows, a disc swept along the third axis) at the origin.

    origins, directions [D, ..., N] to near, far [..., N]; (inf, -inf) where they pass it by.
    """
    squared = (directions * directions).sum(0).clamp_min(_TINY)
    nearest = -(origins * directions).sum(0) / squared
    # |p|^2 at the nearest point loses no digits however far away the origin is
    gap = radius * radius - (origins + nearest * directions).square().sum(0)
    reach = torch.where(gap >= 0, (gap.clamp_min(0.0) / squared).sqrt(), -torch.inf)
    return nearest - reach, nearest + reach


class Shape:
    """A surface with a place in the world; subclasses give `hit`, `surface`, `distance` in the local frame.

    `world_from_local` [4, 4] is rigid. All points are between the local corners `low` and `high`, and
    within `radius` (default: half the diagonal) of the middle between them. `costly` tells the tracer to
    sort out the rays that miss that box before it calls `hit`.
    """

    costly = False

    def __init__(
        self,
        low: Sequence[float],
        high: Sequence[float],
        world_from_local: Tensor | None,
        radius: float | None = None,
    ) -> None:
        matrix = placed() if world_from_local is None else world_from_local.to(torch.float64)
        if matrix.shape != (4, 4):
            raise ValueError(f"world_from_local must be [4, 4], got {list(matrix.shape)}")
        rotation = matrix[:3, :3]
        if not torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-6):
            raise ValueError("world_from_local must be rigid: its 3x3 part is not a rotation")
        self.world_from_local = matrix
        corners = torch.tensor([tuple(low), tuple(high)], dtype=torch.float64)
        self.bounds_middle = corners.mean(0)[:, None]  # [3, 1]
        self.bounds_half = (corners[1:] - corners[:1]).T / 2  # [3, 1]
        self.bounding_radius = float(length(self.bounds_half)) if radius is None else float(radius)

    def bounds_interval(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Where local rays are inside the bounding box, grown by a hair: near [N], far [N]."""
        half = self.bounds_half.to(directions) * (1 + 1e-4) + 1e-5 * self.bounding_radius
        return slab_interval(origins - self.bounds_middle.to(directions), directions, half)

    def hit(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor | None]:
        """Local rays to (t [N], part [N] int64 or None when `surface` finds the part from the point)."""
        raise NotImplementedError

    def surface(self, points: Tensor, part: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Local points [3, N] on the surface to (outward unit normal [3, N], uv [2, N], part [N])."""
        raise NotImplementedError

    def distance(self, points: Tensor) -> Tensor:
        """Distance [N] of local points [3, N] outside the shape to its surface (for ambient occlusion)."""
        raise NotImplementedError

    def to_local(self, points: Tensor) -> Tensor:
        """World points [3, N] to local points [3, N]."""
        matrix = self.world_from_local.to(points)
        return matrix[:3, :3].T @ (points - matrix[:3, 3:])

    def rotate_to_local(self, vectors: Tensor) -> Tensor:
        """World vectors [3, N] to local vectors [3, N]."""
        return self.world_from_local[:3, :3].to(vectors).T @ vectors

    def rotate_to_world(self, vectors: Tensor) -> Tensor:
        """Local vectors [3, N] to world vectors [3, N]."""
        return self.world_from_local[:3, :3].to(vectors) @ vectors


class Quad(Shape):
    """A two-sided rectangle in the local plane z = 0; `half` is (half width in x, half height in y)."""

    def __init__(self, half: Sequence[float], world_from_local: Tensor | None = None) -> None:
        super().__init__((-half[0], -half[1], 0.0), (*half, 0.0), world_from_local)
        self.half = tuple(float(h) for h in half)

    def hit(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, None]:
        t = -origins[2] / nonzero(directions[2])
        x, y = origins[:2] + t * directions[:2]
        inside = (x.abs() <= self.half[0]) & (y.abs() <= self.half[1]) & (t > T_MIN)
        return torch.where(inside, t, torch.inf), None

    def surface(self, points: Tensor, part: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        normal = torch.zeros_like(points)
        normal[2] = 1.0
        uv = torch.stack([points[0], -points[1]])
        return normal, uv, torch.zeros_like(points[0], dtype=torch.int64)

    def distance(self, points: Tensor) -> Tensor:
        half = points.new_tensor([*self.half, 0.0])[:, None]
        return length((points.abs() - half).clamp_min(0.0))


# Faces of a box in the order +x, -x, +y, -y, +z, -z: which axis and sign u and v follow so that a picture
# on the face is upright (z up; on the top +y is up) and is not mirrored, seen from outside.
_U_AXIS, _U_SIGN = (1, 1, 0, 0, 0, 0), (1.0, -1.0, -1.0, 1.0, 1.0, 1.0)
_V_AXIS, _V_SIGN = (2, 2, 2, 2, 1, 1), (-1.0, -1.0, -1.0, -1.0, -1.0, 1.0)


def _face_uv(points: Tensor, face: Tensor) -> Tensor:
    """Points [3, N] and face [N] to uv [2, N] centred on each face."""
    device = points.device
    rows = torch.stack(
        [torch.tensor(_U_AXIS, device=device)[face], torch.tensor(_V_AXIS, device=device)[face]]
    )
    signs = torch.stack([points.new_tensor(_U_SIGN)[face], points.new_tensor(_V_SIGN)[face]])
    return points.gather(0, rows) * signs


class Box(Shape):
    """A box |x|, |y|, |z| <= half; parts 0 to 5 are the faces +x, -x, +y, -y, +z, -z."""

    def __init__(self, half: Sequence[float], world_from_local: Tensor | None = None) -> None:
        super().__init__([-h for h in half], half, world_from_local)
        self.half = tuple(float(h) for h in half)

    def _half(self, like: Tensor) -> Tensor:
        return like.new_tensor(self.half)[:, None]  # [3, 1]

    def hit(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, None]:
        return first_crossing(*slab_interval(origins, directions, self._half(directions))), None

    def surface(self, points: Tensor, part: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        axis = (points.abs() - self._half(points)).abs().argmin(0)  # the face plane the point is on
        side = points.gather(0, axis[None])[0]
        normal = torch.zeros_like(points).scatter_(
            0, axis[None], torch.where(side < 0, -1.0, 1.0)[None].to(points)
        )
        face = 2 * axis + (side < 0)
        return normal, _face_uv(points, face), face

    def distance(self, points: Tensor) -> Tensor:
        return length((points.abs() - self._half(points)).clamp_min(0.0))


def _signs(axes: int, like: Tensor) -> Tensor:
    """All combinations of signs [axes, 2^axes, 1]."""
    return like.new_tensor([[1 - 2 * (k >> a & 1) for k in range(2**axes)] for a in range(axes)])[..., None]


class RoundedBox(Box):
    """A box with outer half sizes `half` whose edges and corners are rounded with `radius`."""

    costly = True

    def __init__(self, half: Sequence[float], radius: float, world_from_local: Tensor | None = None) -> None:
        super().__init__(half, world_from_local)
        if not 0 < radius <= min(half):
            raise ValueError(f"radius must be in (0, {min(half)}], the smallest half size; got {radius}")
        self.radius = float(radius)

    def hit(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, None]:
        """A convex body, the union of 3 boxes, 12 edge cylinders and 8 corner balls: join their intervals."""
        half, core = self._half(directions), self._half(directions) - self.radius
        intervals = []  # near, far [..., N]
        for axis in range(3):
            box = core.clone()
            box[axis] = half[axis]
            intervals.append(slab_interval(origins, directions, box))
            others = [a for a in range(3) if a != axis]
            low, high = slab_interval(origins[axis : axis + 1], directions[axis : axis + 1], core[axis])
            corners = core[others, None] * _signs(2, core)  # [2, 4, 1]
            near, far = ball_interval(origins[others, None] - corners, directions[others, None], self.radius)
            intervals.append((torch.maximum(near, low), torch.minimum(far, high)))
        corners = core[:, None] * _signs(3, core)  # [3, 8, 1]
        intervals.append(ball_interval(origins[:, None] - corners, directions[:, None], self.radius))
        count = directions.shape[1]
        near = torch.cat([torch.where(n <= f, n, torch.inf).view(-1, count) for n, f in intervals]).amin(0)
        far = torch.cat([torch.where(n <= f, f, -torch.inf).view(-1, count) for n, f in intervals]).amax(0)
        return first_crossing(near, far), None

    def surface(self, points: Tensor, part: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        core = self._half(points) - self.radius
        normal = unit(points - points.clamp(-core, core))
        axis = normal.abs().argmax(0)
        face = 2 * axis + (points.gather(0, axis[None])[0] < 0)
        return normal, _face_uv(points, face), face

    def distance(self, points: Tensor) -> Tensor:
        core = self._half(points) - self.radius
        return (length((points.abs() - core).clamp_min(0.0)) - self.radius).clamp_min(0.0)


class Sphere(Shape):
    """A ball's surface; uv are (longitude * radius, arc length from the equator, down)."""

    def __init__(self, radius: float, world_from_local: Tensor | None = None) -> None:
        super().__init__((-radius,) * 3, (radius,) * 3, world_from_local, radius)
        self.radius = float(radius)

    def hit(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, None]:
        return first_crossing(*ball_interval(origins, directions, self.radius)), None

    def surface(self, points: Tensor, part: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        normal = points / self.radius
        longitude = torch.atan2(points[1], points[0])
        latitude = torch.asin(normal[2].clamp(-1.0, 1.0))
        uv = torch.stack([longitude, -latitude]) * self.radius
        return normal, uv, torch.zeros_like(points[0], dtype=torch.int64)

    def distance(self, points: Tensor) -> Tensor:
        return (length(points) - self.radius).clamp_min(0.0)
