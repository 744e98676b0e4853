"""A posed scene in memory: square images of one size, their cameras, and where the voxel grid is."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deepvoxels.config import DataConfig, TrainConfig, VolumeConfig
from deepvoxels.datasets.embedded import DEPTH_BACKGROUND, DEPTH_UNIT, make_embedded_scene
from deepvoxels.datasets.layouts import Listing, View, list_views, split_views
from deepvoxels.datasets.volume_fit import Volume, depth_range, fit_volume, visible_share
from shared.errors import DataError
from shared.files.cameras import DeepVoxelsIntrinsics
from shared.files.images import read_image, undistort_image
from shared.files.maps import read_depth_png
from shared.geometry.camera import (
    crop_intrinsics,
    pixel_grid,
    resize_intrinsics,
    unproject,
)
from shared.show.pictures import evenly

__all__ = ["PosedScene", "check_scene", "load_previewed", "load_scene", "load_views"]
__all__ += ["nearest_neighbour", "nearest_views"]

DEFAULT_NEAR = math.sqrt(3) / 2  # of the released code, where intrinsics.txt says 0
WHITE = (1.0, 1.0, 1.0)
PREVIEWED = 6  # views


@dataclass(frozen=True)
class PosedScene:
    """N views of one scene, square, S pixels a side."""

    path: Path
    layout: str
    names: list[str]
    images: Tensor  # uint8 [N, 3, S, S], RGB
    world_from_cam: Tensor  # float32 [N, 4, 4], OpenCV axes
    K: Tensor  # float32 [N, 3, 3] at S pixels
    grid_origin: tuple[float, float, float]  # the grid's middle in world coordinates
    grid_side_length: float  # scene units
    near: float  # z-depth of the first depth plane
    far: float  # largest z-depth of the grid over all views
    depth: Tensor | None = None  # float32 [N, S, S], z-depth in scene units
    depth_valid: Tensor | None = None  # bool [N, S, S]
    blind_views: tuple[str, ...] = ()  # views that show no voxel
    notes: tuple[str, ...] = ()  # what was left out or assumed

    def __len__(self) -> int:
        return len(self.names)

    @property
    def image_side(self) -> int:
        """S, pixels."""
        return self.images.shape[-1]

    def subset(self, indices: Sequence[int] | Tensor) -> "PosedScene":
        """The scene with these views only; grid and notes stay."""
        index = torch.as_tensor(indices)
        names = [self.names[i] for i in index.tolist()]
        return replace(
            self,
            names=names,
            images=self.images[index],
            world_from_cam=self.world_from_cam[index],
            K=self.K[index],
            depth=None if self.depth is None else self.depth[index],
            depth_valid=None if self.depth_valid is None else self.depth_valid[index],
            blind_views=tuple(name for name in self.blind_views if name in names),
        )

    def image(self, index: int) -> Tensor:
        """View `index` as float32 [3, S, S] in [0, 1]."""
        return self.batch([index])[0]

    def batch(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Views `indices` as float32 [len(indices), 3, S, S] in [0, 1]."""
        return self.images[torch.as_tensor(indices)].to(torch.float32) / 255


def load_views(
    config: TrainConfig, say: Callable[[str], None] = lambda text: None
) -> tuple[PosedScene, PosedScene]:
    """Load the training and the test views, both with the grid of the training views.

    An embedded scene is rendered first, which `say` is told. Raises DataError for what is missing or broken,
    and for fewer training views than have `nearest_sources` neighbours.
    """
    data, side = config.data, config.model.image_side
    common = {"layout": data.layout, "image_side": side, "intrinsics_rule": data.intrinsics}
    common |= {"images_outside": data.images_outside}
    train_path, test_path = _folders(data, say)
    same = train_path == test_path
    train = load_scene(train_path, split="train" if same else "all", sampling=data.sampling, **common)
    test = load_scene(test_path, split="test" if same else "all", **common)
    if len(train) <= config.nearest_sources:
        reason = f"{len(train)} training views have no {config.nearest_sources} neighbours each"
        raise DataError(train_path, reason, "Add views, or lower nearest_sources")
    if 0 < config.evaluate_views < len(test):
        test = test.subset(evenly(len(test), config.evaluate_views))
    train = _with_volume(train, config.volume)
    return train, _on_grid(test, train)


