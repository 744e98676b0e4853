"""The diffusion solver next to a direct sparse factorisation, finite differences and its own invariances."""

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import spsolve

from diffdiffdepth.models import diffusion as plain
from diffdiffdepth.models.diffusion import edge_weights
from diffdiffdepth.models.fast.diffusion import DiffusionReport, diffuse
from diffdiffdepth.models.fast.multigrid import Hierarchy


def assemble(weights, smoothness, ghost_border):
    """The matrix [HW, HW] written out edge by edge, in its own words."""
    height, width = weights.shape
    rows, columns, values = [], [], []
    diagonal = weights.astype(float).copy()
    for y in range(height):
        for x in range(width):
            for y2, x2 in ((y, x + 1), (y + 1, x)):
                if y2 == height or x2 == width:
                    continue
                edge = smoothness[y2, x2]
                diagonal[y, x] += edge
                diagonal[y2, x2] += edge
                rows += [y * width + x, y2 * width + x2]
                columns += [y2 * width + x2, y * width + x]
                values += [-edge, -edge]
            if ghost_border:
                diagonal[y, x] += smoothness[y, x] * ((x == 0) + (y == 0))
    size = height * width
    return (coo_matrix((values, (rows, columns)), shape=(size, size)) + diags(diagonal.ravel())).tocsc()


def random_problem(height, width, seed, roughness=6.0, density=0.1):
    rng = np.random.default_rng(seed)
    weights = rng.random((height, width)) * (rng.random((height, width)) < density)
    weights[rng.integers(height), rng.integers(width)] = 1.0
    labels = rng.normal(2.0, 1.5, (height, width))
    return weights, labels, np.exp(-roughness * rng.random((height, width)) ** 3)


def tensors(*arrays, dtype=torch.float64):
    return [torch.tensor(array, dtype=dtype) for array in arrays]


SIZES = [(1, 1), (1, 2), (2, 1), (2, 2), (1, 9), (3, 3), (8, 8), (9, 8), (1, 65), (65, 1), (1, 130), (2, 97)]
SIZES += [(97, 3), (16, 17), (17, 16), (31, 32), (33, 33), (40, 23), (19, 71), (64, 64), (129, 97), (97, 129)]


@pytest.mark.parametrize("ghost_border", [False, True])
def test_agrees_with_direct_solver_at_any_size(ghost_border):
    for seed, size in enumerate(SIZES):
        if max(size) > 100 and ghost_border:
            continue
        weights, labels, smoothness = random_problem(*size, seed)
        matrix = assemble(weights, smoothness, ghost_border)
        expected = spsolve(matrix, (weights * labels).ravel()).reshape(size)
        rules = {"ghost_border": ghost_border}
        exact = diffuse(*tensors(weights, labels, smoothness), tolerance=1e-11, **rules)
        np.testing.assert_allclose(exact.numpy(), expected, atol=1e-8, rtol=0, err_msg=str(size))
        single = diffuse(*tensors(weights, labels, smoothness, dtype=torch.float32), tolerance=1e-6, **rules)
        assert single.dtype == torch.float32
        np.testing.assert_allclose(single.numpy(), expected, atol=5e-4, rtol=0, err_msg=str(size))


@pytest.mark.parametrize("ghost_border", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 13), (16, 7)])
def test_map_and_gradients_are_those_of_the_plain_twin(size, ghost_border):
    inputs = [x.requires_grad_() for x in tensors(*random_problem(*size, 7))]
    direction = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rules = {"ghost_border": ghost_border, "tolerance": 1e-12}
    maps = [operation(*inputs, **rules) for operation in (diffuse, plain.diffuse)]
    torch.testing.assert_close(*maps, rtol=0, atol=1e-8)
    gradients = [torch.autograd.grad(map_, inputs, direction) for map_ in maps]
    for fast, slow in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, slow, rtol=0, atol=1e-7)


