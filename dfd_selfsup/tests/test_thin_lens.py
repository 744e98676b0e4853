"""Blur radii of a thin lens against published figures and plain geometry."""

import pytest
import torch

from dfd_selfsup.models.thin_lens import Defocus, Lens, check_focus_m

NYU = Lens(50, 8, 12)
FOCUS = [1, 1.5, 2.5, 4, 6]


def sigma(depth_m: float, focus_m: float) -> float:
    depth = torch.full((1, 1, 1, 1), depth_m, dtype=torch.float64)
    return Defocus.thin_lens(NYU, [focus_m], depth).sigma_at_depth_px(depth).item()


@pytest.mark.parametrize(
    ("depth", "focus", "expected"), [(2, 1, 6.853), (10, 1, 12.335), (3, 2.5, 0.886), (1, 6, 10.94)]
)
def test_published_radii(depth, focus, expected):
    assert sigma(depth, focus) == pytest.approx(expected, abs=5e-4 if expected < 10 else 5e-3)


def test_blur_at_infinity_of_the_paper_s_camera():
    assert [NYU.blur_at_infinity_px(f) for f in FOCUS] == pytest.approx(
        [13.706, 8.980, 5.315, 3.296, 2.188], abs=1e-3
    )


def test_radius_follows_similar_triangles():
    """Half the circle of confusion: the cone between aperture and image point, cut by the sensor."""
    lens, focus, depth = Lens(35, 2, 5), 0.8, 2.7
    f = lens.focal_length_m
    sensor, image = f * focus / (focus - f), f * depth / (depth - f)
    radius_m = lens.aperture_m / 2 * abs(sensor - image) / image
    d = torch.full((1, 1, 1, 1), depth, dtype=torch.float64)
    assert Defocus.thin_lens(lens, [focus], d).sigma_at_depth_px(d).item() == pytest.approx(
        radius_m / 5e-6, rel=1e-12
    )


def test_a_point_in_focus_is_sharp_and_its_gradient_finite():
    depth = torch.tensor([1.0, 0.0, 1e9, 2.5]).view(1, 1, 2, 2).requires_grad_()
    radii = Defocus.thin_lens(NYU, FOCUS).sigma_at_depth_px(depth)
    assert radii[0, 0, 0, 0] == 0
    radii.sum().backward()
    assert radii.isfinite().all()
    assert depth.grad.isfinite().all()


def test_halving_the_picture_halves_the_blur():
    half = NYU.resized((240, 320), (120, 160))
    assert half.pixel_pitch_um == pytest.approx(24)
    assert half.blur_at_infinity_px(1.5) == pytest.approx(NYU.blur_at_infinity_px(1.5) / 2)
    with pytest.raises(ValueError, match="squashes"):
        NYU.resized((240, 320), (256, 256))
    assert NYU.resized((240, 320), (10, 14)).pixel_pitch_um < 12 * 24  # by a pixel small sizes may differ
    with pytest.raises(ValueError, match="squashes"):
        NYU.resized((240, 320), (10, 15))


def test_slices_are_sorted_and_without_a_lens_only_the_order_counts():
    metric, order = Defocus.by_distance([4, 1, 2], NYU)
    assert (metric.kind, order, (1 / metric.focus_q).tolist()) == ("metric", [1, 2, 0], [1, 2, 4])
    gains = [f * NYU.blur_at_infinity_px(f) for f in (1, 2, 4)]
    assert metric.gain_px.tolist() == pytest.approx(gains)
    ordered, again = Defocus.by_distance([4, 1, 2])
    assert (ordered.kind, again, ordered.focus_q.tolist()) == ("order", order, [2, 1, 0])
    assert ordered.gain_px.tolist() == [1, 1, 1]
    double = ordered.to(torch.zeros(1).double())
    assert double.focus_q.dtype == double.gain_px.dtype == torch.float64
    corrected, _ = Defocus.by_distance([4, 1, 2], NYU, breathing_corrected=True)
    assert corrected.gain_px.tolist() == pytest.approx([0.05**2 / (2 * 12e-6 * 8)] * 3)


@pytest.mark.parametrize(
    ("focus", "reason"),
    [([], "positive"), ([1, 0], "positive"), ([1, -2], "positive"), ([1, float("nan")], "positive"),
     ([1, 2, 1], "equal"), ([1, 0.05], "focal length")],
)  # fmt: skip
def test_impossible_focus_distances_are_refused(focus, reason):
    for refuse in (lambda: check_focus_m(focus, NYU), lambda: Defocus.thin_lens(NYU, focus)):
        with pytest.raises(ValueError, match=reason):
            refuse()


def test_a_stack_without_lens_knows_no_metres():
    defocus = Defocus(torch.arange(3.0), torch.ones(3), "order")
    assert defocus.sigma_px(torch.ones(1, 1, 1, 1)).flatten().tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="no metres"):
        defocus.sigma_at_depth_px(torch.ones(1, 1, 1, 1))


@pytest.mark.parametrize("bad", [(0, 8, 12), (50, -1, 12), (50, 8, float("nan")), (50, float("inf"), 12)])
def test_impossible_lenses_are_refused(bad):
    assert Lens(0.9, 0.95, 0.8).aperture_m < 1e-3  # small ones are not
    with pytest.raises(ValueError, match="positive"):
        Lens(*bad)
