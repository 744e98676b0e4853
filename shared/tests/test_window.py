"""Window means against SciPy's correlation, with both derivatives."""

import pytest
import torch
from scipy.signal import correlate2d

from shared.quality.ssim import window_mean

TAPS = (0.1, 0.25, 0.3, 0.25, 0.1)


@pytest.mark.parametrize(("zeros", "mode"), [(0, "valid"), (2, "same"), (4, "full")])
def test_equals_correlation_with_the_outer_product(zeros: int, mode: str) -> None:
    maps = torch.rand(2, 3, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    window = torch.outer(torch.tensor(TAPS), torch.tensor(TAPS)).double()
    found = window_mean(maps, TAPS, zeros)
    for plane, expected in zip(found.flatten(0, 1), maps.flatten(0, 1), strict=True):
        theirs = torch.from_numpy(correlate2d(expected.numpy(), window.numpy(), mode=mode))
        torch.testing.assert_close(plane, theirs, rtol=0, atol=1e-7)


@pytest.mark.parametrize("zeros", [0, 1, 2, 4])
def test_both_derivatives(zeros: int) -> None:
    maps = torch.rand(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    maps.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: window_mean(x, TAPS, zeros), maps)
    assert torch.autograd.gradgradcheck(lambda x: window_mean(x, TAPS, zeros).square(), maps)
