"""Depth edges kept sharp: points on the side that they belong to, and a median of what is off the edge.

An edge point lies on an outline, between two pixels of which one belongs to the far surface, and its splat
covers both. So the plain method makes near surfaces one pixel fat all round.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.geometry.warp import sample_pixels

__all__ = ["median_at_edges", "onto_their_sides"]

SIDE_PX = 3.0  # so far from an outline the diffused map is that of one surface
LEAST_GAP = 0.4  # between both sides of a point, in units of its label, for there to be an edge
LEAST_JUMP = 0.3  # within 3 x 3 pixels of the map, in the same units, for it to be filtered
SETTLED = 0.13  # what varies by this much within 3 x 3 pixels counts 1/e in the median
REACH_PX = 2  # around a jump
PIXELS_AT_ONCE = 40_000


def onto_their_sides(
    positions_px: Tensor, labels: Tensor, image: Tensor, dense: Tensor, shift_px: float
) -> Tensor:
    """Positions [n, 2] after points at depth edges have moved by `shift_px` onto the surface they label.

    The map `dense` [H, W] of the points themselves, in the unit of the `labels` [n], is looked at on both
    sides of each point along the gradient of the `image` [3, H, W]. The side with the point's label is the
    point's own. (Khan et al., BMVC 2021, diffuse all points once for either side instead.)
    """
    kernel = image.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    luminance = (image * image.new_tensor([0.2125, 0.7154, 0.0721])[:, None, None]).sum(0)
    taps = image.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    padded = F.pad(luminance[None, None], (3, 3, 3, 3), mode="replicate")
    blurred = F.conv2d(padded, torch.outer(taps, taps)[None, None])
    slopes = F.conv2d(blurred, torch.stack([kernel, kernel.T])[:, None])[0]
    gradient = _at(slopes, positions_px)
    across = (gradient / gradient.norm(dim=0).clamp(min=1e-9)).T  # [n, 2]
    ahead, behind = (_at(dense[None], positions_px + step * across)[0] for step in (SIDE_PX, -SIDE_PX))
    gap, off = (ahead - behind).abs(), torch.stack([ahead - labels, behind - labels]).abs()
    at_edge = (gap > LEAST_GAP) & (off.amin(0) < gap / 3)
    direction = torch.where(off[0] < off[1], shift_px, -shift_px) * at_edge
    return positions_px + direction[:, None] * across


def median_at_edges(
    values: Tensor,
    guide: Tensor,
    unit: float = 1.0,
    *,
    photo: Tensor | None = None,
    radius: int = 5,
    sigma_colour: float = 0.05,
) -> Tensor:
    """A map [H, W] after a weighted median where it jumps, guided by its image [3, H, W] RGB in [0, 1].

    Where it varies by more than 0.3 `unit` within 3 x 3 pixels, and up to two pixels from there, each pixel
    takes the value at which half the weight of its (2 radius + 1)^2 neighbours is reached. Weights fall with
    distance in colour and in space (sigma = radius / 2; borders repeat), and where the map itself is not
    settled, so that pixels halfway up a jump choose one of its ends. The paper's optional post-process
    (Sec. 4.1) filters all pixels, by parameters that are not published.

    With `photo` [3, H', W'], of which the guide is a smaller copy, the map becomes as large as that: by the
    photo's own colours at jumps, bilinear elsewhere.
    """
    photo = guide if photo is None else photo
    size, ratio = photo.shape[-2:], values.new_tensor(values.shape) / values.new_tensor(photo.shape[-2:])
    spread = _largest(values, 1) + _largest(-values, 1)
    jumps = _largest((spread > LEAST_JUMP * unit).to(values), REACH_PX)
    result = F.interpolate(values[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    jumps = F.interpolate(jumps[None, None], size, mode="nearest-exact")[0, 0] > 0
    settled = (spread / (SETTLED * unit)).clamp(max=2)  # thin things are nowhere settled, and have to stay
    padded = F.pad(torch.stack([values, settled, *guide.to(values)])[None], (radius,) * 4, mode="replicate")
    side = 2 * radius + 1
    blocks = padded[0].unfold(1, side, 1).unfold(2, side, 1)
    steps = torch.arange(-radius, radius + 1, device=values.device)
    steps = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1).flatten(0, 1)  # [K, 2]
    for pixels in jumps.nonzero().split(PIXELS_AT_ONCE):
        place = (pixels + 0.5) * ratio - 0.5
        nearest = place.round().long()
        near = blocks[:, nearest[:, 0], nearest[:, 1]].flatten(2)  # [5, n, K]
        colour = (near[2:] - photo[:, pixels[:, 0], pixels[:, 1], None].to(values)).square().sum(0)
        space = (nearest[:, None] + steps - place[:, None]).square().sum(2)
        weight = torch.exp(-colour / (2 * sigma_colour**2) - space * (2 / radius**2) - near[1])
        ordered, order = near[0].sort(dim=1)
        running = weight.gather(1, order).cumsum(1)
        middle = torch.searchsorted(running, running[:, -1:] / 2).clamp(max=len(steps) - 1)
        result[pixels[:, 0], pixels[:, 1]] = ordered.gather(1, middle)[:, 0]
    return result


def _at(maps: Tensor, positions_px: Tensor) -> Tensor:
    """Maps [C, H, W] at positions [n, 2]: [C, n]."""
    return sample_pixels(maps[None], positions_px[None, None])[0, :, 0]


def _largest(values: Tensor, radius: int) -> Tensor:
    """The largest value within a square around each pixel of a map [H, W]."""
    return F.max_pool2d(values[None, None], 2 * radius + 1, 1, radius)[0, 0]
