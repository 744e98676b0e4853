"""Focal stacks in folders, published layouts, alignment: round trips, and all that can be wrong with them."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch
import yaml

from dfd_selfsup import prepare
from dfd_selfsup.alignment import describe_motion, estimate_motion, pixel_motion
from dfd_selfsup.config import DataConfig
from dfd_selfsup.datasets import defocusnet, nyuv2
from dfd_selfsup.datasets.folder import NO_DIRECTION, folder_splits, load_stack
from dfd_selfsup.datasets.mobile_depth import load_mobile_depth
from dfd_selfsup.datasets.splits import load_splits, open_folder
from dfd_selfsup.datasets.stack import collate, crop_stack, fit_to_size, resize_stack
from dfd_selfsup.models.psf import render_stack
from dfd_selfsup.models.thin_lens import Defocus, Lens
from shared.errors import ConfigError, DataError
from shared.files.images import write_image
from shared.files.maps import write_depth_png, write_pfm

LENS = {"focal_length_mm": 50, "f_number": 8, "pixel_pitch_um": 12}


def picture(seed: int = 0, height: int = 20, width: int = 28) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def write_stack(folder, info: dict | None, count: int = 3, names: str = "photo_{}.png"):
    for index in range(count):
        write_image(folder / names.format(index), picture(index))
    if info is not None:
        (folder / "stack.yaml").write_text(yaml.safe_dump(info))
    return folder


def test_slices_come_nearest_first_whatever_the_order_of_the_names(tmp_path):
    stack = load_stack(write_stack(tmp_path / "s", {"focus_m": [4, 1, 2], **LENS}))
    assert (1 / stack.defocus.focus_q).tolist() == pytest.approx([1, 2, 4])
    assert (stack.images[0] - picture(1)).abs().max() < 0.003
    assert stack.lens == Lens(50, 8, 12)
    expected = Lens(50, 8, 12).blur_at_infinity_px(2) * 2
    assert stack.defocus.gain_px[1].item() == pytest.approx(expected)


def test_names_sort_as_people_count(tmp_path):
    stack = load_stack(write_stack(tmp_path / "s", None, count=12))
    assert (stack.images[10] - picture(10)).abs().max() < 0.003
    assert stack.defocus.kind == "place", "which end is near is not known"
    assert stack.defocus.focus_q.tolist() == list(range(11, -1, -1))
    (tmp_path / "s" / "stack.yaml").write_text("order: far_to_near")
    assert (load_stack(tmp_path / "s").images[0] - picture(11)).abs().max() < 0.003


def test_a_lens_corrected_for_breathing_blurs_all_slices_alike(tmp_path):
    info = {"focus_m": [0.3, 0.6, 2], **LENS, "breathing_corrected": True}
    gain = load_stack(write_stack(tmp_path / "s", info)).defocus.gain_px
    assert gain.tolist() == pytest.approx([0.05**2 / (2 * 12e-6 * 8)] * 3)


def test_disparity_and_sensor_width(tmp_path):
    info = {"focus_disparity_px": [-1, 0.5, 2], "blur_px_per_disparity": 4}
    stack = load_stack(write_stack(tmp_path / "a", info))
    assert (stack.defocus.kind, stack.defocus.focus_q.tolist()) == ("disparity", [2, 0.5, -1])
    assert stack.defocus.gain_px.tolist() == [4, 4, 4]
    info = {"focus_m": [1, 2, 3], "focal_length_mm": 50, "f_number": 8, "sensor_width_mm": 36}
    stack = load_stack(write_stack(tmp_path / "b", info))
    assert stack.lens.pixel_pitch_um == pytest.approx(36000 / 28)


def test_missing_lens_makes_depth_ordered_and_says_so(tmp_path):
    stack = load_stack(write_stack(tmp_path / "s", {"focus_m": [4, 1, 2]}))
    assert stack.defocus.kind == "order"
    assert (stack.images[0] - picture(1)).abs().max() < 0.003
    assert "ordered, not metric" in stack.notes[0]


def test_grey_16_bit_and_black_slices(tmp_path):
    folder = write_stack(tmp_path / "s", None)
    write_image(folder / "photo_0.png", picture()[:1], bits=16)
    write_image(folder / "photo_1.png", torch.zeros(3, 20, 28))
    stack = load_stack(folder)
    assert (stack.images[0] - picture()[:1]).abs().max() < 1e-4
    assert any("photo_1.png: of one colour" in note for note in stack.notes)
    for index in (0, 2):
        write_image(folder / f"photo_{index}.png", torch.zeros(3, 20, 28))
    with pytest.raises(DataError, match="every slice"):
        load_stack(folder)


def test_exif_fills_what_the_yaml_leaves_out(tmp_path):
    from PIL import ExifTags, Image

    for index, distance in enumerate((1.5, 0.7)):
        image = Image.fromarray((picture(index).permute(1, 2, 0).numpy() * 255).astype(np.uint8))
        exif, tag = image.getexif(), ExifTags.Base
        exif[ExifTags.IFD.Exif] = {tag.SubjectDistance: distance, tag.FocalLength: 4.2, tag.FNumber: 1.8}
        image.save(tmp_path / f"p{index}.jpg", exif=exif)
    (tmp_path / "stack.yaml").write_text("pixel_pitch_um: 9")
    stack = load_stack(tmp_path)
    assert (1 / stack.defocus.focus_q).tolist() == pytest.approx([0.7, 1.5])
    assert stack.lens == Lens(4.2, 1.8, 9)
    assert "focus_m was taken from EXIF" in stack.notes


def test_truth_with_holes_is_masked(tmp_path):
    folder = write_stack(tmp_path / "s", {"focus_m": [1, 2, 3], **LENS})
    depth = torch.full((20, 28), 2.0)
    depth[0, 0], depth[0, 1], depth[0, 2] = torch.nan, torch.inf, -1
    write_pfm(folder / "depth.pfm", depth)
    write_image(folder / "aif.png", picture())
    stack = load_stack(folder)
    assert stack.valid.sum() == 20 * 28 - 3
    assert stack.depth.isfinite().all()
    write_pfm(folder / "depth.pfm", depth[:10])
    with pytest.raises(DataError, match="one size"):
        load_stack(folder)


def test_cropping_and_resizing_carry_everything_along(tmp_path):
    folder = write_stack(tmp_path / "s", {"focus_m": [1, 2, 3], **LENS})
    write_pfm(folder / "depth.pfm", torch.arange(560.0).view(20, 28) + 1)
    write_image(folder / "aif.png", picture())
    stack = load_stack(folder)
    crop = crop_stack(stack, 3, 5, 10, flip=True)
    assert torch.equal(crop.depth, stack.depth[3:13, 5:15].flip(-1))
    assert torch.equal(crop.images, stack.images[..., 3:13, 5:15].flip(-1))
    half = resize_stack(stack, 10, 14)
    assert torch.allclose(half.defocus.gain_px, stack.defocus.gain_px / 2)
    assert half.lens.pixel_pitch_um == pytest.approx(24)
    faithful = resize_stack(stack, 16, 16, rescale_pitch=False)
    assert faithful.size == (16, 16)
    assert torch.equal(faithful.defocus.gain_px, stack.defocus.gain_px)
    with pytest.raises(ValueError, match="squashes"):
        resize_stack(stack, 16, 16)
    with pytest.raises(DataError, match="must be alike"):
        collate([stack, half])


def test_folders_of_splits(tmp_path):
    root = tmp_path / "v1"
    for split in ("train", "test"):
        write_stack(root / split / "a", {"focus_m": [1, 2, 3], **LENS})
    splits = folder_splits(root)
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [1, 1, 1]
    assert splits["train"][0]().name == "a"
    with pytest.raises(DataError, match="no folder"):
        folder_splits(root / "train")
    write_stack(root / "test" / "b", {"focus_m": [1, 2]})
    report = prepare.report_folder(root)
    assert "3 slices of 28 x 20, metric, truth: none" in report
    assert "UNUSABLE" in report
    assert prepare.report_folder(tmp_path) == report


# ---- NYUv2 -------------------------------------------------------------------------------------------------


def labeled_file(frames: int = 3):
    """Arrays as MATLAB stores them: transposed, counted from 1."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (frames, 3, 640, 480), dtype=np.uint8)
    depths = np.broadcast_to(np.linspace(0.7, 9.5, 640, dtype=np.float32)[:, None], (640, 480))
    labeled = {"images": images, "depths": np.stack([depths] * frames)}
    return labeled, {"trainNdxs": np.array([[1], [3]]), "testNdxs": np.array([[2]])}


