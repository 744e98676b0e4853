"""Images: every mode against another library, exact round trips, orientation, alpha kept, and damage."""

import io
import os
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from shared.errors import DataError
from shared.files.disk import read_text
from shared.files.images import (
    as_image,
    read_image,
    read_image_size,
    survey_photos,
    undistort_image,
    write_image,
)
from shared.files.listing import distinct_stems, left_out_note, list_images
from shared.files.maps import read_depth_png, read_pfm
from shared.geometry.camera import intrinsics_matrix, pixel_grid
from shared.tests.broken import refused
from shared.tests.fuzzing import EXAMPLES, assert_damage_is_refused, repaired_png

HEIGHT, WIDTH = 13, 9


def random_bytes(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def saved(path, image, **options):
    image.save(path, **options)
    return path


def orientation_tag(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def tagged(path, pixels, orientation):
    return saved(path, Image.fromarray(pixels), exif=orientation_tag(orientation))


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
    theirs = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED).reshape(HEIGHT, WIDTH, channels)
    bgr = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    assert np.array_equal(theirs[..., bgr].transpose(2, 0, 1), levels.numpy())
    if channels < 4:
        read = read_image(tmp_path / "a.png") * (2**bits - 1)
        assert torch.equal(read.round().long(), levels.expand(3, -1, -1))
    assert os.listdir(tmp_path) == ["a.png"]


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
        try:
            oracle = np.asarray(image.convert("RGB")).transpose(2, 0, 1) / np.float32(255)
        except OSError:
            pytest.skip("Pillow before 13 does not read the YCbCr that it writes")
    assert np.array_equal(read_image(path).numpy(), oracle.astype(np.float32))


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
    with pytest.raises(DataError, match="transparent"):
        read_image(path)
    with Image.open(path) as image:
        assert torch.equal(as_image(image, background=(1, 0.5, 0)), read_image(path, background=(1, 0.5, 0)))
        with pytest.raises(ValueError, match="transparent"):
            as_image(image)


def test_opaque_alpha_is_dropped(tmp_path):
    pixels = random_bytes(HEIGHT, WIDTH, 4)
    pixels[..., 3] = 255
    path = saved(tmp_path / "a.png", Image.fromarray(pixels))
    assert np.allclose(read_image(path).numpy() * 255, pixels[..., :3].transpose(2, 0, 1))


def test_the_content_decides_the_format(tmp_path):
    pixels = random_bytes(HEIGHT, WIDTH, 3)
    saved(tmp_path / "a.png", Image.fromarray(pixels), format="BMP")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert np.allclose(read_image(tmp_path / "a.jpg").numpy() * 255, pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bits", [8, 16])
def test_exif_orientation_is_applied_as_pillow_does(tmp_path, orientation, bits):
    pixels = random_bytes(HEIGHT, WIDTH, 3)
    path = tagged(tmp_path / "a.png", pixels, orientation)
    with Image.open(path) as image:
        oracle = np.asarray(ImageOps.exif_transpose(image)).transpose(2, 0, 1)
    if bits == 16:  # OpenCV writes 16 bits; the orientation chunk goes in behind the header
        wide = cv2.imencode(".png", pixels[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
        body = orientation_tag(orientation).tobytes().removeprefix(b"Exif\0\0")
        chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
        path.write_bytes(wide[:33] + chunk + wide[33:])
    assert np.allclose(read_image(path).numpy() * 255, oracle, atol=1e-4)
    assert read_image_size(path) == oracle.shape[1:]
    with Image.open(path) as image:
        assert bits == 16 or torch.equal(as_image(image), as_image(path))


def test_write_image_refuses_what_it_cannot_keep(tmp_path):
    for image, name, options in (
        (torch.full((3, 2, 2), float("nan")), "a.png", {}),
        (torch.zeros(3, 2, 2), "a.gif", {}),
        (torch.zeros(3, 2, 2), "a.jpg", {"bits": 16}),
    ):
        with pytest.raises(ValueError):
            write_image(tmp_path / name, image, **options)
    assert os.listdir(tmp_path) == []


# ---- folders of pictures -----------------------------------------------------------------------------------


def test_pictures_of_a_folder_in_natural_order(tmp_path, monkeypatch):
    names = "b10.JPG b2.png a.webp c.HEIC d.dng e.MOV .hidden.png ._b2.png Thumbs.db x.txt sub/e.tif "
    for name in (names + "__MACOSX/e.png .ipynb_checkpoints/b2.png sub/@eaDir/e.jpg").split():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    read, left_out = list_images(tmp_path)
    assert [path.name for path in read] == ["a.webp", "b2.png", "b10.JPG"]
    assert [path.name for path in left_out] == ["c.HEIC", "d.dng", "e.MOV"]
    assert all(part in left_out_note(left_out) for part in ("3 pictures", "c.HEIC, d.dng", "pillow-heif"))
    assert list_images(tmp_path, recursive=True)[0] == [*read, tmp_path / "sub" / "e.tif"]


def test_files_made_of_pictures_get_names_of_their_own():
    assert distinct_stems(["2024.01.02.jpg", "left/b.jpg"]) == {
        "2024.01.02.jpg": "2024.01.02",
        "left/b.jpg": "left_b",
    }
    for names in (["a.jpg", "a.png", "left/b.jpg"], ["x/a.jpg", "x_a.png"], ["A.jpg", "a.png"]):
        stems = distinct_stems(names)
        assert list(stems) == names
        assert len({stem.lower() for stem in stems.values()}) == len(names)
        assert list(stems.values()) == sorted(stems.values())


@pytest.mark.parametrize(
    ("names", "reason"),
    [("1.HEIC 2.heic 3.HEIC ._1.jpg", "2 .HEIC files and 1 .heic files"), ("a.CR3 a.xmp", "1 .CR3 files"),
     ("clip.mp4", "colmap FILM"), ("x.txt", "holds no photos"), ("DCIM/1.jpg", "sub-folders do: DCIM")],
)  # fmt: skip
def test_a_folder_without_a_photo_to_read_says_what_it_holds(tmp_path, names, reason):
    for name in names.split():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    refused(list_images, tmp_path, reason)


def test_heic_photos_are_read_where_pillow_heif_is_installed(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra `heic` is not installed")
    pixels = torch.from_numpy(cv2.resize(random_bytes(3, 4, 3), (64, 48), interpolation=cv2.INTER_CUBIC))
    heif = pillow_heif.from_bytes("RGB", (64, 48), pixels.numpy().tobytes())
    heif.save(tmp_path / "a.HEIC", quality=100)
    (read,), left_out = list_images(tmp_path)
    assert (read_image(read) - pixels.permute(2, 0, 1) / 255).abs().mean() < 0.02
    assert (read_image_size(read), left_out) == ((48, 64), [])


@pytest.mark.parametrize(
    ("hw", "tag", "camera", "turned"),
    [((12, 16), 6, (12, 16), False), ((12, 16), 3, (12, 16), False), ((12, 16), 8, (16, 12), True),
     ((12, 16), 5, (32, 24), True), ((12, 12), 6, (12, 12), False), ((12, 16), 6, None, False),
     ((12, 16), 1, (16, 12), False), ((12, 16), 2, (16, 12), False)],
)  # fmt: skip
def test_convention_given_cameras_own_the_pixel_grid(tmp_path, hw, tag, camera, turned):
    path = tagged(tmp_path / "a.png", random_bytes(*hw, 3), tag)
    survey = survey_photos([path], [camera])
    assert survey.orientations == [tag if turned else 1]
    image = read_image(path, orientation=survey.orientations[0])
    oracle = read_image(path) if turned else read_image(tagged(tmp_path / "b.png", random_bytes(*hw, 3), 1))
    assert torch.equal(image, oracle)
    assert survey.sizes == [tuple(image.shape[1:])]
    assert bool(survey.notes) == (tag != 1)
    assert survey_photos([path]).orientations == [tag]


@pytest.mark.parametrize(
    ("tags", "orientations", "named"),
    [("1131", [1] * 4, "2.png"), ("1161", [1] * 4, "2.png"), ("6683", [6] * 4, "2.png, 3.png"),
     ("36", [3, 3], "1.png"), ("888", [8] * 3, "")],
)  # fmt: skip
def test_the_photos_of_one_pixel_grid_get_one_orientation(tmp_path, tags, orientations, named):
    pixels = random_bytes(12, 16, 3)
    paths = [tagged(tmp_path / f"{index}.png", pixels, int(tag)) for index, tag in enumerate(tags)]
    survey = survey_photos(paths, one_grid=True)
    assert survey.orientations == orientations
    assert named in "".join(survey.notes)
    paths.append(tagged(tmp_path / "turned.png", random_bytes(16, 12, 3), 1))  # turned by some program
    assert survey_photos(paths, one_grid=True).orientations == [*map(int, tags), 1]


def test_the_survey_names_transparent_pictures(tmp_path):
    paths = [saved(tmp_path / f"{mode}.png", Image.new(mode, (9, 7))) for mode in ("RGB", "RGBA", "LA")]
    (note,) = survey_photos(paths, background="white").notes
    assert "2 pictures become white (RGBA.png, LA.png)" in note


# ---- undistortion ------------------------------------------------------------------------------------------


LENSES = {
    "none": [0.0, 0.0, 0.0, 0.0],
    "barrel": [-0.28, 0.07, 0.0, 0.0],
    "pincushion": [0.22, 0.1, 0.0, 0.0],
    "decentred": [-0.1, 0.02, 0.003, -0.004],
}


def waves(pixels: torch.Tensor) -> torch.Tensor:
    """A smooth picture [3, H, W] as a function of its pixel coordinates [H, W, 2]."""
    x, y = pixels.unbind(-1)
    return torch.stack([(0.11 * x).sin(), (0.13 * y).cos(), (0.07 * (x + y)).sin()]) / 2 + 0.5


@pytest.mark.parametrize("lens", LENSES)
def test_convention_undistort_image_agrees_with_pycolmap(lens: str) -> None:
    """Each pixel of the photograph is drawn at its ideal position; undistortion gives the drawing back."""
    pycolmap = pytest.importorskip("pycolmap", reason="the extra `colmap` is not installed")
    height, width, size = 61, 83, (50, 70)
    K, K_new = intrinsics_matrix(70.0, 72.0, 40.3, 31.2), intrinsics_matrix(66.0, 65.0, 33.0, 25.5)
    parameters = [70.0, 72.0, 40.8, 31.7, *LENSES[lens]]  # COLMAP counts pixels from the corner
    camera = pycolmap.Camera(model="OPENCV", width=width, height=height, params=parameters)
    grid = pixel_grid(height, width, dtype=torch.float64)
    rays = camera.cam_from_img(grid.reshape(-1, 2).numpy() + 0.5)
    ideal = torch.from_numpy(rays).reshape(height, width, 2) * K_new.diagonal()[:2] + K_new[:2, 2]
    image, valid = undistort_image(waves(ideal).float(), K, torch.tensor(LENSES[lens]), K_new, size)
    assert image.shape == (3, *size)
    assert valid.double().mean() > 0.8
    error = (image - waves(pixel_grid(*size))).abs().amax(0)[valid]
    assert error.max() < 6e-3  # bilinear interpolation of these waves; OpenCV rounds positions to 1/32 px


def test_without_distortion_pixels_stay_and_grey_stays_grey() -> None:
    image, K = torch.rand(1, 9, 7), intrinsics_matrix(8.0, 8.0, 3.0, 4.0)
    same, valid = undistort_image(image, K, torch.zeros(5))
    torch.testing.assert_close(same, image, rtol=0, atol=1e-6)
    assert valid.all()


def test_the_fold_and_what_the_photograph_does_not_show_are_invalid() -> None:
    # r (1 - 0.3 r²) has its maximum 0.703 at r = 1.054: nothing is seen further out.
    K, wide = intrinsics_matrix(20.0, 20.0, 20.0, 20.0), intrinsics_matrix(6.0, 6.0, 20.0, 20.0)
    _, valid = undistort_image(torch.rand(3, 41, 41), K, torch.tensor([-0.3, 0, 0, 0]), wide)
    radius = ((pixel_grid(41, 41) - 20).norm(dim=-1) / 6).numpy()
    assert not valid[torch.from_numpy(radius > 1.25)].any()
    assert valid[torch.from_numpy(radius < 0.9)].all()
    _, valid = undistort_image(torch.rand(3, 41, 41), K, torch.zeros(4), wide)
    inside = (np.abs((pixel_grid(41, 41) - 20).numpy()) * 20 / 6 <= 20).all(-1)
    assert np.array_equal(valid.numpy(), inside)


# ---- damaged files -----------------------------------------------------------------------------------------


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


def claimed_png(width, height):
    data = GOOD["rgb.png"]
    return repaired_png(data[:16] + struct.pack(">II", width, height) + data[24:])


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
    refused(read_image, path)


@pytest.mark.timeout(20)
def test_missing_files_folders_pipes_devices_and_odd_names(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    os.truncate(os.open(tmp_path / "huge.png", os.O_CREAT | os.O_WRONLY), 2**43)  # takes no space
    odd = ("none.png", "", "a\0b", "pipe.png", "huge.png", "/dev/zero", "/dev/stdin")
    for path in (tmp_path / name for name in odd):
        for read in (read_image, read_pfm, read_text, read_image_size):
            refused(read, path)


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
