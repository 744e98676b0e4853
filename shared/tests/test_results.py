"""Depth maps and views: kinds, points, and round trips through every format."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shared.errors import DataError
from shared.files.images import read_image
from shared.files.maps import read_pfm
from shared.geometry.camera import (
    intrinsics_matrix,
    look_at,
    pixel_grid,
    project,
    ray_distance_from_depth,
    transform_points,
    unproject,
)
from shared.results import DepthMap, Views

K = intrinsics_matrix(8.0, 9.0, 3.2, 2.4)
VALUES = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) + 1
VALID = VALUES < 1.8
DEPTH = DepthMap(VALUES, "z_depth", "m", "metric", VALID, "behind the wall", K, {"lens": "50 mm"})


@pytest.mark.parametrize("suffix", [".pfm", ".npy", ".exr", ".png"])
@pytest.mark.parametrize("masked", [True, False])
def test_round_trip(tmp_path: Path, suffix: str, masked: bool) -> None:
    depth = DEPTH if masked else replace(DEPTH, valid=None, K=None)
    written = depth.save(tmp_path / "new" / f"depth{suffix}")
    assert sorted(written) == sorted((tmp_path / "new").iterdir())
    assert len(written) == (3 if masked else 2)
    read = DepthMap.load(written[0])
    assert torch.equal(read.valid, depth.valid)
    step = 1.0 if suffix == ".png" else 0.0
    assert (read.values - VALUES)[read.valid].abs().max() <= step * VALUES.max() / 65535
    assert (read.kind, read.unit, read.scale, read.invalid) == ("z_depth", "m", "metric", depth.invalid)
    assert read.facts == {"lens": "50 mm"}
    assert (read.K is None) == (depth.K is None)
    if masked:
        torch.testing.assert_close(read.K, K)


def test_a_map_saved_over_another_does_not_keep_its_mask(tmp_path: Path) -> None:
    DEPTH.save(tmp_path / "depth.pfm")
    replace(DEPTH, valid=None).save(tmp_path / "depth.pfm")
    assert DepthMap.load(tmp_path / "depth.pfm").valid.all()


@pytest.mark.parametrize("damage", ["none", "text", "no kind", "unknown kind"])
def test_a_map_whose_files_are_damaged_is_refused(tmp_path: Path, damage: str) -> None:
    path, record = DEPTH.save(tmp_path / "depth.pfm")[:2]
    if damage == "none":
        record.unlink()
    else:
        text = {"text": "depth", "no kind": "{}", "unknown kind": record.read_text().replace("z_depth", "w")}
        record.write_text(text[damage])
    with pytest.raises(DataError, match="depth"):
        DepthMap.load(path)


def test_points_are_the_unprojected_valid_pixels() -> None:
    pose = look_at(torch.tensor([1.0, 2.0, 3.0]))
    expected = unproject(pixel_grid(5, 7), VALUES, K)[VALID]
    torch.testing.assert_close(DEPTH.points(), expected)
    torch.testing.assert_close(DEPTH.points(pose), transform_points(pose, expected))
    pixels, _ = project(DEPTH.points(), K)
    torch.testing.assert_close(pixels, pixel_grid(5, 7)[VALID], atol=1e-4, rtol=0)
    for kind, values in (("inv_depth", 1 / VALUES), ("ray_distance", ray_distance_from_depth(VALUES, K))):
        torch.testing.assert_close(replace(DEPTH, kind=kind, values=values).points(), expected)


def test_what_has_no_camera_or_no_scale_gives_no_points() -> None:
    for kind in ("disparity_px", "order"):
        with pytest.raises(ValueError, match=kind):
            replace(DEPTH, kind=kind).points()
        assert replace(DEPTH, kind=kind).near_is_large
    with pytest.raises(ValueError, match="K"):
        replace(DEPTH, K=None).points()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"values": VALUES[0]}, "values"),
        ({"kind": "depth"}, "kind"),
        ({"valid": VALID[1:]}, "valid"),
    ],
)
def test_maps_that_make_no_sense_are_refused(changes: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        replace(DEPTH, **changes)


def test_views_are_numbered_and_depth_is_explained(tmp_path: Path) -> None:
    images = torch.rand(2, 3, 5, 7)
    depth = DepthMap(VALUES.expand(2, 5, 7), "z_depth", "m", "metric")
    Views(images, depth).save(tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["depth.json", "depth_0000.pfm", "depth_0001.pfm", "view_0000.png", "view_0001.png"]
    assert torch.equal(read_pfm(tmp_path / "out" / "depth_0001.pfm"), VALUES)
    assert (read_image(tmp_path / "out" / "view_0000.png") - images[0]).abs().max() < 0.5 / 255 + 1e-6
    assert json.loads((tmp_path / "out" / "depth.json").read_text())["unit"] == "m"
    Views(images).save(tmp_path / "plain")
    assert len(list((tmp_path / "plain").iterdir())) == 2
    with pytest.raises(ValueError, match="images"):
        Views(images[:, :1])
    with pytest.raises(ValueError, match="2 views"):
        Views(images, DepthMap(VALUES.expand(3, 5, 7), "z_depth", "m", "metric"))


@pytest.mark.parametrize("shift", [0.0, -3.0, -20.0])
def test_png_keeps_negative_disparities_within_half_a_step(tmp_path, shift):
    disparity = torch.rand(7, 5) * 4 + shift
    valid = torch.rand(7, 5) > 0.3
    depth = DepthMap(disparity, "disparity_px", "px", "between neighbouring views", valid)
    depth.save(tmp_path / "map.png")
    found = DepthMap.load(tmp_path / "map.png")
    assert torch.equal(found.valid, valid)
    span = disparity[valid].max() - disparity[valid].min().clamp(max=0)
    assert (found.values - disparity)[valid].abs().max() <= 0.51 * span / 65534 + 1e-6
