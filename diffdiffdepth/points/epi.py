"""Initial points of a light field: edge lines in the EPIs of its two arms, measured, checked and smoothed.

After the detector that the paper names ("EPI edge filters": Khan et al., ICCV 2019) and the authors' later
light-field code. The same steps, in the same order:

    views to CIELAB, blur, filter bank, maxima        stacks.py, lines.py
    greedy choice of lines                            lines.py
    refinement, outlier test, visibility              align.py: patch alignment in place of three heuristics
    (not there) one more step with all views          grid.py
    merging of both arms, trilateral smoothing        here and smooth.py

Any disparity range will do: it is found by a coarse search unless it is given.
"""

import logging

import torch
from torch import Tensor

from diffdiffdepth.points.align import Alignment, align_points, noise_level
from diffdiffdepth.points.grid import refine_with_grid
from diffdiffdepth.points.lines import EpiLines, choose_lines, line_candidates, slope_bank
from diffdiffdepth.points.smooth import trilateral_smooth
from diffdiffdepth.points.stacks import ON_AXIS, EpiStack, epi_stacks
from diffdiffdepth.scene import LightField, SparsePoints
from shared.errors import DataError

__all__ = ["disparity_range", "epi_points"]

log = logging.getLogger(__name__)

WIDEST_RANGE_PX = 16.0  # the coarse search looks this far on both sides of zero
COARSE_STEP_PX = 0.5  # steps of the coarse search, in px of the outermost view
SAME_EDGE_PX, SAME_DISPARITY_PX = (
    1.5,
    1.0,
)  # lines of the coarse search that belong to one edge, to one surface
FINE_STEP_PX = 0.4
NOISE_EPIS = 40  # of each arm, from which the noise is estimated
MIN_STRENGTH = 0.1  # edge height in CIELAB units
COARSE_RESIDUAL_PX = 0.9  # misalignment of a 5 x 1 patch along a line as detected
COARSE_ERROR_PX = 1.0  # its standard error in the outermost view
MAX_RESIDUAL_PX = 0.6  # misalignment of the square patch after refinement
MAX_ERROR_PX = 0.16  # its standard error in the outermost view
MIN_VIEWS = 6  # views that show the point, of both arms; with fewer views, a third of them
PATCH_RADIUS = 3
OCCLUSION_PX = 0.5


@torch.no_grad()
def epi_points(light_field: LightField) -> SparsePoints:
    """Edge points of the centre view with sub-pixel disparities: up to 100 thousand for 512 x 512 pixels.

    Points are found in the row and the column of the centre view, so cross-hair captures will do; a full grid
    makes them twice as accurate. They are sorted by row. Raises DataError if no edge can be measured (no
    texture, or offsets of the wrong sign).
    """
    stacks = epi_stacks(light_field)
    low, high = disparity_range(stacks, light_field.name)
    reach = max(stack.reach for stack in stacks)
    slopes = slope_bank(low, high, reach, FINE_STEP_PX)
    noise = _noise(stacks, slopes)
    positions, disparity = _positions(stacks, [_chosen(stack, slopes, noise) for stack in stacks])
    log.info("%s: %d lines between %.2f and %.2f px", light_field.name, len(disparity), low, high)

    max_change = FINE_STEP_PX / reach
    patch = {"radius": PATCH_RADIUS, "max_change": max_change, "occlusion_px": OCCLUSION_PX, "noise": noise}
    aligned = align_points(stacks, positions, disparity, **patch)
    good = _well_aligned(stacks, aligned)
    positions, aligned = positions[good], aligned[good]
    log.info("%s: %d points after alignment", light_field.name, len(positions))
    disparity, sigma = aligned.disparity, aligned.sigma_px
    if (light_field.offsets.abs() >= ON_AXIS).all(1).any():  # views outside the two arms
        disparity, sigma = refine_with_grid(light_field, positions, aligned, **patch)
    if len(disparity):
        disparity, supported = trilateral_smooth(
            positions, disparity, sigma, light_field.centre, sigma_disparity=(high - low) / 60
        )
        positions, disparity = positions[supported], disparity[supported]
        log.info("%s: %d points with enough neighbours", light_field.name, len(disparity))
    if not len(disparity):
        raise _no_edges(light_field.name)
    order = (positions[:, 1].round() * light_field.centre.shape[-1] + positions[:, 0]).argsort(stable=True)
    return SparsePoints(positions[order], disparity[order], "disparity")


