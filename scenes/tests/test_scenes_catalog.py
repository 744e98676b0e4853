"""Every catalog entry renders, is seeded, stays in its bounds and looks like more than one colour."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

from scenes import OBJECTS, make_object, render
from scenes.patterns import fractal_noise, glyph_mask
from scenes.rooms import room
from scenes.streets import street
from scenes.tabletop import tabletop
from shared.geometry.camera import intrinsics_matrix, pixel_grid, project, transform_points, unproject
from shared.geometry.trajectories import orbit_trajectory

PLACES = {"room": (room, 0.85), "street": (street, 0.9), "tabletop": (tabletop, 1.2)}  # focal length per side
ORBIT = orbit_trajectory(12, 1.7, 30.0)


@functools.cache
def scene_of(name, seed):
    return PLACES[name][0](seed) if name in PLACES else replace(make_object(name, seed), cameras=ORBIT)


def intrinsics(name, height, width):
    focal = PLACES[name][1] * width if name in PLACES else 1.1 * min(height, width)
    return intrinsics_matrix(focal, focal, (width - 1) / 2, (height - 1) / 2)


@pytest.mark.parametrize("name", [*OBJECTS, *PLACES])
def test_entry_renders_with_its_own_camera_and_its_depth_agrees_between_two_views(name):
    scene = scene_of(name, 1)
    height, width = 45, 64
    K = intrinsics(name, height, width)
    first, second = (scene.cameras[i % len(scene.cameras)].clone() for i in (0, 1))
    if len(scene.cameras) == 1:
        second[0, 3] += 0.05
    a, b = (render(scene, K, pose, height, width, 1) for pose in (first, second))
    assert a.mask.float().mean() > 0.05
    if name not in OBJECTS:
        assert a.mask.float().mean() > (0.5 if name == "street" else 0.999)
    assert not a.image.isnan().any()
    inside = a.image[:, a.mask]
    assert inside.std(1).max() > 0.05  # textured
    assert len((inside * 16).round().unique(dim=1).T) > 15  # in many colours
    points = transform_points(first, unproject(pixel_grid(height, width), a.depth, K))[a.mask]
    # A's points, seen from B, are nowhere in front of B's surface: B would have hit them there
    in_b = transform_points(torch.linalg.inv(second), points)
    pixels, depth = project(in_b, K)
    column, row = pixels.round().long().unbind(-1)
    seen = (depth > 0.05) & (column >= 1) & (column < width - 1) & (row >= 1) & (row < height - 1)
    farthest = torch.nn.functional.max_pool2d(b.depth[None], 3, 1, 1)[0][row[seen], column[seen]]
    # a shape thinner than a pixel may hide between rays
    assert (depth[seen] <= farthest * 1.01 + 1e-3).float().mean() > 0.8
    nearest = -torch.nn.functional.max_pool2d(-b.depth[None], 3, 1, 1)[0][row[seen], column[seen]]
    assert (depth[seen] >= nearest * 0.99 - 1e-3).float().mean() > 0.97


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_stay_within_their_ball_and_follow_the_seed(name):
    scene, again, other = make_object(name, 2), make_object(name, 2), make_object(name, 3)
    K = intrinsics(name, 40, 40)
    pose = ORBIT[1]
    pictures = [render(s, K, pose, 40, 40, 2) for s in (scene, again, other)]
    assert torch.equal(pictures[0].image, pictures[1].image)
    assert torch.equal(pictures[0].depth, pictures[1].depth)
    assert (pictures[0].image - pictures[2].image).abs().max() > 0.1
    depth = pictures[0].depth[pictures[0].mask]
    assert depth.min() > 1.0  # camera at 1.7: nothing reaches 0.7
    border = torch.ones(40, 40, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert not pictures[0].mask[border].any()
    assert (pictures[0].image[:, border] == 1).all()


def test_street_cameras_drive_forward_and_room_cameras_are_inside():
    drive = scene_of("street", 1)
    step = drive.cameras[1:, :3, 3] - drive.cameras[:-1, :3, 3]
    assert (step[:, 0] > 0.5).all()
    assert (drive.cameras[:, 0, 2] > 0.99).all()  # they look along +x
    inside = scene_of("room", 1)
    K = intrinsics("room", 24, 32)
    for pose in inside.cameras[::4]:
        depth = render(inside, K, pose, 24, 32, 1).depth
        assert depth.min() > 0.15
        assert depth.max() < 9


def test_an_unknown_object_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="pedestal"):
        make_object("street")


def test_noise_repeats_without_a_seam_and_glyphs_are_centred():
    noise = fractal_noise(128, np.random.default_rng(0), 1.5)
    seam, inner = np.abs(noise[0] - noise[-1]).mean(), np.abs(noise[1:] - noise[:-1]).mean()
    assert seam < 2 * inner
    for text in ("H", "AB", "8"):
        mask = glyph_mask(text, 96)
        rows, columns = np.nonzero(mask.max(1))[0], np.nonzero(mask.max(0))[0]
        assert abs(rows[0] + rows[-1] - 95) <= 1
        assert abs(columns[0] + columns[-1] - 95) <= 1
        assert 0.03 < mask.mean() < 0.6
