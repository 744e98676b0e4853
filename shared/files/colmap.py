"""COLMAP sparse models: cameras, poses, points and their matches, as binary or text files.

Poses come out as `world_from_cam`, pixels with (0, 0) at the centre of the top-left pixel; COLMAP's own
convention puts (0, 0) at its corner. Format: https://colmap.github.io/format.html. Errors carry the byte
offset or the line number of the entry.
"""

import itertools
import math
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared.errors import DataError
from shared.files.disk import opened, read_bytes, read_text, visible, write_bytes
from shared.geometry.camera import intrinsics_matrix, invert_pose

__all__ = [
    "ColmapCamera",
    "ColmapImage",
    "ColmapModel",
    "ColmapPoints",
    "find_colmap_model",
    "read_colmap_model",
    "write_colmap_model",
]


# Number of parameters of the camera models: f or fx fy, cx cy, then the first of k1 k2 p1 p2 k3 k4 k5 k6.
CAMERA_MODELS = {
    "SIMPLE_PINHOLE": 3,
    "PINHOLE": 4,
    "SIMPLE_RADIAL": 4,
    "RADIAL": 5,
    "OPENCV": 8,
    "FULL_OPENCV": 12,
}
TWO_FOCAL_LENGTHS = ("PINHOLE", "OPENCV", "FULL_OPENCV")
BINARY_MODELS = (*list(CAMERA_MODELS)[:5], "OPENCV_FISHEYE", "FULL_OPENCV", "FOV", "SIMPLE_RADIAL_FISHEYE",
                 "RADIAL_FISHEYE", "THIN_PRISM_FISHEYE")  # fmt: skip
KEYPOINT = np.dtype([("xy", "<f8", 2), ("point_id", "<i8")])  # 2^64 - 1 in the file reads as -1: no 3D point
PIXEL_CENTRE = 0.5  # COLMAP's coordinates of the centre of the top-left pixel
LARGEST_SIDE = 100_000
UNDISTORT = "Undistort the images (colmap image_undistorter)"
DAMAGED = "The file is damaged, incomplete or was edited: export the model again"
PointRecord = tuple[int, tuple[float, ...], tuple[int, ...], float, np.ndarray]  # as in ColmapPoints