def load_previewed(config: TrainConfig, train: PosedScene, test: PosedScene) -> PosedScene:
    """The few views by which a run shows its progress: of validation where there are any, else of test."""
    folder = train.path.parents[1] / "validation" / train.path.name
    if not config.data.scene or not folder.is_dir():
        return test.subset(evenly(len(test), PREVIEWED))
    common = {"layout": config.data.layout, "intrinsics_rule": config.data.intrinsics}
    views = load_scene(folder, image_side=train.image_side, **common)
    return _on_grid(views.subset(evenly(len(views), PREVIEWED)), train)


def _on_grid(views: PosedScene, like: PosedScene) -> PosedScene:
    grid = {name: getattr(like, name) for name in ("grid_origin", "grid_side_length", "near", "far")}
    return replace(views, **grid)


def _folders(data: DataConfig, say: Callable[[str], None]) -> tuple[Path, Path]:
    """Folders of the training and the test views; the same one where a layout keeps both together."""
    root = Path(data.root)
    if data.embedded is not None:
        made = make_embedded_scene(root, data.scene, data.embedded, say)
        return made.train, made.test
    if not data.scene:
        return root, root
    train, test = root / "train" / data.scene, root / "test" / data.scene
    for folder in (train, test):
        if not folder.is_dir():
            remedy = f"`python -m deepvoxels.prepare check {root}` says what is missing and where to get it"
            raise DataError(folder, "the folder does not exist", remedy)
    return train, test


def _with_volume(scene: PosedScene, volume: VolumeConfig) -> PosedScene:
    """The scene with the configured grid and depth planes."""
    origin = volume.origin or scene.grid_origin
    side_length = volume.side_length or scene.grid_side_length
    near, far = scene.near, scene.far
    if volume.fit_planes or (origin, side_length) != (scene.grid_origin, scene.grid_side_length):
        try:
            nearest, far = depth_range(scene.world_from_cam, origin, side_length)
        except ValueError as error:
            raise DataError(scene.path, str(error), "Check volume.origin and volume.side_length") from None
        near = nearest if volume.fit_planes else near
    near = volume.near or near
    return check_scene(replace(scene, grid_origin=origin, grid_side_length=side_length, near=near, far=far))


def load_scene(
    path: str | os.PathLike,
    layout: str = "auto",
    *,
    image_side: int,
    split: str = "all",
    sampling: str = "all",
    intrinsics_rule: str = "half_pixel",
    images_outside: bool = False,
) -> PosedScene:
    """Load a scene in one of the layouts of `deepvoxels.datasets.layouts`.

    Images are undistorted, cut to the square in their middle and area-averaged to `image_side`; transparency
    becomes white. `split` "train" and "test" part the views by the layout's own test file or, where
    there is none, hold out every 8th; `sampling` "skip_n" then keeps every (n+1)-th. The grid is the file's,
    or fitted to the views of all splits. `intrinsics_rule` "released" scales the principal point without
    the half-pixel term, as the released code does. `images_outside`: a transforms.json may name images
    outside of its folder. Raises DataError, naming the file.
    """
    path = Path(path)
    step = 1 if sampling == "all" else int(sampling.removeprefix("skip_")) + 1
    listing = list_views(path, layout, images_outside=images_outside)
    if intrinsics_rule == "released" and listing.intrinsics is None:
        reason = f"the released intrinsics rule is for the layout deepvoxels only, this is {listing.layout}"
        raise DataError(path, reason, "Set data.intrinsics=half_pixel")
    square_K = _square_intrinsics(listing.views)
    volume, notes = _volume(path, listing, square_K, image_side)

    views = split_views(listing, split)[::step]
    if not views:
        raise DataError(path, f"the split {split!r} has no views", "Add views or use another split")
    images = [_load_image(view, square_K[view.name], image_side) for view in views]
    depth, depth_valid = _load_depth(views, image_side)
    if intrinsics_rule == "released":
        K = _released_intrinsics(listing.intrinsics, image_side).expand(len(views), -1, -1)
    else:
        K = torch.stack([_at_side(square_K[view.name], view, image_side) for view in views])
    scene = PosedScene(
        path=path,
        layout=listing.layout,
        names=[view.name for view in views],
        images=torch.stack(images),
        world_from_cam=torch.stack([view.world_from_cam for view in views]).to(torch.float32),
        K=K.to(torch.float32).contiguous(),
        grid_origin=volume.origin,
        grid_side_length=volume.side_length,
        near=volume.near,
        far=volume.far,
        depth=depth,
        depth_valid=depth_valid,
        notes=listing.notes + notes,
    )
    return check_scene(scene)


