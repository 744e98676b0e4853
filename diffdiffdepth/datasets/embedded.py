"""Embedded data: the still life as a light field and as a multi-view scene, written like the published data.

    light field   the HCI layout: 9 x 9 views, parameters.cfg, gt_disp_lowres.pfm, gt_depth_lowres.pfm
    multi-view    a COLMAP text model of five unstructured views, images/, depth/ with the true depth

Made on first use, seeded, complete or not at all. Ray casting makes the pictures; training only warps them.
"""

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from diffdiffdepth.datasets.hci import HciParameters
from diffdiffdepth.datasets.sparse_model import sparse_model
from diffdiffdepth.datasets.still_life import still_life
from scenes import SCENES_VERSION, render
from shared.errors import DataError
from shared.files.colmap import write_colmap_model
from shared.files.disk import temporary_neighbour, write_bytes
from shared.files.images import write_image, write_pfm
from shared.geometry.camera import look_at

__all__ = ["make_embedded_light_field", "make_embedded_multi_view"]

EMBEDDED_VERSION = 1
RECORD = "embedded.json"  # the options; written last
LOOK_AT = (0.03, 0.0, -0.08)


def make_embedded_light_field(
    folder: str | os.PathLike,
    size: tuple[int, int] = (128, 160),
    side: int = 9,
    seed: int = 0,
    antialias: int = 2,
) -> Path:
    """Write the embedded light field into `folder` unless it is there with these options; returns `folder`.

    `size` (H, W); `side` x `side` views. Disparities reach from about -1.3 to 1.3 px at 160 px width and grow
    with it. Raises ValueError for an even or small side and DataError when it cannot be written.
    """
    if side < 3 or side % 2 == 0:
        raise ValueError(f"side must be odd and at least 3, got {side}")
    height, width = size
    options = {
        "kind": "light field",
        "size": [height, width],
        "side": side,
        "seed": seed,
        "antialias": antialias,
    }

    def write(folder: Path) -> None:
        parameters = HciParameters(width, height, 100.0, 35.0, side, side, 70.0, 5.46)
        _write_light_field(folder, parameters, seed, antialias)

    return _make(Path(folder), options, write)


def make_embedded_multi_view(
    folder: str | os.PathLike,
    size: tuple[int, int] = (144, 192),
    views: int = 5,
    points: int = 500,
    seed: int = 0,
    antialias: int = 2,
) -> Path:
    """Write the embedded multi-view scene into `folder` unless it is there with the same options.

    The cameras are about a tenth of the scene's distance apart, like the paper's 25 cm. The model's points
    are triangulated from corners with half a pixel of noise, some from wrong matches.
    """
    if views < 2:
        raise ValueError(f"a multi-view scene needs at least two views, got {views}")
    options = {"kind": "multi-view", "size": [*size], "views": views, "points": points, "seed": seed}
    options["antialias"] = antialias

    def write(folder: Path) -> None:
        _write_multi_view(folder, size, views, points, seed, antialias)

    return _make(Path(folder), options, write)


def _make(folder: Path, options: dict, write: Callable[[Path], None]) -> Path:
    """Write into a temporary neighbour, then move it into place; nothing to do if the record agrees."""
    record = {"versions": [SCENES_VERSION, EMBEDDED_VERSION], **options}
    held = _record(folder)
    if held == record:
        return folder
    if folder.exists() and held is None and any(folder.iterdir()):
        raise DataError(folder, "holds other files", "Name another folder for the embedded scene")
    with temporary_neighbour(folder) as temporary:
        write(temporary)
        write_bytes(temporary / RECORD, (json.dumps(record) + "\n").encode())
        if _record(folder) != record:  # else another process was faster
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(temporary, folder)
    return folder


