"""COLMAP sparse models: cameras, poses, points and their matches, as binary or text files.

Poses come out as `world_from_cam`, pixels with (0, 0) at the centre of the top-left pixel; COLMAP's own
convention puts (0, 0) at its corner. Format: https://colmap.github.io/format.html. Errors carry the byte
offset or the line number.
"""

import contextlib
import itertools
import math
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from shared.errors import DataError
from shared.files.disk import read_bytes, read_text, write_bytes
from shared.geometry.camera import intrinsics_matrix, invert_pose

__all__ = [
    "CAMERA_MODEL_IDS",
    "ColmapCamera",
    "ColmapImage",
    "ColmapModel",
    "ColmapPoints",
    "find_colmap_model",
    "read_colmap_model",
    "write_colmap_model",
]


# The number of a camera model in binary files, its name, and how many parameters it has.
CAMERA_MODELS = {
    0: ("SIMPLE_PINHOLE", 3),  # f cx cy
    1: ("PINHOLE", 4),  # fx fy cx cy
    2: ("SIMPLE_RADIAL", 4),  # f cx cy k1
    3: ("RADIAL", 5),  # f cx cy k1 k2
    4: ("OPENCV", 8),  # fx fy cx cy k1 k2 p1 p2
}
OTHER_CAMERA_MODELS = {5: "OPENCV_FISHEYE", 6: "FULL_OPENCV", 7: "FOV", 8: "SIMPLE_RADIAL_FISHEYE",
                       9: "RADIAL_FISHEYE", 10: "THIN_PRISM_FISHEYE"}  # fmt: skip
CAMERA_MODEL_IDS = {name: number for number, (name, _) in CAMERA_MODELS.items()}
REMEDY = "The file is damaged or incomplete: export the model again"
KEYPOINT = np.dtype([("xy", "<f8", 2), ("point_id", "<i8")])  # 2^64 - 1 in the file reads as -1: no 3D point


class ImageRecord(NamedTuple):
    image_id: int
    qvec: tuple[float, ...]  # w x y z, camera from world
    tvec: tuple[float, ...]  # camera from world
    camera_id: int
    name: str
    keypoints: np.ndarray  # of KEYPOINT, pixel origin at the corner of the image


class PointRecord(NamedTuple):
    point_id: int
    xyz: tuple[float, ...]
    rgb: tuple[int, ...]
    error_px: float
    track: np.ndarray  # int64 [L, 2]: image id, keypoint index


def _read_records(
    folder: Path,
) -> tuple[list[tuple[int, "ColmapCamera"]], list[ImageRecord], list[PointRecord]]:
    """Read cameras, images and points3D, binary if they are there, else text; without points3D no points."""
    if (folder / "cameras.bin").is_file():
        cameras = list(_binary_cameras(_Binary(folder / "cameras.bin")))
        images = list(_binary_images(_Binary(folder / "images.bin")))
        points_path, read_points = folder / "points3D.bin", lambda path: _binary_points(_Binary(path))
    elif (folder / "cameras.txt").is_file():
        cameras = list(_text_cameras(folder / "cameras.txt"))
        images = list(_text_images(folder / "images.txt"))
        points_path, read_points = folder / "points3D.txt", _text_points
    else:
        remedy = "Name the folder that holds cameras, images and points3D, often sparse/0"
        raise DataError(folder, "holds no COLMAP model (neither cameras.bin nor cameras.txt)", remedy)
    return cameras, images, list(read_points(points_path)) if points_path.exists() else []


def _parameter_count(path: Path, place: str, model: str) -> int:
    if model not in CAMERA_MODEL_IDS:
        remedy = f"Undistort the images (colmap image_undistorter), or use {', '.join(CAMERA_MODEL_IDS)}"
        raise DataError(path, f"{place}: the camera model {model} is not supported", remedy)
    return CAMERA_MODELS[CAMERA_MODEL_IDS[model]][1]


# ---- binary ------------------------------------------------------------------------------------------------


