"""KITTI: raw drives as this paper prepares them, odometry sequences, and the predecessors' flat odometry.

kitti_raw, written by `prepare.py kitti` (and by the paper's own script, which writes whole metres as depth):

    <root>/<drive>_<camera>/cam.txt                  3x3 of the 1242x375 images
    <root>/<drive>_<camera>/poses.txt                per line: frame and 16 numbers, camera to world, metres
    <root>/<drive>_<camera>/0000000066.png           and 0000000066_depth.png, 16 bit, metres * 256

kitti_odometry, as the benchmark hands it out: <sequence>/{image_2 or image_0, calib.txt, poses.txt} with 3x4
poses; it has no depth, yours goes to <sequence>/depth/ in the form above.

kitti_odometry_flat, as Chen et al. and Hou et al. have it: images/00_004166.png and poses.txt with one line
"id rx ry rz tx ty tz" (Euler angles x, y, z in radians, metres) for each image, 256 px crops of focal length
718.9. In all of them a depth of 0 is unknown, and translations become 1/50: one unit is 50 m.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nvs_depth.datasets.views import DepthFormat, Framing, ViewSet
from shared.errors import DataError
from shared.files.cameras import parse_matrix, parse_pose, read_matrix, read_poses
from shared.files.disk import read_text, visible
from shared.files.images import read_image_size
from shared.files.listing import list_images, pictures_among
from shared.geometry.camera import intrinsics_matrix
from shared.geometry.trajectories import so3_exp

__all__ = [
    "CROP_256",
    "UNIT_M",
    "euler_pose",
    "load_kitti_odometry",
    "load_kitti_odometry_flat",
    "load_kitti_raw",
    "numbered_images",
    "projection_matrix",
    "read_frame_list",
]

UNIT_M = 50.0
RAW_HW = (375, 1242)
CROP_256 = (59, 493, 256)  # top row, left column and side of the released centre crop
DEPTH_UNIT_M = 1 / 256
FLAT_FOCAL = 718.9
PrincipalPoint = Literal["true", "released"]
POSES = "One line per frame: its number and the 16 numbers of the 4x4 camera-to-world matrix"


class Frame(NamedTuple):
    """A frame of a sequence as it was found on disk; its pose is in metres."""

    name: str
    group: str
    number: int
    image: Path
    world_from_cam: Tensor  # float64 [4, 4]
    K: Tensor  # float64 [3, 3]
    depth: Path | None = None  # need not exist


def load_kitti_raw(root: Path, framing: Framing, principal_point: PrincipalPoint = "true") -> ViewSet:
    """Prepared drives below `root`.

    principal_point: "released" overwrites it with the middle of the crop, 11 to 14 pixels from where it is.
    Raises DataError for a folder without cameras or poses, and for frames without a pose.
    """
    folders = sorted(path.parent for path in root.glob("*/cam.txt"))
    if not folders:
        remedy = "Make them with `python -m nvs_depth.prepare kitti`"
        raise DataError(root, "holds no drive with a cam.txt", remedy)
    frames = [frame for folder in folders for frame in _raw_frames(folder)]
    stored_hw = read_image_size(frames[0].image)
    notes = ()
    if principal_point == "released":
        moved, notes = _forced_middle(torch.stack([f.K for f in frames]), framing, stored_hw)
        frames = [frame._replace(K=K) for frame, K in zip(frames, moved, strict=True)]
    return _view_set(root, "kitti_raw", framing, frames, notes)


def _raw_frames(folder: Path) -> Iterator[Frame]:
    K, poses = read_matrix(folder / "cam.txt", 3, 3), _numbered_poses(folder / "poses.txt")
    images = numbered_images(folder)
    if not images:
        raise DataError(folder, "holds no frames such as 0000000066.png", "Prepare the drive again")
    for number, image in images.items():
        if number not in poses:
            raise DataError(folder / "poses.txt", f"lacks the frame {image.stem}", POSES)
        depth = image.with_name(f"{image.stem}_depth.png")
        name = f"{folder.name}/{image.stem}.png"  # as in the published lists
        yield Frame(name, folder.name, number, image, poses[number], K, depth)


def numbered_images(folder: Path) -> dict[int, Path]:
    """The pictures in a folder that are named by the number of their frame, whatever their extension."""
    found: dict[int, Path] = {}
    for path in pictures_among(visible(folder))[0]:
        if path.stem.isdecimal() and found.setdefault(int(path.stem), path) != path:
            other = found[int(path.stem)].name
            raise DataError(path, f"has the number of {other}", "Remove one of the two")
    return found


def load_kitti_odometry(root: Path, framing: Framing) -> ViewSet:
    """Sequences of the odometry benchmark below `root` (or `root` itself): calib.txt, poses.txt, image_K/.

    Of image_2 (colour) and image_0 (grey) the first that is there is read. DataError for what is missing.
    """
    folders = [root] if (root / "calib.txt").is_file() else sorted(p.parent for p in root.glob("*/calib.txt"))
    if not folders:
        remedy = "Sequences are folders such as 00, with calib.txt"
        raise DataError(root, "holds no sequence with calib.txt", remedy)
    frames = [frame for folder in folders for frame in _odometry_frames(folder)]
    return _view_set(root, "kitti_odometry", framing, frames)


def _odometry_frames(folder: Path) -> Iterator[Frame]:
    image_folder = next((folder / n for n in ("image_2", "image_0") if (folder / n).is_dir()), None)
    if image_folder is None:
        raise DataError(folder, "has no folder image_2 or image_0", "Fetch the images of the sequence")
    projection = _calibration(folder / "calib.txt", f"P{image_folder.name[-1]}")
    offset = torch.linalg.inv(projection[:, :3]) @ projection[:, 3]  # of camera 0, in this camera
    poses = read_poses(folder / "poses.txt")
    images = list_images(image_folder)[0]
    if len(poses) < len(images):
        reason = f"holds {len(poses)} poses for {len(images)} images"
        raise DataError(folder / "poses.txt", reason, "One line of 12 numbers for each image")
    for image in images:
        if not image.stem.isdecimal() or int(image.stem) >= len(poses):
            raise DataError(image, f"has no line among the {len(poses)} poses", "Images are numbered from 0")
        number = int(image.stem)
        pose = poses[number].clone()
        pose[:3, 3] -= pose[:3, :3] @ offset
        name = f"{image.stem}.png"  # of depth and in lists, whatever the image is
        depth = folder / "depth" / name
        yield Frame(f"{folder.name}/{name}", folder.name, number, image, pose, projection[:, :3], depth)


def load_kitti_odometry_flat(root: Path, framing: Framing) -> ViewSet:
    """The predecessors' crops: every image of poses.txt, grouped by the sequence in its id."""
    path = root / "poses.txt"
    frames, K = [], None
    images = {image.stem: image for image in list_images(root / "images")[0]}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            sequence, frame = words[0].split("_")
            values = torch.tensor([float(word) for word in words[1:]], dtype=torch.float64)
            frame_number = int(frame)
        except ValueError:
            values = torch.zeros(0)
        if len(values) != 6 or not bool(values.isfinite().all()):
            reason = f"line {number} is not `id rx ry rz tx ty tz`, all finite"
            raise DataError(path, reason, "Write six numbers per image")
        image = images.get(words[0])
        if image is None:
            image = root / "images" / f"{words[0]}.png"
            raise DataError(image, "the image of a line in poses.txt is missing", "Remove the line or add it")
        if K is None:
            height, width = read_image_size(image)
            focal = FLAT_FOCAL * width / 256
            K = intrinsics_matrix(focal, focal, (width - 1) / 2, (height - 1) / 2, dtype=torch.float64)
        pose = euler_pose(values[:3], values[3:])
        frames.append(Frame(words[0], sequence, frame_number, image, pose, K))
    if not frames:
        raise DataError(path, "holds no poses", "Write `id rx ry rz tx ty tz` for each image")
    notes = ("published split: single frames of the same drives, whose neighbours are trained on",)
    return _view_set(root, "kitti_odometry_flat", framing, frames, notes)


