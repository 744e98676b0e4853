"""A focal stack in memory: its slices, where they were focused, the truth if known, and an estimate of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dfd_selfsup.models.focus_measure import SURE
from dfd_selfsup.models.thin_lens import Defocus, Lens, scale_of
from shared.errors import DataError
from shared.files.images import as_image, read_image, survey_photos
from shared.geometry.camera import intrinsics_matrix
from shared.results import DepthMap
from shared.show.pictures import evenly

__all__ = [
    "SPLITS",
    "UNTOLD",
    "Estimate",
    "FocalStack",
    "Loader",
    "PhotoFiles",
    "StackBatch",
    "collate",
    "crop_stack",
    "fit_to_size",
    "focal_stack",
    "open_slices",
    "random_crop",
    "read_slices",
    "recoloured",
    "resize_stack",
]

SPLITS = ("train", "validation", "test")
SMALLEST_SIDE = 11  # pixels of a slice: the window of SSIM
SMALLEST_Q = 1e-6  # of an estimate: depth ends at a million units
WHITE = (1.0, 1.0, 1.0)  # what is behind transparent pixels
UNTOLD = "too little texture to tell; filled from around"
# Depth for each kind of defocus: kind and unit of the map, what it is in words, what its scale rests on.
DEPTH_OF = {
    "metric": ("z_depth", "m", "metric z-depth, along the optical axis", "from lens and focus distances"),
    "disparity": ("disparity_px", "px", "disparity, larger is nearer", "as the disparities in stack.yaml"),
    "order": ("order", "slices", "ordered only: place in the stack, larger is nearer", "the lens is unknown"),
    "place": (
        "place",
        "slices",
        "place in the stack, 0 is the first photo; which end is near is not known (--order)",
        "the lens is unknown",
    ),
}


@dataclass(frozen=True)
class PhotoFiles(Sequence[Tensor]):
    """Photos of one size (H, W), each read as a slice [3, H, W] when it is asked for.

    orientation: the EXIF orientation that all of them get; what is transparent becomes white.
    """

    paths: tuple[Path, ...]
    size: tuple[int, int]
    orientation: int = 1

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.paths), 3, *self.size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Tensor:
        """One slice, or with a list of indices those slices [S, 3, H, W]."""
        if isinstance(index, list):
            return torch.stack([self[each] for each in index])
        return read_image(self.paths[index], background=WHITE, orientation=self.orientation)


@dataclass(frozen=True)
class FocalStack:
    """One focal stack; everything on the CPU.

    images [S, 3, H, W] RGB in [0, 1], nearest focus first: a tensor or, where a stack was only opened,
    `PhotoFiles`, of which `fit_to_size` or `loaded` makes one. `defocus` holds the blur of each slice; `lens`
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
    def in_words(self) -> str:
        kind = "order, direction unknown" if self.defocus.kind == "place" else self.defocus.kind
        return f"{len(self.images)} slices of {self.size[1]} x {self.size[0]}, {kind}"

    @property
    def is_metric(self) -> bool:
        return self.defocus.kind == "metric"

    @property
    def K(self) -> Tensor | None:
        """Intrinsics [3, 3], the principal point in the middle of the picture; None without a lens."""
        if self.lens is None:
            return None
        height, width = self.size
        focal_px = self.lens.focal_length_m / (self.lens.pixel_pitch_um * 1e-6)
        return intrinsics_matrix(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2)

    @property
    def depth_unit(self) -> str:
        return DEPTH_OF[self.defocus.kind][1]

    @property
    def depth_in_words(self) -> str:
        return DEPTH_OF[self.defocus.kind][2]

    def depth_map(self, q: Tensor, valid: Tensor | None = None, invalid: str = "no depth") -> DepthMap:
        """Inverse depth [H, W] as what is shown and saved: metres of a metric stack, else q itself."""
        kind, unit, quantity, scale = DEPTH_OF[self.defocus.kind]
        values = 1 / q.clamp(min=SMALLEST_Q) if self.is_metric else q
        if kind == "place":  # q falls from the first photo on
            values = len(self.defocus.focus_q) - 1 - q
        facts = {"quantity": quantity}
        if valid is None:
            return DepthMap(values, kind, unit, scale, K=self.K, facts=facts)
        return DepthMap(values, kind, unit, scale, valid, invalid, self.K, facts)

    def estimate(self, q: Tensor | None, aif: Tensor | None, confidence: Tensor | None = None) -> "Estimate":
        """What a method finds in this stack: inverse depth q [H, W], image [3, H, W], confidence [H, W]."""
        valid = None if confidence is None else confidence >= SURE
        depth = None if q is None else self.depth_map(q, valid, UNTOLD)
        return Estimate(depth, aif, q, self.defocus, confidence)

    def loaded(self) -> "FocalStack":
        """The stack with all of its photos in memory."""
        return self.only(range(len(self.images)))

    def only(self, chosen: Sequence[int]) -> "FocalStack":
        """The stack of some of its slices."""
        return replace(self, images=self.images[list(chosen)], defocus=self.defocus.only(chosen))


