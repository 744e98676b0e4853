"""DeepVoxels: sampling between images, grid and view volume; whole training steps; one rendered frame."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.fresh import in_fresh_process
from benchmarks.harness import Case, Goal, Trial
from benchmarks.plain_deepvoxels import (
    PlainGenerator,
    gather_frustum,
    gather_lift,
    plain_frustum_coords,
    plain_voxel_pixels,
)
from deepvoxels.config import GeneratorOptions
from deepvoxels.losses import crop_border, loss_terms
from deepvoxels.models.fast.sampling import lift, sampled_rows
from deepvoxels.models.generator import Generator
from deepvoxels.models.networks import Discriminator
from deepvoxels.models.volume import SamplingMap
from shared.geometry.camera import look_at
from shared.runs.command import keep_large_buffers

__all__ = ["CASES"]

SCENE = (1.0, 0.866)  # side of the grid, near plane; the cameras are 1.7 from its middle
LARGE, SMALL = "512 px, grid 32^3 x 64", "128 px, grid 32^3 x 16, nf0 16"
TINY = "64 px, grid 8^3 x 4, nf0 4"
SIZES = {
    LARGE: {},
    SMALL: {"image_side": 128, "grid_features": 16, "nf0": 16},
    TINY: {"image_side": 64, "feature_side": 16, "grid_side": 8, "grid_features": 4, "nf0": 4},
}
PLAIN = "plain, as released"


def options_of(size: str, **changes: object) -> GeneratorOptions:
    """The released architecture at one of the sizes."""
    return GeneratorOptions(**SIZES[size], lattice="released", **changes)


def cameras(image_side: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """K [3, 3] of the image and poses [3, 4, 4], a source and two targets, around the grid."""
    focal, centre = 70 * image_side / 64, image_side * 31.95 / 64
    K = torch.tensor([[focal, 0, centre], [0, focal, centre], [0, 0, 1]], dtype=dtype)
    places = torch.tensor([(1.13, 0.95, 0.85), (0.8, 1.14, 0.98), (-1.2, 0.3, 1.166)], dtype=torch.float64)
    return K, torch.stack([look_at(place) for place in places]).to(dtype)


def pixels_in_map(K: Tensor, options: GeneratorOptions) -> Tensor:
    """K [3, 3] of the feature map, by the released rule."""
    scale = options.feature_side / options.image_side
    return torch.diag(K.new_tensor([scale, scale, 1.0])) @ K


def with_gradient(
    inputs: Tensor, grad: Tensor, function: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Result of a function, and the gradient of its product with `grad`."""
    inputs = inputs.detach().requires_grad_()
    result = function(inputs)
    return result.detach(), torch.autograd.grad(result, inputs, grad)[0]


def largest_difference(other: tuple[Tensor, ...], ours: tuple[Tensor, ...]) -> float:
    """Of all pairs of tensors, relative to the largest entry of ours."""
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(other, ours, strict=True))


# ------------------------------------------------------------------------------------------ sampling


def prepare_lift() -> Trial:
    torch.manual_seed(0)
    options = options_of(LARGE)
    K, poses = cameras(options.image_side)
    generator = Generator(options_of(SMALL))  # makes maps only: its widths do not matter
    geometry = generator.geometry((0.0, 0.0, 0.0), *SCENE)
    grid, side = options.grid_side, options.feature_side
    features = torch.randn(1, options.grid_features, side, side).contiguous(memory_format=torch.channels_last)
    grad = torch.randn(1, options.grid_features, grid, grid, grid)
    grad = grad.contiguous(memory_format=torch.channels_last_3d)
    uv, seen = plain_voxel_pixels(pixels_in_map(K, options), poses[0], options, SCENE)

    def new_map() -> SamplingMap:
        return geometry.lifting(K, poses[0], options.image_side, side)

    def sample(x: Tensor) -> Tensor:
        where = (2 * uv / (side - 1) - 1).view(1, 1, -1, 2)
        values = F.grid_sample(x, where, "bilinear", "border", align_corners=True) * seen
        return values.view(1, -1, grid, grid, grid)

    kept = new_map()
    candidates = {
        "ours": lambda: with_gradient(features, grad, lambda x: lift(x, [kept])),
        "ours, new camera": lambda: with_gradient(features, grad, lambda x: lift(x, [new_map()])),
        "index gather": lambda: with_gradient(features, grad, lambda x: gather_lift(x, uv, seen, grid)),
        "grid_sample": lambda: with_gradient(features, grad, sample),
    }
    return Trial(candidates, largest_difference, 1e-3)


