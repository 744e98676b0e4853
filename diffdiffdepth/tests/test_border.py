"""Planes that go on to the border of the image, and what a map makes of them."""

from dataclasses import replace

import torch

from diffdiffdepth.config import TrainConfig
from diffdiffdepth.models.point_depth import DepthOptions
from diffdiffdepth.points.border import border_points
from diffdiffdepth.routine import build_model
from diffdiffdepth.scene import LightField, SparsePoints
from shared.geometry.camera import pixel_grid

HEIGHT, WIDTH, EMPTY = 60, 80, 25  # the lowest rows are without points


def floor() -> tuple[torch.Tensor, torch.Tensor]:
    """A grey floor that rises towards the viewer, a red wall at its left; its disparity and its colours."""
    x, y = pixel_grid(HEIGHT, WIDTH).unbind(-1)
    wall = x < 20
    truth = torch.where(wall, 1.5, -1 + 0.03 * y + 0.004 * x)
    image = torch.full((3, HEIGHT, WIDTH), 0.5)
    image[1:, wall] = 0.1
    return truth, image


def points_on(truth: torch.Tensor, count: int = 900) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    place = torch.rand(count, 2, generator=generator) * torch.tensor([WIDTH - 1.0, HEIGHT - 1 - EMPTY])
    x, y = place.round().long().unbind(1)
    labels = truth[y, x] + 0.003 * torch.randn(count, generator=generator)
    return place.round(), labels


def test_planes_go_on_to_the_border_by_the_points_of_their_own_colour():
    truth, image = floor()
    places, labels = border_points(*points_on(truth), image)
    x, y = places.long().unbind(1)
    assert (y >= HEIGHT - EMPTY).all()  # elsewhere there are points
    assert ((x == 0) | (x == WIDTH - 1) | (y == HEIGHT - 1)).all()
    assert (y == HEIGHT - 1).sum() > 15
    assert (labels - truth[y, x]).abs().max() < 0.06


def test_points_that_agree_on_no_plane_say_nothing():
    truth, image = floor()
    positions, labels = points_on(truth)
    noise = torch.randn(len(labels), generator=torch.Generator().manual_seed(1))
    assert len(border_points(positions, noise, image)[0]) == 0
    assert len(border_points(positions[:5], labels[:5], image)[0]) == 0


def test_a_map_does_not_level_off_and_depth_is_left_alone():
    truth, image = floor()
    positions, labels = points_on(truth)
    scene = LightField(
        image, image[None], torch.ones(1, 2), points=SparsePoints(positions, labels, "disparity")
    )
    options = DepthOptions(supersampling=1)
    errors = {}
    for extend in (False, True):
        config = TrainConfig(depth=replace(options, extend=extend), label_unit=1.0)
        errors[extend] = (build_model(config, scene).dense() - truth)[-5:, 25:].abs().mean()
    assert errors[True] < 0.05
    assert errors[False] > 0.5
