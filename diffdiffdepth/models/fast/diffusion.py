"""Diffusion by multigrid: the fast twin of `models/diffusion.py`, to which it is equal, for maps of any size.

Gradients come from one more solve with the same matrix, so nothing of the forward iterations is kept.
"""

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffdiffdepth.models.diffusion import edge_weights, ghost_edges
from diffdiffdepth.models.fast.multigrid import Hierarchy, SolveInfo, degree

__all__ = ["DiffusionReport", "diffuse"]


@dataclass
class DiffusionReport:
    """Filled by `diffuse`: how the forward solve went and, once backward has run, the adjoint solve."""

    forward: SolveInfo | None = None
    adjoint: SolveInfo | None = None


def diffuse(
    weights: Tensor,
    labels: Tensor,
    smoothness: Tensor,
    *,
    ghost_border: bool = False,
    start: Tensor | None = None,
    tolerance: float = 1e-5,
    max_iterations: int = 200,
    report: DiffusionReport | None = None,
) -> Tensor:
    """As `models.diffusion.diffuse`, for maps of any size [..., H, W], several at a time.

    Tolerances are relative errors in the energy norm; `start` (no gradient) warms the solve; `report` is
    filled. Raises ValueError on bad shapes, NaN, negative or singular input, and warns if `max_iterations`
    did not suffice.
    """
    if not weights.shape == labels.shape == smoothness.shape or weights.ndim < 2 or weights.numel() == 0:
        raise ValueError(
            "weights, labels and smoothness must have one shape [..., H, W] without empty sides, got "
            f"{tuple(weights.shape)}, {tuple(labels.shape)}, {tuple(smoothness.shape)}"
        )
    shape = weights.shape
    weights, labels, smoothness = (x.reshape(-1, *shape[-2:]) for x in (weights, labels, smoothness))
    _check_values(weights, labels, smoothness)
    right, down = edge_weights(smoothness)
    ghost = ghost_edges(smoothness) if ghost_border else None
    start = None if start is None else start.detach().reshape(weights.shape)
    stop = (tolerance, max_iterations)
    report = DiffusionReport() if report is None else report
    return _Diffusion.apply(weights, labels, right, down, ghost, start, stop, report).view(shape)


class _Diffusion(torch.autograd.Function):
    """Solve A D = weights * labels with A = diag(weights + ghost) + L(right, down)."""

    @staticmethod
    def forward(ctx, weights, labels, right, down, ghost, start, stop, report):
        system = (weights if ghost is None else weights + ghost, right, down)
        # solved about the mean label, so that a large offset costs no digits
        mean = (weights * labels).sum((1, 2), keepdim=True) / weights.sum((1, 2), keepdim=True)
        rhs = weights * (labels - mean)
        solution, info, hierarchy = _solve(
            Hierarchy(*system),
            system,
            rhs if ghost is None else rhs - ghost * mean,
            None if start is None else start - mean,
            *stop,
            _label_energy(weights, labels, mean, degree(right, down), stop[0]),
        )
        solution = solution + mean
        report.forward = info
        _warn_unless_converged(info, "diffusion")
        ctx.hierarchy, ctx.stop, ctx.report = hierarchy, stop, report
        ctx.save_for_backward(weights, labels, solution, *system)
        return solution

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """With A q = grad, the change of the solution by a change of A or b is q . (db - dA D)."""
        weights, labels, solution, *system = ctx.saved_tensors
        adjoint, info, _ = _solve(ctx.hierarchy, system, grad, None, *ctx.stop, None)
        ctx.report.adjoint = info
        _warn_unless_converged(info, "adjoint of the diffusion")
        need = ctx.needs_input_grad
        return (
            adjoint * (labels - solution) if need[0] else None,
            adjoint * weights if need[1] else None,
            -adjoint.diff(dim=2) * solution.diff(dim=2) if need[2] else None,
            -adjoint.diff(dim=1) * solution.diff(dim=1) if need[3] else None,
            -adjoint * solution if need[4] else None,
            *(None,) * 3,
        )


def _solve(hierarchy: Hierarchy, system, rhs: Tensor, start, tolerance, max_iterations, energy):
    """Solution, how it went, and the hierarchy that found it: in float64 where float32 has too few digits.

    That happens where a large part without labels is all but cut off: its mean hangs by a thread.
    """
    if hierarchy.pull.dtype == rhs.dtype:
        solution, info = hierarchy.solve(rhs, start, tolerance, max_iterations, energy)
        if info.converged or rhs.dtype == torch.float64:
            return solution, info, hierarchy
        hierarchy = Hierarchy(*(part.double() for part in system))
    start, energy = (None if part is None else part.double() for part in (start, energy))
    solution, info = hierarchy.solve(rhs.double(), start, tolerance, max_iterations, energy)
    return solution.to(rhs.dtype), info, hierarchy


def _label_energy(weights: Tensor, labels: Tensor, mean: Tensor, degrees: Tensor, tolerance: float) -> Tensor:
    """What an error is measured against [B]: the energy of pulling each label alone away from the mean label.

    Label and neighbourhood are springs in series, so neither very strong nor very weak labels distort this
    measure, unlike the energy of the map itself. The second term is the energy of rounding the map once.
    """
    stiffness = weights * degrees / (weights + degrees)
    rounding = torch.finfo(labels.dtype).eps / tolerance
    return (stiffness * ((labels - mean).square() + (rounding * mean).square())).sum((1, 2))


def _warn_unless_converged(info: SolveInfo, what: str) -> None:
    if not info.converged:
        warnings.warn(
            f"{what}: relative error {info.relative_error:.1e} after {info.iterations} iterations; "
            "raise max_iterations, or the tolerance if it is below the precision of the dtype",
            RuntimeWarning,
            stacklevel=3,
        )


def _check_values(weights: Tensor, labels: Tensor, smoothness: Tensor) -> None:
    for name, values in (("weights", weights), ("smoothness", smoothness), ("labels", labels)):
        low, high = (bound.item() for bound in values.detach().aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"{name} must be finite, got values from {low} to {high}")
        if low < 0 and name != "labels":
            raise ValueError(f"{name} must not be negative, got {low}")
    empty = (weights.detach().flatten(1).amax(1) <= 0).nonzero().flatten().tolist()
    if empty:
        reason = "the diffusion has no solution. Is every point outside the image?"
        raise ValueError(f"all weights of map {empty[0]} are zero: {reason}")
