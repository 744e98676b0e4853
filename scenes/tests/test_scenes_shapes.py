"""Ray intersections against closed forms and dense sampling, in float64 and float32."""

import pytest
import torch

from scenes.shapes import Box, Quad, RoundedBox, Sphere, placed
from scenes.solids import HeightField, Prism, Revolution, cone, cylinder

WAVES = [(0.06, 5.0, 2.0, 0.3), (0.03, -3.0, 9.0, 1.0)]
L_OUTLINE = [(-0.5, -0.4), (0.5, -0.4), (0.5, 0.0), (0.0, 0.1), (0.0, 0.5), (-0.5, 0.5)]
VASE = [(0.0, -0.5), (0.3, -0.5), (0.2, -0.3), (0.45, 0.1), (0.2, 0.45), (0.25, 0.5), (0.0, 0.5)]


def shapes():
    pose = placed((0.1, -0.2, 0.05), yaw_deg=30, pitch_deg=-20, roll_deg=50)
    return {
        "quad": Quad((0.5, 0.3), pose),
        "box": Box((0.5, 0.3, 0.2), pose),
        "rounded": RoundedBox((0.5, 0.3, 0.2), 0.15, pose),
        "ball-like": RoundedBox((0.3, 0.3, 0.3), 0.3, pose),
        "sphere": Sphere(0.45, pose),
        "cylinder": cylinder(0.3, 0.5, pose),
        "cone": cone(0.4, 0.0, 0.5, pose),
        "vase": Revolution(VASE, pose),
        "prism": Prism(L_OUTLINE, 0.3, pose, slope=(0.1, -0.2)),
        "field": HeightField((0.6, 0.5), WAVES, [(0.2, 0.1, 0.0, 0.15)], pose),
    }


def implicit(shape, points):
    """A number that is zero on the surface (and only there, near it), written down independently."""
    x, y, z = points
    if isinstance(shape, Quad):
        return torch.maximum(
            z.abs(), torch.maximum(x.abs() - shape.half[0], y.abs() - shape.half[1]).clamp_min(0)
        )
    if isinstance(shape, Box):
        rounding = getattr(shape, "radius", 0.0)
        gap = points.abs() - points.new_tensor(shape.half)[:, None] + rounding
        return gap.clamp_min(0).norm(dim=0) + gap.amax(0).clamp_max(0) - rounding
    if isinstance(shape, Sphere):
        return points.norm(dim=0) - shape.radius
    if isinstance(shape, HeightField):
        return z - shape.height(x, y)[0]
    if isinstance(shape, Revolution):
        return shape.profile.nearest(torch.stack([points[:2].norm(dim=0), z]))[0]
    width = shape.half_width + shape.slope[0] * x + shape.slope[1] * z
    rim = shape.outline.nearest(torch.stack([x, z]))[0]
    return torch.minimum((y.abs() - width).abs(), rim + (y.abs() - width).clamp_min(0))


def random_rays(count, dtype, seed=0):
    """Rays from a sphere of radius 3 towards points of a ball; a tenth run along an axis, some miss."""
    generator = torch.Generator().manual_seed(seed)
    start = (
        torch.nn.functional.normalize(torch.randn(3, count, generator=generator, dtype=torch.float64), dim=0)
        * 3
    )
    end = torch.randn(3, count, generator=generator, dtype=torch.float64) * 0.4
    directions = (end - start) * (0.2 + torch.rand(count, generator=generator, dtype=torch.float64))
    directions[0, ::10] = 0.0
    directions[1, ::20] = 0.0
    return start.to(dtype), directions.to(dtype)


@pytest.mark.parametrize("name", shapes())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hits_lie_on_the_surface_and_normals_and_uv_are_sound(name, dtype):
    shape = shapes()[name]
    origins, directions = random_rays(4000, dtype)
    local_o, local_d = shape.to_local(origins), shape.rotate_to_local(directions)
    t, part = shape.hit(local_o, local_d)
    assert not t.isnan().any()
    hit = t.isfinite()
    assert 200 < hit.sum() < 3900
    points = (local_o + t * local_d)[:, hit]
    tolerance = 4e-6 if dtype == torch.float32 else 1e-9
    assert implicit(shape, points).abs().max() < tolerance
    normal, uv, parts = shape.surface(points, None if part is None else part[hit])
    torch.testing.assert_close(normal.norm(dim=0), torch.ones_like(normal[0]))
    assert uv.shape == (2, int(hit.sum()))
    assert uv.isfinite().all()
    assert parts.shape == uv.shape[1:]
    assert (shape.distance(points) < 10 * tolerance).all()
    low, high = shape.bounds_middle - shape.bounds_half, shape.bounds_middle + shape.bounds_half
    assert ((points > low - 1e-5) & (points < high + 1e-5)).all()
    assert (points - shape.bounds_middle).norm(dim=0).max() < shape.bounding_radius * (1 + 1e-5)


@pytest.mark.parametrize(
    "name", ["box", "rounded", "ball-like", "sphere", "cylinder", "cone", "vase", "prism"]
)
def test_first_crossing_agrees_with_marching_along_the_ray(name):
    """A twin that knows nothing of quadratics: the first change of inside/outside on 6000 steps per ray."""
    shape = shapes()[name]
    origins, directions = random_rays(150, torch.float64, seed=3)
    o, d = shape.to_local(origins), shape.rotate_to_local(directions)
    t, _ = shape.hit(o, d)
    d = d / d.norm(dim=0)
    length = t * shape.rotate_to_local(directions).norm(dim=0)
    steps = torch.linspace(1.5, 5.5, 6000, dtype=torch.float64)
    points = o[:, :, None] + steps * d[:, :, None]
    inside = contains(shape, points.flatten(1)).view(len(t), -1)
    entered = inside.any(1)
    first = steps[inside.int().argmax(1)]
    step = float(steps[1] - steps[0])
    torch.testing.assert_close(length[entered], first[entered], atol=1.01 * step, rtol=0)
    thickness = inside.sum(1) * step  # a ray the march missed may only graze
    assert (t[~entered].isinf()).float().mean() > 0.95
    assert thickness[entered].max() > 0.3


