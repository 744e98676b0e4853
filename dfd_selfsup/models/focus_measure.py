"""Depth from focus without learning: where is each pixel sharpest?

A focus measure says how much fine detail a neighbourhood holds in each slice. Its maximum over the stack
gives the depth to the nearest slice; a parabola through the logarithms around the maximum, over inverse
depth, gives the places between slices. The colours of the sharpest slices make an all-in-focus picture.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dfd_selfsup.models.thin_lens import Defocus

__all__ = [
    "depth_from_focus",
    "focus_guess",
    "focus_mean",
    "focus_response",
    "full_size_image",
    "sharpest_slices",
]

Measure = Literal["sml", "ring"]
WINDOW = 9  # side of the square a measure is averaged over, px
RING_INNER, RING_GAP, RING_OUTER = 1, 2, 2  # pixels, as its authors set them
MEAN_POWER = 8.0  # a slice a tenth sharper counts twice as much
FULL_SIZE_POWER = 16.0  # at full size, a photo sharper by a twentieth counts twice as much
FULL_SIZE_BLUR_PX = 1.5  # blur by the depth, at full size, that costs a photo a factor of e
FLOOR = 1e-4  # keeps the logarithm of a flat neighbourhood finite


def sum_modified_laplacian(images: Tensor) -> Tensor:
    """SML before its window (Nayar, Nakagawa 1994): |2I - I(x-1) - I(x+1)| + the same in y, [S, H, W]."""
    grey = F.pad(images.mean(1, keepdim=True), (1,) * 4, mode="replicate")
    middle = grey[..., 1:-1, 1:-1]
    across = 2 * middle - grey[..., 1:-1, :-2] - grey[..., 1:-1, 2:]
    down = 2 * middle - grey[..., :-2, 1:-1] - grey[..., 2:, 1:-1]
    return (across.abs() + down.abs()).squeeze(1)


def ring_difference(images: Tensor) -> Tensor:
    """Ring difference filter before its window: mean of a disc minus that of a ring, norm over colours."""
    reach = RING_INNER + RING_GAP + RING_OUTER
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    radius = (offsets[:, None] ** 2 + offsets**2).sqrt()
    disc = (radius <= RING_INNER).to(images)
    ring = ((radius > RING_INNER + RING_GAP) & (radius <= reach)).to(images)
    kernel = (disc / disc.sum() - ring / ring.sum())[None, None]
    slices, channels, height, width = images.shape
    flat = F.pad(images.reshape(slices * channels, 1, height, width), (reach,) * 4, mode="replicate")
    return F.conv2d(flat, kernel).view(slices, channels, height, width).norm(dim=1)


def focus_response(images: Tensor, measure: Measure = "sml") -> Tensor:
    """How sharp each neighbourhood of 9 x 9 pixels is, positive: images [..., 3, H, W] to [..., H, W]."""
    flat = images.reshape(-1, *images.shape[-3:])
    response = sum_modified_laplacian(flat) if measure == "sml" else ring_difference(flat)
    padded = F.pad(response[:, None], (WINDOW // 2,) * 4, mode="replicate")
    mean = F.avg_pool2d(padded, WINDOW, stride=1)
    return (mean + FLOOR).view(*images.shape[:-3], *images.shape[-2:])


def depth_from_focus(images: Tensor, defocus: Defocus, measure: Measure = "sml") -> tuple[Tensor, Tensor]:
    """Inverse depth q [H, W] and all-in-focus image [3, H, W] of slices [S, 3, H, W] ordered by focus.

    The maximum is refined between the slices; at the ends of the stack, and where the three values have no
    peak, the slice itself is taken.
    """
    response = focus_response(images, measure)
    best = response.argmax(0)  # [H, W]
    focus = defocus.focus_q.to(images)
    q = _peak(response.log(), focus, best) if len(images) > 2 else focus[best]
    aif = images.gather(0, best.expand(1, 3, -1, -1))[0]
    return q, aif


@torch.no_grad()
def focus_guess(images: Tensor, defocus: Defocus, measure: Measure = "ring") -> Tensor:
    """Inverse depth [B, 1, H, W] of stacks [B, S, 3, H, W] by a focus measure, without gradient."""
    focus = defocus.focus_q.expand(len(images), -1)
    found = [depth_from_focus(s, Defocus(q, q), measure)[0] for s, q in zip(images, focus, strict=True)]
    return torch.stack(found)[:, None]


@torch.no_grad()
def focus_mean(images: Tensor, defocus: Defocus, measure: Measure = "ring") -> Tensor:
    """Mean inverse depth [B, 1, H, W] of the slices [B, S, 3, H, W], weighted by how sharp each is.

    It falls short of the ends of the stack, but where `focus_guess` jumps to a wrong slice it does not.
    """
    weights = torch.softmax(MEAN_POWER * focus_response(images, measure).log(), 1)
    focus = defocus.focus_q.to(images)[..., None, None]
    return (weights * focus).sum(1, keepdim=True)


@torch.no_grad()
def sharpest_slices(images: Tensor, measure: Measure = "ring") -> Tensor:
    """All-in-focus image [B, 3, H, W]: every pixel from the slice of [B, S, 3, H, W] its measure prefers."""
    best = focus_response(images, measure).argmax(1)[:, None, None]
    return images.gather(1, best.expand(-1, 1, 3, -1, -1)).squeeze(1)


@torch.no_grad()
def full_size_image(
    images: Tensor, defocus: Defocus, q: Tensor, measure: Measure = "sml", rows: int = 256
) -> Tensor:
    """All-in-focus image [3, H, W] at the photos' size, from inverse depth q [h, w] found at a smaller one.

    images [S, 3, H, W] with their defocus at full size. The depth says which photo should be sharp where;
    among the photos near it, each pixel prefers those in which its surroundings are sharpest. Only
    neighbourhoods matter, so it is made in bands of `rows`, which bound the memory and do not change the
    result.
    """
    height, width = images.shape[-2:]
    q_full = F.interpolate(q[None, None], (height, width), mode="bilinear", align_corners=False)
    blur = defocus.sigma_px(q_full)[0]
    margin = WINDOW // 2 + RING_INNER + RING_GAP + RING_OUTER + 1
    bands = []
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        low, high = max(0, top - margin), min(height, bottom + margin)
        response = focus_response(images[:, :, low:high], measure)[:, top - low : bottom - low]
        weights = FULL_SIZE_POWER * response.log() - blur[:, top:bottom] / FULL_SIZE_BLUR_PX
        bands.append((torch.softmax(weights, 0).unsqueeze(1) * images[:, :, top:bottom]).sum(0))
    return torch.cat(bands, 1)


def _peak(values: Tensor, positions: Tensor, best: Tensor) -> Tensor:
    """Vertex of the parabola through the maximum [H, W] of values [S, H, W] and its neighbours."""
    inside = (best > 0) & (best < len(values) - 1)
    middle = best.clamp(1, len(values) - 2)
    x = [positions[middle + offset] for offset in (-1, 0, 1)]
    y = [values.gather(0, (middle + offset)[None])[0] for offset in (-1, 0, 1)]
    slope_before, slope_after = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    curvature = (slope_after - slope_before) / (x[2] - x[0])
    bent = inside & (curvature < 0)
    safe = torch.where(bent, curvature, -1.0)
    # The parabola's slope is that of a chord at the chord's middle.
    vertex = (x[0] + x[1]) / 2 - slope_before / (2 * safe)
    low, high = torch.minimum(x[0], x[2]), torch.maximum(x[0], x[2])
    return torch.where(bent, vertex.clamp(low, high), positions[best])
