"""OpenEXR, as far as depth renders use it: one part of scanlines, stored raw or with ZIP compression.

ShapeNet depth from Blender is written so. Anything else (tiles, other compressions) is refused by name.
"""

import os
import struct
import zlib

import numpy as np
import torch
from torch import Tensor

from shared.errors import DataError
from shared.files.disk import read_bytes, write_bytes

__all__ = ["read_exr", "write_exr"]

MAGIC = b"\x76\x2f\x31\x01"
LARGEST_SIDE = 16384
LARGEST_COMPRESSION = 1100  # deflate reaches 1032 : 1; a header that claims more than this is lying
COMPRESSIONS = ("none", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "B44", "B44A", "DWAA", "DWAB")
ROWS_PER_BLOCK = {0: 1, 2: 1, 3: 16}
PIXEL_TYPES = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}
CONVERT = "Convert it to a scanline EXR with ZIP compression (Blender: file format OpenEXR, codec ZIP)"


def read_exr(path: str | os.PathLike, channel: str | None = None) -> Tensor:
    """One channel of an EXR file as float32 [H, W], top row first; infinities and NaN stay as they are.

    channel: its name; by default the first of Z, V, Y, R, or else the first in the file: depth renders repeat
    the depth in all of their channels. Raises DataError for damaged files and unsupported kinds of EXR.
    """
    data = read_bytes(path)
    try:
        return _decode(path, data, channel)
    except (struct.error, zlib.error, ValueError, IndexError, OverflowError) as error:
        raise DataError(path, f"is a damaged EXR file ({error})", "Copy or render it again") from None