class _Binary:
    """A cursor over a binary file whose every step is checked against the bytes that are there."""

    def __init__(self, path: Path):
        self.path = path
        self.data = read_bytes(path)
        self.offset = 0

    def fail(self, reason: str) -> DataError:
        return DataError(self.path, f"byte {self.offset}: {reason}", REMEDY)

    def need(self, size: int, what: str) -> int:
        """Step over `size` bytes; returns where they start."""
        left = len(self.data) - self.offset
        if size > left:
            raise self.fail(f"{what} needs {size} bytes, {left} are left")
        self.offset += size
        return self.offset - size

    def unpack(self, layout: str, what: str) -> tuple:
        return struct.unpack_from("<" + layout, self.data, self.need(struct.calcsize("<" + layout), what))

    def array(self, dtype: np.dtype, what: str) -> np.ndarray:
        """A count (uint64) and as many entries."""
        (count,) = self.unpack("Q", f"the number of {what}")
        start = self.need(count * dtype.itemsize, f"a list of {count} {what}")
        return np.frombuffer(self.data, dtype, count, start)

    def string(self, what: str) -> str:
        end = self.data.find(b"\0", self.offset)
        if end < 0:
            raise self.fail(f"{what} does not end")
        raw = self.data[self.need(end + 1 - self.offset, what) : end]
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"{what} is not UTF-8") from None

    def finish(self) -> None:
        if self.offset != len(self.data):
            raise self.fail(f"{len(self.data) - self.offset} bytes are left over")


def _binary_cameras(file: _Binary) -> Iterator[tuple[int, "ColmapCamera"]]:
    (count,) = file.unpack("Q", "the number of cameras")
    for _ in range(count):
        place = f"byte {file.offset}"
        camera_id, number, width, height = file.unpack("IiQQ", "a camera")
        model = CAMERA_MODELS.get(number, [OTHER_CAMERA_MODELS.get(number, str(number))])[0]
        size = _parameter_count(file.path, place, model)
        yield camera_id, ColmapCamera(model, width, height, file.unpack(f"{size}d", "camera parameters"))
    file.finish()


def _binary_images(file: _Binary) -> Iterator[ImageRecord]:
    (count,) = file.unpack("Q", "the number of images")
    for _ in range(count):
        image_id, *pose, camera_id = file.unpack("I7dI", "an image")
        name = file.string("an image name")
        keypoints = file.array(KEYPOINT, "keypoints")
        yield ImageRecord(image_id, tuple(pose[:4]), tuple(pose[4:]), camera_id, name, keypoints)
    file.finish()


def _binary_points(file: _Binary) -> Iterator[PointRecord]:
    (count,) = file.unpack("Q", "the number of points")
    pair = np.dtype(("<u4", 2))
    for _ in range(count):
        point_id, x, y, z, red, green, blue, error_px = file.unpack("Q3d3Bd", "a point")
        track = file.array(pair, "observations").astype(np.int64)
        yield PointRecord(point_id, (x, y, z), (red, green, blue), error_px, track)
    file.finish()


