"""Reading and writing checkpoints of the released code, whose state dict names modules by position.

A released file is a dict with `model` (the generator with its volume) and `discriminator`. Its 2D wrappers
register one parameter under up to three names; the name ending in `.net.1` counts here, the others are
written for the released code's sake and ignored on reading. Names without `.net` after the two 2D networks
(before June 2019) are read as well. Such weights assume `lattice="released"`.
"""

import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deepvoxels.models.generator import Generator
from deepvoxels.models.networks import ConvUnit, Discriminator, Down, UNet, Up
from shared.errors import DataError
from shared.files.disk import read_bytes
from shared.runs.checkpoint import first_nan

__all__ = ["export_released", "import_released", "load_released"]

REMEDY = "Give a checkpoint of the released code, and the configuration it was trained with"


@dataclass(frozen=True)
class _Entry:
    """A tensor under its released names: `tensor` is ours, or the part of ours that it corresponds to."""

    name: str
    tensor: Tensor
    aliases: tuple[str, ...] = ()


def import_released(module: Generator | Discriminator, state_dict: Mapping[str, Tensor]) -> None:
    """Copy a released state dict into `module`; all or nothing.

    A `module.` prefix (DataParallel) is removed. Raises ValueError naming the missing, unknown and
    misshapen keys if the dict is of another architecture.
    """
    given = {_current_name(key): value for key, value in state_dict.items()}
    entries = list(_entries(module))
    known = {name for entry in entries for name in (entry.name, *entry.aliases)}
    missing = [entry.name for entry in entries if entry.name not in given]
    unknown = [key for key in given if key not in known]
    misshapen = [
        f"{e.name} {_shape(given[e.name])} instead of {_shape(e.tensor)}"
        for e in entries
        if e.name in given and _shape(given[e.name]) != _shape(e.tensor)
    ]
    if missing or unknown or misshapen:
        kind = type(module).__name__.lower()
        raise ValueError(
            f"this state dict does not fit the {kind}: {_listed('missing', missing)}; "
            f"{_listed('unknown', unknown)}; {_listed('of other shape', misshapen)}. "
            f"Check grid, features, image side, widths and whether it has an occlusion network."
        )
    with torch.no_grad():
        for entry in entries:
            entry.tensor.copy_(given[entry.name])


def export_released(module: Generator | Discriminator) -> dict[str, Tensor]:
    """State dict for the released code, with all its duplicate names (which share memory here)."""
    exported = {}
    for entry in _entries(module):
        tensor = entry.tensor.detach().contiguous()
        exported.update(dict.fromkeys((*entry.aliases, entry.name), tensor))
    return exported


def load_released(
    path: str | os.PathLike[str], generator: Generator, discriminator: Discriminator | None = None
) -> None:
    """Read a checkpoint file of the released code into the networks; only tensors are unpickled.

    Accepts the released container and a bare generator state dict, which leaves the discriminator as it is.
    Raises DataError for a file that is missing, damaged, of another kind or architecture, or holds NaN.
    """
    try:
        content = torch.load(io.BytesIO(read_bytes(path)), map_location="cpu", weights_only=True)
    except DataError:
        raise
    except Exception as error:  # the unpickler raises half a dozen kinds for damaged files
        reason = f"not a readable file of plain tensors ({' '.join(str(error).split())[:200]})"
        raise DataError(path, reason, REMEDY) from None
    if not isinstance(content, Mapping):
        raise DataError(path, f"holds no dict of tensors but {type(content).__name__}", REMEDY)
    parts = content if "model" in content else {"model": content}
    wanted = {"model": generator}
    if discriminator is not None and "discriminator" in parts:
        wanted["discriminator"] = discriminator
    for part, module in wanted.items():
        if not isinstance(parts.get(part), Mapping):
            raise DataError(path, f"has no {part!r} state dict", REMEDY)
        if (bad := first_nan(parts[part])) is not None:
            raise DataError(path, f"{bad} of {part} holds NaN", REMEDY)
        try:
            import_released(module, parts[part])
        except ValueError as error:
            raise DataError(path, str(error).rstrip("."), REMEDY) from None


def _current_name(key: str) -> str:
    return re.sub(r"^(feature_extractor|rendering_net)\.(\d)", r"\1.net.\2", key.removeprefix("module."))


def _shape(value: object) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _listed(label: str, names: list[str], limit: int = 6) -> str:
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return f"{len(names)} {label}" + (f" ({', '.join(names[:limit])}{more})" if names else "")


def _entries(module: Generator | Discriminator) -> Iterator[_Entry]:
    return _discriminator(module) if isinstance(module, Discriminator) else _generator(module)