def _record(folder: Path) -> dict | None:
    """The options that the folder was made with, if it was made here."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_light_field(folder: Path, parameters: HciParameters, seed: int, antialias: int) -> None:
    """A grid of parallel cameras whose sensors are shifted so that the plane of focus has no parallax."""
    scene, side = still_life(seed), parameters.num_cams_x
    world_from_centre = _pose_at(5.2, 0.0, 14.0)
    step_m = parameters.baseline_mm / 1000
    shift_px = parameters.focal_px * step_m / parameters.focus_distance_m
    for row in range(side):
        for column in range(side):
            across, down = column - side // 2, row - side // 2
            pose = world_from_centre.clone()
            pose[:3, 3] += step_m * (across * pose[:3, 0] + down * pose[:3, 1])
            K = parameters.K.clone()
            K[0, 2] += shift_px * across
            K[1, 2] += shift_px * down
            view = render(scene, K, pose, parameters.height, parameters.width, antialias)
            write_image(folder / f"input_Cam{row * side + column:03d}.png", view.image)
            if across == down == 0:
                truth = torch.where(view.mask, parameters.disparity_from_depth(view.depth), torch.nan)
                write_pfm(folder / "gt_disp_lowres.pfm", truth)
                write_pfm(folder / "gt_depth_lowres.pfm", torch.where(view.mask, view.depth, torch.inf))
    low, high = truth[view.mask].min().item(), truth[view.mask].max().item()
    text = _parameters_text(parameters, math.floor(10 * low) / 10 - 0.1, math.ceil(10 * high) / 10 + 0.1)
    write_bytes(folder / "parameters.cfg", text.encode())


def _parameters_text(parameters: HciParameters, disp_min: float, disp_max: float) -> str:
    sections = {
        "intrinsics": {
            "focal_length_mm": parameters.focal_length_mm,
            "image_resolution_x_px": parameters.width,
            "image_resolution_y_px": parameters.height,
            "sensor_size_mm": parameters.sensor_size_mm,
            "fstop": 100.0,
        },
        "extrinsics": {
            "num_cams_x": parameters.num_cams_x,
            "num_cams_y": parameters.num_cams_y,
            "baseline_mm": parameters.baseline_mm,
            "focus_distance_m": parameters.focus_distance_m,
        },
        "meta": {"scene": "still life", "category": "embedded", "disp_min": disp_min, "disp_max": disp_max},
    }
    blocks = []
    for name, values in sections.items():
        lines = [
            f"{key} = {value:.6g}" if isinstance(value, float) else f"{key} = {value}"
            for key, value in values.items()
        ]
        blocks.append("\n".join([f"[{name}]", *lines]) + "\n")
    return "\n".join(blocks)


def _write_multi_view(
    folder: Path, size: tuple[int, int], views: int, points: int, seed: int, antialias: int
) -> None:
    scene, (height, width) = still_life(seed), size
    generator = torch.Generator().manual_seed(seed + 1)
    focal = 1.1 * width
    K = torch.tensor(
        [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]], dtype=torch.float64
    )
    poses, renders = [], []
    for index in range(views):
        yaw, pitch, distance = 0.0, 16.0, 2.6
        if index:  # around the first view, at uneven angles and distances
            angle = 2 * math.pi * (index + 0.6 * float(torch.rand((), generator=generator))) / (views - 1)
            reach = 4.0 + 2.5 * float(torch.rand((), generator=generator))
            yaw, pitch = yaw + reach * math.cos(angle), pitch + 0.8 * reach * math.sin(angle)
            distance += 0.3 * float(torch.rand((), generator=generator)) - 0.15
        poses.append(_pose_at(distance, yaw, pitch))
        renders.append(render(scene, K.float(), poses[-1], height, width, antialias))
        stem = f"view_{index:02d}"
        write_image(folder / "images" / f"{stem}.png", renders[-1].image)
        write_pfm(
            folder / "depth" / f"{stem}.pfm", torch.where(renders[-1].mask, renders[-1].depth, torch.inf)
        )
    model = sparse_model(
        [f"view_{index:02d}.png" for index in range(views)],
        K,
        torch.stack(poses).double(),
        torch.stack([view.image for view in renders]),
        torch.stack([view.depth for view in renders]),
        points,
        generator,
    )
    write_colmap_model(folder / "sparse" / "0", model, binary=False)


def _pose_at(distance: float, yaw_deg: float, pitch_deg: float) -> Tensor:
    """world_from_cam [4, 4] of a camera in front of the still life, looking at it from above."""
    yaw, pitch = math.radians(yaw_deg), math.radians(pitch_deg)
    level = distance * math.cos(pitch)
    position = torch.tensor(
        [level * math.sin(yaw), -level * math.cos(yaw), distance * math.sin(pitch)], dtype=torch.float64
    )
    return look_at(position, torch.tensor(LOOK_AT, dtype=torch.float64)).float()
