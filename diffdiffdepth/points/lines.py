"""Edge lines in epipolar plane images: the filter bank, its maxima, and the greedy choice among them.

The filter of the ICCV 2019 edge detector (Khan et al., "View-consistent 4D light field superpixel
segmentation") is a long oriented Prewitt: a line of slope d through the pixel, drawn with weight +1 at -1 px
and with -1 at +1 px, higher than the EPI. As it covers every view, its response is the same at all pixels of
one line (x, d) and equals the horizontal difference of the views, shifted by d and summed:

    R(x, d) = | sum_u I_u(x + 1 + d offset_u) - I_u(x - 1 + d offset_u) |

That is one shifted addition per view and slope, about 40 times cheaper than the 19 x 41 convolution, and
exact for sub-pixel slopes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffdiffdepth.points.stacks import EpiStack, Rows

__all__ = ["EpiLines", "choose_lines", "edge_response", "line_candidates", "slope_bank"]

CHUNK_VALUES = 32_000_000  # responses held at once: 128 MB of float32
SLOPE_WINDOW, POSITION_WINDOW = 5, 3  # a maximum is the largest of this many neighbouring slopes and pixels


@dataclass(frozen=True)
class EpiLines(Rows):
    """Lines of one stack, one value each."""

    epi: Tensor  # [n] long
    x: Tensor  # [n] sub-pixel position in the centre view, along the arm
    disparity: Tensor  # [n] px per unit of offset
    strength: Tensor  # [n] mean edge height per view, in CIELAB units


def slope_bank(low_px: float, high_px: float, reach: float, outermost_step_px: float = 0.4) -> Tensor:
    """Evenly spaced disparities [D] from low to high that move the outermost view by at most the given step.

    The released code has 59 slopes in +-2 px, denser near zero; here sub-step refinement makes up for it.
    """
    steps = max(4, int(torch.tensor((high_px - low_px) * reach / outermost_step_px).ceil()))
    return torch.linspace(low_px, high_px, steps + 1)


def edge_response(stack: EpiStack, slopes: Tensor, epis: slice = slice(None)) -> Tensor:
    """Edge strength R(x, d) [D, N, X] of every line of the chosen EPIs, the largest over the Lab channels.

    In Lab units per view; views in which the line leaves the image count as 0.
    """
    lab = stack.lab[:, :, epis]
    width = lab.shape[-1]
    edges = F.pad(lab[..., 2:] - lab[..., :-2], (1, 1))
    margin = int(slopes.abs().max() * stack.reach) + 2
    edges = F.pad(edges, (margin, margin))
    response = lab.new_empty(len(slopes), lab.shape[2], width)
    for index, slope in enumerate(slopes.tolist()):
        total = lab.new_zeros(lab.shape[1:])
        for view, offset in zip(edges, stack.offsets.tolist(), strict=True):
            whole = int(slope * offset // 1)
            part = slope * offset - whole
            total.add_(view[..., margin + whole : margin + whole + width], alpha=1 - part)
            total.add_(view[..., margin + whole + 1 : margin + whole + 1 + width], alpha=part)
        response[index] = total.abs_().amax(0)
    return response / len(stack.offsets)


def line_candidates(stack: EpiStack, slopes: Tensor, min_strength: float, every: int = 1) -> EpiLines:
    """Maxima of the edge response in position and slope with at least `min_strength`, of every n-th EPI.

    Position and slope are refined to the vertex of the parabola through the neighbouring responses.
    """
    epis, width = stack.lab.shape[2:]
    rows = max(1, CHUNK_VALUES // (len(slopes) * width))
    step = float(slopes[1] - slopes[0])
    parts = []
    for start in range(0, epis, rows * every):
        chunk = slice(start, min(epis, start + rows * every), every)
        response = edge_response(stack, slopes, chunk).transpose(0, 1).contiguous()  # [N, D, X]
        largest = _largest(_largest(response, 1, SLOPE_WINDOW), 2, POSITION_WINDOW)
        peak = (response == largest) & (response >= min_strength)
        peak[:, [0, -1]] = False  # no neighbour on one side: not a maximum
        peak[:, :, [0, -1]] = False
        n, d, x = peak.nonzero(as_tuple=True)
        top = response[n, d, x]
        shift_x = _vertex(response[n, d, x - 1], top, response[n, d, x + 1])
        shift_d = _vertex(response[n, d - 1, x], top, response[n, d + 1, x])
        disparity = slopes.to(top)[d] + step * shift_d
        parts.append(EpiLines(start + n * every, x + shift_x, disparity, top))
    return EpiLines.join(parts)


def choose_lines(stack: EpiStack, lines: EpiLines, min_free: float = 0.5, radius_px: float = 1.0) -> Tensor:
    """Strongest first, keep the lines that do not run along one already kept: mask [n].

    A kept line occupies the EPI pixels nearer than `radius_px` to it; a later one needs `min_free` of its
    pixels inside the image unoccupied, and the one in the centre view. (The released code asks for one
    free pixel.) All EPIs are worked through side by side, so the loop is as long as the fullest EPI.
    """
    views, _, epis, width = stack.lab.shape
    keep = torch.zeros_like(lines.epi, dtype=torch.bool)
    if not len(keep):
        return keep
    by_strength = lines.strength.argsort(descending=True, stable=True)
    order = by_strength[lines.epi[by_strength].argsort(stable=True)]  # by EPI, strongest first in each
    counts = torch.bincount(lines.epi, minlength=epis)
    first = counts.cumsum(0) - counts
    view = torch.arange(views, device=keep.device)
    near = torch.arange(-int(radius_px), int(radius_px) + 2, device=keep.device)
    occupied = torch.zeros(epis, views, width, dtype=torch.bool, device=keep.device)
    for rank in range(int(counts.max())):
        line = order[(first + rank)[counts > rank]]
        epi = lines.epi[line]
        track = lines.x[line, None] + lines.disparity[line, None] * stack.offsets  # [k, U]
        pixel = track.round().long()
        inside = (pixel >= 0) & (pixel < width)
        free = inside & ~occupied[epi[:, None], view, pixel.clamp(0, width - 1)]
        good = free[:, stack.centre] & (free.sum(1) >= min_free * inside.sum(1))
        keep[line] = good
        nearby = track[good].floor().long()[..., None] + near  # [k, U, K]
        within = (nearby - track[good][..., None]).abs() < radius_px
        within &= (nearby >= 0) & (nearby < width)
        where = within.nonzero(as_tuple=True)
        occupied[epi[good][where[0]], where[1], nearby[where]] = True
    return keep


def _largest(values: Tensor, dim: int, window: int) -> Tensor:
    """The largest of `window` neighbours along a dimension: max_pool2d, which finds indices, takes longer."""
    result, size = values.clone(), values.shape[dim]
    for shift in range(1, min(window // 2, size - 1) + 1):
        for target, source in ((0, shift), (shift, 0)):
            part = result.narrow(dim, target, size - shift)
            torch.maximum(part, values.narrow(dim, source, size - shift), out=part)
    return result


def _vertex(before: Tensor, top: Tensor, after: Tensor) -> Tensor:
    """Offset in [-0.5, 0.5] of the vertex of the parabola through three equidistant values."""
    curvature = (2 * top - before - after).clamp(min=1e-12)
    return ((after - before) / (2 * curvature)).clamp(-0.5, 0.5)
