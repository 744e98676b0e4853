"""Binary readers of `shared` under 500 truncations, bit flips and extreme bytes each (60 in `make test`).

Proven for PFM, COLMAP's three binary files and 16-bit PNG (also with checksums repaired, so that damage
reaches the decoder): nothing but `DataError`, within two seconds and 256 MB.
"""

from pathlib import Path

import pytest
import torch

from shared.files.colmap import (
    ColmapCamera,
    ColmapImage,
    ColmapModel,
    ColmapPoints,
    read_colmap_model,
    write_colmap_model,
)
from shared.files.images import read_depth_png, read_image, read_pfm, write_depth_png, write_image, write_pfm
from shared.geometry.camera import look_at
from shared.tests.fuzzing import (
    EXAMPLES,
    assert_damage_is_refused,
    repaired_png,
)


def texture(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("shape", [(7, 5), (3, 7, 5)])
def test_pfm(tmp_path: Path, shape: tuple[int, ...], examples: int) -> None:
    write_pfm(tmp_path / "map.pfm", texture(*shape))
    assert_damage_is_refused(tmp_path / "map.pfm", read_pfm, examples, where=(0, 24))


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("repair", [None, repaired_png], ids=["as it is", "checksums repaired"])
def test_16_bit_png(tmp_path: Path, repair, examples: int) -> None:
    valid = torch.ones(11, 9, dtype=torch.bool)
    write_depth_png(tmp_path / "depth.png", texture(11, 9) * 60, valid, unit_m=1e-3)
    assert_damage_is_refused(
        tmp_path / "depth.png", lambda path: read_depth_png(path, unit_m=1e-3), examples, repair
    )
    write_image(tmp_path / "colour.png", texture(3, 11, 9), bits=16)
    assert_damage_is_refused(tmp_path / "colour.png", read_image, examples, repair, where=(0, 60))


def colmap_model() -> ColmapModel:
    poses = [look_at(torch.tensor([4.0, float(i), 1.5], dtype=torch.float64)) for i in range(3)]
    keypoints = texture(4, 2).double() * 40
    images = {
        i + 1: ColmapImage(f"{i}.png", 1, pose, keypoints, torch.arange(4)) for i, pose in enumerate(poses)
    }
    tracks = torch.tensor([[view, point] for point in range(4) for view in (1, 2, 3)])
    points = ColmapPoints(
        torch.arange(4),
        texture(4, 3).double(),
        torch.zeros(4, 3, dtype=torch.uint8),
        torch.ones(4, dtype=torch.float64),
        torch.arange(5) * 3,
        tracks,
    )
    return ColmapModel({1: ColmapCamera("PINHOLE", 64, 48, (50.0, 51.0, 32.0, 24.0))}, images, points)


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
def test_colmap(tmp_path: Path, name: str, examples: int) -> None:
    write_colmap_model(tmp_path, colmap_model())
    assert_damage_is_refused(tmp_path / f"{name}.bin", lambda path: read_colmap_model(path.parent), examples)
