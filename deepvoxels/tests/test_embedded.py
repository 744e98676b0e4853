"""The embedded scenes on disk, read back with plain NumPy and OpenCV."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from deepvoxels.config import EMBEDDED_NAMES, EmbeddedConfig
from deepvoxels.datasets.embedded import hemisphere_poses, make_embedded_scene
from shared.errors import DataError
from shared.runs.seeds import rng_state

TINY = EmbeddedConfig(image_side=16, train_views=2, validation_views=1, test_views=1)


@pytest.fixture(scope="module")
def cube(tmp_path_factory):
    options = EmbeddedConfig(image_side=48, train_views=6, validation_views=2, test_views=3)
    return make_embedded_scene(tmp_path_factory.mktemp("embedded"), "cube", options)


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
        assert [float(word) for word in lines[1].split()] == [0, 0, 0]
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


def test_same_options_are_reused_and_others_have_a_folder_of_their_own(tmp_path):
    said = []
    first = make_embedded_scene(tmp_path, "cube", TINY, said.append)
    picture = first.train / "rgb" / "000001.png"
    before, stamp = picture.read_bytes(), picture.stat().st_mtime_ns
    assert make_embedded_scene(tmp_path, "cube", TINY, said.append) == first
    assert picture.stat().st_mtime_ns == stamp
    assert len(said) == 1
    other = make_embedded_scene(tmp_path, "cube", replace(TINY, seed=1))
    assert (other.train / "rgb" / "000001.png").read_bytes() != before
    assert picture.read_bytes() == before
    again = make_embedded_scene(tmp_path / "again", "cube", TINY)
    assert (again.train / "rgb" / "000001.png").read_bytes() == before  # same options, same bytes


def test_rendering_leaves_the_random_generators_alone(tmp_path):
    """The same command gives the same weights whether the data were there or not."""
    before = rng_state()
    make_embedded_scene(tmp_path, "vase", TINY)
    after = rng_state()
    assert torch.equal(before["torch"], after["torch"])
    assert str(before["python"]) == str(after["python"])
    assert torch.equal(before["numpy"][1], after["numpy"][1])


def test_a_broken_run_never_looks_complete(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deepvoxels.datasets.embedded.write_depth_png", fail)
    with pytest.raises(DataError, match="No space left"):
        make_embedded_scene(tmp_path, "cube", TINY)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", EMBEDDED_NAMES)
def test_every_name_is_made(tmp_path, name):
    for folder in make_embedded_scene(tmp_path, name, TINY):
        assert (folder / "rgb" / "000000.png").is_file()


def test_training_views_are_even_over_the_hemisphere():
    positions = hemisphere_poses(400).numpy()[:, :3, 3] / 1.7
    np.testing.assert_allclose(positions.mean(0), (0, 0, 0.5), atol=0.01)  # of the uniform hemisphere
    np.testing.assert_allclose((positions**2).mean(0), np.full(3, 1 / 3), atol=0.01)
    gaps = np.arccos(np.clip(positions @ positions.T - 2 * np.eye(400), -1, 1)).min(1)
    assert np.degrees(gaps.min()) > 2.5  # 400 points: 7.2 degrees apart if perfectly even
