"""The fast operations against the plain ones of `models/`: values, gradients, odd cases."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from deepvoxels.config import GeneratorOptions
from deepvoxels.models import networks, volume
from deepvoxels.models.fast import conv, frustum, sampling
from deepvoxels.models.generator import Generator
from deepvoxels.models.volume import SamplingMap
from deepvoxels.tests.conftest import SMALL
from deepvoxels.tests.test_geometry import camera, intrinsics, small_geometry

F64 = torch.float64


def assert_same(fast, plain, *inputs: Tensor, rtol: float | None = None, atol: float | None = None) -> None:
    """Same results, and same gradients of their product with a random direction."""
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    found, expected = fast(*inputs), plain(*inputs)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)
    direction = torch.randn_like(expected)
    gradients = [torch.autograd.grad(result, inputs, direction) for result in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=rtol, atol=atol)


def crowded_maps() -> list[SamplingMap]:
    """Two views, one from inside the grid so that samples touch every face of its view volume."""
    geometry = small_geometry("centred", side_length=8.0, near=0.5, far=3.0, depth_planes=4)
    poses = [camera(10, 5, distance=0.2), camera(100, 50, distance=7.0)]
    maps = [geometry.projection(intrinsics(20.0, 20), pose, 20, 5) for pose in poses]
    assert maps[0].visible == 4 * 25
    assert 0 < maps[1].visible < 4 * 25
    return maps


@pytest.mark.parametrize("fast", [True, False])
def test_the_switch_changes_no_image_and_no_gradient(fast: bool) -> None:
    """A whole step, with and without the occlusion network, is that of the plain generator."""
    for occlusion in (True, False):
        options = GeneratorOptions(**SMALL, occlusion=occlusion, integration_dropout=0, renderer_dropout=0)
        results = []
        for switch in (fast, False):
            torch.manual_seed(0)
            generator = Generator(options, fast=switch).double()
            assert (generator.lift is sampling.lift) == switch
            geometry, K = generator.geometry((0, 0, 0), 1.0, 1.2), intrinsics(40.0, 32)
            maps = [generator.projection(geometry, K, camera(az, 20)) for az in (10, 130)]
            photo = torch.rand(1, 3, 32, 32, dtype=F64)
            images, state = generator(photo, [generator.lifting(geometry, K, camera(5, 15))], maps)
            images.square().mean().backward()
            results.append([images, state, *(weight.grad for weight in generator.parameters())])
        torch.testing.assert_close(*results)


@pytest.mark.parametrize("fast", [True, False])
def test_half_precision_changes_pictures_depth_and_gradients_little(fast: bool) -> None:
    options = GeneratorOptions(**SMALL, integration_dropout=0, renderer_dropout=0, colour_head=True)
    torch.manual_seed(0)
    generator = Generator(options, fast=fast)
    geometry, K = generator.geometry((0, 0, 0), 1.0, 1.2), intrinsics(40.0, 32).float()
    maps = [generator.projection(geometry, K, camera(az, 20).float()) for az in (10, 130)]
    photo, lifting = torch.rand(1, 3, 32, 32), [generator.lifting(geometry, K, camera(5, 15).float())]
    found = []
    for half in (True, False):
        generator.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            state = generator.observe(photo, lifting)
            seen = generator.render(generator.inpaint(state), maps)
        assert all(part.dtype == torch.float32 for part in (state, *seen))
        (seen.images.square().mean() + seen.depth_fraction.square().mean()).backward()
        gradient = torch.cat(
            [weight.grad.flatten() for weight in generator.parameters() if weight.grad is not None]
        )
        found.append((seen.images, seen.depth_fraction, gradient))
    for (half, full), least in zip(zip(*found, strict=True), (0.99, 0.99, 0.7), strict=True):
        assert not torch.equal(half, full)  # the gradients of so small a network, at its start, are noisy
        assert torch.corrcoef(torch.stack((half.flatten(), full.flatten())))[0, 1] > least


def test_lifting_and_projection() -> None:
    geometry, K = small_geometry("released"), intrinsics(30.0, 24)
    liftings = [geometry.lifting(K, camera(azimuth, 20), 24, 7) for azimuth in (20, 80)]
    features, grid = torch.randn(2, 3, 7, 7, dtype=F64), torch.randn(1, 3, 5, 5, 5, dtype=F64)
    assert_same(lambda x: sampling.lift(x, liftings), lambda x: volume.lift(x, liftings), features)
    maps = crowded_maps()
    assert_same(lambda x: sampling.project(x, maps), lambda x: volume.project(x, maps), grid)


def test_convolution_and_ray_sums_of_samples() -> None:
    maps, grid = crowded_maps(), torch.randn(1, 3, 5, 5, 5, dtype=F64)
    kernel, weights = torch.randn(2, 3, 3, 3, 3, dtype=F64), torch.rand(2, 1, 4, 5, 5, dtype=F64)
    assert_same(
        lambda x, k: frustum.convolve(frustum.sample_frustum(x, maps), k),
        lambda x, k: networks.padded_conv(volume.project(x, maps), k),
        grid,
        kernel,
    )
    assert_same(
        lambda x, w: frustum.collapse(frustum.sample_frustum(x, maps), w),
        lambda x, w: (w * volume.project(x, maps)).sum(dim=2),
        grid,
        weights,
    )


def test_gradients_of_every_operation() -> None:
    geometry = small_geometry("centred", grid_side=3, depth_planes=2, side_length=2.0, near=1.0)
    K, poses = intrinsics(9.0, 8), [camera(20, 30), camera(80, 10)]
    liftings = [geometry.lifting(K, pose, 8, 4) for pose in poses]
    maps = [geometry.projection(K, pose, 8, 4) for pose in poses]
    shapes = {
        "features": (2, 2, 4, 4),
        "grid": (1, 2, 3, 3, 3),
        "kernel": (1, 2, 3, 3, 3),
        "w": (2, 1, 2, 4, 4),
    }
    x = {name: torch.randn(shape, dtype=F64, requires_grad=True) for name, shape in shapes.items()}
    check = torch.autograd.gradcheck
    assert check(lambda a: sampling.lift(a, liftings), x["features"])
    assert check(lambda a: volume.lift(a, liftings), x["features"])
    assert check(lambda a: sampling.project(a, maps), x["grid"])
    samples = frustum.sample_frustum
    assert check(lambda a, b: frustum.convolve(samples(a, maps), b), (x["grid"], x["kernel"]))
    assert check(lambda a, b: frustum.collapse(samples(a, maps), b), (x["grid"], x["w"]))


def test_a_camera_that_looks_away_sees_nothing_and_breaks_nothing() -> None:
    geometry, pose = small_geometry("centred"), camera(20, 10)
    pose[:3, [0, 2]] *= -1  # turn round
    K = intrinsics(30.0, 24)
    lifting, projection = geometry.lifting(K, pose, 24, 6), geometry.projection(K, pose, 24, 6)
    assert lifting.visible == projection.visible == 0
    features = torch.randn(1, 2, 6, 6, dtype=F64, requires_grad=True)
    grid = torch.randn(1, 2, 5, 5, 5, dtype=F64, requires_grad=True)
    assert not volume.lift(features, [lifting]).any()
    samples = frustum.sample_frustum(grid, [projection])
    kernel = torch.ones(1, 2, 3, 3, 3, dtype=F64)
    lifted, convolved = sampling.lift(features, [lifting]), frustum.convolve(samples, kernel)
    summed = frustum.collapse(samples, torch.ones(1, 1, 9, 6, 6, dtype=F64))
    assert not any(result.any() for result in (lifted, convolved, summed))
    (lifted.sum() + convolved.sum() + summed.sum()).backward()
    assert not features.grad.any()
    assert not grid.grad.any()


def test_the_transposed_matrix_is_the_adjoint_and_its_own_inverse_operation() -> None:
    geometry = small_geometry("released", grid_side=6)
    matrix = sampling.matrix_of(geometry.projection(intrinsics(30.0, 24), camera(33, 21), 24, 7))
    x, y = torch.randn(216, 2, dtype=F64), torch.randn(matrix.rows, 2, dtype=F64)
    torch.testing.assert_close((matrix.apply(x) * y).sum(), (x * matrix.transposed.apply(y)).sum())
    torch.testing.assert_close(matrix.transposed.transposed.apply(x), matrix.apply(x))


def test_interpolation_weights_sum_to_one_per_row() -> None:
    coords = torch.rand(50, 3, dtype=F64) * 6 - 1  # some outside, where the border is replicated
    matrix = sampling.SparseMatrix.interpolating(coords, (4, 3, 5))
    torch.testing.assert_close(matrix.apply(torch.ones(60, 1, dtype=F64)), torch.ones(50, 1, dtype=F64))


def test_maps_that_do_not_fit_are_refused() -> None:
    geometry, K, pose = small_geometry("centred"), intrinsics(30.0, 24), camera(33, 21)
    lifting, projection = geometry.lifting(K, pose, 24, 8), geometry.projection(K, pose, 24, 8)
    for module in (sampling, volume):
        with pytest.raises(ValueError, match="does not fit"):
            module.lift(torch.zeros(1, 2, 7, 7, dtype=F64), [lifting])
        with pytest.raises(ValueError, match="does not fit"):
            module.project(torch.zeros(1, 2, 6, 6, 6, dtype=F64), [projection])
    other = geometry.projection(K, pose, 24, 4)
    with pytest.raises(ValueError, match="view volumes"):
        frustum.sample_frustum(torch.zeros(1, 2, 5, 5, 5, dtype=F64), [projection, other])


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("stride", [1, 2])
def test_padded_convolution(shape: tuple[int, ...], stride: int) -> None:
    dims, kernel = len(shape) - 2, 3 if stride == 1 else 4
    x = torch.randn(shape, dtype=F64, requires_grad=True)
    weight = torch.randn(4, shape[1], *(kernel,) * dims, dtype=F64, requires_grad=True)
    bias = torch.randn(4, dtype=F64, requires_grad=True)
    assert_same(
        lambda *a: conv.padded_conv(*a, stride), lambda *a: networks.padded_conv(*a, stride), x, weight, bias
    )
    assert torch.autograd.gradcheck(lambda *a: conv.padded_conv(*a, stride), (x, weight, bias))
    assert torch.autograd.gradcheck(lambda a: conv.padded_conv(a, weight.detach(), None, stride), x)


@pytest.mark.parametrize("shape", [(1, 16, 32, 32, 32), (1, 3, 6, 5, 7), (1, 2, 4, 4, 4)])
def test_small_volumes_are_convolved_in_halves_with_the_same_result(shape: tuple[int, ...]) -> None:
    x, weight, bias = torch.randn(shape), torch.randn(5, shape[1], 3, 3, 3), torch.randn(5)
    assert conv._would_run_slowly(F.pad(x, (1,) * 6, mode="replicate"), weight)
    assert_same(conv.padded_conv, networks.padded_conv, x, weight, bias, rtol=1e-3, atol=5e-3)


class Waits(TorchDispatchMode):
    """Notes operations whose result has a size that depends on values: for them a GPU has to finish."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten.nonzero, torch.ops.aten.bincount):
            self.found.append(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))


def test_a_gpu_waits_once_in_a_step() -> None:
    """With the maps of all cameras at hand; there were 52 waits."""
    generator = Generator(GeneratorOptions(**SMALL))
    geometry, K = generator.geometry((0, 0, 0), 1.0, 1.2), intrinsics(40.0, 32).float()
    maps = [generator.projection(geometry, K, camera(az, 20).float()) for az in (10, 130)]
    lifting = [generator.lifting(geometry, K, camera(5, 15).float())]
    for mode in (contextlib.nullcontext(), Waits()):  # the first step makes what is kept with a map
        with mode:
            images, _ = generator(torch.rand(1, 3, 32, 32), lifting, maps)
            images.square().mean().backward()
    assert mode.found == ["aten.nonzero"]
