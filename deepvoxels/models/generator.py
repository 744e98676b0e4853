"""The DeepVoxels generator: a persistent voxel grid per scene, fed by source views, rendered to new views."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepvoxels.models.frustum import sample_frustum
from deepvoxels.models.layout import channels_last, full_precision
from deepvoxels.models.networks import (
    DepthCollapse,
    FeatureExtractor,
    Inpainting,
    Integration,
    Occlusion,
    Renderer,
)
from deepvoxels.models.options import GeneratorOptions
from deepvoxels.models.volume import FrustumMap, SparseMap, VolumeGeometry, lift

__all__ = ["Generator", "Rendering"]


class Rendering(NamedTuple):
    """Views rendered from a volume. Without an occlusion network there is no depth: None."""

    images: Tensor  # [N, 3, S, S] in [0, 1]
    depth_fraction: Tensor | None  # [N, 1, h, h], position between the first and the last plane, [-0.5, 0.5)
    visibility: Tensor | None  # [N, 1, D, h, h], sums to 1 over D


class Generator(nn.Module):
    """Feature extractor -> lifting -> integration -> inpainting -> projection -> occlusion -> renderer.

    What the model has seen of its scene lives in the buffer `state` [1, F, G, G, G], saved with the weights.
    Nothing changes it behind the caller's back: `observe` returns a new state, `remember` stores one.
    One training step is

        new_state = generator.observe(source, lifting)
        generator.remember(new_state)
        views = generator.render(generator.inpaint(new_state), projections)

    and rendering afterwards is `volume = generator.inpaint(generator.state)` once, then `render(volume, ...)`
    for any number of cameras.
    """

    state: Tensor

    def __init__(self, options: GeneratorOptions) -> None:
        super().__init__()
        self.options = options
        features, side = options.grid_features, options.grid_side
        self.extractor = FeatureExtractor(options)
        self.integration = Integration(features, options.integration_dropout, options.coordinates)
        self.inpainting = Inpainting(features, options.inpainting_widths, options.coordinates)
        self.occlusion = Occlusion(options) if options.occlusion else None
        self.collapse = None if options.occlusion else DepthCollapse(options)
        self.renderer = Renderer(options)
        self.register_buffer("state", torch.zeros(1, features, side, side, side))
        for parameter in self.parameters():
            if parameter.dim() in (4, 5):
                parameter.data = channels_last(parameter.data)

    def geometry(
        self, origin: Sequence[float], scale: float, near: float, far: float | None = None
    ) -> VolumeGeometry:
        """Volume of a scene of side `scale` around `origin`, seen from z-depth `near` on; in scene units."""
        options = self.options
        x, y, z = (float(value) for value in origin)
        return VolumeGeometry(
            (x, y, z), options.grid_pad * scale, near, options.grid_side, options.planes, options.lattice, far
        )

    def lifting(self, geometry: VolumeGeometry, K: Tensor, world_from_cam: Tensor) -> SparseMap:
        """Sparse map of a source camera; K [3, 3] is that of the image_side x image_side image."""
        return geometry.lifting(K, world_from_cam, self.options.image_side, self.options.feature_side)

    def projection(self, geometry: VolumeGeometry, K: Tensor, world_from_cam: Tensor) -> FrustumMap:
        """Sparse map of a target camera; K as in `lifting`."""
        return geometry.projection(K, world_from_cam, self.options.image_side, self.options.feature_side)

    def observe(self, source_images: Tensor, lifting: SparseMap | Sequence[SparseMap]) -> Tensor:
        """The stored state after seeing source images [B, 3, S, S] in [0, 1], one after the other.

        Returns [1, F, G, G, G] with a graph through extractor and integration; the buffer is left alone.
        """
        maps = [lifting] if isinstance(lifting, SparseMap) else list(lifting)
        observations = lift(self.extractor(source_images - 0.5), maps, self.options.grid_side)
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
        return self.inpainting(state)

    def render(self, volume: Tensor, projections: FrustumMap | Sequence[FrustumMap]) -> Rendering:
        """Views of an inpainted volume [1, F, G, G, G] from N cameras."""
        maps = [projections] if isinstance(projections, FrustumMap) else list(projections)
        if self.options.batch_targets or len(maps) == 1:
            return self._render(volume, maps)
        parts = zip(*(self._render(volume, [m]) for m in maps), strict=True)
        return Rendering(*(None if part[0] is None else torch.cat(part) for part in parts))

    def forward(
        self,
        source_images: Tensor,
        lifting: SparseMap | Sequence[SparseMap],
        projections: FrustumMap | Sequence[FrustumMap],
    ) -> tuple[Rendering, Tensor]:
        """One training step's rendering and the new state, which the caller hands to `remember`."""
        state = self.observe(source_images, lifting)
        return self.render(self.inpaint(state), projections), state

    def _render(self, volume: Tensor, maps: list[FrustumMap]) -> Rendering:
        samples = sample_frustum(volume, maps)
        if self.occlusion is None:
            features, depth_fraction, visibility = self.collapse(samples), None, None
        else:
            features, depth_fraction, visibility = self.occlusion(samples)
        return Rendering(full_precision(self.renderer(features)) + 0.5, depth_fraction, visibility)
