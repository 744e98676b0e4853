"""nvs_depth: the direct warp, the full-size training step, many views of one picture."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.fresh import in_fresh_process
from benchmarks.harness import Case, Goal, Trial
from benchmarks.shared_cases import largest_difference, pixels_that_differ, scatter_warp
from nvs_depth.config import TrainConfig
from nvs_depth.datasets.pairs import PairBatch
from nvs_depth.losses import LossWeights
from nvs_depth.models.decoders import ConvBlock
from nvs_depth.models.options import ModelOptions
from nvs_depth.models.synthesis import SynthesisNetwork, View
from nvs_depth.paths import relative_path
from nvs_depth.train import step_terms
from shared.geometry.camera import intrinsics_matrix, pixel_grid, project, transform_points, unproject
from shared.geometry.trajectories import so3_exp
from shared.geometry.warp import forward_warp
from shared.quality.losses import VggFeatures
from shared.runs.command import keep_large_buffers

__all__ = ["CASES"]

VIEWS = 7
FOCAL_SHARE = 480 / 256  # of the predecessors' renders
PLAIN = "naive layers and warps"
LOOP = "plain loop"


def camera(side: int) -> Tensor:
    """K [1, 3, 3] of a square image."""
    return intrinsics_matrix(FOCAL_SHARE * side, FOCAL_SHARE * side, (side - 1) / 2, (side - 1) / 2)[None]


def poses(count: int) -> Tensor:
    """Cameras [N, 4, 4] on an orbit of 20 degrees to both sides, tilted.

    Without the tilt whole rows of squares would end exactly between two pixels, where rounding decides.
    """
    tilt = torch.eye(4)
    tilt[:3, :3] = so3_exp(torch.tensor([0.03, 0.0, 0.02]))
    return tilt @ relative_path("orbit", count, 20.0)


# --------------------------------------------------------------------------------------------- direct warp


def loop_warp(features: Tensor, depth: Tensor, K: Tensor, target_from_source: Tensor) -> Tensor:
    """Z-buffered splatting of features [C, h, w], pixel after pixel: the nearest square wins."""
    height, width = depth.shape
    warped, buffer = torch.zeros_like(features), torch.full((height, width), torch.inf)
    for row in range(height):
        for column in range(width):
            d = depth[row, column]
            ray = torch.linalg.solve(K, torch.tensor([column, row, 1.0]))
            x, y, z = K @ (target_from_source[:3, :3] @ (d * ray) + target_from_source[:3, 3])
            half = min(float(d / z), 6.0) / 2
            left, top = (int((c / z + 0.5 - half).floor()) for c in (x, y))
            right, bottom = (int((c / z + 0.5 + half).ceil()) for c in (x, y))
            for v in range(max(top, 0), min(max(bottom, top + 1), height)):
                for u in range(max(left, 0), min(max(right, left + 1), width)):
                    if z < buffer[v, u]:
                        buffer[v, u] = z
                        warped[:, v, u] = features[:, row, column]
    return warped


def prepare_direct_warp() -> Trial:
    """The finest of the five feature maps at full size, by a turn of 20 degrees."""
    side = 128
    features = torch.rand(1, 64, side, side, generator=torch.Generator().manual_seed(0))
    x, y = pixel_grid(side, side).unbind(-1)
    depth = 2 + 0.2 * (x / 13).sin() * (y / 17).cos()
    depth = torch.where((x - y).abs() < 20, 1.6, depth)[None, None]
    K, pose = camera(side), poses(2)[1]
    return Trial(
        {
            "ours": lambda: forward_warp(features, depth, K, K, pose[None])[:1],
            LOOP: lambda: (loop_warp(features[0], depth[0, 0], K[0], pose)[None],),
        },
        pixels_that_differ,
        0.005,
    )


# ------------------------------------------------------------------------------------------- training step


def plain_forward_warp(features: Tensor, depth: Tensor, K: Tensor, _: Tensor, pose: Tensor) -> tuple[Tensor]:
    """Direct warp of one image after the other, one scatter for each offset under the largest square."""
    parts = zip(features, depth.detach(), K.expand(len(depth), 3, 3), pose, strict=True)
    return (torch.cat([scatter_warp(f[None], d[None], k, p) for f, d, k, p in parts]),)


def plain_backward_warp(
    image: Tensor, depth: Tensor, K: Tensor, _: Tensor, pose: Tensor, padding: str = "border"
) -> tuple[Tensor, Tensor]:
    """Inverse warp through points in space and grid_sample."""
    points = transform_points(
        pose, unproject(pixel_grid(*depth.shape[-2:], dtype=depth.dtype), depth[:, 0], K)
    )
    pixels, z = project(points, K)
    size = pixels.new_tensor([image.shape[-1], image.shape[-2]])
    warped = F.grid_sample(image, (2 * pixels + 1) / size - 1, "bilinear", padding, align_corners=False)
    inside = ((pixels >= 0) & (pixels <= size - 1)).all(-1) & (z > 0)
    return warped, inside[:, None]


def plain_layers(network: nn.Module) -> None:
    """PyTorch's default memory format, a padding module before each convolution, nothing in place."""
    network.to(memory_format=torch.contiguous_format)
    for module in network.modules():
        if isinstance(module, nn.ReLU | nn.LeakyReLU):
            module.inplace = False
    for block in [module for module in network.modules() if isinstance(module, ConvBlock)]:
        convolution = block[0]
        convolution.padding, convolution.padding_mode = (0, 0), "zeros"
        block[0] = nn.Sequential(nn.ReflectionPad2d(1), convolution)


