"""One's own posed images: a folder with a transforms.json (NeRF's layout, as COLMAP converters write it)."""

from pathlib import Path

import torch

from nvs_depth.datasets.views import Framing, ViewSet
from shared.errors import DataError
from shared.files.cameras import read_nerf_transforms

__all__ = ["load_posed"]


def load_posed(folder: Path, framing: Framing, units_per_scene_unit: float = 1.0) -> ViewSet:
    """All frames of a transforms.json as one group, in the order of the file; depth is not read.

    units_per_scene_unit: factor on all translations, to bring depths into the range of the network (objects:
    about 1 to 3; scenes: 0.1 to 100). Lens distortion is undone. DataError if sizes of images differ.
    """
    path = folder / "transforms.json"
    listing = read_nerf_transforms(path)
    sizes = {(frame.height, frame.width) for frame in listing.frames}
    if len(sizes) > 1:
        raise DataError(
            path, f"the images have {len(sizes)} sizes", "Scale them to one size, with fl_x ... to match"
        )
    if not units_per_scene_unit > 0:
        raise ValueError(f"units_per_scene_unit must be positive, got {units_per_scene_unit}")
    frames = listing.frames
    poses = torch.stack([frame.world_from_cam for frame in frames])
    poses[:, :3, 3] *= units_per_scene_unit
    notes = (f"{len(listing.missing)} images of transforms.json are missing",) if listing.missing else ()
    return ViewSet(
        path=folder,
        layout="posed",
        framing=framing,
        names=[frame.name for frame in frames],
        groups=["scene"] * len(frames),
        images=[frame.image_path for frame in frames],
        world_from_cam=poses,
        K_stored=torch.stack([frame.K for frame in frames]),
        stored_hw=sizes.pop(),
        coordinates=torch.tensor([(index, 0) for index in range(len(frames))]),
        distortion=torch.stack([frame.distortion for frame in frames]),
        notes=notes,
    )
