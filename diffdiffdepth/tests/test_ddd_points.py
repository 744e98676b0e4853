"""Sparse points on disk, the errors added to them, and files that hold none."""

import pytest
import torch

from diffdiffdepth.points import load_points, perturb_points, save_points
from diffdiffdepth.scene import SparsePoints


def test_points_survive_the_disk(tmp_path):
    points = SparsePoints(torch.rand(7, 2), torch.rand(7) + 1, "depth", torch.rand(7) / 2 + 0.5)
    save_points(tmp_path / "points.npz", points)
    loaded = load_points(tmp_path / "points.npz", size=(2, 2))
    assert loaded.kind == "depth"
    for name in ("positions_px", "labels", "weights"):
        torch.testing.assert_close(getattr(loaded, name), getattr(points, name), rtol=0, atol=0)


def test_perturbation_is_seeded_and_as_large_as_asked():
    points = SparsePoints(torch.rand(4000, 2) * 50, torch.linspace(-1, 1, 4000), "disparity")
    noisy, again = (
        perturb_points(points, torch.Generator().manual_seed(3), label_noise=0.1, position_noise_px=0.5)
        for _ in range(2)
    )
    torch.testing.assert_close(noisy.labels, again.labels)
    assert (noisy.labels - points.labels).std() == pytest.approx(0.1, rel=0.05)
    assert (noisy.positions_px - points.positions_px).std() == pytest.approx(0.5, rel=0.05)
    wrong = (
        perturb_points(points, torch.Generator().manual_seed(3), outlier_share=0.25).labels != points.labels
    )
    assert wrong.float().mean() == pytest.approx(0.25, abs=0.03)
