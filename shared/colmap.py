"""COLMAP sparse models: cameras, posed images and 3D points, read and written as text or binary.

COLMAP counts pixels from the corner of the top-left pixel, this project from its centre. The half pixel
between the two is taken off (and put back) in this file and nowhere else: for principal points in
`ColmapCamera.intrinsics`, for keypoints when a model is read or written.
"""

import itertools
import math
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from shared.camera import intrinsics_matrix, invert_pose
from shared.colmap_records import (
    KEYPOINT,
    CameraRecord,
    ImageRecord,
    PointRecord,
    read_records,
    write_records,
)
from shared.files import DataError

__all__ = [
    "ColmapCamera",
    "ColmapImage",
    "ColmapModel",
    "ColmapPoints",
    "find_colmap_model",
    "read_colmap_model",
    "write_colmap_model",
]

PIXEL_CENTRE = 0.5  # COLMAP's coordinates of the centre of the top-left pixel
LARGEST_SIDE = 100_000
REMEDY = "The model is damaged or was edited: export it again"


@dataclass(frozen=True)
class ColmapCamera:
    """A camera as COLMAP stores it: `params` in COLMAP's order and pixel convention."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]

    def intrinsics(self) -> Tensor:
        """K, float64 [3, 3], where (0, 0) is the centre of the top-left pixel."""
        if self.model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"):
            focal, cx, cy = self.params[:3]
            return intrinsics_matrix(focal, focal, cx - PIXEL_CENTRE, cy - PIXEL_CENTRE, torch.float64)
        fx, fy, cx, cy = self.params[:4]
        return intrinsics_matrix(fx, fy, cx - PIXEL_CENTRE, cy - PIXEL_CENTRE, torch.float64)

    def distortion(self) -> Tensor:
        """k1, k2, p1, p2 of the OpenCV model, float64 [4]; zeros for a pinhole camera."""
        first = {"SIMPLE_RADIAL": 3, "RADIAL": 3, "OPENCV": 4}.get(self.model, len(self.params))
        terms = self.params[first:]
        return torch.tensor(terms + (0.0,) * (4 - len(terms)), dtype=torch.float64)


@dataclass(frozen=True)
class ColmapImage:
    """A posed image; its keypoint i observes the 3D point `point_ids[i]` (-1: none)."""

    name: str
    camera_id: int
    world_from_cam: Tensor  # float64 [4, 4]
    keypoints_px: Tensor  # float64 [P, 2], (x, y), (0, 0) is the centre of the top-left pixel
    point_ids: Tensor  # int64 [P]


@dataclass(frozen=True)
class ColmapPoints:
    """3D points; rows `track_starts[i]` to `track_starts[i + 1]` of `tracks` are what observed point i."""

    ids: Tensor  # int64 [M]
    xyz: Tensor  # float64 [M, 3], world coordinates
    rgb: Tensor  # uint8 [M, 3]
    error_px: Tensor  # float64 [M], mean reprojection error; negative: unknown
    track_starts: Tensor  # int64 [M + 1]
    tracks: Tensor  # int64 [T, 2]: image id, keypoint index

    @property
    def track_lengths(self) -> Tensor:
        """By how many keypoints each point was observed, int64 [M]."""
        return self.track_starts.diff()


@dataclass(frozen=True)
class ColmapModel:
    """A sparse reconstruction; cameras and images by their COLMAP ids."""

    cameras: dict[int, ColmapCamera]
    images: dict[int, ColmapImage]
    points: ColmapPoints


def find_colmap_model(folder: str | os.PathLike) -> Path | None:
    """Where in `folder` the sparse model lies, looking at the usual places; None when there is none."""
    folder = Path(folder)
    for place in (folder, folder / "sparse" / "0", folder / "sparse", folder / "colmap" / "sparse" / "0"):
        if (place / "cameras.bin").is_file() or (place / "cameras.txt").is_file():
            return place
    return None


def read_colmap_model(folder: str | os.PathLike) -> ColmapModel:
    """Read the sparse model in `folder`: binary if it is there, else text; without points3D it has no points.

    Raises DataError, with line number or byte offset, for damaged files, and for camera models other than
    SIMPLE_PINHOLE, PINHOLE, SIMPLE_RADIAL, RADIAL and OPENCV, a model without images, an image of an unknown
    camera, values that are not finite, ids or names that come twice, and names that point out of the folder.
    """
    folder = Path(folder)
    camera_records, image_records, point_records = read_records(folder)
    if not image_records:
        raise DataError(folder, "the model holds no images", "Reconstruct the scene again, with more overlap")
    _check_ids(folder, "camera id", [record.camera_id for record in camera_records], 2**32)
    _check_ids(folder, "image id", [record.image_id for record in image_records], 2**32)
    _check_ids(folder, "point id", [record.point_id for record in point_records], 2**63)
    cameras = {record.camera_id: _camera(folder, record) for record in camera_records}
    images = {record.image_id: _image(folder, record) for record in image_records}
    for record in image_records:
        if record.camera_id not in cameras:
            reason = f"the image {record.name!r} names camera {record.camera_id}, which is not there"
            raise DataError(folder, reason, REMEDY)
    points = _points(folder, point_records)
    if len({image.name for image in images.values()}) < len(images):
        raise DataError(folder, "an image name comes twice", REMEDY)
    strangers = set(points.tracks[:, 0].unique().tolist()) - set(images)
    if strangers:
        raise DataError(folder, f"points3D names image {min(strangers)}, which is not there", REMEDY)
    return ColmapModel(cameras, images, points)


def write_colmap_model(folder: str | os.PathLike, model: ColmapModel, *, binary: bool = True) -> None:
    """Write cameras, images and points3D in COLMAP's format; text keeps every digit."""
    cameras = [
        CameraRecord(camera_id, camera.model, camera.width, camera.height, camera.params)
        for camera_id, camera in sorted(model.cameras.items())
    ]
    images = [_image_record(i, image) for i, image in sorted(model.images.items())]
    write_records(Path(folder), cameras, images, _point_records(model.points), binary)


