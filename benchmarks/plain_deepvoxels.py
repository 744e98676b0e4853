"""The DeepVoxels generator written plainly, in the manner of its released code, as a yardstick for ours.

Padding modules before convolutions, one convolution per gate, coordinates concatenated, whole view volumes,
lifting and projection by gathering 4 or 8 corners with index arrays made in every step, one target after
another. Tensors are registered in the order of `export_released`, so that weights can be copied over.
"""

import torch
from torch import Tensor, nn

from deepvoxels.config import GeneratorOptions
from deepvoxels.models.generator import Generator
from deepvoxels.models.released import export_released

__all__ = ["PlainGenerator", "gather_frustum", "gather_lift", "plain_frustum_coords", "plain_voxel_pixels"]


def conv_block(dims: int, a: int, b: int, kernel: int, stride: int, norm: bool, slope: float, drop: float):
    """Padding, convolution, norm, activation, dropout as a list of modules."""
    pad, conv, batch_norm = (
        (nn.ReflectionPad2d, nn.Conv2d, nn.BatchNorm2d),
        (nn.ReplicationPad3d, nn.Conv3d, nn.BatchNorm3d),
    )[dims - 2]
    layers = [pad(1), conv(a, b, kernel, stride, bias=not norm)]
    return layers + finish(batch_norm(b) if norm else None, slope, drop)


def finish(norm: nn.Module | None, slope: float, drop: float) -> list[nn.Module]:
    layers = [] if norm is None else [norm]
    layers.append(nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True))
    return [*layers, nn.Dropout2d(drop)] if drop else layers


def down(dims: int, a: int, b: int, norm: bool = True, drop: float = 0.0, middle: int = 0) -> nn.Sequential:
    middle = middle or a
    first = conv_block(dims, a, middle, 3, 1, norm, 0.2, drop) if dims == 2 else []
    return nn.Sequential(*first, *conv_block(dims, middle, b, 4, 2, norm, 0.2, drop))


def up(dims: int, a: int, b: int, norm: bool = True, drop: float = 0.0) -> nn.Sequential:
    conv, batch_norm = ((nn.ConvTranspose2d, nn.BatchNorm2d), (nn.ConvTranspose3d, nn.BatchNorm3d))[dims - 2]
    layers = [conv(a, b, 4, 2, padding=1, bias=not norm), *finish(batch_norm(b) if norm else None, 0.0, drop)]
    return nn.Sequential(*layers, *(conv_block(dims, b, b, 3, 1, norm, 0.0, drop) if dims == 2 else []))


class Level(nn.Module):
    """concat(x, up(inner(down(x))))."""

    def __init__(self, dims: int, widths: list[int], drop: float) -> None:
        super().__init__()
        outer, inner, deeper = widths[0], widths[1], widths[1:]
        deepest = len(deeper) == 1
        self.down = down(dims, outer, inner, not deepest, drop)
        self.up = up(dims, inner if deepest else 2 * inner, outer, not deepest, drop)
        self.inner = nn.Identity() if deepest else Level(dims, deeper, drop)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.up(self.inner(self.down(x)))], dim=1)


def unet(dims: int, a: int, b: int, widths: list[int], drop: float = 0.0) -> nn.Sequential:
    head = conv_block(dims, a, widths[0], 3, 1, True, 0.2, drop)
    tail = conv_block(dims, 2 * widths[0], b, 3, 1, True, 0.0, drop)
    return nn.Sequential(*head, Level(dims, widths, drop), *tail)


def coordinates(*sides: int) -> Tensor:
    axes = [(torch.arange(n) - n / 2) / n for n in sides]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


class Integration(nn.Module):
    """Gated recurrent unit with six convolutions over features and coordinates."""

    def __init__(self, features: int, drop: float) -> None:
        super().__init__()

        def conv(out: int, bias: bool) -> nn.Sequential:
            return nn.Sequential(nn.ReplicationPad3d(1), nn.Conv3d(features + 3, out, 3, bias=bias))

        self.reset_old, self.reset_new = conv(1, True), conv(1, False)
        self.update_old, self.update_new = conv(1, True), conv(1, False)
        self.candidate_new, self.candidate_old = conv(features, True), conv(features, False)
        self.drop = nn.Dropout3d(drop)

    def forward(self, old: Tensor, observation: Tensor, coords: Tensor) -> Tensor:
        state, new = torch.cat([old, coords], 1), torch.cat([observation, coords], 1)
        reset = torch.sigmoid(self.reset_old(state) + self.reset_new(new))
        update = torch.sigmoid(self.update_old(state) + self.update_new(new))
        candidate = self.drop(self.candidate_new(new)) + self.drop(self.candidate_old(reset * state))
        return (1 - update) * old + update * torch.relu(candidate)