def test_nyuv2_from_labelled_frames_to_loaded_stacks(tmp_path):
    labeled, splits = labeled_file()
    for frame in nyuv2.labeled_frames(labeled, splits):
        nyuv2.write_nyuv2_frame(tmp_path, frame)
        index = int(frame.name) - 1
        assert torch.equal(
            (frame.image * 255).round().byte()[:, 7, 5], torch.tensor(labeled["images"][index, :, 5, 7])
        )
    loaders = nyuv2.nyuv2_splits(tmp_path, DataConfig())
    assert [len(loaders[name]) for name in ("train", "validation", "test")] == [1, 1, 1]
    stack = loaders["test"][0]()
    assert stack.images.shape == (5, 3, 240, 320)
    assert stack.depth[0, -1].item() == pytest.approx(9.5, abs=0.02)  # columns are MATLAB's rows
    assert (1 / stack.defocus.focus_q).tolist() == pytest.approx([1, 1.5, 2.5, 4, 6])


def test_generated_slices_are_what_truth_renders_up_to_truncation(tmp_path):
    labeled, splits = labeled_file()
    frame = next(nyuv2.labeled_frames(labeled, splits))
    slices = nyuv2.generate_slices(frame.image, frame.depth_m)
    pixels = (frame.image * 255).round().byte().permute(1, 2, 0).numpy()
    small = torch.from_numpy(cv2.resize(pixels, (320, 240))).permute(2, 0, 1) / 255
    depth = frame.depth_m.unflatten(0, (240, 2)).unflatten(2, (320, 2)).mean((1, 3))
    sigma = Defocus.thin_lens(Lens(50, 8, 12), [1, 1.5, 2.5, 4, 6]).sigma_at_depth_px(depth[None, None])
    error = render_stack(small[None], sigma)[0] * 255 - slices
    assert -0.01 < error.min() <= error.max() < 1.001


