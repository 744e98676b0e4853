"""What the paper compares with: three networks without a notion of space, and copying the nearest photo.

The paper says of them only: the same loss, at least as many parameters as DeepVoxels (170 M), one model per
scene. Blocks are those of DeepVoxels' 2D networks; the sizes below are this project's choice.

* `pix2pix` (Isola et al. 2017): the viewing direction of every pixel -> colour, by one U-Net.
* `tatarchenko` (Tatarchenko et al. 2015): an autoencoder of a source view; both poses join its latent.
* `worrall` (Worrall et al. 2017): an autoencoder whose latent is 3-vectors that turn with the camera.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepvoxels.config import BaselineOptions
from deepvoxels.models.networks import ConvUnit, Down, UNet, Up
from shared.geometry.camera import camera_rays

__all__ = [
    "BASELINES",
    "Pix2Pix",
    "Tatarchenko",
    "Worrall",
    "build_baseline",
    "ray_direction_image",
    "rotate_latent",
]


def build_baseline(name: str, options: BaselineOptions) -> nn.Module:
    """A baseline by its name: one of `BASELINES`.

    Each is called with source photos [1 or N, 3, S, S] in [0, 1], their poses, the target poses [N, 4, 4] and
    K [N, 3, 3], and gives the target views [N, 3, S, S] in [0, 1].
    """
    return BASELINES[name](options)


def ray_direction_image(K: Tensor, world_from_cam: Tensor, side: int) -> Tensor:
    """World-space unit vectors through every pixel centre: [N, 3, 3], [N, 4, 4] -> [N, 3, S, S]."""
    _, directions = camera_rays(K, world_from_cam, side, side)  # [N, S, S, 3]
    return F.normalize(directions, dim=-1).movedim(-1, 1)


class Pix2Pix(nn.Module):
    """Ray directions of the target view to its colours: a U-Net down to one pixel (187.6 M parameters)."""

    def __init__(self, options: BaselineOptions) -> None:
        super().__init__()
        widths = options.widths_up_to(704)
        self.side = options.image_side
        self.unet = UNet(2, 3, widths[0], widths)
        self.colour = ConvUnit(2, widths[0], 3, norm=False, slope=None)

    def forward(
        self, source_images: Tensor, world_from_source: Tensor, world_from_target: Tensor, K: Tensor
    ) -> Tensor:
        """See `build_baseline`; the source is not used."""
        directions = ray_direction_image(K, world_from_target, self.side)
        return _colour(self.colour(self.unet(directions)))


class _Autoencoder(nn.Module):
    """Convolutions down to a latent vector and back; what happens to the latent is up to the subclass."""

    def __init__(self, options: BaselineOptions) -> None:
        super().__init__()
        widths = options.widths or [64, *options.widths_up_to(808)[:-1]]
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.encoder = nn.ModuleList(
            Down(2, 3 if level == 0 else outer, inner, middle=outer, norm=level < len(pairs) - 1)
            for level, (outer, inner) in enumerate(pairs)
        )
        self.decoder = nn.ModuleList(
            Up(2, inner, outer, norm=level > 0) for level, (outer, inner) in enumerate(reversed(pairs))
        )
        self.colour = ConvUnit(2, widths[0], 3, norm=False, slope=None)
        self.deepest = (widths[-1], *(options.image_side >> len(pairs),) * 2)
        self.latent = self.deepest[0] * self.deepest[1] ** 2
        self.hidden = options.hidden or 4 * widths[-1]

    def forward(
        self, source_images: Tensor, world_from_source: Tensor, world_from_target: Tensor, K: Tensor
    ) -> Tensor:
        """See `build_baseline`; K is not used."""
        count = len(world_from_target)
        x = (source_images - 0.5).expand(count, -1, -1, -1)
        world_from_source = world_from_source.expand(count, 4, 4)
        for down in self.encoder:
            x = down(x)
        latent = self.move(x.flatten(1), world_from_source, world_from_target)
        x = latent.view(-1, *self.deepest)
        for up in self.decoder:
            x = up(x)
        return _colour(self.colour(x))

    def move(self, latent: Tensor, world_from_source: Tensor, world_from_target: Tensor) -> Tensor:
        """Latent [N, L] of the source view -> of the target view."""
        raise NotImplementedError


class Tatarchenko(_Autoencoder):
    """Three fully connected layers read the latent and the 12 numbers of both poses (171.5 M parameters)."""

    def __init__(self, options: BaselineOptions) -> None:
        super().__init__(options)
        self.layers = nn.Sequential(
            nn.Linear(self.latent + 24, self.hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(self.hidden, self.hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(self.hidden, self.latent),
            nn.LeakyReLU(0.2),
        )

    def move(self, latent: Tensor, world_from_source: Tensor, world_from_target: Tensor) -> Tensor:
        """Latent [N, L] of the source view -> of the target view."""
        poses = [pose[:, :3].flatten(1) for pose in (world_from_source, world_from_target)]
        return self.layers(torch.cat((latent, *poses), dim=1))


class Worrall(_Autoencoder):
    """Fully connected layers on both sides of a latent of 3-vectors, which are in the source camera's frame.

    They are turned into the target camera's frame; nothing else tells the decoder where it looks (171 M
    parameters).
    """

    def __init__(self, options: BaselineOptions) -> None:
        super().__init__(options)
        numbers = 3 * (options.vectors or 2 * self.deepest[0] // 3 or 1)
        self.to_vectors = nn.Sequential(
            nn.Linear(self.latent, self.hidden), nn.LeakyReLU(0.2), nn.Linear(self.hidden, numbers)
        )
        self.from_vectors = nn.Sequential(
            nn.Linear(numbers, self.hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(self.hidden, self.latent),
            nn.LeakyReLU(0.2),
        )

    def move(self, latent: Tensor, world_from_source: Tensor, world_from_target: Tensor) -> Tensor:
        """Latent [N, L] of the source view -> of the target view."""
        vectors_source = self.to_vectors(latent).unflatten(1, (-1, 3))
        vectors_target = rotate_latent(vectors_source, world_from_source, world_from_target)
        return self.from_vectors(vectors_target.flatten(1))


def rotate_latent(vectors_source: Tensor, world_from_source: Tensor, world_from_target: Tensor) -> Tensor:
    """Turn 3-vectors [N, V, 3] from the source camera's into the target camera's frame; poses [N, 4, 4]."""
    target_from_source = world_from_target[:, :3, :3].mT @ world_from_source[:, :3, :3]
    return vectors_source @ target_from_source.mT


def _colour(x: Tensor) -> Tensor:
    return 0.5 + 0.5 * torch.tanh(x)


BASELINES = {"pix2pix": Pix2Pix, "tatarchenko": Tatarchenko, "worrall": Worrall}