def _view_set(
    root: Path, layout: str, framing: Framing, frames: Sequence[Frame], notes: tuple[str, ...] = ()
) -> ViewSet:
    """The frames with their translations in the unit of the networks."""
    poses = torch.stack([frame.world_from_cam for frame in frames])
    poses[:, :3, 3] /= UNIT_M
    return ViewSet(
        path=root,
        layout=layout,
        framing=framing,
        names=[frame.name for frame in frames],
        groups=[frame.group for frame in frames],
        images=[frame.image for frame in frames],
        depths=[f.depth if f.depth is not None and f.depth.is_file() else None for f in frames],
        world_from_cam=poses,
        K_stored=torch.stack([frame.K for frame in frames]),
        stored_hw=read_image_size(frames[0].image),
        coordinates=torch.tensor([(frame.number, 0) for frame in frames]),
        depth_format=DepthFormat(unit=DEPTH_UNIT_M / UNIT_M, sparse=True),
        unit_m=UNIT_M,
        notes=notes,
    )


def euler_pose(angles: Tensor, translation: Tensor) -> Tensor:
    """`world_from_cam` [4, 4] from extrinsic x, y, z rotations in radians [3] and a translation [3]."""
    about_x, about_y, about_z = so3_exp(torch.diag(angles))
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = about_z @ about_y @ about_x
    pose[:3, 3] = translation
    return pose


