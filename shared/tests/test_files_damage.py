"""Damaged files and failing disks: one clear DataError, never another one, and nothing large allocated."""

import io
import os
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from shared.errors import DataError
from shared.files.disk import read_bytes, read_text
from shared.files.images import read_depth_png, read_image, read_image_size, read_pfm, write_image
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
    png = io.BytesIO()
    Image.fromarray(random_bytes(40, 30, 3)).save(png, "PNG")
    jpeg = io.BytesIO()
    Image.fromarray(random_bytes(40, 30, 3)).save(jpeg, "JPEG")
    cmyk = io.BytesIO()
    Image.fromarray(random_bytes(8, 8, 3)).convert("CMYK").save(cmyk, "JPEG")
    floats = io.BytesIO()
    Image.fromarray(np.ones((4, 4), np.float32)).save(floats, "TIFF")
    gif = io.BytesIO()
    Image.fromarray(random_bytes(8, 8)).save(gif, "GIF")
    return {
        "empty": b"",
        "text": b"this is not an image, although it is called one\n",
        "truncated png": png.getvalue()[:1500],
        "truncated jpeg": jpeg.getvalue()[:900],
        "header only": png.getvalue()[:20],
        "cmyk": cmyk.getvalue(),
        "float tiff": floats.getvalue(),
        "gif": gif.getvalue(),
        "absurd size": claimed_png(100_000, 100_000),
        "zero size": claimed_png(0, 10),
        "lying size": claimed_png(8000, 8000),
    }


@pytest.mark.parametrize("case", sorted(broken_images()))
def test_broken_images_end_in_one_clear_error(tmp_path, case):
    path = tmp_path / "a.png"
    path.write_bytes(broken_images()[case])
    with pytest.raises(DataError) as info:
        read_image(path)
    check_message(info, path)


@pytest.mark.parametrize(
    "data",
    [
        b"P6\n1 1\n-1\n1234",
        b"Pf\n-1 1\n-1\n1234",
        b"Pf\n0 1\n-1\n",
        b"Pf\n1 1\n0\n1234",
        b"Pf\n1 1\nnan\n1234",
        b"Pf\n1 1\nx\n1234",
        b"Pf\n1 1\n-1\n123",
        b"Pf\n1 1\n-1\n12345",
        b"Pf\n999999999 999999999\n-1\n1234",
        b"Pf\n1 1\n-1",
        b"Pf " + b"9" * 300,
    ],
)
def test_broken_pfm(tmp_path, data):
    (tmp_path / "a.pfm").write_bytes(data)
    with pytest.raises(DataError) as info:
        read_pfm(tmp_path / "a.pfm")
    check_message(info, tmp_path / "a.pfm")


def test_lying_headers_allocate_nothing_large(tmp_path):
    (tmp_path / "a.png").write_bytes(claimed_png(8000, 8000))
    (tmp_path / "a.pfm").write_bytes(b"PF\n100000 100000\n-1.0\n" + bytes(100))
    tracemalloc.start()
    for read, name in ((read_image, "a.png"), (read_pfm, "a.pfm")):
        with pytest.raises(DataError):
            read(tmp_path / name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_missing_files_folders_and_odd_names(tmp_path):
    for path in (tmp_path / "none.png", tmp_path, tmp_path / "a\0b"):
        for read in (read_image, read_pfm, read_text, read_image_size):
            with pytest.raises(DataError) as info:
                read(path)
            check_message(info, path)


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_image(path, torch.zeros(3, 4, 4))
    before = read_bytes(path)

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(DataError, match="No space left") as info:
        write_image(path, torch.ones(3, 4, 4))
    check_message(info, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.png"]


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
