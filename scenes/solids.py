"""Bodies from a curve: solids of revolution, extruded outlines and smooth height fields.

Curves are polylines, so every intersection but the height field's is in closed form; normals are interpolated
along the polyline (except over creases), which shades it like the smooth curve it approximates.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scenes.shapes import T_MIN, Shape, length, nonzero, slab_interval, unit

__all__ = ["HeightField", "Prism", "Revolution", "cone", "cylinder"]

_BLOCK = 4096  # rays per block: segments x rays stays in the processor's cache


class _Polyline:
    """Segments of a plane curve with the outside on the right of the direction of travel; all float64."""

    def __init__(self, points: Sequence[Sequence[float]], closed: bool, crease_deg: float) -> None:
        vertices = torch.tensor([tuple(p) for p in points], dtype=torch.float64)
        if vertices.ndim != 2 or len(vertices) < 2 or vertices.shape[1] != 2:
            raise ValueError("a curve needs at least two points of two numbers each")
        self.start = vertices if closed else vertices[:-1]  # [S, 2]
        self.end = vertices.roll(-1, 0) if closed else vertices[1:]
        step = self.end - self.start
        self.length = step.norm(dim=1)  # [S]
        if bool((self.length < 1e-9).any()):
            raise ValueError("a curve has two equal points in a row")
        self.arc = torch.cumsum(self.length, 0) - self.length  # arc length at each segment's start
        self.total = float(self.length.sum())
        self.tangent = step / self.length[:, None]
        self.normal = torch.stack([self.tangent[:, 1], -self.tangent[:, 0]], 1)
        before, after = self.normal.roll(1, 0), self.normal.roll(-1, 0)
        smooth = math.cos(math.radians(crease_deg))
        join_before = (self.normal * before).sum(1, keepdim=True) > smooth
        join_after = (self.normal * after).sum(1, keepdim=True) > smooth
        if not closed:
            join_before[0] = join_after[-1] = False
        mean = torch.nn.functional.normalize
        self.start_normal = torch.where(join_before, mean(self.normal + before, dim=1), self.normal)
        self.end_normal = torch.where(join_after, mean(self.normal + after, dim=1), self.normal)

    def at(self, points: Tensor, segment: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolated normal [2, N] and arc length [N] of plane points [2, N] on segments [N]."""
        start, tangent = self.start.to(points)[segment].T, self.tangent.to(points)[segment].T
        length = self.length.to(points)[segment]
        along = ((points - start) * tangent).sum(0).clamp_min(0.0).minimum(length)
        first, last = self.start_normal.to(points)[segment].T, self.end_normal.to(points)[segment].T
        normal = unit(torch.lerp(first, last, along / length))
        return normal, self.arc.to(points)[segment] + along

    def nearest(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Distance [N] and index [N] of the segment nearest to plane points [2, N]."""
        x, y = points[0] - self.start[:, :1].to(points), points[1] - self.start[:, 1:].to(points)  # [S, N]
        tangent, length = self.tangent.to(points), self.length.to(points)[:, None]
        along = (x * tangent[:, :1] + y * tangent[:, 1:]).clamp_min(0.0).minimum(length)
        squared = (x - along * tangent[:, :1]).square() + (y - along * tangent[:, 1:]).square()
        distance, segment = squared.min(0)
        return distance.sqrt(), segment


class Revolution(Shape):
    """A profile of (radius, z) points turned about the z axis; list it from bottom to top to face outwards.

    Parts are the profile's segments. u is angle * largest radius, v is arc length along the profile from its
    middle, down: a texture of size (`circumference`, `arc_length`) wraps the body once.
    """

    costly = True

    def __init__(
        self,
        profile: Sequence[Sequence[float]],
        world_from_local: Tensor | None = None,
        crease_deg: float = 40.0,
    ) -> None:
        if min(p[0] for p in profile) < 0:
            raise ValueError("a profile's radii must not be negative")
        wide, low, high = max(p[0] for p in profile), min(p[1] for p in profile), max(p[1] for p in profile)
        reach = max(math.hypot(r, z - (low + high) / 2) for r, z in profile)
        super().__init__((-wide, -wide, low), (wide, wide, high), world_from_local, reach)
        self.profile = _Polyline(profile, closed=False, crease_deg=crease_deg)
        self.radius = wide
        self.circumference, self.arc_length = 2 * math.pi * self.radius, self.profile.total
        flat = self.profile.tangent[:, 1].abs() < 1e-4
        self._flat, self._sloped = flat.nonzero()[:, 0], (~flat).nonzero()[:, 0]

    def hit(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        t = directions.new_full(directions.shape[1:], torch.inf)
        part = torch.zeros_like(t, dtype=torch.int64)
        for start in range(0, directions.shape[1], _BLOCK):
            block = slice(start, start + _BLOCK)
            direction = directions[:, block]
            origin = origins if origins.shape[1] == 1 else origins[:, block]
            # start from the point nearest to the body's centre: keeps the quadratics' digits
            shift = -(origin * direction).sum(0) / direction.square().sum(0)
            near = origin + shift * direction
            found = []
            if len(self._sloped):
                found.append(self._hit_sloped(near, direction, T_MIN - shift))
            if len(self._flat):
                found.append(self._hit_flat(near, direction, T_MIN - shift))
            nearest, index = torch.cat(found).min(0)
            t[block] = nearest + shift
            part[block] = torch.cat([self._sloped, self._flat]).to(index.device)[index]
        return t, part

    def _hit_sloped(self, origin: Tensor, direction: Tensor, limit: Tensor) -> Tensor:
        """Crossings [S, N] beyond `limit` with x^2 + y^2 = (a + k z)^2, a row per sloped segment."""
        start, end = self.profile.start[self._sloped].to(origin), self.profile.end[self._sloped].to(origin)
        slope = (end[:, :1] - start[:, :1]) / (end[:, 1:] - start[:, 1:])  # [S, 1]
        radius = start[:, :1] + slope * (
            origin[2] - start[:, 1:]
        )  # the cone's radius at the height of the origin
        change = slope * direction[2]
        xy, dxy = origin[:2], direction[:2]
        a = dxy.square().sum(0) - change.square()
        b = (xy * dxy).sum(0) - change * radius
        c = xy.square().sum(0) - radius.square()
        discriminant = b * b - a * c
        root = discriminant.clamp_min(0.0).sqrt()
        q = -(b + torch.where(b < 0, -root, root))
        low, high = torch.minimum(start[:, 1:], end[:, 1:]), torch.maximum(start[:, 1:], end[:, 1:])
        slack = 2e-7 * self.bounding_radius
        best = torch.full_like(a, torch.inf)
        for t in (q / nonzero(a), c / nonzero(q)):
            z = origin[2] + t * direction[2]
            valid = (discriminant >= 0) & (t > limit) & (z >= low - slack) & (z <= high + slack)
            best = torch.where(valid & (t < best), t, best)
        return best

    def _hit_flat(self, origin: Tensor, direction: Tensor, limit: Tensor) -> Tensor:
        """Crossings [S, N] beyond `limit` with the level rings."""
        start, end = self.profile.start[self._flat].to(origin), self.profile.end[self._flat].to(origin)
        t = (start[:, 1:] - origin[2]) / nonzero(direction[2])
        x, y = origin[0] + t * direction[0], origin[1] + t * direction[1]
        radius = torch.sqrt(x * x + y * y)
        inner, outer = torch.minimum(start[:, :1], end[:, :1]), torch.maximum(start[:, :1], end[:, :1])
        return torch.where((radius >= inner) & (radius <= outer) & (t > limit), t, torch.inf)

    def surface(self, points: Tensor, part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        radius = torch.sqrt(points[0] ** 2 + points[1] ** 2)
        slant, arc = self.profile.at(torch.stack([radius, points[2]]), part)
        around = points[:2] / radius.clamp_min(1e-9)
        u = torch.atan2(points[1], points[0]) * self.radius
        return torch.cat([slant[:1] * around, slant[1:]]), torch.stack([u, self.arc_length / 2 - arc]), part

    def distance(self, points: Tensor) -> Tensor:
        radius = torch.sqrt(points[0] ** 2 + points[1] ** 2)
        return self.profile.nearest(torch.stack([radius, points[2]]))[0]


def cone(bottom: float, top: float, half_height: float, world_from_local: Tensor | None = None) -> Revolution:
    """A closed truncated cone along z; parts 0, 1, 2 are bottom, side and top (a zero radius has no lid)."""
    profile = [(bottom, -half_height), (top, half_height)]
    profile = (
        ([(0.0, -half_height)] if bottom > 0 else []) + profile + ([(0.0, half_height)] if top > 0 else [])
    )
    return Revolution(profile, world_from_local)


def cylinder(radius: float, half_height: float, world_from_local: Tensor | None = None) -> Revolution:
    """A closed cylinder along z; parts 0, 1, 2 are bottom, side and top."""
    return cone(radius, radius, half_height, world_from_local)


class Prism(Shape):
    """An outline of (x, z) points, counter-clockwise, extruded along y to |y| <= half_width + slope . (x, z).

    Parts: 0 the side at +y, 1 the side at -y, 2 + i the strip of edge i. On the sides uv are (x, z) seen from
    outside; on strips u = y and v is arc length from the outline's middle. `bevel` bends the normals within
    that distance of the rim, which shades a sharp edge as a rounded one.
    """

    costly = True

    def __init__(
        self,
        outline: Sequence[Sequence[float]],
        half_width: float,
        world_from_local: Tensor | None = None,
        slope: Sequence[float] = (0.0, 0.0),
        crease_deg: float = 40.0,
        bevel: float = 0.0,
    ) -> None:
        widths = [half_width + slope[0] * x + slope[1] * z for x, z in outline]
        if min(widths) < 0:
            raise ValueError("the extrusion's width is negative at a point of the outline")
        (low_x, low_z), (high_x, high_z) = (
            map(min, zip(*outline, strict=True)),
            map(max, zip(*outline, strict=True)),
        )
        width = max(widths)
        super().__init__((low_x, -width, low_z), (high_x, width, high_z), world_from_local)
        self.outline = _Polyline(outline, closed=True, crease_deg=crease_deg)
        self.half_width, self.slope, self.bevel = float(half_width), tuple(map(float, slope)), bevel

    def _width(self, x: Tensor, z: Tensor) -> Tensor:
        return self.half_width + self.slope[0] * x + self.slope[1] * z

    def hit(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        t = directions.new_full(directions.shape[1:], torch.inf)
        part = torch.zeros_like(t, dtype=torch.int64)
        for start in range(0, directions.shape[1], _BLOCK):
            block = slice(start, start + _BLOCK)
            origin = origins if origins.shape[1] == 1 else origins[:, block]
            found = [self._hit_side(origin, directions[:, block], side) for side in (1.0, -1.0)]
            found.append(self._hit_strips(origin, directions[:, block]))
            t[block], part[block] = torch.cat(found).min(0)
        return t, part

    def _hit_side(self, origin: Tensor, direction: Tensor, side: float) -> Tensor:
        """Crossings [1, N] with the slanted plane y = side * width(x, z), inside the outline."""
        (ox, oy, oz), (dx, dy, dz) = origin, direction
        closing = dy - side * (self.slope[0] * dx + self.slope[1] * dz)
        t = (side * self._width(ox, oz) - oy) / nonzero(closing)
        x, z = ox + t * dx, oz + t * dz
        (x0, z0), (x1, z1) = self.outline.start.to(x).T[..., None], self.outline.end.to(x).T[..., None]
        straddles = (z0 > z) != (z1 > z)
        crossing = x0 + (z - z0) * ((x1 - x0) / torch.where(z1 == z0, 1.0, z1 - z0))
        inside = (straddles & (x < crossing)).sum(0) % 2 == 1  # even-odd rule
        return torch.where(inside & (t > T_MIN), t, torch.inf)[None]

    def _hit_strips(self, origin: Tensor, direction: Tensor) -> Tensor:
        """Crossings [S, N] with the strips of the outline's edges."""
        start, tangent = self.outline.start.to(direction), self.outline.tangent.to(direction)
        normal, length = self.outline.normal.to(direction), self.outline.length.to(direction)[:, None]
        (ox, oy, oz), (dx, dy, dz) = origin, direction
        ex, ez = start[:, :1] - ox, start[:, 1:] - oz
        closing = normal[:, :1] * dx + normal[:, 1:] * dz
        t = (normal[:, :1] * ex + normal[:, 1:] * ez) / nonzero(closing)
        along = (t * dx - ex) * tangent[:, :1] + (t * dz - ez) * tangent[:, 1:]
        width = self._width(ox + t * dx, oz + t * dz)
        slack = 2e-7 * self.bounding_radius
        valid = (along >= -slack) & (along <= length + slack) & ((oy + t * dy).abs() <= width) & (t > T_MIN)
        return torch.where(valid, t, torch.inf)

    def surface(self, points: Tensor, part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, y, z = points
        plane = torch.stack([x, z])
        on_side = part < 2
        gap, nearest = self.outline.nearest(plane)
        rim, arc = self.outline.at(plane, torch.where(on_side, nearest, part - 2))
        side = torch.where(y < 0, -1.0, 1.0).to(points)
        flank = torch.stack([torch.full_like(x, -self.slope[0]), side, torch.full_like(x, -self.slope[1])])
        flank = unit(flank)
        edge = torch.stack([rim[0], torch.zeros_like(x), rim[1]])
        normal = torch.where(on_side, flank, edge)
        if self.bevel > 0:
            gap = torch.where(on_side, gap, self._width(x, z) - y.abs())
            other = torch.where(on_side, edge, flank)
            weight = 0.5 * (1 - gap / self.bevel).clamp(0.0, 1.0)
            normal = unit(torch.lerp(normal, other, weight))
        uv = torch.stack(
            [torch.where(on_side, -side * x, y), torch.where(on_side, -z, arc - self.outline.total / 2)]
        )
        return normal, uv, part

    def distance(self, points: Tensor) -> Tensor:
        """Distance to the strips and sides, the sides' slope neglected."""
        x, y, z = points
        plane = torch.stack([x, z])
        (x0, z0), (x1, z1) = self.outline.start.to(x).T[..., None], self.outline.end.to(x).T[..., None]
        crossing = x0 + (z - z0) * ((x1 - x0) / torch.where(z1 == z0, 1.0, z1 - z0))
        inside = (((z0 > z) != (z1 > z)) & (x < crossing)).sum(0) % 2 == 1
        outside_plane = torch.where(inside, 0.0, self.outline.nearest(plane)[0])
        return torch.hypot(outside_plane, (y.abs() - self._width(x, z)).clamp_min(0.0))


class HeightField(Shape):
    """The smooth surface z = h(x, y) over |x|, |y| <= half: a sum of sine waves and Gaussian bumps.

    `waves` are (amplitude, kx, ky, phase): amplitude * sin(kx x + ky y + phase); `bumps` are (height, x, y,
    sigma). Rays advance by the gap over the field's Lipschitz bound, so no crest is jumped over, and end with
    Newton steps. A ray that still grazes after `_STEPS` steps counts as a miss.
    """

    costly = True
    _STEPS = 160

    def __init__(
        self,
        half: Sequence[float],
        waves: Sequence[Sequence[float]] = (),
        bumps: Sequence[Sequence[float]] = (),
        world_from_local: Tensor | None = None,
    ) -> None:
        self.waves, self.bumps = [tuple(w) for w in waves], [tuple(b) for b in bumps]
        self.rise = sum(abs(w[0]) for w in self.waves) + sum(
            abs(b[0]) for b in self.bumps
        )  # |h| is at most this
        super().__init__((-half[0], -half[1], -self.rise), (*half, self.rise), world_from_local)
        self.half = tuple(float(h) for h in half)
        self.steepest = sum(abs(a) * math.hypot(kx, ky) for a, kx, ky, _ in self.waves)
        self.steepest += sum(abs(h) / (s * math.sqrt(math.e)) for h, _, _, s in self.bumps)

    def height(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h, dh/dx, dh/dy at x, y (any equal shapes)."""
        h, hx, hy = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
        for amplitude, kx, ky, phase in self.waves:
            angle = kx * x + ky * y + phase
            slope = amplitude * torch.cos(angle)
            h, hx, hy = h + amplitude * torch.sin(angle), hx + kx * slope, hy + ky * slope
        for tall, cx, cy, sigma in self.bumps:
            bump = tall * torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
            h, hx, hy = h + bump, hx - bump * (x - cx) / sigma**2, hy - bump * (y - cy) / sigma**2
        return h, hx, hy

    def hit(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, None]:
        box = directions.new_tensor([*self.half, self.rise * (1 + 1e-5) + 1e-6])[:, None]
        near, far = slab_interval(origins, directions, box)
        origins = origins.expand_as(directions)
        t = near.clamp_min(T_MIN)
        speed = directions[2].abs() + self.steepest * length(directions[:2])
        found = torch.full_like(t, torch.inf)
        rows = (t <= far).nonzero()[:, 0]
        close = 1e-5 * self.bounding_radius
        for _ in range(self._STEPS):
            if rows.numel() == 0:
                break
            x, y, z = origins[:, rows] + t[rows] * directions[:, rows]
            gap = (z - self.height(x, y)[0]).abs()
            done = gap < close
            found[rows[done]] = t[rows[done]]
            t[rows] += torch.where(done, 0.0, gap / speed[rows].clamp_min(1e-9))
            rows = rows[~done & (t[rows] <= far[rows])]
        return self._polish(origins, directions, found, near, far), None

    def _polish(
        self, origins: Tensor, directions: Tensor, found: Tensor, near: Tensor, far: Tensor
    ) -> Tensor:
        """Two Newton steps on the rays that arrived."""
        rows = found.isfinite().nonzero()[:, 0]
        origin, direction, t = origins[:, rows], directions[:, rows], found[rows]
        for _ in range(2):
            x, y, z = origin + t * direction
            h, hx, hy = self.height(x, y)
            rate = direction[2] - hx * direction[0] - hy * direction[1]
            step = (z - h) / torch.where(rate.abs() < 1e-3, torch.inf, rate)
            t = t - step.clamp(-1e-3 * self.bounding_radius, 1e-3 * self.bounding_radius)
        inside = (t > T_MIN) & (t >= near[rows]) & (t <= far[rows])
        found[rows] = torch.where(inside, t, torch.inf)
        return found

    def surface(self, points: Tensor, part: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        _, hx, hy = self.height(points[0], points[1])
        normal = unit(torch.stack([-hx, -hy, torch.ones_like(hx)]))
        uv = torch.stack([points[0], -points[1]])
        return normal, uv, torch.zeros_like(points[0], dtype=torch.int64)

    def distance(self, points: Tensor) -> Tensor:
        """A lower bound of the distance: vertical gap over the steepest slope, and the gap to the border."""
        border = points.new_tensor(self.half)[:, None]
        outside = length((points[:2].abs() - border).clamp_min(0.0))
        x, y = points[:2].clamp(-border, border)
        gap = (points[2] - self.height(x, y)[0]).abs() / math.sqrt(1 + self.steepest**2)
        return torch.hypot(gap, outside)
