"""Cameras on disk: NeRF's transforms.json, DeepVoxels' intrinsics.txt, and pose files.

Poses come out as `world_from_cam` with OpenCV axes, intrinsics with (0, 0) at the centre of the top-left
pixel, however the file counts them.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from shared.errors import DataError
from shared.files.disk import read_json, read_text, reading, visible, write_bytes, write_json
from shared.files.images import survey_photos
from shared.files.listing import IMAGE_EXTENSIONS
from shared.geometry.camera import check_pose, intrinsics_matrix, opencv_from_opengl_pose

__all__ = [
    "DeepVoxelsIntrinsics",
    "NerfFrame",
    "NerfTransforms",
    "parse_matrix",
    "parse_pose",
    "read_deepvoxels_intrinsics",
    "read_matrix",
    "read_nerf_scene",
    "read_nerf_transforms",
    "read_pose",
    "read_poses",
    "write_deepvoxels_intrinsics",
    "write_nerf_transforms",
    "write_pose",
]


PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV", "PERSPECTIVE")
IGNORED = {"mask_path": "masks", "depth_file_path": "depth maps", "rolling_shutter": "rolling shutter"}
SPLITS = ("train", "val", "test")
PRECEDENCE = ("val", "train", "test")  # of a frame in several splits, the last counts
POSE_REMEDY = "Poses map camera to world; each 3x3 part is a rotation without mirror or scale"


@dataclass(frozen=True)
class NerfFrame:
    """One posed image of a transforms.json."""

    name: str  # file_path as written in the file
    image_path: Path
    world_from_cam: Tensor  # float64 [4, 4], OpenCV axes
    K: Tensor  # float64 [3, 3]
    distortion: Tensor  # float64 [4]: k1, k2, p1, p2 of the OpenCV model
    height: int
    width: int
    orientation: int = 1  # for `read_image`


@dataclass(frozen=True)
class NerfTransforms:
    """The frames whose image is there, and the `file_path` of those whose image is missing."""

    frames: list[NerfFrame]
    missing: list[str]
    held_out: frozenset[str] = frozenset()  # names of the frames that are for the test; none: not said
    notes: tuple[str, ...] = ()  # what was left out or assumed


def read_nerf_scene(
    path: str | os.PathLike, *, images_outside: bool = False, background: str = ""
) -> NerfTransforms:
    """Read a transforms.json, or those of a folder: transforms.json or transforms_{train,val,test}.json.

    Validation frames stand in for the test where there are none. The options are those of
    `read_nerf_transforms`, which raises the errors.
    """
    path, options = Path(path), {"images_outside": images_outside, "background": background}
    single = path if path.suffix.lower() == ".json" else path / "transforms.json"
    files = {split: path / f"transforms_{split}.json" for split in SPLITS}
    files = {split: file for split, file in files.items() if file.is_file()}
    if single.is_file() or "train" not in files:
        found = read_nerf_transforms(single, **options)
        others = ", ".join(file.name for file in files.values())
        note = (f"{single.name} is used, not {others}",) if others else ()
        return replace(found, notes=found.notes + note)
    parts = {split: read_nerf_transforms(file, **options) for split, file in files.items()}
    frames = [(split, frame) for split, part in parts.items() for frame in part.frames]
    lists = {split: [frame.name for frame in part.frames] for split, part in parts.items()}
    split_of, held_out, notes = _by_split(path, [frame.name for _, frame in frames], lists)
    return NerfTransforms(
        frames=[frame for split, frame in frames if split_of.get(frame.name) == split],
        missing=[name for part in parts.values() for name in part.missing],
        held_out=held_out,
        notes=(*(note for part in parts.values() for note in part.notes), *notes),
    )


def _by_split(
    path: Path, names: list[str], lists: dict[str, list[str]]
) -> tuple[dict[str, str], frozenset[str], tuple[str, ...]]:
    """Of frames and the lists of each split: the split of those that are used, those for the test, notes."""
    doubled = set(lists.get("train", ())) & set(lists.get("test", ()))
    if doubled:
        raise DataError(path, f"{min(doubled)!r} is a training and a test view", "Remove one of them")
    split_of = dict.fromkeys(names, "" if "train" in lists else "train")
    for split in PRECEDENCE:
        split_of |= {name: split for name in lists.get(split, ()) if name in split_of}
    count = {split: list(split_of.values()).count(split) for split in ("", *SPLITS)}
    if not count["train"]:
        raise DataError(path, "no frame is left for training", "Correct the lists of frames")
    held = "test" if count["test"] else "val"
    named = {"": "that are in no split", "val": "for validation"}
    notes = [f"{count[s]} frames {what} are not used" for s, what in named.items() if count[s] and s != held]
    if held == "val" and count["val"]:
        notes.append(f"the {count['val']} validation frames stand in for the test, which has none")
    both = set(lists.get("train", ())) & set(lists.get("val", ()))
    if both:
        notes.append(f"{len(both)} frames for validation are among those for training: they are trained on")
    used = {name: split for name, split in split_of.items() if split in ("train", held)}
    return used, frozenset(name for name, split in used.items() if split == held), tuple(notes)


def read_nerf_transforms(
    path: str | os.PathLike, *, images_outside: bool = False, background: str = ""
) -> NerfTransforms:
    """Read a transforms.json (Blender, instant-ngp and nerfstudio flavours).

    Intrinsics may be given per frame or once for all: fl_x and fl_y, or camera_angle_x; cx, cy (default: the
    middle), k1, k2, p1, p2 (default: 0), w, h (default: the image's). A file_path may lack its extension.
    Pixels in the file are counted from the corner of the image, so 0.5 is taken off cx and cy; OpenGL axes
    become OpenCV's. nerfstudio's {train,val,test}_filenames are followed. background: as in `survey_photos`.
    Raises DataError for damaged files, poses or intrinsics, camera models other than pinholes with k1 k2 p1
    p2, a size that is not the image's, doubled frames, when no image at all is there, and for images outside
    of the file's folder, which a file from elsewhere has no business to read, unless `images_outside`.
    """
    path = Path(path)
    meta = read_json(path)
    entries = meta.get("frames") if isinstance(meta, dict) else None
    if not isinstance(entries, list) or not entries:
        raise DataError(path, "there is no list of frames", "It must be a JSON object with frames")
    found, missing, seen = [], [], set()
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str):
            raise DataError(path, f"frame {index} has no file_path", "Every frame names its image")
        name = entry["file_path"]
        if name in seen:
            raise DataError(path, f"the frame {name!r} comes twice", "Remove one of them")
        seen.add(name)
        image_path = _find_image(path, name, images_outside)
        if image_path is None:
            missing.append(name)
        else:
            found.append((name, image_path, meta | entry))
    if not found:
        raise DataError(path, f"none of its {len(missing)} images is there, such as {missing[0]!r}",
                        "Put the images where file_path says, relative to the file")  # fmt: skip
    cameras_hw = [_given_hw(path, *row) for row in found]
    survey = survey_photos([image for _, image, _ in found], cameras_hw, background=background)
    frames = []
    for row, orientation, size in zip(found, survey.orientations, survey.sizes, strict=True):
        frames.append(_nerf_frame(path, *row, orientation, size))
    unread = [what for key, what in IGNORED.items() if any(_says(entry, key) for _, _, entry in found)]
    notes = [*survey.notes, *(f"{what} of {path.name} are not used" for what in unread)]
    return _with_named_splits(path, meta, NerfTransforms(frames, missing, notes=tuple(notes)))


def write_nerf_transforms(
    path: str | os.PathLike,
    size: tuple[int, int],
    K: Tensor,
    world_from_cam: Tensor,
    entries: Sequence[Mapping[str, Any]],
    **common: Any,
) -> None:
    """Write cameras as a transforms.json of nerfstudio: pinholes, OpenGL axes, pixels from the corner.

    size: height and width; K [N, 3, 3]; world_from_cam [N, 4, 4] in OpenCV axes. `entries` has for each
    frame what else its record holds (file_path, relative to the file), `common` what the file does.
    """
    frames, poses = [], opencv_from_opengl_pose(world_from_cam)  # the change of axes is its own inverse
    for k, pose, entry in zip(K.tolist(), poses.tolist(), entries, strict=True):
        camera = {"fl_x": k[0][0], "fl_y": k[1][1], "cx": k[0][2] + 0.5, "cy": k[1][2] + 0.5}
        frames.append({**entry, **camera, "w": size[1], "h": size[0], "transform_matrix": pose})
    write_json(path, {"camera_model": "OPENCV", **common, "frames": frames})


def _says(entry: dict[str, Any], key: str) -> bool:
    """Whether a frame has something other than nothing or zeros under a key."""
    value = entry.get(key)
    return any(value) if isinstance(value, list) else bool(value)


def _with_named_splits(path: Path, meta: dict[str, Any], found: NerfTransforms) -> NerfTransforms:
    """The frames with nerfstudio's {train,val,test}_filenames, where the file has them."""
    lists = {split: meta[key] for split in SPLITS if (key := f"{split}_filenames") in meta}
    if not lists:
        return found
    for split, names in lists.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            reason = f"{split}_filenames is no list of names"
            raise DataError(path, reason, "It lists the file_path of frames, as nerfstudio has it")
    used, held_out, notes = _by_split(path, [frame.name for frame in found.frames], lists)
    frames = [frame for frame in found.frames if frame.name in used]
    return replace(found, frames=frames, held_out=held_out, notes=found.notes + notes)


def _find_image(path: Path, name: str, images_outside: bool) -> Path | None:
    """The image of a frame, with an extension or without; None if it is not there."""
    if not name or "\0" in name:
        return None
    inner = PurePosixPath(name.replace("\\", "/"))
    if not images_outside and (inner.is_absolute() or ".." in inner.parts or ":" in inner.parts[0]):
        reason = f"the frame {name!r} is outside of the folder of the file"
        remedy = "Move the images into it, or set data.images_outside=true (check: --images-outside)"
        raise DataError(path, reason, remedy)
    base = path.parent / inner
    extensions = ("", *IMAGE_EXTENSIONS, *(extension.upper() for extension in IMAGE_EXTENSIONS))
    candidates = (base.with_name(base.name + extension) for extension in extensions)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _number(entry: dict[str, Any], key: str, default: float | None = None) -> float:
    value = entry.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise ValueError(f"{key} is {value!r}, not a finite number")
    return float(value)


def _given_hw(path: Path, name: str, image_path: Path, entry: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width) of a frame's camera; None where the file does not say."""
    if "w" not in entry or "h" not in entry:
        return None
    with reading(path, f"frame {name!r}", "Correct the entry, or leave this frame out"):
        return int(_number(entry, "h")), int(_number(entry, "w"))


def _nerf_frame(
    path: Path, name: str, image_path: Path, entry: dict[str, Any], orientation: int, hw: tuple[int, int]
) -> NerfFrame:
    """The frame with the pose and intrinsics of `entry`; DataError where these make no sense."""
    with reading(path, f"frame {name!r}: transform_matrix", POSE_REMEDY):
        pose = torch.tensor(entry.get("transform_matrix"), dtype=torch.float64)
    pose = opencv_from_opengl_pose(_checked_pose(path, f"frame {name!r}", pose))
    with reading(path, f"frame {name!r}", "Correct the entry, or leave this frame out"):
        K, distortion = _nerf_intrinsics(entry, hw)
    return NerfFrame(name, image_path, pose, K, distortion, *hw, orientation)


def _nerf_intrinsics(entry: dict[str, Any], hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """K [3, 3] and distortion [4] of a frame; ValueError where they make no sense."""
    height, width = hw

    def focal(key: str, side: int) -> float:
        angle = _number(entry, key)
        if not 0 < angle < math.pi:
            raise ValueError(f"{key} is {angle}, not between 0 and pi: it is in radians")
        return side / 2 / math.tan(angle / 2)

    model = "OPENCV_FISHEYE" if entry.get("is_fisheye") else entry.get("camera_model", "OPENCV")
    if model not in PINHOLES:
        known = ", ".join(PINHOLES)
        raise ValueError(f"the camera model {model!r} is not read ({known} are): undistort the images first")
    if any(_number(entry, key, 0.0) != 0 for key in ("k3", "k4", "k5", "k6")):
        raise ValueError("distortion beyond k1 k2 p1 p2 is not supported: undistort the images first")
    named = _number(entry, "h", height), _number(entry, "w", width)
    if named != hw:
        scale = "scale fl_x, fl_y, cx, cy, w, h to the image, or use the full-size one"
        raise ValueError(f"w x h is {named[1]:g} x {named[0]:g}, the image is {width} x {height}: {scale}")
    if "fl_x" in entry:
        fx = _number(entry, "fl_x")
        fy = _number(entry, "fl_y", fx)
    else:
        fx = focal("camera_angle_x", width)
        fy = focal("camera_angle_y", height) if "camera_angle_y" in entry else fx
    cx, cy = _number(entry, "cx", width / 2), _number(entry, "cy", height / 2)
    _check_pinhole((fx, fy), (cx, cy), (height, width))
    K = intrinsics_matrix(fx, fy, cx - 0.5, cy - 0.5, dtype=torch.float64)
    distortion = [_number(entry, key, 0.0) for key in ("k1", "k2", "p1", "p2")]
    return K, torch.tensor(distortion, dtype=torch.float64)


def _checked_pose(path: str | os.PathLike, place: str, matrix: Tensor) -> Tensor:
    with reading(path, place, POSE_REMEDY):
        if bool((matrix.abs() > 1e12).any()):
            raise ValueError("entries beyond 1e12")
        check_pose(matrix, "not a pose")
        if matrix.ndim != 2:
            raise ValueError("a list of matrices instead of one")
    return matrix


def _check_pinhole(focal: tuple[float, ...], corner_xy: tuple[float, ...], hw: tuple[float, ...]) -> None:
    """ValueError for focal lengths that are not in pixels, and a principal point outside the image."""
    height, width = hw
    if not min(focal) > 0:
        raise ValueError(f"the focal length {min(focal):g} <= 0")
    if max(focal) < 0.05 * max(height, width):
        reason = f"the focal length {max(focal):g} is tiny against {width:g} x {height:g} pixels"
        raise ValueError(f"{reason}: give it in pixels, not as a share of the width or in mm")
    if not (0 <= corner_xy[0] <= width and 0 <= corner_xy[1] <= height):
        reason = f"the principal point {corner_xy} is outside {width:g} x {height:g} pixels"
        raise ValueError(f"{reason}: check that cx, cy and the size belong together")


# ---- DeepVoxels --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeepVoxelsIntrinsics:
    """The contents of an intrinsics.txt, in pixels of a sensor that need not have the size of the images."""

    focal_px: float
    cx_px: float
    cy_px: float
    grid_origin: tuple[float, float, float]  # world coordinates of the middle of the grid
    near: float | None  # z-depth of the first depth plane; 0: take the default; None: no such line
    grid_side_length: float  # world units; the README of the released code calls it the side of a voxel
    sensor_height: int
    sensor_width: int


def read_deepvoxels_intrinsics(path: str | os.PathLike) -> DeepVoxelsIntrinsics:
    """Read an intrinsics.txt, with the near-plane line (DeepVoxels) or without (SRN, COLMAP wrapper).

    Lines: `f cx cy ...`, grid origin `x y z`, near, scale, `height width`, and optionally a flag or camera
    model that is ignored, as in the released code. Raises DataError for anything else, for values that are
    not finite or not positive, and for a principal point outside the sensor.
    """
    path = Path(path)
    lines = enumerate(read_text(path).split("\n"), start=1)
    rows = [(number, line.split()) for number, line in lines if line.strip()]
    counts = [len(words) for _, words in rows]
    remedy = "Write f cx cy / origin x y z / near / scale / height width, one line each"
    has_near = counts[2:5] == [1, 1, 2]
    if not has_near and counts[2:4] != [1, 2]:
        raise DataError(path, f"the lines hold {counts} numbers", remedy)

    def numbers(row: int, count: int) -> list[float]:
        number, words = rows[row]
        return parse_matrix(" ".join(words[:count]), path, f"line {number}", (1, count))[0].tolist()

    focal, cx, cy = numbers(0, 3)
    origin = numbers(1, 3)
    near = numbers(2, 1)[0] if has_near else None
    (scale,), (height, width) = numbers(2 + has_near, 1), numbers(3 + has_near, 2)
    if scale <= 0 or (near is not None and near < 0) or min(height, width) < 1 or height % 1 or width % 1:
        reason = f"near {near}, scale {scale}, size {height:g} x {width:g}"
        raise DataError(path, reason, "Near is 0 or more, scale positive, height and width are whole pixels")
    with reading(path, "line 1", remedy):
        _check_pinhole((focal, focal), (cx + 0.5, cy + 0.5), (height, width))
    return DeepVoxelsIntrinsics(focal, cx, cy, tuple(origin), near, scale, int(height), int(width))


def write_deepvoxels_intrinsics(path: str | os.PathLike, intrinsics: DeepVoxelsIntrinsics) -> None:
    """Write an intrinsics.txt that the released code reads too; a missing near becomes 0, its "not given"."""
    i = intrinsics
    lines = [
        f"{i.focal_px!r} {i.cx_px!r} {i.cy_px!r} 0.",
        " ".join(map(repr, i.grid_origin)),
        repr(i.near or 0.0),
        repr(i.grid_side_length),
        f"{i.sensor_height} {i.sensor_width}",
    ]
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


# ---- matrices and poses as text ----------------------------------------------------------------------------


def parse_matrix(text: str, path: str | os.PathLike, place: str, *shapes: tuple[int, int]) -> Tensor:
    """The numbers of `text`, row by row, as float64 [rows, columns] of the one of `shapes` that fits.

    Raises DataError, naming path and place, for another number of numbers and for any that is not finite.
    """
    words, remedy = text.split(), "Write the matrix row by row"
    shape = next((shape for shape in shapes if math.prod(shape) == len(words)), None)
    if shape is None:
        wanted = " or ".join(str(math.prod(shape)) for shape in shapes)
        raise DataError(path, f"{place}: {len(words)} numbers instead of {wanted}", remedy)
    with reading(path, place, remedy):
        values = torch.tensor([float(word) for word in words], dtype=torch.float64)
        if not values.isfinite().all():
            raise ValueError("NaN or infinite numbers")
    return values.reshape(shape)


def read_matrix(path: str | os.PathLike, rows: int, columns: int) -> Tensor:
    """Read a float64 matrix [rows, columns] written row by row; DataError for anything else."""
    return parse_matrix(read_text(path), path, "the matrix", (rows, columns))


def parse_pose(text: str, path: str | os.PathLike, place: str) -> Tensor:
    """A rigid pose, float64 [4, 4], of 16 numbers, or of 12 without the last row; DataError otherwise."""
    matrix = parse_matrix(text, path, place, (4, 4), (3, 4))
    if len(matrix) == 3:
        matrix = torch.cat([matrix, matrix.new_tensor([[0.0, 0.0, 0.0, 1.0]])])
    return _checked_pose(path, place, matrix)


def read_pose(path: str | os.PathLike) -> Tensor:
    """Read a pose, float64 [4, 4]: 16 numbers, row by row, on one line or four; or 12, without the last row.

    Raises DataError unless it is rigid and right-handed.
    """
    return parse_pose(read_text(path), path, "the pose")


def read_poses(path: str | os.PathLike) -> Tensor:
    """Poses [N, 4, 4] (float64, as they are in the file) of a path, one per frame; numbers as in `read_pose`.

    path: a text file with a pose on every line, or a folder of *.txt files with one each, in the natural
    order of their names (2 before 10). Raises DataError naming file and line for anything but rigid poses.
    """
    path = Path(path)
    if path.is_dir():
        poses = [read_pose(file) for file in visible(path) if file.suffix.lower() == ".txt"]
    else:
        lines = enumerate(read_text(path).splitlines(), start=1)
        poses = [parse_pose(line, path, f"line {number}") for number, line in lines if line.strip()]
    if not poses:
        remedy = "Give a pose per frame: 12 or 16 numbers on a line of a file, or in files of a folder"
        raise DataError(path, "holds no poses", remedy)
    return torch.stack(poses)


def write_pose(path: str | os.PathLike, world_from_cam: Tensor) -> None:
    """Write [4, 4] as one line of 16 numbers, as in the released scenes; ValueError if it is no pose."""
    check_pose(world_from_cam, "world_from_cam")
    if world_from_cam.ndim != 2:
        raise ValueError(f"write_pose needs [4, 4], not {tuple(world_from_cam.shape)}")
    write_bytes(path, (" ".join(map(repr, world_from_cam.flatten().tolist())) + "\n").encode())
