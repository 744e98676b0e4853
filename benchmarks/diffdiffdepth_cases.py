"""Differentiable diffusion: the solver, the splatting, and where the time of one evaluation goes."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_matrix, csc_array, diags
from scipy.sparse.linalg import spsolve
from torch import Tensor

from benchmarks.fresh import in_fresh_process
from benchmarks.harness import Case, Goal, Trial
from benchmarks.shared_cases import largest_difference
from diffdiffdepth.losses import LossWeights, ReprojectionLoss, feature_network, warp_to_centre
from diffdiffdepth.models import splatting as plain
from diffdiffdepth.models.fast.diffusion import diffuse
from diffdiffdepth.models.fast.splatting import splat
from diffdiffdepth.models.point_depth import DepthOptions, LabelScale, PointDepth
from diffdiffdepth.scene import LightField, SparsePoints
from shared.geometry.camera import pixel_grid

__all__ = ["CASES"]

VIEWS = torch.arange(0, 8, 2)  # of the 8 views, those of one evaluation


# --------------------------------------------------------------------------------------------- solver


def diffusion_problem(height: int, width: int) -> list[Tensor]:
    """Weights, labels and smoothness [H, W] as splatted points and an image with edges give them, float32."""
    generator = torch.Generator().manual_seed(0)
    x, y = pixel_grid(height, width).unbind(-1)
    disparity = 2 * (x / width - 0.5) + torch.where((x - y).abs() < width / 6, 1.5, 0.0)
    weights = torch.rand(height, width, generator=generator)
    weights = torch.where(torch.rand(height, width, generator=generator) < 0.03, weights, 0.0)
    edges = ((x / 9).sin() * (y / 11).cos()).abs() + ((x - y).abs() - width / 6).abs().lt(1.5)
    labels = disparity + 0.1 * torch.randn(height, width, generator=generator)
    return [weights, labels, torch.exp(-6 * edges.clamp(max=1) ** 3)]


def sparse_system(weights: Tensor, labels: Tensor, smoothness: Tensor) -> tuple[csc_array, np.ndarray]:
    """The same system for SciPy: matrix (CSC, float64) and right-hand side."""
    weights, labels, smoothness = (x.double().numpy() for x in (weights, labels, smoothness))
    index = np.arange(weights.size).reshape(weights.shape)
    first = np.concatenate([index[:, :-1].ravel(), index[:-1].ravel()])
    second = np.concatenate([index[:, 1:].ravel(), index[1:].ravel()])
    edge = np.concatenate([smoothness[:, 1:].ravel(), smoothness[1:].ravel()])
    rows, columns = np.concatenate([first, second]), np.concatenate([second, first])
    links = coo_matrix((np.concatenate([edge, edge]), (rows, columns)), shape=(weights.size,) * 2)
    degree = np.asarray(links.sum(1)).ravel()
    return (diags(weights.ravel() + degree) - links).tocsc(), (weights * labels).ravel()


def prepare_solve() -> Trial:
    problem = diffusion_problem(512, 512)
    matrix, rhs = sparse_system(*problem)

    def as_map(solution) -> tuple[Tensor]:
        return (torch.from_numpy(solution).view(512, 512),)

    candidates = {
        "ours": lambda: (diffuse(*problem, tolerance=1e-5),),
        "scipy spsolve": lambda: as_map(spsolve(matrix, rhs)),
    }
    skipped = {}
    try:
        import pyamg
    except ImportError:
        skipped["pyamg"] = "not installed"
    else:
        rows = matrix.tocsr()

        def with_pyamg() -> tuple[Tensor]:
            solver = pyamg.ruge_stuben_solver(rows)
            return as_map(solver.solve(rhs, tol=1e-5, accel="cg"))

        candidates["pyamg"] = with_pyamg
    return Trial(candidates, largest_difference, 1e-3, skipped=skipped)


def prepare_adjoint() -> Trial:
    problem = [x.requires_grad_() for x in diffusion_problem(512, 512)]
    grad = torch.randn(512, 512, generator=torch.Generator().manual_seed(1))

    def both() -> Tensor:
        solution = diffuse(*problem)
        torch.autograd.grad(solution, problem, grad)
        return solution.detach()

    def forward() -> Tensor:
        with torch.no_grad():
            return diffuse(*problem)

    candidates = {"ours": both, "one solve": forward}
    return Trial(candidates, lambda a, b: (a - b).abs().max().item(), 1e-6)


# ------------------------------------------------------------------------------------------ splatting


def prepare_splat(count: int, side: int, with_twin: bool) -> Trial:
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(count, 2, generator=generator) * (side - 1)
    labels, weights = 1 + 3 * torch.rand(2, count, generator=generator)
    points = [x.requires_grad_() for x in (positions, labels.clone(), weights.clone())]
    grads = torch.randn(2, side, side, generator=generator).unbind()

    def with_gradients(maps: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        return *(x.detach() for x in maps), *torch.autograd.grad(maps, points, grads)

    candidates = {"ours": lambda: with_gradients(splat(*points, (side, side), near_is_large=True))}
    if with_twin:
        candidates["plain loop"] = lambda: with_gradients(
            plain.splat(*points, (side, side), near_is_large=True)
        )
    return Trial(candidates, largest_difference, 0.05)


# ------------------------------------------------------------------------------------- one evaluation


def light_field(side: int = 512, views: int = 8, count: int = 20_000) -> LightField:
    """A textured ramp with a raised disc seen from a ring of views, and noisy points on it."""
    generator = torch.Generator().manual_seed(0)
    offsets = torch.tensor([(u, v) for u in (-4, 0, 4) for v in (-4, 0, 4) if u or v], dtype=torch.float32)
    x, y = pixel_grid(side, side).unbind(-1)
    disparity = 2 * (x / side - 0.5)
    disparity = torch.where((x - side / 2).hypot(y - side / 2) < side / 4, disparity + 1.5, disparity)

    def seen_from(offset: Tensor) -> Tensor:
        a, b = x - disparity * offset[0], y - disparity * offset[1]
        return torch.stack([(a / 7).sin(), (b / 5).cos(), ((a + b) / 9).sin()]) / 2 + 0.5

    positions = (torch.rand(count, 2, generator=generator) * (side - 1)).round()
    labels = disparity[positions[:, 1].long(), positions[:, 0].long()]
    labels = labels + 0.1 * torch.randn(count, generator=generator)
    images = torch.stack([seen_from(offset) for offset in offsets[:views]])
    points = SparsePoints(positions, labels, "disparity")
    return LightField(seen_from(torch.zeros(2)), images, offsets[:views], points=points)


def evaluation(vgg: bool, side: int = 512, count: int = 20_000) -> tuple[PointDepth, ReprojectionLoss, dict]:
    """A model at its start, the loss against a scene (VGG with random weights, or RGB), the model's state."""
    scene = light_field(side, count=count)
    model = PointDepth(scene.points, scene.centre, DepthOptions(), LabelScale.of(scene.points))
    loss = ReprojectionLoss(scene, LossWeights(), feature_network("random") if vgg else None)
    return model, loss, model.state_dict()


