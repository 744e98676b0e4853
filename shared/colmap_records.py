"""The bytes and the text lines of COLMAP sparse models, as records in COLMAP's own conventions.

What the numbers mean (pose direction, pixel origin) is decided in `shared.colmap`; this file only knows where
they stand. Format: https://colmap.github.io/format.html. Errors carry the byte offset or the line number.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shared.files import DataError, read_bytes, read_text, write_bytes

__all__ = ["CAMERA_MODEL_IDS", "CameraRecord", "ImageRecord", "PointRecord", "read_records", "write_records"]

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
NO_KEYPOINTS = np.zeros(0, KEYPOINT)


class CameraRecord(NamedTuple):
    camera_id: int
    model: str
    width: int
    height: int
    params: tuple[float, ...]


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


def read_records(folder: Path) -> tuple[list[CameraRecord], list[ImageRecord], list[PointRecord]]:
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


def write_records(
    folder: Path,
    cameras: Iterable[CameraRecord],
    images: Iterable[ImageRecord],
    points: Iterable[PointRecord],
    binary: bool,
) -> None:
    """Write the three files of a model."""
    tables = {"cameras": list(cameras), "images": list(images), "points3D": list(points)}
    for name, records in tables.items():
        if binary:
            rows = [_BINARY_ROWS[name](record) for record in records]
            write_bytes(folder / f"{name}.bin", struct.pack("<Q", len(records)) + b"".join(rows))
        else:
            rows = [_TEXT_ROWS[name](record) for record in records]
            write_bytes(folder / f"{name}.txt", "".join([_TEXT_HEADS[name], *rows]).encode())


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


def _binary_cameras(file: _Binary) -> Iterator[CameraRecord]:
    (count,) = file.unpack("Q", "the number of cameras")
    for _ in range(count):
        place = f"byte {file.offset}"
        camera_id, number, width, height = file.unpack("IiQQ", "a camera")
        model = CAMERA_MODELS.get(number, [OTHER_CAMERA_MODELS.get(number, str(number))])[0]
        size = _parameter_count(file.path, place, model)
        yield CameraRecord(camera_id, model, width, height, file.unpack(f"{size}d", "camera parameters"))
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


def _binary_camera_row(c: CameraRecord) -> bytes:
    layout = f"<IiQQ{len(c.params)}d"
    return struct.pack(layout, c.camera_id, CAMERA_MODEL_IDS[c.model], c.width, c.height, *c.params)


def _binary_image_row(i: ImageRecord) -> bytes:
    head = struct.pack("<I7dI", i.image_id, *i.qvec, *i.tvec, i.camera_id) + i.name.encode() + b"\0"
    return head + struct.pack("<Q", len(i.keypoints)) + i.keypoints.tobytes()


def _binary_point_row(p: PointRecord) -> bytes:
    head = struct.pack("<Q3d3BdQ", p.point_id, *p.xyz, *p.rgb, p.error_px, len(p.track))
    return head + p.track.astype("<u4").tobytes()


_BINARY_ROWS: dict[str, Callable[..., bytes]] = {
    "cameras": _binary_camera_row,
    "images": _binary_image_row,
    "points3D": _binary_point_row,
}


# ---- text --------------------------------------------------------------------------------------------------


class _Line:
    """The words of one text line, converted with the line number in every error."""

    def __init__(self, path: Path, number: int, words: list[str]):
        self.path, self.number, self.words = path, number, words

    def fail(self, reason: str) -> DataError:
        return DataError(self.path, f"line {self.number}: {reason}", REMEDY)

    def ints(self, start: int, stop: int) -> tuple[int, ...]:
        return self._convert(int, start, stop, "whole numbers")

    def floats(self, start: int, stop: int) -> tuple[float, ...]:
        return self._convert(float, start, stop, "numbers")

    def _convert(self, kind: type, start: int, stop: int, what: str) -> tuple:
        words = self.words[start:stop]
        try:
            values = tuple(kind(word) for word in words)
        except ValueError:
            raise self.fail(f"{' '.join(words)[:60]!r} should be {what}") from None
        if len(values) != stop - start:
            raise self.fail(f"{stop} words are needed, {len(self.words)} are there")
        if kind is int and any(abs(value) >= 2**63 for value in values):
            raise self.fail(f"{words} is beyond 64 bits")
        return values


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    yield from enumerate(read_text(path).split("\n"), start=1)


def _text_cameras(path: Path) -> Iterator[CameraRecord]:
    for number, text in _lines(path):
        line = _Line(path, number, text.split())
        if not line.words or line.words[0].startswith("#"):
            continue
        camera_id, width, height = line.ints(0, 1) + line.ints(2, 4)
        size = _parameter_count(path, f"line {number}", line.words[1])
        if len(line.words) != 4 + size:
            raise line.fail(f"{line.words[1]} has {size} parameters, not {len(line.words) - 4}")
        yield CameraRecord(camera_id, line.words[1], width, height, line.floats(4, 4 + size))


def _text_images(path: Path) -> Iterator[ImageRecord]:
    lines = _lines(path)
    for number, text in lines:
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        line = _Line(path, number, text.split(maxsplit=9))  # the name is the rest and may hold spaces
        (image_id,), pose, (camera_id,) = line.ints(0, 1), line.floats(1, 8), line.ints(8, 9)
        if len(line.words) < 10:
            raise line.fail("the image has no name")
        number, text = next(lines, (number + 1, ""))  # the second line of an image, possibly empty
        keypoints = _text_keypoints(_Line(path, number, text.split()))
        yield ImageRecord(image_id, pose[:4], pose[4:], camera_id, line.words[9].rstrip(), keypoints)


def _text_keypoints(line: _Line) -> np.ndarray:
    count, rest = divmod(len(line.words), 3)
    if rest:
        raise line.fail("keypoints come as x, y, point id; the number of words is no multiple of 3")
    keypoints = np.zeros(count, KEYPOINT)
    try:
        keypoints["xy"][:, 0] = line.words[0::3]
        keypoints["xy"][:, 1] = line.words[1::3]
        keypoints["point_id"] = [int(word) for word in line.words[2::3]]
    except (ValueError, OverflowError):
        raise line.fail("keypoints come as x, y, point id, all of them numbers") from None
    return keypoints


def _text_points(path: Path) -> Iterator[PointRecord]:
    for number, text in _lines(path):
        line = _Line(path, number, text.split())
        if not line.words or line.words[0].startswith("#"):
            continue
        (point_id,), xyz, rgb = line.ints(0, 1), line.floats(1, 4), line.ints(4, 7)
        (error_px,) = line.floats(7, 8)
        if any(not 0 <= level <= 255 for level in rgb):
            raise line.fail(f"the colour {rgb} is outside 0 to 255")
        if len(line.words) % 2:
            raise line.fail("a track comes in pairs of image id and keypoint index")
        track = np.array(line.ints(8, len(line.words)), np.int64).reshape(-1, 2)
        yield PointRecord(point_id, xyz, rgb, error_px, track)


def _join(*values: float | str) -> str:
    """Numbers with all their digits, so that reading them back is exact."""
    return " ".join(value if isinstance(value, str) else repr(value) for value in values)


def _text_image_row(i: ImageRecord) -> str:
    head = _join(i.image_id, *i.qvec, *i.tvec, i.camera_id, i.name)
    triples = zip(i.keypoints["xy"].tolist(), i.keypoints["point_id"].tolist(), strict=True)
    return f"{head}\n{' '.join(_join(x, y, point_id) for (x, y), point_id in triples)}\n"


_TEXT_ROWS: dict[str, Callable[..., str]] = {
    "cameras": lambda c: _join(c.camera_id, c.model, c.width, c.height, *c.params) + "\n",
    "images": _text_image_row,
    "points3D": lambda p: _join(p.point_id, *p.xyz, *p.rgb, p.error_px, *p.track.flatten().tolist()) + "\n",
}
_TEXT_HEADS = {
    "cameras": "# CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]\n",
    "images": "# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then a line of X Y POINT3D_ID\n",
    "points3D": "# POINT3D_ID X Y Z R G B ERROR TRACK[] of IMAGE_ID POINT2D_IDX\n",
}