def contains(shape, points):
    x, y, z = points
    if isinstance(shape, Revolution):
        r = points[:2].norm(dim=0)
        knots = shape.profile.start.tolist() + [shape.profile.end[-1].tolist()]
        profile = [k for k in knots if k[0] > 0 or k in (knots[0], knots[-1])]
        zs = torch.tensor([k[1] for k in profile], dtype=torch.float64)
        rs = torch.tensor([k[0] for k in profile], dtype=torch.float64)
        index = torch.searchsorted(zs, z.contiguous(), right=True).clamp(1, len(zs) - 1)
        share = (z - zs[index - 1]) / (zs[index] - zs[index - 1]).clamp_min(1e-12)
        return (r < torch.lerp(rs[index - 1], rs[index], share)) & (z > zs[0]) & (z < zs[-1])
    if isinstance(shape, Prism):
        width = shape.half_width + shape.slope[0] * x + shape.slope[1] * z
        # the L as two convex parts: below the slanted line for x > 0, the block for x <= 0
        arm = (x > 0) & (x < 0.5) & (z > -0.4) & (z < 0.1 - 0.2 * x)
        block = (x > -0.5) & (x <= 0) & (z > -0.4) & (z < 0.5)
        return (arm | block) & (y.abs() < width)
    return implicit(shape, points) < 0


def test_inside_rays_hit_the_far_wall_and_behind_is_a_miss():
    centre = torch.zeros(3, 1, dtype=torch.float64)
    towards = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(Box((1, 2, 3)).hit(centre, towards)[0], torch.tensor([1.0, 2.0, 3.0]).double())
    torch.testing.assert_close(Sphere(2.0).hit(centre, towards)[0], torch.full((3,), 2.0).double())
    torch.testing.assert_close(cylinder(1.0, 3.0).hit(centre, towards)[0], torch.tensor([1.0, 1, 3]).double())
    beyond = torch.tensor([[5.0], [0.0], [0.0]], dtype=torch.float64)
    for shape in (
        Box((1, 1, 1)),
        Sphere(1.0),
        cylinder(1.0, 1.0),
        RoundedBox((1, 1, 1), 0.2),
        Prism(L_OUTLINE, 1.0),
    ):
        assert shape.hit(beyond, towards[:, :1])[0].isinf().all()  # the shape is behind the origin


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rays_parallel_to_faces_and_on_edges_give_no_nan(dtype):
    axes = torch.cat([torch.eye(3), -torch.eye(3)], 1).to(dtype)
    for shape in (
        Box((1, 1, 1)),
        RoundedBox((1, 1, 1), 0.25),
        Quad((1, 1)),
        cylinder(1, 1),
        cone(1, 0, 1),
        Sphere(1),
    ):
        for start in ((0, 0, 2), (1, 1, 5), (1, 0, -5), (0, 0, 1), (1, 1, 1), (0, 0, 0)):
            origin = torch.tensor(start, dtype=dtype)[:, None]
            t, part = shape.hit(origin, axes)
            assert not t.isnan().any()
            assert (t > 0).all()
            rows = t.isfinite()
            if rows.any():
                parts = None if part is None else part[rows]
                normal, uv, _ = shape.surface((origin + t * axes)[:, rows], parts)
                assert normal.isfinite().all()
                assert uv.isfinite().all()


def test_pictures_on_box_faces_stand_upright_and_are_not_mirrored():
    """u must grow to the right and v down for a viewer outside; right = forward x up."""
    box = Box((1, 1, 1))
    for face in range(6):
        normal = torch.zeros(3, dtype=torch.float64)
        normal[face // 2] = 1.0 if face % 2 == 0 else -1.0
        up = torch.tensor([0.0, 0.0, 1.0] if face < 4 else [0.0, float(normal[2]), 0.0], dtype=torch.float64)
        right = torch.linalg.cross(-normal, up)
        points = torch.stack([normal, normal + 0.1 * right, normal + 0.1 * up], 1)
        _, uv, parts = box.surface(points, None)
        assert parts.tolist() == [face] * 3
        torch.testing.assert_close(uv[:, 1] - uv[:, 0], torch.tensor([0.1, 0.0]).double())
        torch.testing.assert_close(uv[:, 2] - uv[:, 0], torch.tensor([0.0, -0.1]).double())


def test_height_field_finds_the_first_crest():
    """The march must not jump over a crest: compare with dense steps."""
    field = HeightField((1.0, 1.0), [(0.1, 12.0, 0.0, 0.0)])
    origin = torch.tensor([[-3.0], [0.0], [0.35]], dtype=torch.float64)
    slope = torch.linspace(-0.25, -0.06, 60, dtype=torch.float64)
    directions = torch.stack([torch.ones(60).double(), torch.zeros(60).double(), slope])
    t, _ = field.hit(origin, directions)
    steps = torch.linspace(2.0, 4.0, 20001, dtype=torch.float64)
    x, z = -3.0 + steps, 0.35 + slope[:, None] * steps
    below = z < 0.1 * torch.sin(12.0 * x)
    entered = below.any(1) & ~below[:, 0]
    first = steps[below.int().argmax(1)]
    assert entered.sum() > 20
    torch.testing.assert_close(t[entered], first[entered], atol=1.1e-4, rtol=0)
