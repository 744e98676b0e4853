"""What the paper compares with: three networks without a notion of space, and copying the nearest photo.

The paper says of them only: the same loss, at least as many parameters as DeepVoxels (170 M), one model per
scene. Blocks are those of DeepVoxels' 2D networks; the sizes below are this project's choice.

* `pix2pix` (Isola et al. 2017): the viewing direction of every pixel -> colour, by one U-Net.
* `tatarchenko` (Tatarchenko et al. 2015): an autoencoder of a source view; both poses join its latent.
* `worrall` (Worrall et al. 2017): an autoencoder whose latent is 3-vectors that turn with the camera.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepvoxels.models.blocks import ConvUnit, Down, UNet, Up, unet_widths
from deepvoxels.models.layout import channels_last
from deepvoxels.models.options import LARGEST_WIDTH
from shared.errors import FieldError
from shared.geometry.camera import camera_rays
from shared.runs.config import check_ranges

__all__ = [
    "BASELINES",
    "BaselineOptions",
    "Pix2Pix",
    "Tatarchenko",
    "Worrall",
    "build_baseline",
    "nearest_neighbour",
    "ray_direction_image",
    "rotate_latent",
]


@dataclass
class BaselineOptions:
    """Sizes of a baseline. The defaults, at 512 pixels, give each method 171 M parameters or more."""

    image_side: int = 512
    widths: list[int] = field(default_factory=list)  # at each side, largest first; empty: full size
    hidden: int = 0  # of the fully connected layers; 0: 4 * the deepest width
    vectors: int = 0  # 3-vectors of the rotating latent; 0: 2/3 of the deepest width

    def __post_init__(self) -> None:
        check_ranges(self, image_side=(2, 8192), hidden=(0, 1_000_000), vectors=(0, 1_000_000))
        if not all(1 <= width <= LARGEST_WIDTH for width in self.widths):
            raise FieldError("widths", f"must have entries from 1 to {LARGEST_WIDTH}, got {self.widths}")
        if self.widths and (len(self.widths) < 2 or self.image_side % (1 << (len(self.widths) - 1))):
            halvings = f"{len(self.widths) - 1} halvings, at least 1, of image_side {self.image_side}"
            raise FieldError("widths", f"do not fit: {self.widths} ask for {halvings}")


def build_baseline(name: str, options: BaselineOptions) -> nn.Module:
    """A baseline by its name: one of `BASELINES`."""
    if name not in BASELINES:
        raise ValueError(f"unknown baseline {name!r}: choose one of {sorted(BASELINES)}")
    network = BASELINES[name](options)
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = channels_last(parameter.data)
    return network


def ray_direction_image(K: Tensor, world_from_cam: Tensor, side: int) -> Tensor:
    """World-space unit vectors through every pixel centre: [N, 3, 3], [N, 4, 4] -> [N, 3, S, S]."""
    _, directions = camera_rays(K, world_from_cam, side, side)  # [N, S, S, 3]
    return F.normalize(directions, dim=-1).movedim(-1, 1)


def nearest_neighbour(known_world_from_cam: Tensor, world_from_cam: Tensor) -> Tensor:
    """Index [N] of the known camera [M, 4, 4] that looks most nearly the same way as each camera [N, 4, 4].

    The released helper compares positions as seen from the world's origin instead; for cameras that look at
    the origin, as those of the paper's scenes do, this is the same.
    """
    known = F.normalize(known_world_from_cam[:, :3, 2], dim=-1)
    return (world_from_cam[:, :3, 2] @ known.T).argmax(dim=1)


class Pix2Pix(nn.Module):
    """Ray directions of the target view to its colours: a U-Net down to one pixel (187.6 M parameters)."""

    def __init__(self, options: BaselineOptions) -> None:
        super().__init__()
        widths = options.widths or unet_widths(64, _halvings(options.image_side), 704)
        self.side = options.image_side
        self.unet = UNet(2, 3, widths[0], widths)
        self.colour = ConvUnit(2, widths[0], 3, norm=False, slope=None)

    def forward(
        self, source_images: Tensor, world_from_source: Tensor, world_from_target: Tensor, K: Tensor
    ) -> Tensor:
        """Images [N, 3, S, S] in [0, 1] of target poses [N, 4, 4], K [N, 3, 3]; the source is not used."""
        directions = ray_direction_image(K, world_from_target, self.side)
        return _colour(self.colour(self.unet(channels_last(directions))))


class _Autoencoder(nn.Module):
    """Convolutions down to a latent vector and back; what happens to the latent is up to the subclass."""

    def __init__(self, options: BaselineOptions) -> None:
        super().__init__()
        widths = options.widths or [64, *unet_widths(64, _halvings(options.image_side), 808)[:-1]]
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.encoder = nn.ModuleList(
            Down(2, 3 if level == 0 else outer, inner, middle=outer, norm=level < len(pairs) - 1)
            for level, (outer, inner) in enumerate(pairs)
        )
        self.decoder = nn.ModuleList(
            Up(2, inner, outer, norm=level > 0) for level, (outer, inner) in enumerate(reversed(pairs))
        )
        self.colour = ConvUnit(2, widths[0], 3, norm=False, slope=None)
        self.image_side = options.image_side
        self.deepest = (widths[-1], *(options.image_side >> len(pairs),) * 2)
        self.latent = self.deepest[0] * self.deepest[1] ** 2
        self.hidden = options.hidden or 4 * widths[-1]

    def forward(
        self, source_images: Tensor, world_from_source: Tensor, world_from_target: Tensor, K: Tensor
    ) -> Tensor:
        """Target views [N, 3, S, S] in [0, 1] from source views and poses [N, 4, 4]; K is not used."""
        if source_images.shape[-2:] != (self.image_side,) * 2:
            raise ValueError(
                f"this network was built for images of side {self.image_side}, got "
                f"{tuple(source_images.shape)}"
            )
        x = channels_last(source_images - 0.5)
        for down in self.encoder:
            x = down(x)
        latent = self.move(x.flatten(1), world_from_source, world_from_target)
        x = channels_last(latent.view(-1, *self.deepest))
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


def _halvings(side: int) -> int:
    return (side & -side).bit_length() - 1


def _colour(x: Tensor) -> Tensor:
    return 0.5 + 0.5 * torch.tanh(x)


BASELINES = {"pix2pix": Pix2Pix, "tatarchenko": Tatarchenko, "worrall": Worrall}
