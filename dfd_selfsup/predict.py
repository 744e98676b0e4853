"""Depth and an all-in-focus picture from one's own focal stack: a folder of photos, see datasets/folder.py.

    python predict.py my_stack/ --fit                         train on this very stack; needs nothing else
    python predict.py my_stack/ --run runs/dfd_selfsup-quick  use a trained network
    python predict.py my_stack/ --run ... --fit 200           adapt a trained network to the stack

Writes depth.pfm, depth.png, aif.png, report.html, depth.json, points.ply where the lens is known, and
aif_full.png where the photos were shrunk or thinned out. With a lens in stack.yaml depth is in metres;
without one it is the place in the stack, larger is nearer, and marked so.
"""

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dfd_selfsup.config import NetworkConfig, TrainConfig
from dfd_selfsup.datasets.folder import load_stack
from dfd_selfsup.datasets.stack import FocalStack, resize_stack
from dfd_selfsup.descent import descend
from dfd_selfsup.eval import load_run
from dfd_selfsup.fit import FitOptions, fit_stack, q_range_of
from dfd_selfsup.full_size import full_size_image
from dfd_selfsup.losses import LossOptions
from dfd_selfsup.measures import mean_gradient, measure_stack, rank_correlation, spatial_frequency
from dfd_selfsup.methods import Estimate, build_model, network_method
from dfd_selfsup.models.focus_measure import FocusResult, depth_from_focus
from dfd_selfsup.models.heads import HeadOptions, StackModel
from dfd_selfsup.models.psf import PsfOptions
from dfd_selfsup.report import stack_rows
from shared.errors import RunError
from shared.files.disk import write_bytes, write_json
from shared.files.images import encode_png, write_image, write_pfm, write_ply
from shared.geometry.camera import pixel_grid, unproject
from shared.runs.command import command_line, select_device
from shared.show.pictures import contact_sheet, depth_picture, evenly
from shared.show.report import Picture, Section, write_report

__all__ = ["main", "thin_out"]

