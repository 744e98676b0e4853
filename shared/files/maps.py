"""Strict readers and writers of floating-point maps (PFM, EXR, NumPy), 16-bit depth and point clouds.

As in `images`, a bad file ends in one `DataError`, and nothing is allocated on a header's word alone.
"""

import io
import math
import os
import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from shared.errors import DataError
from shared.files.disk import read_bytes, reading, temporary_file, write_bytes
from shared.files.images import LARGEST_COMPRESSION, decode_image

__all__ = [
    "read_depth_png",
    "read_exr",
    "read_npy",
    "read_npz",
    "read_pfm",
    "write_depth_png",
    "write_exr",
    "write_npy",
    "write_npz",
    "write_pfm",
    "write_ply",
]


PFM_HEADER = re.compile(rb"(Pf|PF)\s+(\d+)\s+(\d+)\s+(\S+)\s")  # one white-space byte ends it


def read_pfm(path: str | os.PathLike) -> Tensor:
    """Read a portable float map: float32 [H, W] (`Pf`) or [3, H, W] (`PF`), top row first.

    Both byte orders are read; the magnitude of the scale line is ignored, as everywhere. Infinite and NaN
    values, which mark invalid pixels in most data sets, are returned as they are.
    """
    data = read_bytes(path)
    remedy = "Copy it again, or write it with write_pfm"
    header = PFM_HEADER.match(data[:256])
    if header is None:
        raise DataError(path, "is not a PFM file (Pf or PF, width, height, scale, then floats)", remedy)
    width, height = int(header[2]), int(header[3])
    with reading(path, "has a damaged PFM header", remedy):
        scale = float(header[4])
    channels = 3 if header[1] == b"PF" else 1
    if min(width, height) == 0 or scale == 0 or not math.isfinite(scale):
        raise DataError(path, f"the PFM header says size {width} x {height} and scale {scale}", remedy)
    wanted, held = 4 * width * height * channels, len(data) - header.end()
    if wanted != held:
        reason = f"{width} x {height} x {channels} floats need {wanted} bytes, the file holds {held}"
        raise DataError(path, reason, remedy)
    values = np.frombuffer(data, dtype="<f4" if scale < 0 else ">f4", offset=header.end())
    rows = values.reshape(height, width, channels)[::-1].astype(np.float32)  # stored bottom row first
    tensor = torch.from_numpy(rows)
    return tensor[..., 0] if channels == 1 else tensor.permute(2, 0, 1).contiguous()


def write_pfm(path: str | os.PathLike, values: Tensor) -> None:
    """Write [H, W] or [3, H, W] as a portable float map (float32, bottom row first, scale 1)."""
    if values.ndim == 3 and values.shape[0] == 3:
        kind, rows = "PF", values.permute(1, 2, 0)
    elif values.ndim == 2:
        kind, rows = "Pf", values
    else:
        raise ValueError(f"write_pfm needs [H, W] or [3, H, W], not {tuple(values.shape)}")
    height, width = rows.shape[:2]
    header = f"{kind}\n{width} {height}\n-1.0\n".encode()  # negative: little-endian
    write_bytes(path, header + rows.detach().cpu().numpy()[::-1].astype("<f4").tobytes())


def read_depth_png(
    path: str | os.PathLike, *, unit_m: float, invalid: Sequence[int] = (0,)
) -> tuple[Tensor, Tensor]:
    """Read a 16-bit grey PNG as depth = value * unit_m, with a mask of the valid pixels.

    `unit_m` must be named because files do not carry it: 1e-3 for millimetres, 1 / 256 for KITTI, 1e-4 for
    the DeepVoxels scenes (there in scene units, with `invalid=(10000,)`). Pixels that hold an `invalid` code
    are False in the mask and 0 in the depth.
    Returns float32 [H, W] and bool [H, W]. Raises DataError for anything but a 16-bit grey image.
    """
    if not (unit_m > 0 and math.isfinite(unit_m)):
        raise ValueError(f"unit_m must be a positive number, not {unit_m}")
    pixels = decode_image(path)
    if pixels.dtype != np.uint16 or pixels.shape[2] != 1:
        reason = f"holds {pixels.shape[2]} channel(s) of {8 * pixels.itemsize} bits, not one of 16 bits"
        raise DataError(path, reason, "Depth is 16-bit grey PNG; this may be a picture of it")
    codes = pixels[..., 0]
    valid = torch.from_numpy(~np.isin(codes, np.asarray(invalid, dtype=np.int64)))
    depth = torch.from_numpy(codes.astype(np.float64) * unit_m).to(torch.float32)
    return depth * valid, valid