@torch.no_grad()
def disparity_range(stacks: list[EpiStack], name: str = "light field") -> tuple[float, float]:
    """Lowest and highest disparity of the scene with a margin, from strong and well-aligned edges.

    Looks at about 64 EPIs of each arm between +-16 px (less for narrow images). One edge in a hundred at
    each end is not trusted. Raises DataError if no edge aligns at any disparity.
    """
    found = []
    for stack in stacks:
        limit = min(WIDEST_RANGE_PX, stack.lab.shape[-1] / (3 * stack.reach))
        slopes = slope_bank(-limit, limit, stack.reach, COARSE_STEP_PX)
        lines = line_candidates(stack, slopes, min_strength=1.0, every=max(1, stack.lab.shape[2] // 64))
        lines = _verified(stack, lines, max_residual_px=0.5)
        repeats = _repeats(lines)
        found.append(lines.disparity[~repeats] if (~repeats).any() else lines.disparity)
    values = torch.cat(found).sort().values
    if not len(values):
        raise _no_edges(name)
    skip = len(values) // 100
    low, high = float(values[skip]), float(values[-1 - skip])
    margin = 0.05 * (high - low) + 2 * COARSE_STEP_PX / max(stack.reach for stack in stacks)
    return low - margin, high + margin


def _repeats(lines: EpiLines) -> Tensor:
    """Which edges [n] keep their appearance at several disparities, as a pattern does that repeats.

    All but one of these are false, and would stretch the range to where they are.
    """
    result = torch.zeros_like(lines.epi, dtype=torch.bool)
    for epi in lines.epi.unique().tolist():
        here = (lines.epi == epi).nonzero()[:, 0]
        x, disparity = lines.x[here], lines.disparity[here]
        same_edge = (x[:, None] - x).abs() <= SAME_EDGE_PX
        result[here] = (same_edge & ((disparity[:, None] - disparity).abs() > SAME_DISPARITY_PX)).any(1)
    return result


def _noise(stacks: list[EpiStack], slopes: Tensor) -> float:
    """Variance of the noise of lightness, from some EPIs: lines that align without any allowance for it."""
    found = []
    for stack in stacks:
        lines = line_candidates(stack, slopes, MIN_STRENGTH, max(1, stack.lab.shape[2] // NOISE_EPIS))
        found.append(_verified(stack, lines, COARSE_RESIDUAL_PX))
    return noise_level(align_points(stacks, *_positions(stacks, found), radius=PATCH_RADIUS))


def _positions(stacks: list[EpiStack], lines: list[EpiLines]) -> tuple[Tensor, Tensor]:
    """Positions [n, 2] and coarse disparities [n] of the lines of each stack."""
    positions = [stack.positions(found.epi, found.x) for stack, found in zip(stacks, lines, strict=True)]
    return torch.cat(positions), torch.cat([found.disparity for found in lines])


def _chosen(stack: EpiStack, slopes: Tensor, noise: float) -> EpiLines:
    """The lines of an arm after the greedy choice.

    Candidates come from the arm as a whole and from its halves: next to something nearer, the background is
    hidden in the views of one side.
    """
    found = []
    for part in (stack, *stack.halves()):
        lines = line_candidates(part, slopes, MIN_STRENGTH)
        found.append(_verified(part, lines, COARSE_RESIDUAL_PX, COARSE_ERROR_PX, noise))
    lines = EpiLines.join(found)
    return lines[choose_lines(stack, lines)]


def _verified(
    stack: EpiStack,
    lines: EpiLines,
    max_residual_px: float,
    max_error_px: float = float("inf"),
    noise: float = 0.0,
) -> EpiLines:
    """Lines along which a 5 x 1 patch stays the same: a false one could displace a true one in the choice."""
    patch = {"radius": 2, "across": 0, "iterations": 0, "occlusion_px": None, "noise": noise}
    aligned = align_points([stack], *_positions([stack], [lines]), **patch)
    good = aligned.residual_px <= max_residual_px
    return lines[good & (aligned.sigma_px * stack.reach <= max_error_px)]


def _well_aligned(stacks: list[EpiStack], aligned: Alignment) -> Tensor:
    """Which points [n] keep their appearance in enough views."""
    views, reach = sum(len(stack.offsets) for stack in stacks), max(stack.reach for stack in stacks)
    good = (aligned.residual_px <= MAX_RESIDUAL_PX) & (aligned.sigma_px * reach <= MAX_ERROR_PX)
    return good & (aligned.visible.sum(1) >= min(MIN_VIEWS, max(3, views // 3)))


def _no_edges(name: str) -> DataError:
    return DataError(
        name,
        "no edge keeps its appearance along a line through the views",
        "Check the order of the views (columns to the right, rows downwards) and that the scene has texture",
    )
