"""Cameras, antialiasing, depth, texture filtering and light of the scene renderer."""

import math

import numpy as np
import pytest
import torch

from scenes import Item, Light, Scene, render
from scenes.objects import vase
from scenes.patterns import fractal_noise
from scenes.scene import beam_candidates, trace
from scenes.shapes import Box, Quad, Sphere, placed
from scenes.textures import Texture, solid
from shared.geometry.camera import look_at, pixel_grid, unproject

FLAT = Light(sun=(0.0, 0.0, 0.0), sky=(1.0, 1.0, 1.0), ground=(1.0, 1.0, 1.0))  # shows albedo as it is


def intrinsics(focal, cx, cy, dtype=torch.float32):
    return torch.tensor([[focal, 0, cx], [0, focal * 1.03, cy], [0, 0, 1]], dtype=dtype)


def noise_texture(size=1.0, side=128, seed=0):
    rng = np.random.default_rng(seed)
    return Texture(np.stack([fractal_noise(side, rng, 1.8) for _ in range(3)], -1), (size, size))


def test_depth_is_exact_on_a_slanted_plane_and_a_sphere_at_an_odd_size():
    K, pose = intrinsics(70.0, 20.3, 31.7, torch.float64), look_at(torch.tensor([2.0, -3.0, 2.0]).double())
    height, width = 47, 61
    view = render(Scene([Item(Quad((50, 50)), solid(1, 0, 0))]), K, pose, height, width, 2)
    rays = (
        unproject(pixel_grid(height, width, dtype=torch.float64), torch.ones(()).double(), K) @ pose[:3, :3].T
    )
    expected = -pose[2, 3] / rays[..., 2]
    hit = (expected > 0) & (expected < 20)
    torch.testing.assert_close(view.depth[hit], expected[hit])
    sphere = render(
        Scene([Item(Sphere(0.8, placed((0.1, 0.2, 0.3))), solid(1, 0, 0))]), K, pose, height, width, 1
    )
    o = pose[:3, 3] - torch.tensor([0.1, 0.2, 0.3]).double()
    a, b, c = (rays * rays).sum(-1), rays @ o, o @ o - 0.64
    gap = b * b - a * c
    torch.testing.assert_close(sphere.mask, gap >= 0)
    torch.testing.assert_close(sphere.depth[gap >= 0], ((-b - gap.clamp_min(0).sqrt()) / a)[gap >= 0])


def test_background_is_exactly_white_and_edges_are_blended():
    K, pose = intrinsics(60.0, 31.5, 31.5), look_at((1.7, 0.3, 0.4))
    cube = Scene([Item(Box((0.4, 0.4, 0.4)), solid(0, 0, 0))], FLAT)
    view = render(cube, K, pose, 64, 64, 5)
    grown = torch.nn.functional.max_pool2d(view.mask[None].float(), 3, 1, 1)[0] > 0
    assert (view.image[:, ~grown] == 1).all()
    cover = 1 - view.image[0]  # black on white: the colour is the coverage
    partial = (cover > 0) & (cover < 1)
    assert 20 < partial.sum() < 400
    finer = 1 - render(cube, K, pose, 64, 64, 12).image[0]
    assert (cover - finer).abs().max() < 0.21  # an edge moves by at most one of five columns
    assert abs(float(cover.sum() - finer.sum())) < 0.01 * float(finer.sum())


def test_render_is_deterministic_and_independent_of_tiles(monkeypatch):
    K, poses = intrinsics(70.0, 30.0, 25.0), torch.stack([look_at((1.5, 0.2, 0.4)), look_at((0.2, 1.4, 0.9))])
    scene = vase(3)
    both = [render(scene, K, pose, 51, 62, 2) for pose in poses]
    monkeypatch.setattr("scenes.rendering._RAYS_PER_TILE", 1500)
    for pose, whole in zip(poses, both, strict=True):
        for got, expected in zip(render(vase(3), K, pose, 51, 62, 2), whole, strict=True):
            torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    assert (render(vase(4), K, poses[0], 51, 62, 2).image - both[0].image).abs().max() > 0.05


def test_candidates_never_drop_a_hit():
    rng = np.random.default_rng(0)
    places = rng.uniform(-4, 4, (60, 3))
    items = [Item(Sphere(float(rng.uniform(0.05, 0.5)), placed(p)), solid(0, 0, 0)) for p in places]
    scene = Scene(items)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        origin = torch.randn(3, 1, generator=generator) * 3 + 0.05 * torch.randn(3, 200, generator=generator)
        directions = torch.randn(3, 1, generator=generator) + 0.3 * torch.randn(3, 200, generator=generator)
        everything = trace(scene, origin, directions, list(range(len(items))))
        culled = trace(scene, origin, directions, beam_candidates(scene, origin, directions))
        assert torch.equal(everything.item, culled.item)
        assert torch.equal(everything.t, culled.t)


