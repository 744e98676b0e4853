"""Embedded stacks: the shared lens sampler as a twin, the thin-lens formula, no leak between splits."""

import dataclasses

import pytest
import torch

from dfd_selfsup.config import EmbeddedConfig
from dfd_selfsup.datasets.embedded import View, make_embedded_stacks, render_stack_views
from dfd_selfsup.datasets.folder import load_stack
from dfd_selfsup.datasets.stack import SPLITS
from dfd_selfsup.models.thin_lens import Defocus, Lens
from scenes import Background, Item, Light, Scene
from scenes.shapes import Quad, Sphere, placed
from scenes.tests.thin_lens import render_thin_lens
from scenes.textures import solid

LIT = Light(sun=(0, 0, 0), sky=(1, 1, 1), ground=(1, 1, 1))  # colours as they are


def wall_and_ball() -> Scene:
    """Bars before a wall at z = 3 and a ball at z = 1.5; the camera is at the origin, looking along +z.

    Plain colours: textures are filtered to the distance of the rays, which the two samplers choose
    differently.
    """
    items = [Item(Quad((3, 3), placed((0, 0, 3))), solid(0.1, 0.5, 0.3))]
    for index in range(9):
        bar = Quad((0.05, 1.0), placed((0.2 * index - 0.8, 0, 2.95)))
        items.append(Item(bar, solid(0.9, 0.1 * index, 0.2)))
    items.append(Item(Sphere(0.25, placed((0.1, 0, 1.5))), solid(0.9, 0.2, 0.2)))
    return Scene(items, LIT, Background((0, 0, 0), (0, 0, 0)))


def test_slices_are_those_of_the_shared_lens_sampler():
    """Sharing pinhole pictures between slices must change nothing but where in its pixel a ray lands."""
    K = torch.tensor([[60.0, 0, 23.5], [0, 60, 15.5], [0, 0, 1]])
    scene, pose, focus, aperture = wall_and_ball(), torch.eye(4), (1.5, 3.0), 0.12
    view = View("test", scene, pose, 1.0)
    stack = render_stack_views(view, K, 32, 48, focus, aperture, samples=120)
    for index, distance in enumerate(focus):
        twin = render_thin_lens(scene, K, pose, 32, 48, distance, aperture, 120)
        assert (stack[index] - twin).abs().mean() < 0.012  # 120 rays per pixel leave 0.008 of noise
    assert (stack[0] - stack[1]).abs().mean() > 0.03


def test_a_point_spreads_over_the_disc_of_the_thin_lens():
    """Second moments of a small bright ball against its radius by the formula, over two."""
    tiny = Item(Sphere(0.004, placed((0, 0, 2.0))), solid(1, 1, 1))
    scene = Scene([tiny], LIT, Background((0, 0, 0), (0, 0, 0)))
    lens, focus = Lens(100, 0.9, 1000), [1.2, 4.0]
    focal = 0.1 / 1e-3
    K = torch.tensor([[focal, 0, 20.0], [0, focal, 20.0], [0, 0, 1]])
    stack = render_stack_views(View("t", scene, torch.eye(4), 1.0), K, 41, 41, focus, lens.aperture_m, 1500)
    expected = Defocus.thin_lens(lens, focus, breathing_corrected=True).sigma_px(
        torch.full((1, 1, 1, 1), 0.5)
    )
    offsets = torch.arange(41) - 20.0
    for image, radius in zip(stack[:, 0], expected.flatten(), strict=True):
        spread = (image.sum(0) * offsets**2).sum() / image.sum()
        pixel = 1 / 12 + (0.004 * focal / 2) ** 2 / 4  # a pixel's own width and the ball's
        assert abs((spread - pixel).sqrt() - radius / 2) < 0.08 * radius / 2


