"""What a dense map is judged by: how well it warps the other views onto the centre (paper, Eq. 14-15).

    total = mean E - edge * mean |grad E| + smoothness * E_S + ssim * (1 - SSIM)

E is the distance of the warped views from the centre view, averaged over the views that see a pixel. Where a
view does not see a pixel, its warped image shows the centre view itself, for what looks at neighbourhoods.
"""

from dataclasses import replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from diffdiffdepth.filters import gaussian_blur
from diffdiffdepth.scene import LightField, Scene
from shared.geometry.camera import pixel_grid, project, transform_points, unproject
from shared.geometry.warp import backward_warp, disparity_warp
from shared.quality.losses import VggFeatures, edge_aware_smoothness
from shared.quality.ssim import ssim_map
from shared.runs.config import STRICT

__all__ = ["LossWeights", "ReprojectionLoss", "agreement", "confidence", "feature_network", "warp_to_centre"]

OCCLUSION_BINS = 32
FOOTPRINT_MARGIN_PX = 0.05  # what lands so close to a pixel is interpolated from that one alone
COLOUR_DIFFERENCE, POINT_DISTANCE_PX = 0.05, 16.0  # at which the confidence falls to 1/e
Visibility = Literal["footprint", "pixel"]
FEATURES = "relu1_2"  # 64 channels at full resolution


@dataclass(config=STRICT, frozen=True)
class LossWeights:
    """Factors of the terms next to the data term, and how images are compared there.

    The factors are the released code's for light fields. For multi-view scenes its smoothness is 0.0075 and
    its SSIM weight 0.05 (with the wrong sign there). Its edge reward, 0.01, acts on the sum over five views;
    here it acts on their mean, as in the paper. `blur_px` blurs all images first: a view between its pixels
    is blurred by bilinear interpolation, and a sharp image fits best where that does not happen.
    `brightness_px` lets every view be brighter or darker than the centre by what changes slowly over the
    image, on this scale: nothing real is quite matt, and on a surface with faint texture the highlights that
    move with the view outweigh it. 0 turns either off. For `visibility` see `warp_to_centre`.
    """

    edge: NonNegativeFloat = 0.05
    smoothness: NonNegativeFloat = 0.05
    ssim: NonNegativeFloat = 0.0
    blur_px: Annotated[float, Field(ge=0, le=20)] = 0.0
    brightness_px: Annotated[float, Field(ge=0, le=50)] = 0.0
    visibility: Visibility = "footprint"


def feature_network(weights: str | None = None) -> VggFeatures:
    """VGG-16 up to relu1_2 on images in [0, 1] without normalisation, as in the released code.

    `weights` is a local file, by default torchvision's in torch hub's cache; DataError if it is not there.
    """
    return VggFeatures((FEATURES,), "vgg16", weights, normalisation="none")


