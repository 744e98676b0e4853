"""Depth from focus, plane sweep and the measures, on stacks whose answer is known."""

import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from dfd_selfsup.datasets.stack import FocalStack, resize_stack
from dfd_selfsup.measures import best_slice, mean_gradient, measure_stack, rank_correlation, spatial_frequency
from dfd_selfsup.models.focus_measure import (
    FULL_SIZE_BLUR_PX,
    FULL_SIZE_POWER,
    SURE,
    depth_from_focus,
    depth_of_photos,
    focus_response,
    full_size_image,
    ring_difference,
    sum_modified_laplacian,
)
from dfd_selfsup.models.options import PsfOptions
from dfd_selfsup.models.plane_sweep import plane_sweep
from dfd_selfsup.models.psf import improve_image, render_stack
from dfd_selfsup.models.thin_lens import Defocus, Lens
from shared.quality.metrics import psnr

PSF = PsfOptions(window=11, threshold_px=0.2)
RAMP = (torch.arange(4096) / 4096).view(1, 1, 64, 64).expand(1, 3, 64, 64)


def two_planes(height: int = 40, width: int = 56) -> tuple[FocalStack, torch.Tensor]:
    """A textured stack, left half at q = 0.8, right half at q = 0.33, blurred by the training's own PSF."""
    aif = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    q = torch.full((1, 1, height, width), 0.8)
    q[..., width // 2 :] = 0.33
    defocus = Defocus.thin_lens(Lens(100, 2, 400), [1, 1.5, 2.5, 4, 6])
    images = render_stack(aif, defocus.sigma_px(q), PSF)[0]
    truth = {"aif": aif[0], "depth": 1 / q[0, 0], "valid": torch.ones(height, width, dtype=torch.bool)}
    return FocalStack("planes", images, defocus, **truth), q[0, 0]


def away_from_edges(q: torch.Tensor) -> torch.Tensor:
    keep = torch.zeros_like(q, dtype=torch.bool)
    keep[8:-8, 8:20] = keep[8:-8, 36:-8] = True
    return keep


@pytest.mark.parametrize("measure", ["sml", "ring", "even"])
def test_focus_measures_find_the_sharpest_slice(measure):
    stack, q = two_planes()
    found = stack.defocus.focus_q[focus_response(stack.images, measure).argmax(0)]
    nearest = stack.defocus.focus_q[(stack.defocus.focus_q - 0.8).abs().argmin()]
    assert (found[8:-8, 8:20] == nearest).float().mean() > 0.95
    refined = depth_from_focus(stack.images, stack.defocus, measure).q
    inside = away_from_edges(q)
    error = (refined - q).abs()[inside].mean()
    assert error < 0.8 * (found - q).abs()[inside].mean()
    assert error < 0.08


def test_modified_laplacian_is_that_of_scipy():
    image = torch.rand(2, 3, 9, 11, dtype=torch.float64)
    grey = image.mean(1).numpy()
    for index in range(2):
        lines = [ndimage.correlate1d(grey[index], [-1, 2, -1], axis, mode="nearest") for axis in (0, 1)]
        expected = torch.tensor(abs(lines[0]) + abs(lines[1]))
        assert torch.allclose(sum_modified_laplacian(image)[index], expected)


def test_ring_difference_ignores_flat_and_linear_pictures():
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(20.0), indexing="ij")
    response = ring_difference((0.1 + 0.01 * x + 0.02 * y).expand(1, 3, 20, 20))
    assert response[0, 6:-6, 6:-6].max() < 1e-6
    point = torch.zeros(1, 3, 20, 20)
    point[..., 10, 10] = 1
    response = ring_difference(point)[0]
    assert response[10, 10] == response.max() == pytest.approx(3**0.5 / 5)  # a disc of 5 pixels, 3 colours
    assert response[10, 12] == response[10, 13] == 0 < response[10, 14]  # the gap, and the ring


def test_ring_difference_is_that_of_a_convolution_with_disc_and_ring():
    images = torch.rand(2, 3, 24, 19)
    offsets = torch.arange(-5.0, 6)
    radius = (offsets[:, None] ** 2 + offsets**2).sqrt()
    disc, ring = (radius <= 1).float(), ((radius > 3) & (radius <= 5)).float()
    kernel = (disc / disc.sum() - ring / ring.sum()).expand(3, 1, 11, 11)
    expected = F.conv2d(F.pad(images, (5,) * 4, mode="replicate"), kernel, groups=3).norm(dim=1)
    torch.testing.assert_close(ring_difference(images), expected, atol=1e-6, rtol=1e-5)


def test_plane_sweep_finds_depth_between_the_slices():
    stack, q = two_planes()
    found, aif = plane_sweep(stack.images, stack.defocus, (0.15, 1.1), PSF, hypotheses=30, window=7, rounds=3)
    error = (found - q).abs()[away_from_edges(q)]
    assert error.mean() < 0.02
    focus, composite, _ = depth_from_focus(stack.images, stack.defocus)
    assert error.mean() < 0.8 * (focus - q).abs()[away_from_edges(q)].mean()
    assert (aif - stack.aif).square().mean() < 0.8 * (composite - stack.aif).square().mean()


