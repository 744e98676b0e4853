"""Real pictures, found through REAL_DATA: camera models of two chairs, a KITTI sequence, LiDAR projection."""

import os
from pathlib import Path

import pytest
import torch

from nvs_depth.datasets.kitti_convert import project_lidar, read_calibration, read_velodyne
from nvs_depth.datasets.options import DataConfig, PairOptions
from nvs_depth.datasets.select import load_split, load_views
from nvs_depth.prepare import main as prepare_main
from shared.files.images import read_image
from shared.files.maps import read_depth_png
from shared.geometry.camera import invert_pose, project, relative_pose, transform_points, unproject
from shared.geometry.warp import sample_pixels

ROOT = Path(os.environ.get("REAL_DATA", "/nonexistent"))
needs_real = pytest.mark.skipif(not ROOT.is_dir(), reason="REAL_DATA is not set")


def chairs():
    return load_views(
        DataConfig(layout="shapenet_flat", root=str(ROOT / "shapenet_chairs"), focal_share=1.875), 112
    )


@needs_real
def test_azimuth_and_elevation_carve_one_hull():
    """Silhouettes of one chair from all sides agree on a solid; with mirrored azimuths they would not."""
    views = chairs()
    chosen = [i for i, group in enumerate(views.groups) if group == views.groups[0]][::5]
    masks = torch.stack([(views.load(i).image.amax(0) > 0).float() for i in chosen])[:, None]
    line = torch.linspace(-0.6, 0.6, 40)
    points = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)

    def coverage(poses):
        pixels, _ = project(transform_points(invert_pose(poses), points.expand(len(poses), -1, -1)),
                            views.K[chosen])  # fmt: skip
        inside = sample_pixels(masks, pixels[:, None], padding="zeros")[:, 0, 0] > 0.3
        hull = inside.all(0)
        seen = []
        for mask, view in zip(masks[:, 0], pixels, strict=True):
            column, row = view[hull].round().long().clamp(0, 111).unbind(1)
            drawn = torch.zeros_like(mask)
            drawn[row, column] = 1
            grown = torch.nn.functional.max_pool2d(drawn[None, None], 5, 1, 2)[0, 0]
            seen.append(((grown > 0) & (mask > 0)).sum() / (mask > 0).sum())
        return torch.stack(seen).mean().item()

    poses = views.world_from_cam[chosen].float()
    mirrored = poses.clone()
    flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
    mirrored[:, :3, :3] = flip @ poses[:, :3, :3] @ flip
    mirrored[:, :3, 3] = poses[:, :3, 3] @ flip
    assert coverage(poses) > 0.85
    assert coverage(mirrored) < coverage(poses) - 0.1


@needs_real
def test_two_chairs_split_by_azimuth():
    pairs = PairOptions(azimuth_steps_deg=(5, 10, 15, 20), symmetric=True)
    config = DataConfig(
        layout="shapenet_flat", root=str(ROOT / "shapenet_chairs"), holdout="coordinates", pairs=pairs
    )
    split = load_split(config, 64)
    assert len(set(split.train.views.groups)) == 2
    held = set(split.test.views.coordinates[split.test_pairs[:, 1], 0].tolist())
    used = set(split.train.views.coordinates[split.train.all_pairs().flatten(), 0].tolist())
    assert held
    assert not held & used


@needs_real
def test_sparse_depth_carries_patches_along_the_sequence():
    """Triangulated points land on the same texture in the next frame; with the pose reversed they do not."""
    folder = ROOT / "kitti_odometry" / "seq_1"
    views = load_views(DataConfig(layout="kitti_odometry", root=str(folder)), 64)
    assert views.unit_m == 50
    K = views.K_stored[0].float()
    offsets = torch.stack(
        torch.meshgrid(torch.arange(-4, 5), torch.arange(-4, 5), indexing="xy"), -1
    ).reshape(-1, 2)
    errors = {"right": [], "reversed": []}
    for frame in (2, 5, 9):
        text = (folder / "sparse_depth" / f"{frame:06d}.txt").read_text().splitlines()
        rows = torch.tensor([[float(w) for w in line.split()] for line in text if not line.startswith("#")])
        rows = rows[rows[:, 2] < 40]
        image, following = (read_image(views.images[f]).mean(0)[None, None] for f in (frame, frame + 2))
        step = relative_pose(views.world_from_cam[frame + 2], views.world_from_cam[frame]).float()
        step[:3, 3] *= views.unit_m
        patch = sample_pixels(image, (rows[:, None, :2] + offsets)[None])
        for name, pose in (("right", step), ("reversed", invert_pose(step))):
            pixels, _ = project(transform_points(pose, unproject(rows[:, :2], rows[:, 2], K)), K)
            moved = sample_pixels(following, (pixels[:, None] + offsets)[None])
            errors[name].append((patch - moved).abs().mean(-1).flatten())
    right, wrong = (torch.cat(errors[name]).median().item() for name in ("right", "reversed"))
    assert right < 0.6 * wrong


@needs_real
def test_lidar_projection_agrees_with_the_depth_beside_it():
    folder = ROOT / "kitti_lidar"
    calibration = read_calibration(folder / "calib" / "000002.txt")
    projection = calibration["P2"].reshape(3, 4)
    rectified, velo, offset = (torch.eye(4, dtype=torch.float64) for _ in range(3))
    rectified[:3, :3] = calibration["R0_rect"].reshape(3, 3)
    velo[:3] = calibration["Tr_velo_to_cam"].reshape(3, 4)
    offset[:3, 3] = torch.linalg.inv(projection[:, :3]) @ projection[:, 3]
    truth, known = read_depth_png(folder / "depth_lidar" / "000002.png", unit_m=1 / 256)
    points = read_velodyne(folder / "velodyne" / "000002.bin")
    depth, valid = project_lidar(points, offset @ rectified @ velo, projection[:, :3], *truth.shape)
    both = valid & known
    assert both.sum() / (valid | known).sum() > 0.95
    assert ((depth - truth)[both].abs() < 0.02).float().mean() > 0.99


@needs_real
def test_check_reports_on_real_folders(capsys):
    prepare_main(["check", str(ROOT / "shapenet_chairs")])
    prepare_main(["check", str(ROOT / "kitti_odometry" / "seq_1")])
    text = capsys.readouterr().out
    assert "196 in 2 groups" in text
    assert "14 in 1 groups" in text
    assert "not checked: no depth maps" in text
