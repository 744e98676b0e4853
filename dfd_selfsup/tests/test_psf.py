"""The pixel-wise blur against a literal double loop, published fixtures, and its own algebra."""

import pytest
import torch
from torch import Tensor

from dfd_selfsup.models.fast import psf as fast
from dfd_selfsup.models.options import PsfOptions
from dfd_selfsup.models.psf import plain_blur, render_stack


def loop_blur(image: Tensor, sigma: Tensor, options: PsfOptions) -> Tensor:
    """The definition, pixel by pixel: image [C, H, W], sigma [H, W]."""
    _, height, width = image.shape
    m, out = options.window // 2, image.clone()
    for y in range(height):
        for x in range(width):
            if sigma[y, x] <= options.threshold_px:
                continue
            total, norm = torch.zeros_like(image[:, 0, 0]), image.new_zeros(())
            for v in range(max(0, y - m), min(height, y + m + 1)):
                for u in range(max(0, x - m), min(width, x + m + 1)):
                    owner = sigma[v, u]
                    if owner <= options.threshold_px:
                        continue
                    std = options.psf_std_scale * owner
                    weight = owner**-2 * torch.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * std**2))
                    total, norm = total + weight * image[:, v, u], norm + weight
            out[:, y, x] = total / norm
    return out


def draw(*shape: int, low: float = 0.0, high: float = 1.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("window", "scale", "threshold"), [(7, 0.5, 1.0), (5, 1.0, 0.3), (15, 0.5, 1.0), (1, 0.5, 1)]
)
def test_values_equal_the_double_loop(window, scale, threshold):
    options = PsfOptions(window, scale, threshold)
    image, sigma = draw(2, 3, 6, 9), draw(2, 2, 6, 9, high=5, seed=1)
    for blur in (fast.fast_blur, plain_blur):
        rendered = render_stack(image, sigma, options, blur)
        for b, s in ((0, 0), (0, 1), (1, 1)):
            expected = loop_blur(image[b], sigma[b, s], options)
            assert torch.allclose(rendered[b, s], expected, atol=1e-13, rtol=0)


def test_gradients_equal_those_of_the_double_loop():
    options = PsfOptions(5, 0.5, 1.0)
    upstream = draw(1, 1, 2, 6, 7, seed=2)
    gradients = []
    for render in (
        lambda i, s: render_stack(i, s, options),
        lambda i, s: loop_blur(i[0], s[0, 0], options)[None, None],
    ):
        image, sigma = draw(1, 2, 6, 7).requires_grad_(), draw(1, 1, 6, 7, high=4, seed=1).requires_grad_()
        gradients.append(torch.autograd.grad((render(image, sigma) * upstream).sum(), (image, sigma)))
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12, rtol=0)
        assert ours.abs().max() > 0.01


@pytest.mark.parametrize(("window", "scale", "threshold"), [(7, 0.5, 1.0), (11, 0.58, 0.2)])
def test_values_and_gradients_equal_the_plain_blur(window, scale, threshold):
    options = PsfOptions(window, scale, threshold)
    upstream = draw(2, 3, 3, 17, 23, seed=2)
    found = []
    for blur in (fast.fast_blur, plain_blur):
        image = draw(2, 3, 17, 23).requires_grad_()
        sigma = draw(2, 3, 17, 23, high=8, seed=1).requires_grad_()
        out = render_stack(image, sigma, options, blur)
        found.append((out, *torch.autograd.grad((out * upstream).sum(), (image, sigma))))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12, rtol=0)


def test_gradcheck():
    image = draw(2, 2, 5, 6).requires_grad_()
    sigma = draw(2, 2, 5, 6, low=0.2, high=4, seed=3)
    sigma = torch.where((sigma - 1).abs() < 0.01, 1.2, sigma).requires_grad_()  # not astride the threshold
    options = PsfOptions(window=5)
    assert torch.autograd.gradcheck(lambda i, s: render_stack(i, s, options), (image, sigma))


def delta_response(sigma: float, window: int) -> Tensor:
    image = torch.zeros(1, 1, 15, 15, dtype=torch.float64)
    image[..., 7, 7] = 1
    return render_stack(image, torch.full_like(image, sigma), PsfOptions(window))[0, 0, 0]


def test_fixtures_of_a_point():
    out = delta_response(2.0, 7)
    found = [out[7, 7], out[7, 8], out[8, 8], out[10, 10], out.sum()]
    expected = [0.159241125690702, 0.096584625018564, 0.058581536330607, 1.96519161240319e-05, 1.0]
    assert found == pytest.approx(expected, abs=1e-14)
    out = delta_response(6.0, 7)
    expected = [0.030709107640298, 0.029049571154017, 0.011297249357586]
    assert [out[7, 7], out[7, 8], out[10, 10]] == pytest.approx(expected, abs=1e-14)


def test_the_operator_does_not_conserve_energy_at_the_border():
    out = delta_response(6.0, 11)
    assert [out[7, 7], out.sum()] == pytest.approx([0.020249421541180, 1.069355432798741], abs=1e-14)


