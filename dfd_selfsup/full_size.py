"""The all-in-focus picture at the photos' own size, from depth found at a smaller one.

The network works on shrunk photos and on some of them. Its depth, brought up to full size, says which photo
should be sharp where; among the photos near it, each pixel prefers those in which its surroundings are
sharpest. Only neighbourhoods matter, so rows are worked on band by band with what they need around them,
and the result does not depend on the bands.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dfd_selfsup.datasets.stack import FocalStack
from dfd_selfsup.models.focus_measure import Measure, focus_response

__all__ = ["full_size_image"]

SHARPNESS_POWER = 16.0  # a photo sharper by a twentieth counts twice as much
BLUR_PX = 1.5  # blur by the depth, at full size, that costs a photo a factor of e
REACH = 6  # of the focus measures, beyond their window


@torch.no_grad()
def full_size_image(
    stack: FocalStack, q: Tensor, gain_px: Tensor, measure: Measure = "sml", window: int = 9, rows: int = 256
) -> Tensor:
    """Image [3, H, W] from all slices [S, 3, H, W] and inverse depth q [h, w] of the same view, smaller.

    gain_px [S]: blur per unit of q at full size. window: odd side of the squares sharpness is averaged over.
    rows: height of a band; memory grows with it.
    """
    height, width = stack.size
    q_full = F.interpolate(q[None, None], (height, width), mode="bilinear", align_corners=False)[0]
    margin = window // 2 + REACH
    bands = []
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        low, high = max(0, top - margin), min(height, bottom + margin)
        inner = slice(top - low, bottom - low)
        response = focus_response(stack.images[:, :, low:high], measure, window)[:, inner]  # [S, rows, W]
        blur = gain_px[:, None, None] * (q_full[:, top:bottom] - stack.defocus.focus_q[:, None, None]).abs()
        weights = torch.softmax(SHARPNESS_POWER * response.log() - blur / BLUR_PX, 0)
        bands.append((weights.unsqueeze(1) * stack.images[:, :, top:bottom]).sum(0))
    return torch.cat(bands, 1)
