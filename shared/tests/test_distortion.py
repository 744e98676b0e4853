import cv2
import numpy as np
import pytest
import torch

from shared.geometry.camera import intrinsics_matrix, pixel_grid, resize_intrinsics
from shared.geometry.distortion import distort_normalized, undistort_image, undistort_normalized

F64 = torch.float64
LENSES = {
    "none": [0.0, 0.0, 0.0, 0.0],
    "barrel": [-0.28, 0.07, 0.0, 0.0],
    "pincushion": [0.22, 0.1, 0.0, 0.0, 0.05],
    "decentred": [-0.1, 0.02, 0.003, -0.004],
    "full": [-0.3, 0.12, -0.002, 0.001, -0.02],
}
each_lens = pytest.mark.parametrize("lens", LENSES)


pytestmark = pytest.mark.usefixtures("seeded")


@pytest.fixture
def points() -> torch.Tensor:
    return (torch.rand(400, 2, dtype=F64) * 2 - 1) * torch.tensor([0.75, 0.55])


@each_lens
def test_convention_distort_normalized_agrees_with_opencv(lens, points):
    distortion = torch.tensor(LENSES[lens], dtype=F64)
    points_cam = np.concatenate([points.numpy(), np.ones((len(points), 1))], axis=1)
    expected, _ = cv2.projectPoints(points_cam, np.zeros(3), np.zeros(3), np.eye(3), distortion.numpy())
    np.testing.assert_allclose(distort_normalized(points, distortion), expected.reshape(-1, 2), atol=1e-12)


@each_lens
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (F64, 1e-14)])
def test_undistort_inverts_distort(lens, dtype, tolerance, points):
    points, distortion = points.to(dtype), torch.tensor(LENSES[lens], dtype=dtype)
    again, found = undistort_normalized(distort_normalized(points, distortion), distortion)
    assert found.all()
    torch.testing.assert_close(again, points, rtol=0, atol=4 * tolerance)


@each_lens
def test_convention_undistort_normalized_agrees_with_opencv(lens, points):
    distortion = torch.tensor(LENSES[lens], dtype=F64)
    distorted = points * 0.8
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-12)
    expected = cv2.undistortPoints(
        distorted.numpy()[:, None], np.eye(3), distortion.numpy(), R=None, P=None, criteria=stop
    )
    ideal, found = undistort_normalized(distorted, distortion)
    assert found.all()
    np.testing.assert_allclose(ideal, expected.reshape(-1, 2), atol=1e-9)


def test_undistort_reports_points_that_no_ideal_point_reaches():
    # r (1 - 0.3 r²) has its maximum 0.703 at r = 1.054: nothing is seen further out.
    distortion = torch.tensor([-0.3, 0.0, 0.0, 0.0], dtype=F64)
    distorted = torch.tensor(
        [[0.70, 0.0], [0.71, 0.0], [0.0, 1e120], [0.0, 0.0]], dtype=F64, requires_grad=True
    )
    ideal, found = undistort_normalized(distorted, distortion)
    assert found.tolist() == [True, False, False, True]
    torch.testing.assert_close(ideal[1:3], distorted[1:3])
    ideal.sum().backward()
    assert torch.isfinite(distorted.grad).all()


def test_distortion_gradients():
    points = (torch.rand(5, 2, dtype=F64) - 0.5).requires_grad_()
    distortion = torch.tensor(LENSES["full"], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(distort_normalized, (points, distortion))
    assert torch.autograd.gradcheck(lambda p, d: undistort_normalized(p, d)[0], (points, distortion))


def waves(pixels: torch.Tensor) -> torch.Tensor:
    """A smooth picture [..., 3] as a function of its pixel coordinates [..., 2]."""
    x, y = pixels.unbind(-1)
    return torch.stack([(0.11 * x).sin(), (0.13 * y).cos(), (0.07 * (x + y)).sin()], dim=-1) / 2 + 0.5


@each_lens
def test_undistort_image_shows_the_ideal_picture(lens):
    # Each pixel of the photograph is drawn at its ideal position; undistortion must give the drawing back.
    height, width = 61, 83
    K = intrinsics_matrix(70.0, 72.0, 40.3, 31.2, dtype=F64)
    distortion = torch.tensor(LENSES[lens], dtype=F64)
    focal, centre = K.diagonal()[:2], K[:2, 2]
    grid = pixel_grid(height, width, dtype=F64)
    ideal, found = undistort_normalized((grid - centre) / focal, distortion)
    assert found.all()
    photograph = waves(ideal * focal + centre).permute(2, 0, 1)[None]
    image, valid = undistort_image(photograph, K, distortion)
    error = (image - waves(grid).permute(2, 0, 1)).abs().amax(1, keepdim=True)[valid]
    assert valid.double().mean() > 0.8
    assert error.max() < 6e-3  # bilinear interpolation of these waves


@each_lens
def test_convention_undistort_image_agrees_with_opencv(lens):
    height, width, size = 61, 83, (45, 70)
    K = intrinsics_matrix(70.0, 72.0, 40.3, 31.2)
    K_new = resize_intrinsics(K, (height, width), size)
    distortion = torch.tensor(LENSES[lens])
    photograph = waves(pixel_grid(height, width)).permute(2, 0, 1)[None]
    image, valid = undistort_image(photograph, K, distortion, K_new, size)
    assert image.shape == (1, 3, *size)
    maps = cv2.initUndistortRectifyMap(
        K.numpy(), distortion.numpy(), None, K_new.numpy(), size[::-1], cv2.CV_32FC1
    )
    source = np.ascontiguousarray(photograph[0].permute(1, 2, 0).numpy())
    expected = torch.from_numpy(cv2.remap(source, *maps, cv2.INTER_LINEAR)).permute(2, 0, 1)
    inner = torch.nn.functional.avg_pool2d(valid.float(), 3, 1, 1)[0] > 0.99
    error = (image[0] - expected).abs()[inner.expand_as(expected)]
    assert error.max() < 3e-3  # cv2.remap rounds coordinates to 1/32 px


def test_undistort_image_batches_and_marks_the_fold():
    images = torch.rand(2, 3, 41, 41)
    K = intrinsics_matrix(20.0, 20.0, 20.0, 20.0)
    distortion = torch.tensor([[-0.3, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    wide = intrinsics_matrix(6.0, 6.0, 20.0, 20.0)
    both, valid = undistort_image(images, K, distortion, wide)
    for index in range(2):
        single, single_valid = undistort_image(images[index : index + 1], K, distortion[index], wide)
        torch.testing.assert_close(both[index], single[0])
        assert torch.equal(valid[index], single_valid[0])
    radius = (pixel_grid(41, 41) - 20).norm(dim=-1) / 6
    assert not valid[0, 0][radius > 1.06].any()
    assert valid[0, 0][radius < 1.05].all()


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="k1 k2 p1 p2"):
        distort_normalized(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(ValueError, match="image"):
        undistort_image(torch.zeros(3, 4, 5), torch.eye(3), torch.zeros(4))
