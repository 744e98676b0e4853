"""The picture at full size: sharper than what was shrunk, and the same however it is cut into bands."""

import pytest
import torch
import torch.nn.functional as F

from dfd_selfsup.datasets.stack import resize_stack
from dfd_selfsup.full_size import full_size_image
from dfd_selfsup.tests.test_focus_and_sweep import two_planes
from shared.quality.metrics import psnr


@pytest.mark.parametrize("measure", ["sml", "ring"])
def test_bands_change_nothing(measure):
    stack, q = two_planes(60, 40)
    whole = full_size_image(stack, q, stack.defocus.gain_px, measure, rows=60)
    cut = full_size_image(stack, q, stack.defocus.gain_px, measure, rows=7)
    assert torch.allclose(cut, whole, atol=1e-5)  # sums in another order


def test_full_size_keeps_the_detail_that_shrinking_loses():
    stack, q = two_planes(80, 112)
    small = resize_stack(stack, 40, 56)
    found = full_size_image(stack, q[::2, ::2], stack.defocus.gain_px, "ring")
    enlarged = F.interpolate(small.aif[None], (80, 112), mode="bicubic", align_corners=False).clamp(0, 1)
    quality = psnr(found[None], stack.aif[None])
    assert quality > psnr(enlarged, stack.aif[None]) + 3
    assert quality > psnr(stack.images, stack.aif.expand_as(stack.images)).max() + 3
