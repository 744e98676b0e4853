"""The two splattings against each other, the paper's arithmetic in numbers, and its invariances."""

import numpy as np
import pytest
import torch

from diffdiffdepth.models import splatting as plain
from diffdiffdepth.models.fast import splatting
from diffdiffdepth.models.fast.splatting import splat


def random_points(count, size, seed, margin=4.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    unit = torch.rand(count, 2, generator=generator, dtype=dtype)
    extent = torch.tensor([width - 1 + 2 * margin, height - 1 + 2 * margin], dtype=dtype)
    labels = 1 + 3 * torch.rand(count, generator=generator, dtype=dtype)
    return unit * extent - margin, labels, torch.rand(count, generator=generator, dtype=dtype)


def test_reference_values():
    # two points, grid 9 x 10, disparity order; written out by hand from the formulas
    points = torch.tensor([[4.3, 4.7], [6.2, 4.1]]), torch.tensor([1.5, 0.5]), torch.tensor([1.0, 0.5])
    labels, weights = splat(*points, (9, 10), near_is_large=True)
    expected = [[0, 0, 1.40975, 1.49957, 1.5, 1.49999, 1.49672, 1.28911, 0.70784, 0.39102]]
    expected += [[0, 0, 1.4366, 1.49985, 1.5, 1.5, 1.4984, 1.32656, 0.7283, 0.34976]]
    np.testing.assert_allclose(labels[4:6].numpy(), expected, atol=1e-5)
    expected = [[0, 0, 0, 0.00824, 0.71201, 0.37919, 0.00166, 0.06904, 0.00001, 0]]
    expected += [[0, 0, 0, 0.0408, 0.96781, 0.71201, 0.00052, 0.01042, 0, 0]]
    np.testing.assert_allclose(weights[4:6].numpy(), expected, atol=1e-5)


def test_profile_of_a_single_point():
    # distances, opacity by the released code's quadrature, analytic opacity, weight
    table = [(0, 0.99884, 1, 1), (0.5, 0.99971, 1, 0.9388), (1, 1.00023, 0.99999, 0.3643)]
    table += [(2, 0.99030, 0.99143, 0), (2.5, 0.91277, 0.91334, 0), (3, 0.66150, 0.66180, 0)]
    for distance, sampled, analytic, weight in table:
        position = torch.tensor([[8.0 - distance, 5.0]])
        for opacity, expected in (("quadrature", sampled), ("analytic", analytic)):
            labels, weights = splat(
                position, torch.ones(1), torch.ones(1), (11, 17), near_is_large=True, opacity=opacity
            )
            assert abs(labels[5, 8].item() - expected) < 2e-5
            assert abs(weights[5, 8].item() - weight) < 1e-4


def test_a_near_point_hides_and_contaminates_a_far_one():
    points = torch.tensor([[10.0, 6.0], [12.0, 6.0]]), torch.tensor([2.0, 1.0]), torch.ones(2)
    labels, weights = splat(*points, (13, 24), near_is_large=True, opacity="quadrature")
    row = [1.323, 1.981, 2, 1.998, 2, 1.989, 1.662, 0.990, 0.662, 0]
    np.testing.assert_allclose(labels[6, 7:17].numpy(), row, atol=6e-4)
    np.testing.assert_allclose(weights[6, 9:14].numpy(), [0.364, 1, 0.364, 0.009, 0.123], atol=1e-3)


@pytest.mark.parametrize("opacity", ["analytic", "quadrature"])
@pytest.mark.parametrize("near_is_large", [True, False])
@pytest.mark.parametrize(("size", "factor", "half_size"), [((13, 21), 1, 3), ((17, 6), 2, 3), ((1, 9), 3, 5)])
def test_agrees_with_the_plain_twin(size, factor, half_size, near_is_large, opacity, monkeypatch):
    points = [x.requires_grad_() for x in random_points(120, size, 0)]
    options = {"near_is_large": near_is_large, "supersampling": factor}
    options |= {"half_size": half_size, "opacity": opacity}
    expected = plain.splat(*points, size, **options)
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in expected]
    wanted = torch.autograd.grad(expected, points, directions)
    for entries in (1 << 17, 900):  # one band, and as many as there can be
        monkeypatch.setattr(splatting, "ENTRIES_PER_BAND", entries)
        found = splat(*points, size, **options)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
        for a, b in zip(torch.autograd.grad(found, points, directions), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)
        frozen = splatting.FrozenSplat(*points[:2], size, **options)(*points[1:])
        for a, b in zip(frozen, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)  # entries that hardly show are left out
        for a, b in zip(torch.autograd.grad(frozen, points[1:], directions), wanted[1:], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opacity", ["analytic", "quadrature"])
@pytest.mark.parametrize("near_is_large", [True, False])
def test_gradients(opacity, near_is_large):
    points = [x.requires_grad_() for x in random_points(9, (6, 8), 3, margin=2)]

    def maps(*inputs):
        return splat(*inputs, (6, 8), near_is_large=near_is_large, opacity=opacity)

    assert torch.autograd.gradcheck(maps, points)


def test_gradients_at_singular_places_are_finite():
    # on a pixel centre, on top of each other, at the kernel's edge, and far outside
    positions = torch.tensor(
        [[3.0, 3.0], [3.0, 3.0], [0.0, 0.0], [-3.0, 2.0], [1e6, -1e6]], requires_grad=True
    )
    labels, weights = torch.ones(5, requires_grad=True), torch.zeros(5, requires_grad=True)
    maps = splat(positions, labels, weights, (5, 7), near_is_large=False)
    (maps[0].sum() + maps[1].square().sum() + maps[1].sum()).backward()
    for tensor in (positions, labels, weights):
        assert torch.isfinite(tensor.grad).all()
    assert labels.grad[4] == 0
    assert positions.grad[4].abs().sum() == 0


def test_supersampling_keeps_the_place():
    # the centre of mass of the weights stays at the point, whatever the factor
    position, one = torch.tensor([[6.3, 4.6]], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for factor in (1, 2, 3, 4):
        _, weights = splat(position, one, one, (10, 13), near_is_large=True, supersampling=factor)
        assert weights.shape == (10 * factor, 13 * factor)
        fine_y, fine_x = (torch.arange(n * factor, dtype=torch.float64) for n in (10, 13))
        centre = (
            torch.stack([(weights.sum(0) * fine_x).sum(), (weights.sum(1) * fine_y).sum()]) / weights.sum()
        )
        torch.testing.assert_close((centre + 0.5) / factor - 0.5, position[0], atol=0.08, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, z, w: (p[:, :1], z, w), "positions_px"),
        (lambda p, z, w: (p, z[1:], w), "positions_px"),
        (lambda p, z, w: (p * torch.nan, z, w), "positions_px of the points contain NaN"),
        (lambda p, z, w: (p, z / 0, w), "labels of the points contain NaN or infinity"),
    ],
)
def test_bad_points_are_refused(change, message):
    points = random_points(5, (6, 6), 0)
    with pytest.raises(ValueError, match=message):
        splat(*change(*points), (6, 6), near_is_large=True)


def test_no_points_give_empty_maps():
    empty = torch.zeros(0, 2), torch.zeros(0), torch.zeros(0)
    for raster in splat(*empty, (5, 4), near_is_large=True):
        assert raster.shape == (5, 4)
        assert (raster == 0).all()
