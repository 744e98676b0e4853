"""What the viewer gets of a run: metric points of a light field, cameras where the views were taken from."""

from pathlib import Path

import pytest
import torch

from diffdiffdepth.config import TrainConfig
from diffdiffdepth.datasets.embedded import make_embedded_light_field, make_embedded_multi_view
from diffdiffdepth.inputs import load_scene
from diffdiffdepth.scene import scene_facts
from diffdiffdepth.viewer import scene_of
from shared.files.maps import read_pfm
from shared.geometry.camera import project, transform_points
from shared.runs.checkpoint import save_checkpoint
from shared.runs.config import config_from_dict, config_to_dict

CPU = torch.device("cpu")


def make_run(root: Path, folder: Path):
    """A finished run whose map is the truth; returns its scene too."""
    config = config_from_dict(TrainConfig, {"data": {"root": str(root)}}, "test")
    scene = load_scene(config.data)
    seen = torch.ones_like(scene.truth, dtype=torch.bool)
    result = {"map": scene.truth, "seen": seen, "points": vars(scene.points)}
    facts = {"scene": scene_facts(scene), "result": result}
    path, held = folder / "checkpoints" / "last.pt", config_to_dict(config)
    save_checkpoint(path, {}, paper="diffdiffdepth", step=1, config=held, facts=facts)
    return scene


@pytest.fixture(scope="module")
def light_field(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("ddd_viewer")
    field = make_embedded_light_field(root / "still_life", size=(32, 40), side=5, antialias=1)
    return field, root / "run", make_run(field, root / "run")


def test_a_light_field_s_points_are_its_depth_in_metres(light_field) -> None:
    root, run, _ = light_field
    scene = scene_of(run, "best", CPU)
    (part,) = scene.parts
    assert scene.unit == "m"
    assert "metric" in scene.status
    assert [cloud.name for cloud in part.clouds] == ["optimised map", "initial points", "true depth"]
    depth_m = read_pfm(root / "gt_depth_lowres.pfm")
    for cloud in (part.clouds[0], part.clouds[2]):
        pixels, depth = project(cloud.points, part.cameras[0].K)
        column, row = pixels.round().long().unbind(1)
        assert len(depth) == 32 * 40
        torch.testing.assert_close(depth, depth_m[row, column], rtol=1e-3, atol=1e-3)


def test_the_cameras_of_a_light_field_see_each_point_where_its_view_has_it(light_field) -> None:
    """x + d du of `LightField`, against the projection into a camera whose picture is shifted so that the
    plane of focus keeps its place."""
    _, run, scene = light_field
    (part,) = scene_of(run, "best", CPU).parts
    parameters = scene.camera
    points = part.clouds[2].points
    centre_px, depth = project(points, part.cameras[0].K)
    disparity = parameters.disparity_from_depth(depth)
    assert len(part.cameras) == 1 + 24
    for camera, offset in zip(part.cameras[1:], scene.offsets, strict=True):
        centre = camera.world_from_cam[:3, 3]
        pixels, _ = project(transform_points(torch.linalg.inv(camera.world_from_cam), points), camera.K)
        shift = parameters.focal_px * centre[:2] / parameters.focus_distance_m
        torch.testing.assert_close(pixels + shift, centre_px + disparity[:, None] * offset, rtol=0, atol=1e-2)


def test_the_cameras_of_photos_stand_where_the_model_has_them(tmp_path: Path) -> None:
    folder = make_embedded_multi_view(tmp_path / "views", size=(30, 40), views=3, points=60, antialias=1)
    made = make_run(folder, tmp_path / "run")
    scene = scene_of(tmp_path / "run", "best", CPU)
    (part,) = scene.parts
    assert (scene.unit, scene.status) == ("scene units", "z-depth, up to the scale of the camera poses")
    assert len(part.cameras) == 1 + len(made.views)
    for camera, view_from_centre in zip(part.cameras[1:], made.view_from_centre, strict=True):
        torch.testing.assert_close(camera.world_from_cam @ view_from_centre, torch.eye(4), atol=1e-5, rtol=0)
