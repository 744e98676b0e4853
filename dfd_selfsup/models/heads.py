"""From the network's four raw maps to depth and an all-in-focus image.

Depth heads. `norm`, `clip` and `raw` are the released code's: a ReLU, then the map's own maximum is made
`far`, or nothing below 0 and above `far` is let through, or nothing at all is done. `norm` makes every map
reach `far` somewhere, so its scale hangs on one pixel. `inverse` is ours: inverse depth runs from 1 / far
to 1 / near along a sigmoid; the scale is absolute, blur is linear in it, and no pixel can lose its
gradient. `refine` is `inverse` with a mean of the slices, weighted by a focus measure, as its starting
point, which the network corrects.

All-in-focus heads. `clip` is the released code's: a ReLU clipped at 1. The others are ours, and the network
corrects a picture put together from the slices: with `composite` they are mixed by how sharp the predicted
depth says they are, with `sharpest` each pixel is copied from the slice that a focus measure prefers, and
the picture may then take a few steps down its re-blurring error (`image_steps`).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dfd_selfsup.models.daif_net import DaifNet, keep_variance, pad_to_multiple
from dfd_selfsup.models.focus_measure import focus_mean, focus_response, sharpest_slices
from dfd_selfsup.models.options import HeadOptions, NetworkOptions, PsfOptions
from dfd_selfsup.models.psf import improve_image
from dfd_selfsup.models.thin_lens import NEAREST_DEPTH_M, Defocus
from shared.errors import RunError

__all__ = ["Prediction", "StackModel", "coarse_aif", "raw_depth_to_metres"]


# A raw map's unit in logits of inverse depth, and in intensity. Re-blurring answers to a change of colour a
# hundred times more than to one of depth; at equal units the shared features learn of colour alone.
DEPTH_GAIN, COLOUR_GAIN = 4.0, 0.2
SHARPNESS_POWER = 4.0  # a slice sharper by a fifth counts twice as much
ABSOLUTE = ("inverse", "refine")  # heads that need no metres
GUESS_MARGIN = 0.03  # guesses keep off the ends of the sigmoid, where no gradient is
FOCUS_FLOOR = 0.2  # the farthest slice must be told from one that is not sharp


class Prediction(NamedTuple):
    """Inverse depth q [B, 1, H, W], all-in-focus image [B, 3, H, W] in [0, 1], blur radii [B, S, H, W]."""

    q: Tensor
    aif: Tensor
    sigma_px: Tensor

    @property
    def depth(self) -> Tensor:
        """1 / q: metres for a metric stack."""
        return 1 / self.q


class StackModel(nn.Module):
    """DAIF-Net with its heads: images [B, S, 3, H, W] of any size and their defocus to a `Prediction`.

    Sides that are no multiples of 2^levels are padded by repetition and the maps cropped back. q_range:
    inverse depth (far, near), by default that of the heads; None where they take that of each stack. A stack
    without metres needs its own, and heads that need no metres.
    """

    def __init__(
        self,
        network: NetworkOptions = NetworkOptions(),  # noqa: B008
        heads: HeadOptions = HeadOptions(),  # noqa: B008
        q_range: tuple[float, float] | None = None,
        psf: PsfOptions = PsfOptions(),  # noqa: B008
    ):
        super().__init__()
        self.network = DaifNet(base_width=network.base_width, levels=network.levels)
        self.heads, self.psf = heads, psf
        self.half = False  # whether training convolves in bfloat16; what is made of its output is float32
        self.q_range = None if heads.range == "stack" else q_range or heads.q_range
        if network.init == "he":
            keep_variance(self.network)
        last = self.network.conv_out[-1]
        with torch.no_grad():  # corrections start at nothing
            if heads.aif != "clip":
                last.weight[:3], last.bias[:3] = 0, 0
            if heads.depth in ABSOLUTE:
                last.weight[3], last.bias[3] = 0, 0

    def forward(self, images: Tensor, defocus: Defocus) -> Prediction:
        self.check_kind(defocus)
        padded, original = pad_to_multiple(self.with_focus_plane(images, defocus), 2**self.network.levels)
        with torch.autocast(padded.device.type, torch.bfloat16, enabled=self.half and self.training):
            raw = self.network(padded)[(..., *original)].float()
        q = self._inverse_depth(raw[:, 3:4], images, defocus)
        sigma = defocus.sigma_px(q)
        if self.heads.aif == "clip":
            return Prediction(q, raw[:, :3].clamp(0, 1), sigma)
        if self.heads.aif == "composite":
            base = coarse_aif(images, sigma, self.heads.composite_px)
        else:
            base = sharpest_slices(images)
            if self.heads.image_steps and defocus.kind in ("metric", "disparity"):
                base = improve_image(base, images, sigma, self.psf, self.heads.image_steps)
        aif = base + COLOUR_GAIN * raw[:, :3]
        return Prediction(q, aif + (aif.clamp(0, 1) - aif).detach(), sigma)  # clipped, its gradient not

    def check_kind(self, defocus: Defocus) -> None:
        """RunError where the heads read metres and the stack has none."""
        if defocus.kind != "metric" and self.heads.need_metres:
            raise RunError(
                "the heads of this network need a lens and focus distances (stack.yaml); fit the stack alone "
                "(--fit), or train with heads.depth=inverse or refine, heads.focus_input=inverse or sharpest"
            )

    def with_focus_plane(self, images: Tensor, defocus: Defocus) -> Tensor:
        """Images with their focus as a fourth, constant plane: [B, S, 3, H, W] -> [B, S, 4, H, W]."""
        q, (low, high) = defocus.focus_q, self._ends(defocus)
        inverse = (q - low[..., None]) / (high - low)[..., None]
        focus = 1 / q if self.heads.focus_input == "metres" else inverse
        plane = focus[..., None, None, None].expand(*images.shape[:2], 1, *images.shape[-2:])
        if self.heads.focus_input == "sharpest":
            sharper = torch.softmax(SHARPNESS_POWER * focus_response(images, self.heads.measure).log(), 1)
            plane = (FOCUS_FLOOR + (1 - FOCUS_FLOOR) * plane) * sharper.unsqueeze(2)
        return torch.cat([images, plane.to(images)], 2)

    def _ends(self, defocus: Defocus) -> tuple[Tensor, Tensor]:
        """Inverse depth (far, near) that the heads span, [] or [B]."""
        if self.q_range is None:
            return defocus.ends
        far, near = self.q_range
        return defocus.focus_q.new_tensor(far), defocus.focus_q.new_tensor(near)

    def _inverse_depth(self, raw: Tensor, images: Tensor, defocus: Defocus) -> Tensor:
        low, high = (end[..., None, None, None] for end in self._ends(defocus))
        if self.heads.depth in ABSOLUTE:
            raw = DEPTH_GAIN * raw
        if self.heads.depth == "refine":
            share = (focus_mean(images, defocus, self.heads.measure) - low) / (high - low)
            raw = raw + torch.logit(share.clamp(GUESS_MARGIN, 1 - GUESS_MARGIN))
        if self.heads.depth in ABSOLUTE:
            return low + (high - low) * torch.sigmoid(raw)
        depth_m = raw_depth_to_metres(raw, self.heads)
        return 1 / depth_m.clamp(min=NEAREST_DEPTH_M)


def raw_depth_to_metres(raw: Tensor, heads: HeadOptions) -> Tensor:
    """The released code's depth heads on a raw map [B, 1, H, W]; the gradient knows the maximum of `norm`."""
    raw = raw.relu()
    if heads.depth == "norm":
        share = raw / (raw.amax((1, 2, 3), keepdim=True) + 1e-8)
        return share * (heads.far_m - heads.near_m) + heads.near_m
    return raw.clamp(max=heads.far_m) if heads.depth == "clip" else raw


def coarse_aif(images: Tensor, sigma_px: Tensor, soft_px: float = 0.0) -> Tensor:
    """At every pixel the colour [B, 3, H, W] of the slice that the depth says is sharpest.

    images [B, S, 3, H, W], sigma_px [B, S, H, W]. soft_px = 0 copies the one slice of smallest sigma, as
    the released code does, and has no gradient in sigma; above 0 the slices are mixed with weights
    softmax(-sigma / soft_px).
    """
    if soft_px == 0:
        coarse, smallest = images[:, 0], sigma_px[:, 0]
        for image, sigma in zip(images[:, 1:].unbind(1), sigma_px[:, 1:].unbind(1), strict=True):
            coarse = torch.where((sigma < smallest).unsqueeze(1), image, coarse)
            smallest = torch.minimum(sigma, smallest)
        return coarse
    weights = torch.softmax(-sigma_px / soft_px, 1)
    return (weights.unsqueeze(2) * images).sum(1)
