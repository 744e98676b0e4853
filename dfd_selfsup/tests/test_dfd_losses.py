"""The losses against published fixtures, and who gives gradient to what."""

import math

import pytest
import torch

from dfd_selfsup.config import LossOptions
from dfd_selfsup.losses import (
    blur_loss,
    mix,
    selfsup_losses,
    sharpness,
    smooth_loss,
    supervised_losses,
)
from dfd_selfsup.models.heads import Prediction
from dfd_selfsup.models.psf import render_stack
from dfd_selfsup.models.thin_lens import Defocus, Lens
from shared.quality.ssim import ssim

RAMP = (torch.arange(4096) / 4096).view(1, 1, 64, 64)
A = RAMP.expand(1, 3, 64, 64)
B = 0.9 * A + 0.02


def test_fixtures_of_a_ramp():
    assert ssim(A, B, "gaussian11_zero_pad").item() == pytest.approx(0.98911452, abs=2e-6)
    assert (A - B).abs().mean().item() == pytest.approx(0.03399269, abs=1e-6)
    assert mix(A, B).item() == pytest.approx(0.85 * (1 - 0.98911452) + 0.15 * 0.03399269, abs=2e-6)
    assert (sharpness(A) - sharpness(B)).abs().mean().item() == pytest.approx(0.00906004, abs=1e-6)
    assert blur_loss(RAMP).item() == pytest.approx(1.51133239, abs=1e-5)
    depth = Prediction(1 / (5 * RAMP + 1e-12), A, RAMP)
    assert smooth_loss(depth, LossOptions()).item() == pytest.approx(0.24481417, abs=1e-5)


def test_blur_of_flat_images_is_their_border_alone():
    assert blur_loss(torch.zeros(1, 3, 64, 64)).item() == pytest.approx(4.60517, abs=1e-5)
    assert blur_loss(torch.full((1, 3, 256, 256), 0.5)).item() == pytest.approx(1.98699343, abs=1e-5)


def step(options: LossOptions) -> dict[str, tuple[float, float]]:
    """Largest gradient in (q, aif) of every term on one random stack."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 5, 3, 24, 32, generator=generator)
    defocus = Defocus.thin_lens(Lens(50, 8, 12), [1, 1.5, 2.5, 4, 6])
    q = (0.15 + 0.7 * torch.rand(1, 1, 24, 32, generator=generator)).requires_grad_()
    aif = torch.rand(1, 3, 24, 32, generator=generator).requires_grad_()
    sigma = defocus.sigma_px(q)
    terms = selfsup_losses(Prediction(q, aif, sigma), render_stack(aif, sigma), images, options)
    gradients = {}
    for name, term in terms.items():
        if not term.requires_grad:
            gradients[name] = (0.0, 0.0)
            continue
        parts = torch.autograd.grad(term, (q, aif), retain_graph=True, allow_unused=True)
        gradients[name] = tuple(0.0 if part is None else part.abs().max().item() for part in parts)
    return gradients


def test_gradient_audit_of_the_released_terms():
    found = step(LossOptions(sharp=100))
    assert set(found) == {"recon", "sharp", "aif", "aif_blur", "coarse_blur", "smooth"}
    assert min(*found["recon"], *found["sharp"], *found["smooth"]) > 0
    assert found["aif"][0] == found["aif_blur"][0] == 0 < min(found["aif"][1], found["aif_blur"][1])
    assert found["coarse_blur"] == (0, 0), "the released term is a constant"


def test_a_soft_pick_gives_the_constant_term_its_gradient():
    found = step(LossOptions(soft_coarse_px=0.5))
    assert found["coarse_blur"][0] > 0
    assert found["aif"][0] == 0  # its target stays detached


def test_every_term_has_its_own_weight_and_is_left_out_at_zero():
    images, rendered = torch.rand(2, 1, 3, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    q, sigma = 0.2 + 0.1 * images[:, 0, :1], torch.arange(3.0)[:, None, None].expand(1, 3, 24, 32)
    prediction, coarse = Prediction(q, rendered[:, 2], sigma), images[:, 0]
    options = LossOptions(recon=2, sharp=3, aif=4, aif_blur=5, coarse_blur=6, smooth=7)
    expected = {
        "recon": 2 * mix(rendered[0], images[0]),
        "sharp": 3 * (sharpness(rendered[0]) - sharpness(images[0])).abs().mean(),
        "aif": 4 * mix(prediction.aif, coarse),
        "aif_blur": 5 * blur_loss(prediction.aif),
        "coarse_blur": 6 * blur_loss(coarse),
        "smooth": 7 * smooth_loss(prediction, options),
    }
    torch.testing.assert_close(selfsup_losses(prediction, rendered, images, options), expected)
    assert set(step(LossOptions(aif=0, aif_blur=0, coarse_blur=0, smooth=0))) == {"recon"}


def test_border_fix_leaves_a_constant_depth_in_peace():
    constant = Prediction(torch.full((1, 1, 64, 64), 0.5), A, RAMP)
    assert smooth_loss(constant, LossOptions(border_fix=True)) == 0
    assert smooth_loss(constant, LossOptions()) > 0.05


def test_supervision_ignores_invalid_truth():
    q = torch.full((1, 1, 12, 12), 0.5, requires_grad=True)
    prediction = Prediction(q, torch.rand(1, 3, 12, 12), q)
    depth = torch.full((1, 1, 12, 12), 2.0)
    depth[..., :4] = torch.nan
    terms = supervised_losses(prediction, depth, depth.isfinite(), prediction.aif, "both")
    assert terms["depth"].item() == pytest.approx(0, abs=1e-6)
    assert terms["aif"].item() == pytest.approx(0, abs=1e-4)
    other = torch.rand(1, 3, 12, 12)
    aif = supervised_losses(prediction, depth, depth.isfinite(), other, "aif")
    torch.testing.assert_close(aif, {"aif": 100 * mix(prediction.aif, other)})
    terms = supervised_losses(prediction, 2 * depth, depth.isfinite(), prediction.aif, "depth")
    assert terms["depth"].item() == pytest.approx(100 * math.log(2))
    terms["depth"].backward()
    assert set(terms) == {"depth"}
    assert q.grad.isfinite().all()
    assert (q.grad[..., :4] == 0).all()
    assert (q.grad[..., 4:] < 0).all() or (q.grad[..., 4:] > 0).all()
