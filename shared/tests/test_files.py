"""Pixels in and out: every mode against another library, and damage that may only end in DataError."""

import io
import os
import pickle
import struct
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from shared.files import (
    DataError,
    read_bytes,
    read_depth_png,
    read_image,
    read_image_size,
    read_pfm,
    read_rgba,
    read_text,
    write_bytes,
    write_depth_png,
    write_image,
    write_pfm,
    write_ply,
)
from shared.folders import new_folder

HEIGHT, WIDTH = 13, 9


def random_bytes(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def saved(path, image, **options):
    image.save(path, **options)
    return path


# ---- images: what is accepted ------------------------------------------------------------------------------


def test_convention_rgb_order_channels_first_and_top_row_first(tmp_path):
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 2] = (255, 51, 0)  # red at the top right
    image = read_image(saved(tmp_path / "a.png", Image.fromarray(pixels)))
    assert image.shape == (3, 2, 3)
    assert image.dtype == torch.float32
    assert torch.allclose(image[:, 0, 2], torch.tensor([1.0, 0.2, 0.0]))
    assert image.sum() == pytest.approx(1.2)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_write_then_read_is_exact(tmp_path, bits, channels):
    levels = torch.randint(0, 2**bits, (channels, HEIGHT, WIDTH), dtype=torch.int64)
    image = levels.float() / (2**bits - 1)
    write_image(tmp_path / "a.png", image, bits=bits)
    read = read_rgba(tmp_path / "a.png") if channels == 4 else read_image(tmp_path / "a.png")
    largest = 2**bits - 1
    assert torch.equal((read * largest).round().long(), levels.expand(max(channels, 3), -1, -1))
    assert os.listdir(tmp_path) == ["a.png"]


def test_16_bit_files_are_what_opencv_reads(tmp_path):
    image = torch.rand(3, HEIGHT, WIDTH)
    write_image(tmp_path / "a.png", image, bits=16)
    oracle = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert oracle.dtype == np.uint16
    assert np.abs(oracle[..., ::-1].transpose(2, 0, 1) / 65535 - image.numpy()).max() <= 0.51 / 65535


def test_uint8_is_written_as_it_is_and_jpeg_is_close(tmp_path):
    image = torch.from_numpy(cv2.resize(random_bytes(4, 3, 3), (40, 48), interpolation=cv2.INTER_CUBIC))
    image = image.permute(2, 0, 1).contiguous()
    write_image(tmp_path / "a.png", image)
    write_image(tmp_path / "a.jpg", image)
    assert torch.equal((read_image(tmp_path / "a.png") * 255).round().to(torch.uint8), image)
    assert (read_image(tmp_path / "a.jpg") - image / 255).abs().mean() < 0.02


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "YCbCr"])
def test_opaque_modes_match_pillow(tmp_path, mode):
    original = Image.fromarray(random_bytes(HEIGHT, WIDTH, 3)).convert(mode)
    path = saved(tmp_path / ("a.tiff" if mode == "YCbCr" else "a.png"), original)
    with Image.open(path) as image:
        oracle = np.asarray(image.convert("RGB")).transpose(2, 0, 1) / np.float32(255)
    assert np.array_equal(read_image(path).numpy(), oracle.astype(np.float32))


@pytest.mark.parametrize("extension", [".png", ".tiff"])
def test_16_bit_grey_is_scaled_by_65535_and_promoted(tmp_path, extension):
    codes = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / f"a{extension}"), codes)
    image = read_image(tmp_path / f"a{extension}")
    assert torch.equal(image[0], image[1])
    assert np.allclose(image[2].numpy(), codes / 65535, atol=1e-7)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P+tRNS", "RGB+tRNS"])
def test_alpha_is_composited_or_refused(tmp_path, mode):
    rgba = Image.fromarray(random_bytes(HEIGHT, WIDTH, 4))
    if mode == "P+tRNS":
        path = saved(tmp_path / "a.png", rgba.convert("RGB").quantize(7), transparency=3)
    elif mode == "RGB+tRNS":
        flat = Image.fromarray(random_bytes(HEIGHT, WIDTH, 3))
        path = saved(tmp_path / "a.png", flat, transparency=flat.getpixel((4, 2)))
    else:
        path = saved(tmp_path / "a.png", rgba.convert(mode))
    with Image.open(path) as image:
        oracle = np.asarray(image.convert("RGBA")).transpose(2, 0, 1) / 255
    assert oracle[3].min() < 1
    expected = oracle[:3] * oracle[3] + np.array([1.0, 0.5, 0.0])[:, None, None] * (1 - oracle[3])
    assert np.allclose(read_image(path, background=(1, 0.5, 0)).numpy(), expected, atol=1e-6)
    assert np.allclose(read_rgba(path).numpy(), oracle, atol=1e-6)
    with pytest.raises(DataError, match="transparent.*background"):
        read_image(path)