OWN_LOSS = LossOptions(
    aif=0, aif_blur=0, coarse_blur=0, smooth=40, beta=2.5, smooth_on="inverse", border_fix=True
)
OWN_PSF = PsfOptions(window=15, threshold_px=0.2)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; bad data end in DataError, a missing network in RunError."""
    args = _parse(argv)
    device = select_device(args.device)
    photos = load_stack(args.stack)
    stack, said = _fit_to_size(photos, args.max_side, args.max_slices)
    notes = [*photos.notes, *said]
    started = time.perf_counter()
    if args.run is None and args.fit is None:
        raise RunError("there is no network to use: add --fit to train on this stack, or --run DIR")
    config, model = _starting_point(args, stack, device)
    psf = dataclasses.replace(config.psf, window=args.psf_window or config.psf.window)
    if args.fit is not None:
        options = FitOptions(steps=args.fit, seed=args.seed)
        with tqdm(total=options.steps, unit="step", disable=None) as bar:

            def report(step: int, value: float) -> None:
                bar.update()
                bar.set_postfix(error=f"{value:.4f}", refresh=False)

            loss = OWN_LOSS if args.run is None else config.loss
            stack = fit_stack(model, stack, psf, loss, options, report)
    estimate = network_method(model, device)(stack)
    if args.fit is not None:
        start = FocusResult(estimate.q[None], estimate.aif)
        polished = descend(stack, model.q_range, psf, loss, model.heads.measure, start=start)
        estimate = Estimate(polished.q[0], polished.aif)
        notes.append("the network's answer was followed by descent pixel by pixel (descent.py)")
    out = args.out or Path("runs") / f"dfd_selfsup-{stack.name}"
    if said:
        notes.append(
            "aif_full.png is all in focus at the photos' size, put together from all of them by the depth"
        )
        write_image(out / "aif_full.png", full_size_image(photos, estimate.q, _full_gain_px(photos, stack)))
    facts = _write(out, stack, estimate, notes, time.perf_counter() - started)
    for line in (*notes, f"depth in {facts['unit']}: {facts['quantity']}", f"written to {out}"):
        print(line)  # noqa: T201


def thin_out(stack: FocalStack, count: int) -> FocalStack:
    """`count` slices spread evenly over the stack, the ends among them."""
    chosen = evenly(len(stack.images), count)
    focus, gain = stack.defocus.focus_q[chosen], stack.defocus.gain_px[chosen]
    defocus = dataclasses.replace(stack.defocus, focus_q=focus, gain_px=gain)
    return dataclasses.replace(stack, images=stack.images[chosen], defocus=defocus)


def _full_gain_px(photos: FocalStack, stack: FocalStack) -> Tensor:
    """Blur per unit of inverse depth in each photo; what was fitted at the smaller size is scaled up."""
    if photos.defocus.kind != "order":
        return photos.defocus.gain_px
    scale = photos.size[1] / stack.size[1]
    return torch.full_like(photos.defocus.gain_px, float(stack.defocus.gain_px.mean()) * scale)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("stack", type=Path, metavar="STACK", help="folder of photos")
    parser.add_argument("--fit", type=int, nargs="?", const=300, metavar="STEPS", help="train on it (300)")
    parser.add_argument("--run", type=Path, metavar="DIR", help="run folder of train.py to start from")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/dfd_selfsup-STACK")
    parser.add_argument("--max-side", type=int, default=512, metavar="PX", help="shrink larger photos (512)")
    parser.add_argument("--max-slices", type=int, default=12, metavar="N", help="use at most so many (12)")
    parser.add_argument("--psf-window", type=int, metavar="K", help="side of the blur's kernels, odd (15)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args(argv)
    if args.fit is not None and args.fit < 1:
        parser.error("--fit needs at least one step")
    if args.psf_window is not None and (args.psf_window < 1 or args.psf_window % 2 == 0):
        parser.error("--psf-window must be odd and positive")
    if args.max_side < 32 or args.max_slices < 2:
        parser.error("--max-side must be at least 32 and --max-slices at least 2")
    return args


def _fit_to_size(stack: FocalStack, max_side: int, max_slices: int) -> tuple[FocalStack, list[str]]:
    """The stack within the limits, and what was done to it."""
    said = []
    if max(stack.size) > max_side:
        scale = max_side / max(stack.size)
        height, width = (max(16, round(side * scale)) for side in stack.size)
        said.append(
            f"photos of {stack.size[1]} x {stack.size[0]} were shrunk to {width} x {height} (--max-side)"
        )
        stack = resize_stack(stack, height, width)
    if len(stack.images) > max_slices:
        said.append(f"{max_slices} of {len(stack.images)} photos were used (--max-slices)")
        stack = thin_out(stack, max_slices)
    return stack, said


def _starting_point(
    args: argparse.Namespace, stack: FocalStack, device: torch.device
) -> tuple[TrainConfig, StackModel]:
    """The network of the run, or a new one whose depth range is that of the stack."""
    torch.manual_seed(args.seed)
    if args.run is not None:
        config, model = load_run(args.run, args.checkpoint, device)
        if not stack.is_metric:
            if config.heads.depth not in ("inverse", "refine") or config.heads.focus_input == "metres":
                raise RunError(
                    f"{args.run}: its heads need a lens in stack.yaml; leave --run out and use --fit"
                )
            model.q_range = q_range_of(stack)
        return config, model
    heads = HeadOptions(depth="refine", aif="sharpest", focus_input="sharpest", measure="sml")
    config = TrainConfig(heads=heads, network=NetworkConfig(init="he"), psf=OWN_PSF, loss=OWN_LOSS)
    return config, build_model(config, q_range_of(stack)).to(device)


def _write(
    out: Path, stack: FocalStack, estimate: Estimate, notes: list[str], seconds: float
) -> dict[str, Any]:
    shown: Tensor = estimate.depth if stack.is_metric else estimate.q
    focus = depth_from_focus(stack.images, stack.defocus)
    facts = _facts(stack, estimate, Estimate(focus.q[0], focus.aif), notes, seconds)
    unit, status = facts["unit"], facts["quantity"]
    write_pfm(out / "depth.pfm", shown)
    picture = depth_picture(shown, unit=unit, status=status, min_width=480)
    write_bytes(out / "depth.png", encode_png(picture))
    write_image(out / "aif.png", estimate.aif)
    if stack.is_metric and stack.lens is not None:
        _write_points(out / "points.ply", stack, estimate)
    write_json(out / "depth.json", facts)
    cells = stack_rows(stack, [estimate, Estimate(focus.q[0], focus.aif)], (None, None))
    captions = ["nearest focus", "farthest focus", "all in focus", "depth", "focus composite", "focus depth"]
    sheet = contact_sheet([cells[:3], [*cells[3:4], *cells[4:]]], cell_width=360)
    text = f"Top: {', '.join(captions[:3])}. Below: {', '.join(captions[3:])}."
    sections = [
        Section("Result", [Picture(sheet, text), *notes]),
        Section("Depth", [Picture(picture, status)]),
    ]
    cover = {"Slices": len(stack.images), "Size": f"{stack.size[1]} x {stack.size[0]}", "Depth": status}
    write_report(out, f"Focal stack {stack.name}", sections, facts=cover)
    return facts


def _facts(
    stack: FocalStack, estimate: Estimate, focus: Estimate, notes: list[str], seconds: float
) -> dict[str, Any]:
    """What a reader of depth.pfm has to know, and how good it is as far as that can be told."""
    facts = {
        "metric": {
            "quantity": "metric z-depth, along the optical axis",
            "unit": "m",
            "scale": "from the lens and the focus distances in stack.yaml",
        },
        "disparity": {
            "quantity": "disparity, larger is nearer",
            "unit": "px",
            "scale": "as the disparities in stack.yaml",
        },
        "order": {
            "quantity": "ordered only: place in the stack, larger is nearer",
            "unit": "slices",
            "scale": "none: the lens is unknown",
        },
    }[stack.defocus.kind] | {
        "invalid": "none marked: every pixel has a value",
        "stack": stack.name,
        "slices": len(stack.images),
        "size": list(stack.size),
        "blur_px_per_unit": stack.defocus.gain_px.tolist(),
        "sharpness": {
            name: {
                "mg": float(mean_gradient(found.aif[None])),
                "sf": float(spatial_frequency(found.aif[None])),
            }
            for name, found in (("aif", estimate), ("focus_composite", focus))
        },
        "seconds": round(seconds, 1),
        "notes": notes,
    }
    if stack.aif is not None or stack.depth is not None:
        facts["against_truth"] = _against_truth(stack, estimate, focus)
    return facts


def _against_truth(stack: FocalStack, estimate: Estimate, focus: Estimate) -> dict[str, Any]:
    """Figures where the folder holds truth: errors in metres, rank correlation, image quality."""
    rows: dict[str, Any] = {}
    for name, found in (("predicted", estimate), ("depth_from_focus", focus)):
        depth = found.depth if stack.is_metric else None
        rows[name] = measure_stack(stack, depth, found.aif, (1e-3, 1e3))
        if stack.depth is not None:
            truth = 1 / stack.depth.clamp(min=1e-6)
            rows[name]["rank_correlation"] = rank_correlation(found.q, truth, stack.valid)
    return rows


def _write_points(path: Path, stack: FocalStack, estimate: Estimate) -> None:
    """Points in the camera's frame, in metres; the principal point is taken to be the picture's middle."""
    height, width = stack.size
    focal = stack.lens.focal_length_m / (stack.lens.pixel_pitch_um * 1e-6)
    K = torch.tensor([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    points = unproject(pixel_grid(height, width), estimate.depth, K)
    write_ply(path, points.reshape(-1, 3), estimate.aif.permute(1, 2, 0).reshape(-1, 3))


if __name__ == "__main__":
    command_line(main)