def read_frame_list(path: Path) -> list[list[str]]:
    """The words of each line that is not empty: one frame, or source and target."""
    rows = [line.split() for line in read_text(path).splitlines() if line.strip()]
    if not rows or len({len(row) for row in rows}) != 1:
        raise DataError(
            path, "lines differ in their number of words, or there are none", "Write one entry per line"
        )
    return rows


def _forced_middle(K: Tensor, framing: Framing, stored_hw: tuple[int, int]) -> tuple[Tensor, tuple[str, ...]]:
    """K such that after framing the principal point is at half the side, as the released loader has it."""
    cropped = framing.K(K, stored_hw)
    shift = cropped[:, :2, 2] - framing.side / 2
    # back to stored pixels: both focal lengths scale like the pixels
    scale = cropped[:, [0, 1], [0, 1]] / K[:, [0, 1], [0, 1]]
    K = K.clone()
    K[:, :2, 2] -= shift / scale
    far = shift.norm(dim=1).max().item()
    return K, (
        f"principal point moved by up to {far:.1f} px to the middle of the crop, as the released loader does",
    )


def _numbered_poses(path: Path) -> dict[int, Tensor]:
    """The poses of a file by the frame's number, the first word of each line."""
    poses = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        label, _, text = line.strip().partition(" ")
        try:
            frame = int(float(label))  # np.savetxt writes 6.6e+01
        except (ValueError, OverflowError):
            raise DataError(path, f"line {number}: {label!r} is not the number of a frame", POSES) from None
        if frame in poses:
            raise DataError(path, f"line {number}: frame {frame} comes twice", POSES)
        poses[frame] = parse_pose(text, path, f"line {number}")
    return poses


def _calibration(path: Path, name: str) -> Tensor:
    """A 3x4 projection matrix of a calib.txt by its name."""
    for line in read_text(path).splitlines():
        key, _, rest = line.partition(":")
        if key.strip() == name:
            return projection_matrix(path, name, rest)
    raise DataError(path, f"has no line `{name}:` with 12 numbers", "Fetch calib.txt of the sequence again")


def projection_matrix(path: Path, name: str, text: str) -> Tensor:
    """A projection [3, 4] = K [I | t] from its 12 numbers; DataError unless they make a camera."""
    projection = parse_matrix(text, path, name, (3, 4))
    if not min(projection[0, 0], projection[1, 1]) > 0 or projection[2, :3].tolist() != [0, 0, 1]:
        reason = f"{name} is no pinhole camera with a positive focal length: {projection[:, :3].tolist()}"
        raise DataError(path, reason, "Fetch the calibration again")
    return projection
