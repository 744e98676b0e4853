"""Images before they are compared: CIELAB, and a Gaussian blur with repeated borders."""

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.quality.ssim import window_mean

__all__ = ["gaussian_blur", "lab_from_rgb"]

_XYZ_FROM_RGB = (  # linear sRGB primaries, white point D65 (IEC 61966-2-1)
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_WHITE = (0.950456, 1.0, 1.088754)


def lab_from_rgb(image: Tensor) -> Tensor:
    """CIELAB (L in 0..100, a and b around -100..100) of sRGB images in [0, 1], both [..., 3, H, W].

    White point D65, as in OpenCV, scikit-image and MATLAB.
    """
    linear = torch.where(image <= 0.04045, image / 12.92, ((image.clamp(min=0) + 0.055) / 1.055) ** 2.4)
    matrix = image.new_tensor(_XYZ_FROM_RGB) / image.new_tensor(_WHITE)[:, None]
    xyz = torch.einsum("ij,...jhw->...ihw", matrix, linear)
    root = torch.where(xyz > 0.008856, xyz.clamp(min=1e-6) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = root.unbind(-3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)


def gaussian_blur(images: Tensor, sigma_px: float, radius: int) -> Tensor:
    """Images [m, C, H, W] after a separable Gaussian of 2 radius + 1 taps; sigma 0 leaves them alone."""
    if sigma_px <= 0:
        return images
    steps = torch.arange(-radius, radius + 1, dtype=images.dtype)
    taps = torch.exp(-steps.square() / (2 * sigma_px**2))
    padded = F.pad(images, (radius,) * 4, mode="replicate")
    # Transposed, so that rows are summed before columns: the detector's points depend on the rounding.
    return window_mean(padded.mT, (taps / taps.sum()).tolist()).mT