def _decode(path: str | os.PathLike, data: bytes, channel: str | None) -> Tensor:
    if data[:4] != MAGIC:
        raise DataError(path, "is not an OpenEXR file", "Depth must be OpenEXR here")
    if data[5] & 0b00011010:  # flags: tiles, deep data, several parts
        raise DataError(path, "holds tiles, deep data or several parts", CONVERT)
    attributes, place = _header(data)
    compression = attributes["compression"][0]
    if compression not in ROWS_PER_BLOCK:
        name = COMPRESSIONS[compression] if compression < len(COMPRESSIONS) else compression
        raise DataError(path, f"the compression {name} is not supported", CONVERT)
    x0, y0, x1, y1 = struct.unpack("<4i", attributes["dataWindow"])
    width, height = x1 - x0 + 1, y1 - y0 + 1
    if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
        raise DataError(path, f"the header claims {width} x {height} pixels", "Copy or render it again")
    channels = _channels(attributes["channels"])
    names = [name for name, _ in channels]
    wanted = channel or next((n for n in ("Z", "V", "Y", "R") if n in names), names[0])
    if wanted not in names:
        raise DataError(path, f"has no channel {wanted!r}, only {', '.join(names)}", "Name one of these")

    row_bytes = sum(dtype.itemsize for _, dtype in channels) * width
    if height * row_bytes > LARGEST_COMPRESSION * len(data):
        reason = f"the header claims {width} x {height} pixels in a file of {len(data)} bytes"
        raise DataError(path, reason, "Copy or render it again")
    rows = ROWS_PER_BLOCK[compression]
    blocks = -(-height // rows)
    offsets = struct.unpack_from(f"<{blocks}Q", data, place)
    image = np.empty((height, width), np.float32)
    missing = set(range(0, height, rows))  # first rows of the blocks not read yet
    before = sum(dtype.itemsize for _, dtype in channels[: names.index(wanted)]) * width
    dtype = channels[names.index(wanted)][1]
    for offset in offsets:
        y, size = struct.unpack_from("<ii", data, offset)
        if y - y0 not in missing or size < 0:
            raise ValueError(f"a block of {size} bytes for row {y - y0}")
        missing.remove(y - y0)
        count = min(rows, height - (y - y0))
        raw = _unpacked(data[offset + 8 : offset + 8 + size], count * row_bytes, compression)
        lines = np.frombuffer(raw, np.uint8).reshape(count, row_bytes)
        part = np.ascontiguousarray(lines[:, before : before + dtype.itemsize * width])
        with np.errstate(invalid="ignore"):  # a half may be a signalling NaN
            image[y - y0 : y - y0 + count] = part.view(dtype)
    return torch.from_numpy(image)


def _header(data: bytes) -> tuple[dict[str, bytes], int]:
    """Attributes by name, and the place where the table of offsets begins."""
    place, attributes = 8, {}
    while data[place] != 0:
        end = data.index(b"\0", place)
        name = data[place:end].decode("ascii")
        end_of_type = data.index(b"\0", end + 1)
        (size,) = struct.unpack_from("<i", data, end_of_type + 1)
        start = end_of_type + 5
        if size < 0 or start + size > len(data):
            raise ValueError(f"the attribute {name} is cut off")
        attributes[name] = data[start : start + size]
        place = start + size
    missing = {"channels", "compression", "dataWindow"} - set(attributes)
    if missing:
        raise ValueError(f"the header lacks {', '.join(sorted(missing))}")
    return attributes, place + 1


def _channels(data: bytes) -> list[tuple[str, np.dtype]]:
    """Names and pixel types in the order of storage."""
    channels, place = [], 0
    while data[place] != 0:
        end = data.index(b"\0", place)
        kind, _, step_x, step_y = struct.unpack_from("<iB3xii", data, end + 1)
        if kind not in PIXEL_TYPES or (step_x, step_y) != (1, 1):
            raise ValueError("a channel of unknown type or subsampled")
        channels.append((data[place:end].decode("ascii"), PIXEL_TYPES[kind]))
        place = end + 17
    if not channels:
        raise ValueError("no channel")
    return channels


def _unpacked(data: bytes, size: int, compression: int) -> bytes:
    """Undo ZIP: inflate, sum up the differences, and weave the two halves together."""
    if compression != 0 and len(data) < size:
        engine = zlib.decompressobj()
        raw = np.frombuffer(engine.decompress(data, size), np.uint8)
        summed = (np.cumsum(raw.astype(np.int64) - 128) + 128).astype(np.uint8)
        woven = np.empty_like(summed)
        half = (len(summed) + 1) // 2
        woven[0::2], woven[1::2] = summed[:half], summed[half:]
        data = woven.tobytes()
    if len(data) != size:
        raise ValueError(f"a block of {len(data)} bytes instead of {size}")
    return data


def write_exr(path: str | os.PathLike, values: Tensor) -> None:
    """Write [H, W] as an EXR with one float channel R, ZIP compressed; infinities are kept."""
    if values.ndim != 2:
        raise ValueError(f"write_exr needs [H, W], got {list(values.shape)}")
    height, width = values.shape
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    attributes = [
        ("channels", "chlist", b"R\0" + struct.pack("<iB3xii", 2, 0, 1, 1) + b"\0"),
        ("compression", "compression", b"\x03"),
        ("dataWindow", "box2i", window),
        ("displayWindow", "box2i", window),
        ("lineOrder", "lineOrder", b"\0"),
        ("pixelAspectRatio", "float", struct.pack("<f", 1.0)),
        ("screenWindowCenter", "v2f", struct.pack("<2f", 0.0, 0.0)),
        ("screenWindowWidth", "float", struct.pack("<f", 1.0)),
    ]
    header = MAGIC + struct.pack("<i", 2)
    for name, kind, content in attributes:
        header += name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<i", len(content)) + content
    header += b"\0"
    rows = values.detach().cpu().numpy().astype("<f4")
    blocks = [_packed(rows[y : y + 16].tobytes()) for y in range(0, height, 16)]
    place, offsets, body = len(header) + 8 * len(blocks), [], b""
    for index, block in enumerate(blocks):
        offsets.append(place + len(body))
        body += struct.pack("<ii", 16 * index, len(block)) + block
    write_bytes(path, header + struct.pack(f"<{len(offsets)}Q", *offsets) + body)


def _packed(raw: bytes) -> bytes:
    values = np.frombuffer(raw, np.uint8)
    parted = np.concatenate([values[0::2], values[1::2]]).astype(np.int64)
    parted[1:] = np.diff(parted) + 128
    packed = zlib.compress(parted.astype(np.uint8).tobytes(), 4)
    return packed if len(packed) < len(raw) else raw