def test_embedded_stacks_are_made_once_and_split_by_scene(tmp_path, monkeypatch):
    """With stand-ins for the costly scenes: layout, cache, options, and no scene in two splits."""
    made = []

    def scene(seed: int, views: int = 1) -> Scene:
        made.append(seed)
        return dataclasses.replace(wall_and_ball(), cameras=torch.eye(4).expand(views, 4, 4))

    monkeypatch.setattr("scenes.rooms.room", scene)
    monkeypatch.setattr("scenes.tabletop.tabletop", scene)
    config = EmbeddedConfig((1, 1), (0, 1), (1, 1), views=2, height=16, width=24, lens_samples=2)
    folder = make_embedded_stacks(tmp_path, config, workers=0)
    names = {split: sorted(p.name for p in (folder / split).iterdir()) for split in SPLITS}
    assert {split: len(found) for split, found in names.items()} == {"train": 4, "validation": 2, "test": 4}
    scenes = [{name.rsplit("_", 1)[0] for name in found} for found in names.values()]
    assert sum(map(len, scenes)) == len(set.union(*scenes)), "a scene is in two splits"
    stack = load_stack(folder / "train" / names["train"][0])
    assert stack.images.shape == (5, 3, 16, 24)
    assert stack.valid.all()
    assert (stack.defocus.gain_px == stack.defocus.gain_px[0]).all()
    count = len(made)
    assert make_embedded_stacks(tmp_path, config, workers=0) == folder
    assert len(made) == count, "the second call renders nothing"
    other = EmbeddedConfig((0, 1), (0, 1), (0, 1), views=1, height=16, width=24, lens_samples=2)
    assert make_embedded_stacks(tmp_path, other, workers=0) != folder


def test_many_lenses_are_many_and_the_same_for_the_same_view(tmp_path, monkeypatch):
    scene = dataclasses.replace(wall_and_ball(), cameras=torch.eye(4).expand(4, 4, 4))
    monkeypatch.setattr("scenes.rooms.room", lambda seed, views: scene)
    sizes = {"views": 4, "height": 16, "width": 24, "lens_samples": 2, "lenses": "many"}
    config = EmbeddedConfig((1, 0), (1, 0), (1, 0), **sizes)
    folder = make_embedded_stacks(tmp_path, config, workers=0)
    stacks = [load_stack(path) for path in sorted(folder.glob("*/*_*"))]
    assert len({stack.lens.f_number for stack in stacks}) == 12
    for stack in stacks:
        focus_m = 1 / stack.defocus.focus_q
        assert stack.images.shape == (8, 3, 16, 24)
        assert 0.8 <= stack.lens.f_number <= 2.4
        assert 0.69 < focus_m[0] < 1.31
        assert 3.4 < focus_m[-1] < 10.1
        steps = -stack.defocus.focus_q.diff()
        assert steps.min() > 0.35 * steps.mean(), "no two photos are of the same focus"
    again = make_embedded_stacks(tmp_path / "again", config, workers=0)
    for path in folder.rglob("stack.yaml"):
        assert path.read_bytes() == (again / path.relative_to(folder)).read_bytes()


@pytest.mark.parametrize("processors", [None, {0}])
def test_the_stacks_do_not_depend_on_the_number_of_processes(tmp_path, monkeypatch, processors):
    if processors:  # PyTorch warns of more workers, and warnings are errors here
        monkeypatch.setattr("os.sched_getaffinity", lambda process: processors, raising=False)
    config = EmbeddedConfig((0, 1), (0, 1), (0, 1), views=1, height=16, width=24, lens_samples=1)
    before = torch.get_rng_state()
    alone = make_embedded_stacks(tmp_path / "alone", config, workers=0)
    shared = make_embedded_stacks(tmp_path / "shared", config, workers=2)
    assert torch.equal(torch.get_rng_state(), before), "a run's weights depend on whether data were rendered"
    files = sorted(path.relative_to(alone) for path in alone.rglob("*.*"))
    assert len(files) == 3 * 8 + 1
    assert all((alone / name).read_bytes() == (shared / name).read_bytes() for name in files)
