"""A focal stack in memory: its slices, where they were focused, and the truth where there is any."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dfd_selfsup.models.thin_lens import Defocus, Lens
from shared.errors import DataError
from shared.files.images import read_image, read_image_size

__all__ = ["FocalStack", "StackBatch", "collate", "crop_stack", "read_slices", "resize_stack"]


@dataclass(frozen=True)
class FocalStack:
    """One focal stack; everything on the CPU.

    images [S, 3, H, W] RGB in [0, 1], nearest focus first. `defocus` holds the blur of each slice; `lens`
    is None where no lens is known. Truth, where there is any: aif [3, H, W], and depth [H, W] with `valid`
    [H, W]; depth is in metres for a metric stack, else 1 / q. `guide` [4, H, W], inverse depth and image, is
    what some other method makes of the stack. `notes` are for the user to read.
    """

    name: str
    images: Tensor
    defocus: Defocus
    lens: Lens | None = None
    aif: Tensor | None = None
    depth: Tensor | None = None
    valid: Tensor | None = None
    guide: Tensor | None = None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        return self.images.shape[-2], self.images.shape[-1]

    @property
    def is_metric(self) -> bool:
        return self.defocus.kind == "metric"


@dataclass(frozen=True)
class StackBatch:
    """Stacks of one size: images [B, S, 3, H, W], defocus [B, S], truth [B, ...] where all have it."""

    images: Tensor
    defocus: Defocus
    aif: Tensor | None
    depth: Tensor | None  # [B, 1, H, W]
    valid: Tensor | None
    guide: Tensor | None = None  # [B, 4, H, W]

    def to(self, device: torch.device) -> "StackBatch":
        moved = {
            name: None if value is None else value.to(device)
            for name, value in vars(self).items()
            if name != "defocus"
        }
        focus, gain = self.defocus.focus_q.to(device), self.defocus.gain_px.to(device)
        return replace(self, defocus=replace(self.defocus, focus_q=focus, gain_px=gain), **moved)


def collate(stacks: Sequence[FocalStack]) -> StackBatch:
    """Stacks of one size, slice count and kind as a batch; DataError names the first that differs."""
    for stack in stacks:
        ours, first = (_in_words(s) for s in (stack, stacks[0]))
        if ours != first:
            remedy = "Stacks of one batch must be alike: set crop or data.resize_to, or batch_size=1"
            raise DataError(stack.name, f"{ours}, but {stacks[0].name} is {first}", remedy)

    def together(name: str) -> Tensor | None:
        values = [getattr(stack, name) for stack in stacks]
        return None if any(value is None for value in values) else torch.stack(values)

    depth, valid = together("depth"), together("valid")
    defocus = Defocus(
        torch.stack([stack.defocus.focus_q for stack in stacks]),
        torch.stack([stack.defocus.gain_px for stack in stacks]),
        stacks[0].defocus.kind,
    )
    images = torch.stack([stack.images for stack in stacks])
    return StackBatch(
        images,
        defocus,
        together("aif"),
        None if depth is None else depth.unsqueeze(1),
        None if valid is None else valid.unsqueeze(1),
        together("guide"),
    )


def _in_words(stack: FocalStack) -> str:
    height, width = stack.size
    return f"{len(stack.images)} slices of {width} x {height} pixels, {stack.defocus.kind}"


def read_slices(paths: Sequence[Path]) -> Tensor:
    """Images [S, 3, H, W] of one size; DataError names the first that is damaged or differs."""
    sizes = [read_image_size(path) for path in paths]
    for path, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            reason = f"is {size[1]} x {size[0]} pixels, but {paths[0].name} is {sizes[0][1]} x {sizes[0][0]}"
            raise DataError(path, reason, "All slices must have one size; prepare.py align makes them so")
    return torch.stack([read_image(path) for path in paths])


def crop_stack(stack: FocalStack, top: int, left: int, side: int, flip: bool = False) -> FocalStack:
    """A square part of a stack, mirrored left to right if told; sides shorter than `side` stay whole."""

    def cut(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        part = value[..., top : top + side, left : left + side]
        return part.flip(-1) if flip else part

    parts = {name: cut(getattr(stack, name)) for name in ("images", "aif", "depth", "valid", "guide")}
    return replace(stack, **parts)


def resize_stack(stack: FocalStack, height: int, width: int, rescale_pitch: bool = True) -> FocalStack:
    """A stack at another size: pictures averaged (antialiased), truth sampled at the nearest pixel.

    With `rescale_pitch` the blur follows the size; without, as in the released code, the old numbers are
    kept. Raises ValueError if the blur is to follow and the two axes scale differently by more than 2 %.
    """
    if (height, width) == stack.size:
        return stack
    lens, defocus = stack.lens, stack.defocus
    if rescale_pitch:
        scale_y, scale_x = height / stack.size[0], width / stack.size[1]
        if abs(scale_x / scale_y - 1) > 0.02:
            raise ValueError(
                f"resizing {stack.size} to {(height, width)} squashes the picture; crop it first"
            )
        lens = None if lens is None else lens.resized(stack.size, (height, width))
        defocus = replace(defocus, gain_px=defocus.gain_px * (scale_y * scale_x) ** 0.5)

    def averaged(value: Tensor) -> Tensor:
        size = (height, width)
        return F.interpolate(value, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)

    def nearest(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        return F.interpolate(value[None, None].float(), (height, width), mode="nearest-exact")[0, 0]

    valid = nearest(stack.valid)
    return replace(
        stack,
        images=averaged(stack.images),
        aif=None if stack.aif is None else averaged(stack.aif[None])[0],
        depth=nearest(stack.depth),
        valid=None if valid is None else valid > 0.5,
        guide=None,
        lens=lens,
        defocus=defocus,
    )
