"""Depth from focus without learning: where is each pixel sharpest?

A focus measure says how much fine detail a neighbourhood holds in each slice. Its maximum over the stack
gives the depth to the nearest slice; a parabola through the logarithms around the maximum, over inverse
depth, gives the places between slices. The colours of the sharpest slices make an all-in-focus picture.

Photos are looked at one after the other, so that a stack of any length takes the memory of a few of them.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dfd_selfsup.models.thin_lens import Defocus

__all__ = [
    "SURE",
    "FocusDepth",
    "Measure",
    "depth_from_focus",
    "depth_of_photos",
    "focus_guess",
    "focus_mean",
    "focus_response",
    "full_size_image",
    "sharpest_slices",
]

Measure = Literal["sml", "ring", "even"]
WINDOW = 9  # side of the square a measure is averaged over, px
RING_INNER, RING_GAP, RING_OUTER = 1, 2, 2  # pixels, as its authors set them
MEAN_POWER = 8.0  # a slice a tenth sharper counts twice as much
FULL_SIZE_POWER = 32.0  # at full size, a photo sharper by a fortieth counts twice as much
FULL_SIZE_BLUR_PX = 3.0  # blur by the depth, at full size, that costs a photo a factor of e
FLOOR = 1e-4  # keeps the logarithm of a flat neighbourhood finite
EVEN_PX = 1.5, 2.6, 10.0  # standard deviations of the windows of `even`
EVEN_TAIL = 0.6  # weight of the widest, which decides only where there is little texture
EVEN_FLOOR = 2e-3  # half a grey level of 8 bits, which rounding alone makes
SURE = 0.15  # confidence below which depth is marked as invalid
STRIP_PX = 256  # rows of a photo for which the maximum is refined at a time, to save memory
SPECK_PX = 13  # what is smaller, less sure and steps out of its surroundings is taken for an error


class FocusDepth(NamedTuple):
    """Inverse depth q [H, W], image [3, H, W] and confidence [H, W]: 1 - mean / largest of the measure."""

    q: Tensor
    aif: Tensor | None
    confidence: Tensor


def sum_modified_laplacian(images: Tensor) -> Tensor:
    """SML before its window (Nayar, Nakagawa 1994): |2I - I(x-1) - I(x+1)| + the same in y, [S, H, W]."""
    grey = F.pad(images.mean(1, keepdim=True), (1,) * 4, mode="replicate")
    middle = grey[..., 1:-1, 1:-1]
    across = 2 * middle - grey[..., 1:-1, :-2] - grey[..., 1:-1, 2:]
    down = 2 * middle - grey[..., :-2, 1:-1] - grey[..., 2:, 1:-1]
    return (across.abs() + down.abs()).squeeze(1)


def ring_difference(images: Tensor) -> Tensor:
    """Ring difference filter before its window: mean of a disc minus that of a ring, norm over colours.

    Images [S, 3, H, W] to [S, H, W], filtered on the processor, one colour after another: PyTorch's
    convolution takes five times the time and ten times the memory.
    """
    import cv2

    reach = RING_INNER + RING_GAP + RING_OUTER
    offsets = np.arange(-reach, reach + 1)
    radius = np.hypot(offsets[:, None], offsets)
    disc, ring = radius <= RING_INNER, (radius > RING_INNER + RING_GAP) & (radius <= reach)
    kernel = (disc / disc.sum() - ring / ring.sum()).astype(np.float32)
    found = np.zeros((len(images), *images.shape[-2:]), np.float32)
    for total, image in zip(found, images.detach().float().cpu().numpy(), strict=True):
        for colour in image:
            total += np.square(cv2.filter2D(colour, -1, kernel, borderType=cv2.BORDER_REPLICATE))
    return torch.from_numpy(np.sqrt(found, out=found)).to(images)


def focus_response(images: Tensor, measure: Measure = "sml") -> Tensor:
    """How sharp each neighbourhood is, positive: images [..., 3, H, W] to [..., H, W].

    `sml` and `ring` are means over 9 x 9 pixels. `even` is the SML under a small Gaussian, and of its
    logarithm the mean under a wider one with long tails: a strong edge counts no more than what is next to
    it, a blank is decided from afar, and no window shows its corners.
    """
    flat = images.reshape(-1, *images.shape[-3:])
    response = ring_difference(flat) if measure == "ring" else sum_modified_laplacian(flat)
    if measure == "even":
        found = [_even(each.numpy())[0] for each in response.detach().float().cpu()]
        return torch.from_numpy(np.stack(found)).to(images).view(*images.shape[:-3], *images.shape[-2:])
    padded = F.pad(response[:, None], (WINDOW // 2,) * 4, mode="replicate")
    mean = F.avg_pool2d(padded, WINDOW, stride=1)
    return (mean + FLOOR).view(*images.shape[:-3], *images.shape[-2:])


def _even(response: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The measure `even` of an SML [H, W], and the same without its long tails."""
    import cv2

    def soft(values: np.ndarray, deviation_px: float) -> np.ndarray:
        return cv2.GaussianBlur(values, (0, 0), deviation_px, borderType=cv2.BORDER_REPLICATE)

    value = np.log(soft(response, EVEN_PX[0]) + EVEN_FLOOR)
    near = soft(value, EVEN_PX[1])
    return np.exp((near + EVEN_TAIL * soft(value, EVEN_PX[2])) / (1 + EVEN_TAIL)), np.exp(near)