def test_wrapped_depth_overflows_at_6_55_metres():
    found = nyuv2.wrap16(torch.tensor([0.5, 6.5535, 6.6, 7, 8, 10]))
    assert found.tolist() == pytest.approx([0.5, 6.5535, 0.0464, 0.4464, 1.4464, 3.4464], abs=1e-4)


def test_nyuv2_released_validation_is_part_of_the_test_set(tmp_path):
    for split, count in (("train", 20), ("test", 10)):
        for index in range(count):
            write_image(tmp_path / f"{split}_rgb" / f"{index:04d}.png", picture())
    released, held_out = (
        nyuv2.nyuv2_splits(tmp_path, DataConfig(validation=kind)) for kind in ("released", "train_holdout")
    )
    assert [len(released[split]) for split in ("train", "validation", "test")] == [20, 2, 10]
    assert [len(held_out[split]) for split in ("train", "validation", "test")] == [18, 2, 10]
    ends = {"test_fs5.*0008": released["validation"][0], "test_fs5.*0009": released["test"][-1]}
    ends |= {"train_fs5.*0018": held_out["validation"][0], "train_fs5.*0017": held_out["train"][-1]}
    for missing, load in ends.items():
        with pytest.raises(DataError, match=missing):
            load()
    with pytest.raises(DataError, match="train_rgb"):
        nyuv2.nyuv2_splits(tmp_path / "gone", DataConfig())


def test_a_stack_from_one_rgbd_frame(tmp_path, capsys):
    depth = torch.full((48, 64), 2.0)
    depth[:, 32:] = 4
    valid = torch.ones(48, 64, dtype=torch.bool)
    valid[10:20, 10:20] = False
    write_depth_png(tmp_path / "d.png", depth, valid, unit_m=1e-3)
    write_image(tmp_path / "c.png", picture(0, 48, 64))
    command = ["rgbd", str(tmp_path / "c.png"), str(tmp_path / "d.png"), "--unit-m", "1e-3"]
    prepare.main([*command, "--out", str(tmp_path / "out")])
    assert "5 slices" in capsys.readouterr().out
    stack = load_stack(tmp_path / "out")
    assert stack.depth[stack.valid].unique().tolist()[0] == 2
    assert not stack.valid.all()


# ---- other published data ----------------------------------------------------------------------------------


