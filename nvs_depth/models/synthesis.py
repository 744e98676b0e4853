"""The whole network: an image and a relative pose to the new view and its depth.

    source = network.encode(image, K)                                # once per image: encoder, source depth
    rendered = network.render(source, K_target, target_from_source)  # once per new view
    outputs = network(image_source, image_target, ...)               # training: also reads the target image

Direct warp: the source's features are splatted with the source's depth into the target camera, to help the
depth decoder there. Inverse warp: the same source features are fetched with the depth so found, free of
holes, for the decoder of the image.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nvs_depth.models.decoders import DepthDecoder, DepthMaps, ViewDecoder
from nvs_depth.models.encoder import Encoded, Encoder
from nvs_depth.models.initialisation import initialise
from nvs_depth.models.latent import move_latent
from nvs_depth.models.options import ModelOptions
from nvs_depth.models.warps import direct_warp_pyramid, inverse_warp_pyramid
from shared.geometry.camera import invert_pose

__all__ = ["RenderedView", "SourceView", "TrainingOutputs", "ViewSynthesizer"]


class SourceView(NamedTuple):
    """What is computed once for an image, however many views are made of it."""

    encoded: Encoded
    depth: DepthMaps
    K: Tensor  # [B, 3, 3]

    def expand(self, count: int) -> "SourceView":
        """The same single source for `count` targets, without copying."""
        encoded = Encoded(
            _expand(self.encoded.latent, count), [_expand(f, count) for f in self.encoded.features]
        )
        depth = DepthMaps(_expand(self.depth.full, count), [_expand(d, count) for d in self.depth.pyramid])
        return SourceView(encoded, depth, _expand(self.K, count))


class RenderedView(NamedTuple):
    """The new view: images [B, 3, s, s] in [0, 1] with s = S, S/2, S/4, S/8, and its depth."""

    images: list[Tensor]
    depth: DepthMaps


class TrainingOutputs(NamedTuple):
    """`rendered` with the depths that only training looks at."""

    rendered: RenderedView  # its depth: D_t of the paper's code
    depth_source: DepthMaps  # D_s
    depth_target_image: DepthMaps  # D_b, read from the true target image


class ViewSynthesizer(nn.Module):
    """Encoder, depth decoder and view decoder with the variants of `ModelOptions`."""

    def __init__(self, options: ModelOptions) -> None:
        super().__init__()
        self.options = options
        self.encoder = Encoder(options)
        self.depth_decoder = DepthDecoder(options)
        self.target_depth_decoder = None if options.shared_depth_decoder else DepthDecoder(options)
        self.view_decoder = ViewDecoder(options)
        initialise(self, self.encoder.trunk, options.encoder_init, options.imagenet_weights)
        self.to(memory_format=torch.channels_last)  # convolutions are faster so, on CPU and GPU

    def encode(self, image: Tensor, K: Tensor) -> SourceView:
        """Encode images [B, 3, S, S] in [0, 1] with intrinsics [B, 3, 3]; ValueError for another size."""
        side = self.options.image_side
        if image.ndim != 4 or image.shape[1:] != (3, side, side):
            raise ValueError(f"the network takes RGB images [B, 3, {side}, {side}], got {list(image.shape)}")
        encoded = self.encoder(image)
        return SourceView(encoded, self.depth_decoder(*encoded), K)

    def render(self, source: SourceView, K_target: Tensor, target_from_source: Tensor) -> RenderedView:
        """The views from cameras [B, 4, 4] relative to their sources, with intrinsics [B, 3, 3]."""
        o = self.options
        latent, features = source.encoded
        latent = move_latent(latent, target_from_source, o.latent_translation, o.latent_motion)
        source_from_target = invert_pose(target_from_source)

        def inverse_warp(depth: DepthMaps) -> list[Tensor]:
            return inverse_warp_pyramid(
                features, depth.pyramid, source.K, K_target, source_from_target,
                o.image_side, o.intrinsics, o.sampling,
            )  # fmt: skip

        decoder = self.depth_decoder if self.target_depth_decoder is None else self.target_depth_decoder
        if o.depth_from == "latent" or o.target_features == "zeros":
            depth = decoder(latent, None)
        elif o.target_features == "two_pass":
            depth = decoder(latent, inverse_warp(decoder(latent, None)))
        else:
            splatted = direct_warp_pyramid(
                features,
                source.depth.pyramid,
                source.K,
                K_target,
                target_from_source,
                o.image_side,
                o.intrinsics,
            )
            depth = decoder(latent, splatted)
        return RenderedView(self.view_decoder(latent, inverse_warp(depth)), depth)

    def forward(
        self,
        image_source: Tensor,
        image_target: Tensor,
        K_source: Tensor,
        K_target: Tensor,
        target_from_source: Tensor,
    ) -> TrainingOutputs:
        """Render the target view and read the depths of both images, each through its own pass.

        Source and target are not put into one batch: the batch statistics would change.
        """
        source = self.encode(image_source, K_source)
        target = self.encode(image_target, K_target)
        rendered = self.render(source, K_target, target_from_source)
        return TrainingOutputs(rendered, source.depth, target.depth)

    @torch.no_grad()
    def views(self, source: SourceView, K_target: Tensor, target_from_source: Tensor) -> RenderedView:
        """`render` of ONE source for any number of targets [N, 4, 4], without gradients."""
        return self.render(source.expand(len(target_from_source)), K_target, target_from_source)


def _expand(tensor: Tensor, count: int) -> Tensor:
    return tensor.expand(count, *tensor.shape[1:])
