"""NumPy's .npy and .npz files, read without pickle and without allocating what a header merely claims."""

import io
import math
import os
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from shared.files import DataError, read_bytes, write_bytes

__all__ = ["read_npy", "read_npz", "write_npy", "write_npz"]

LARGEST_COMPRESSION = 1100  # deflate reaches 1032 : 1
COPY_AGAIN = "Copy it again or make it anew"


def read_npy(path: str | os.PathLike) -> np.ndarray:
    """Read one array; DataError for damaged files, arrays of objects, and sizes other than the header's."""
    data = read_bytes(path)
    try:
        return _read_array(io.BytesIO(data), len(data))
    except Exception as error:  # noqa: BLE001 - a parser of damaged bytes may fail in any way
        raise DataError(path, f"is no array in NumPy's format ({error})", COPY_AGAIN) from None


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read all arrays of an archive by name; DataError as in `read_npy`."""
    path = Path(path)
    data = read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            claimed = sum(entry.file_size for entry in entries)
            if claimed > LARGEST_COMPRESSION * len(data):
                raise ValueError(f"its directory claims {claimed} bytes in a file of {len(data)}")
            arrays = {}
            for entry in entries:
                with archive.open(entry) as stream:
                    arrays[entry.filename.removesuffix(".npy")] = _read_array(stream, entry.file_size)
            return arrays
    except Exception as error:  # noqa: BLE001 - a parser of damaged bytes may fail in any way
        raise DataError(path, f"is not an NPZ file of arrays ({error})", COPY_AGAIN) from None


def write_npy(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write one array in one step."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def write_npz(path: str | os.PathLike, **arrays: np.ndarray) -> None:
    """Write named arrays, compressed, in one step."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())


def _read_array(stream: BinaryIO, size: int) -> np.ndarray:
    """One array of `size` bytes, header included; ValueError, before values are read, for another size."""
    form = np.lib.format
    readers = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}
    shape, by_column, dtype = readers[form.read_magic(stream)](stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    held, wanted = size - stream.tell(), math.prod(shape) * dtype.itemsize
    if held != wanted:
        raise ValueError(f"{wanted} bytes are needed, {held} are there")
    values = np.frombuffer(bytearray(stream.read(held)), dtype, math.prod(shape))
    return values.reshape(shape, order="F" if by_column else "C")
