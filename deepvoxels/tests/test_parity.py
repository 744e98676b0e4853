"""Every stage of the released network against recorded statistics, with weights filled by a fixed rule.

The rule fills tensors by their released names, so the run also proves the import of a released state dict.
The figures come from the released code on CPU in float64, with the wrap-around of its lifting repaired.
"""

import math
import zlib
from collections.abc import Container
from pathlib import Path

import numpy as np
import pytest
import torch

from deepvoxels.config import GeneratorOptions
from deepvoxels.models.generator import Generator
from deepvoxels.models.released import import_released
from deepvoxels.tests.test_geometry import camera

TABLE = Path(__file__).parent / "released_state_dict.tsv"

# stage: shape, mean, population std, min, max, values at flat positions 0, n/3, n/2, 2n/3, n-1
EXPECTED = {
    "image in": (
        (3, 512, 512),
        5.4511133e-05,
        0.353649207,
        -0.499999615,
        0.499999998,
        (0, 0, 0.492451667, 0, 0.453032483),
    ),
    "features": ((64, 64, 64), 0.188760398, 0.282497325, 0, 2.07838648, (0.487435315, 0, 0.161472717, 0, 0)),
    "lifted": (
        (64, 32, 32, 32),
        0.187260084,
        0.271430123,
        0,
        1.96816893,
        (0.432599548, 0, 0.0453283508, 0, 0.678330166),
    ),
    "state": (
        (64, 32, 32, 32),
        0.174788584,
        0.266379093,
        -0.388408046,
        2.30662869,
        (0.780971677, 0.406396221, 0.158960504, -0.1285269, -0.173559058),
    ),
    "inpainted": (
        (64, 32, 32, 32),
        0.150606879,
        0.210383348,
        0,
        1.77040138,
        (0.37227679, 0, 0.476293661, 0.369407945, 0.379867618),
    ),
    "view volume": ((64, 64, 64, 64), 0.0339948284, 0.107915002, 0, 1.55739948, (0, 0, 0, 0, 0)),
    "visibility": (
        (1, 64, 64, 64),
        0.015625,
        0.00256335208,
        0.00974595827,
        0.029607663,
        (0.018371867, 0.0186421279, 0.0155015357, 0.0119932378, 0.0131566274),
    ),
    "depth": (
        (1, 64, 64),
        -0.04518284,
        0.00931486232,
        -0.0805812787,
        -0.0344084385,
        (-0.0366256403, -0.0565626735, -0.0366365708, -0.0485765716, -0.0366772839),
    ),
    "collapsed": (
        (64, 64, 64),
        0.000626615647,
        0.00112439466,
        0,
        0.0102756235,
        (0, 5.73793407e-05, 0, 0.004082809, 0),
    ),
    "image out": (
        (3, 512, 512),
        -0.0178985923,
        0.118388976,
        -0.234409065,
        0.143607488,
        (0.117724373, -0.168152891, -0.168427713, 0.0430251888, 0.0195199399),
    ),
}


def released_shapes() -> dict[str, tuple[int, ...]]:
    lines = TABLE.read_text().splitlines()[1:]
    return {
        key: tuple(int(n) for n in shape.strip("()").split(",") if n.strip())
        for key, shape in (line.split("\t") for line in lines)
    }


def is_alias(key: str, keys: Container[str]) -> bool:
    """Whether the key repeats the parameter of a padding wrapper, named `.net.1.weight` first."""
    stem, _, leaf = key.rpartition(".")
    return f"{stem}.net.1.{leaf}" in keys or leaf == "out_layer_weight"


def filled(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The fill rule: a sine hash of the position, seeded by the name, scaled by the tensor's role."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    phase = 2 * math.pi * (zlib.crc32(name.encode()) % 10007) / 10007
    value = np.empty(math.prod(shape), np.float32 if len(shape) > 1 else np.float64)
    for start in range(0, len(value), 1 << 16):  # a piece at a time, to stay in the processor's cache
        part = value[start : start + (1 << 16)]
        s = 43758.5453 * np.sin(12.9898 * np.arange(start, start + len(part)) + phase)
        part[:] = 2 * (s - np.floor(s)) - 1
    value = value.reshape(shape)
    if name == "deepvoxels":
        value *= 0.5
    elif len(shape) > 1:  # convolution weight [out, in, ...], transposed [in, out, ...]
        transposed = ".net.0.weight" in name and ".downs." not in name
        value *= math.sqrt(6 / (shape[0 if transposed else 1] * math.prod(shape[2:])))
    elif name.endswith(("weight", "running_var")):  # of a batch norm
        value = 1 + 0.1 * value
    else:
        value *= 0.1
    return torch.from_numpy(value)


@torch.no_grad()
def stages(dtype: torch.dtype, fast: bool) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        generator = Generator(GeneratorOptions(lattice="released"), fast)
    generator = generator.to(dtype).to_empty(device="cpu").eval()
    shapes = released_shapes()
    import_released(
        generator, {key: filled(key, shape) for key, shape in shapes.items() if not is_alias(key, shapes)}
    )
    K = torch.tensor([[560.0, 0, 255.6], [0, 560.0, 255.46667], [0, 0, 1]])  # 525 319.5 239.5 on 640x480
    geometry = generator.geometry((0, 0, 0), 1.0, math.sqrt(3) / 2)
    lifting = [generator.lifting(geometry, K, camera(40, 30, dtype=torch.float32))]
    projection = [generator.projection(geometry, K, camera(55, 35, dtype=torch.float32))]

    y, x = torch.meshgrid(*(torch.arange(512.0, dtype=torch.float64),) * 2, indexing="ij")
    image = torch.stack([0.5 * torch.sin(0.02 * (c + 1) * x + 0.03 * y) for c in range(3)])[None]
    features = generator.extractor(image.to(dtype))
    lifted = generator.lift(features, lifting)
    state = generator.integration(generator.state, lifted)
    inpainted = generator.inpainting(state)
    collapsed, depth, visibility = generator.occlude(generator.occlusion, inpainted, projection)
    out = {
        "image in": image,
        "features": features,
        "lifted": lifted,
        "state": state,
        "inpainted": inpainted,
        "view volume": generator.project(inpainted, projection),
        "visibility": visibility,
        "depth": depth,
        "collapsed": collapsed,
        "image out": generator.render(inpainted, projection)[0] - 0.5,
    }
    return {name: tensor[0] for name, tensor in out.items()}


@pytest.mark.parametrize("fast", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("dtype", "early", "late"),
    [
        pytest.param(torch.float32, 2e-6, 1e-5, id="float32"),
        pytest.param(torch.float64, 1e-6, 1e-5, id="float64", marks=pytest.mark.slow),
    ],
)
def test_every_stage_matches_the_released_code(dtype, early, late, fast):
    actual = stages(dtype, fast)
    for name, (shape, mean, std, low, high, flat) in EXPECTED.items():
        tensor = actual[name].contiguous().double()
        assert tuple(tensor.shape) == shape, name
        n = tensor.numel()
        samples = tensor.view(-1)[[0, n // 3, n // 2, 2 * n // 3, n - 1]]
        found = [tensor.mean(), tensor.std(correction=0), tensor.min(), tensor.max(), *samples]
        error = np.abs(np.array([float(f) for f in found]) - np.array([mean, std, low, high, *flat]))
        tolerance = early if name in ("image in", "features", "lifted", "state") else late
        assert error.max() <= tolerance * max(abs(low), abs(high)), (name, error)
