"""NaN coordinates never reach PyTorch's sampling on the CPU, whose backward pass writes out of bounds."""

import math

import pytest
import torch

from shared.geometry.warp import backward_warp, sample_pixels


@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_nan_coordinates_give_nan_there_and_nothing_else_changes(padding: str) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 33, 47, generator=generator).requires_grad_()
    pixels = torch.rand(2, 20, 31, 2, generator=generator) * 40
    clean = sample_pixels(image, pixels, padding)
    broken = pixels.clone()
    broken[0, 3, 5, 0] = broken[1, 19, 30, 1] = broken[0, 0, 0] = math.nan
    broken.requires_grad_()
    sampled = sample_pixels(image, broken, padding)
    unknown = broken.isnan().any(-1)[:, None].expand_as(sampled)
    assert sampled[unknown].isnan().all()
    assert torch.equal(sampled[~unknown], clean[~unknown])
    sampled.nansum().backward()
    assert image.grad.isfinite().all()
    assert broken.grad.isfinite().all()


@pytest.mark.parametrize("where", ["source", "target", "pose"])
def test_a_camera_with_nan_is_survived(where: str) -> None:
    K = torch.tensor([[50.0, 0, 20], [0, 50, 15], [0, 0, 1]])
    matrices = {"source": K.clone(), "target": K.clone(), "pose": torch.eye(4)}
    matrices[where][0, 0] = math.nan
    image = torch.rand(1, 3, 31, 41, requires_grad=True)
    depth = torch.ones(1, 1, 31, 41, requires_grad=True)
    warped, valid = backward_warp(image, depth, *matrices.values())
    assert not valid.any()
    warped.nansum().backward()
    assert image.grad.isfinite().all()
