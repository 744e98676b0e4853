"""One scene captured four ways: posed photos, a light field, a focal stack, and a single photo.

    CAPTURE/
        capture.json      the camera from which depth is compared: K, size, world_from_cam; K of photo.png
        truth.pfm         its z-depth, with truth.json and truth_valid.png (DepthMap.save); may be missing
        photo.png         one picture from there, for nvs_depth; its own K, as wide as that network expects
        light_field/      around that camera, in the layout of the HCI benchmark, for diffdiffdepth
        focal_stack/      from there, with stack.yaml, for dfd_selfsup
        posed/            photos all round with transforms.json, for deepvoxels
        unseen/           pictures from cameras next to that one, which no method sees: transforms.json

Each part is in the form that its paper's own loader reads. Of a capture of your own any part may be missing;
without capture.json the camera is that of the light field or of the stack.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deepvoxels.datasets.embedded import hemisphere_poses
from dfd_selfsup.config import EmbeddedConfig
from dfd_selfsup.datasets.embedded import View, stack_intrinsics, write_view
from diffdiffdepth.datasets.embedded import write_light_field
from diffdiffdepth.scene import GridCamera
from shared.files.cameras import write_nerf_transforms
from shared.files.disk import made_once, write_json
from shared.files.images import write_image
from shared.geometry.camera import intrinsics_matrix, look_at
from shared.geometry.trajectories import orbit_trajectory
from shared.results import DepthMap

if TYPE_CHECKING:
    from scenes import Scene

__all__ = ["KINDS", "embedded_capture"]

CAPTURE_VERSION = 2
SIZE = (96, 128)
PHOTO_SIDE, POSED_VIEWS = 128, 96
VIEWPOINT_DEG, UNSEEN_DEG = 250, (-12, -6, 6, 12)  # azimuth round the object; turns of the unseen views


@dataclass(frozen=True)
class Kind:
    """How a scene of this kind is captured; lengths in metres."""

    distance_m: float  # of what the camera looks at
    baseline_mm: float  # between neighbouring views of the light field
    photo_focal_share: float  # of the side of photo.png
    posed_focal_share: float


# The photo shows the chair at the size that nvs_depth is trained on: 2 away at a focal length of 1.09 sides.
KINDS = {"object": Kind(1.7, 30.0, 0.93, 525 / 480), "room": Kind(2.4, 22.0, 1.4, 1.4)}


def embedded_capture(root: Path, name: str, seed: int = 0) -> Path:
    """The folder of the embedded capture `name`, rendered on first use below `root`."""
    from scenes import SCENES_VERSION

    record = {"version": [SCENES_VERSION, CAPTURE_VERSION], "name": name, "size": [*SIZE], "seed": seed}
    return made_once(root / name, record, partial(_write, name=name, seed=seed), print)


def _write(folder: Path, name: str, seed: int) -> None:
    from scenes import render

    kind, (height, width) = KINDS[name], SIZE
    scene, poses = _scene(name, seed, kind.distance_m)
    pose, K = poses["viewpoint"][0], stack_intrinsics(height, width)
    photo_K = square_intrinsics(kind.photo_focal_share)
    camera = GridCamera(width, height, float(K[0, 0]), width, 9, 9, kind.baseline_mm, kind.distance_m)
    write_light_field(folder / "light_field", scene, pose, camera, name, antialias=2)
    write_view(
        folder / "focal_stack", View(name, scene, pose, 1.0), EmbeddedConfig(height=height, width=width)
    )
    write_image(folder / "photo.png", render(scene, photo_K, pose, PHOTO_SIDE, PHOTO_SIDE, 3).image)
    seen = render(scene, K, pose, height, width, 1)
    DepthMap(seen.depth, "z_depth", "m", "metric", seen.mask, K=K).save(folder / "truth.pfm")
    for part, share in (("posed", kind.posed_focal_share), ("unseen", kind.photo_focal_share)):
        _write_photos(folder / part, scene, square_intrinsics(share), poses[part])
    record = {"size": [height, width], "K": K.tolist(), "world_from_cam": pose.tolist()}
    write_json(folder / "capture.json", record | {"photo_K": photo_K.tolist(), "distance": kind.distance_m})


def _write_photos(folder: Path, scene: "Scene", K: Tensor, poses: Tensor) -> None:
    """Square photos from poses [N, 4, 4], with transforms.json."""
    from scenes import render

    names = [f"images/{index:03d}.png" for index in range(len(poses))]
    for name, pose in zip(names, poses, strict=True):
        write_image(folder / name, render(scene, K, pose, PHOTO_SIDE, PHOTO_SIDE, 3).image)
    entries = [{"file_path": name} for name in names]
    size = PHOTO_SIDE, PHOTO_SIDE
    write_nerf_transforms(folder / "transforms.json", size, K.expand(len(poses), 3, 3), poses, entries)


def square_intrinsics(focal_share: float) -> Tensor:
    """K [3, 3] of the square pictures."""
    focal, centre = focal_share * PHOTO_SIDE, (PHOTO_SIDE - 1) / 2
    return intrinsics_matrix(focal, focal, centre, centre)


def _scene(name: str, seed: int, distance_m: float) -> tuple["Scene", dict[str, Tensor]]:
    """The scene, and world_from_cam [N, 4, 4] of the viewpoint, the posed photos and the unseen views."""
    from scenes import Background, make_object
    from scenes.rooms import room

    if name == "object":
        black = Background((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))  # as what nvs_depth is trained on
        scene = replace(make_object("chair", seed), background=black)
        posed = hemisphere_poses(POSED_VIEWS, 1000 * seed)
        around = orbit_trajectory(360, distance_m, elevation_deg=25.0)
        turns = [VIEWPOINT_DEG + turn for turn in (0, *UNSEEN_DEG)]
        poses = around[turns]
    else:
        scene = room(seed)
        pose = scene.cameras[0].double()
        centre = pose[:3, 3] + distance_m * pose[:3, 2]
        draw = torch.Generator().manual_seed(seed)
        moves = torch.rand(POSED_VIEWS, 3, generator=draw, dtype=torch.float64) - 0.5
        posed = look_at(pose[:3, 3] + moves * moves.new_tensor([1.2, 1.2, 0.5]), centre)
        sideways = distance_m * torch.tensor([0, *UNSEEN_DEG]).deg2rad().tan()
        poses = look_at(pose[:3, 3] + sideways[:, None] * pose[:3, 0], centre)
    return scene, {"viewpoint": poses[:1].float(), "posed": posed.float(), "unseen": poses[1:].float()}