def test_reference_values():
    # 3 x 4, computed in float64 independently of any implementation of the paper
    weights, labels = torch.zeros(2, 3, 4, dtype=torch.float64)
    weights[0, 0], labels[0, 0], weights[2, 3], labels[2, 3] = 1.0, 2.0, 0.5, 5.0
    smoothness = torch.ones(3, 4, dtype=torch.float64)
    smoothness[1, 2] = 0.1
    inputs = [x.requires_grad_() for x in (weights, labels, smoothness)]
    free = [[2.594836, 2.913116, 3.144691, 3.343450], [2.871393, 2.999821, 3.472850, 3.542209]]
    free.append([3.019522, 3.167651, 3.483609, 3.810327])
    ghost = [[0.536424, 0.336034, 0.315852, 0.522599], [0.346089, 0.491858, 1.205079, 1.251947]]
    ghost.append([0.356073, 0.722129, 1.318456, 2.028161])
    for expected, border, gradients in (
        (free, False, (0.666726, -0.396593, 0.792973, 0.230932 + 0.016747)),
        (ghost, True, (0.075354, 0.110287, 0.405536, 0.261045 - 0.086454)),
    ):
        result = diffuse(*inputs, ghost_border=border)
        torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)
        by_weight, by_label, by_smoothness = torch.autograd.grad(result[1, 1], inputs)
        # pixel (1, 2) carries the edges to its left and upper neighbours
        found = [by_label[0, 0], by_weight[0, 0], by_weight[2, 3], by_smoothness[1, 2]]
        np.testing.assert_allclose([x.item() for x in found], gradients, atol=2e-6)


@pytest.mark.parametrize("ghost_border", [False, True])
def test_gradients(ghost_border):
    for size in ((5, 4), (11, 7), (1, 70)):  # the first is solved densely, the others by multigrid
        inputs = tensors(*random_problem(*size, 1, roughness=2))
        inputs[0] += 0.05  # zero weights would turn negative under gradcheck
        inputs = [x.requires_grad_() for x in inputs]
        rules = {"ghost_border": ghost_border, "tolerance": 1e-12}
        assert torch.autograd.gradcheck(
            lambda *x, r=rules: diffuse(*x, **r), inputs, fast_mode=size != (5, 4)
        )


def test_large_offset_costs_no_accuracy_in_single_precision():
    weights, labels, smoothness = tensors(*random_problem(64, 80, 0, density=0.02))
    expected = diffuse(weights, labels, smoothness, tolerance=1e-10)
    shifted = diffuse(weights.float(), labels.float() + 1000, smoothness.float(), tolerance=1e-5)
    error = (shifted.double() - 1000 - expected).abs()
    assert error.mean() < 1e-4  # float32 rounds numbers near 1000 by up to 3e-5
    assert error.max() < 5e-3


def test_strong_labels_do_not_stop_the_solve_early():
    # with weights of 1e4 the plain residual is tiny long before the map between the labels has settled
    weights, labels, smoothness = tensors(*random_problem(90, 70, 5, density=0.003))
    expected = diffuse(1e4 * weights, labels, smoothness, tolerance=1e-11)
    found = diffuse(1e4 * weights, labels, smoothness, tolerance=1e-4)
    assert (found - expected).abs().max() < 1e-2


def test_batch_equals_single_maps_and_row_order_does_not_matter():
    problems = [random_problem(30, 41, seed) for seed in range(3)]
    batch = [
        torch.stack(maps).view(3, 1, 30, 41) for maps in zip(*(tensors(*p) for p in problems), strict=True)
    ]
    together = diffuse(*batch, tolerance=1e-11)
    assert together.shape == (3, 1, 30, 41)
    for index, problem in enumerate(problems):
        alone = diffuse(*tensors(*problem), tolerance=1e-11)
        torch.testing.assert_close(together[index, 0], alone, atol=1e-8, rtol=0)
    turned = diffuse(*(x.mT.contiguous() for x in batch), tolerance=1e-11).mT
    torch.testing.assert_close(turned, together, atol=1e-8, rtol=0)


def test_warm_start_saves_iterations_and_does_not_change_the_answer():
    inputs = tensors(*random_problem(120, 100, 2, density=0.01), dtype=torch.float32)
    cold, warm = DiffusionReport(), DiffusionReport()
    first = diffuse(*inputs, report=cold)
    again = diffuse(*inputs, start=first + 1e-3 * torch.sin(torch.arange(100.0)), report=warm)
    assert warm.forward.iterations < cold.forward.iterations
    torch.testing.assert_close(again, first, atol=1e-3, rtol=0)
    diffuse(*inputs, start=first, tolerance=1e-4, report=warm)
    assert warm.forward.iterations == 0


