"""Lifting and projection against plain loops, the stock sampler, and figures of the released code."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deepvoxels.models.volume import VolumeGeometry, lift, project
from shared.geometry.camera import project as project_points
from shared.geometry.camera import resize_intrinsics, transform_points

F64 = torch.float64
BOTH = pytest.mark.parametrize("lattice", ["centred", "released"])


def camera(azimuth_deg: float, elevation_deg: float, distance: float = 1.7, dtype=F64) -> Tensor:
    """A camera that looks at the world's origin, up +z."""
    az, el = math.radians(azimuth_deg), math.radians(elevation_deg)
    direction = [math.cos(el) * math.cos(az), math.cos(el) * math.sin(az), math.sin(el)]
    position = distance * torch.tensor(direction, dtype=F64)
    z = -position / position.norm()
    x = torch.linalg.cross(z, torch.tensor([0.0, 0, 1], dtype=F64))
    x = x / x.norm()
    pose = torch.eye(4, dtype=F64)
    pose[:3] = torch.stack([x, torch.linalg.cross(z, x), z, position], dim=1)
    return pose.to(dtype)


def intrinsics(focal: float, side: int) -> Tensor:
    return torch.tensor([[focal, 0, side / 2 - 0.3], [0, focal * 1.1, side / 2 - 0.8], [0, 0, 1]], dtype=F64)


def small_geometry(lattice: str, **changes) -> VolumeGeometry:
    fields = {"origin": (0.1, -0.2, 0.05), "side_length": 1.1, "near": 0.8, "grid_side": 5, "depth_planes": 9}
    return VolumeGeometry(**(fields | {"lattice": lattice, **changes}))


# --- recorded figures ------------------------------------------------------------------------------

POSE_I = torch.eye(4)
POSE_I[2, 3] = -1.7
POSES = {"I": POSE_I, "S": camera(40, 30, dtype=torch.float32), "T": camera(55, 35, dtype=torch.float32)}
K_64 = torch.tensor([[70.0, 0, 31.95], [0, 70, 31.93333], [0, 0, 1]])

LIFTED = [  # G, pose, voxels, sum of index, sums of u, v, z, first kept (u, v, z)
    (32, "I", 32768, 536854528, (1025000.18, 1024453.99, 55193.60), (2.783335, 2.766666, 1.2)),
    (32, "S", 32655, 536432113, (1040734.81, 1042486.05, 56426.40), (30.264877, 34.142799, 2.560042)),
    (32, "T", 32641, 535560206, (1047182.04, 1040063.47, 56399.36), (35.311134, 32.211388, 2.557216)),
    (64, "S", 261134, 34326635467, (8333327.91, 8320354.50, 447746.91), (30.264877, 34.142799, 2.560042)),
]
PROJECTED = [  # G, pose, samples, first and last index, sum of index, sums of x, y, z, first sample (x, y, z)
    (
        32,
        "I",
        59887,
        (45316, 175088),
        5845590170,
        (957529.08, 957731.04, 756783.42),
        (0.542525, 0.551744, 0.312813),
    ),
    (
        32,
        "S",
        59358,
        (1635, 219295),
        5804914521,
        (1077479.08, 1057871.67, 1053375.37),
        (31.877142, 30.898766, 31.720737),
    ),
    (
        32,
        "T",
        59246,
        (1941, 219171),
        5794220549,
        (1041572.92, 1076340.14, 1063480.47),
        (31.838154, 31.061255, 31.934122),
    ),
    (
        64,
        "S",
        118651,
        (1635, 440478),
        22949075988,
        (4307475.12, 4229279.92, 4217473.15),
        (63.754284, 61.797531, 63.441475),
    ),
]


def released_geometry(G: int) -> VolumeGeometry:
    return VolumeGeometry((0, 0, 0), 1.0, math.sqrt(3) / 2, G, 2 * G, "released")


@pytest.mark.parametrize(("G", "pose", "count", "index", "sums", "first"), LIFTED)
def test_lifted_voxels_are_those_of_the_released_code(G, pose, count, index, sums, first):
    uv, z, visible = released_geometry(G).project_voxels(K_64, POSES[pose], 64)
    kept = torch.cat((uv, z[:, None]), dim=1)[visible].double()
    assert abs(int(visible.sum()) - count) <= 2  # a coordinate on the bound may fall on either side
    assert abs(int(visible.nonzero().sum()) - index) <= 2 * G**3
    torch.testing.assert_close(kept.sum(0), torch.tensor(sums, dtype=F64), rtol=1e-4, atol=0)
    torch.testing.assert_close(kept[0], torch.tensor(first, dtype=F64), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("G", "pose", "count", "ends", "index", "sums", "first"), PROJECTED)
