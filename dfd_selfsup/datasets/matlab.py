"""Numeric matrices of MATLAB 5 files, such as NYUv2's splits.mat; nothing is allocated on a header's word.

Format: "MAT-File Format", The MathWorks, chapter 1. Files of version 7.3 are HDF5 and read with h5py.
"""

import math
import os
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from shared.errors import DataError
from shared.files.disk import read_bytes

__all__ = ["read_mat5"]

HEADER_BYTES = 128
COMPRESSED, MATRIX = 15, 14
LARGEST_BYTES = 2**26  # of one matrix, decompressed
DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
NUMERIC_CLASSES = range(6, 16)  # double, single and the integers
IS_COMPLEX = 0x0800


def read_mat5(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The numeric matrices of a MATLAB 5 file by name; others are left out. DataError for damaged files."""
    data = read_bytes(path)
    try:
        byte_order = {b"IM": "<", b"MI": ">"}[data[126:128]]
        return dict(_matrices(data[HEADER_BYTES:], byte_order))
    except (KeyError, IndexError, ValueError, OverflowError, struct.error, zlib.error) as error:
        reason = f"is not a readable MATLAB 5 file ({error})"
        raise DataError(path, reason, "Copy or download it again") from None


def _matrices(data: bytes, byte_order: str) -> Iterator[tuple[str, np.ndarray]]:
    for kind, content in _elements(data, byte_order):
        if kind == COMPRESSED:
            engine = zlib.decompressobj()
            inside = engine.decompress(content, LARGEST_BYTES)
            if not engine.eof:
                raise ValueError("a compressed matrix is cut off or too large")
            yield from _matrices(inside, byte_order)
        elif kind == MATRIX:
            parts = list(_elements(content, byte_order))
            if len(parts) < 4:
                raise ValueError("a matrix without content")
            (flags,) = struct.unpack_from(f"{byte_order}I", parts[0][1])
            if flags & 0xFF in NUMERIC_CLASSES and not flags & IS_COMPLEX:
                yield parts[2][1].decode("ascii"), _matrix(parts[1][1], *parts[3], byte_order)


def _matrix(dimensions: bytes, kind: int, content: bytes, byte_order: str) -> np.ndarray:
    shape = np.frombuffer(dimensions, f"{byte_order}i4").tolist()
    values = np.frombuffer(content, byte_order + DTYPES[kind])
    if min(shape, default=-1) < 0 or math.prod(shape) != len(values):
        raise ValueError(f"a matrix of {shape} with {len(values)} values")
    return values.reshape(shape, order="F")


def _elements(data: bytes, byte_order: str) -> Iterator[tuple[int, bytes]]:
    """Type and content of each data element; small ones hold both in eight bytes."""
    place = 0
    while place < len(data):
        kind, size = struct.unpack_from(f"{byte_order}II", data, place)
        start, step = place + 8, 8 + size
        if kind >> 16:  # a small element: the size stands in the upper half
            kind, size, start, step = kind & 0xFFFF, kind >> 16, place + 4, 8
        if (size > 4 and step == 8) or start + size > len(data):
            raise ValueError(f"an element of {size} bytes does not fit")
        yield kind, data[start : start + size]
        place += step if kind == COMPRESSED else -(-step // 8) * 8
