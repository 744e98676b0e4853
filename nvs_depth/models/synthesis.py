"""The network: an image and a relative pose to the new view and its depth.

    source = network.encode(View(image, K))                          # once per image: encoder, source depth
    rendered = network.render(source, K_target, target_from_source)  # once per new view
    outputs = network(source, target, target_from_source)            # training: also reads the target image

Direct warp: the source's features are splatted with the source's depth into the target camera, to help the
depth decoder there. Inverse warp: the same source features are fetched with the target depth that results,
without holes, for the decoder of the image.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nvs_depth.models.decoders import DepthDecoder, DepthMaps, ViewDecoder
from nvs_depth.models.encoder import Encoded, Encoder, initialise
from nvs_depth.models.options import ModelOptions
from nvs_depth.models.warps import Cameras, direct_warp_pyramid, inverse_warp_pyramid, move_latent

__all__ = ["RenderedView", "SourceView", "SynthesisNetwork", "TrainingOutputs", "View"]


class View(NamedTuple):
    """Images with their cameras."""

    image: Tensor  # [B, 3, S, S] in [0, 1]
    K: Tensor  # [B, 3, 3]


class SourceView(NamedTuple):
    """What is computed once for an image, however many views are made of it."""

    encoded: Encoded
    depth: DepthMaps
    K: Tensor  # [B, 3, 3]

    def expand(self, count: int) -> "SourceView":
        """The same single source for `count` targets, without copying."""
        latent, features = self.encoded
        encoded = Encoded(_expand(latent, count), [_expand(f, count) for f in features])
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


class SynthesisNetwork(nn.Module):
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

    def encode(self, view: View) -> SourceView:
        """Encode images; ValueError unless they are [B, 3, S, S] with the S of the options."""
        side = self.options.image_side
        if view.image.ndim != 4 or view.image.shape[1:] != (3, side, side):
            got = list(view.image.shape)
            raise ValueError(f"the network takes RGB images [B, 3, {side}, {side}], got {got}")
        encoded = self.encoder(view.image)
        return SourceView(encoded, self.depth_decoder(*encoded), view.K)

    def render(self, source: SourceView, K_target: Tensor, target_from_source: Tensor) -> RenderedView:
        """The views from cameras [B, 4, 4] relative to their sources, with intrinsics [B, 3, 3]."""
        o, cameras = self.options, Cameras(source.K, K_target, target_from_source)
        latent, features = source.encoded
        latent = move_latent(latent, target_from_source, o)
        decoder = self.depth_decoder if self.target_depth_decoder is None else self.target_depth_decoder
        if o.depth_from == "latent" or o.target_features == "zeros":
            depth = decoder(latent, None)
        elif o.target_features == "two_pass":
            first = decoder(latent, None)
            maps = first.for_features(features)
            depth = decoder(latent, inverse_warp_pyramid(features, maps, cameras, o))
        else:
            maps = source.depth.for_features(features)
            depth = decoder(latent, direct_warp_pyramid(features, maps, cameras, o))
        fetched = inverse_warp_pyramid(features, depth.for_features(features), cameras, o)
        return RenderedView(self.view_decoder(latent, fetched), depth)

    def forward(self, source: View, target: View, target_from_source: Tensor) -> TrainingOutputs:
        """Render the target view and read the depths of both images, each through its own pass.

        Source and target are not put into one batch: the batch statistics would change.
        """
        encoded_source, encoded_target = self.encode(source), self.encode(target)
        rendered = self.render(encoded_source, target.K, target_from_source)
        return TrainingOutputs(rendered, encoded_source.depth, encoded_target.depth)

    @torch.no_grad()
    def views(self, source: SourceView, K_target: Tensor, target_from_source: Tensor) -> RenderedView:
        """`render` of ONE source for any number of targets [N, 4, 4], without gradients."""
        return self.render(source.expand(len(target_from_source)), K_target, target_from_source)


def _expand(tensor: Tensor, count: int) -> Tensor:
    return tensor.expand(count, *tensor.shape[1:])