@dataclass(frozen=True)
class ColmapCamera:
    """A camera as COLMAP stores it: `params` in COLMAP's order and pixel convention."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]

    def intrinsics(self) -> Tensor:
        """K, float64 [3, 3], where (0, 0) is the centre of the top-left pixel."""
        fx, fy, cx, cy = self._opencv_params()[:4]
        return intrinsics_matrix(fx, fy, cx - PIXEL_CENTRE, cy - PIXEL_CENTRE, torch.float64)

    def distortion(self) -> Tensor:
        """k1, k2, p1, p2 of the OpenCV model, float64 [4]; zeros for a pinhole camera."""
        return torch.tensor(self._opencv_params()[4:], dtype=torch.float64)

    def _opencv_params(self) -> tuple[float, ...]:
        params = self.params if self.model in TWO_FOCAL_LENGTHS else (self.params[0], *self.params)
        return params + (0.0,) * (8 - len(params))


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
    notes: tuple[str, ...] = ()  # other models next to the one that was read


def find_colmap_model(folder: str | os.PathLike) -> Path | None:
    """Where in `folder` the sparse model is, looking at the usual places; None when there is none.

    Of the several that COLMAP leaves in sparse/0, sparse/1, ... the one with most images.
    """
    folder = Path(folder)
    for place in (folder, folder / "sparse", folder / "colmap" / "sparse"):
        models = [path for path in (place, *_models_in(place)) if _is_model(path)]
        if models:
            return max(models, key=_image_count) if len(models) > 1 else models[0]
    return None


def _is_model(folder: Path) -> bool:
    return any((folder / f"cameras.{kind}").is_file() for kind in ("bin", "txt"))


def _models_in(folder: Path) -> list[Path]:
    """The numbered models in a folder, as COLMAP leaves them."""
    if not folder.is_dir():
        return []
    return [path for path in visible(folder) if path.name.isdecimal() and _is_model(path)]


def _image_count(model: Path) -> int:
    """Images of a model, without reading it; 0 where that cannot be told."""
    try:
        with opened(model / "images.bin") as file:
            return int.from_bytes(file.read(8), "little")
    except DataError:
        pass
    try:
        lines = read_text(model / "images.txt").split("\n")
    except DataError:
        return 0
    return sum(not line.lstrip().startswith("#") for line in lines) // 2


def read_colmap_model(folder: str | os.PathLike) -> ColmapModel:
    """Read the sparse model in `folder`: binary if it is there, else text; without points3D it has no points.

    Models with other numbers next to it are named in its notes. Raises DataError, with line number or byte
    offset, for damaged files, for camera models other than SIMPLE_PINHOLE, PINHOLE, SIMPLE_RADIAL, RADIAL,
    OPENCV and FULL_OPENCV with k3 to k6 zero, a model without images, an image of an unknown camera, values
    that are not finite, ids or names that come twice, and names that point out of the folder.
    """
    folder = Path(folder)
    if (folder / "cameras.bin").is_file():
        cameras = _read_binary(folder / "cameras.bin", _binary_camera)
        images = _read_binary(folder / "images.bin", _binary_image)
        path, read, parse = folder / "points3D.bin", _read_binary, _binary_point
    elif (folder / "cameras.txt").is_file():
        cameras = _read_text(folder / "cameras.txt", _text_camera)
        images = _read_text(folder / "images.txt", _text_image)
        path, read, parse = folder / "points3D.txt", _read_text, _text_point
    else:
        remedy = "Name the folder that holds cameras, images and points3D, often sparse/0"
        raise DataError(folder, "holds no COLMAP model (neither cameras.bin nor cameras.txt)", remedy)
    points = read(path, parse) if path.exists() else []
    if not images:
        raise DataError(folder, "the model holds no images", "Reconstruct the scene again, with more overlap")
    names = [image.name for _, image in images]
    for what, records in (("camera id", cameras), ("image id", images), ("point id", points)):
        _check_unique(folder, what, [record[0] for record in records])
    _check_unique(folder, "image name", names)
    others = [path for path in _models_in(folder.parent) if path != folder and folder.name.isdecimal()]
    counts = ", ".join(f"{path.name} with {_image_count(path)}" for path in others)
    notes = (f"the model {folder.name} with {len(images)} images is used, not {counts}",) if others else ()
    model = ColmapModel(dict(cameras), dict(images), _stack_points(points), notes)
    for image in model.images.values():
        if image.camera_id not in model.cameras:
            reason = f"the image {image.name!r} names camera {image.camera_id}, which is not there"
            raise DataError(folder, reason, DAMAGED)
    unknown = set(model.points.tracks[:, 0].unique().tolist()) - set(model.images)
    if unknown:
        raise DataError(folder, f"points3D names image {min(unknown)}, which is not there", DAMAGED)
    return model


def write_colmap_model(folder: str | os.PathLike, model: ColmapModel) -> None:
    """Write cameras, images and points3D as COLMAP's text files, with every digit."""
    from scipy.spatial.transform import Rotation  # here, as SciPy takes longer to import than all of this

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


# ---- entries of the files, checked -------------------------------------------------------------------------


def _check_unique(folder: Path, what: str, values: list) -> None:
    twice = next((value for value, count in Counter(values).items() if count > 1), None)
    if twice is not None:
        raise DataError(folder, f"the {what} {twice} comes twice", DAMAGED)


def _parameter_count(model: str) -> int:
    if model not in CAMERA_MODELS:
        remedy = f"{UNDISTORT}, or use {', '.join(CAMERA_MODELS)}"
        raise ValueError(f"the camera model {model} is not supported. {remedy}")
    return CAMERA_MODELS[model]


