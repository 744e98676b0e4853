"""Damaged files and failing disks: one clear DataError, never another one, and nothing large allocated."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from shared.errors import DataError
from shared.files.disk import read_text
from shared.files.images import read_depth_png, read_image, read_image_size, read_pfm
from shared.tests.fuzzing import EXAMPLES, assert_damage_is_refused, repaired_png
from shared.tests.pixels import random_bytes

# ---- broken files ------------------------------------------------------------------------------------------


def check_message(info, path):
    assert str(path) in str(info.value)
    assert info.value.reason
    assert info.value.remedy
    assert len(str(info.value).splitlines()) == 1


def claimed_png(width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0" * 100)
    data = b"\x89PNG\r\n\x1a\n"
    for chunk in (header, body, b"IEND"):
        data += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data


def broken_images():
    """What no flipped bit would give; the rest is for the fuzzing below."""
    cmyk = io.BytesIO()
    Image.fromarray(random_bytes(8, 8, 3)).convert("CMYK").save(cmyk, "JPEG")
    floats = io.BytesIO()
    Image.fromarray(np.ones((4, 4), np.float32)).save(floats, "TIFF")
    gif = io.BytesIO()
    Image.fromarray(random_bytes(8, 8)).save(gif, "GIF")
    return {
        "text": b"this is not an image, although it is called one\n",
        "cmyk": cmyk.getvalue(),
        "float tiff": floats.getvalue(),
        "gif": gif.getvalue(),
        "absurd size": claimed_png(100_000, 100_000),
        "lying size": claimed_png(8000, 8000),
    }


@pytest.mark.parametrize("case", sorted(broken_images()))
def test_broken_images_end_in_one_clear_error(tmp_path, case):
    path = tmp_path / "a.png"
    path.write_bytes(broken_images()[case])
    with pytest.raises(DataError) as info:
        read_image(path)
    check_message(info, path)


def test_missing_files_folders_and_odd_names(tmp_path):
    for path in (tmp_path / "none.png", tmp_path, tmp_path / "a\0b"):
        for read in (read_image, read_pfm, read_text, read_image_size):
            with pytest.raises(DataError) as info:
                read(path)
            check_message(info, path)


# ---- fuzzing -----------------------------------------------------------------------------------------------


def encoded(extension, pixels):
    return cv2.imencode(extension, pixels)[1].tobytes()


GOOD = {
    "rgb.png": encoded(".png", random_bytes(12, 9, 3)),
    "rgb16.png": encoded(".png", random_bytes(12, 9, 3).astype(np.uint16) * 257),
    "photo.jpg": encoded(".jpg", random_bytes(24, 17, 3)),
    "scan.tiff": encoded(".tiff", random_bytes(12, 9, 3)),
    "photo.webp": encoded(".webp", random_bytes(12, 9, 3)),
    "depth.png": encoded(".png", random_bytes(12, 9).astype(np.uint16) * 257),
    "map.pfm": b"PF\n7 5\n-1.0\n" + bytes(4 * 3 * 35),
}


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", [*sorted(GOOD), "checksums repaired/rgb16.png"])
def test_damage_ends_in_data_error(tmp_path, name, examples):
    """`repaired`: with right checksums the damage reaches the decoder."""
    repair, name = repaired_png if "/" in name else None, name.split("/")[-1]
    path = tmp_path / name
    readers = {"map.pfm": read_pfm, "depth.png": lambda p: read_depth_png(p, unit_m=1e-3)}
    path.write_bytes(GOOD[name])
    head = (0, 60) if repair or name == "map.pfm" else (0, 0)
    assert_damage_is_refused(path, readers.get(name, read_image), examples, repair, head)