@torch.no_grad()
def depth_from_focus(
    images: Iterable[Tensor], defocus: Defocus, measure: Measure = "sml", picture: bool = True
) -> FocusDepth:
    """What a focus measure finds in slices, each [3, H, W], in order of focus; they are gone through once.

    picture: put together an image of the sharpest slices as well. The maximum is refined between the slices;
    at the ends of the stack, and where the three values have no peak, the slice itself is taken.
    """
    found = _Peaks(picture)
    for image in images:
        if measure == "even":
            both = _even(sum_modified_laplacian(image[None])[0].numpy())
            found.see(image, *(torch.from_numpy(each) for each in both))
        else:
            response = focus_response(image, measure)
            found.see(image, response, response)
    focus = defocus.focus_q.to(found.best)
    maps = (each.split(STRIP_PX) for each in (found.before, found.best, found.after, found.index))
    q = torch.cat([_peak(*strip, focus) for strip in zip(*maps, strict=True)])
    return FocusDepth(q, found.aif, (1 - found.total / found.count / found.near).clamp(min=0))


class _Peaks:
    """Largest of the logarithms [H, W] that come one by one, its neighbours in the stack, its picture.

    `near` and `total`: the measure from close by, without long tails, in that slice and over all of them.
    """

    def __init__(self, picture: bool):
        self.count, self.aif, self._with_picture = 0, None, picture

    def see(self, image: Tensor, response: Tensor, near: Tensor) -> None:
        value = response.log()
        if self.count == 0:
            self.count, self.total, self.near, self.best = 1, near, near.clone(), value.clone()
            self.aif = image.clone() if self._with_picture else None
            self.before = self.after = self.previous = value
            self.index = torch.zeros_like(value, dtype=torch.int16)
            return
        sharper = value > self.best
        self.after = torch.where(self.index == self.count - 1, value, self.after)
        self.before = torch.where(sharper, self.previous, self.before)
        self.best[sharper], self.near[sharper], self.index[sharper] = (
            value[sharper],
            near[sharper],
            self.count,
        )
        if self.aif is not None:
            self.aif[:, sharper] = image[:, sharper]
        self.total, self.previous = self.total + near, value
        self.count += 1


@torch.no_grad()
def depth_of_photos(images: Iterable[Tensor], defocus: Defocus) -> tuple[Tensor, Tensor]:
    """Inverse depth and confidence [H, W] as one wants to look at them: by `even`, without specks, filled.

    A patch of less than 13 pixels that steps out of its surroundings by more than a slice, and is less sure
    than they are, takes their depth. Where the confidence is below `SURE`, depth comes from around.
    """
    import cv2

    found = depth_from_focus(images, defocus, "even", picture=False)
    focus = defocus.focus_q.to(found.q)
    nearest = torch.bucketize(found.q, focus.flip(0).contiguous()).to(torch.uint8).numpy()
    around = torch.from_numpy(cv2.medianBlur(nearest, SPECK_PX).astype(np.int16))
    typical = cv2.blur(found.confidence.numpy(), (SPECK_PX,) * 2)
    odd = (torch.from_numpy(nearest.astype(np.int16)) - around).abs() > 1
    odd &= found.confidence < torch.from_numpy(typical)
    weight = torch.where(odd | (found.confidence < SURE), 1e-6, found.confidence)
    q = torch.where(weight < SURE, _filled(found.q * weight, weight), found.q)
    return q, torch.where(odd, 0.5 * found.confidence, found.confidence)


