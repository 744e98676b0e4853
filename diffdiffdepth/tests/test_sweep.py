"""Points of a plane sweep over posed photos, on rendered views with exact depth."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffdiffdepth.config import PointsConfig
from diffdiffdepth.datasets.colmap_scene import ColmapScenes
from diffdiffdepth.datasets.embedded import make_embedded_multi_view
from diffdiffdepth.inputs import find_points
from diffdiffdepth.points import sweep
from diffdiffdepth.points.sweep import sweep_points
from diffdiffdepth.scene import LightField, MultiViewScene
from shared.errors import DataError


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> MultiViewScene:
    folder = tmp_path_factory.mktemp("photos")
    return ColmapScenes(make_embedded_multi_view(folder / "scene", (96, 128), antialias=1))[0]


def off(scene: MultiViewScene, points) -> torch.Tensor:
    """Relative errors of points."""
    x, y = points.positions_px.round().long().unbind(1)
    truth = scene.truth[y.clamp(0, 95), x.clamp(0, 127)]
    return (points.labels / truth - 1).abs()[truth.isfinite()]


def test_a_sweep_finds_many_times_the_points_and_they_are_right(photos):
    points = sweep_points(photos)
    own = replace(points, positions_px=points.positions_px[len(photos.points) :])
    own = replace(own, labels=points.labels[len(photos.points) :])
    torch.testing.assert_close(points.labels[: len(photos.points)], photos.points.labels)
    assert len(own) > len(photos.points)
    assert off(photos, own).median() < 0.02
    assert (off(photos, own) < 0.1).float().mean() > 0.95


def test_brightness_and_contrast_of_the_photos_do_not_matter(photos):
    darker = replace(photos, views=0.2 + 0.6 * photos.views)
    a, b = len(sweep_points(photos)), len(sweep_points(darker))
    assert abs(a - b) < 0.15 * a


def test_correlation_is_that_of_numpy(photos):
    centre, views = sweep._lightness(photos.centre[None]), sweep._lightness(photos.views)
    still = replace(photos, view_K=photos.centre_K.expand(len(views), 3, 3))
    still = replace(still, view_from_centre=torch.eye(4).expand(len(views), 4, 4))  # nothing moves
    found = sweep._alike(still, centre, views, 2.0)
    for y, x in ((20, 30), (50, 60), (70, 100)):
        patch = (slice(y - 3, y + 4), slice(x - 3, x + 4))
        all_of_them = [np.corrcoef(centre[0, 0][patch].flatten(), v[0][patch].flatten())[0, 1] for v in views]
        expected = np.mean(sorted(all_of_them)[-2:])  # the better two of four
        assert found[y, x] == pytest.approx(expected, abs=1e-3)


def test_what_does_not_repeat_in_the_other_photos_gives_no_points(photos):
    noise = torch.rand(photos.views.shape, generator=torch.Generator().manual_seed(0))
    assert len(sweep_points(replace(photos, views=noise))) < 1.02 * len(photos.points)


def test_a_light_field_is_not_swept():
    points = sweep.SparsePoints(torch.tensor([[3.0, 3.0]]), torch.tensor([0.5]), "disparity")
    field = LightField(torch.rand(3, 8, 8), torch.rand(1, 3, 8, 8), torch.ones(1, 2), points=points)
    with pytest.raises(DataError, match="not photos"):
        find_points(field, PointsConfig(source="sweep"))