def prepare_project() -> Trial:
    torch.manual_seed(0)
    options = options_of(LARGE)
    K, poses = cameras(options.image_side)
    generator = Generator(options_of(SMALL))
    geometry = generator.geometry((0.0, 0.0, 0.0), *SCENE)
    grid = options.grid_side
    volume = torch.randn(1, options.grid_features, grid, grid, grid)
    volume = volume.contiguous(memory_format=torch.channels_last_3d)
    coords, inside = plain_frustum_coords(pixels_in_map(K, options), poses[1], options, SCENE)
    grad = torch.randn(1, options.grid_features, *inside.shape)

    def new_map() -> SamplingMap:
        return geometry.projection(K, poses[1], options.image_side, options.feature_side)

    kept = new_map()
    rows_grad = grad[0].flatten(1)[:, kept.position].T.contiguous()

    def sample(x: Tensor) -> Tensor:
        where = (2 * coords / (grid - 1) - 1)[None]
        return F.grid_sample(x, where, "bilinear", "border", align_corners=True) * inside

    def dense_as_rows(result: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        values, gradient = result
        return (values[0].flatten(1)[:, kept.position].T if values.ndim == 5 else values), gradient

    candidates = {
        "ours": lambda: with_gradient(volume, rows_grad, lambda x: sampled_rows(x[0], kept)),
        "ours, new camera": lambda: with_gradient(volume, rows_grad, lambda x: sampled_rows(x[0], new_map())),
        "index gather": lambda: with_gradient(volume, grad, lambda x: gather_frustum(x, coords, inside)),
        "grid_sample": lambda: with_gradient(volume, grad, sample),
    }
    return Trial(candidates, lambda a, b: largest_difference(dense_as_rows(a), dense_as_rows(b)), 2e-3)


# ------------------------------------------------------------------------------------- training steps


def training_data(options: GeneratorOptions) -> tuple[Tensor, Tensor]:
    """A source image [1, 3, S, S] and two target images [2, 3, S, S]."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(3, 3, *(options.image_side,) * 2, generator=generator)
    return images[:1], images[1:]


def objective(rendered: Tensor, truth: Tensor) -> Tensor:
    return 200 * F.l1_loss(crop_border(rendered, 5), crop_border(truth, 5))


def our_step(size: str, keep_maps: bool, gan: bool = False, half: bool = False) -> Callable[[], float]:
    """One source, two targets, as `deepvoxels/train.py` does it; gan: with the discriminator; half: bf16."""
    keep_large_buffers()  # as every run on the CPU does
    torch.manual_seed(0)
    options = options_of(size)
    K, poses = cameras(options.image_side)
    source, targets = training_data(options)
    generator = Generator(options).train()
    geometry = generator.geometry((0.0, 0.0, 0.0), *SCENE)
    optimizer = torch.optim.Adam(generator.parameters(), lr=4e-4, fused=True)
    discriminator = Discriminator() if gan else None
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=4e-4, fused=True) if discriminator else None

    def maps() -> tuple[list[SamplingMap], list[SamplingMap]]:
        lifting = generator.lifting(geometry, K, poses[0])
        return [lifting], [generator.projection(geometry, K, pose) for pose in poses[1:]]

    kept = maps() if keep_maps else None

    def step() -> float:
        with torch.autocast(source.device.type, torch.bfloat16, enabled=half):
            images, state = generator(source, *(kept or maps()))
            generator.remember(state)
            loss, terms = objective(images, targets), {}
            if discriminator is not None:
                terms = loss_terms(crop_border(images, 5), crop_border(targets, 5), discriminator)
                loss = loss + terms["gan"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if optimizer_d is not None:
            optimizer_d.zero_grad(set_to_none=True)
            terms["discriminator"].backward()
            optimizer_d.step()
        return loss.item()

    return step


def plain_step(size: str) -> Callable[[], float]:
    """The same step with the plain generator and the plain optimiser."""
    torch.manual_seed(0)
    options = options_of(size)
    K, poses = cameras(options.image_side)
    source, targets = training_data(options)
    generator = PlainGenerator(options).train()
    optimizer = torch.optim.Adam(generator.parameters(), lr=4e-4)

    def step() -> float:
        rendered = generator(source, pixels_in_map(K, options), poses[0], poses[1:], SCENE)
        loss = objective(rendered, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def step_difference() -> float:
    """How far the two generators are apart after one step from the same weights.

    Of images, new state, the gradient of the first layer and the norm of all gradients. In float64, without
    dropout, whose draws cannot be the same, and with ours taking one target after another.
    """
    torch.manual_seed(0)
    options = options_of(TINY, integration_dropout=0.0, renderer_dropout=0.0, batch_targets=False)
    K, poses = cameras(options.image_side, torch.float64)
    source, targets = (x.double() for x in training_data(options))
    ours, plain = Generator(options).double().train(), PlainGenerator(options).double().train()
    ours.state.normal_()
    plain.copy_weights(ours)
    geometry = ours.geometry((0.0, 0.0, 0.0), *SCENE)
    maps = [ours.projection(geometry, K, pose) for pose in poses[1:]]
    images, state = ours(source, [ours.lifting(geometry, K, poses[0])], maps)
    rendered = plain(source, pixels_in_map(K, options), poses[0], poses[1:], SCENE)
    objective(images, targets).backward()
    objective(rendered, targets).backward()
    norms = [torch.stack([p.grad.norm() for p in model.parameters()]).norm() for model in (plain, ours)]
    first = [plain.extractor[0][1].weight.grad, ours.extractor.downs[0].refine.conv.weight.grad]
    pairs = [(rendered, images), (plain.state, state), norms, first]
    return largest_difference(*zip(*pairs, strict=True))


def prepare_step(size: str) -> Trial:
    difference = step_difference()
    here = "benchmarks.deepvoxels_cases"
    candidates = {
        "ours": lambda: in_fresh_process(f"{here}:our_step", size=size, keep_maps=True),
        PLAIN: lambda: in_fresh_process(f"{here}:plain_step", size=size),
    }
    if size == SMALL:  # at the large size the maps cost nothing next to the rest
        candidates["ours, new cameras"] = lambda: in_fresh_process(
            f"{here}:our_step", size=size, keep_maps=False
        )
    return Trial(candidates, tolerance=1e-9, differences={PLAIN: difference})


# ------------------------------------------------------------------------------------------ rendering


def prepare_frame(size: str) -> Trial:
    torch.manual_seed(0)
    options = options_of(size)
    K, poses = cameras(options.image_side)
    generator = Generator(options).eval()
    generator.state.normal_()
    geometry = generator.geometry((0.0, 0.0, 0.0), *SCENE)
    with torch.no_grad():
        volume = generator.inpaint(generator.state)

    @torch.no_grad()
    def frame(again: bool) -> tuple[Tensor, ...]:
        shown = generator.inpaint(generator.state) if again else volume
        return (generator.render(shown, [generator.projection(geometry, K, poses[1])])[0],)

    candidates = {"ours": lambda: frame(False), "inpainting for each frame": lambda: frame(True)}
    return Trial(candidates, largest_difference, 1e-3)


CASES = [
    Case(
        "deepvoxels/lift",
        "feature map 64x64x64 to grid 32^3 x 64, forward and backward",
        prepare_lift,
        seconds=5,
    ),
    Case(
        "deepvoxels/project",
        "grid 32^3 x 64 to view volume 64^3 x 64 (ours: the samples inside), forward and backward",
        prepare_project,
        seconds=10,
    ),
    *(
        Case(
            f"deepvoxels/step-{name}",
            f"training step of the generator, 1 source + 2 targets, {size}",
            lambda size=size: prepare_step(size),
            seconds=seconds,
            goals=(Goal(PLAIN, "ratio", at_least=2), Goal(PLAIN, "memory_ratio", at_least=2)),
            unit="step",
        )
        for name, size, seconds in (("512", LARGE, 20), ("128", SMALL, 5))
    ),
    *(
        Case(
            f"deepvoxels/frame-{name}",
            f"one frame from a new camera, {size}",
            lambda size=size: prepare_frame(size),
            unit="frame",
        )
        for name, size in (("512", LARGE), ("128", SMALL))
    ),
]
