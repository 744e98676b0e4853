"""The embedded scenes on disk, read back with plain NumPy and OpenCV."""

import json

import cv2
import numpy as np
import pytest

from deepvoxels.datasets.embedded import EMBEDDED_NAMES, hemisphere_poses, make_embedded_scene
from shared.errors import DataError

SMALL = {"image_side": 48, "train_views": 6, "validation_views": 2, "test_views": 3, "antialias": 2}


@pytest.fixture(scope="module")
def cube(tmp_path_factory):
    return make_embedded_scene(tmp_path_factory.mktemp("embedded"), "cube", **SMALL)


def read_view(folder, index):
    stem = f"{index:06d}"
    image = cv2.imread(str(folder / "rgb" / f"{stem}.png"), cv2.IMREAD_COLOR)[..., ::-1] / 255.0
    codes = cv2.imread(str(folder / "depth" / f"{stem}.png"), cv2.IMREAD_UNCHANGED)
    line = (folder / "pose" / f"{stem}.txt").read_text()
    assert line.count("\n") == 1
    return image, codes, np.array(line.split(), dtype=np.float64).reshape(4, 4)


def test_official_layout_and_intrinsics(cube):
    for folder, count in zip(cube, (6, 2, 3), strict=True):
        names = [sorted(p.stem for p in (folder / kind).iterdir()) for kind in ("rgb", "pose", "depth")]
        assert names == [[f"{i:06d}" for i in range(count)]] * 3
        lines = (folder / "intrinsics.txt").read_text().splitlines()
        focal, cx, cy = map(float, lines[0].split()[:3])
        assert (focal, cx, cy) == (48 * 525 / 480, 23.5, 23.5)
        assert lines[1].split() == ["0", "0", "0"]
        near, scale = float(lines[2]), float(lines[3])
        assert lines[4].split() == ["48", "48"]
        for index in range(count):
            _, codes, pose = read_view(folder, index)
            assert codes.dtype == np.uint16
            np.testing.assert_allclose(np.linalg.norm(pose[:3, 3]), 1.7, rtol=1e-6)
            assert pose[2, 3] >= -1e-6  # the northern hemisphere
            np.testing.assert_allclose(pose[:3, 3] + 1.7 * pose[:3, 2], 0, atol=1e-5)  # looks at the origin
            assert np.linalg.det(pose[:3, :3]) == pytest.approx(1.0, abs=1e-5)
            depth = codes[codes != 10000] * 1e-4
            assert near < depth.min()
            assert depth.max() < near + 2 * scale


def test_test_views_follow_the_spiral_from_the_equator_to_the_pole(cube):
    heights = [read_view(cube.test, index)[2][2, 3] / 1.7 for index in range(3)]
    np.testing.assert_allclose(heights[0], 0.0, atol=1e-6)
    assert heights[1] == pytest.approx(np.sin(np.pi / 4), abs=2e-3)
    assert np.degrees(np.arcsin(heights[2])) == pytest.approx(89.91, abs=1e-3)


def test_depth_reprojects_between_views_and_lies_on_the_cube(cube):
    focal, cx, cy = map(float, (cube.train / "intrinsics.txt").read_text().split()[:3])
    views = [read_view(cube.train, index) for index in range(6)]
    y, x = np.mgrid[0:48, 0:48]
    behind, equal = [], []
    for image, codes, pose in views:
        mask = codes != 10000
        assert (image[~cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))).astype(bool)] == 1).all()  # white
        z = codes[mask] * 1e-4
        points = np.stack([(x[mask] - cx) / focal * z, (y[mask] - cy) / focal * z, z], 1)
        world = points @ pose[:3, :3].T + pose[:3, 3]
        assert np.abs(np.abs(world).max(1) - 0.4).max() < 1.2e-4  # half a depth step, seen at a slant
        for _, other_codes, other in views:
            if other is pose:
                continue
            cam = (world - other[:3, 3]) @ other[:3, :3]
            u, v = (cam[:, :2] / cam[:, 2:] * focal + (cx, cy)).T
            i, j = v.round().astype(int), u.round().astype(int)
            near = (np.abs(u - j) < 0.1) & (np.abs(v - i) < 0.1)
            near &= (i >= 0) & (i < 48) & (j >= 0) & (j < 48)
            span = cv2.dilate(other_codes, np.ones((3, 3))) - cv2.erode(other_codes, np.ones((3, 3)))
            near[near] = span[i[near], j[near]] < 1500  # neither a grazing face nor a silhouette
            found = other_codes[i[near], j[near]] * 1e-4
            # a tenth of a pixel aside, depth differs by about a tenth of its range over the neighbours
            slack = 1e-4 * (2 + 0.1 * span[i[near], j[near]])
            # the surface seen there is the point itself or something in front of it
            behind.extend(cam[near, 2] < found - slack)
            equal.extend(np.abs(cam[near, 2] - found) < slack)
    assert len(equal) > 200
    assert np.mean(behind) < 0.01
    assert np.mean(equal) > 0.2  # most of the rest is hidden by another face of the cube


