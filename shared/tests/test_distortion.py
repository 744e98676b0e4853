"""Undistortion of images: pixel centres and coefficients as in COLMAP, and what is not in the photograph."""

import numpy as np
import pytest
import torch

from shared.files.images import undistort_image
from shared.geometry.camera import intrinsics_matrix, pixel_grid

LENSES = {
    "none": [0.0, 0.0, 0.0, 0.0],
    "barrel": [-0.28, 0.07, 0.0, 0.0],
    "pincushion": [0.22, 0.1, 0.0, 0.0],
    "decentred": [-0.1, 0.02, 0.003, -0.004],
}


def waves(pixels: torch.Tensor) -> torch.Tensor:
    """A smooth picture [3, H, W] as a function of its pixel coordinates [H, W, 2]."""
    x, y = pixels.unbind(-1)
    return torch.stack([(0.11 * x).sin(), (0.13 * y).cos(), (0.07 * (x + y)).sin()]) / 2 + 0.5


@pytest.mark.parametrize("lens", LENSES)
def test_convention_undistort_image_agrees_with_pycolmap(lens: str) -> None:
    """Each pixel of the photograph is drawn at its ideal position; undistortion gives the drawing back."""
    pycolmap = pytest.importorskip("pycolmap", reason="the extra `colmap` is not installed")
    height, width, size = 61, 83, (50, 70)
    K, K_new = intrinsics_matrix(70.0, 72.0, 40.3, 31.2), intrinsics_matrix(66.0, 65.0, 33.0, 25.5)
    parameters = [70.0, 72.0, 40.8, 31.7, *LENSES[lens]]  # COLMAP counts pixels from the corner
    camera = pycolmap.Camera(model="OPENCV", width=width, height=height, params=parameters)
    grid = pixel_grid(height, width, dtype=torch.float64)
    rays = camera.cam_from_img(grid.reshape(-1, 2).numpy() + 0.5)
    ideal = torch.from_numpy(rays).reshape(height, width, 2) * K_new.diagonal()[:2] + K_new[:2, 2]
    image, valid = undistort_image(waves(ideal).float(), K, torch.tensor(LENSES[lens]), K_new, size)
    assert image.shape == (3, *size)
    assert valid.double().mean() > 0.8
    error = (image - waves(pixel_grid(*size))).abs().amax(0)[valid]
    assert error.max() < 6e-3  # bilinear interpolation of these waves; OpenCV rounds positions to 1/32 px


def test_without_distortion_pixels_stay_and_grey_stays_grey() -> None:
    image, K = torch.rand(1, 9, 7), intrinsics_matrix(8.0, 8.0, 3.0, 4.0)
    same, valid = undistort_image(image, K, torch.zeros(5))
    torch.testing.assert_close(same, image, rtol=0, atol=1e-6)
    assert valid.all()


def test_the_fold_and_what_the_photograph_does_not_show_are_invalid() -> None:
    # r (1 - 0.3 r²) has its maximum 0.703 at r = 1.054: nothing is seen further out.
    K, wide = intrinsics_matrix(20.0, 20.0, 20.0, 20.0), intrinsics_matrix(6.0, 6.0, 20.0, 20.0)
    _, valid = undistort_image(torch.rand(3, 41, 41), K, torch.tensor([-0.3, 0, 0, 0]), wide)
    radius = ((pixel_grid(41, 41) - 20).norm(dim=-1) / 6).numpy()
    assert not valid[torch.from_numpy(radius > 1.25)].any()
    assert valid[torch.from_numpy(radius < 0.9)].all()
    _, valid = undistort_image(torch.rand(3, 41, 41), K, torch.zeros(4), wide)
    inside = (np.abs((pixel_grid(41, 41) - 20).numpy()) * 20 / 6 <= 20).all(-1)
    assert np.array_equal(valid.numpy(), inside)
