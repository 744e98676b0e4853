"""The networks and the rule that DeepVoxels is compared with."""

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from deepvoxels.config import BaselineOptions
from deepvoxels.datasets.scene import nearest_neighbour
from deepvoxels.models.baselines import (
    BASELINES,
    build_baseline,
    ray_direction_image,
    rotate_latent,
)
from shared.geometry.camera import look_at, project, transform_points


def poses(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    positions = 2 * torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    return torch.stack([look_at(p, torch.zeros(3), torch.tensor([0.0, 0, 1])) for p in positions])


def intrinsics(count: int, side: int) -> Tensor:
    focal, centre = 1.1 * side, side / 2 - 0.5
    return torch.tensor([[focal, 0, centre], [0, focal, centre], [0, 0, 1]]).expand(count, 3, 3)


def parameters(name: str, options: BaselineOptions) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build_baseline(name, options).parameters())


@pytest.mark.parametrize(
    ("name", "expected"), [("pix2pix", 187_561_091), ("tatarchenko", 171_540_251), ("worrall", 171_451_369)]
)
def test_full_size_networks_have_as_many_parameters_as_deepvoxels(name, expected):
    assert parameters(name, BaselineOptions()) == expected >= 170e6


@pytest.mark.parametrize("name", sorted(BASELINES))
@pytest.mark.parametrize(
    "options",
    [
        {"image_side": 16, "widths": [4, 6, 8, 8, 8]},
        {"image_side": 12, "widths": [4, 6], "hidden": 10, "vectors": 3},
        {"image_side": 24, "widths": [4, 6, 2]},
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_shapes_ranges_and_gradients(name, options, count):
    side = options["image_side"]
    network = build_baseline(name, BaselineOptions(**options))
    sources = torch.rand(count, 3, side, side)
    images = network(sources, poses(count), poses(count, 1), intrinsics(count, side))
    assert images.shape == sources.shape
    assert 0 <= images.min() <= images.max() <= 1
    (images - 0.3).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("name", ["tatarchenko", "worrall"])
def test_source_and_poses_both_matter(name):
    torch.manual_seed(0)
    network = build_baseline(name, BaselineOptions(16, [4, 8, 8])).double().eval()
    K, sources = intrinsics(1, 16), torch.rand(2, 1, 3, 16, 16).double()
    at = [poses(1, seed).double() for seed in range(3)]
    reference = network(sources[0], at[0], at[1], K)
    for other in (network(sources[1], at[0], at[1], K), network(sources[0], at[0], at[2], K)):
        assert (other - reference).abs().max() > 1e-9


def test_the_rotating_latent_only_knows_the_relative_rotation():
    network = build_baseline("worrall", BaselineOptions(16, [4, 8, 8])).eval()
    source, a, b = torch.rand(1, 3, 16, 16), poses(1, 3), poses(1, 4)
    turn = torch.eye(4)
    turn[:3, :3] = torch.tensor(Rotation.from_euler("xyz", [20, 50, -70], degrees=True).as_matrix())
    turn[:3, 3] = torch.tensor([1.0, -2, 3])
    torch.testing.assert_close(
        network(source, turn @ a, turn @ b, intrinsics(1, 16)),
        network(source, a, b, intrinsics(1, 16)),
        atol=1e-5,
        rtol=0,
    )


def test_rotation_of_the_latent_composes_keeps_lengths_and_follows_the_world():
    a, b, c = poses(5, 0), poses(5, 1), poses(5, 2)
    vectors_a = torch.randn(5, 7, 3)
    vectors_b = rotate_latent(vectors_a, a, b)
    torch.testing.assert_close(vectors_b.norm(dim=-1), vectors_a.norm(dim=-1))
    torch.testing.assert_close(rotate_latent(vectors_b, b, c), rotate_latent(vectors_a, a, c))
    torch.testing.assert_close(rotate_latent(vectors_b, b, a), vectors_a)
    in_world = [vectors @ pose[:, :3, :3].mT for vectors, pose in ((vectors_a, a), (vectors_b, b))]
    torch.testing.assert_close(*in_world)  # the same arrow, seen from two cameras
    assert not torch.allclose(vectors_b, vectors_a, atol=0.1)


def test_ray_directions_hit_the_pixels_they_belong_to():
    pose, K = poses(2), intrinsics(2, 9)
    directions = ray_direction_image(K, pose, 9)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(2, 9, 9))
    for i in range(2):
        points_world = pose[i, :3, 3] + 3 * directions[i].movedim(0, -1)
        pixels, _ = project(transform_points(torch.linalg.inv(pose[i]), points_world), K[i])
        v, u = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
        torch.testing.assert_close(pixels, torch.stack((u, v), dim=-1), atol=1e-4, rtol=0)


def test_nearest_neighbour_is_the_smallest_angle():
    known, asked = poses(40), poses(10, 1)
    found = nearest_neighbour(known, asked)
    for i, pose in enumerate(asked):
        angles = [torch.acos((other[:3, 2] @ pose[:3, 2]).clamp(-1, 1)) for other in known]
        assert int(found[i]) == int(torch.stack(angles).argmin())
    assert nearest_neighbour(known, known).tolist() == list(range(40))
    # cameras that look at the origin: the released helper, which compares positions, finds the same
    places, wanted = (torch.nn.functional.normalize(p[:, :3, 3], dim=1) for p in (known, asked))
    assert torch.equal(found, (wanted @ places.T).argmax(1))