def _check_ids(folder: Path, what: str, ids: list[int], bound: int) -> None:
    seen = set()
    for number in ids:
        if number in seen or not 0 <= number < bound:
            reason = "comes twice" if number in seen else "is out of range"
            raise DataError(folder, f"the {what} {number} {reason}", REMEDY)
        seen.add(number)


def _camera(folder: Path, record: CameraRecord) -> ColmapCamera:
    place = f"camera {record.camera_id}"
    if not (0 < record.width <= LARGEST_SIDE and 0 < record.height <= LARGEST_SIDE):
        raise DataError(folder, f"{place}: the size {record.width} x {record.height} makes no sense", REMEDY)
    if not np.isfinite(record.params).all():
        raise DataError(folder, f"{place}: NaN or infinite parameters {record.params}", REMEDY)
    focal_count = 2 if record.model in ("PINHOLE", "OPENCV") else 1
    if min(record.params[:focal_count]) <= 0:
        raise DataError(folder, f"{place}: the focal length {min(record.params[:focal_count])} <= 0", REMEDY)
    return ColmapCamera(record.model, record.width, record.height, record.params)


def _image(folder: Path, record: ImageRecord) -> ColmapImage:
    place = f"image {record.image_id} ({record.name!r})"
    parts = PurePosixPath(record.name).parts + PureWindowsPath(record.name).parts
    if not record.name or record.name.startswith(("/", "\\")) or ".." in parts or ":" in record.name[:2]:
        raise DataError(folder, f"{place}: the name is empty or leads out of the image folder", REMEDY)
    if not abs(math.hypot(*record.qvec) - 1) < 0.01:  # so that NaN fails too
        raise DataError(folder, f"{place}: {record.qvec} is not a unit quaternion", REMEDY)
    xy = record.keypoints["xy"] - PIXEL_CENTRE
    if not np.isfinite(xy).all():
        raise DataError(folder, f"{place}: NaN or infinite keypoints", REMEDY)
    cam_from_world = torch.eye(4, dtype=torch.float64)
    w, x, y, z = record.qvec
    cam_from_world[:3, :3] = torch.from_numpy(Rotation.from_quat([x, y, z, w]).as_matrix())
    cam_from_world[:3, 3] = torch.tensor(record.tvec, dtype=torch.float64)
    world_from_cam = invert_pose(cam_from_world)
    if not bool(torch.isfinite(world_from_cam).all()):
        raise DataError(folder, f"{place}: NaN or infinite translation {record.tvec}", REMEDY)
    return ColmapImage(
        name=record.name,
        camera_id=record.camera_id,
        world_from_cam=world_from_cam,
        keypoints_px=torch.from_numpy(xy),
        point_ids=torch.from_numpy(record.keypoints["point_id"].copy()),
    )


def _image_record(image_id: int, image: ColmapImage) -> ImageRecord:
    cam_from_world = invert_pose(image.world_from_cam.to(torch.float64))
    x, y, z, w = Rotation.from_matrix(cam_from_world[:3, :3].numpy()).as_quat(canonical=True).tolist()
    keypoints = np.zeros(len(image.point_ids), KEYPOINT)
    keypoints["xy"] = image.keypoints_px.numpy() + PIXEL_CENTRE
    keypoints["point_id"] = image.point_ids.numpy()
    tvec = tuple(cam_from_world[:3, 3].tolist())
    return ImageRecord(image_id, (w, x, y, z), tvec, image.camera_id, image.name, keypoints)


def _points(folder: Path, records: list[PointRecord]) -> ColmapPoints:
    xyz = np.array([record.xyz for record in records], np.float64).reshape(-1, 3)
    error_px = np.array([record.error_px for record in records], np.float64)
    bad = np.flatnonzero(~(np.isfinite(xyz).all(1) & np.isfinite(error_px)))
    if len(bad):
        raise DataError(folder, f"point {records[bad[0]].point_id}: NaN or infinite values", REMEDY)
    tracks = [record.track for record in records]
    starts = np.cumsum([0, *map(len, tracks)], dtype=np.int64)
    return ColmapPoints(
        ids=torch.tensor([record.point_id for record in records], dtype=torch.int64),
        xyz=torch.from_numpy(xyz),
        rgb=torch.tensor([record.rgb for record in records], dtype=torch.uint8).reshape(-1, 3),
        error_px=torch.from_numpy(error_px),
        track_starts=torch.from_numpy(starts),
        tracks=torch.from_numpy(np.concatenate([np.zeros((0, 2), np.int64), *tracks])),
    )


def _point_records(points: ColmapPoints) -> list[PointRecord]:
    starts = points.track_starts.tolist()
    tracks = [points.tracks[start:stop].numpy() for start, stop in itertools.pairwise(starts)]
    columns = (points.ids, points.xyz, points.rgb, points.error_px)
    return [
        PointRecord(point_id, tuple(xyz), tuple(rgb), error_px, track)
        for point_id, xyz, rgb, error_px, track in zip(*(c.tolist() for c in columns), tracks, strict=True)
    ]
