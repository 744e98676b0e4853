"""KITTI raw drives (images, calibration, GPS/IMU, LiDAR) to the prepared layout that `kitti_raw` loads.

    <raw>/<date>/calib_cam_to_cam.txt, calib_velo_to_cam.txt, calib_imu_to_velo.txt
    <raw>/<date>/<drive>/{image_02,image_03}/data/0000000000.png     (or .jpg)
    <raw>/<date>/<drive>/oxts/data/0000000000.txt and velodyne_points/data/0000000000.bin

Poses are those of the camera itself, in metres; depth is z in that camera, metres * 256, 0: no beam.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nvs_depth.datasets.kitti import DEPTH_UNIT_M, RAW_HW, euler_pose, numbered_images, projection_matrix
from shared.errors import DataError
from shared.files.disk import new_folder, read_bytes, read_text, visible, write_bytes
from shared.files.images import read_image, write_image
from shared.files.maps import write_depth_png
from shared.geometry.camera import invert_pose, resize_intrinsics, transform_points

__all__ = ["convert_drive", "oxts_poses", "project_lidar", "read_calibration", "read_velodyne"]

EARTH_RADIUS_M = 6378137.0
NEAREST_M = 0.5  # beams nearer than this hit the car itself
FETCH = "Fetch the drive again from the KITTI raw data page"


def read_calibration(path: Path) -> dict[str, Tensor]:
    """Lines `name: numbers` of a KITTI calibration file as float64 vectors; other lines are left out."""
    values = {}
    for line in read_text(path).splitlines():
        name, _, rest = line.partition(":")
        try:
            numbers = [float(word) for word in rest.split()]
        except ValueError:
            continue  # dates and the like
        if not all(map(math.isfinite, numbers)):
            raise DataError(path, f"{name.strip()} holds numbers that are not finite", FETCH)
        if numbers:
            values[name.strip()] = torch.tensor(numbers, dtype=torch.float64)
    return values


def oxts_poses(rows: list[list[float]]) -> Tensor:
    """`world_from_imu` [N, 4, 4] float64 in metres, relative to the first, from GPS/IMU packets.

    A packet begins with latitude and longitude in degrees, altitude in metres, roll, pitch, yaw in radians;
    positions are projected as in the KITTI development kit (Mercator, scaled at the first latitude).
    """
    scale, poses = math.cos(math.radians(rows[0][0])), []
    for latitude, longitude, altitude, *angles in (row[:6] for row in rows):
        east = scale * EARTH_RADIUS_M * math.radians(longitude)
        north = scale * EARTH_RADIUS_M * math.log(math.tan(math.radians(90 + latitude) / 2))
        position = torch.tensor([east, north, altitude], dtype=torch.float64)
        poses.append(euler_pose(torch.tensor(angles, dtype=torch.float64), position))
    return invert_pose(poses[0]) @ torch.stack(poses)


def read_velodyne(path: Path) -> Tensor:
    """LiDAR points [N, 3] float64 (x forward, y left, z up, metres) of a .bin file of 4 floats each."""
    data = read_bytes(path)
    if len(data) % 16:
        raise DataError(path, f"{len(data)} bytes are no whole number of points", FETCH)
    points = torch.from_numpy(np.frombuffer(data, "<f4").reshape(-1, 4)[:, :3].copy()).double()
    if not torch.isfinite(points).all():
        raise DataError(path, "holds NaN or infinite coordinates", FETCH)
    return points


def project_lidar(
    points_velo: Tensor, cam_from_velo: Tensor, K: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Depth [H, W] in metres (0: unknown) and its mask from points [N, 3]; the nearest wins a pixel.

    `cam_from_velo` [4, 4] ends in the camera of K [3, 3] itself. A point belongs to the pixel whose centre is
    nearest. Hidden surfaces that shine through between beams are not removed.
    """
    points = transform_points(cam_from_velo, points_velo)
    depth = points[:, 2]
    seen = depth > NEAREST_M
    points, depth = points[seen], depth[seen]
    pixels = (points @ K.to(points).T)[:, :2] / depth[:, None]
    column, row = pixels.round().long().unbind(1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    flat = (row * width + column)[inside]
    nearest = torch.full((height * width,), torch.inf, dtype=depth.dtype)
    nearest = nearest.scatter_reduce(0, flat, depth[inside], "amin").reshape(height, width)
    valid = nearest.isfinite()
    return torch.where(valid, nearest, 0.0).float(), valid


def camera_chain(date_folder: Path, camera: str) -> tuple[Tensor, Tensor, Tensor]:
    """K [3, 3], `cam_from_velo` and `cam_from_imu` [4, 4] of a rectified camera "02" or "03"."""
    cam = read_calibration(date_folder / "calib_cam_to_cam.txt")
    missing = {f"P_rect_{camera}", "R_rect_00"} - set(cam)
    if missing:
        raise DataError(date_folder / "calib_cam_to_cam.txt", f"lacks {sorted(missing)[0]}", FETCH)
    path = date_folder / "calib_cam_to_cam.txt"
    text = " ".join(map(repr, cam[f"P_rect_{camera}"].tolist()))
    projection = projection_matrix(path, f"P_rect_{camera}", text)
    K = projection[:, :3]
    rectified = torch.eye(4, dtype=torch.float64)
    if len(cam["R_rect_00"]) != 9:
        raise DataError(path, "R_rect_00 does not hold 9 numbers", FETCH)
    rectified[:3, :3] = cam["R_rect_00"].reshape(3, 3)
    offset = torch.eye(4, dtype=torch.float64)
    offset[:3, 3] = torch.linalg.inv(K) @ projection[:, 3]  # from camera 00 to this one
    cam_from_velo = offset @ rectified @ _rigid(date_folder / "calib_velo_to_cam.txt")
    return K, cam_from_velo, cam_from_velo @ _rigid(date_folder / "calib_imu_to_velo.txt")


def convert_drive(date_folder: Path, drive: str, camera: str, root: Path) -> int:
    """Write `<root>/<drive>_<camera>` from a raw drive and return the number of frames.

    Images are resized to 1242x375 with their intrinsics. Frames without LiDAR get no depth file. Raises
    DataError for missing or damaged files; a folder is left behind only when it is complete.
    """
    source = date_folder / drive
    K, cam_from_velo, cam_from_imu = camera_chain(date_folder, camera)
    images = numbered_images(source / f"image_{camera}" / "data")
    if not images:
        raise DataError(source / f"image_{camera}" / "data", "holds no images", FETCH)
    packets = [path for path in visible(source / "oxts" / "data") if path.stem.isdecimal()]
    if not packets:
        raise DataError(source / "oxts" / "data", "holds no GPS/IMU packets", FETCH)
    world_from_imu = dict(
        zip((int(p.stem) for p in packets), oxts_poses([_packet(p) for p in packets]), strict=True)
    )
    imu_from_cam = invert_pose(cam_from_imu)
    lines = []
    with new_folder(root / f"{drive}_{camera}") as folder:
        for frame, image_path in images.items():
            if frame not in world_from_imu:
                raise DataError(source / "oxts" / "data", f"lacks the packet of frame {frame}", FETCH)
            image = read_image(image_path, orientation=1)
            hw = tuple(image.shape[-2:])
            if hw != RAW_HW:
                image = F.interpolate(
                    image[None], RAW_HW, mode="bilinear", align_corners=False, antialias=True
                )[0]
            K_resized = resize_intrinsics(K, hw, RAW_HW)
            write_image(folder / f"{frame:010d}.png", image)
            beams = source / "velodyne_points" / "data" / f"{frame:010d}.bin"
            if beams.is_file():
                depth, valid = project_lidar(read_velodyne(beams), cam_from_velo, K_resized, *RAW_HW)
                write_depth_png(folder / f"{frame:010d}_depth.png", depth, valid, unit_m=DEPTH_UNIT_M)
            pose = world_from_imu[frame] @ imu_from_cam
            lines.append(f"{frame} " + " ".join(f"{number:.12g}" for number in pose.flatten().tolist()))
        rows = [" ".join(f"{number:.12g}" for number in row) for row in K_resized.tolist()]
        write_bytes(folder / "cam.txt", ("\n".join(rows) + "\n").encode())
        write_bytes(folder / "poses.txt", ("\n".join(lines) + "\n").encode())
    return len(lines)


def _packet(path: Path) -> list[float]:
    try:
        values = [float(word) for word in read_text(path).split()]
    except ValueError:
        values = []
    if len(values) < 6 or not all(map(math.isfinite, values[:6])):
        raise DataError(path, "is no GPS/IMU packet of at least 6 finite numbers", FETCH)
    if not abs(values[0]) < 90:
        raise DataError(path, f"the latitude {values[0]:g} is not between -90 and 90 degrees", FETCH)
    return values


def _rigid(path: Path) -> Tensor:
    """The 4x4 transform of a calibration file with R: and T: lines."""
    values = read_calibration(path)
    if len(values.get("R", ())) != 9 or len(values.get("T", ())) != 3:
        raise DataError(path, "has no lines `R:` with 9 and `T:` with 3 numbers", FETCH)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3], pose[:3, 3] = values["R"].reshape(3, 3), values["T"]
    return pose