def test_same_options_are_reused_and_changed_options_made_anew(tmp_path):
    options = SMALL | {"train_views": 2, "image_side": 24, "antialias": 1}
    first = make_embedded_scene(tmp_path, "cube", **options)
    picture = first.train / "rgb" / "000001.png"
    before, stamp = picture.read_bytes(), picture.stat().st_mtime_ns
    make_embedded_scene(tmp_path, "cube", **options)
    assert picture.stat().st_mtime_ns == stamp
    make_embedded_scene(tmp_path, "cube", **options, seed=1)
    assert picture.read_bytes() != before
    make_embedded_scene(tmp_path, "cube", **options)
    assert picture.read_bytes() == before  # same options, same bytes
    picture.unlink()
    make_embedded_scene(tmp_path, "cube", **options)
    assert picture.exists()
    make_embedded_scene(tmp_path, "cube", **options | {"train_views": 1})
    assert len(list((first.train / "rgb").iterdir())) == 1
    record = json.loads((first.test / "embedded.json").read_text())
    assert record["views"]["train"] == 1
    assert not list(tmp_path.glob(".*"))  # no temporary folder is left


def test_a_broken_run_never_looks_complete(tmp_path, monkeypatch):
    options = SMALL | {"train_views": 2, "image_side": 24, "antialias": 1}

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deepvoxels.datasets.embedded.write_depth_png", fail)
    with pytest.raises(DataError, match="No space left"):
        make_embedded_scene(tmp_path, "cube", **options)
    assert not (tmp_path / "train").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_folder_made_by_others_is_never_replaced(tmp_path):
    """Someone may name the folder of the published data."""
    theirs = tmp_path / "test" / "cube" / "rgb" / "000000.png"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"published")
    with pytest.raises(DataError, match="Choose another folder"):
        make_embedded_scene(tmp_path, "cube", **SMALL)
    assert theirs.read_bytes() == b"published"
    assert not (tmp_path / "train").exists()


def test_every_name_is_made_and_others_are_refused(tmp_path):
    for name in EMBEDDED_NAMES:
        options = {"image_side": 16, "train_views": 1, "validation_views": 1, "test_views": 1, "antialias": 1}
        folders = make_embedded_scene(tmp_path, name, **options)
        assert all((folder / "rgb" / "000000.png").is_file() for folder in folders)
    with pytest.raises(ValueError, match="cube, vase, pedestal, chair"):
        make_embedded_scene(tmp_path, "sofa")
    with pytest.raises(ValueError, match="at least one view"):
        make_embedded_scene(tmp_path, "cube", test_views=0)


def test_training_views_are_even_over_the_hemisphere():
    positions = hemisphere_poses(400).numpy()[:, :3, 3] / 1.7
    np.testing.assert_allclose(positions.mean(0), (0, 0, 0.5), atol=0.01)  # of the uniform hemisphere
    np.testing.assert_allclose((positions**2).mean(0), np.full(3, 1 / 3), atol=0.01)
    gaps = np.arccos(np.clip(positions @ positions.T - 2 * np.eye(400), -1, 1)).min(1)
    assert np.degrees(gaps.min()) > 2.5  # 400 points: 7.2 degrees apart if perfectly even
