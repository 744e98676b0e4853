"""One scene, four cameras: the captures agree, maps meet on one grid, and what is missing is said."""

import json
from pathlib import Path

import pytest
import torch

from dfd_selfsup.datasets.folder import load_stack
from shared.files.cameras import read_nerf_scene
from shared.files.images import read_image
from shared.files.maps import read_pfm
from shared.geometry.camera import intrinsics_matrix, pixel_grid
from shared.results import DepthMap
from showcase import captures, compare


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captures, "SIZE", (24, 32))
        patch.setattr(captures, "PHOTO_SIDE", 32)
        patch.setattr(captures, "POSED_VIEWS", 2)
        return captures.embedded_capture(tmp_path_factory.mktemp("captures"), "object")


def test_all_parts_of_a_capture_see_one_scene_from_one_place(small):
    truth = DepthMap.load(small / "truth.pfm")
    stack = load_stack(small / "focal_stack")
    torch.testing.assert_close(stack.depth[truth.valid], truth.values[truth.valid])
    field = torch.as_tensor(read_pfm(small / "light_field" / "gt_depth_lowres.pfm"))
    both = truth.valid & field.isfinite()
    assert (field[both] / truth.values[both] - 1).abs().median() < 0.02  # 2 x 2 rays a pixel next to one
    centre = read_image(small / "light_field" / "input_Cam040.png")
    assert (centre - stack.aif).abs().mean() < 0.03
    assert len(read_nerf_scene(small / "posed").frames) == 2
    assert len(read_nerf_scene(small / "unseen").frames) == 4


def test_a_map_of_another_camera_in_the_same_pose_keeps_its_z_depth(small):
    capture = compare.read_capture(small)
    wide = intrinsics_matrix(30.0, 30.0, 19.5, 19.5)

    def slanted(K: torch.Tensor, height: int, width: int) -> torch.Tensor:
        rays = (pixel_grid(height, width) - K[:2, 2]) / K[[0, 1], [0, 1]]
        return 2 / (1 + 0.3 * rays[..., 0] - 0.2 * rays[..., 1])

    depth = DepthMap(slanted(wide, 40, 40), "z_depth", "m", "metric", K=wide)
    values, valid = compare.on_viewpoint(depth, capture)
    assert valid.all()
    expected = slanted(capture.K, *capture.size)
    torch.testing.assert_close(values, expected, atol=1e-3, rtol=0)  # half a pixel would be 0.02


def test_edges_are_the_pixels_near_a_jump():
    depth = torch.ones(9, 12)
    depth[:, 6:] = 1.2
    edges = compare.near_edges(depth, torch.ones(9, 12, dtype=torch.bool))
    assert edges.any(0).nonzero().flatten().tolist() == [4, 5, 6, 7]
    assert not compare.near_edges(1.02 * torch.ones(9, 12), torch.ones(9, 12, dtype=torch.bool)).any()


def test_a_right_answer_has_no_error_and_one_factor_is_forgiven_where_said(small):
    capture = compare.read_capture(small)
    answer = compare.Answer(2 * capture.truth.values, capture.truth.valid, metric=False)
    assert compare.figures_of(capture, answer)["abs_rel"] < 1e-6
    wrong = compare.figures_of(capture, compare.Answer(2 * capture.truth.values, capture.truth.valid))
    assert wrong["abs_rel"] == pytest.approx(1)
    assert (wrong["bad"], wrong["delta1"]) == (100, 0)


def test_the_page_has_the_answers_there_are_and_the_reasons_of_the_others(small, tmp_path, monkeypatch):
    truth = DepthMap.load(small / "truth.pfm")
    answer = compare.Answer(truth.values, truth.valid)
    methods = compare.METHODS | {"diffdiffdepth": ("light_field", lambda capture, args: answer)}
    monkeypatch.setattr(compare, "METHODS", methods)
    compare.main([str(small), "--runs", str(tmp_path / "none"), "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "compare.json").read_text())[small.name]
    assert rows["diffdiffdepth"]["abs_rel"] == 0
    assert "--train" in rows["deepvoxels"]["note"]
    assert all(rows[name]["abs_rel"] < 0.5 for name in ("dfd_selfsup", "nvs_depth"))  # by shipped weights
    page = (tmp_path / "report.html").read_text()
    assert "AbsRel" in page
    assert "--train" in page
    assert DepthMap.load(tmp_path / small.name / "diffdiffdepth.pfm").valid.equal(truth.valid)
