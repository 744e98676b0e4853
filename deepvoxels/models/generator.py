"""The generator: a persistent voxel grid per scene, fed by source views, rendered to new views."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepvoxels.config import GeneratorOptions
from deepvoxels.models.fast import accelerate
from deepvoxels.models.networks import (
    DepthCollapse,
    FeatureExtractor,
    Inpainting,
    Integration,
    Occlusion,
    Renderer,
    occlude,
)
from deepvoxels.models.volume import SamplingMap, VolumeGeometry, lift, project

__all__ = ["Generator", "Rendering"]


class Rendering(NamedTuple):
    """What N cameras see; depth and visibility are None without an occlusion network."""

    images: Tensor  # [N, 3, S, S] in [0, 1]
    depth_fraction: Tensor | None  # [N, 1, h, w], place between first and last plane, in [-0.5, 0.5)
    visibility: Tensor | None  # [N, 1, D, h, w], sums to 1 along each ray
    coarse: Tensor | None  # [N, 3, h, w] in [0, 1], the colour head's; None without one


class Generator(nn.Module):
    """Feature extractor -> lifting -> integration -> inpainting -> projection -> occlusion -> renderer.

    What the model has seen of its scene is in the buffer `state` [1, F, G, G, G], saved with the weights.
    One training step is

        new_state = generator.observe(photo, lifting)
        generator.remember(new_state)
        seen = generator.render(generator.inpaint(new_state), projections)

    and rendering afterwards is `volume = generator.inpaint(generator.state)` once, then `render(volume, ...)`
    for any number of cameras. With `fast`, twins from `models/fast` do the same sooner and in less memory.
    """

    state: Tensor
    lift, project, occlude = staticmethod(lift), staticmethod(project), staticmethod(occlude)

    def __init__(self, options: GeneratorOptions, fast: bool = True) -> None:
        super().__init__()
        self.options = options
        features, side = options.grid_features, options.grid_side
        self.extractor = FeatureExtractor(options)
        self.integration = Integration(
            features, options.integration_dropout, options.coordinates, options.largest_state
        )
        self.inpainting = Inpainting(features, options.inpainting_widths, options.coordinates)
        self.occlusion = Occlusion(options) if options.occlusion else None
        self.collapse = None if options.occlusion else DepthCollapse(options)
        self.renderer = Renderer(options)
        self.register_buffer("state", torch.zeros(1, features, side, side, side))
        if fast:
            accelerate(self)

    def geometry(
        self, origin: Sequence[float], scale: float, near: float, far: float | None = None
    ) -> VolumeGeometry:
        """Volume of a scene of side `scale` around `origin`, seen from z-depth `near` on; in scene units."""
        options = self.options
        x, y, z = (float(value) for value in origin)
        return VolumeGeometry(
            (x, y, z), options.grid_pad * scale, near, options.grid_side, options.planes, options.lattice, far
        )

    def lifting(self, geometry: VolumeGeometry, K: Tensor, world_from_cam: Tensor) -> SamplingMap:
        """Map of a source camera; K [3, 3] is that of the image_side x image_side image."""
        return geometry.lifting(K, world_from_cam, self.options.image_side, self.options.feature_side)

    def projection(self, geometry: VolumeGeometry, K: Tensor, world_from_cam: Tensor) -> SamplingMap:
        """Map of a target camera; K as in `lifting`."""
        return geometry.projection(K, world_from_cam, self.options.image_side, self.options.feature_side)

    def observe(self, source_images: Tensor, liftings: Sequence[SamplingMap]) -> Tensor:
        """The stored state after seeing source images [B, 3, S, S] in [0, 1], one after the other.

        Returns [1, F, G, G, G] with a graph through extractor and integration; the buffer is left alone.
        """
        features = self.extractor(source_images - 0.5).to(self.state.dtype)  # geometry is never halved
        observations = self.lift(features, liftings)
        state = self.state.detach().clone()
        for observation in observations.split(1):
            state = self.integration(state, observation)
        return state

    @torch.no_grad()
    def remember(self, state: Tensor) -> None:
        """Overwrite the persistent state; gradients do not flow from one step into the next."""
        self.state.copy_(state)

    def inpaint(self, state: Tensor) -> Tensor:
        """State [1, F, G, G, G] -> volume to render from, >= 0."""
        return self.inpainting(state).to(state.dtype)

    def render(self, volume: Tensor, projections: Sequence[SamplingMap]) -> Rendering:
        """Views of an inpainted volume [1, F, G, G, G]; `VolumeGeometry.metric_depth` makes their z-depth."""
        if self.options.batch_targets or len(projections) == 1:
            return self._render(volume, projections)
        parts = zip(*(self._render(volume, [where]) for where in projections), strict=True)
        return Rendering(*(None if part[0] is None else torch.cat(part) for part in parts))

    def forward(
        self, source_images: Tensor, liftings: Sequence[SamplingMap], projections: Sequence[SamplingMap]
    ) -> tuple[Tensor, Tensor]:
        """One training step's images and the new state, which the caller hands to `remember`."""
        state = self.observe(source_images, liftings)
        return self.render(self.inpaint(state), projections)[0], state

    def _render(self, volume: Tensor, projections: Sequence[SamplingMap]) -> Rendering:
        if self.occlusion is None:
            features, seen = self.collapse(self.project(volume, projections)), (None, None)
        else:
            features, *seen = self.occlude(self.occlusion, volume, projections)
        images, coarse = self.renderer(features)
        return Rendering(images + 0.5, *seen, None if coarse is None else coarse + 0.5)