def test_projected_samples_are_those_of_the_released_code(G, pose, count, ends, index, sums, first):
    coords, inside = released_geometry(G).frustum_coordinates(K_64, POSES[pose], 64)
    coords = coords.permute(2, 0, 1, 3).reshape(-1, 3)  # plane, v, u
    inside = inside.permute(2, 0, 1).flatten()
    kept, where = coords[inside].double(), inside.nonzero().view(-1)
    assert abs(len(where) - count) <= 8  # coordinates on the bound
    assert abs(int(where.sum()) - index) <= 8 * 64 * 64 * 2 * G
    assert (int(where[0]), int(where[-1])) == ends
    torch.testing.assert_close(kept.sum(0), torch.tensor(sums, dtype=F64), rtol=3e-4, atol=0)
    torch.testing.assert_close(kept[0], torch.tensor(first, dtype=F64), rtol=0, atol=1e-3)


# --- plain-loop twins --------------------------------------------------------------------------------


def interpolate_by_hand(grid: Tensor, position: list[float]) -> Tensor:
    """Multilinear value of grid [F, ...] at (x, y[, z]), the border replicated."""
    sides = grid.shape[1:][::-1]
    clamped = [min(max(p, 0.0), n - 1.0) for p, n in zip(position, sides, strict=True)]
    total = torch.zeros(len(grid), dtype=grid.dtype)
    for corner in itertools.product((0, 1), repeat=len(clamped)):
        weight, index = 1.0, []
        for p, step, n in zip(clamped, corner, sides, strict=True):
            low = math.floor(p)
            weight *= p - low if step else 1 - (p - low)
            index.append(min(low + step, n - 1))
        total += weight * grid[(slice(None), *index[::-1])]
    return total


@BOTH
def test_lifting_equals_a_loop_over_voxels(lattice):
    geometry, side = small_geometry(lattice, side_length=4.0), 7  # some voxels off the image, some behind
    K, pose = intrinsics(40.0, 28), camera(20, 15)
    features = torch.randn(1, 3, side, side, dtype=F64)
    lifting = geometry.lifting(K, pose, 28, side)
    expected = torch.zeros(1, 3, 5, 5, 5, dtype=F64)
    half = 0.5 if lattice == "centred" else 0.0
    scale, seen, behind = side / 28, 0, 0
    for z, y, x in itertools.product(range(5), repeat=3):
        world = torch.tensor([x, y, z], dtype=F64) + half - 2.5
        world = world * 4.0 / 5 + torch.tensor([0.1, -0.2, 0.05], dtype=F64)
        cam = torch.linalg.inv(pose) @ torch.cat((world, torch.ones(1, dtype=F64)))
        behind += cam[2] <= 0
        u, v = ((K[i, i] * cam[i] / cam[2] + K[i, 2] + half) * scale - half for i in (0, 1))
        if cam[2] > 0 and -0.5 <= u < side - 0.5 and -0.5 <= v < side - 0.5:
            seen += 1
            expected[0, :, z, y, x] = interpolate_by_hand(features[0], [float(u), float(v)])
    assert 0 < seen < 125
    assert behind > 0
    assert lifting.visible == seen
    torch.testing.assert_close(lift(features, [lifting]), expected)


@BOTH
def test_projection_equals_a_loop_over_samples(lattice):
    geometry, side = small_geometry(lattice), 6
    K, pose = intrinsics(30.0, 24), camera(-70, 40)
    volume = torch.randn(1, 2, 5, 5, 5, dtype=F64)
    frustum = geometry.projection(K, pose, 24, side)
    expected = torch.zeros(1, 2, 9, side, side, dtype=F64)
    half = 0.5 if lattice == "centred" else 0.0
    seen = 0
    for k, v, u in itertools.product(range(9), range(side), range(side)):
        depth = 0.8 + (k + half) * 1.1 / 5
        pixel = [((p + half) * 24 / side - half - K[i, 2]) / K[i, i] * depth for i, p in enumerate((u, v))]
        world = pose @ torch.tensor([*pixel, depth, 1.0], dtype=F64)
        cell = (world[:3] - torch.tensor([0.1, -0.2, 0.05], dtype=F64)) / (1.1 / 5) + 2.5
        if (cell >= 0).all() and (cell < 5).all():
            seen += 1
            expected[0, :, k, v, u] = interpolate_by_hand(volume[0], (cell - half).tolist())
    assert 0 < seen < 9 * side * side
    assert frustum.visible == seen
    torch.testing.assert_close(project(volume, [frustum]), expected)


