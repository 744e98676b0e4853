"""CIELAB, the colour space of the edge detector and of the reprojection error."""

import torch
from torch import Tensor

__all__ = ["lab_from_rgb"]

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