@contextmanager
def plain_warps() -> Iterator[None]:
    with (
        mock.patch("nvs_depth.models.warps.forward_warp", plain_forward_warp),
        mock.patch("nvs_depth.models.warps.backward_warp", plain_backward_warp),
        mock.patch("nvs_depth.losses.backward_warp", plain_backward_warp),
    ):
        yield


def step_parts(
    side: int,
    batch: int,
    plain: bool,
    dtype: torch.dtype,
    vgg: VggFeatures | None = None,
    half: bool = False,
) -> tuple[SynthesisNetwork, Callable[[], Tensor]]:
    """The network and a function that gives its weighted objective; by default without VGG."""
    torch.manual_seed(0)
    options = ModelOptions(image_side=side, encoder_init="default", depth_range="object_narrow")
    weights = LossWeights() if vgg else LossWeights(perceptual=0)
    precision: Literal["float32", "bfloat16"] = "bfloat16" if half else "float32"
    config = TrainConfig(model=options, weights=weights, precision=precision)
    network = SynthesisNetwork(options).to(dtype)
    if plain:
        plain_layers(network)
    images = torch.rand(2, batch, 3, side, side, dtype=dtype)
    depth, K = images[0, :, :1], camera(side).to(dtype).expand(batch, 3, 3)
    valid, indices = depth > 0, torch.zeros(batch, 2)
    data = PairBatch(*images, depth, depth, valid, valid, K, K, poses(batch).to(dtype), indices)

    def objective() -> Tensor:
        terms = step_terms(network, data, config, vgg)
        return sum(getattr(config.weights, name) * term for name, term in terms.items())

    def plain_objective() -> Tensor:
        with plain_warps():
            return objective()

    return network, plain_objective if plain else objective


def training_step(
    plain: bool, side: int = 256, batch: int = 8, perceptual: bool = False, half: bool = False
) -> Callable[[], float]:
    """One step of the full-size network on `batch` pairs of `side` px.

    perceptual: with a VGG-16 of random weights; half: convolutions in bfloat16, as `precision` asks.
    """
    keep_large_buffers()  # as every run on the CPU does
    vgg = VggFeatures(weights="random") if perceptual else None
    network, objective = step_parts(side, batch, plain, torch.float32, vgg, half)
    optimizer = torch.optim.Adam(network.parameters(), lr=6e-5, betas=(0.5, 0.999))

    def step() -> float:
        loss = objective()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def step_difference() -> float:
    """How far objective and gradients of the two are apart in float64, at 64 px, relative to ours."""
    results = []
    for plain in (False, True):
        network, objective = step_parts(64, 2, plain, torch.float64)
        loss = objective()
        loss.backward()
        results.append((loss.detach(), torch.cat([p.grad.flatten() for p in network.parameters()])))
    (ours, our_gradient), (theirs, gradient) = results
    return max(
        ((theirs - ours).abs() / ours).item(), ((gradient - our_gradient).norm() / our_gradient.norm()).item()
    )


def prepare_step() -> Trial:
    function = "benchmarks.nvs_depth_cases:training_step"
    candidates = {
        "ours": lambda: in_fresh_process(function, plain=False),
        PLAIN: lambda: in_fresh_process(function, plain=True),
    }
    return Trial(candidates, tolerance=1e-3, differences={PLAIN: step_difference()})


# ---------------------------------------------------------------------------------------------- many views


def prepare_many_views() -> Trial:
    """Kept: encoder, source depth and one pass for all views, as predict.py does it."""
    keep_large_buffers()
    torch.manual_seed(0)
    network = SynthesisNetwork(ModelOptions(encoder_init="default")).eval()
    image, K, cameras = torch.rand(1, 3, 256, 256), camera(256), poses(VIEWS)
    with torch.no_grad():
        kept = network.encode(View(image, K))

    def further_views() -> tuple[Tensor]:
        return (network.views(kept, K.expand(VIEWS, 3, 3), cameras).images[0],)

    @torch.no_grad()
    def encoded_again() -> tuple[Tensor]:
        made = [network.views(network.encode(View(image, K)), K, pose[None]) for pose in cameras]
        return (torch.cat([view.images[0] for view in made]),)

    return Trial({"ours": further_views, "encoded again for each": encoded_again}, largest_difference, 1e-4)


CASES = [
    Case("nvs_depth/direct-warp", "direct warp of 64 channels, 128x128", prepare_direct_warp,
         goals=(Goal(LOOP, "ratio", at_least=100),)),
    Case("nvs_depth/step-256", "training step at 256 px without VGG", prepare_step, unit="step of 8 pairs"),
    Case("nvs_depth/many-views", "further views of one picture, full size", prepare_many_views,
         unit="further view", units=VIEWS, goals=(Goal("encoded again for each", "ratio", at_least=1.8),)),
]  # fmt: skip
