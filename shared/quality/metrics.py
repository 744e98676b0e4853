"""Measures for images (PSNR, LPIPS, L1), depth maps and disparity maps; SSIM is in `ssim`.

Everything takes a batch, [B, ...]; image and disparity measures return one value per image, [B], so that a
table can be checked view by view. Prediction and truth must have one shape: nothing broadcasts by accident.
Values outside a mask, NaN and infinity included, never change a result.
"""

import math
import warnings
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from shared.errors import DataError
from shared.geometry import check_shape
from shared.quality.losses import backbone_state_dict

__all__ = [
    "LPIPS_MISSING",
    "Lpips",
    "bad_pixels",
    "depth_errors",
    "l1",
    "least_squares_scale",
    "mse_x100",
    "psnr",
    "q25",
]


Scaling = Literal["none", "median", "least_squares", "least_squares_shift"]
_LOG_FLOOR = 1e-8  # predictions of zero depth stay finite in logarithms and ratios


def psnr(prediction: Tensor, target: Tensor, data_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image, over all pixels and channels jointly.

    prediction, target: [B, C, H, W] with values spanning `data_range`; returns [B]. Identical images give
    +inf. Nothing is clipped or quantised here: clip a prediction that leaves the range before the call.
    A table averages these values over the images; it does not take the PSNR of the mean error.
    Raises ValueError for other shapes, empty or integer images, and a `data_range` that is not positive.
    """
    _check_pair(prediction, target, "B C H W")
    if not (math.isfinite(data_range) and data_range > 0):
        raise ValueError(f"data_range must be positive and finite, got {data_range}")
    difference = (_at_least_float32(prediction) - _at_least_float32(target)) / data_range
    return -10 * torch.log10(difference.square().flatten(1).mean(dim=1))


LPIPS_MISSING = "not measured: `prepare.py weights` fetches what it takes"


class Lpips(nn.Module):
    """Learned perceptual distance (LPIPS v0.1, Zhang et al. 2018) of each image; lower is more alike.

    net: "alex" (the usual choice for reporting) or "vgg". weights: the file of its ImageNet weights, as in
    `backbone_state_dict`, which raises DataError without any.
    Call with prediction, target: [B, 3, H, W] RGB in [0, 1]; returns [B]. A measure, not a loss: no gradient,
    which the package would make NaN wherever all features are zero. Print `label` in tables.
    Raises ValueError for an unknown net and for images smaller than the net can take.
    """

    # net -> architecture of torchvision, name in print, smallest image side
    _NETS = {"alex": ("alexnet", "AlexNet", 31), "vgg": ("vgg16", "VGG-16", 16)}

    def __init__(self, net: Literal["alex", "vgg"] = "alex", weights: str | PathLike | None = None):
        super().__init__()
        if net not in self._NETS:
            raise ValueError(f"unknown LPIPS net {net!r}: use one of {', '.join(self._NETS)}")
        architecture, printed, self.smallest_side = self._NETS[net]
        self.label = f"LPIPS v0.1 ({printed})"
        self.distance = _build_lpips(net, backbone_state_dict(architecture, weights))

    @classmethod
    def if_there(cls, side: int) -> "Lpips | None":
        """The usual net for images of this side; None where it is too small, or without its weights."""
        try:
            return cls() if side >= cls._NETS["alex"][2] else None
        except DataError:
            return None

    @torch.no_grad()
    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        _check_pair(prediction, target, "B 3 H W")
        if min(prediction.shape[-2:]) < self.smallest_side:
            raise ValueError(f"{self.label} needs images of at least {self.smallest_side} pixels a side")
        return self.distance(prediction, target, normalize=True).flatten()

    def train(self, mode: bool = True) -> "Lpips":
        """Stay in evaluation mode: the dropout of the linear layers would make the measure random."""
        return super().train(False)


def depth_errors(
    prediction: Tensor,
    truth: Tensor,
    mask: Tensor | None = None,
    min_depth: float | None = 1e-3,
    max_depth: float | None = 80.0,
    scaling: Scaling = "none",
) -> dict[str, Any]:
    """The nine usual depth errors (Eigen et al. 2014) with a record of how they were taken.

    prediction, truth, mask: [B, 1, H, W] or [B, H, W], depth in one unit. A pixel counts if the mask holds
    (default: all), truth is finite and positive, and min_depth < truth < max_depth; None is no limit. The
    prediction of each image is aligned by `scaling`, then clamped to the limits; the errors of the images are
    averaged. Logarithms floor the prediction at 1e-8.
    Returns plain floats abs_rel, sq_rel, rmse, rmse_log (natural), log10, silog (x 100), delta1 to delta3
    (share below 1.25^n), and "record": images, pixels, limits, scaling, pooling, alignments [scale, shift].
    Raises ValueError for an image without a valid pixel and for a prediction not finite at a valid pixel.

        abs_rel = mean |d - d*| / d*, rmse = sqrt(mean (d - d*)²), delta_n: share of max(d/d*, d*/d) < 1.25^n

        >>> truth = torch.tensor([[[1.0, 2.0], [4.0, 100.0]]])  # 100 is beyond max_depth
        >>> errors = depth_errors(1.1 * truth, truth)
        >>> round(errors["abs_rel"], 4), errors["delta1"], errors["record"]["pixels"]
        (0.1, 1.0, 3)
    """
    if scaling not in get_args(Scaling):
        raise ValueError(f"unknown scaling {scaling!r}: use one of {', '.join(get_args(Scaling))}")
    _check_pair(prediction, truth, "B 1 H W", "B H W")
    low, high = min_depth or 0.0, math.inf if max_depth is None else max_depth
    if not 0 <= low < high:
        raise ValueError(f"depth limits must be 0 <= min_depth < max_depth, got {min_depth}, {max_depth}")

    valid = _mask_like(mask, truth) & torch.isfinite(truth) & (truth > low) & (truth < high)
    _require_valid(valid)
    rows, alignments = [], []
    for index, inside in enumerate(valid):
        predicted, true = prediction[index][inside].double(), truth[index][inside].double()
        if not torch.isfinite(predicted).all():
            raise ValueError(f"the prediction is not finite at a valid pixel (batch entry {index})")
        scale, shift = _alignment(predicted, true, scaling)
        rows.append(_error_row((scale * predicted + shift).clamp(low, high), true))
        alignments.append([scale, shift])

    means: dict[str, Any] = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    means["record"] = {
        "images": len(truth),
        "pixels": int(valid.sum()),
        "min_depth": min_depth,
        "max_depth": max_depth,
        "clamp_prediction": True,
        "scaling": scaling,
        "pooling": "image",
        "alignments": [] if scaling == "none" else alignments,
    }
    return means


def least_squares_scale(
    prediction: Tensor, truth: Tensor, mask: Tensor | None = None, shift: bool = False
) -> tuple[float, float]:
    """Scale s and shift t that minimise sum (s * prediction + t - truth)^2 over the pixels of the mask.

    prediction, truth, mask: one shape; all pixels share one fit, made in float64. Without `shift`, t = 0, as
    diffdiffdepth aligns multi-view results. Raises ValueError if no pixel is valid, a valid pixel is not
    finite, or the fit has no unique answer (a zero prediction; with `shift`, a constant one).
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {list(prediction.shape)} and truth {list(truth.shape)} differ")
    valid = _mask_like(mask, truth)
    if not valid.any():
        raise ValueError("no pixel is valid: the mask is empty")
    x, y = prediction[valid].double(), truth[valid].double()
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise ValueError("prediction or truth is not finite at a valid pixel: exclude it by the mask")
    mean_x, mean_y = (x.mean(), y.mean()) if shift else (x.new_zeros(()), y.new_zeros(()))
    x, y = x - mean_x, y - mean_y
    energy = (x * x).sum().item()
    if energy <= 1e-24 * len(x) * mean_x.item() ** 2:  # rounding of a constant, or exactly zero
        raise ValueError(f"no unique fit: the prediction is {'constant' if shift else 'zero'} on the mask")
    scale = (x * y).sum().item() / energy
    return scale, mean_y.item() - scale * mean_x.item()


def l1(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute error of each image or map, [B], over the pixels of the mask and all channels.

    prediction, truth: [B, C, H, W] or [B, H, W]; mask: the same, or one channel for all.
    The value scales with the range of the images: on [-1, 1] it is twice that on [0, 1].
    Raises ValueError for different shapes and for an image without a valid pixel.
    """
    return _masked_mean(_absolute_error(prediction, truth), mask)


def mse_x100(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error times 100 of each map, [B], as the 4D light field benchmark (HCI) prints it.

    The benchmark also drops a frame of 15 pixels; diffdiffdepth's tables do not. Arguments as in `l1`.
    """
    return 100 * _masked_mean(_absolute_error(prediction, truth).square(), mask)


def bad_pixels(prediction: Tensor, truth: Tensor, threshold: float, mask: Tensor | None = None) -> Tensor:
    """Per cent of pixels of each map, [B], whose absolute error exceeds `threshold` (BadPix, BP).

    An error equal to the threshold is good; a NaN prediction is bad. Arguments as in `l1`.
    """
    if not threshold >= 0:
        raise ValueError(f"threshold must not be negative, got {threshold}")
    error = _absolute_error(prediction, truth)
    return 100 * _masked_mean((~(error <= threshold)).to(error.dtype), mask)  # NaN <= threshold is false


def q25(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """25th percentile of the absolute error of each map, [B], linearly interpolated, in the unit of the map.

    The 4D light field benchmark (HCI) prints this value times 100. A NaN prediction counts as a large error.
    Arguments as in `l1`.
    """
    error = _absolute_error(prediction, truth)
    valid = _mask_like(mask, error)
    _require_valid(valid)
    return torch.stack([_quantile(e[v], 0.25) for e, v in zip(error, valid, strict=True)])


def _error_row(prediction: Tensor, truth: Tensor) -> dict[str, float]:
    """Depth errors of flat lists of valid pixels in float64."""
    difference = prediction - truth
    floored = prediction.clamp(min=_LOG_FLOOR)
    log_difference = floored.log() - truth.log()
    ratio = torch.maximum(floored / truth, truth / floored)
    row = {
        "abs_rel": (difference.abs() / truth).mean(),
        "sq_rel": (difference.square() / truth).mean(),
        "rmse": difference.square().mean().sqrt(),
        "rmse_log": log_difference.square().mean().sqrt(),
        "log10": log_difference.abs().mean() / math.log(10),
        "silog": 100 * log_difference.std(correction=0),
        **{f"delta{n}": (ratio < 1.25**n).double().mean() for n in (1, 2, 3)},
    }
    return {name: value.item() for name, value in row.items()}


def _alignment(prediction: Tensor, truth: Tensor, scaling: Scaling) -> tuple[float, float]:
    """Scale and shift that take a flat prediction to the truth."""
    if scaling == "none":
        return 1.0, 0.0
    if scaling == "median":
        median = _quantile(prediction, 0.5).item()
        if median <= 0:
            raise ValueError(f"median scaling needs a positive median prediction, got {median}")
        return _quantile(truth, 0.5).item() / median, 0.0
    return least_squares_scale(prediction, truth, shift=scaling == "least_squares_shift")


def _quantile(values: Tensor, q: float) -> Tensor:
    """As torch.quantile, which refuses more than 2^24 values; the median of an even count is interpolated."""
    position = q * (len(values) - 1)
    rank = math.floor(position)
    below = values.kthvalue(rank + 1).values
    if position == rank:
        return below
    return torch.lerp(below, values.kthvalue(rank + 2).values, position - rank)


def _absolute_error(prediction: Tensor, truth: Tensor) -> Tensor:
    _check_pair(prediction, truth, "B C H W", "B H W")
    return (_at_least_float32(prediction) - _at_least_float32(truth)).abs()


def _masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return values.flatten(1).mean(dim=1)
    valid = _mask_like(mask, values)
    _require_valid(valid)
    kept = torch.where(valid, values, torch.zeros_like(values))
    return kept.flatten(1).sum(dim=1) / valid.flatten(1).sum(dim=1)


def _require_valid(valid: Tensor) -> None:
    empty = (~valid.flatten(1).any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"no pixel is valid in batch entries {empty}: check mask, depth limits and unit")


def _mask_like(mask: Tensor | None, values: Tensor) -> Tensor:
    """A boolean mask in the shape of `values`; of [B, C, H, W] one channel may be given for all."""
    if mask is None:
        return torch.ones_like(values, dtype=torch.bool)
    if mask.dtype != torch.bool:
        raise ValueError(f"the mask must be boolean, got {mask.dtype}: write the condition, e.g. mask > 0.5")
    shared_channel = values.ndim == 4 and mask.shape == (values.shape[0], 1, *values.shape[2:])
    if mask.shape != values.shape and not shared_channel:
        raise ValueError(f"mask {list(mask.shape)} does not fit maps of shape {list(values.shape)}")
    return mask.expand_as(values)


def _check_pair(prediction: Tensor, truth: Tensor, *layouts: str) -> None:
    """Two float tensors of one shape, in the one of the layouts that has their number of dimensions."""
    layout = next((layout for layout in layouts if len(layout.split()) == truth.ndim), layouts[0])
    check_shape(prediction, layout, "prediction", check_shape(truth, layout, "truth"))
    if truth.numel() == 0 or not (prediction.is_floating_point() and truth.is_floating_point()):
        raise ValueError(f"float tensors with values are needed, got {prediction.dtype} {list(truth.shape)}")


def _at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _build_lpips(net: str, backbone: dict[str, Tensor]) -> nn.Module:
    """The package's network with the given backbone weights and its own linear layers.

    Built on the meta device: its constructor would fill a whole classifier with random numbers first.
    """
    import lpips  # slow to import, and only this class needs it

    with torch.device("meta"), warnings.catch_warnings():
        # lpips 0.1.4 still passes torchvision's retired argument `pretrained`.
        warnings.filterwarnings("ignore", message=".*(pretrained|weight enum)", category=UserWarning)
        model = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    linear_file = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
    linear = torch.load(linear_file, map_location="cpu", weights_only=True)
    state = {}
    for name in model.state_dict():
        if name.startswith("net."):  # net.slice2.3.weight is features.3.weight
            index, kind = name.split(".")[-2:]
            state[name] = backbone[f"features.{index}.{kind}"]
        elif name.startswith("lin"):  # each layer is registered twice: lin0.* and lins.0.*
            state[name] = linear[name.replace("lins.", "lin")]
    model.scaling_layer = lpips.ScalingLayer()
    state.update(model.scaling_layer.state_dict(prefix="scaling_layer."))
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()
