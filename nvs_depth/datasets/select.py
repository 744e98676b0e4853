"""The training and test pairs that a configuration asks for."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from nvs_depth.datasets.embedded import make_embedded, street_crop
from nvs_depth.datasets.kitti import (
    CROP_256,
    RAW_HW,
    load_kitti_odometry,
    load_kitti_odometry_flat,
    load_kitti_raw,
    read_frame_list,
)
from nvs_depth.datasets.options import DataConfig
from nvs_depth.datasets.pairs import PairSet, find_pairs
from nvs_depth.datasets.posed import load_posed
from nvs_depth.datasets.shapenet import load_shapenet, load_shapenet_flat
from nvs_depth.datasets.views import Framing, ViewSet
from shared.errors import DataError
from shared.files.images import survey_photos
from shared.runs.seeds import step_generator

__all__ = ["Split", "load_split", "load_views", "where_to_get"]


def where_to_get(layout: str) -> str:
    """A sentence on where the data of a layout are."""
    if layout == "posed":
        return "Write a transforms.json as NeRF has it, or let `prepare.py colmap` make one from your photos"
    return f"`python -m nvs_depth.prepare fetch {layout}` says where they are"


class Split(NamedTuple):
    """What is trained on and what is measured; `test_pairs` [m, 2] index the views of `test`."""

    train: PairSet
    test: PairSet
    test_pairs: Tensor
    notes: tuple[str, ...]


def load_split(
    config: DataConfig,
    image_side: int,
    evaluate_pairs: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> Split:
    """Training pairs, and `evaluate_pairs` (0: all) test pairs from the published list or drawn once.

    Embedded data are rendered first. Raises DataError for what is missing or broken.
    """
    root = Path(config.root)
    if config.embedded is not None:
        root = make_embedded(root, config.embedded, config.layout, say)
    elif config.train_list or config.test_list or config.test_pairs:
        return _listed_split(config, image_side, root, evaluate_pairs)
    views = load_views(config, image_side, root)
    held = _held_out(views, config)
    train = find_pairs(views, config.pairs, ~held, ~held)
    # Groups: both views of a test pair are new. Coordinates: the target is, the source may be known.
    by_group = config.embedded is not None or (config.holdout == "groups" and not views.held_out)
    test = find_pairs(views, config.pairs, held if by_group else ~held, held)
    return _finish(train, test, None, evaluate_pairs, views.notes)


def load_views(config: DataConfig, image_side: int, root: Path | None = None) -> ViewSet:
    """All views below `root` (default: the configured one)."""
    root = Path(config.root) if root is None else root
    if not root.is_dir():
        remedy = f"Check data.root, or get the data. {where_to_get(config.layout)}"
        raise DataError(root, "the folder does not exist", remedy)
    framing = _framing(config, image_side)
    if config.layout == "shapenet":
        views = load_shapenet(root, framing, config.pose_files, config.depth_files == "ray_length")
    elif config.layout == "shapenet_flat":
        views = load_shapenet_flat(root, framing, config.focal_share)
    elif config.layout == "kitti_raw":
        views = load_kitti_raw(root, framing, config.principal_point)
    elif config.layout == "kitti_odometry":
        views = load_kitti_odometry(root, framing)
    elif config.layout == "kitti_odometry_flat":
        views = load_kitti_odometry_flat(root, framing)
    else:
        options = {"images_outside": config.images_outside, "background": _name(config.background)}
        views = load_posed(root, framing, config.scale, **options)
    views.cache_mb, views.background = config.cache_mb, config.background
    if config.layout != "posed":  # whose photos may differ; renders and frames are all alike
        views.notes += survey_photos(views.images[:1], [None], background=_name(config.background)).notes
    return views


def _name(background: tuple[float, float, float] | None) -> str:
    """What a colour is called in a note; "" for none."""
    if background is None:
        return ""
    shades = ", ".join(f"{value:g}" for value in background)
    return {"0, 0, 0": "black", "1, 1, 1": "white"}.get(shades, f"RGB {shades}")


def _framing(config: DataConfig, image_side: int) -> Framing:
    if config.embedded is not None and config.embedded.kind == "street":
        return Framing(image_side, crop=street_crop(config.embedded.image_side), method=config.resize)
    if config.crop_square is not None:
        return Framing(image_side, crop=tuple(config.crop_square), method=config.resize)
    if config.crop == "kitti":
        return Framing(image_side, resize_hw=RAW_HW, crop=CROP_256, method=config.resize)
    return Framing(image_side, method=config.resize)


def _held_out(views: ViewSet, config: DataConfig) -> Tensor:
    """Mask [N] of embedded or named test views, every n-th group, or every n-th azimuth or frame number."""
    if config.embedded is not None:
        return torch.tensor([group in config.embedded.names[1] for group in views.groups])
    if views.held_out:
        return torch.tensor([name in views.held_out for name in views.names])
    if config.holdout == "groups":
        values = views.groups
    else:
        values = views.coordinates[:, 0].tolist()
    distinct = sorted(set(values))
    if len(distinct) < 2:
        reason = f"has only one of the {config.holdout} to hold out"
        raise DataError(views.path, reason, "Set data.holdout to the other of groups and coordinates")
    every = min(config.holdout_every, len(distinct))
    held = set(distinct[every // 2 :: every])
    return torch.tensor([value in held for value in values])


def _listed_split(config: DataConfig, image_side: int, root: Path, evaluate_pairs: int) -> Split:
    """Published lists. Frames (with a slash) choose views, other names choose groups."""
    notes: list[str] = []
    views = load_views(config, image_side, root)
    train_names = _first_words(root, config.train_list)
    test_names = _first_words(root, config.test_list)
    if train_names and config.validation_list:
        validation = set(_first_words(root, config.validation_list))
        kept = [name for name in train_names if name not in validation]
        if len(kept) < len(train_names):  # of the published list 1,746 of the 1,776 validation frames
            dropped = len(train_names) - len(kept)
            notes.append(f"left out of training: {dropped} of its frames that are in the validation list")
        train_names = kept
    pairs = read_frame_list(root / config.test_pairs) if config.test_pairs else None
    train_mask = _mask(views, train_names)
    if pairs is not None:
        test_mask = torch.zeros(len(views), dtype=torch.bool)
        index_of = {name: index for index, name in enumerate(views.names)}
        unknown = next((name for pair in pairs for name in pair if name not in index_of), None)
        if unknown is not None:
            remedy = f"Names look like {views.names[0]!r}; `prepare.py check` says what is missing"
            raise DataError(views.path, f"there is no view named {unknown!r}", remedy)
        indices = torch.tensor([[index_of[name] for name in pair] for pair in pairs])
        if indices.shape[1] != 2:
            raise DataError(
                root / config.test_pairs, "lines are not `source target`", "Write two names per line"
            )
        test_mask[indices.flatten()] = True
    else:
        indices, test_mask = None, _mask(views, test_names) if test_names else ~train_mask
    shared = int((train_mask & test_mask).sum())
    if shared:
        notes.append(f"{shared} views of the test were also in the training list and are not trained on")
        train_mask &= ~test_mask
    train = find_pairs(views, config.pairs, train_mask, train_mask)
    if indices is None:
        test = find_pairs(views, config.pairs, test_mask, test_mask)
    else:
        test = PairSet(views, indices[:, 0], indices[:, 1:])
    return _finish(train, test, indices, evaluate_pairs, (*views.notes, *notes))


def _first_words(root: Path, name: str) -> list[str]:
    if not name:
        return []
    words = [row[0] for row in read_frame_list(root / name)]
    return [w if "/" not in w or Path(w).suffix else f"{w}.png" for w in words]


def _mask(views: ViewSet, names: list[str]) -> Tensor:
    """Views named in a list, by themselves or by their group; no list: all."""
    if not names:
        return torch.ones(len(views), dtype=torch.bool)
    wanted = set(names)
    mask = torch.tensor([n in wanted or g in wanted for n, g in zip(views.names, views.groups, strict=True)])
    if not mask.any():
        raise DataError(
            views.path, f"holds nothing of the list, such as {names[0]!r}", "Check list and folder"
        )
    return mask


def _finish(
    train: PairSet, test: PairSet, pairs: Tensor | None, evaluate_pairs: int, notes: tuple[str, ...]
) -> Split:
    if pairs is None:
        pairs = test.draw(step_generator(0, 0, "test pairs"))
    if evaluate_pairs and len(pairs) > evaluate_pairs:
        order = torch.randperm(len(pairs), generator=step_generator(0, 0, "test subset"))
        pairs = pairs[order[:evaluate_pairs].sort().values]
    return Split(train, test, pairs, notes)
