"""A finished map on its way out: files with unit, scale status and validity, and a point cloud.

NAME_disparity.pfm/.npy   light field: px between neighbouring views
NAME_depth.pfm/.npy       z-depth: metres where the camera is known, else scene units of the poses
NAME_valid.png            white where another view sees the pixel, so that the map could be checked there
NAME.png  NAME.ply        in colour with legend; as coloured points
NAME.json                 what the numbers mean
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffdiffdepth.datasets import HciParameters
from diffdiffdepth.losses import warp_to_centre
from diffdiffdepth.report import map_status
from diffdiffdepth.scene import LightField, MultiViewScene
from shared.files.disk import write_bytes, write_json
from shared.files.images import encode_png, write_image, write_npy, write_pfm, write_ply
from shared.geometry.camera import pixel_grid, transform_points, unproject
from shared.show.pictures import depth_picture

__all__ = ["cloud_in_picture", "export_map", "seen_pixels"]


def export_map(
    folder: str | Path,
    name: str,
    scene: LightField | MultiViewScene,
    dense: Tensor,
    camera: HciParameters | None = None,
    world_from_centre: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Write all files of a map [H, W] and return its point cloud [n, 3] with colours [n, 3].

    `camera` turns a light field's disparity into metres. The cloud is in the camera's coordinates, or in
    those of the model if `world_from_centre` [4, 4] is given; of a light field without a camera it is a
    relief in picture coordinates.
    """
    folder = Path(folder)
    valid = seen_pixels(scene, dense)
    status = map_status(scene)
    is_light_field = isinstance(scene, LightField)
    record = {
        "name": scene.name,
        "size": list(dense.shape),
        "valid_share": valid.float().mean().item(),
        "valid": "seen by at least one other view",
        "pixel_origin": "(0, 0) is the centre of the top-left pixel",
    }
    if is_light_field:
        _write_map(folder / f"{name}_disparity", dense)
        record["disparity"] = {"unit": "px", "status": status["status"]}
        depth = None if camera is None else camera.depth_from_disparity(dense)
        meaning = {"unit": "m", "status": "z-depth, metric"} if camera else None
        missing = (
            "unknown: without parameters.cfg disparity fixes depth only up to scale and offset of 1 / depth"
        )
    else:
        depth, meaning, missing = dense, status, ""
    record["depth"] = meaning or missing
    if depth is not None:
        _write_map(folder / f"{name}_depth", depth)
    picture = depth_picture(dense, valid, **status, grey="seen by no other view, not checked")
    write_bytes(folder / f"{name}.png", encode_png(picture))
    write_image(folder / f"{name}_valid.png", valid[None].float().expand(3, -1, -1))

    keep = valid if depth is None else valid & depth.isfinite()
    colours = scene.centre.permute(1, 2, 0)[keep]
    if depth is None:
        points = cloud_in_picture(dense)[keep]
        record["cloud"] = "relief: x, y in px, z = -disparity times a twentieth of the width"
    else:
        K = camera.K.to(depth) if is_light_field else scene.centre_K.to(depth)
        points = unproject(pixel_grid(*dense.shape, dense.device, dense.dtype), depth, K)[keep]
        record["cloud"] = "camera coordinates, x right, y down, z forward"
        if world_from_centre is not None:
            points = transform_points(world_from_centre.to(points), points)
            record["cloud"] = "coordinates of the model"
    write_ply(folder / f"{name}.ply", points, colours)
    write_json(folder / f"{name}.json", record)
    return points, colours


@torch.no_grad()
def seen_pixels(scene: LightField | MultiViewScene, dense: Tensor) -> Tensor:
    """Pixels [H, W] of the centre that at least one other view sees, going by the map itself."""
    seen = torch.zeros_like(dense, dtype=torch.bool)
    for index in range(len(scene.views)):  # one by one: a light field has 80
        _, visible = warp_to_centre(scene, dense, torch.tensor([index]))
        seen |= visible[0, 0].bool()
    return seen


def cloud_in_picture(disparity: Tensor) -> Tensor:
    """Points [H, W, 3] (x, y, -disparity stretched): the shape without claiming a camera."""
    grid = pixel_grid(*disparity.shape, disparity.device, disparity.dtype)
    return torch.cat([grid, -disparity[..., None] * disparity.shape[1] / 20], dim=-1)


def _write_map(path: Path, values: Tensor) -> None:
    """Write a map under a name without suffix, which may have dots in it."""
    write_pfm(f"{path}.pfm", values)
    write_npy(f"{path}.npy", values.detach().cpu().numpy().astype(np.float32))
