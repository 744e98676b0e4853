"""A finished map as files with unit, scale status and validity, and as a point cloud.

NAME_disparity.pfm/.npy   light field: px between neighbouring views
NAME_depth.pfm/.npy       z-depth: metres where the camera is known, else scene units of the poses
NAME_valid.png            white where another view sees the pixel, so that the map could be checked there
NAME.png  NAME.ply        in colour with legend; as coloured points
NAME.json                 what the numbers mean
"""

from pathlib import Path

import torch
from torch import Tensor

from diffdiffdepth.api import DiffusedDepth
from shared.files.disk import write_bytes, write_json
from shared.files.images import encode_png, write_image, write_npy, write_pfm, write_ply
from shared.geometry.camera import pixel_grid
from shared.results import DepthMap
from shared.show.pictures import depth_picture

__all__ = ["export_map", "relief_points"]


def export_map(folder: str | Path, name: str, fitted: DiffusedDepth) -> tuple[Tensor, Tensor]:
    """Write all files of a result and return its point cloud [n, 3] with colours [n, 3].

    The cloud is in the camera's coordinates, or in those of the model where the scene has a pose in it; of a
    light field without a camera it is a relief in picture coordinates.
    """
    folder, scene = Path(folder), fitted.scene
    depth, z_depth = fitted.depth, fitted.z_depth
    record = {"name": scene.name, "size": list(depth.values.shape)}
    record["valid"] = "seen by at least one other view"
    if depth.kind == "disparity_px":
        _write_map(folder / f"{name}_disparity", depth)
        record["disparity"] = depth.meaning
    if z_depth is not None:
        _write_map(folder / f"{name}_depth", z_depth)
        record["depth"] = z_depth.meaning
        pose = getattr(scene, "world_from_centre", None)
        points, keep = z_depth.points(pose), z_depth.valid
        axes = "camera coordinates, x right, y down, z forward"
        record["cloud"] = axes if pose is None else "coordinates of the model"
    else:
        unknown = "disparity fixes depth only up to scale and offset of 1 / depth"
        record["depth"] = f"unknown: without parameters.cfg {unknown}"
        points, keep = relief_points(depth.values)[depth.valid], depth.valid
        record["cloud"] = "relief: x, y in px, z = -disparity times a twentieth of the width"
    write_bytes(folder / f"{name}.png", encode_png(depth_picture(depth, grey=depth.invalid)))
    write_image(folder / f"{name}_valid.png", depth.valid[None].float().expand(3, -1, -1))
    colours = scene.centre.permute(1, 2, 0)[keep]
    write_ply(folder / f"{name}.ply", points, colours)
    write_json(folder / f"{name}.json", record | {"valid_share": depth.valid.float().mean().item()})
    return points, colours


def relief_points(disparity: Tensor) -> Tensor:
    """Points [H, W, 3] (x, y, -disparity stretched): the shape without claiming a camera."""
    grid = pixel_grid(*disparity.shape, disparity.device, disparity.dtype)
    return torch.cat([grid, -disparity[..., None] * disparity.shape[1] / 20], dim=-1)


def _write_map(path: Path, depth: DepthMap) -> None:
    """Write a map under a name without suffix, which may have dots in it."""
    write_pfm(f"{path}.pfm", depth.values)
    write_npy(f"{path}.npy", depth.values.numpy())
