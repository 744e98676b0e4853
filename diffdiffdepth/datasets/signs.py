"""What a light field's pictures say about its offsets: which way views are numbered, and whether they fit."""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor

from diffdiffdepth.scene import LightField
from shared.geometry.camera import pixel_grid
from shared.geometry.warp import sample_pixels

__all__ = ["NO_LIGHT_FIELD", "find_offset_signs", "view_faults"]

log = logging.getLogger(__name__)

LONG_SIDE_PX = 256  # the search works on a reduced copy
STEPS = 41
FAULTS_SIDE_PX, FAULTS_VIEWS = 128, 16  # of the copy on which the views are compared, and for its disparity
NO_BETTER = 0.8  # of the error with shuffled views; light fields have 0.4 to 0.8, photos 0.84
CLEAR_ERROR = 0.05  # mean difference of colour from which views are said to be of something else
NO_LIGHT_FIELD = "the views do not move like those of a light field: photos, or in a wrong order"
ODD_VIEW, ODD_EXPOSURE = 2.5, 1.2  # times the error and the brightness of the views around it
DECIDED = 0.15  # of the votes; 0.2 to 0.4 in light fields with occlusions several pixels wide


@torch.no_grad()
def find_offset_signs(light_field: LightField, largest_px: float = 6.0) -> tuple[int, int]:
    """Signs (x, y) to multiply the offsets by so that nearer points get larger disparities.

    The relative sign is photo-consistency: only with it do views off both axes agree with the centre at one
    disparity per pixel. The sign of both together is occlusion: a pixel that a nearer one covers in a view
    must disagree with that view, and the one that covers it must not. Disparities up to `largest_px` per unit
    of offset are tried. Without enough occlusion (narrow baselines) the common sign stays as it is and a
    warning is logged. Needs views off both axes; of a plain cross only the common sign is found.
    """
    small = _reduced(light_field)
    reach = largest_px * small.centre.shape[-1] / light_field.centre.shape[-1]
    found = {}
    for sign_y in (1, -1):
        offsets = small.offsets * small.offsets.new_tensor([1.0, sign_y])
        found[sign_y] = (*_best_disparity(small, offsets, -reach, reach), offsets)
    sign_y = min(found, key=lambda sign: found[sign][0])
    _, coarse, offsets = found[sign_y]
    low, high = torch.quantile(coarse, coarse.new_tensor([0.05, 0.95])).tolist()
    margin = 0.2 * (high - low) + 2 * reach / STEPS
    _, disparity = _best_disparity(small, offsets, low - margin, high + margin)
    vote = _occlusion_vote(small, offsets, disparity)
    if abs(vote) < DECIDED:
        log.warning("%s: too little occlusion to tell near from far; check the depth", light_field.name)
    flip = -1 if vote <= -DECIDED else 1
    return flip, flip * sign_y


@torch.no_grad()
def view_faults(light_field: LightField, largest_px: float = 6.0) -> tuple[str, ...]:
    """What is wrong with the order and exposure of the views; `NO_LIGHT_FIELD` for views of something else.

    A disparity per pixel must explain the views better in their places than in shuffled ones. A view is named
    if it differs from the centre much more than its neighbours in the grid do, or is brighter or darker than
    they are. Two views next to each other that changed places are not noticed.
    """
    factor = max(1, round(max(light_field.centre.shape[-2:]) / FAULTS_SIDE_PX))
    images = torch.cat([light_field.centre[None], light_field.views])
    images = F.avg_pool2d(images, factor) if factor > 1 else images
    level = images.mean((1, 2, 3)).clamp(min=1e-3)
    images = images * (level[0] / level)[:, None, None, None]
    offsets, reach = light_field.offsets, largest_px / factor
    few = torch.linspace(0, len(offsets) - 1, min(FAULTS_VIEWS, len(offsets))).long()
    shuffled = torch.randperm(len(offsets), generator=torch.Generator().manual_seed(0)).to(offsets.device)
    part = LightField(images[0], images[1:][few], offsets[few])
    errors, maps = {}, {}
    for name, order in (("given", offsets), ("swapped", offsets.flip(1)), ("shuffled", offsets[shuffled])):
        errors[name], maps[name] = _best_disparity(part, order[few], -reach, reach)
    best = "swapped" if errors["swapped"] < NO_BETTER * errors["given"] else "given"
    faults = ["rows and columns of the views seem to be swapped"] if best == "swapped" else []
    if errors[best] > max(CLEAR_ERROR, NO_BETTER * errors["shuffled"]):
        return (NO_LIGHT_FIELD,)
    placed = offsets if best == "given" else offsets.flip(1)
    off = _warped(LightField(images[0], images[1:], placed), placed, maps[best])[0].mean((1, 2))
    around = torch.cdist(offsets, offsets).argsort(1)[:, 1:7]
    relative = off / off[around].median(1).values.clamp(min=1e-3)
    brightness = level[1:] / level[1:][around].median(1).values
    for (du, dv), error, ratio in zip(offsets.tolist(), relative.tolist(), brightness.tolist(), strict=True):
        view = f"the view at column {-du:+.3g}, row {-dv:+.3g} from the centre"
        if error > ODD_VIEW:
            faults.append(f"{view} does not agree with the others: out of order, mirrored or damaged")
        if not 1 / ODD_EXPOSURE < ratio < ODD_EXPOSURE:
            faults.append(f"{view} is {ratio:.2g} times as bright as those around it")
    return tuple(faults)


