"""The three layouts a posed scene may have on disk, each as the same list of views.

    deepvoxels   intrinsics.txt, rgb/NAME.png, pose/NAME.txt, optionally depth/NAME.png  (the released scenes)
    nerf         transforms.json next to its images, or transforms_{train,val,test}.json
    colmap       a sparse model (in sparse/0, sparse or the folder itself) and the photos in images/

The released code pairs images and poses by their order; here they are paired by name.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from shared.errors import DataError
from shared.files.cameras import (
    DeepVoxelsIntrinsics,
    read_deepvoxels_intrinsics,
    read_nerf_scene,
    read_pose,
)
from shared.files.colmap import find_colmap_model, read_colmap_model
from shared.files.disk import visible
from shared.files.images import survey_photos
from shared.files.listing import left_out_note, list_images

__all__ = ["Listing", "View", "find_layout", "list_views", "split_views"]

HELD_OUT_EVERY = 8  # where a layout has no test views of its own, views 0, 8, 16, ... are held out
NO_DISTORTION = torch.zeros(4, dtype=torch.float64)


@dataclass(frozen=True)
class View:
    """One posed image on disk; `K` and `distortion` (k1 k2 p1 p2) belong to its full size."""

    name: str
    image_path: Path
    height: int
    width: int
    world_from_cam: Tensor  # float64 [4, 4], OpenCV axes
    K: Tensor  # float64 [3, 3], pixel centres at integers
    distortion: Tensor  # float64 [4]
    depth_path: Path | None = None
    orientation: int = 1  # for `read_image`


@dataclass(frozen=True)
class Listing:
    """Everything a folder says about its scene, images unread."""

    layout: str
    views: list[View]  # of all splits, in the order of their names
    test_names: frozenset[str]
    intrinsics: DeepVoxelsIntrinsics | None = None  # only in the layout deepvoxels
    points: Tensor | None = None  # float64 [M, 3], only in the layout colmap
    notes: tuple[str, ...] = ()  # what was left out and why


def find_layout(path: Path) -> str:
    """The layout of a scene, by what is there; DataError when it is none of the three."""
    if (path / "intrinsics.txt").is_file():
        return "deepvoxels"
    if path.suffix.lower() == ".json" or any(
        (path / f"transforms{end}.json").is_file() for end in ("", "_train")
    ):
        return "nerf"
    if find_colmap_model(path) is not None:
        return "colmap"
    if not path.is_dir():
        raise DataError(path, "the folder does not exist", "Check the path and the name")
    if not any(path.iterdir()):
        raise DataError(path, "the folder is empty", "Put a scene there, or let prepare.py make one")
    reason = "holds no posed scene (no intrinsics.txt, transforms.json, or COLMAP model in sparse/0)"
    remedy = "For bare photos run: python -m deepvoxels.prepare colmap IMAGES --out DIR"
    raise DataError(path, reason, remedy)


def list_views(path: Path, layout: str = "auto", *, images_outside: bool = False) -> Listing:
    """List the views of a scene; `layout`: auto, deepvoxels, nerf or colmap. DataError for bad files.

    images_outside: a transforms.json may name images outside of its folder.
    """
    if layout == "auto":
        layout = find_layout(path)
    if layout == "nerf":
        return _list_nerf(path, images_outside)
    return _list_deepvoxels(path) if layout == "deepvoxels" else _list_colmap(path)


def split_views(listing: Listing, split: str) -> list[View]:
    """The views of "all", "train" or "test"."""
    if split == "all":
        return listing.views
    return [view for view in listing.views if (view.name in listing.test_names) == (split == "test")]


def _every_eighth(views: list[View]) -> frozenset[str]:
    return frozenset(view.name for view in views[::HELD_OUT_EVERY])


# ---- deepvoxels --------------------------------------------------------------------------------------------


def _list_deepvoxels(path: Path) -> Listing:
    intrinsics = read_deepvoxels_intrinsics(path / "intrinsics.txt")
    pictures, left_out = list_images(path / "rgb")
    images, poses = _by_stem(pictures), _by_stem(_listed(path / "pose", ".txt"))
    _require_pairs(path, images, "image", poses, "pose")
    depths = _by_stem(_listed(path / "depth", ".png")) if (path / "depth").is_dir() else {}
    if depths:
        _require_pairs(path, images, "image", depths, "depth map")
    named = sorted(images.items())
    sensor_hw = intrinsics.sensor_height, intrinsics.sensor_width
    survey = survey_photos([image for _, image in named], [sensor_hw] * len(named), background="white")
    size = survey.sizes[0]
    for (_, image), other in zip(named, survey.sizes, strict=True):
        if other != size:
            reason = f"is {other[1]} x {other[0]} pixels, those before it {size[1]} x {size[0]}"
            raise DataError(image, reason, "All images of a scene have one size: convert or remove it")
    K = _full_size_intrinsics(path, intrinsics, size)
    views = [
        View(stem, image, *size, read_pose(poses[stem]), K, NO_DISTORTION, depths.get(stem), orientation)
        for (stem, image), orientation in zip(named, survey.orientations, strict=True)
    ]
    notes = (*survey.notes, *((left_out_note(left_out),) if left_out else ()))
    return Listing("deepvoxels", views, _every_eighth(views), intrinsics, notes=notes)


def _listed(folder: Path, extension: str) -> list[Path]:
    if not folder.is_dir():
        raise DataError(folder, "the folder does not exist", "A scene has rgb/, pose/ and intrinsics.txt")
    found = [path for path in visible(folder) if path.suffix.lower() == extension]
    if not found:
        raise DataError(folder, f"holds no files ({extension})", "Copy the scene again")
    return found


def _by_stem(paths: list[Path]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in paths:
        if path.stem in files:
            raise DataError(path, f"{files[path.stem].name} has the same name", "Remove one of them")
        files[path.stem] = path
    return files


def _require_pairs(path: Path, first: dict, first_kind: str, second: dict, second_kind: str) -> None:
    problems = []
    for here, there, kind in ((first, second, second_kind), (second, first, first_kind)):
        unpaired = sorted(here.keys() - there.keys())
        if unpaired:
            names = ", ".join(unpaired[:5]) + (", ..." if len(unpaired) > 5 else "")
            problems.append(f"{len(unpaired)} without {kind}: {names}")
    if problems:
        counts = f"{len(first)} {first_kind}s and {len(second)} {second_kind}s do not pair by name"
        raise DataError(path, f"{counts} ({'; '.join(problems)})", "Add what is missing or remove the others")


def _full_size_intrinsics(path: Path, intrinsics: DeepVoxelsIntrinsics, size: tuple[int, int]) -> Tensor:
    """K of the full image from the reference sensor of intrinsics.txt.

    The released scenes have a 640 x 480 sensor and square images: the square is the middle of the sensor, so
    f and cy scale by the height, cx by the width. An image of the sensor's own shape is a plain resize of it.
    """
    height, width = size
    i = intrinsics
    off_by_a_pixel = max(i.sensor_height, i.sensor_width)
    same_shape = abs(width * i.sensor_height - height * i.sensor_width) <= off_by_a_pixel
    if height != width and not same_shape:
        reason = f"the sensor is {i.sensor_width} x {i.sensor_height}, the images are {width} x {height}"
        raise DataError(path / "intrinsics.txt", reason, "Images are square or have the sensor's shape")
    scale_x, scale_y = width / i.sensor_width, height / i.sensor_height
    focal = i.focal_px * scale_y
    cx, cy = (i.cx_px + 0.5) * scale_x - 0.5, (i.cy_px + 0.5) * scale_y - 0.5
    return torch.tensor([[focal, 0, cx], [0, focal, cy], [0, 0, 1]], dtype=torch.float64)


# ---- nerf and colmap ---------------------------------------------------------------------------------------


def _list_nerf(path: Path, images_outside: bool) -> Listing:
    found = read_nerf_scene(path, images_outside=images_outside, background="white")
    frames = sorted(found.frames, key=lambda frame: frame.name)
    views = [
        View(
            f.name, f.image_path, f.height, f.width, f.world_from_cam, f.K, f.distortion, None, f.orientation
        )
        for f in frames
    ]
    notes, missing = list(found.notes), found.missing
    if missing:
        notes.append(f"{len(missing)} frames without image left out: {', '.join(missing[:5])}")
    if not found.held_out:
        notes.append(f"no frames are named for the test: every {HELD_OUT_EVERY}th view is held out")
    return Listing("nerf", views, found.held_out or _every_eighth(views), notes=tuple(notes))


def _list_colmap(path: Path) -> Listing:
    model_dir = find_colmap_model(path)
    if model_dir is None:
        raise DataError(path, "holds no COLMAP model", "Put it into sparse/0, next to images/")
    model = read_colmap_model(model_dir)
    image_dir = path / "images"
    if not image_dir.is_dir():
        raise DataError(image_dir, "the folder does not exist", "The photos of a COLMAP model are in images/")
    images = sorted(model.images.values(), key=lambda image: image.name)
    missing = [image.name for image in images if not (image_dir / image.name).is_file()]
    images = [image for image in images if image.name not in missing]
    cameras = [model.cameras[image.camera_id] for image in images]
    paths = [image_dir / image.name for image in images]
    survey = survey_photos(paths, [(c.height, c.width) for c in cameras], background="white")
    views = []
    for image, camera, image_path, hw, turn in zip(
        images, cameras, paths, survey.sizes, survey.orientations, strict=True
    ):
        if hw != (camera.height, camera.width):
            reason = f"is {hw[1]} x {hw[0]} pixels, its camera {camera.width} x {camera.height}"
            raise DataError(image_path, reason, "Use the photos that the model was made from")
        K, distortion = camera.intrinsics(), camera.distortion()
        views.append(View(image.name, image_path, *hw, image.world_from_cam, K, distortion, None, turn))
    if not views:
        reason = f"holds none of the {len(missing)} images of the model, such as {missing[0]!r}"
        raise DataError(image_dir, reason, "Copy the photos there")
    notes = [*model.notes, *survey.notes]
    if missing:
        notes.append(f"{len(missing)} posed images not found, left out: {', '.join(missing[:5])}")
    return Listing("colmap", views, _every_eighth(views), points=model.points.xyz, notes=tuple(notes))
