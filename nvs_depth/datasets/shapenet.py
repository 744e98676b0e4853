"""ShapeNet renders in two layouts: this paper's and its predecessors'.

This paper's (72 views: 18 azimuths x 4 elevations, index = 4 azimuth / 20 + elevation / 10 + 1):

    <root>/camera_settings/cam_K/cam_K.txt              3x3, pixels counted from the image's corner (Blender)
    <root>/camera_settings/cam_RT/cam_RT_001.txt ...    3x4, world to camera (or the reverse: `pose_files`)
    <root>/<category>/<model>/color_001.png ...         and depth_001.exr: length of the ray, infinite outside

Predecessors' (Chen et al. 2019, Hou et al. 2021; 54 views at elevations 0, 10, 20):

    <root>/images/<model>_<azimuth>_<elevation>.png     optional: <root>/depth/<same name>.exr, z-depth
    <root>/<model>/<azimuth>_<elevation>.png            the same, one folder for each object
"""

import math
import re
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from nvs_depth.datasets.views import DepthFormat, Framing, ViewSet
from shared.errors import DataError
from shared.files.cameras import read_matrix, read_pose
from shared.files.disk import visible
from shared.files.images import few_names, read_image_size
from shared.files.listing import left_out_note, list_images, pictures_among
from shared.geometry.camera import intrinsics_matrix, invert_pose

__all__ = [
    "AZIMUTHS",
    "ELEVATIONS",
    "FLAT_NAME",
    "FOCAL_SHARE",
    "FOLDER_NAME",
    "grid_pose",
    "load_shapenet",
    "load_shapenet_flat",
    "view_number",
]

AZIMUTHS = tuple(range(0, 360, 20))
ELEVATIONS = (0, 10, 20, 30)
FOCAL_SHARE = 480 / 256  # predecessors: focal length over image side; an angle of view of 29.9 degrees
PoseFiles = Literal["auto", "world_to_cam", "cam_to_world"]
FLAT_NAME = re.compile(r"(?P<model>.+)_(?P<azimuth>\d+)_(?P<elevation>\d+)")
FOLDER_NAME = re.compile(r"(?P<azimuth>\d+)_(?P<elevation>\d+)")
WHERE = "Copy what is missing, or render it"


def view_number(azimuth_deg: int, elevation_deg: int) -> int:
    """1..72: the number of a view in this paper's file names."""
    return azimuth_deg // 20 * 4 + elevation_deg // 10 + 1


def grid_pose(azimuth_deg: float, elevation_deg: float, distance: float = 2.0) -> Tensor:
    """`world_from_cam` [4, 4] float64 on the predecessors' grid; object at the origin, the world's y down.

    R = Ry(azimuth) Rx(-elevation), centre = -distance R z: the formula of Chen et al.'s loader.
    """
    a, e = math.radians(azimuth_deg), math.radians(-elevation_deg)
    rows_turn = [[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]]
    rows_tilt = [[1, 0, 0], [0, math.cos(e), -math.sin(e)], [0, math.sin(e), math.cos(e)]]
    turn, tilt = (torch.tensor(rows, dtype=torch.float64) for rows in (rows_turn, rows_tilt))
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = turn @ tilt
    pose[:3, 3] = -distance * pose[:3, 2]
    return pose


