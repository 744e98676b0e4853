"""More points for one of several posed photos: a plane sweep at the pixels with texture.

A sparse model keeps what many photos agree on: often a thousand points on what is patterned, and none on fur.
Here every pixel with texture is tried at many depths. A depth is believed if the photos then look alike there
(normalised cross-correlation of patches, which ignores brightness and contrast), and if no other depth does
nearly as well.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffdiffdepth.filters import lab_from_rgb
from diffdiffdepth.scene import MultiViewScene, SparsePoints
from shared.geometry.camera import project, transform_points, unproject
from shared.geometry.warp import backward_warp

__all__ = ["sweep_points"]

STEP_PX = 1.0  # between two depths, in the view in which it is largest
FEWEST, MOST = 32, 160  # depths
MARGIN = 0.25  # of the range of inverse depth of the model's points, looked at beyond its ends
RADIUS = 3  # of a patch, px
CONTRAST = 1.5  # standard deviation of lightness in a patch, at least
ALIKE, UNIQUE = 0.8, 0.1  # correlation at least, and by how much less at any depth that is not next to it
CELL_PX = 3  # at most one point in each such square, where the picture changes most


@torch.no_grad()
def sweep_points(scene: MultiViewScene) -> SparsePoints:
    """The model's points of a scene, and those of a sweep over the depths around theirs."""
    model = scene.points.checked()
    inverse = 1 / model.labels
    low, high = inverse.quantile(0.01).item(), inverse.max().item()
    margin = MARGIN * (high - low)
    low, high = max(low - margin, 0.2 * low), high + margin
    planes = _planes(scene, low, high)
    steps = torch.linspace(low, high, planes)
    centre, views = _lightness(scene.centre[None]), _lightness(scene.views)
    score = torch.stack([_alike(scene, centre, views, 1 / step) for step in steps.tolist()])  # [D, H, W]
    best, where = score.max(0)
    y, x = ((where > 0) & (where < planes - 1) & _changes_most(centre)).nonzero(as_tuple=True)
    score, best, where = score[:, y, x], best[y, x], where[y, x]
    others = score.masked_fill((torch.arange(planes)[:, None] - where).abs() <= 2, -1).amax(0)
    before, after = (score.gather(0, where[None] + side)[0] for side in (-1, 1))
    vertex = (after - before) / (2 * (2 * best - before - after).clamp(min=1e-6))
    good = (best >= ALIKE) & (best - others >= UNIQUE)
    positions = torch.stack([x, y], 1)[good].to(model.positions_px)
    labels = 1 / (steps[where] + (steps[1] - steps[0]) * vertex.clamp(-0.5, 0.5))[good]
    positions, labels = torch.cat([model.positions_px, positions]), torch.cat([model.labels, labels])
    return SparsePoints(positions, labels, "depth")


def _planes(scene: MultiViewScene, low: float, high: float) -> int:
    """How many depths it takes so that no view's pixels move by more than STEP_PX from one to the next."""
    height, width = scene.centre.shape[-2:]
    corners = torch.tensor([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]]).float()
    ends = []
    for inverse in (low, high):
        points = unproject(corners, torch.full((4,), 1 / inverse), scene.centre_K)
        ends.append(project(transform_points(scene.view_from_centre, points[None]), scene.view_K)[0])
    longest = (ends[0] - ends[1]).norm(dim=-1).nan_to_num().max().item()
    return min(MOST, max(FEWEST, math.ceil(longest / STEP_PX)))


def _alike(scene: MultiViewScene, centre: Tensor, views: Tensor, depth: float) -> Tensor:
    """Correlation [H, W] of patches of the centre with the better half of the views; -1 where few see them.

    centre [1, 1, H, W] and views [m, 1, H, W] are lightness; every pixel is taken to be at z-depth `depth`.
    """
    maps = torch.full_like(views, depth)
    warped, valid = backward_warp(views, maps, scene.view_K, scene.centre_K, scene.view_from_centre)
    mean_a, mean_b = _mean(centre), _mean(warped)
    var_a, var_b = _mean(centre**2) - mean_a**2, _mean(warped**2) - mean_b**2
    both = (_mean(centre * warped) - mean_a * mean_b) / (var_a * var_b).clamp(min=1e-2).sqrt()
    seen = _mean(valid.float()) > 0.999
    score = both.masked_fill(~seen, -1)[:, 0].sort(0, descending=True).values
    return score[: math.ceil(len(score) / 2)].mean(0)


def _changes_most(grey: Tensor) -> Tensor:
    """The pixels [H, W] at which the picture changes most within their cell, where there is any contrast."""
    slope = F.pad(grey[..., 1:] - grey[..., :-1], (0, 1)).square()
    slope = (slope + F.pad(grey[..., 1:, :] - grey[..., :-1, :], (0, 0, 0, 1)).square())[0, 0]
    height, width = slope.shape
    padded = F.pad(slope, (0, -width % CELL_PX, 0, -height % CELL_PX), value=-1.0)[None, None]
    cells = F.max_pool2d(padded, CELL_PX).repeat_interleave(CELL_PX, 2).repeat_interleave(CELL_PX, 3)
    contrast = (_mean(grey**2) - _mean(grey) ** 2)[0, 0] >= CONTRAST**2
    return (slope == cells[0, 0, :height, :width]) & contrast & (slope > 0)


def _lightness(images: Tensor) -> Tensor:
    return lab_from_rgb(images)[:, :1]


def _mean(values: Tensor) -> Tensor:
    """Over patches, of images [N, 1, H, W]; many times as fast as pooling in PyTorch."""
    import cv2  # slow to import, and not needed to use a result

    side = (2 * RADIUS + 1, 2 * RADIUS + 1)
    means = [cv2.blur(image, side, borderType=cv2.BORDER_REPLICATE) for image in values[:, 0].numpy()]
    return torch.from_numpy(np.stack(means))[:, None]