def evaluation_step(vgg: bool, **size: int) -> Callable[[], float]:
    """Loss of half of the views and its gradient by the positions, with a solve from a cold start."""
    model, loss, state = evaluation(vgg, **size)

    def step() -> float:
        model.load_state_dict(state)
        positions = model.choose("positions")
        total = loss(model.dense(), VIEWS)["total"]
        torch.autograd.grad(total, positions)
        return total.item()

    return step


def prepare_evaluation(vgg: bool) -> Trial:
    """One evaluation, and its steps one by one, each with its own backward pass."""
    model, loss, _ = evaluation(vgg)
    factor, size = model.options.supersampling, model.size
    dense = model.dense()
    points = [model.groups["positions"], model.groups["labels"], torch.exp(-model.groups["weights"])]
    theta = torch.exp(-model.groups["smoothness"])[None, None]
    theta = F.interpolate(theta, scale_factor=factor, mode="bilinear", align_corners=False)[0, 0]
    order = {"near_is_large": model.scale.kind == "disparity", "supersampling": factor}
    label_map, weight_map = splat(*points, size, **order)
    warped = warp_to_centre(loss.scene, dense, VIEWS)[0]

    def gradient(function: Callable[[Tensor], Tensor], inputs: Tensor, grad: Tensor | None = None) -> None:
        leaf = inputs.detach().requires_grad_()
        torch.autograd.grad(function(leaf), leaf, grad)

    def splatting() -> None:
        gradient(lambda x: torch.stack(splat(x, *points[1:], size, **order)).sum(), points[0])

    def solving() -> None:
        tolerance = model.options.tolerance
        gradient(lambda x: diffuse(weight_map, x, theta, tolerance=tolerance), label_map, label_map)

    parts = {
        "splat": splatting,
        "solve": solving,
        "loss": lambda: gradient(lambda x: loss(x, VIEWS)["total"], dense),
        "of which warp": lambda: gradient(lambda x: warp_to_centre(loss.scene, x, VIEWS)[0].sum(), dense),
    }
    if vgg:
        parts["of which features"] = lambda: gradient(
            lambda x: sum(loss.features(view)[loss.features.taps[0]].mean() for view in x.split(1)), warped
        )
    return Trial({"ours": evaluation_step(vgg)} | parts)


def prepare_step() -> Trial:
    here = "benchmarks.diffdiffdepth_cases:evaluation_step"
    candidates = {
        "ours": lambda: in_fresh_process(here, vgg=False),
        "with VGG features": lambda: in_fresh_process(here, vgg=True),
    }
    return Trial(candidates)


CASES = [
    Case(
        "diffdiffdepth/solve",
        "512x512 diffusion to 1e-5",
        prepare_solve,
        seconds=40,
        goals=(Goal("scipy spsolve", "ratio", at_least=20), Goal("pyamg", "ratio", at_least=5)),
    ),
    Case(
        "diffdiffdepth/adjoint",
        "512x512 diffusion to 1e-5 and the gradients by its three inputs",
        prepare_adjoint,
        goals=(Goal("one solve", "ratio", at_least=1 / 2.2),),
    ),
    Case(
        "diffdiffdepth/splat",
        "50,000 points at 1024x1024, forward and backward",
        lambda: prepare_splat(50_000, 1024, False),
        goals=(Goal("ours", "seconds", at_most=1),),
    ),
    Case(
        "diffdiffdepth/splat-loop",
        "3,125 points at 256x256 (as dense as the large case), forward and backward",
        lambda: prepare_splat(3_125, 256, True),
        goals=(Goal("plain loop", "ratio", at_least=10),),
    ),
    *(
        Case(
            f"diffdiffdepth/evaluation-{name}",
            f"loss and gradient of 20,000 points, 512x512, supersampling 2, 4 views, {name.upper()}",
            lambda vgg=vgg: prepare_evaluation(vgg),
            parts=True,
        )
        for name, vgg in (("rgb", False), ("vgg", True))
    ),
    Case(
        "diffdiffdepth/step",
        "the same evaluations in processes of their own",
        prepare_step,
        seconds=2,
        goals=(
            Goal("ours", "memory_gb", at_most=2),
            Goal("with VGG features", "memory_gb", at_most=2),
        ),
    ),
]