class ReprojectionLoss:
    """Self-supervised loss of dense maps of one scene; keeps the centre's features between calls.

    `features` (see `feature_network`) compares VGG features, None compares RGB. `unit` is the disparity or
    depth that counts as one in the smoothness term, which so does not depend on the scale of the scene.
    """

    def __init__(
        self, scene: Scene, weights: LossWeights, features: VggFeatures | None = None, unit: float = 1.0
    ):
        self.smoothness_guide = scene.centre[None]
        if weights.blur_px > 0:
            centre = _blurred(scene.centre[None], weights.blur_px)[0]
            scene = replace(scene, centre=centre, views=_blurred(scene.views, weights.blur_px))
        self.scene, self.weights, self.features, self.unit = scene, weights, features, unit
        self.centre = scene.centre[None]  # [1, 3, H, W]
        with torch.no_grad():
            self.centre_features = self._describe(self.centre)

    def __call__(self, dense: Tensor, views: Tensor | None = None) -> dict[str, Tensor]:
        """Loss terms of a disparity or depth map [H, W] against some views (indices), by default all.

        Returns the unweighted "data", "edge", "smoothness" and "ssim" (those with a weight) and their
        weighted "total". Differentiable in `dense`; which pixels a view sees is taken as given.
        """
        warped, visible = warp_to_centre(self.scene, dense, views, self.weights.visibility)
        if self.weights.brightness_px > 0:
            warped = warped - _brightness(warped - self.centre, visible, self.weights.brightness_px)
        if self.features is not None or self.weights.ssim > 0:
            warped = torch.where(visible, warped, self.centre)
        distances = self._distances(warped) * visible[:, 0]
        error = distances.sum(0) / visible.sum(dim=(0, 1)).clamp(min=1)  # [H, W]
        terms = {"data": error.mean()}
        if self.weights.edge > 0:
            terms["edge"] = -_gradient_magnitude(error).mean()
        if self.weights.smoothness > 0:
            scaled = dense[None, None] / self.unit
            terms["smoothness"] = edge_aware_smoothness(scaled, self.smoothness_guide, gradient="sobel")
        if self.weights.ssim > 0:
            similarity = ssim_map(warped, self.centre.expand_as(warped), "gaussian11_zero_pad")
            terms["ssim"] = 1 - similarity.mean()
        weighted = [getattr(self.weights, name) * value for name, value in terms.items() if name != "data"]
        return {**terms, "total": sum(weighted, terms["data"])}

    def _describe(self, images: Tensor) -> Tensor:
        return images if self.features is None else self.features(images)[FEATURES]

    def _distances(self, warped: Tensor) -> Tensor:
        """Mean absolute difference from the centre over the channels, [m, H, W]."""
        if self.features is None:
            return (warped - self.centre_features).abs().mean(1)
        views = warped.split(1)  # one by one: the features of a view are as large as 20 images
        return torch.cat([(self._describe(view) - self.centre_features).abs().mean(1) for view in views])


def warp_to_centre(
    scene: Scene, dense: Tensor, views: Tensor | None = None, visibility: Visibility = "footprint"
) -> tuple[Tensor, Tensor]:
    """Views [m, 3, H, W] as the centre camera would see them, and which pixels they see [m, 1, H, W].

    `dense` [H, W] is the centre's disparity (light field) or z-depth (multi-view scene); `views` selects
    views by index. A pixel is seen if it lands within the view, in front of its camera, and nothing nearer
    lands on any of the four pixels that its colour is interpolated from ("footprint") or on the one it is
    nearest to ("pixel", the released code's rule: next to an outline, colours of the near surface leak into
    what passes for seen, and the near surface grows by a pixel or two).
    """
    chosen = slice(None) if views is None else views
    images = scene.views[chosen]
    maps = dense.expand(len(images), 1, *dense.shape)
    with torch.no_grad():
        landing = _landing_pixels(scene, dense, chosen)
    if isinstance(scene, LightField):
        warped, valid = disparity_warp(images, maps, scene.offsets[chosen])
        nearness = dense.detach()
    else:
        poses = scene.view_from_centre[chosen]
        warped, valid = backward_warp(images, maps, scene.view_K[chosen], scene.centre_K, poses)
        nearness = -dense.detach()
    return warped, valid & _unoccluded(landing, nearness, valid[:, 0], visibility)[:, None]


@torch.no_grad()
def agreement(scene: Scene, dense: Tensor) -> tuple[Tensor, Tensor]:
    """How many other views see each pixel of the centre, going by the map itself, and how well they agree.

    Counts [H, W], and the mean absolute difference of colour [H, W] over those views (0 without any).
    """
    count, error = torch.zeros_like(dense), torch.zeros_like(dense)
    for index in range(len(scene.views)):  # one by one: a light field has 80
        warped, visible = warp_to_centre(scene, dense, torch.tensor([index]))
        count += visible[0, 0]
        error += (warped[0] - scene.centre).abs().mean(0) * visible[0, 0]
    return count, error / count.clamp(min=1)


@torch.no_grad()
def confidence(scene: Scene, dense: Tensor, points_px: Tensor) -> Tensor:
    """How far each pixel of a map can be trusted, [H, W] in [0, 1]; 0 where no other view sees it.

    The product of three: the share of the views that see it (of a light field's half, one side of an outline,
    all count), exp(-difference of their colours / 0.05), and exp(-distance to the nearest point / 16 px).
    An order, not a probability.
    """
    from scipy.spatial import cKDTree  # here, as it takes half a second

    count, error = agreement(scene, dense)
    share = (count / (max(1, len(scene.views)) / 2)).clamp(max=1)
    height, width = dense.shape
    pixels = pixel_grid(height, width).reshape(-1, 2).numpy()
    distance, _ = cKDTree(points_px.detach().cpu().numpy()).query(pixels)
    density = torch.exp(-torch.from_numpy(distance).to(dense) / POINT_DISTANCE_PX).view(height, width)
    return share * torch.exp(-error / COLOUR_DIFFERENCE) * density