# ---- text --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _line(path: Path, number: int) -> Iterator[None]:
    """Whatever is wrong with a line's words becomes a DataError with its number."""
    try:
        yield
    except IndexError:
        raise DataError(path, f"line {number}: words are missing", REMEDY) from None
    except (ValueError, OverflowError) as error:
        raise DataError(path, f"line {number}: {error}", REMEDY) from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines; comments count, but are left out."""
    lines = enumerate(read_text(path).split("\n"), start=1)
    yield from ((number, line) for number, line in lines if not line.lstrip().startswith("#"))


def _text_cameras(path: Path) -> Iterator[tuple[int, "ColmapCamera"]]:
    for number, text in _lines(path):
        words = text.split()
        if not words:
            continue
        with _line(path, number):
            camera_id, model, width, height = int(words[0]), words[1], int(words[2]), int(words[3])
            size = _parameter_count(path, f"line {number}", model)
            if len(words) != 4 + size:
                raise ValueError(f"{model} has {size} parameters, not {len(words) - 4}")
            camera = ColmapCamera(model, width, height, tuple(map(float, words[4:])))
        yield camera_id, camera


def _text_images(path: Path) -> Iterator[ImageRecord]:
    lines = _lines(path)
    for number, text in lines:
        words = text.split(maxsplit=9)  # the name is the rest and may hold spaces
        if not words:
            continue
        with _line(path, number):
            image_id, camera_id, name = int(words[0]), int(words[8]), words[9].rstrip()
            pose = tuple(map(float, words[1:8]))
        number, text = next(lines, (number + 1, ""))  # the second line of an image, possibly empty
        with _line(path, number):
            triples = text.split()
            keypoints = np.zeros(len(triples) // 3, KEYPOINT)
            keypoints["xy"] = np.array([triples[0::3], triples[1::3]], np.float64).T
            keypoints["point_id"] = [int(word) for word in triples[2::3]]
        yield ImageRecord(image_id, pose[:4], pose[4:], camera_id, name, keypoints)


def _text_points(path: Path) -> Iterator[PointRecord]:
    for number, text in _lines(path):
        words = text.split()
        if not words:
            continue
        with _line(path, number):
            xyz, rgb, error_px = tuple(map(float, words[1:4])), tuple(map(int, words[4:7])), float(words[7])
            if any(not 0 <= level <= 255 for level in rgb):
                raise ValueError(f"the colour {rgb} is outside 0 to 255")
            track = np.array([int(word) for word in words[8:]], np.int64).reshape(-1, 2)
            point_id = int(words[0])
        yield PointRecord(point_id, xyz, rgb, error_px, track)


PIXEL_CENTRE = 0.5  # COLMAP's coordinates of the centre of the top-left pixel
LARGEST_SIDE = 100_000
EDITED = "The model is damaged or was edited: export it again"


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


@dataclass(frozen=True)
class ColmapModel:
    """A sparse reconstruction; cameras and images by their COLMAP ids."""

    cameras: dict[int, ColmapCamera]
    images: dict[int, ColmapImage]
    points: ColmapPoints


def find_colmap_model(folder: str | os.PathLike) -> Path | None:
    """Where in `folder` the sparse model is, looking at the usual places; None when there is none."""
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
    camera_records, image_records, point_records = _read_records(folder)
    if not image_records:
        raise DataError(folder, "the model holds no images", "Reconstruct the scene again, with more overlap")
    _check_ids(folder, "camera id", [camera_id for camera_id, _ in camera_records], 2**32)
    _check_ids(folder, "image id", [record.image_id for record in image_records], 2**32)
    _check_ids(folder, "point id", [record.point_id for record in point_records], 2**63)
    for camera_id, camera in camera_records:
        _check_camera(folder, f"camera {camera_id}", camera)
    cameras = dict(camera_records)
    images = {record.image_id: _image(folder, record) for record in image_records}
    for image in images.values():
        if image.camera_id not in cameras:
            reason = f"the image {image.name!r} names camera {image.camera_id}, which is not there"
            raise DataError(folder, reason, EDITED)
    points = _points(folder, point_records)
    if len({image.name for image in images.values()}) < len(images):
        raise DataError(folder, "an image name comes twice", EDITED)
    unknown = set(points.tracks[:, 0].unique().tolist()) - set(images)
    if unknown:
        raise DataError(folder, f"points3D names image {min(unknown)}, which is not there", EDITED)
    return ColmapModel(cameras, images, points)


def write_colmap_model(folder: str | os.PathLike, model: ColmapModel) -> None:
    """Write cameras, images and points3D as COLMAP's text files, with every digit."""
    by_id = sorted(model.cameras.items())
    cameras = [f"{i} {c.model} {c.width} {c.height} {_join(c.params)}" for i, c in by_id]
    images = []
    for image_id, image in sorted(model.images.items()):
        cam_from_world = invert_pose(image.world_from_cam.to(torch.float64))
        x, y, z, w = Rotation.from_matrix(cam_from_world[:3, :3].numpy()).as_quat(canonical=True).tolist()
        pose = _join((w, x, y, z, *cam_from_world[:3, 3].tolist()))
        keypoints = zip((image.keypoints_px + PIXEL_CENTRE).tolist(), image.point_ids.tolist(), strict=True)
        images.append(f"{image_id} {pose} {image.camera_id} {image.name}")
        images.append(" ".join(_join((*xy, point_id)) for xy, point_id in keypoints))
    p = model.points
    tracks = [p.tracks[start:stop].flatten().tolist() for start, stop in itertools.pairwise(p.track_starts)]
    columns = zip(p.ids.tolist(), p.xyz.tolist(), p.rgb.tolist(), p.error_px.tolist(), tracks, strict=True)
    points = [_join((i, *xyz, *rgb, error_px, *track)) for i, xyz, rgb, error_px, track in columns]
    heads = {
        "cameras": "# CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]",
        "images": "# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then a line of X Y POINT3D_ID",
        "points3D": "# POINT3D_ID X Y Z R G B ERROR TRACK[] of IMAGE_ID POINT2D_IDX",
    }
    for (name, head), rows in zip(heads.items(), (cameras, images, points), strict=True):
        write_bytes(Path(folder) / f"{name}.txt", "\n".join([head, *rows, ""]).encode())