def test_projection_equals_grid_sample():
    geometry = small_geometry("centred", grid_side=6, depth_planes=7)
    K, poses = intrinsics(50.0, 40), [camera(10, 5), camera(100, 50)]
    volume = torch.randn(1, 4, 6, 6, 6, dtype=F64)
    result = project(volume, [geometry.projection(K, pose, 40, 9) for pose in poses])
    for pose, mine in zip(poses, result, strict=True):
        coords, inside = geometry.frustum_coordinates(geometry.map_intrinsics(K, 40, 9), pose, 9)
        grid = (coords / 5 * 2 - 1).permute(2, 0, 1, 3)[None]
        theirs = F.grid_sample(volume, grid, align_corners=True, padding_mode="border")
        torch.testing.assert_close(mine, theirs[0] * inside.permute(2, 0, 1))


# --- exactness -------------------------------------------------------------------------------------


@BOTH
def test_projection_reproduces_a_linear_function_of_the_world(lattice):
    geometry = small_geometry(lattice, grid_side=9)
    positions = geometry.voxel_positions(torch.zeros((), dtype=F64))  # [Z, Y, X, 3]
    volume = positions.movedim(-1, 0)[None]
    K, pose = intrinsics(30.0, 24), camera(33, 21)
    where = geometry.projection(K, pose, 24, 8)
    rows = project(volume, [where])[0].flatten(1)[:, where.position].T
    plane, v, u = where.position // 64, where.position // 8 % 8, where.position % 8
    K_map, depth = geometry.map_intrinsics(K, 24, 8), geometry.plane_depths(K)[plane]
    x, y = (u - K_map[0, 2]) / K_map[0, 0] * depth, (v - K_map[1, 2]) / K_map[1, 1] * depth
    world = transform_points(pose, torch.stack([x, y, depth], dim=-1))
    low, high = positions[0, 0, 0], positions[-1, -1, -1]
    inner = ((world >= low) & (world <= high)).all(dim=1)  # beyond, the outermost voxels are replicated
    assert inner.sum() > 20
    torch.testing.assert_close(rows[inner], world[inner])


def test_centred_lattice_lifts_pixel_coordinates_where_the_camera_model_projects_them():
    geometry, K, pose = small_geometry("centred"), intrinsics(30.0, 24), camera(33, 21)
    v, u = torch.meshgrid(*(torch.arange(8, dtype=F64),) * 2, indexing="ij")
    lifted = lift(torch.stack((u, v))[None], [geometry.lifting(K, pose, 24, 8)])[0].movedim(0, -1)
    points_cam = transform_points(torch.linalg.inv(pose), geometry.voxel_positions(pose))
    pixels, _ = project_points(points_cam, resize_intrinsics(K, (24, 24), (8, 8)))
    inner = ((pixels >= 0) & (pixels <= 7)).all(dim=-1)
    assert inner.any()
    torch.testing.assert_close(lifted[inner], pixels[inner])


def test_lattices_differ_by_half_a_voxel_and_only_centred_is_centred():
    like = torch.zeros((), dtype=F64)
    centred, released = (small_geometry(name).voxel_positions(like) for name in ("centred", "released"))
    torch.testing.assert_close(centred - released, torch.full_like(centred, 0.5 * 1.1 / 5))
    torch.testing.assert_close(centred.mean(dim=(0, 1, 2)), torch.tensor([0.1, -0.2, 0.05], dtype=F64))


@BOTH
@pytest.mark.parametrize("far", [None, 2.6])
def test_metric_depth_of_a_single_plane_is_that_plane(lattice, far):
    geometry = small_geometry(lattice, far=far)
    fractions = (torch.arange(9, dtype=F64) - 4.5) / 9  # what the network reports for weight 1 on one plane
    torch.testing.assert_close(geometry.metric_depth(fractions), geometry.plane_depths(fractions))
    if far is not None and lattice == "centred":
        torch.testing.assert_close(geometry.plane_depths(fractions).mean().item(), (0.8 + far) / 2)


# --- odd cases -------------------------------------------------------------------------------------


def test_a_voxel_in_the_camera_centre_is_not_visible():
    geometry = VolumeGeometry((0, 0, 0), 3.0, 0.5, 3, 4)
    uv, _, visible = geometry.project_voxels(intrinsics(9.0, 8), torch.eye(4, dtype=F64), 8)
    assert uv.isfinite().all()
    assert not visible[13]  # the middle of 27, at the camera itself
