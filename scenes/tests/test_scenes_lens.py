"""The thin-lens sampler: width of blur, plane of focus, the limit of a pinhole."""

import numpy as np
import pytest
import torch

from scenes import Item, Light, Scene, render
from scenes.lens import lens_points
from scenes.shapes import Quad, placed
from scenes.tests.thin_lens import render_thin_lens
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
    blur = 200.0 * aperture * abs(1 / depth - 1 / focus)
    image = render_thin_lens(edge_scene(depth), K, pose, 25, 81, focus, aperture, 512)[0]
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


def test_in_focus_and_at_aperture_zero_it_is_the_pinhole_picture():
    pose = torch.eye(4)
    sharp = render(edge_scene(2.0), K, pose, 9, 81, 8).image
    for focus, aperture in ((2.0, 0.3), (0.7, 0.0)):
        lens = render_thin_lens(edge_scene(2.0), K, pose, 9, 81, focus, aperture, 128)
        assert (lens - sharp).abs().max() < 0.06  # both count samples on one side of the edge


def test_lens_points_are_even():
    disc, offsets = lens_points(200, torch.zeros((), dtype=torch.float64))
    assert disc.norm(dim=1).max() < 1
    assert offsets.abs().max() <= 0.5
    torch.testing.assert_close(disc.mean(0), torch.zeros(2).double(), atol=5e-3, rtol=0)
    covariance = disc.T @ disc / len(disc)
    torch.testing.assert_close(covariance, torch.eye(2).double() / 4, atol=5e-3, rtol=0)  # of a uniform disc
    cross = disc.T @ offsets / len(disc)
    assert cross.abs().max() < 0.02