def load_shapenet(
    folder: Path,
    framing: Framing,
    pose_files: PoseFiles = "auto",
    ray_length: bool = True,
) -> ViewSet:
    """Views of `<root>/<category>` in this paper's layout.

    pose_files: what cam_RT holds; "auto" finds out, since the camera looks at the origin. The released loader
    takes all rotations for camera-to-world: with world-to-camera files its relative poses are wrong wherever
    the elevation is not 0, and "cam_to_world" would repeat that, so it is refused for such files. Raises
    DataError for anything missing or inconsistent.
    """
    settings = folder.parent / "camera_settings"
    K = read_matrix(settings / "cam_K" / "cam_K.txt", 3, 3)
    K[:2, 2] -= 0.5  # Blender's scripts put the middle at width / 2
    files = sorted((settings / "cam_RT").glob("cam_RT_*.txt"))
    if not files:
        raise DataError(settings / "cam_RT", "holds no cam_RT_001.txt ...", WHERE)
    strange = next((f for f in files if not f.stem.removeprefix("cam_RT_").isdecimal()), None)
    if strange is not None:
        raise DataError(strange, "its name is not of the form cam_RT_001.txt", "Rename or remove it")
    cameras = {int(f.stem.rsplit("_", 1)[1]): read_pose(f) for f in files}
    numbers = sorted(cameras)
    poses = _camera_poses(settings / "cam_RT", torch.stack([cameras[n] for n in numbers]), pose_files)
    pose_of = dict(zip(numbers, poses, strict=True))
    names, groups, images, depths, chosen = [], [], [], [], []
    models = sorted(path.name for path in visible(folder) if path.is_dir())
    if not models:
        raise DataError(folder, "holds no folders of models", WHERE)
    for model in models:
        pictures = {path.stem: path for path in pictures_among(visible(folder / model))[0]}
        for number in numbers:
            image = pictures.get(f"color_{number:03d}")
            if image is None:
                raise DataError(folder / model / f"color_{number:03d}.png", "the view is missing", WHERE)
            depth = folder / model / f"depth_{number:03d}.exr"
            names.append(f"{model}/color_{number:03d}.png")
            groups.append(model)
            images.append(image)
            depths.append(depth if depth.is_file() else None)
            chosen.append(number)
    index = torch.tensor(chosen) - 1
    coordinates = torch.stack([index // 4 * 20, index % 4 * 10], 1)
    return ViewSet(
        path=folder,
        layout="shapenet",
        framing=framing,
        names=names,
        groups=groups,
        images=images,
        depths=depths,
        world_from_cam=torch.stack([pose_of[n] for n in chosen]),
        K_stored=K.expand(len(names), 3, 3),
        stored_hw=read_image_size(images[0]),
        coordinates=coordinates,
        depth_format=DepthFormat(ray_length=ray_length),
    )


def load_shapenet_flat(folder: Path, framing: Framing, focal_share: float = FOCAL_SHARE) -> ViewSet:
    """Views named by model, azimuth and elevation; the background of transparent images becomes black."""
    found = []
    nested = not (folder / "images").is_dir()
    images, left_out = list_images(folder if nested else folder / "images", recursive=nested)
    for image in sorted(images):
        match = (FOLDER_NAME if nested else FLAT_NAME).fullmatch(image.stem)
        if match:
            model = image.parent.name if nested else match["model"]
            found.append((model, int(match["azimuth"]), int(match["elevation"]), image))
    if not found:
        raise DataError(folder, "holds no views named <model>_<azimuth>_<elevation>.png", WHERE)
    notes = [left_out_note(left_out)] if left_out else []
    named = {image for *_, image in found}
    unnamed = [image for image in images if image not in named]
    if unnamed:
        how = "<azimuth>_<elevation>" if nested else "<model>_<azimuth>_<elevation>"
        notes.append(f"{len(unnamed)} pictures are not named {how}, left out: {few_names(unnamed)}")
    height, width = read_image_size(found[0][3])
    focal = focal_share * width
    K = intrinsics_matrix(focal, focal, (width - 1) / 2, (height - 1) / 2, dtype=torch.float64)
    depths = [folder / "depth" / f"{image.stem}.exr" for *_, image in found]
    return ViewSet(
        path=folder,
        layout="shapenet_flat",
        framing=framing,
        names=[f"{model}_{azimuth}_{elevation}" for model, azimuth, elevation, _ in found],
        groups=[model for model, *_ in found],
        images=[image for *_, image in found],
        depths=[depth if depth.is_file() else None for depth in depths],
        world_from_cam=torch.stack([grid_pose(a, e) for _, a, e, _ in found]),
        K_stored=K.expand(len(found), 3, 3),
        stored_hw=(height, width),
        coordinates=torch.tensor([(a, e) for _, a, e, _ in found]),
        notes=tuple(notes),
    )


def _camera_poses(path: Path, matrices: Tensor, kind: PoseFiles) -> Tensor:
    """`world_from_cam` [N, 4, 4] of the matrices in cam_RT."""
    translation = matrices[:, :3, 3]
    # A camera that looks at the origin has it on its axis.
    distance = translation.norm(dim=1, keepdim=True)
    on_axis = torch.cat([torch.zeros_like(translation[:, :2]), distance], 1)
    is_world_to_cam = bool(((translation - on_axis).abs() < 1e-2 * distance).all())
    is_cam_to_world = bool(((translation + distance * matrices[:, :3, 2]).abs() < 1e-2 * distance).all())
    found = "world_to_cam" if is_world_to_cam else "cam_to_world" if is_cam_to_world else None
    if found is None:
        reason = (
            "the matrices are neither world-to-camera nor camera-to-world of cameras that look at the origin"
        )
        raise DataError(path, reason, "Write world-to-camera with OpenCV axes (x right, y down, z forward)")
    if kind not in ("auto", found) and not (is_world_to_cam and is_cam_to_world):
        reason = f"the matrices are {found}, not {kind}: they would not look at the object"
        raise DataError(path, reason, f"Set data.pose_files to auto or {found}")
    return invert_pose(matrices) if found == "world_to_cam" else matrices