def _reduced(light_field: LightField) -> LightField:
    """The centre and the eight views farthest off both axes (of a cross: the ends of its arms), reduced."""
    distance = light_field.offsets.abs().amin(1) + 1e-3 * light_field.offsets.abs().amax(1)
    chosen = distance.argsort(descending=True, stable=True)[:8]
    factor = max(1, round(max(light_field.centre.shape[-2:]) / LONG_SIDE_PX))
    images = torch.cat([light_field.centre[None], light_field.views[chosen]])
    images = F.avg_pool2d(images, factor) if factor > 1 else images
    return LightField(images[0], images[1:], light_field.offsets[chosen])


def _warped(light_field: LightField, offsets: Tensor, disparity: Tensor) -> tuple[Tensor, Tensor]:
    """Colour error [m, h, w] of each view sampled at the centre's pixels, and the sampled positions."""
    height, width = light_field.centre.shape[-2:]
    grid = pixel_grid(height, width, offsets.device, offsets.dtype)
    pixels = grid + disparity[..., None] * offsets[:, None, None, :]  # [m, h, w, 2]
    warped = sample_pixels(light_field.views, pixels)
    return (warped - light_field.centre).abs().mean(1), pixels


def _best_disparity(
    light_field: LightField, offsets: Tensor, low: float, high: float
) -> tuple[float, Tensor]:
    """Mean of the lowest errors over the image, and where they are reached: a disparity per pixel [h, w].

    Of the views the better half counts, so that occluded ones do not.
    """
    steps, costs = torch.linspace(low, high, STEPS), []
    for step in steps.tolist():
        error, _ = _warped(light_field, offsets, torch.full_like(light_field.centre[0], step))
        error = F.avg_pool2d(error[:, None], 3, 1, 1, count_include_pad=False)[:, 0]
        costs.append(error.sort(0).values[: max(1, len(error) // 2)].mean(0))
    best = torch.stack(costs).min(0)
    return best.values.mean().item(), steps.to(best.values)[best.indices]


def _occlusion_vote(light_field: LightField, offsets: Tensor, disparity: Tensor) -> float:
    """Positive if pixels of larger disparity cover those of smaller disparity, negative for the reverse.

    Where two pixels of clearly different disparity fall on one pixel of a view, that view's colour belongs to
    the one in front; each such meeting is one vote. Returns the mean, between -1 and 1.
    """
    height, width = disparity.shape
    error, pixels = _warped(light_field, offsets, disparity)
    low, high = torch.quantile(disparity, disparity.new_tensor([0.05, 0.95])).tolist()
    step = max((high - low) / 6, 1e-6)
    votes = []
    for view_error, view_pixels in zip(error, pixels, strict=True):
        column, row = view_pixels.round().long().unbind(-1)
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        target = (row * width + column)[inside]
        values, errors = disparity[inside], view_error[inside]
        empty = torch.zeros(height * width).to(values)
        largest = empty.scatter_reduce(0, target, values, "amax", include_self=False)
        smallest = empty.scatter_reduce(0, target, values, "amin", include_self=False)
        large, small = values == largest[target], values == smallest[target]
        error_large = empty.scatter(0, target[large], errors[large])
        error_small = empty.scatter(0, target[small], errors[small])
        votes.append((error_small - error_large).sign()[largest - smallest > step])
    cast = torch.cat(votes)
    return cast.mean().item() if len(cast) else 0.0