def _join(values: Iterable[float]) -> str:
    """Numbers with all their digits, so that reading them back is exact."""
    return " ".join(map(repr, values))


def _check_ids(folder: Path, what: str, ids: list[int], bound: int) -> None:
    seen = set()
    for number in ids:
        if number in seen or not 0 <= number < bound:
            reason = "comes twice" if number in seen else "is out of range"
            raise DataError(folder, f"the {what} {number} {reason}", EDITED)
        seen.add(number)


def _check_camera(folder: Path, place: str, camera: ColmapCamera) -> None:
    if not (0 < camera.width <= LARGEST_SIDE and 0 < camera.height <= LARGEST_SIDE):
        raise DataError(folder, f"{place}: the size {camera.width} x {camera.height} makes no sense", EDITED)
    if not np.isfinite(camera.params).all():
        raise DataError(folder, f"{place}: NaN or infinite parameters {camera.params}", EDITED)
    focal = min(camera.params[: 2 if camera.model in ("PINHOLE", "OPENCV") else 1])
    if focal <= 0:
        raise DataError(folder, f"{place}: the focal length {focal} <= 0", EDITED)


def _image(folder: Path, record: ImageRecord) -> ColmapImage:
    place = f"image {record.image_id} ({record.name!r})"
    parts = PurePosixPath(record.name).parts + PureWindowsPath(record.name).parts
    if not record.name or record.name.startswith(("/", "\\")) or ".." in parts or ":" in record.name[:2]:
        raise DataError(folder, f"{place}: the name is empty or leads out of the image folder", EDITED)
    if not abs(math.hypot(*record.qvec) - 1) < 0.01:  # so that NaN fails too
        raise DataError(folder, f"{place}: {record.qvec} is not a unit quaternion", EDITED)
    xy = record.keypoints["xy"] - PIXEL_CENTRE
    if not np.isfinite(xy).all():
        raise DataError(folder, f"{place}: NaN or infinite keypoints", EDITED)
    cam_from_world = torch.eye(4, dtype=torch.float64)
    w, x, y, z = record.qvec
    cam_from_world[:3, :3] = torch.from_numpy(Rotation.from_quat([x, y, z, w]).as_matrix())
    cam_from_world[:3, 3] = torch.tensor(record.tvec, dtype=torch.float64)
    world_from_cam = invert_pose(cam_from_world)
    if not bool(torch.isfinite(world_from_cam).all()):
        raise DataError(folder, f"{place}: NaN or infinite translation {record.tvec}", EDITED)
    return ColmapImage(
        name=record.name,
        camera_id=record.camera_id,
        world_from_cam=world_from_cam,
        keypoints_px=torch.from_numpy(xy),
        point_ids=torch.from_numpy(record.keypoints["point_id"].copy()),
    )


def _points(folder: Path, records: list[PointRecord]) -> ColmapPoints:
    xyz = np.array([record.xyz for record in records], np.float64).reshape(-1, 3)
    error_px = np.array([record.error_px for record in records], np.float64)
    bad = np.flatnonzero(~(np.isfinite(xyz).all(1) & np.isfinite(error_px)))
    if len(bad):
        raise DataError(folder, f"point {records[bad[0]].point_id}: NaN or infinite values", EDITED)
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
