"""What the viewer gets of a run on focal stacks: metric points where the lens is known, else a relief."""

from pathlib import Path

import pytest
import torch
import yaml

from dfd_selfsup.config import TrainConfig
from dfd_selfsup.datasets.folder import load_stack
from dfd_selfsup.models.heads import StackModel
from dfd_selfsup.viewer import scene_of
from shared.files.images import write_image, write_pfm
from shared.geometry.camera import project
from shared.runs.checkpoint import save_checkpoint
from shared.runs.config import config_from_dict, config_to_dict
from shared.runs.seeds import seed_everything

CPU = torch.device("cpu")
LENS = {"focal_length_mm": 100, "f_number": 2, "pixel_pitch_um": 2500}  # focal length 40 px


def write_stack(folder: Path, seed: int, lens: bool = True) -> None:
    generator = torch.Generator().manual_seed(seed)
    for index in range(3):
        write_image(folder / f"slice_{index}.png", torch.rand(3, 24, 32, generator=generator))
    facts = {"focus_m": [1.0, 2.0, 4.0], **LENS} if lens else {"order": "near_to_far"}
    (folder / "stack.yaml").write_text(yaml.safe_dump(facts))
    if lens:
        write_pfm(folder / "depth.pfm", 1 + 2 * torch.rand(24, 32, generator=generator))


def make_run(root: Path, lens: bool = True) -> Path:
    for split in ("train", "test"):
        write_stack(root / split / "room", 1 if split == "train" else 2, lens)
    depth, focus_input = ("inverse", "inverse") if lens else ("refine", "sharpest")
    heads = {"depth": depth, "focus_input": focus_input, "aif": "composite", "near_m": 0.7, "far_m": 6.0}
    data = {"kind": "folders", "root": str(root)}
    values = {"data": data, "network": {"base_width": 4, "levels": 3}, "heads": heads, "steps": 3}
    config = config_from_dict(TrainConfig, values, "test")
    seed_everything(0)
    folder = root / "run"
    save_checkpoint(
        folder / "checkpoints/last.pt",
        {"model": StackModel(config.network, config.heads)},
        paper="dfd_selfsup",
        step=3,
        config=config_to_dict(config),
    )
    return folder


def test_points_are_metric_where_the_lens_is_known(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    scene = scene_of(run, "best", CPU)
    (part,) = scene.parts
    assert scene.unit == "m"
    assert [cloud.name for cloud in part.clouds] == ["predicted", "true depth"]
    stack = load_stack(tmp_path / "test" / "room")
    predicted, true = part.clouds
    pixels, depth = project(true.points, part.cameras[0].K)
    column, row = pixels.round().long().unbind(1)
    assert float(part.cameras[0].K[0, 0]) == pytest.approx(100e-3 / 2500e-6)
    assert (pixels - pixels.round()).abs().max() < 1e-4
    torch.testing.assert_close(depth, stack.depth[row, column])
    assert predicted.values.min() > 0.7
    assert predicted.values.max() < 6.0
    assert len(predicted.points) == 24 * 32
    assert part.cameras[0].image.shape == (3, 24, 32)


def test_without_a_lens_the_points_are_a_relief_and_said_to_be(tmp_path: Path) -> None:
    scene = scene_of(make_run(tmp_path, lens=False), "last", CPU)
    assert scene.unit == "slices"
    assert "relief" in scene.notes[-1]
    (cloud,) = scene.parts[0].clouds
    z = cloud.points[:, 2]
    nearer = cloud.values > cloud.values.median()
    assert z[nearer].max() <= z[~nearer].min()
