"""NaN and infinity where they are dangerous.

Proven: NaN coordinates never reach PyTorch's sampling on the CPU, whose backward pass writes outside the
image for them (a segmentation fault); names of what is not finite are found in nested states.
"""

import math

import pytest
import torch
from torch import nn

from shared.geometry.warp import backward_warp, sample_pixels
from shared.runs.checkpoint import first_nan, first_nonfinite, weights_and_gradients


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


def test_first_nonfinite_and_first_nan() -> None:
    good, bad = torch.ones(3), torch.tensor([1.0, math.inf])
    assert first_nonfinite({}) is None
    assert first_nonfinite({"a": good * 3e38, "n": torch.tensor(3), "none": torch.zeros(0, 2)}) is None
    assert first_nonfinite({"a": good, "b": bad, "c": good / 0}) == "b"
    assert first_nonfinite({"a": good, "b": bad.double(), "c": good.bfloat16()}) == "b"
    assert first_nan({"a": [good, {"b": bad}]}) is None
    assert first_nan({"a": [good, {3: bad * 0}], "c": bad * 0}) == "a.1.3"
    network = nn.Linear(2, 1)
    assert list(weights_and_gradients(net=network)) == ["weight of net", "bias of net"]
    network(torch.ones(1, 2)).sum().backward()
    assert "the gradient of bias of net" in weights_and_gradients(net=network)