def test_an_image_is_improved_by_plain_steps_down_the_error_where_kernels_hold_the_blur():
    """Against a finite difference of the error, and not at all by a slice that is too blurred."""
    stack, q = two_planes()
    images, sigma = stack.images[None], stack.defocus.sigma_px(q[None, None])
    start = (stack.aif + 0.05 * torch.randn(stack.aif.shape, generator=torch.Generator().manual_seed(0)))[
        None
    ]
    found = improve_image(start, images, sigma, PSF, 6)
    assert (found - stack.aif).square().mean() < 0.3 * (start - stack.aif).square().mean()
    held = (sigma < PSF.window // 2).unsqueeze(2) / images.shape[1]

    def error(image: torch.Tensor) -> torch.Tensor:
        return (held * (render_stack(image.double(), sigma.double(), PSF) - images).square()).sum() / 2

    once, bump = improve_image(0.5 * start + 0.2, images, sigma, PSF, 1), torch.zeros_like(start)
    bump[0, 1, 20, 30] = 1e-3
    slope = (error(0.5 * start + 0.2 + bump) - error(0.5 * start + 0.2 - bump)) / 2e-3
    moved = (0.5 * start + 0.2 - once)[0, 1, 20, 30]
    assert moved.item() == pytest.approx(1.5 * slope.item(), rel=0.02, abs=1e-5)
    blurred = torch.cat([sigma[:, :-1], torch.full_like(sigma[:, -1:], 50.0)], 1)
    other = images.clone()
    other[:, -1] = 0
    assert torch.equal(
        improve_image(start, images, blurred, PSF, 2), improve_image(start, other, blurred, PSF, 2)
    )


def test_sharpness_measures_are_the_published_ones():
    assert mean_gradient(RAMP).item() == pytest.approx(0.01623638, abs=1e-7)
    assert spatial_frequency(RAMP).item() == pytest.approx(0.07299674, abs=1e-7)


def test_measures_of_a_stack():
    stack, _ = two_planes()
    row = measure_stack(stack, stack.estimate(1 / stack.depth, stack.aif), (0.5, 8))
    assert (row["abs_rel"], row["delta1"], row["psnr"]) == (pytest.approx(0, abs=1e-6), 1, float("inf"))
    row = measure_stack(stack, stack.estimate(1 / (1.1 * stack.depth), best_slice(stack)), (0.5, 8))
    assert row["abs_rel"] == pytest.approx(0.1, abs=1e-5)
    assert 10 < row["psnr"] < 40


def test_rank_correlation_sees_order_alone():
    a = torch.rand(10, 10)
    assert rank_correlation(a, a.exp()) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    valid = torch.rand(10, 10) > 0.3
    assert rank_correlation(a, torch.where(valid, a, 0), valid) == pytest.approx(1)


@pytest.mark.parametrize("measure", ["sml", "ring", "even"])
def test_slices_that_come_one_by_one_give_what_all_at_once_give(measure):
    stack, q = two_planes(60, 40)
    response = focus_response(stack.images, measure)
    found = depth_from_focus(iter(stack.images), stack.defocus, measure)
    assert torch.equal(found.aif, stack.images.gather(0, response.argmax(0).expand(1, 3, -1, -1))[0])
    if measure != "even":  # whose confidence knows only what is close by
        assert torch.allclose(found.confidence, 1 - response.mean(0) / response.amax(0), atol=1e-5)
    if measure == "ring":
        blur = stack.defocus.sigma_px(q[None, None])[0]
        weights = torch.softmax(FULL_SIZE_POWER * response.log() - blur / FULL_SIZE_BLUR_PX, 0)
        expected = (weights[:, None] * stack.images).sum(0)
        assert torch.allclose(full_size_image(iter(stack.images), stack.defocus, q), expected, atol=1e-5)


def test_blanks_are_invalid_and_filled_and_specks_go():
    stack, q = two_planes(80, 112)
    images = stack.images.clone()
    images[:, :, 20:50, 70:100] = 0.5  # a blank in the far half
    images[:, :, 40:44, 20:24] += torch.linspace(0, 0.1, 5)[:, None, None, None]  # a step that grows: a speck
    found, confidence = depth_of_photos(images.clamp(0, 1), stack.defocus)
    assert (confidence[28:42, 78:92] < SURE).all(), "nothing to tell by"
    assert (confidence[60:75, 65:105] > SURE).all()
    assert (found - q).abs()[28:42, 78:92].max() < 0.15
    assert (found - q).abs()[30:54, 12:32].max() < 0.3


def test_full_size_keeps_the_detail_that_shrinking_loses():
    stack, q = two_planes(80, 112)
    small = resize_stack(stack, 40, 56)
    found = full_size_image(stack.images, stack.defocus, q[::2, ::2])
    enlarged = F.interpolate(small.aif[None], (80, 112), mode="bicubic", align_corners=False).clamp(0, 1)
    quality = psnr(found[None], stack.aif[None])
    assert quality > psnr(enlarged, stack.aif[None]) + 3
    assert quality > psnr(stack.images, stack.aif.expand_as(stack.images)).max() + 3