def test_defocusnet_layout(tmp_path, monkeypatch):
    for scene in range(4):
        for index in range(5):
            write_image(tmp_path / f"{scene:06d}_{index:02d}All.png", picture(index))
        np.save(tmp_path / f"{scene:06d}_04Dpt.npy", np.full((20, 28, 1), 5.0 if scene else 1.5, np.float16))
    splits = defocusnet.defocusnet_splits(tmp_path)
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [2, 1, 1]
    stack = splits["train"][0]()
    assert stack.images.shape == (5, 3, 20, 28)
    focus_m = torch.tensor([0.3, 0.45, 0.75, 1.2, 1.8])
    torch.testing.assert_close(1 / stack.defocus.focus_q, focus_m)
    # 7.2 mm / 1.2 = 6 mm of aperture, pixels of 5.6 um: F times the radius of a point at infinity
    torch.testing.assert_close(stack.defocus.gain_px, focus_m * 3e-3 * 7.2e-3 / (focus_m - 7.2e-3) / 5.6e-6)
    assert stack.depth.unique().tolist() == [1.5]
    last = splits["test"][0]
    assert last().depth.max() == 3  # clipped
    for scene in range(20):
        write_image(tmp_path / "larger" / f"{scene:06d}_00All.png", picture())
    splits = defocusnet.defocusnet_splits(tmp_path / "larger")
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [16, 1, 3]
    (tmp_path / "000003_04All.png").unlink()
    with pytest.raises(DataError, match="4 slices"):
        last()


def test_exr_is_converted_once(tmp_path, monkeypatch):
    (tmp_path / "000000_00Dpt.exr").write_bytes(b"x")
    monkeypatch.setattr(defocusnet, "read_exr", lambda path: torch.full((4, 5), 1.25))
    assert defocusnet.convert_depth(tmp_path) == 1
    assert defocusnet.convert_depth(tmp_path) == 0
    assert np.load(tmp_path / "000000_00Dpt.npy").shape == (4, 5, 1)


def test_mobile_depth_sorts_by_number_and_trusts_little(tmp_path):
    folder = write_stack(tmp_path / "fruits", None, count=11, names="a{}.jpg")
    stack = load_mobile_depth(folder)
    assert stack.defocus.kind == "order"
    assert (stack.images[10] - picture(10)).abs().mean() < 0.2 < (stack.images[10] - picture(2)).abs().mean()
    rows = [f"{20 + 3 * index} 1.0" for index in range(11)]
    (folder / "calibrated.txt").write_text("\n".join([*rows, "4000"]))
    stack = load_mobile_depth(folder, lens="released")
    assert (1 / stack.defocus.focus_q[0]).item() == pytest.approx(20 / 39.37)
    reverse = write_stack(tmp_path / "metals", None, count=3, names="a{}.jpg")
    assert (load_mobile_depth(reverse).images[0] - picture(2)).abs().mean() < 0.2


def test_mobile_depth_is_a_kind_of_its_own_and_known_by_its_calibration(tmp_path, capsys):
    folder = write_stack(tmp_path / "keyboard", None, names="a{}.jpg")
    (folder / "calibrated.txt").write_text("30 1\n20 1\n40 1\n4000")
    assert (open_folder(folder).images[0] - picture(1)).abs().mean() < 0.2, "in the order of the calibration"
    splits = load_splits(DataConfig(kind="mobile_depth", root=str(tmp_path)))
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [1, 1, 1]
    assert splits["train"][0].lens.f_number == 24
    prepare.main(["check", str(tmp_path), "--kind", "mobile_depth"])
    assert "keyboard" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="kind"):
        load_splits(DataConfig(kind="mobile"))


def test_large_stacks_are_shrunk_and_thinned_out(tmp_path):
    stack = load_stack(write_stack(tmp_path / "s", {"focus_m": list(range(1, 8)), **LENS}, count=7))
    small = fit_to_size(stack, 24, 3)
    assert small.images.shape == (3, 3, 17, 24)
    assert fit_to_size(stack, 4, 7).size == (16, 22), "the shape is kept"
    assert (1 / small.defocus.focus_q).tolist() == pytest.approx([1, 4, 7])
    assert len(small.notes) == 2
    assert fit_to_size(stack, 28, 7) is stack
    thin = dataclasses.replace(stack, images=stack.images[..., :10, :])
    assert fit_to_size(thin, 16, 7) is thin, "nothing is enlarged"


# ---- alignment ---------------------------------------------------------------------------------------------


def smooth_picture(height: int = 96, width: int = 128) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(1, 3, height // 6, width // 6, generator=generator)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[
        0
    ].clamp(0, 1)