def _generator(g: Generator) -> Iterator[_Entry]:
    yield _Entry("deepvoxels", g.state)
    for i, down in enumerate(g.extractor.downs):
        yield from _down(down, f"feature_extractor.net.0.downs.{i}")
    yield from _unet(g.extractor.unet, "feature_extractor.net.1")
    yield from _integration(g)
    yield from _unet(g.inpainting.unet, "inpainting_net")
    if g.occlusion is not None:
        prep = "occlusion_net.occlusion_prep"
        yield from _inner(g.occlusion.compress, f"{prep}.0", f"{prep}.1")
        yield from _unet(g.occlusion.unet, "occlusion_net.occlusion_net")
        yield from _inner(g.occlusion.logits, "occlusion_net.softmax_net.0")
    if g.collapse is not None:
        for i, unit in enumerate(g.collapse.layers):
            yield from _wrapped(unit, f"depth_collapse_net.{3 * i}", f"depth_collapse_net.{3 * i + 1}")
    yield from _unet(g.renderer.unet, "rendering_net.net.0")
    for i, up in enumerate(g.renderer.ups):
        yield from _up(up, f"rendering_net.net.1.ups.{i}")
    yield from _wrapped(g.renderer.narrow, "rendering_net.net.2", "rendering_net.net.3")
    yield from _wrapped(g.renderer.colour, "rendering_net.net.5")


def _integration(g: Generator) -> Iterator[_Entry]:
    new, gates = g.integration.from_observation, g.integration.gates_from_state
    prefix = "integration_net."
    for i, gate in enumerate(("reset", "update")):
        yield _Entry(f"{prefix}{gate}_old_net.1.weight", gates.weight[i : i + 1])
        yield _Entry(f"{prefix}{gate}_old_net.1.bias", new.bias[i : i + 1])
        yield _Entry(f"{prefix}{gate}_new_net.1.weight", new.weight[i : i + 1])
    yield _Entry(prefix + "new_integration.1.weight", new.weight[2:])
    yield _Entry(prefix + "new_integration.1.bias", new.bias[2:])
    yield _Entry(prefix + "old_integration.1.weight", g.integration.candidate_from_state.weight)


def _unet(unet: UNet, prefix: str) -> Iterator[_Entry]:
    flat = isinstance(unet.head.conv, nn.Conv2d)
    layer = _wrapped if flat else _inner
    yield from layer(unet.head, f"{prefix}.in_layer.0", f"{prefix}.in_layer.1")
    block = f"{prefix}.unet_block"
    for level, (down, up) in enumerate(zip(unet.downs, unet.ups, strict=True)):
        deepest = level == len(unet.downs) - 1
        yield from _down(down, f"{block}.model.0")
        yield from _up(up, f"{block}.model.{1 if deepest else 2}")
        block += ".model.1"
    for entry in layer(unet.tail, f"{prefix}.out_layer.0", f"{prefix}.out_layer.1"):
        third = (f"{prefix}.out_layer_weight",) if flat and entry.name.endswith("0.net.1.weight") else ()
        yield _Entry(entry.name, entry.tensor, entry.aliases + third)


def _down(block: Down, prefix: str) -> Iterator[_Entry]:
    position = 0
    for unit in (block.refine, block.resize):
        if isinstance(unit, ConvUnit):  # padding, convolution, then what follows it
            yield from _unit(unit, f"{prefix}.net.{position + 1}", f"{prefix}.net.{position + 2}")
            position += 2 + _layers_after(unit)


def _up(block: Up, prefix: str) -> Iterator[_Entry]:
    yield from _unit(block.resize, f"{prefix}.net.0", f"{prefix}.net.1")
    if isinstance(block.refine, ConvUnit):
        position = 1 + _layers_after(block.resize)
        yield from _wrapped(block.refine, f"{prefix}.net.{position}", f"{prefix}.net.{position + 1}")


def _layers_after(unit: ConvUnit) -> int:
    return (unit.norm is not None) + 1 + bool(unit.dropout)  # norm, activation, dropout


def _wrapped(unit: ConvUnit, conv: str, norm: str = "") -> Iterator[_Entry]:
    """A 2D convolution in the released padding wrapper, which registers it under the wrapper's name too."""
    for entry in _inner(unit, conv, norm):
        inner = f"{conv}.net.1."
        aliases = (entry.name.replace(inner, f"{conv}."),) if entry.name.startswith(inner) else ()
        yield _Entry(entry.name, entry.tensor, aliases)


def _inner(unit: ConvUnit, conv: str, norm: str = "") -> Iterator[_Entry]:
    return _unit(unit, f"{conv}.net.1", norm)


def _unit(unit: ConvUnit, conv: str, norm: str = "") -> Iterator[_Entry]:
    yield from _tensors(unit.conv, conv)
    if unit.norm is not None:
        yield from _tensors(unit.norm, norm)


def _tensors(layer: nn.Module, name: str) -> Iterator[_Entry]:
    for key, tensor in layer.state_dict(keep_vars=True).items():
        yield _Entry(f"{name}.{key}", tensor)


def _discriminator(d: Discriminator) -> Iterator[_Entry]:
    position = 1  # padding comes first
    for layer, conv in enumerate(d.convs):
        yield from _tensors(conv, f"model.{position}")
        if layer:
            yield from _tensors(d.norms[layer - 1], f"model.{position + 1}")
        position += 5 if layer else 3  # convolution, [norm, dropout,] activation, padding
    yield from _tensors(d.last, f"model.{position}")