@dataclass(frozen=True, eq=False)
class Estimate:
    """What a method finds in one stack; a baseline may lack depth or image.

    depth: its DepthMap. aif: all-in-focus image [3, H, W] in [0, 1]. q: the depth as inverse depth [H, W], in
    which blur is linear. defocus: the stack's, with the strength of an unknown lens as it was fitted.
    confidence: [H, W] from 0, nothing to tell by, to 1; depth is valid where there is enough of it.
    """

    depth: DepthMap | None
    aif: Tensor | None
    q: Tensor | None
    defocus: Defocus
    confidence: Tensor | None = None


Loader = Callable[[], FocalStack]


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
        return StackBatch(*(None if value is None else value.to(device) for value in vars(self).values()))


def focal_stack(
    images: Sequence[Any] | Tensor,
    focus_m: Sequence[float] | None = None,
    lens: Lens | None = None,
    name: str = "stack",
) -> FocalStack:
    """A stack from slices: paths, tensors [3, H, W], arrays [H, W, 3], or one tensor [S, 3, H, W].

    focus_m: the focus distance of each slice in metres; without it they are in order, nearest first. Depth is
    in metres where distances and lens are given, else the place in the stack. Raises ValueError, naming the
    argument, for what does not fit.

        >>> stack = focal_stack(torch.rand(3, 3, 24, 32), focus_m=[4, 1, 2], lens=Lens(50, 8, 12))
        >>> (1 / stack.defocus.focus_q).tolist(), stack.depth_unit
        ([1.0, 2.0, 4.0], 'm')
    """
    slices = [as_image(image, f"images[{index}]") for index, image in enumerate(images)]
    if len(slices) < 2 or len({image.shape for image in slices}) > 1:
        sizes = sorted({f"{image.shape[2]} x {image.shape[1]}" for image in slices})
        raise ValueError(f"images must be two or more of one size, got {len(slices)} of {', '.join(sizes)}")
    if focus_m is None:
        defocus, order = Defocus.ordered(len(slices)), list(range(len(slices)))
    elif len(focus_m) != len(slices):
        raise ValueError(
            f"focus_m must have one distance for each of {len(slices)} images, got {len(focus_m)}"
        )
    else:
        defocus, order = Defocus.by_distance(focus_m, lens)
    return FocalStack(name, torch.stack(slices)[order], defocus, lens if defocus.kind == "metric" else None)


def collate(stacks: Sequence[FocalStack]) -> StackBatch:
    """Stacks of one size, slice count and kind as a batch; DataError names the first that differs."""
    first = stacks[0]
    for stack in stacks:
        if (stack.images.shape, stack.depth_unit) != (first.images.shape, first.depth_unit):
            remedy = "Stacks of one batch must be alike: set crop or data.resize_to, or batch_size=1"
            raise DataError(stack.name, f"{stack.in_words}, but {first.name} is {first.in_words}", remedy)

    def together(name: str) -> Tensor | None:
        values = [getattr(stack, name) for stack in stacks]
        if any(value is None for value in values):
            return None
        batch = torch.stack(values)
        return batch.unsqueeze(1) if name in ("depth", "valid") else batch

    focus_q, gain_px = (torch.stack([getattr(s.defocus, n) for s in stacks]) for n in ("focus_q", "gain_px"))
    truth = [together(name) for name in ("aif", "depth", "valid", "guide")]
    return StackBatch(together("images"), Defocus(focus_q, gain_px, first.defocus.kind), *truth)


def open_slices(paths: Sequence[Path]) -> tuple[PhotoFiles, tuple[str, ...]]:
    """Photos that are slices of one stack, and notes; DataError names one that differs or is too thin."""
    survey = survey_photos(paths, one_grid=True, background="white")
    sizes = survey.sizes
    for path, size in zip(paths, sizes, strict=True):
        if size != sizes[0]:
            reason = f"is {size[1]} x {size[0]} pixels, but {paths[0].name} is {sizes[0][1]} x {sizes[0][0]}"
            raise DataError(path, reason, "Slices must have one size: give them as the camera wrote them")
    if min(sizes[0]) < SMALLEST_SIDE:
        reason = f"is {sizes[0][1]} x {sizes[0][0]} pixels"
        raise DataError(paths[0], reason, f"Slices need {SMALLEST_SIDE} pixels in both directions")
    return PhotoFiles(tuple(paths), sizes[0], survey.orientations[0]), survey.notes


def read_slices(paths: Sequence[Path]) -> Tensor:
    """Images [S, 3, H, W] of one size; DataError as `open_slices`."""
    photos, _ = open_slices(paths)
    return photos[list(range(len(photos)))]


