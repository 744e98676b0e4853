"""Image, depth and disparity measures against numpy, scikit-image and the lpips package."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from shared.quality.metrics import (
    bad_pixels,
    depth_errors,
    l1,
    least_squares_scale,
    mse_x100,
    psnr,
    q25,
)

NAMES = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3")
SCALINGS = ("none", "median", "least_squares", "least_squares_shift")


def depth_pair(batch=3, height=17, width=23, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    truth = 0.5 + 90 * torch.rand(batch, 1, height, width, generator=generator, dtype=dtype) ** 2
    noise = torch.randn(batch, 1, height, width, generator=generator, dtype=dtype)
    return (0.6 * truth * torch.exp(0.25 * noise) + 0.3), truth


def depth_errors_numpy(prediction, truth, low, high, scaling):
    """One image, flat arrays of valid pixels, straight from the definitions."""
    if scaling == "median":
        prediction = prediction * np.median(truth) / np.median(prediction)
    elif scaling != "none":
        columns = [prediction, np.ones_like(prediction)][: 1 + (scaling == "least_squares_shift")]
        design = np.stack(columns, axis=1)
        prediction = design @ np.linalg.lstsq(design, truth, rcond=None)[0]
    p, y = np.clip(prediction, low, high), truth
    p_log = np.maximum(p, 1e-8)
    g = np.log(p_log) - np.log(y)
    ratio = np.maximum(y / p_log, p_log / y)
    return {
        "abs_rel": np.mean(np.abs(y - p) / y),
        "sq_rel": np.mean((y - p) ** 2 / y),
        "rmse": np.sqrt(np.mean((y - p) ** 2)),
        "rmse_log": np.sqrt(np.mean(g**2)),
        "log10": np.mean(np.abs(np.log10(y) - np.log10(p_log))),
        "silog": 100 * np.sqrt(np.mean(g**2) - np.mean(g) ** 2),
        "delta1": np.mean(ratio < 1.25),
        "delta2": np.mean(ratio < 1.25**2),
        "delta3": np.mean(ratio < 1.25**3),
    }


@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_psnr_equals_scikit_image(data_range):
    generator = torch.Generator().manual_seed(0)
    a = data_range * torch.rand(4, 3, 13, 19, generator=generator, dtype=torch.float64)
    b = a + data_range * 0.07 * torch.randn(a.shape, generator=generator, dtype=torch.float64)
    theirs = [
        peak_signal_noise_ratio(x.numpy(), y.numpy(), data_range=data_range)
        for x, y in zip(b, a, strict=True)
    ]
    np.testing.assert_allclose(psnr(a, b, data_range).numpy(), theirs, rtol=0, atol=1e-9)
    np.testing.assert_allclose(psnr(a.float(), b.float(), data_range).numpy(), theirs, rtol=0, atol=1e-4)


def test_convention_psnr_is_per_image_and_infinite_for_identical_images():
    target = torch.rand(2, 3, 8, 9)
    prediction = torch.stack((target[0], target[1] + 0.1))
    values = psnr(prediction, target)
    assert values[0] == math.inf
    assert values[1].item() == pytest.approx(20, abs=1e-4)
    assert psnr(target.half(), target.half()).dtype == torch.float32


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(("low", "high"), [(1e-3, 80.0), (2.0, 40.0), (None, None)])
def test_depth_errors_equal_numpy(scaling, low, high):
    prediction, truth = depth_pair()
    mask = torch.rand(truth.shape, generator=torch.Generator().manual_seed(5)) > 0.3
    ours = depth_errors(prediction, truth, mask, low, high, scaling)
    lo, hi = low or 0.0, high or np.inf
    rows, pixels = [], 0
    for index in range(3):
        y, p, m = (maps[index].numpy() for maps in (truth, prediction, mask))
        m = m & (y > lo) & (y < hi)
        pixels += m.sum()
        rows.append(depth_errors_numpy(p[m], y[m], lo, hi, scaling))
    for name in NAMES:
        assert ours[name] == pytest.approx(np.mean([row[name] for row in rows]), rel=1e-10), name
    record = ours["record"]
    assert record["pixels"] == pixels
    assert (record["images"], record["min_depth"], record["max_depth"]) == (3, low, high)
    assert record["scaling"] == scaling
    assert len(record["alignments"]) == (0 if scaling == "none" else 3)


def test_convention_delta_threshold_itself_does_not_count():
    truth = torch.full((1, 1, 2, 2), 4.0)
    assert depth_errors(1.25 * truth, truth)["delta1"] == 0
    assert depth_errors(1.249 * truth, truth)["delta1"] == 1


def test_convention_truth_at_a_depth_limit_does_not_count():
    truth = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    assert depth_errors(truth, truth, min_depth=1.0, max_depth=4.0)["record"]["pixels"] == 2
    assert depth_errors(truth, truth, min_depth=None, max_depth=None)["record"]["pixels"] == 4


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("junk", [math.nan, math.inf, -3.0])
def test_depth_outside_the_mask_changes_nothing(scaling, junk):
    prediction, truth = depth_pair(dtype=torch.float32)
    mask = torch.rand(truth.shape, generator=torch.Generator().manual_seed(1)) > 0.4
    clean = depth_errors(prediction, truth, mask, scaling=scaling)
    assert depth_errors(prediction.where(mask, torch.tensor(junk)), truth, mask, scaling=scaling) == clean
    holes = truth.where(mask, torch.tensor(junk))
    assert depth_errors(prediction, holes, mask, scaling=scaling) == clean
    assert depth_errors(prediction, holes, scaling=scaling) == clean  # truth that cannot be is left out


def test_zero_depth_predictions_stay_finite():
    _, truth = depth_pair()
    errors = depth_errors(torch.zeros_like(truth), truth, min_depth=None, max_depth=None)
    assert all(math.isfinite(errors[name]) for name in NAMES)
    assert errors["abs_rel"] == 1


@pytest.mark.parametrize(("prediction", "shift", "word"), [(0.0, False, "zero"), (0.3, True, "constant")])
def test_least_squares_scale_without_an_answer(prediction, shift, word):
    with pytest.raises(ValueError, match=word):
        least_squares_scale(torch.full((1, 1, 7, 9), prediction), torch.rand(1, 1, 7, 9), shift=shift)


@pytest.mark.parametrize("shape", [(3, 9, 11), (3, 1, 9, 11), (3, 3, 9, 11)])
@pytest.mark.parametrize("masked", [False, True])
def test_disparity_measures_equal_numpy(shape, masked):
    generator = torch.Generator().manual_seed(3)
    truth = torch.randn(shape, generator=generator, dtype=torch.float64)
    prediction = truth + 0.2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    mask_shape = shape if len(shape) == 3 else (3, 1, 9, 11)
    mask = torch.rand(mask_shape, generator=generator) > 0.4 if masked else None
    junk = torch.tensor(math.nan, dtype=truth.dtype)  # outside the mask nothing counts
    given = (prediction, truth) if mask is None else (prediction.where(mask, junk), truth.where(mask, junk))
    results = {
        "l1": l1(*given, mask),
        "mse": mse_x100(*given, mask),
        "bad": bad_pixels(*given, 0.1, mask),
        "q25": q25(*given, mask),
    }
    for index in range(3):
        error = (prediction - truth)[index].abs()
        error = (error if mask is None else error[mask.expand(shape)[index]]).numpy().ravel()
        expected = {
            "l1": error.mean(),
            "mse": 100 * (error**2).mean(),
            "bad": 100 * (error > 0.1).mean(),
            "q25": np.percentile(error, 25),
        }
        assert {name: value[index].item() for name, value in results.items()} == pytest.approx(
            expected, rel=1e-12
        )


def test_convention_bad_pixels_exceed_the_threshold_and_nan_is_bad():
    truth = torch.zeros(1, 2, 2)
    prediction = torch.tensor([[[0.25, 0.2500001], [math.nan, -1.0]]])
    assert bad_pixels(prediction, truth, 0.25).item() == 75


def test_q25_of_more_values_than_torch_quantile_takes():
    error = torch.arange(2**24 + 5, dtype=torch.float32).view(1, 1, -1)
    assert q25(error, torch.zeros_like(error)).item() == pytest.approx(2**22 + 1, rel=1e-6)


@pytest.mark.parametrize(
    "measure", [depth_errors, l1, mse_x100, q25, lambda p, t, m: bad_pixels(p, t, 1.0, m)]
)
def test_empty_mask_names_the_image(measure):
    prediction, truth = depth_pair()
    mask = torch.ones_like(truth, dtype=torch.bool)
    mask[1] = False
    with pytest.raises(ValueError, match=r"\[1\]"):
        measure(prediction, truth, mask)
    with pytest.raises(ValueError, match="no pixel is valid"):
        least_squares_scale(prediction[1:2], truth[1:2], mask[1:2])


DEPTH = torch.rand(2, 1, 8, 8) + 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: psnr(DEPTH[0], DEPTH[0]), "truth"),
        (lambda: psnr(DEPTH, DEPTH, 0.0), "data_range"),
        (lambda: psnr(DEPTH.byte(), DEPTH.byte()), "uint8"),
        (lambda: depth_errors(DEPTH.expand(2, 3, 8, 8), DEPTH.expand(2, 3, 8, 8)), "truth"),
        (lambda: depth_errors(DEPTH, DEPTH, DEPTH), "boolean"),
        (lambda: depth_errors(DEPTH, DEPTH, max_depth=1e-4), "limits"),
        (lambda: depth_errors(DEPTH, DEPTH, scaling="mean"), "scaling"),
        (lambda: depth_errors(DEPTH / 0, DEPTH), "not finite"),
        (lambda: depth_errors(-DEPTH, DEPTH, scaling="median"), "median"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