class Occlusion(nn.Module):
    """Visibility of every sample of a view volume, and the features averaged with it along depth."""

    def __init__(self, options: GeneratorOptions) -> None:
        super().__init__()
        base, levels = options.occlusion_base, options.occlusion_depth
        widths = [min(base << i, options.occlusion_max) for i in range(levels)]
        self.compress = nn.Sequential(*conv_block(3, options.grid_features + 1, base, 3, 1, True, 0.0, 0.0))
        self.unet = unet(3, base, base, [*widths, widths[-1]])
        self.logits = nn.Sequential(nn.ReplicationPad3d(1), nn.Conv3d(2 * base + 1, 1, 3))

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        depth = coordinates(*volume.shape[2:])[:, :1].to(volume)
        compressed = self.compress(torch.cat([depth, volume], 1))
        weights = self.logits(torch.cat([compressed, self.unet(compressed), depth], 1)).softmax(2)
        return (weights * volume).mean(2), (weights * depth).sum(2)


class PlainGenerator(nn.Module):
    """The `head` variant in the released lattice, at the sizes and widths of `options`."""

    def __init__(self, options: GeneratorOptions) -> None:
        super().__init__()
        features, grid = options.grid_features, options.grid_side
        self.options = options
        self.register_buffer("state", torch.zeros(1, features, grid, grid, grid))
        self.register_buffer("coords", coordinates(grid, grid, grid), persistent=False)
        widths = [options.nf0 << i for i in range(options.doublings)]
        downs = [down(2, 3, widths[0], middle=options.nf0)]
        downs += [down(2, a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)]
        self.extractor = nn.Sequential(*downs, unet(2, widths[-1], features, options.extractor_widths))
        self.integration = Integration(features, options.integration_dropout)
        self.inpainting = unet(3, features + 3, features, [features * m for m in options.inpainting_widths])
        self.occlusion = Occlusion(options)
        drop, ups = options.renderer_dropout, [4 * options.nf0, *options.up_widths]
        narrow = options.nf0 // 2
        self.renderer = nn.Sequential(
            unet(2, features, ups[0], options.renderer_widths, drop),
            *(up(2, a, b, drop=drop) for a, b in zip(ups[:-1], ups[1:], strict=True)),
            *conv_block(2, ups[-1], narrow, 3, 1, True, 0.0, 0.0),
            nn.ReflectionPad2d(1),
            nn.Conv2d(narrow, 3, 3),
            nn.Tanh(),
        )

    def forward(
        self, source: Tensor, K_map: Tensor, source_pose: Tensor, target_poses: Tensor, scene
    ) -> Tensor:
        """Images [N, 3, S, S] in [0, 1] of targets [N, 4, 4]; keeps the state. `scene` is (side, near)."""
        uv, seen = plain_voxel_pixels(K_map, source_pose, self.options, scene)
        lifted = gather_lift(self.extractor(source - 0.5), uv, seen, self.options.grid_side)
        state = self.integration(self.state.clone(), lifted, self.coords)
        self.state.copy_(state.detach())
        volume = self.inpainting(torch.cat([state, self.coords], 1))
        images = []
        for pose in target_poses:
            coords, inside = plain_frustum_coords(K_map, pose, self.options, scene)
            features, _ = self.occlusion(gather_frustum(volume, coords, inside))
            images.append(0.5 * self.renderer(features) + 0.5)
        return torch.cat(images)

    @torch.no_grad()
    def copy_weights(self, generator: Generator) -> None:
        """Take over the weights and the state of ours."""
        given = list({id(tensor): tensor for tensor in export_released(generator).values()}.values())
        for own, tensor in zip(self.state_dict().values(), given, strict=True):
            if own.shape != tensor.shape:
                raise ValueError(f"weights do not line up: {tuple(own.shape)} and {tuple(tensor.shape)}")
            own.copy_(tensor)