def _filled(weighted: Tensor, weight: Tensor) -> Tensor:
    """Values [H, W] from the surroundings: weighted means over windows that double until they hold enough."""
    height, width = weight.shape
    value = weighted / weight.clamp(min=1e-12)
    if min(height, width) < 4:
        return (weighted.sum() / weight.sum().clamp(min=1e-12)).expand_as(weight)
    half = F.avg_pool2d(torch.stack([weighted, weight])[None], 2, ceil_mode=True, count_include_pad=False)[0]
    coarse = F.interpolate(_filled(*half)[None, None], (height, width), mode="bilinear", align_corners=False)
    share = (weight / SURE).clamp(max=1)
    return share * value + (1 - share) * coarse[0, 0]


@torch.no_grad()
def focus_guess(images: Tensor, defocus: Defocus, measure: Measure = "ring") -> Tensor:
    """Inverse depth [B, 1, H, W] of stacks [B, S, 3, H, W] by a focus measure, without gradient."""
    focus = defocus.focus_q.expand(len(images), -1)
    found = [depth_from_focus(s, Defocus(q, q), measure)[0] for s, q in zip(images, focus, strict=True)]
    return torch.stack(found)[:, None]


@torch.no_grad()
def focus_mean(images: Tensor, defocus: Defocus, measure: Measure = "ring") -> Tensor:
    """Mean inverse depth [B, 1, H, W] of the slices [B, S, 3, H, W], weighted by how sharp each is.

    It falls short of the ends of the stack, but where `focus_guess` jumps to a wrong slice it does not.
    """
    weights = torch.softmax(MEAN_POWER * focus_response(images, measure).log(), 1)
    focus = defocus.focus_q.to(images)[..., None, None]
    return (weights * focus).sum(1, keepdim=True)


@torch.no_grad()
def sharpest_slices(images: Tensor) -> Tensor:
    """All-in-focus image [B, 3, H, W]: every pixel from the slice of [B, S, 3, H, W] that `ring` prefers.

    The measure that is best for depth is not best for the picture: it looks too far around.
    """
    best = focus_response(images, "ring").argmax(1)[:, None, None]
    return images.gather(1, best.expand(-1, 1, 3, -1, -1)).squeeze(1)


@torch.no_grad()
def full_size_image(images: Iterable[Tensor], defocus: Defocus, q: Tensor) -> Tensor:
    """All-in-focus image [3, H, W] of slices [3, H, W], gone through once, from inverse depth q [h, w].

    q may have been found at a smaller size than that of the slices, to which `defocus` belongs. It says which
    slice should be sharp where; among those near it, each pixel prefers those in which its surroundings are
    sharpest by `ring`.
    """
    focus_gain = zip(defocus.focus_q, defocus.gain_px, strict=True)
    total = weight = largest = None
    for image, (focus, gain) in zip(images, focus_gain, strict=True):
        if total is None:
            size = image.shape[-2:]
            q = F.interpolate(q[None, None], size, mode="bilinear", align_corners=False)[0, 0]
            total, weight, largest = torch.zeros_like(image), torch.zeros_like(q), torch.full_like(q, -1e9)
        value = FULL_SIZE_POWER * focus_response(image, "ring").log()
        value -= gain * (q - focus).abs() / FULL_SIZE_BLUR_PX
        new = torch.maximum(largest, value)  # a softmax over slices that come one by one
        old_share, share = (largest - new).exp_(), (value - new).exp_()
        total.mul_(old_share).add_(image * share)
        weight.mul_(old_share).add_(share)
        largest = new
    return total / weight


def _peak(before: Tensor, at: Tensor, after: Tensor, best: Tensor, positions: Tensor) -> Tensor:
    """Vertex of the parabola through the maximum [H, W], of slice `best`, and its neighbours in the stack."""
    best = best.long()
    if len(positions) < 3:
        return positions[best]
    inside = (best > 0) & (best < len(positions) - 1)
    middle = best.clamp(1, len(positions) - 2)
    x = [positions[middle + offset] for offset in (-1, 0, 1)]
    slope_before, slope_after = (at - before) / (x[1] - x[0]), (after - at) / (x[2] - x[1])
    curvature = (slope_after - slope_before) / (x[2] - x[0])
    bent = inside & (curvature < 0)
    safe = torch.where(bent, curvature, -1.0)
    # The parabola's slope is that of a chord at the chord's middle.
    vertex = (x[0] + x[1]) / 2 - slope_before / (2 * safe)
    low, high = torch.minimum(x[0], x[2]), torch.maximum(x[0], x[2])
    return torch.where(bent, vertex.clamp(low, high), positions[best])
