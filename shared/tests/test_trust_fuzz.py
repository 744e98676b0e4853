"""Binary readers of `shared` under 500 truncations, bit flips and extreme bytes each (60 in `make test`).

Proven for PFM, COLMAP's three binary files, 16-bit PNG (also with checksums repaired, so that damage reaches
the decoder) and checkpoints (the archive, and the pickle inside it): nothing but `DataError`, within two
seconds and 256 MB; a compressed checkpoint, which could be a bomb, is refused.
"""

import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from shared.errors import DataError
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
from shared.runs.checkpoint import load_checkpoint, save_checkpoint
from shared.runs.seeds import rng_state
from shared.tests.fuzzing import (
    EXAMPLES,
    assert_damage_is_refused,
    in_small_memory,
    repaired_png,
    repaired_zip,
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


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(texture(5, 3)).sum().backward()
    optimizer.step()
    save_checkpoint(
        tmp_path / "last.pt",
        {"model": model, "optimizer": optimizer},
        paper="toy",
        step=3,
        config={"seed": 1, "name": "text", "nested": {"rate": 0.5}},
        progress={"best_score": None, "time_s": 1.5},
        rng=[rng_state()],
    )
    return tmp_path / "last.pt"


@pytest.mark.parametrize("examples", EXAMPLES)
def test_checkpoint_archive(checkpoint: Path, examples: int) -> None:
    assert_damage_is_refused(checkpoint, load_checkpoint, examples)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_checkpoint_archive_directory(checkpoint: Path, examples: int) -> None:
    """The end of a zip file, where names, offsets and sizes stand."""
    size = checkpoint.stat().st_size
    assert_damage_is_refused(checkpoint, load_checkpoint, examples, where=(size - 1500, size))


@pytest.mark.parametrize("examples", EXAMPLES)
def test_pickle_inside_a_checkpoint(checkpoint: Path, examples: int) -> None:
    """With right checksums the damage reaches the unpickler, which knows tensors and plain values only."""
    good = checkpoint.read_bytes()
    with zipfile.ZipFile(checkpoint) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        pickled = archive.read(name)
    repair = repaired_zip(good, "data.pkl")
    inner = checkpoint.with_name("data.pkl")
    inner.write_bytes(pickled)

    def read(path: Path) -> None:
        checkpoint.write_bytes(repair(path.read_bytes()))
        loaded = load_checkpoint(checkpoint, "toy")
        loaded.load_into({"model": nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))})

    assert_damage_is_refused(inner, read, examples)


def test_a_checkpoint_that_is_a_bomb(tmp_path: Path, checkpoint: Path) -> None:
    """Members of a checkpoint are stored as they are; compressed ones could grow without end."""
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(checkpoint) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for info in source.infolist():
            big = info.filename.endswith("data/0")
            target.writestr(info.filename, bytes(2**28) if big else source.read(info))
    assert bomb.stat().st_size < 2**20

    def read() -> None:
        with pytest.raises(DataError, match="compressed"):
            load_checkpoint(bomb)

    in_small_memory(read, room=64 * 2**20)