def plain_voxel_pixels(
    K_map: Tensor, world_from_cam: Tensor, options: GeneratorOptions, scene: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Pixel [G^3, 2] of every voxel in the feature map, and whether it is inside; the grid's middle is 0."""
    grid, side = options.grid_side, options.feature_side
    z, y, x = torch.meshgrid(*(torch.arange(grid),) * 3, indexing="ij")
    points_world = (torch.stack([x, y, z], -1).reshape(-1, 3).to(K_map) - grid / 2) * (scene[0] / grid)
    cam_from_world = torch.linalg.inv(world_from_cam)
    points_cam = points_world @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    uv = (points_cam @ K_map.T)[:, :2] / points_cam[:, 2:]
    return uv, ((uv >= -0.5) & (uv < side - 0.5)).all(1)


def gather_lift(features: Tensor, uv: Tensor, seen: Tensor, grid_side: int) -> Tensor:
    """Feature map [1, F, h, h] at the pixels of all voxels [1, F, G, G, G], from four corners."""
    side = features.shape[-1]
    u, v = uv[seen].clamp(0, side - 1).unbind(1)
    u0, v0 = u.long(), v.long()
    u1, v1 = (u0 + 1).clamp(max=side - 1), (v0 + 1).clamp(max=side - 1)
    du, dv = u - u0, v - v0
    image = features[0]
    values = (
        image[:, v0, u0] * ((1 - du) * (1 - dv))
        + image[:, v0, u1] * (du * (1 - dv))
        + image[:, v1, u0] * ((1 - du) * dv)
        + image[:, v1, u1] * (du * dv)
    )
    grid = features.new_zeros(len(image), len(uv))
    grid[:, seen.nonzero()[:, 0]] = values
    return grid.view(1, -1, grid_side, grid_side, grid_side)


def plain_frustum_coords(
    K_map: Tensor, world_from_cam: Tensor, options: GeneratorOptions, scene: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Voxel coordinates (x, y, z) of all samples of a view volume [D, h, h, 3], and which lie in the grid."""
    grid, side, planes = options.grid_side, options.feature_side, options.planes
    voxel = scene[0] / grid
    axes = (torch.arange(n).to(K_map) for n in (planes, side, side))
    k, v, u = torch.meshgrid(*axes, indexing="ij")
    depth = scene[1] + k * voxel
    rays = torch.stack([u, v, torch.ones_like(u)], -1) @ torch.linalg.inv(K_map).T
    points_world = (rays * depth[..., None]) @ world_from_cam[:3, :3].T + world_from_cam[:3, 3]
    coords = points_world / voxel + grid / 2
    return coords, ((coords >= 0) & (coords < grid)).all(-1)


def gather_frustum(volume: Tensor, coords: Tensor, inside: Tensor) -> Tensor:
    """Grid [1, F, G, G, G] at the samples of a view volume [1, F, D, h, h], from eight corners; 0 outside."""
    last = volume.shape[-1] - 1
    position = coords[inside]  # [n, 3]
    low = position.long()
    high = (low + 1).clamp(max=last)
    (x0, y0, z0), (x1, y1, z1) = low.unbind(1), high.unbind(1)
    dx, dy, dz = (position - low).unbind(1)
    grid = volume[0]
    values = (
        grid[:, z0, y0, x0] * ((1 - dx) * (1 - dy) * (1 - dz))
        + grid[:, z0, y0, x1] * (dx * (1 - dy) * (1 - dz))
        + grid[:, z0, y1, x0] * ((1 - dx) * dy * (1 - dz))
        + grid[:, z0, y1, x1] * (dx * dy * (1 - dz))
        + grid[:, z1, y0, x0] * ((1 - dx) * (1 - dy) * dz)
        + grid[:, z1, y0, x1] * (dx * (1 - dy) * dz)
        + grid[:, z1, y1, x0] * ((1 - dx) * dy * dz)
        + grid[:, z1, y1, x1] * (dx * dy * dz)
    )
    canonical = volume.new_zeros(len(grid), inside.numel())
    canonical[:, inside.flatten().nonzero()[:, 0]] = values
    return canonical.view(1, -1, *inside.shape)
