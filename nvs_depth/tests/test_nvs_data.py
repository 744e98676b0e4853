"""Loaders: true depth carries one view of every layout onto another, and what is wrong with files is said."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from nvs_depth.datasets.embedded import make_embedded
from nvs_depth.datasets.options import DataConfig, EmbeddedConfig, PairOptions
from nvs_depth.datasets.pairs import PairBatch, PairOrder, find_pairs, load_pairs, pair_batches, varied
from nvs_depth.datasets.select import load_split, load_views
from nvs_depth.datasets.shapenet import grid_pose, load_shapenet, view_number
from nvs_depth.datasets.views import Framing
from nvs_depth.prepare import report as prepare_report
from scenes import Scene
from scenes.scene import Item
from scenes.shapes import Box, placed
from scenes.textures import solid
from shared.errors import DataError
from shared.files.images import write_image
from shared.geometry.camera import (
    invert_pose,
    look_at,
    pixel_grid,
    project,
    relative_pose,
    transform_points,
    unproject,
)
from shared.geometry.warp import sample_pixels

SIDE = 32


def plain_street(seed, views, step_m):
    """A few boxes along a road: the shape of a drive, in a fraction of the time of a furnished street."""
    rng = np.random.default_rng(seed)
    items = [Item(Box((200, 200, 0.1), placed((0, 0, -0.1))), solid(0.4, 0.4, 0.4))]
    for x in range(6, 80, 6):
        for side in (-1, 1):
            half = rng.uniform((1.0, 0.6, 1.5), (2.5, 1.5, 3.5))
            colour = rng.uniform(0.1, 0.9, 3)
            items.append(Item(Box(half, placed((x, side * rng.uniform(4, 6), half[2]))), solid(*colour)))
    x = torch.arange(views, dtype=torch.float64) * step_m
    position = torch.stack([x, torch.full_like(x, -1.5), torch.full_like(x, 1.6)], 1)
    ahead = position + torch.tensor([20.0, 0.3, -0.2], dtype=torch.float64)
    return Scene(items, cameras=look_at(position, ahead).float())


@pytest.fixture(scope="session")
def embedded(tmp_path_factory):
    """One object in both layouts, and one drive of two frames, all tiny; made when first asked for."""
    root = tmp_path_factory.mktemp("nvs_embedded")
    chairs = {"train_groups": 1, "test_groups": 1, "image_side": SIDE, "antialias": 1}
    cars = {"kind": "cars", "azimuths_deg": (0, 5, 20, 40), **chairs}
    drives = {"kind": "street", "train_groups": 1, "test_groups": 1, "frames": 2, "step_m": 3.0}
    drives |= {"image_side": 48, "antialias": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scenes.streets.street", plain_street)
        yield {
            "shapenet": (root / "paper", EmbeddedConfig(kind="chairs", **chairs)),
            "shapenet_flat": (root / "flat", EmbeddedConfig(**cars)),
            "kitti_raw": (root / "drives", EmbeddedConfig(**drives)),
        }


def split_of(embedded, layout, image_side=SIDE, **options):
    root, config = embedded[layout]
    pairs = PairOptions(max_gap=1)
    return load_split(
        DataConfig(layout=layout, root=str(root), embedded=config, pairs=pairs, **options), image_side
    )


def reprojection_error(batch, source_from_target=None, K=None):
    """Median relative gap between target points seen in the source and the source's own depth there.

    Computed by hand from points, not by the warps under test; only where the source's surface is close.
    """
    if source_from_target is None:
        source_from_target = invert_pose(batch.target_from_source)
    K = batch.K_source if K is None else K
    side = batch.image_source.shape[-1]
    points = unproject(pixel_grid(side, side), batch.depth_target[:, 0], K)
    pixels, depth = project(transform_points(source_from_target, points), K)
    maps = torch.cat([batch.depth_source, batch.valid_source.float()], 1)
    there, known = sample_pixels(maps, pixels, padding="zeros").unbind(1)
    usable = batch.valid_target[:, 0] & (known > 0.999) & (depth > 0)
    gaps = ((there - depth) / depth)[usable].abs()
    assert len(gaps) > 30
    return gaps.median().item()


@pytest.mark.parametrize(("layout", "close", "wrong"), [
    ("shapenet", 0.02, 0.03), ("shapenet_flat", 0.02, 0.03), ("kitti_raw", 0.01, 0.03),
])  # fmt: skip
def test_true_depth_carries_one_view_onto_another(embedded, layout, close, wrong):
    split = split_of(embedded, layout, 48 if layout == "kitti_raw" else SIDE)
    batch = load_pairs(split.test.views, split.test_pairs[:: max(1, len(split.test_pairs) // 12)])
    if layout == "kitti_raw":  # the road maps onto itself under forward motion in either sense
        batch.valid_target[:, :, 24:] = False
    assert reprojection_error(batch) < close
    # the pose the wrong way round is noticed
    assert reprojection_error(batch, source_from_target=batch.target_from_source) > wrong


@pytest.mark.parametrize("layout", ["shapenet_flat", "kitti_raw"])
def test_mirrored_and_recoloured_pairs_are_pairs_of_a_scene(embedded, layout):
    """Depth still carries one view onto the other, with the right principal point; colours go together."""
    split = split_of(embedded, layout, 48 if layout == "kitti_raw" else SIDE)
    one = load_pairs(split.test.views, split.test_pairs[:1].expand(12, 2))
    one = one._replace(K_source=one.K_source.clone(), K_target=one.K_target.clone())
    if layout == "kitti_raw":
        one.valid_target[:, :, 24:] = False
    batch = varied(one, torch.Generator().manual_seed(0))
    mirrored = (batch.depth_source != one.depth_source).flatten(1).any(1)
    assert 2 < mirrored.sum() < 10
    for kept in (mirrored, ~mirrored):
        part = PairBatch(*(value[kept] for value in batch))
        assert reprojection_error(part) < 0.02
    as_before = {name: getattr(one, name) for name in ("K_source", "K_target", "target_from_source")}
    wrong = PairBatch(*(value[mirrored] for value in batch._replace(**as_before)))
    assert reprojection_error(wrong) > 0.02, "the camera is mirrored too"
    orders = set()
    for index in range(12):
        flipped = one.image_target[index].flip(-1) if mirrored[index] else one.image_target[index]
        order = [int((flipped - colour).abs().sum((1, 2)).argmin()) for colour in batch.image_target[index]]
        assert torch.equal(flipped[order], batch.image_target[index])
        source = one.image_source[index].flip(-1) if mirrored[index] else one.image_source[index]
        assert torch.equal(source[order], batch.image_source[index])
        orders.add(tuple(order))
    assert len(orders) > 2


def test_ray_lengths_taken_for_depth_are_noticed(embedded):
    good = split_of(embedded, "shapenet")
    bad = split_of(embedded, "shapenet", depth_files="z")
    pairs = good.test_pairs[::7]
    one, other = load_pairs(good.test.views, pairs), load_pairs(bad.test.views, pairs)
    difference = (other.depth_target / one.depth_target)[one.valid_target]
    assert difference.min() >= 0.9999
    assert difference.max() > 1.02
    expected = one.depth_target * torch.linalg.norm(
        unproject(pixel_grid(SIDE, SIDE), torch.ones(len(pairs), SIDE, SIDE), one.K_target), dim=-1
    ).unsqueeze(1)
    torch.testing.assert_close(
        other.depth_target[one.valid_target], expected[one.valid_target], rtol=1e-4, atol=1e-4
    )


def test_a_forced_principal_point_is_noticed(embedded):
    true = split_of(embedded, "kitti_raw", 48)
    forced = split_of(embedded, "kitti_raw", 48, principal_point="released")
    assert any("principal point moved" in note for note in forced.test.views.notes)
    torch.testing.assert_close(forced.test.views.K[0, :2, 2], torch.full((2,), 24.0))
    assert (true.test.views.K[0, :2, 2] - 24).abs().min() > 2
    batch = load_pairs(true.test.views, true.test_pairs)
    batch.valid_target[:, :, 24:] = False
    K = forced.test.views.K[batch.indices[:, 1]]
    assert reprojection_error(batch, K=K) > 2 * reprojection_error(batch)


def test_the_check_of_a_drive_sees_translations_in_other_axes(embedded, tmp_path):
    """Sparse depth, in images smaller than those of the check."""
    folder = tmp_path / "drives"
    shutil.copytree(split_of(embedded, "kitti_raw", 48).train.views.path, folder)
    assert "geometry     good" in prepare_report(folder)
    for path in folder.glob("*/poses.txt"):
        rows = [line.split() for line in path.read_text().splitlines()]
        for row in rows:
            row[4], row[8], row[12] = row[8], row[12], row[4]
        path.write_text("\n".join(" ".join(row) for row in rows))
    assert "geometry     BAD" in prepare_report(folder)


def test_released_relative_rotation_is_wrong_above_the_ground():
    """The released loader multiplies world-to-camera rotations as if they were camera-to-world."""
    errors = {}
    for elevations, step in (((0, 0), 20), ((20, 20), 20), ((30, 30), 40), ((0, 30), 20)):
        source, target = grid_pose(40, elevations[0]), grid_pose(40 + step, elevations[1])
        true = relative_pose(source, target)[:3, :3]  # source_from_target
        P_source, P_target = (invert_pose(p)[:3, :3] for p in (source, target))
        released = P_source.T @ P_target
        cosine = ((released.T @ true).trace() - 1) / 2
        # at elevation 0 the released product is the rotation of the opposite sense about the same axis
        opposite = ((released @ true).trace() - 1) / 2
        errors[elevations, step] = math.degrees(torch.acos(torch.maximum(cosine, opposite).clamp(-1, 1)))
    assert errors[(0, 0), 20] < 1e-4
    assert errors[(20, 20), 20] == pytest.approx(6.91, abs=0.01)
    assert errors[(30, 30), 40] == pytest.approx(20.31, abs=0.01)
    assert errors[(0, 30), 20] == pytest.approx(20.31, abs=0.01)


def test_grid_poses_look_at_the_object_from_above():
    for azimuth, elevation in ((0, 0), (40, 10), (200, 30)):
        pose = grid_pose(azimuth, elevation)
        torch.testing.assert_close(pose[:3, 3].norm(), torch.tensor(2.0, dtype=torch.float64))
        torch.testing.assert_close(transform_points(invert_pose(pose), torch.zeros(3, dtype=torch.float64)),
                                   torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64))  # fmt: skip
        assert -pose[1, 3] == pytest.approx(2 * math.sin(math.radians(elevation)))  # the world's y is down
    assert [view_number(0, 0), view_number(0, 30), view_number(20, 0), view_number(340, 30)] == [1, 4, 5, 72]


def test_paper_layout_is_what_is_on_disk(embedded):
    split = split_of(embedded, "shapenet")
    assert len(list((split.train.views.path / "chair_000").glob("color_*.png"))) == 72
    assert len(split.train) == 64  # azimuths 0 to 300, as published
    assert split.train.targets.shape[1] == 8  # two steps, four elevations
    views = split.train.views
    for source, target in split.train.all_pairs().tolist():
        step = views.coordinates[target, 0] - views.coordinates[source, 0]
        assert step in (20, 40)
    assert views.K[0, 0, 0] == pytest.approx(280 / 256 * SIDE)
    assert views.K[0, 0, 2] == pytest.approx((SIDE - 1) / 2)


def test_embedded_data_are_made_once_and_leave_the_random_generators_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("nvs_depth.datasets.embedded.AZIMUTHS", (0, 20))
    config = EmbeddedConfig(train_groups=1, test_groups=1, image_side=16, antialias=1)
    told, states = [], []
    for _ in range(2):
        torch.manual_seed(3)
        np.random.seed(3)  # noqa: NPY002 - the global generator is what must not be touched
        root = make_embedded(tmp_path / "chairs", config, "shapenet_flat", told.append)
        states.append((torch.rand(1).item(), np.random.rand()))  # noqa: NPY002
        files = sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))
    assert len(told) == 1
    assert states[0] == states[1]
    other = make_embedded(tmp_path / "chairs", replace(config, seed=1), "shapenet_flat", told.append)
    assert len(told) == 2
    assert other != root
    assert sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*")) == files


# ---- pairs -------------------------------------------------------------------------------------------------


def test_pairs_redrawn_or_fixed_and_resumed(embedded):
    pairs = split_of(embedded, "shapenet").train
    steps = len(pairs) // 8

    def indices(redraw, start, stop):
        return [b.indices.tolist() for b in pair_batches(PairOrder(pairs, 8, 0, redraw), start, stop)]

    both = indices(False, 0, 2 * steps)
    first, second = ({tuple(p) for b in part for p in b} for part in (both[:steps], both[steps:]))
    assert first == second  # drawn once: another order, the same pairs
    assert both[:steps] != both[steps:]
    redrawn = indices(True, 0, 2 * steps)
    assert {tuple(p) for b in redrawn[:steps] for p in b} != {tuple(p) for b in redrawn[steps:] for p in b}
    assert redrawn[5:] == indices(True, 5, 2 * steps)


def test_processes_share_an_epoch_without_overlap(embedded):
    pairs = split_of(embedded, "shapenet").train
    orders = [PairOrder(pairs, 8, 0, False, rank, 2) for rank in (0, 1)]
    parts = [[pair for batch in order.batches(0, 4) for pair in batch] for order in orders]
    assert len(set(parts[0]) | set(parts[1])) == 64
    assert not set(parts[0]) & set(parts[1])


def test_turns_go_past_the_last_azimuth_only_if_symmetric(embedded):
    views = split_of(embedded, "shapenet_flat").train.views
    views = replace(views, groups=["chair"] * 4, names=list("abcd"))
    views.coordinates = torch.tensor([(340, 0), (0, 0), (20, 10), (180, 0)])
    found = find_pairs(views, PairOptions((20, 40), symmetric=True)).all_pairs().tolist()
    assert found == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    found = find_pairs(views, PairOptions((20, 40), "same", symmetric=True)).all_pairs().tolist()
    assert found == [[0, 1], [1, 0]]
    views.coordinates = torch.tensor([(340, 0), (0, 0), (20, 0), (40, 0)])
    assert find_pairs(views, PairOptions((20, 40))).all_pairs().tolist() == [[1, 2], [1, 3]]


def test_sequence_pairs_look_forward_unless_symmetric(embedded):
    views = split_of(embedded, "kitti_raw", 48).train.views
    views.coordinates = torch.tensor([(3, 0), (5, 0), (90, 0), (99, 0)])
    assert find_pairs(views, PairOptions(max_gap=2)).all_pairs().tolist() == [[0, 1]]
    assert len(find_pairs(views, PairOptions(max_gap=2, symmetric=True)).all_pairs()) == 2
    with pytest.raises(DataError, match="no two views form a pair"):
        find_pairs(views, PairOptions(max_gap=1))


def test_azimuths_of_your_own_are_for_training_alone(embedded):
    views = split_of(embedded, "shapenet_flat").train.views
    held = torch.tensor([group == "car_001" for group in views.groups])
    assert views.coordinates[~held, 0].unique().tolist() == [0, 5, 20, 40]
    assert views.coordinates[held, 0].unique().tolist() == list(range(0, 360, 20))
    turns = PairOptions(azimuth_steps_deg=(5,), symmetric=True)
    pairs = find_pairs(views, turns).all_pairs()
    assert views.coordinates[pairs.flatten(), 0].unique().tolist() == [0, 5]
    assert reprojection_error(load_pairs(views, pairs)) < 0.02


def test_held_out_azimuths(embedded):
    root = split_of(embedded, "shapenet_flat").train.views.path
    split = load_split(DataConfig(layout="shapenet_flat", root=str(root), holdout="coordinates"), SIDE)
    azimuth = split.train.views.coordinates[:, 0]
    trained = {int(azimuth[i]) for i in split.train.all_pairs().flatten().tolist()}
    tested = {int(azimuth[i]) for i in split.test_pairs[:, 1].tolist()}
    assert not trained & tested


# ---- ShapeNet and your own images --------------------------------------------------------------------------


def copied(embedded, tmp_path):
    shutil.copytree(split_of(embedded, "shapenet").train.views.path.parent, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_wrong_kind_of_poses_is_named(embedded, tmp_path):
    root = copied(embedded, tmp_path)
    framing = Framing(SIDE)
    with pytest.raises(DataError, match="world_to_cam, not cam_to_world"):
        load_shapenet(root / "chairs", framing, pose_files="cam_to_world")


def test_camera_to_world_files_are_told_apart(embedded, tmp_path):
    root = copied(embedded, tmp_path)
    reference = load_shapenet(root / "chairs", Framing(SIDE))
    for azimuth in range(0, 360, 20):
        for elevation in (0, 10, 20, 30):
            path = root / "camera_settings" / "cam_RT" / f"cam_RT_{view_number(azimuth, elevation):03d}.txt"
            rows = grid_pose(azimuth, elevation)[:3].tolist()
            path.write_text("\n".join(" ".join(map(str, row)) for row in rows))
    turned = load_shapenet(root / "chairs", Framing(SIDE))
    torch.testing.assert_close(turned.world_from_cam, reference.world_from_cam, rtol=0, atol=1e-6)


def test_transparent_background_becomes_the_configured_colour(tmp_path):
    rgba = torch.ones(4, 32, 32)
    rgba[3, :, :16] = 0.0
    for azimuth in (0, 20):
        write_image(tmp_path / "chair" / f"{azimuth:03d}_10.png", rgba)
    write_image(tmp_path / "chair" / "000_10 (1).png", rgba)
    views = load_views(DataConfig(layout="shapenet_flat", root=str(tmp_path)), 32)
    image = views.load(0).image
    assert image[:, :, :16].abs().max() == 0
    assert image[:, :, 16:].min() == 1
    assert "1 pictures are not named <azimuth>_<elevation>, left out: 000_10 (1).png" in views.notes
    assert "transparent pixels of 1 pictures become black (000_10.png)" in views.notes
    views = load_views(DataConfig(layout="shapenet_flat", root=str(tmp_path), background=None), 32)
    with pytest.raises(DataError, match="transparent pixels"):
        views.load(0)


def test_your_own_posed_folder(tmp_path):
    frames = []
    for index in range(4):
        write_image(tmp_path / "images" / f"{index}.png", torch.rand(3, 24, 36))
        pose = np.eye(4)
        pose[0, 3] = 0.1 * index
        frames.append({"file_path": f"images/{index}.png", "transform_matrix": pose.tolist()})
    meta = {"fl_x": 30, "fl_y": 30, "cx": 18, "cy": 12, "k1": 0.05, "frames": frames}
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    stored = load_views(DataConfig(layout="posed", root=str(tmp_path)), 24).load(1).image
    with Image.open(tmp_path / "images" / "1.png") as image:
        image.getexif()[0x0112] = 3
        image.save(tmp_path / "images" / "1.png", exif=image.getexif())
    views = load_views(DataConfig(layout="posed", root=str(tmp_path), scale=2.0), 24)
    assert torch.equal(views.load(1).image, stored)
    assert "not turned (1.png)" in views.notes[0]
    assert views.world_from_cam[3, 0, 3] == pytest.approx(0.6)
    torch.testing.assert_close(views.K[0, :2, 2], torch.tensor([11.5, 11.5]))
    pairs = find_pairs(views, PairOptions(nearest=2))
    assert {tuple(p) for p in pairs.all_pairs().tolist()} >= {(0, 1), (1, 0), (3, 2)}
    write_image(tmp_path / "images" / "3.png", torch.rand(3, 36, 24))
    meta |= {"train_filenames": [f"images/{i}.png" for i in (0, 2, 3)], "test_filenames": ["images/1.png"]}
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    split = load_split(DataConfig(layout="posed", root=str(tmp_path)), 24)
    assert split.notes[-1] == "1 images are not 36 x 24 like most, left out: images/3.png"
    assert [split.test.views.names[i] for i in split.test_pairs[:, 1]] == ["images/1.png"] * 2
    meta["frames"][0]["transform_matrix"][0][0] = float("nan")
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match="NaN|number"):
        load_views(DataConfig(layout="posed", root=str(tmp_path)), 24)


def test_a_missing_folder_says_where_to_get_the_data(tmp_path):
    for lists in ({}, {"train_list": "train.txt", "test_pairs": "pairs.txt"}):
        with pytest.raises(DataError, match="does not exist.*prepare fetch shapenet"):
            load_split(DataConfig(root=str(tmp_path / "none"), **lists), 32)
