"""The training and test views that a configuration asks for."""

from dataclasses import replace
from pathlib import Path

from deepvoxels.config import DataConfig, TrainConfig, VolumeConfig
from deepvoxels.datasets.embedded import make_embedded_scene
from deepvoxels.datasets.scene import PosedScene, check_scene, load_scene
from deepvoxels.datasets.volume_fit import depth_range
from shared.errors import DataError
from shared.show.pictures import evenly

__all__ = ["load_views"]


def load_views(config: TrainConfig) -> tuple[PosedScene, PosedScene]:
    """Load the training and the test views, both with the grid of the training views.

    An embedded scene is rendered first. Raises DataError for what is missing or broken, and for fewer
    training views than have `nearest_sources` neighbours.
    """
    data, side = config.data, config.model.image_side
    common = {"layout": data.layout, "image_side": side, "intrinsics_rule": data.intrinsics}
    train_path, test_path = _folders(data)
    same = train_path == test_path
    train = load_scene(train_path, split="train" if same else "all", sampling=data.sampling, **common)
    test = load_scene(test_path, split="test" if same else "all", **common)
    if len(train) <= config.nearest_sources:
        reason = f"{len(train)} training views have no {config.nearest_sources} neighbours each"
        raise DataError(train_path, reason, "Add views, or lower nearest_sources")
    if 0 < config.evaluate_views < len(test):
        test = test.subset(evenly(len(test), config.evaluate_views))
    train = _with_volume(train, config.volume)
    grid = {name: getattr(train, name) for name in ("grid_origin", "grid_side_length", "near", "far")}
    return train, replace(test, **grid)


def _folders(data: DataConfig) -> tuple[Path, Path]:
    """Folders of the training and the test views; the same one where a layout keeps both together."""
    root = Path(data.root)
    if data.embedded is not None:
        options = data.embedded
        made = make_embedded_scene(
            root,
            data.scene,
            image_side=options.image_side,
            train_views=options.train_views,
            validation_views=options.validation_views,
            test_views=options.test_views,
            seed=options.seed,
        )
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