def _landing_pixels(scene: Scene, dense: Tensor, chosen) -> Tensor:
    """Where the centre's pixels land in the views, [m, H, W, 2]."""
    grid = pixel_grid(*dense.shape, dense.device, dense.dtype)
    if isinstance(scene, LightField):
        return grid + dense[..., None] * scene.offsets[chosen, None, None].to(dense)
    points_centre = unproject(grid, dense, scene.centre_K.to(dense))
    points_view = transform_points(scene.view_from_centre[chosen].to(dense), points_centre[None])
    return project(points_view, scene.view_K[chosen].to(dense))[0]


def _unoccluded(landing: Tensor, nearness: Tensor, valid: Tensor, visibility: Visibility) -> Tensor:
    """Z-buffer at pixel precision: False [m, H, W] where a pixel of a nearer bin lands on the same spot.

    landing: [m, H, W, 2], nearness: [H, W], larger is nearer, valid: [m, H, W], pixels that take part. Bins
    divide the range of all but the outermost 0.2 % of the values, and keep a slanted surface from hiding
    itself; within a footprint, where neighbouring pixels land too, the next bin does not hide either.
    """
    views, (height, width) = len(landing), nearness.shape
    sample = nearness.flatten()[:: max(1, nearness.numel() // 20_000)]
    low, high = torch.quantile(sample, torch.tensor([0.002, 0.998]).to(sample))
    share = (nearness - low) / (high - low).clamp(min=1e-12)
    bins = (share * OCCLUSION_BINS).clamp(0, OCCLUSION_BINS - 1).int().expand(views, -1, -1).flatten(1)
    landing = landing.nan_to_num()
    pixel = _pixel_number(*landing.round().unbind(-1), height, width)
    pixel = pixel.masked_fill_(~valid.flatten(1), height * width)  # one place more, for those outside
    nearest = bins.new_full((views, height * width + 1), -1)
    nearest.scatter_reduce_(1, pixel, bins, "amax")
    if visibility == "pixel":
        return (bins >= nearest.gather(1, pixel)).view(views, height, width)
    low, high = (landing + FOOTPRINT_MARGIN_PX).floor(), (landing - FOOTPRINT_MARGIN_PX).ceil()
    seen = torch.ones_like(bins, dtype=torch.bool)
    for x in (low[..., 0], high[..., 0]):
        for y in (low[..., 1], high[..., 1]):
            seen &= bins + 1 >= nearest.gather(1, _pixel_number(x, y, height, width))
    return seen.view(views, height, width)


def _pixel_number(x: Tensor, y: Tensor, height: int, width: int) -> Tensor:
    """Number [m, H W] of the pixels at whole positions [m, H, W]; those outside count to the border."""
    return (y.clamp(0, height - 1).long() * width + x.clamp(0, width - 1).long()).flatten(1)


def _brightness(difference: Tensor, visible: Tensor, sigma_px: float) -> Tensor:
    """Local mean of differences [m, 3, H, W] over the pixels that are seen [m, 1, H, W]."""
    seen = visible.to(difference)
    total = _blurred(torch.cat([difference * seen, seen], dim=1), sigma_px)
    return total[:, :-1] / total[:, -1:].clamp(min=1e-3)


def _blurred(images: Tensor, sigma_px: float) -> Tensor:
    """Images [m, C, H, W] after a Gaussian cut at 2.5 sigma."""
    return gaussian_blur(images, sigma_px, radius=max(1, round(2.5 * sigma_px)))


def _gradient_magnitude(values: Tensor) -> Tensor:
    """Magnitude [H, W] of the unnormalised Sobel gradient of a map, the border repeated."""
    kernel = values.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    padded = F.pad(values[None, None], (1, 1, 1, 1), mode="replicate")
    gradient = F.conv2d(padded, torch.stack([kernel, kernel.T])[:, None])[0]  # [2, H, W]
    return (gradient.square().sum(0) + 1e-10).sqrt()