def _camera(
    camera_id: int, model: str, width: int, height: int, params: tuple[float, ...]
) -> tuple[int, ColmapCamera]:
    if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
        raise ValueError(f"camera {camera_id}: the size {width} x {height} makes no sense")
    if not np.isfinite(params).all():
        raise ValueError(f"camera {camera_id}: NaN or infinite parameters {params}")
    if any(params[8:]):
        raise ValueError(f"camera {camera_id}: k3 to k6 of FULL_OPENCV are not supported. {UNDISTORT}")
    focal = min(params[: 2 if model in TWO_FOCAL_LENGTHS else 1])
    if focal <= 0:
        raise ValueError(f"camera {camera_id}: the focal length {focal} <= 0")
    model = "OPENCV" if model == "FULL_OPENCV" else model
    return camera_id, ColmapCamera(model, width, height, params[:8])


def _image(
    image_id: int, pose: tuple[float, ...], camera_id: int, name: str, keypoints: np.ndarray
) -> tuple[int, ColmapImage]:
    """`pose`: quaternion w x y z and translation, camera from world; `keypoints` of the type KEYPOINT."""
    from scipy.spatial.transform import Rotation  # here, as SciPy takes longer to import than all of this

    place, (w, x, y, z) = f"image {image_id} ({name!r})", pose[:4]
    parts = PurePosixPath(name).parts + PureWindowsPath(name).parts
    if not name or name.startswith(("/", "\\")) or ".." in parts or ":" in name[:2]:
        raise ValueError(f"{place}: the name is empty or leads out of the image folder")
    if not abs(math.hypot(w, x, y, z) - 1) < 0.01:  # so that NaN fails too
        raise ValueError(f"{place}: {pose[:4]} is not a unit quaternion")
    xy = keypoints["xy"] - PIXEL_CENTRE
    cam_from_world = torch.eye(4, dtype=torch.float64)
    cam_from_world[:3, :3] = torch.from_numpy(Rotation.from_quat([x, y, z, w]).as_matrix())
    cam_from_world[:3, 3] = torch.tensor(pose[4:], dtype=torch.float64)
    world_from_cam = invert_pose(cam_from_world)
    if not (np.isfinite(xy).all() and torch.isfinite(world_from_cam).all()):
        raise ValueError(f"{place}: NaN or infinite keypoints or translation {pose[4:]}")
    point_ids = torch.from_numpy(keypoints["point_id"].copy())
    return image_id, ColmapImage(name, camera_id, world_from_cam, torch.from_numpy(xy), point_ids)


def _point(
    point_id: int, xyz: tuple[float, ...], rgb: tuple[int, ...], error_px: float, track: np.ndarray
) -> PointRecord:
    if not 0 <= point_id < 2**63:
        raise ValueError(f"the point id {point_id} is out of range")
    if not all(map(math.isfinite, (*xyz, error_px))):
        raise ValueError(f"point {point_id}: NaN or infinite values")
    return point_id, xyz, tuple(bytes(rgb)), error_px, track  # bytes: ValueError beyond 0 to 255


def _stack_points(records: list[PointRecord]) -> ColmapPoints:
    ids, xyz, rgb, error_px, tracks = zip(*records, strict=True) if records else ((),) * 5
    return ColmapPoints(
        ids=torch.tensor(ids, dtype=torch.int64),
        xyz=torch.tensor(xyz, dtype=torch.float64).reshape(-1, 3),
        rgb=torch.tensor(rgb, dtype=torch.uint8).reshape(-1, 3),
        error_px=torch.tensor(error_px, dtype=torch.float64),
        track_starts=torch.tensor([0, *map(len, tracks)]).cumsum(0),
        tracks=torch.from_numpy(np.concatenate([np.zeros((0, 2), np.int64), *tracks])),
    )


# ---- binary ------------------------------------------------------------------------------------------------


class _Binary:
    """A cursor over the bytes of a file; reading beyond their end raises ValueError or struct.error."""

    def __init__(self, data: bytes):
        self.data, self.offset = data, 0

    def unpack(self, layout: str) -> tuple:
        values = struct.unpack_from("<" + layout, self.data, self.offset)
        self.offset += struct.calcsize("<" + layout)
        return values

    def array(self, dtype: np.dtype) -> np.ndarray:
        """A count (uint64) and as many entries."""
        (count,) = self.unpack("Q")
        values = np.frombuffer(self.data, dtype, count, self.offset)
        self.offset += values.nbytes
        return values

    def string(self) -> str:
        raw = self.data[self.offset : self.data.index(b"\0", self.offset)]
        self.offset += len(raw) + 1
        return raw.decode()