def check_scene(scene: PosedScene) -> PosedScene:
    """Check that grid and cameras belong together; returns the scene with `blind_views` filled in.

    Raises DataError for a grid without size or with its far end before `near`, and when no view at all shows
    a voxel.
    """
    count, side = len(scene), scene.image_side
    numbers = (*scene.grid_origin, scene.grid_side_length, scene.near, scene.far)
    if not all(map(math.isfinite, numbers)) or scene.grid_side_length <= 0 or not 0 < scene.near < scene.far:
        grid = f"the grid has origin {scene.grid_origin} and side {scene.grid_side_length:g}"
        reason = f"{grid}, its depth runs from near {scene.near:g} to {scene.far:g}"
        remedy = "Near must be before the grid's far end: check scale, near and the unit of the poses"
        raise DataError(scene.path, reason, remedy)
    shares = visible_share(scene.world_from_cam, scene.K, side, scene.grid_origin, scene.grid_side_length)
    blind = tuple(name for name, share in zip(scene.names, shares.tolist(), strict=True) if share == 0)
    if len(blind) == count:
        remedy = "Poses are camera to world with z forward; check them and the grid's origin and scale"
        raise DataError(scene.path, f"the grid is outside all of the {count} views", remedy)
    return replace(scene, blind_views=blind)


def nearest_views(world_from_cam: Tensor, count: int) -> Tensor:
    """For each camera [N, 4, 4] the `count` others with the most similar viewing direction, best first.

    The measure is the cosine between optical axes, as in the released code; positions play no part.
    Returns int64 [N, count].
    """
    cosines = _viewing_cosines(world_from_cam, world_from_cam)
    cosines.fill_diagonal_(-torch.inf)
    return cosines.topk(count, dim=1).indices


def nearest_neighbour(known: Tensor, asked: Tensor) -> Tensor:
    """For each camera `asked` [N, 4, 4] the index [N] of the `known` one [M, 4, 4] that looks most alike.

    The released helper compares positions as seen from the world's origin instead; for cameras that look at
    the origin, as those of the paper's scenes do, this is the same.
    """
    return _viewing_cosines(asked, known).argmax(dim=1)


