"""Quick configurations made so small that every command ends within seconds."""

import shutil
from pathlib import Path
from typing import Any

import yaml

__all__ = ["copy_folder", "shrink_quick_configs"]

TINY: dict[str, dict[str, Any]] = {
    "deepvoxels": {
        "data": {"embedded": {"image_side": 32, "train_views": 12, "test_views": 4}},
        "model": {
            "image_side": 32, "feature_side": 8, "grid_side": 8, "grid_features": 4,
            "depth_planes": 8, "nf0": 4, "extractor_levels": 2, "extractor_max": 8,
            "renderer_levels": 2, "renderer_max": 8, "renderer_base": 8, "inpainting_widths": [1, 2],
        },
        "baseline": {"image_side": 32, "widths": [8, 8, 8]},
        "steps": 2, "decay_steps": 2,
    },
    "diffdiffdepth": {
        "data": {"embedded": {"height": 48, "width": 60}},
        "schedule": {"passes": 1, "iterations": 1},
    },
    "dfd_selfsup": {
        "data": {
            "embedded": {
                "train_scenes": [0, 1], "validation_scenes": [0, 1], "test_scenes": [0, 1],
                "views": 2, "height": 32, "width": 48, "lens_samples": 4,
            }
        },
        "crop": 32,
        "network": {"base_width": 4, "levels": 3},
        "steps": 2,
    },
    "nvs_depth": {
        "data": {"embedded": {"train_groups": 1, "test_groups": 1, "image_side": 24, "antialias": 1}},
        "model": {"width": 0.125},
        "steps": 2, "batch_size": 2, "evaluate_pairs": 2,
    },
}  # fmt: skip


def shrink_quick_configs(paper: Path) -> None:
    """Put in place of each quick*.yaml one that builds on it and makes everything small."""
    configs = paper / "configs"
    for quick in sorted(configs.glob("quick*.yaml")):
        full = quick.rename(configs / f"full_{quick.name}")
        quick.write_text(yaml.safe_dump({"base": full.name, **TINY[paper.name]}))


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder of the repository, without what its commands made there; `shared/runs` is a package."""
    made = () if source.name == "shared" else ("runs", "data")
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "tests", *made))