def test_texture_sampling_is_bilinear_between_texel_centres_and_repeats():
    picture = np.random.default_rng(1).random((4, 8, 3)).astype(np.float32)
    texture = Texture(picture, (2.0, 1.0))
    rows, columns = np.mgrid[0:4, 0:8]
    u = torch.tensor((columns.ravel() + 0.5) / 8 * 2.0 - 1.0)
    v = torch.tensor((rows.ravel() + 0.5) / 4 - 0.5)
    part, sharp = torch.zeros(32, dtype=torch.int64), torch.zeros(32)
    expected = torch.tensor(picture.reshape(32, 3).T)
    for shift_u, shift_v in ((0.0, 0.0), (2.0, 0.0), (-4.0, 3.0)):
        uv = torch.stack([u + shift_u, v + shift_v]).float()
        torch.testing.assert_close(texture(uv, part, sharp), expected, atol=1e-5, rtol=0)
    middle = torch.tensor([[-1.0], [-0.5 + 0.125]])  # u on the seam: mean of the first and the last texel
    seam = texture(middle, part[:1], sharp[:1])[:, 0]
    torch.testing.assert_close(seam, torch.tensor((picture[0, 0] + picture[0, 7]) / 2), atol=1e-5, rtol=0)
    clamped = Texture(picture, (2.0, 1.0), repeat=False)(torch.tensor([[-7.0], [-9.0]]), part[:1], sharp[:1])
    torch.testing.assert_close(clamped[:, 0], torch.tensor(picture[0, 0]))


def test_wide_footprints_read_the_mean_and_parts_pick_layers():
    layers = np.random.default_rng(2).random((2, 16, 16, 3)).astype(np.float32)
    texture = Texture(layers, layer_of_part=(0, 1))
    uv, part = torch.rand(2, 6), torch.tensor([0, 1, 0, 1, 5, 5])
    colours = texture(uv, part, torch.full((6,), 100.0))
    expected = torch.tensor(layers.reshape(2, -1, 3).mean(1))[part.clamp_max(1)].T
    torch.testing.assert_close(colours, expected, atol=1e-5, rtol=0)


def test_lambert_shadow_and_occlusion():
    pose = look_at((0.0, -0.01, 6.0))
    K = intrinsics(60.0, 31.5, 31.5)
    floor, ball = Item(Quad((4, 4)), solid(1, 1, 1)), Item(Sphere(0.5, placed((0, 0, 1.5))), solid(1, 1, 1))

    def picture(items, **light):
        return render(Scene(items, Light(to_sun=(1, 0, 1), ground=(0, 0, 0), **light)), K, pose, 64, 64).image

    lit = picture([floor], sun=(0.5, 0.5, 0.5), sky=(0.1, 0.1, 0.1))
    expected = (0.5 * math.cos(math.pi / 4) + 0.1) ** (1 / 2.2)
    torch.testing.assert_close(lit, torch.full_like(lit, expected), atol=1e-5, rtol=0)
    options = {"sun": (0.5, 0.5, 0.5), "sky": (0.1, 0.1, 0.1)}
    shaded = picture([floor, ball], shadows=True, **options)
    dark = (shaded - 0.1 ** (1 / 2.2)).abs().amax(0) < 1e-4
    x = torch.arange(64)[None].expand(64, 64)[dark].float().mean()
    # the sun is at +x, 45 degrees: the shadow's centre is 1.5 to -x, ten pixels per unit at depth 6
    assert dark.sum() > 50
    assert x == pytest.approx(31.5 - 15.0, abs=1.5)
    unblocked = picture([floor, Item(ball.shape, ball.texture, blocks_light=False)], shadows=True, **options)
    assert ((unblocked - 0.1 ** (1 / 2.2)).abs().amax(0) < 1e-4).sum() == 0
    resting = Item(Sphere(0.5, placed((0, 0, 0.5))), solid(1, 1, 1))
    open_sky = {"sun": (0, 0, 0), "sky": (0.5, 0.5, 0.5)}
    occluded = picture([floor, resting], occlusion_radius=0.5, **open_sky)
    assert occluded[0, 32, 32 - 7] < 0.9 * occluded[0, 32, 2]
    torch.testing.assert_close(occluded[0, 32, 2], torch.tensor(0.5 ** (1 / 2.2)), atol=1e-4, rtol=0)