def crop_stack(stack: FocalStack, top: int, left: int, side: int, flip: bool = False) -> FocalStack:
    """A square part of a stack, mirrored left to right if told; sides shorter than `side` stay whole."""

    def cut(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        part = value[..., top : top + side, left : left + side]
        return part.flip(-1) if flip else part

    parts = {name: cut(getattr(stack, name)) for name in ("images", "aif", "depth", "valid", "guide")}
    return replace(stack, **parts)


def random_crop(
    stack: FocalStack, side: int, draw: torch.Generator, flip: bool = False, zoom: float = 1.0
) -> FocalStack:
    """A random square part of a stack, mirrored half of the time with `flip`; side 0: the whole stack.

    zoom: a smaller part, enlarged by 1 to this factor, as if of a camera with more and softer pixels.
    """
    height, width = stack.size
    side = part = side or max(height, width)
    if zoom > 1:
        part = round(min(side, height, width) / zoom ** float(torch.rand((), generator=draw)))
    top = int(torch.randint(max(height - part, 0) + 1, (), generator=draw))
    left = int(torch.randint(max(width - part, 0) + 1, (), generator=draw))
    crop = crop_stack(stack, top, left, part, flip and bool(torch.randint(2, (), generator=draw)))
    if part == side or crop.size[0] != crop.size[1]:
        return crop
    guide = crop.guide
    if guide is not None:
        guide = F.interpolate(guide[None], (side, side), mode="bilinear", align_corners=False)[0]
    return replace(resize_stack(crop, side, side), guide=guide)


def recoloured(stack: FocalStack, draw: torch.Generator) -> FocalStack:
    """The colours in another order, each times 0.5 to 1: the blur, being linear, stays what it is."""
    order, gain = torch.randperm(3, generator=draw), 0.5 + 0.5 * torch.rand(3, 1, 1, generator=draw)

    def change(image: Tensor | None) -> Tensor | None:
        return None if image is None else image[..., order, :, :] * gain

    guide = None if stack.guide is None else torch.cat([stack.guide[:1], change(stack.guide[1:])])
    return replace(stack, images=change(stack.images), aif=change(stack.aif), guide=guide)


def resize_stack(stack: FocalStack, height: int, width: int, rescale_pitch: bool = True) -> FocalStack:
    """A stack at another size: pictures averaged (antialiased), truth sampled at the nearest pixel.

    With `rescale_pitch` the blur follows the size; without, as in the released code, the old numbers are
    kept. Raises ValueError if the blur is to follow and the picture is squashed.
    """
    if (height, width) == stack.size:
        return stack
    lens, defocus = stack.lens, stack.defocus
    if rescale_pitch:
        lens = None if lens is None else lens.resized(stack.size, (height, width))
        scale = scale_of(stack.size, (height, width))
        defocus = replace(defocus, gain_px=defocus.gain_px * scale)

    def nearest(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        return F.interpolate(value[None, None].float(), (height, width), mode="nearest-exact")[0, 0]

    valid = nearest(stack.valid)
    return replace(
        stack,
        images=averaged(stack.images, (height, width)),
        aif=None if stack.aif is None else averaged(stack.aif[None], (height, width))[0],
        depth=nearest(stack.depth),
        valid=None if valid is None else valid > 0.5,
        guide=None,
        lens=lens,
        defocus=defocus,
    )


def averaged(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [N, C, H, W] at a smaller size, antialiased."""
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


def fit_to_size(stack: FocalStack, max_side: int, max_slices: int) -> FocalStack:
    """The stack within the limits, as it is if it fits; its notes say what was done.

    Its images may be any sequence of slices [3, H, W], such as photos on disk: one at a time is asked for.
    """
    notes = list(stack.notes)
    (height, width), count = stack.size, len(stack.images)
    scale = min(1.0, max(max_side / max(height, width), 16 / min(height, width)))  # keeps 16 pixels
    if scale == 1 and count <= max_slices and isinstance(stack.images, Tensor):
        return stack
    size = round(height * scale), round(width * scale)
    chosen = evenly(count, max_slices)
    small = resize_stack(stack.only(chosen[:1]), *size)
    images = [small.images, *(averaged(stack.images[index][None], size) for index in chosen[1:])]
    if scale < 1:
        notes.append(f"photos of {width} x {height} were shrunk to {size[1]} x {size[0]} (--max-side)")
    if count > max_slices:
        notes.append(f"{max_slices} of {count} photos were used (--max-slices)")
    defocus = stack.defocus.only(chosen)
    defocus = replace(defocus, gain_px=defocus.gain_px * scale_of(stack.size, size))
    return replace(small, images=torch.cat(images), defocus=defocus, notes=tuple(notes))