def _viewing_cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine between the optical axes of each camera of `a` and each of `b`: [N, M]."""
    axes = [torch.nn.functional.normalize(cameras[:, :3, 2], dim=1) for cameras in (a, b)]
    return axes[0] @ axes[1].T


# ---- loading, step by step ---------------------------------------------------------------------------------


def _square_intrinsics(views: list[View]) -> dict[str, Tensor]:
    """By view name, K of the undistorted square in the middle of the full-size image, float64 [3, 3]."""
    found: dict[str, Tensor] = {}
    known: dict[tuple, Tensor] = {}  # most scenes have one camera
    for view in views:
        key = (view.height, view.width, *view.K.flatten().tolist(), *view.distortion.tolist())
        if key not in known:
            side = min(view.height, view.width)
            left, top = (view.width - side) // 2, (view.height - side) // 2
            known[key] = _zoom_until_filled(view, crop_intrinsics(view.K, left, top), side)
        found[view.name] = known[key]
    return found


def _zoom_until_filled(view: View, K: Tensor, side: int) -> Tensor:
    """K with the focal lengths prolonged, in steps of 0.5 %, until the photo covers every pixel."""
    if not bool(view.distortion.any()):
        return K
    import cv2

    grid = pixel_grid(side, side, dtype=torch.float64)
    border = torch.cat([grid[0], grid[-1], grid[:, 0], grid[:, -1]])
    last = K.new_tensor([view.width - 1, view.height - 1])
    for percent in range(0, 101):
        zoomed = K.clone()
        zoomed[0, 0] *= 1 + percent / 200
        zoomed[1, 1] *= 1 + percent / 200
        ideal = unproject(border, border.new_ones(len(border)), zoomed).numpy()
        still = np.zeros(3)
        distorted, _ = cv2.projectPoints(ideal, still, still, view.K.numpy(), view.distortion.numpy())
        pixels = torch.from_numpy(distorted[:, 0])
        if bool(((pixels >= -0.5) & (pixels <= last + 0.5)).all()):
            return zoomed
    reason = f"the distortion {view.distortion.tolist()} leaves no usable square"
    raise DataError(view.image_path, reason, "Check k1 k2 p1 p2, or undistort the images first")


def _at_side(square_K: Tensor, view: View, image_side: int) -> Tensor:
    side = min(view.height, view.width)
    return resize_intrinsics(square_K, (side, side), (image_side, image_side))


def _released_intrinsics(intrinsics: DeepVoxelsIntrinsics, image_side: int) -> Tensor:
    """K [3, 3] as the released code has it: everything times a ratio, no half pixel."""
    i = intrinsics
    focal = i.focal_px * image_side / i.sensor_height
    cx, cy = i.cx_px * image_side / i.sensor_width, i.cy_px * image_side / i.sensor_height
    return torch.tensor([[focal, 0, cx], [0, focal, cy], [0, 0, 1]], dtype=torch.float64)


def _volume(
    path: Path, listing: Listing, square_K: dict[str, Tensor], image_side: int
) -> tuple[Volume, tuple[str, ...]]:
    """Grid and depth range, from intrinsics.txt or fitted, and what was assumed."""
    poses = torch.stack([view.world_from_cam for view in listing.views])
    try:
        if listing.intrinsics is None:
            K = torch.stack([_at_side(square_K[view.name], view, image_side) for view in listing.views])
            return fit_volume(poses, K, image_side, listing.points), ()
        origin, side_length = listing.intrinsics.grid_origin, listing.intrinsics.grid_side_length
        near, far = depth_range(poses, origin, side_length)
    except ValueError as error:
        raise DataError(path, str(error), "Check the poses: camera to world, z forward") from None
    notes = ()
    if listing.intrinsics.near is None:
        notes = (f"intrinsics.txt has no near plane: {near:.4g}, where the grid begins, is taken",)
    elif listing.intrinsics.near == 0:
        near = DEFAULT_NEAR
        notes = (f"near is 0 in intrinsics.txt: the released default {near:.4g} is taken",)
    else:
        near = listing.intrinsics.near
    return Volume(origin, side_length, near, far), notes


def _load_image(view: View, square_K: Tensor, image_side: int) -> Tensor:
    """Read, undistort, cut and resize one view: uint8 [3, S, S]."""
    image = read_image(view.image_path, background=WHITE, orientation=view.orientation)
    side = min(view.height, view.width)
    if bool(view.distortion.any()):
        image, _ = undistort_image(image, view.K, view.distortion, square_K, (side, side))
    else:
        image = _middle_square(image)
    pixels = image.permute(1, 2, 0).numpy()
    if side != image_side:  # area average; enlarging is bilinear
        import cv2

        interpolation = cv2.INTER_AREA if side > image_side else cv2.INTER_LINEAR
        pixels = cv2.resize(pixels, (image_side, image_side), interpolation=interpolation)
    return torch.from_numpy(pixels).permute(2, 0, 1).mul(255).round().to(torch.uint8)


def _middle_square(maps: Tensor) -> Tensor:
    """[..., H, W] -> [..., m, m] with m = min(H, W)."""
    height, width = maps.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return maps[..., top : top + side, left : left + side]


def _load_depth(views: list[View], image_side: int) -> tuple[Tensor | None, Tensor | None]:
    """Depth float32 and its mask bool, [N, S, S], of the nearest pixels; None where there is no depth."""
    if any(view.depth_path is None for view in views):
        return None, None
    depths, masks = [], []
    for view in views:
        depth, valid = read_depth_png(view.depth_path, unit_m=DEPTH_UNIT, invalid=(DEPTH_BACKGROUND,))
        if depth.shape != (view.height, view.width):
            reason = f"is {depth.shape[1]} x {depth.shape[0]} pixels, its image {view.width} x {view.height}"
            raise DataError(view.depth_path, reason, "Depth maps have the size of the images")
        depth, valid = _middle_square(depth), _middle_square(valid)
        nearest = ((torch.arange(image_side) + 0.5) * (len(depth) / image_side)).long()
        depths.append(depth[nearest][:, nearest])
        masks.append(valid[nearest][:, nearest])
    return torch.stack(depths), torch.stack(masks)