def row(sigma: tuple[float, float, float]) -> tuple[Tensor, Tensor, Tensor]:
    image = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).view(1, 1, 1, 3).requires_grad_()
    radii = torch.tensor(sigma, dtype=torch.float64).view(1, 1, 1, 3).requires_grad_()
    return image, radii, render_stack(image, radii, PsfOptions(window=3)).flatten()


def test_fixtures_of_three_pixels():
    image, radii, out = row((2, 1.5, 4))
    expected = [1.4222546228263258, 1.8518555049320085, 2.2548767364821938]
    assert out.tolist() == pytest.approx(expected, abs=1e-14)
    grad_image, grad_sigma = torch.autograd.grad(out[0], (image, radii))
    assert grad_image.flatten().tolist() == pytest.approx(
        [0.5777453771736744, 0.4222546228263257, 0], abs=1e-14
    )
    assert grad_sigma.flatten().tolist() == pytest.approx(
        [0.2439556563281231, -0.03614157871757, 0], abs=1e-10
    )


def test_a_sharp_pixel_neither_gives_nor_takes():
    image, radii, out = row((2, 1.0, 4))
    assert out.tolist() == [1, 2, 3]
    assert torch.autograd.grad(out.sum(), radii)[0].tolist() == [[[[0, 0, 0]]]]
    _, _, out = row((2, 1.0001, 4))
    expected = [1.35125991824632, 1.9200418465613733, 2.3158761694172685]
    assert out.tolist() == pytest.approx(expected, abs=1e-13)


def test_constant_images_stay_constant_and_no_value_leaves_the_range():
    sigma, options = draw(1, 3, 13, 8, high=30), PsfOptions(9)
    constant = torch.full((1, 3, 13, 8), 0.3, dtype=torch.float64)
    assert torch.allclose(render_stack(constant, sigma, options), constant.unsqueeze(1), atol=1e-14)
    out = render_stack(draw(1, 3, 13, 8), sigma, options)
    assert 0 <= out.min() <= out.max() <= 1


def test_memory_kept_for_the_backward_pass_does_not_depend_on_the_window():
    def kept(window: int) -> int:
        tensors = {}
        image, sigma = draw(1, 3, 20, 24).float().requires_grad_(), draw(1, 5, 20, 24, high=6).float()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: tensors.setdefault(t.data_ptr(), t.untyped_storage().nbytes()) and t, lambda t: t
        ):
            render_stack(image, sigma.requires_grad_(), PsfOptions(window))
        return sum(tensors.values())

    pixels = 20 * 24
    assert kept(7) == kept(15) == 4 * pixels * (3 + 5 + 15 + 5)


def test_slices_in_parts_equal_all_at_once(monkeypatch):
    options = PsfOptions()

    def values(cached_pixels: int) -> tuple[Tensor, ...]:
        monkeypatch.setattr(fast, "CACHED_PIXELS", cached_pixels)
        image, sigma = draw(2, 3, 9, 11).requires_grad_(), draw(2, 5, 9, 11, high=5, seed=1).requires_grad_()
        stack = render_stack(image, sigma, options)
        return stack, *torch.autograd.grad(stack, (image, sigma), draw(2, 5, 3, 9, 11, seed=2))

    for pixels in (1, 2 * 2 * 99):  # slice by slice, and two by two with one left over
        torch.testing.assert_close(values(pixels), values(10**6))


def test_autocast_and_half_precision_compute_in_float32():
    image, sigma = draw(1, 3, 16, 16).float(), draw(1, 2, 16, 16, high=5).float()
    reference = render_stack(image, sigma, PsfOptions())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image_leaf = image.clone().requires_grad_()
        out = render_stack(image_leaf, sigma, PsfOptions())
        out.sum().backward()
    assert out.dtype == torch.float32
    assert torch.equal(out, reference)
    assert image_leaf.grad.dtype == torch.float32
    low = render_stack(image.bfloat16(), sigma, PsfOptions())
    assert torch.allclose(low, reference, atol=5e-3)


def test_extreme_radii_keep_everything_finite():
    sigma = (
        torch.tensor([0.0, 0.050001, 1e-8, 1.0, 1.0001, 1e3, 1e6, 3.0])
        .repeat(8)
        .view(1, 1, 8, 8)
        .requires_grad_()
    )
    image = draw(1, 3, 8, 8).float().requires_grad_()
    out = render_stack(image, sigma, PsfOptions(7, threshold_px=0.05))
    out.square().sum().backward()
    assert all(t.isfinite().all() for t in (out, image.grad, sigma.grad))


def test_windows_larger_than_the_image_are_cut():
    image, sigma = draw(1, 2, 2, 3), draw(1, 1, 2, 3, low=1.5, high=9)
    options = PsfOptions(11)
    assert torch.allclose(
        render_stack(image, sigma, options)[0, 0], loop_blur(image[0], sigma[0, 0], options)
    )


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="sigma_px"):
        render_stack(torch.zeros(1, 3, 8, 8), torch.zeros(1, 5, 8, 9))