def test_iterations_do_not_grow_with_size():
    counts = []
    for side in (64, 256):
        weights, labels, smoothness = random_problem(side, side, 0, roughness=3, density=0.002)
        report = DiffusionReport()
        x = [t.requires_grad_() for t in tensors(weights, labels, smoothness, dtype=torch.float32)]
        diffuse(*x, report=report).square().mean().backward()
        assert report.forward.converged
        assert report.adjoint.converged
        counts.append(report.forward.iterations)
    assert counts[1] <= counts[0] + 3
    assert counts[1] <= 14


def test_the_multigrid_cycle_is_symmetric_and_positive():
    weights, _, smoothness = tensors(*random_problem(21, 26, 0, roughness=9))
    hierarchy = Hierarchy(weights[None], *(x[None] for x in edge_weights(smoothness)))
    top = hierarchy.levels[0]
    grid = top.layout.grid

    def cycle(vector):
        grid(top.rhs_black).copy_(vector)
        hierarchy._precondition()
        return grid(top.black).clone()

    generator = torch.Generator().manual_seed(0)
    black = top.scale.new_zeros(1, top.layout.length)
    top.split(torch.ones(1, 21, 26, dtype=torch.float64), torch.zeros_like(black), black)
    a, b = (
        grid(black) * torch.randn(grid(black).shape, dtype=torch.float64, generator=generator) for _ in "ab"
    )
    torch.testing.assert_close((a * cycle(b)).sum(), (b * cycle(a)).sum(), rtol=1e-10, atol=0)
    assert (a * cycle(a)).sum() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w, s, t: (w * 0, s, t), "all weights of map 0 are zero"),
        (lambda w, s, t: (-w, s, t), "weights must not be negative"),
        (lambda w, s, t: (w, s, t - 1), "smoothness must not be negative"),
        (lambda w, s, t: (w * torch.nan, s, t), "weights must be finite"),
        (lambda w, s, t: (w, s / 0, t), "labels must be finite"),
        (lambda w, s, t: (w, s, t * torch.inf), "smoothness must be finite"),
        (lambda w, s, t: (w[1:], s, t), "one shape"),
        (lambda w, s, t: (w[:0], s[:0], t[:0]), "one shape"),
    ],
)
def test_bad_input_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        diffuse(*change(*tensors(*random_problem(6, 5, 0))))


def test_parts_cut_off_by_zero_smoothness():
    weights = torch.zeros(12, 10)
    weights[0, 0] = 1.0
    labels, smoothness = torch.full((12, 10), 2.0), torch.ones(12, 10)
    smoothness[:, 5] = 0  # no edge between columns 4 and 5
    weights[:, 5:] = 1.0
    labels[:, 5:] = 7.0
    expected = torch.where(torch.arange(10) < 5, 2.0, 7.0).expand(12, 10)
    torch.testing.assert_close(diffuse(weights, labels, smoothness), expected, atol=1e-4, rtol=0)


def test_too_few_iterations_warn():
    inputs = tensors(*random_problem(60, 60, 0))
    with pytest.warns(RuntimeWarning, match="relative error .* after 2 iterations"):
        diffuse(*inputs, max_iterations=2, tolerance=1e-9)


def test_what_float32_cannot_solve_is_solved_in_float64():
    """A large part without labels that hangs on by weak edges: float32 has hardly a digit of its mean."""
    generator = torch.Generator().manual_seed(0)
    smoothness = torch.ones(320, 400)
    smoothness[56:264, 116:324] = 1e-4
    smoothness[60:260, 120:320] = 1
    weights = torch.zeros(320, 400)
    weights[:20] = torch.rand(20, 400, generator=generator)
    labels = torch.rand(320, 400, generator=generator)
    gradients, solutions = [], []
    for dtype in (torch.float32, torch.float64):
        theta = smoothness.to(dtype, copy=True).requires_grad_()
        solution = diffuse(weights.to(dtype), labels.to(dtype), theta, tolerance=1e-5)
        solution[100:200, 150:250].mean().backward()
        gradients.append(theta.grad.double())
        solutions.append(solution.detach().double())
    torch.testing.assert_close(*solutions, rtol=0, atol=1e-2)
    assert (gradients[0] - gradients[1]).norm() < 0.1 * gradients[1].norm()