def write_depth_png(
    path: str | os.PathLike, depth: Tensor, valid: Tensor, *, unit_m: float, invalid: int = 0
) -> None:
    """Write depth [H, W] as a 16-bit grey PNG of round(depth / unit_m), `invalid` where `valid` is False.

    A valid depth that would round to the `invalid` code is moved to the code above it. Raises ValueError for
    a valid depth that is negative, not finite, or beyond 65535 units.
    """
    import cv2

    codes = torch.where(valid, depth.detach().to(torch.float64) / unit_m, 0.0).round()
    if not bool(((codes >= 0) & (codes <= 65535)).all()):
        limit = 65535 * unit_m
        raise ValueError(f"valid depth for {path} must be in [0, {limit:g}] at {unit_m:g} per unit")
    neighbour = invalid + 1 if invalid < 65535 else invalid - 1
    codes = torch.where(valid & (codes == invalid), neighbour, codes)
    codes = torch.where(valid, codes, invalid).cpu().numpy().astype(np.uint16)
    _, encoded = cv2.imencode(".png", codes)
    write_bytes(path, encoded.tobytes())


def write_ply(
    path: str | os.PathLike,
    points: Tensor,
    colors: Tensor | None = None,
    normals: Tensor | None = None,
    faces: Tensor | None = None,
) -> None:
    """Write points [N, 3], colours [N, 3] (uint8, or floats in [0, 1]) and normals [N, 3] as a binary PLY.

    With `faces`, indices [M, 3] of triangles' corners, it is a mesh, else a point cloud.
    """
    for rows in (points, colors, normals):
        if rows is not None and (rows.ndim != 2 or rows.shape != (len(points), 3)):
            raise ValueError(f"write_ply needs points, colours and normals [N, 3], not {tuple(rows.shape)}")
    names = ["float x", "float y", "float z"]
    columns = [points]
    if normals is not None:
        names += ["float nx", "float ny", "float nz"]
        columns.append(normals.to(points))
    vertices = np.ascontiguousarray(torch.hstack(columns).detach().cpu().numpy(), dtype="<f4").view(np.uint8)
    if colors is not None:
        names += ["uchar red", "uchar green", "uchar blue"]
        is_bytes = colors.dtype == torch.uint8
        levels = colors if is_bytes else colors.clamp(0, 1).mul(255).round().to(torch.uint8)
        vertices = np.hstack([vertices, levels.detach().cpu().numpy()])
    properties = "".join(f"property {name}\n" for name in names)
    triangles = b""
    if faces is not None:
        properties += f"element face {len(faces)}\nproperty list uchar int vertex_indices\n"
        corners = np.ascontiguousarray(faces.detach().cpu().numpy(), dtype="<i4").view(np.uint8)
        triangles = np.pad(corners, ((0, 0), (1, 0)), constant_values=3).tobytes()  # each with its count
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n{properties}end_header\n"
    write_bytes(path, header.encode() + vertices.tobytes() + triangles)


def read_npy(path: str | os.PathLike) -> np.ndarray:
    """Read one array; DataError for damaged files, arrays of objects, and sizes beyond the file's end."""
    data = read_bytes(path)
    with reading(path, "is no array in NumPy's format"):
        if data[6:7] > b"\x01" and int.from_bytes(data[8:12], "little") > len(data):
            raise ValueError("the header is longer than the file")
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a header's claim allocates nothing
        if not isinstance(array, np.ndarray):
            raise ValueError("it is an archive of arrays")
        return np.array(array)


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read all arrays of an archive by name; DataError as in `read_npy`."""
    data = read_bytes(path)
    with reading(path, "is not an NPZ file of arrays"), np.load(io.BytesIO(data)) as archive:
        claimed = sum(entry.file_size for entry in archive.zip.infolist())
        if claimed > LARGEST_COMPRESSION * len(data):
            raise ValueError(f"its directory claims {claimed} bytes in a file of {len(data)}")
        return dict(archive)


def write_npy(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write one array in one step."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def write_npz(path: str | os.PathLike, **arrays: np.ndarray) -> None:
    """Write named arrays, compressed, in one step."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def read_exr(path: str | os.PathLike) -> Tensor:
    """One channel of an OpenEXR file as float32 [H, W], top row first; infinities and NaN stay as they are.

    It is the first of Z, V, Y, R, or else the first by name: depth renders repeat the depth in all of their
    channels. Raises DataError for damaged files.
    """
    import OpenEXR

    size = len(read_bytes(path))
    with reading(path, "cannot be read as OpenEXR"):
        header = OpenEXR.File(str(path), separate_channels=True, header_only=True).header()
        low, high = header["dataWindow"]
        width, height = (int(v) + 1 for v in high.astype(np.int64) - low)
        if 4 * width * height > LARGEST_COMPRESSION * size:
            raise ValueError(f"the header claims {width} x {height} pixels in a file of {size} bytes")
        channels = OpenEXR.File(str(path), separate_channels=True).channels()
        name = next((n for n in ("Z", "V", "Y", "R") if n in channels), min(channels))
        return torch.from_numpy(channels[name].pixels.astype(np.float32))


def write_exr(path: str | os.PathLike, values: Tensor) -> None:
    """Write [H, W] as an OpenEXR file of one float32 channel, Z, in one step."""
    import OpenEXR

    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    pixels = np.ascontiguousarray(values.detach().cpu().numpy(), dtype=np.float32)
    with temporary_file(path) as temporary:
        OpenEXR.File(header, {"Z": pixels}).write(str(temporary))