def _read_binary(path: Path, parse: Callable[[_Binary], Any]) -> list[Any]:
    """A count (uint64) and as many entries, to the last byte."""
    file, records, start = _Binary(read_bytes(path)), [], 0
    try:
        for _ in range(file.unpack("Q")[0]):
            start = file.offset
            records.append(parse(file))
        if file.offset != len(file.data):
            raise ValueError(f"{len(file.data) - file.offset} bytes are left over")
    except (ValueError, OverflowError, struct.error) as error:
        raise DataError(path, f"byte {start}: {error}", DAMAGED) from None
    return records


def _binary_camera(file: _Binary) -> tuple[int, ColmapCamera]:
    camera_id, number, width, height = file.unpack("IiQQ")
    model = dict(enumerate(BINARY_MODELS)).get(number, str(number))
    return _camera(camera_id, model, width, height, file.unpack(f"{_parameter_count(model)}d"))


def _binary_image(file: _Binary) -> tuple[int, ColmapImage]:
    image_id, *pose, camera_id = file.unpack("I7dI")
    return _image(image_id, tuple(pose), camera_id, file.string(), file.array(KEYPOINT))


def _binary_point(file: _Binary) -> PointRecord:
    point_id, x, y, z, red, green, blue, error_px = file.unpack("Q3d3Bd")
    track = file.array(np.dtype(("<u4", 2))).astype(np.int64)
    return _point(point_id, (x, y, z), (red, green, blue), error_px, track)


# ---- text --------------------------------------------------------------------------------------------------


def _read_text(path: Path, parse: Callable[[str, Iterator[tuple[int, str]]], Any]) -> list[Any]:
    """What `parse` makes of each line and, where it takes them, those after it; comments are left out."""
    numbered, records = enumerate(read_text(path).split("\n"), start=1), []
    lines = ((number, line) for number, line in numbered if not line.lstrip().startswith("#"))
    for number, line in lines:
        try:
            if line.strip():
                records.append(parse(line, lines))
        except IndexError:
            raise DataError(path, f"line {number}: words are missing", DAMAGED) from None
        except (ValueError, OverflowError) as error:
            raise DataError(path, f"line {number}: {error}", DAMAGED) from None
    return records


def _text_camera(line: str, following: Iterator[tuple[int, str]]) -> tuple[int, ColmapCamera]:
    camera_id, model, width, height, *params = line.split()
    if len(params) != _parameter_count(model):
        raise ValueError(f"{model} has {CAMERA_MODELS[model]} parameters, not {len(params)}")
    return _camera(int(camera_id), model, int(width), int(height), tuple(map(float, params)))


def _text_image(line: str, following: Iterator[tuple[int, str]]) -> tuple[int, ColmapImage]:
    words = line.split(maxsplit=9)  # the name is the rest and may hold spaces
    image_id, pose, camera_id, name = int(words[0]), words[1:8], int(words[8]), words[9].rstrip()
    triples = next(following, (0, ""))[1].split()  # the second line of an image, possibly empty
    keypoints = np.zeros(len(triples) // 3, KEYPOINT)
    keypoints["xy"] = np.array([triples[0::3], triples[1::3]], np.float64).T
    keypoints["point_id"] = [int(word) for word in triples[2::3]]
    return _image(image_id, tuple(map(float, pose)), camera_id, name, keypoints)


def _text_point(line: str, following: Iterator[tuple[int, str]]) -> PointRecord:
    words = line.split()
    xyz, rgb, error_px = tuple(map(float, words[1:4])), tuple(map(int, words[4:7])), float(words[7])
    track = np.array([int(word) for word in words[8:]], np.int64).reshape(-1, 2)
    return _point(int(words[0]), xyz, rgb, error_px, track)