def test_opaque_alpha_is_dropped_and_missing_alpha_is_one(tmp_path):
    pixels = random_bytes(HEIGHT, WIDTH, 4)
    pixels[..., 3] = 255
    path = saved(tmp_path / "a.png", Image.fromarray(pixels))
    assert np.allclose(read_image(path).numpy() * 255, pixels[..., :3].transpose(2, 0, 1))
    plain = saved(tmp_path / "b.png", Image.fromarray(pixels[..., 0]))
    assert torch.equal(read_rgba(plain)[3], torch.ones(HEIGHT, WIDTH))
    with pytest.raises(ValueError, match="background"):
        read_image(path, background=(255, 255, 255))


def test_the_content_decides_the_format(tmp_path):
    pixels = random_bytes(HEIGHT, WIDTH, 3)
    saved(tmp_path / "a.png", Image.fromarray(pixels), format="BMP")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert np.allclose(read_image(tmp_path / "a.jpg").numpy() * 255, pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bits", [8, 16])
def test_exif_orientation_is_applied_as_pillow_does(tmp_path, orientation, bits):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = random_bytes(HEIGHT, WIDTH, 3)
    path = saved(tmp_path / "a.png", Image.fromarray(pixels), exif=exif)
    with Image.open(path) as image:
        oracle = np.asarray(ImageOps.exif_transpose(image)).transpose(2, 0, 1)
    if bits == 16:  # OpenCV writes 16 bits; the orientation chunk goes in behind the header
        wide = cv2.imencode(".png", pixels[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
        body = exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
        path.write_bytes(wide[:33] + chunk + wide[33:])
    assert np.allclose(read_image(path).numpy() * 255, oracle, atol=1e-4)
    assert read_image_size(path) == oracle.shape[1:]


# ---- images: what is refused -------------------------------------------------------------------------------


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
    for read in (read_image, read_rgba):
        with pytest.raises(DataError) as info:
            read(path)
        check_message(info, path)


def test_missing_files_folders_and_odd_names(tmp_path):
    for path in (tmp_path / "none.png", tmp_path, tmp_path / "a\0b"):
        for read in (read_image, read_pfm, read_text, read_image_size):
            with pytest.raises(DataError) as info:
                read(path)
            check_message(info, path)


def test_text_is_utf8_with_windows_line_ends(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert read_text(tmp_path / "a.txt") == "one\ntwo\n"
    (tmp_path / "b.txt").write_bytes(b"ab\xff")
    with pytest.raises(DataError, match="byte 2"):
        read_text(tmp_path / "b.txt")


def test_data_error_survives_pickling():
    error = pickle.loads(pickle.dumps(DataError(Path("a/b.png"), "is odd", "Fix it")))
    assert (error.path, error.reason, error.remedy) == ("a/b.png", "is odd", "Fix it")
    assert str(error) == "a/b.png: is odd. Fix it"


def test_write_image_refuses_what_it_cannot_keep(tmp_path):
    for image, name, options in (
        (torch.full((3, 2, 2), float("nan")), "a.png", {}),
        (torch.zeros(2, 2), "a.png", {}),
        (torch.zeros(2, 2, 3), "a.png", {}),
        (torch.zeros(3, 2, 2), "a.gif", {}),
        (torch.zeros(3, 2, 2), "a.jpg", {"bits": 16}),
        (torch.zeros(4, 2, 2), "a.jpg", {}),
    ):
        with pytest.raises(ValueError):
            write_image(tmp_path / name, image, **options)
    assert os.listdir(tmp_path) == []


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


def test_writing_makes_parents_but_not_through_a_file(tmp_path):
    write_bytes(tmp_path / "x" / "y" / "a.bin", b"1")
    with pytest.raises(DataError, match="cannot be written"):
        write_bytes(tmp_path / "x" / "y" / "a.bin" / "b.bin", b"1")


def test_a_new_folder_appears_only_when_complete(tmp_path):
    with new_folder(tmp_path / "a" / "b") as folder:
        (folder / "x.txt").write_text("1")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "x.txt").read_text() == "1"

    def fail_halfway():
        with new_folder(tmp_path / "a" / "c") as folder:
            (folder / "x.txt").write_text("1")
            raise KeyError

    with pytest.raises(KeyError):
        fail_halfway()
    assert os.listdir(tmp_path / "a") == ["b"]
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "y.txt").write_text("1")
    assert os.listdir(tmp_path / "empty") == ["y.txt"]
    for used in (tmp_path / "empty", tmp_path / "empty" / "y.txt"):
        with pytest.raises(DataError, match="not an empty folder"), new_folder(used):
            pass
    with pytest.raises(DataError, match="cannot be written"), new_folder(tmp_path / "empty" / "y.txt" / "z"):
        pass


# ---- PFM, depth, PLY ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7), (1, 1)])
def test_pfm_round_trip_is_exact(tmp_path, big_endian, shape):
    values = torch.randn(shape)
    values[..., 0, 0] = float("inf")
    write_pfm(tmp_path / "a.pfm", values, big_endian=big_endian)
    assert torch.equal(read_pfm(tmp_path / "a.pfm"), values)


@pytest.mark.parametrize("channels", [1, 3])
def test_pfm_agrees_with_opencv_both_ways(tmp_path, channels):
    values = torch.randn(3, 5, 7) if channels == 3 else torch.randn(5, 7)
    write_pfm(tmp_path / "a.pfm", values)
    theirs = cv2.imread(str(tmp_path / "a.pfm"), cv2.IMREAD_UNCHANGED)
    theirs = theirs[..., ::-1].transpose(2, 0, 1) if channels == 3 else theirs
    assert np.array_equal(theirs, values.numpy())
    ours = values.numpy()[::-1].transpose(1, 2, 0) if channels == 3 else values.numpy()
    cv2.imwrite(str(tmp_path / "b.pfm"), np.ascontiguousarray(ours))
    assert torch.equal(read_pfm(tmp_path / "b.pfm"), values)


def test_convention_pfm_stores_the_bottom_row_first(tmp_path):
    (tmp_path / "a.pfm").write_bytes(b"Pf\n2 2\n-1\n" + struct.pack("<4f", 1, 2, 3, 4))
    assert torch.equal(read_pfm(tmp_path / "a.pfm"), torch.tensor([[3.0, 4.0], [1.0, 2.0]]))


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


def test_depth_png_round_trip_mask_and_unit(tmp_path):
    depth = torch.rand(6, 5) * 4 + 0.01
    valid = torch.rand(6, 5) > 0.3
    depth[~valid] = float("nan")
    write_depth_png(tmp_path / "a.png", depth, valid, unit_m=1e-3)
    read, mask = read_depth_png(tmp_path / "a.png", unit_m=1e-3)
    assert torch.equal(mask, valid)
    assert (read - depth)[valid].abs().max() <= 0.5001e-3
    assert torch.equal(read[~valid], torch.zeros(int((~valid).sum())))
    codes = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert codes.dtype == np.uint16
    assert np.array_equal(codes[valid.numpy()], np.rint(depth[valid].double().numpy() / 1e-3))


def test_depth_at_the_invalid_code_stays_valid_one_code_off(tmp_path):
    depth = torch.tensor([[1.0, 1.2, 0.0]])
    valid = torch.tensor([[True, True, False]])
    write_depth_png(tmp_path / "a.png", depth, valid, unit_m=1e-4, invalid=10000)
    read, mask = read_depth_png(tmp_path / "a.png", unit_m=1e-4, invalid=(10000,))
    assert torch.equal(mask, valid)
    assert torch.allclose(read, torch.tensor([[1.0001, 1.2, 0.0]]))


def test_depth_png_refuses_pictures_and_what_does_not_fit(tmp_path):
    write_image(tmp_path / "a.png", torch.rand(3, 4, 4))
    with pytest.raises(DataError, match="3 channel.*8 bits"):
        read_depth_png(tmp_path / "a.png", unit_m=1e-3)
    for depth in (-1.0, 70.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="valid depth"):
            write_depth_png(tmp_path / "b.png", torch.tensor([[depth]]), torch.tensor([[True]]), unit_m=1e-3)
    with pytest.raises(ValueError, match="unit_m"):
        read_depth_png(tmp_path / "a.png", unit_m=0)


@pytest.mark.parametrize("kind", [None, "uint8", "float"])
def test_ply_parses_back(tmp_path, kind):
    points = torch.randn(11, 3, dtype=torch.float64)
    levels = torch.randint(0, 256, (11, 3), dtype=torch.uint8)
    colors = {None: None, "uint8": levels, "float": levels.float() / 255}[kind]
    write_ply(tmp_path / "a.ply", points, colors)
    header, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")
    assert header.startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 11\n")
    layout = "<3f" if kind is None else "<3f3B"
    records = list(struct.iter_unpack(layout, body))
    assert len(records) == 11
    assert np.allclose([r[:3] for r in records], points.numpy(), atol=1e-6)
    if kind is not None:
        assert header.count(b"property uchar") == 3
        assert np.array_equal([r[3:] for r in records], levels.numpy())
    with pytest.raises(ValueError):
        write_ply(tmp_path / "b.ply", torch.zeros(3, 2))


# ---- fuzzing: damage ends in DataError, never in anything else ---------------------------------------------


def damaged(data):
    """Truncations and bit flips of `data`."""
    flips = st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 7)), max_size=4)
    return st.tuples(st.integers(0, len(data)), flips)


def damage(data, recipe):
    keep, flips = recipe
    data = bytearray(data)
    for position, bit in flips:
        data[position] ^= 1 << bit
    return bytes(data[:keep]) if keep % 3 == 0 else bytes(data)  # a third truncated, the rest flipped


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


@pytest.mark.parametrize("name", sorted(GOOD))
def test_damage_ends_in_data_error(tmp_path, name):
    path = tmp_path / name
    readers = {"map.pfm": read_pfm, "depth.png": lambda p: read_depth_png(p, unit_m=1e-3)}
    read = readers.get(name, read_image)
    path.write_bytes(GOOD[name])
    read(path)  # the undamaged file is good

    @settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(recipe=damaged(GOOD[name]))
    def check(recipe):
        path.write_bytes(damage(GOOD[name], recipe))
        try:
            tensor = read(path)
        except DataError:
            return
        assert (tensor[0] if isinstance(tensor, tuple) else tensor).numel() > 0

    check()


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