def moved(image: torch.Tensor, scale: float, degrees: float, shift_x: float, shift_y: float) -> torch.Tensor:
    """What a camera with this motion would see, by grid_sample: an implementation of its own."""
    height, width = image.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height) + 0.0, torch.arange(width) + 0.0, indexing="ij")
    cx, cy = (width - 1) / 2, (height - 1) / 2
    x, y = x - cx - shift_x, y - cy - shift_y
    cos, sin = np.cos(np.radians(degrees)) / scale, np.sin(np.radians(degrees)) / scale
    x, y = cx + cos * x + sin * y, cy - sin * x + cos * y
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)[None]
    sample = torch.nn.functional.grid_sample
    return sample(image[None], grid, mode="bicubic", padding_mode="border", align_corners=True)[0].clamp(0, 1)


@pytest.mark.parametrize("true", [(1.03, 0, 2.5, -4.2), (0.97, 2.5, -6, 3), (1, 0, 0, 0), (1.01, -3.5, 4, 2)])
def test_motions_are_found_in_spite_of_blur_and_exposure(true):
    fixed = smooth_picture()
    seen = moved(fixed, *true)
    seen = 0.9 * render_stack(seen[None], torch.full((1, 1, 96, 128), 3.0))[0, 0] + 0.03
    motion, _ = estimate_motion(fixed.mean(0).numpy(), seen.mean(0).numpy())
    assert describe_motion(motion, (96, 128)) == pytest.approx(true, abs=0.1)
    angle, (cx, cy) = np.radians(true[1]), (63.5, 47.5)
    for x, y in ((0, 0), (127, 0), (0, 95), (127, 95)):  # where they go, by complex numbers
        expected = complex(cx + true[2], cy + true[3]) + true[0] * np.exp(1j * angle) * complex(
            x - cx, y - cy
        )
        found = pixel_motion(motion, (96, 128)) @ [x, y, 1]
        assert abs(complex(*found[:2]) / found[2] - expected) < 0.5


HAND_HELD = [(1 + 0.01 * k, 0.8 * k, 0.8 * k, -0.5 * k) for k in range(-2, 3)]  # breathing towards the last


def photos_of(folder, motions, change=lambda index, image: image):
    scene = smooth_picture()
    for index, motion in enumerate(motions):
        image = render_stack(scene[None], torch.full((1, 1, 96, 128), 0.5 + 0.7 * index))[0, 0]
        write_image(folder / f"{index}.png", change(index, moved(image, *motion)).clamp(0, 1))
    return folder


def test_a_hand_held_breathing_stack_is_brought_together(tmp_path, capsys):
    folder = photos_of(tmp_path / "in", HAND_HELD)
    prepare.main(["align", str(folder), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    before, after = open_folder(folder), open_folder(tmp_path / "out")
    assert (after.images[0] - after.images[4]).abs().mean() < 0.5 * (
        before.images[0] - before.images[4]
    ).abs().mean()
    assert after.size < before.size
    for still, other in zip(after.images, list(after.images)[1:], strict=False):
        left, _ = estimate_motion(still.mean(0).numpy(), other.mean(0).numpy())
        scale, degrees, x, y = describe_motion(left, after.size)
        assert abs(degrees) < 0.1
        assert np.hypot(x, y) + abs(scale - 1) * 80 < 0.5
    assert "far to near" in said, "what is near is larger"
    assert NO_DIRECTION not in said
    assert (before.defocus.kind, after.defocus.kind) == ("place", "order")
    prepare.main(["check", str(tmp_path / "out")])
    assert "nearest and farthest focus 4.png, 0.png" in capsys.readouterr().out


def with_parallax(index, image):
    near = torch.zeros_like(image)
    near[:, 30:70, 40:90] = 1
    other = smooth_picture().flip(-1)
    return torch.where(near.roll(5 * index, -1) > 0, other.roll(5 * index, -1), image)


@pytest.mark.parametrize("damage", ["parallax", "another scene"])
def test_what_cannot_be_aligned_is_not_called_aligned(tmp_path, damage):
    change = with_parallax if damage == "parallax" else lambda i, image: image if i < 4 else image.flip(-1)
    folder = photos_of(tmp_path / "in", [(1, 0, 0, 0)] * 5, change)
    with pytest.raises(DataError, match=r"cannot be aligned: .*\.png"):
        prepare.main(["align", str(folder), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
