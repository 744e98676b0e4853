"""Differentiable diffusion of sparse labels into dense depth (Khan et al., CVPR 2021, Eq. 1-2).

The map D minimises

    sum_p weight_p (D_p - label_p)^2 + sum_edges edge_ij (D_i - D_j)^2,

which is one linear system, (diag(weight) + L) D = weight * label, with L the graph Laplacian of the edges
between neighbouring pixels. (Eq. 1-2 print the gradient norm without a square; the released code solves the
squared form, and so do we.) `diffuse` here writes this system out; `models/fast/diffusion.py` is its fast
twin.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["diffuse", "edge_weights", "ghost_edges"]


def edge_weights(smoothness: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the edges to the right [..., H, W-1] and lower [..., H-1, W] neighbours.

    An edge takes the smoothness of its right or lower pixel, as in the released code.
    """
    return smoothness[..., :, 1:], smoothness[..., 1:, :]


def ghost_edges(smoothness: Tensor) -> Tensor:
    """What edges to pixels of value zero, left and above the image, add to the diagonal [..., H, W]."""
    height, width = smoothness.shape[-2:]
    return pad(smoothness[..., :1], (0, width - 1)) + pad(smoothness[..., :1, :], (0, 0, 0, height - 1))


def diffuse(
    weights: Tensor,
    labels: Tensor,
    smoothness: Tensor,
    *,
    ghost_border: bool = False,
    **_: object,
) -> Tensor:
    """Diffuse labels into a dense map [H, W], the shape of all inputs. For small maps: the matrix is dense.

    weights (lambda) and smoothness (theta) are non-negative; every part connected by positive edges needs a
    positive weight. `ghost_border` adds the released code's edges from the first row and column to a pixel of
    value zero outside; without it the border is free (Neumann). Differentiable in all three. What else the
    fast twin takes (start, tolerance, ...) means nothing here.

        >>> weights, labels = torch.zeros(2, 1, 5)
        >>> weights[0, 0], weights[0, 4], labels[0, 4] = 1e6, 1e6, 4.0
        >>> diffuse(weights, labels, torch.ones(1, 5)).round(decimals=3)
        tensor([[0., 1., 2., 3., 4.]])
    """
    pixel = torch.arange(weights.numel()).view(weights.shape)
    right, down = edge_weights(smoothness)
    first = torch.cat([pixel[:, :-1].flatten(), pixel[:-1].flatten()])
    second = torch.cat([pixel[:, 1:].flatten(), pixel[1:].flatten()])
    edge = torch.cat([right.flatten(), down.flatten()])
    links = weights.new_zeros(weights.numel(), weights.numel()).index_put((first, second), edge)
    links = links + links.T
    diagonal = weights + ghost_edges(smoothness) if ghost_border else weights
    matrix = torch.diag(diagonal.flatten() + links.sum(1)) - links
    return torch.linalg.solve(matrix, (weights * labels).flatten()).view(weights.shape)
