"""Photos to posed images: what is written is what COLMAP found, up to one scale for all."""

from pathlib import Path

import pytest
import torch

from nvs_depth import prepare
from nvs_depth.datasets import posed as photos
from nvs_depth.datasets.options import DataConfig
from nvs_depth.datasets.select import load_views
from shared.files.colmap import ColmapCamera, ColmapImage, ColmapModel, ColmapPoints
from shared.files.images import write_image
from shared.files.sfm import SfmScene
from shared.geometry.camera import invert_pose, transform_points
from shared.geometry.trajectories import orbit_trajectory

COUNT, RADIUS = 6, 7.0


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ColmapModel:
    """Six cameras around a cloud of points; the reconstruction is replaced by one that returns them."""
    poses = orbit_trajectory(COUNT, RADIUS, elevation_deg=20.0, dtype=torch.float64)
    camera = ColmapCamera("PINHOLE", 40, 32, (50.0, 51.0, 19.0, 17.0))
    nothing = torch.zeros(0, 2, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    images = {i: ColmapImage(f"sub/photo_{i}.png", 1, poses[i], *nothing) for i in range(COUNT)}
    xyz = torch.rand(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    rest = torch.zeros(200, 3, dtype=torch.uint8), torch.zeros(200, dtype=torch.float64)
    tracks = torch.zeros(201, dtype=torch.int64), torch.zeros(0, 2, dtype=torch.int64)
    model = ColmapModel({1: camera}, images, ColmapPoints(torch.arange(200), xyz, *rest, *tracks))

    def reconstruct(photo_dir: Path, out_dir: Path, options: object = None) -> SfmScene:
        for index in range(COUNT):
            write_image(out_dir / "images" / f"sub/photo_{index}.png", torch.full((3, 32, 40), index / COUNT))
        return SfmScene(out_dir / "images", out_dir / "sparse", model, ["blurred.jpg"])

    monkeypatch.setattr(photos, "reconstruct", reconstruct)
    return model


def test_photos_become_posed_images(
    model: ColmapModel, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    prepare.main(["colmap", str(tmp_path / "photos"), "--out", str(tmp_path / "scene")])
    said = capsys.readouterr()
    assert "blurred.jpg" in said.err
    assert "layout posed" in said.out
    views = load_views(DataConfig(layout="posed", root=str(tmp_path / "scene")), 32)
    poses = torch.stack([model.images[i].world_from_cam for i in range(COUNT)])
    assert torch.allclose(views.world_from_cam[:, :3, :3].double(), poses[:, :3, :3], atol=1e-6)
    scales = views.world_from_cam[:, :3, 3].norm(dim=1) / poses[:, :3, 3].norm(dim=1)
    assert torch.allclose(scales, scales[:1], atol=1e-6)
    assert torch.allclose(views.K_stored[0].double(), model.cameras[1].intrinsics(), atol=1e-5)
    points = model.points.xyz * scales[0]
    depths = transform_points(invert_pose(views.world_from_cam.double()), points.expand(COUNT, -1, 3))[..., 2]
    assert depths.median().item() == pytest.approx(2.0, abs=0.02)


def test_a_failure_leaves_nothing_behind(
    model: ColmapModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photos, "_median_depth", lambda model: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        photos.prepare_photos(tmp_path / "photos", tmp_path / "scene")
    assert list(tmp_path.iterdir()) == []
