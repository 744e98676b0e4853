"""The thin-lens sampler: width of blur, plane of focus, the limit of a pinhole."""

import numpy as np
import pytest
import torch

from scenes import Item, Light, Scene, letter_cube, render
from scenes.lens import circle_of_confusion_px, lens_points, render_focal_stack, render_thin_lens
from scenes.shapes import Quad, placed
from scenes.textures import solid

FLAT = Light(sun=(0.0, 0.0, 0.0), sky=(1.0, 1.0, 1.0), ground=(1.0, 1.0, 1.0))
K = torch.tensor([[200.0, 0, 40.0], [0, 200.0, 12.0], [0, 0, 1]])


def edge_scene(depth):
    """Black left half plane at z = depth before white; the camera looks along +z from the origin."""
    half = Quad((50.0, 50.0), placed((-50.0, 0.0, depth)))
    return Scene([Item(half, solid(0, 0, 0))], FLAT)


@pytest.mark.parametrize(("depth", "focus"), [(1.0, 2.0), (3.0, 1.5)])
def test_blur_of_an_edge_is_the_integral_of_the_lens_disc(depth, focus):
    aperture, pose = 0.1, torch.eye(4)
    blur = float(circle_of_confusion_px(torch.tensor(depth), focus, aperture, 200.0))
    image = render_thin_lens(edge_scene(depth), K, pose, 25, 81, focus, aperture, 512).image[0]
    profile = image.mean(0).double().numpy()
    # the edge's spread has the second moment of a disc of diameter `blur` plus that of the pixel
    step = np.diff(profile)
    at = np.arange(80) + 0.5
    mean = (step * at).sum() / step.sum()
    variance = (step * (at - mean) ** 2).sum() / step.sum()
    assert mean == pytest.approx(40.0, abs=0.1)
    assert np.sqrt((variance - 1 / 12) * 16) == pytest.approx(blur, rel=0.03)
    assert profile[: int(40 - blur / 2 - 1)].max() == 0
    assert profile[int(40 + blur / 2 + 2) :].min() == 1


def test_thin_lens_formula_in_metres():
    """50 mm at f/2 focused at 2 m, 10 micron pixels, against the textbook formula."""
    focal, focus, pitch = 0.05, 2.0, 1e-5
    sensor = focal * focus / (focus - focal)
    depth = torch.tensor([0.8, 1.7, 2.0, 6.0], dtype=torch.float64)
    expected = focal / 2 * focal / (focus - focal) * (depth - focus).abs() / depth / pitch
    torch.testing.assert_close(circle_of_confusion_px(depth, focus, focal / 2, sensor / pitch), expected)


def test_in_focus_and_at_aperture_zero_it_is_the_pinhole_picture():
    pose = torch.eye(4)
    sharp = render(edge_scene(2.0), K, pose, 9, 81, 8).image
    for focus, aperture in ((2.0, 0.3), (0.7, 0.0)):
        lens = render_thin_lens(edge_scene(2.0), K, pose, 9, 81, focus, aperture, 128).image
        assert (lens - sharp).abs().max() < 0.06  # both count samples on one side of the edge


def test_stack_shares_geometry_and_focus_moves():
    pose = torch.tensor([[0.0, 0, 1, -1.6], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    camera = torch.tensor([[60.0, 0, 24.0], [0, 60.0, 20.0], [0, 0, 1]])
    near, far = render_focal_stack(letter_cube(), camera, pose, 41, 49, [1.2, 4.0], 0.3, 32)
    pinhole = render(letter_cube(), camera, pose, 41, 49, 5)
    assert torch.equal(near.depth, far.depth)
    torch.testing.assert_close(near.depth, pinhole.depth, atol=1e-5, rtol=0)
    face = slice(12, 30), slice(16, 33)  # the front face is at z = 1.2
    error = [(view.image - pinhole.image)[:, face[0], face[1]].abs().mean() for view in (near, far)]
    assert error[0] < 0.01 < 4 * error[0] < error[1]


def test_lens_points_are_even():
    disc, offsets = lens_points(200, torch.zeros((), dtype=torch.float64))
    assert disc.norm(dim=1).max() < 1
    assert offsets.abs().max() <= 0.5
    torch.testing.assert_close(disc.mean(0), torch.zeros(2).double(), atol=5e-3, rtol=0)
    covariance = disc.T @ disc / len(disc)
    torch.testing.assert_close(covariance, torch.eye(2).double() / 4, atol=5e-3, rtol=0)  # of a uniform disc
    cross = disc.T @ offsets / len(disc)
    assert cross.abs().max() < 0.02


def test_bad_lenses_are_refused():
    with pytest.raises(ValueError, match="focus"):
        render_thin_lens(edge_scene(1.0), K, torch.eye(4), 4, 4, 0.0, 0.1)
    with pytest.raises(ValueError, match="aperture"):
        render_thin_lens(edge_scene(1.0), K, torch.eye(4), 4, 4, 1.0, -0.1)
