"""Depth and an all-in-focus picture from your own focal stack: a folder of photos, see datasets/folder.py.

    python predict.py my_stack/                               at once, by a focus measure, at full size
    python predict.py my_stack/ --fit                         goes on from there: trains on this very stack
    python predict.py my_stack/ --run runs/dfd_selfsup-quick  use a trained network
    python predict.py my_stack/ --run ... --fit 200           adapt a trained network to the stack

Writes depth.pfm, confidence.png, aif.png, report.html, aif_full.png where a network was shown smaller or
fewer photos, and as every paper's predict.py the files that shared/show/export.py lists (in small/ for photos
above 1024 pixels). With a lens in stack.yaml depth is in metres; without one it is the place in the stack,
and which end of it is near is said where it is known.
"""

from dfd_selfsup import arguments
from shared.runs.command import begin, command_line, say_done

if __name__ == "__main__":
    begin(arguments.predict, __doc__)  # --help is answered before PyTorch is loaded

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dfd_selfsup.api import DepthFromDefocus, depth_and_image, shrunk
from dfd_selfsup.datasets.splits import open_folder
from dfd_selfsup.datasets.stack import UNTOLD, Estimate, FocalStack, fit_to_size
from dfd_selfsup.datasets.watch import needs, watch
from dfd_selfsup.measures import measure_stack, rank_correlation
from dfd_selfsup.models.focus_measure import full_size_image
from dfd_selfsup.models.thin_lens import Defocus
from shared.files.disk import write_bytes
from shared.files.images import encode_png, write_image
from shared.results import Views
from shared.runs.command import progress_bar
from shared.show.export import export_views
from shared.show.pictures import contact_sheet, depth_picture
from shared.show.report import Picture, Section, write_report

__all__ = ["main"]

EXPORT_SIDE = 1024  # px, of points, mesh and video
LIMITS_M = (1e-3, 1e3)  # between which depth is measured where there is truth


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; bad data end in DataError, a network for another kind of stack in RunError."""
    args = arguments.predict(__doc__, argv)
    started = time.perf_counter()
    photos = open_folder(args.stack, None if args.order == "auto" else args.order)
    sys.stderr.write(needs(photos, "predict"))
    method = DepthFromDefocus(device=args.device)
    if args.run is not None:
        method = DepthFromDefocus.load(args.run, args.device, args.checkpoint)
    if args.psf_window is not None:
        method.config = replace(method.config, psf=replace(method.config.psf, window=args.psf_window))
    images = watch(photos)
    start = depth_and_image(replace(photos, images=images))
    notes = [*photos.notes, *images.notes(str(args.stack))]
    if method.about:
        notes.append(f"the network knows {method.about}; of other photos its answer may mean little")
    stack, estimate = photos, start
    if args.run is not None or args.fit is not None:
        stack = fit_to_size(photos, args.max_side, args.max_slices)
        notes += stack.notes[len(photos.notes) :]
        start = shrunk(start, stack)  # at full size it would take as much memory as two photos
        estimate = learned(args, method, stack, start)
        if args.fit is not None:
            notes.append(
                "the network's answer was followed by descent (descent.py); where it explains the photos no "
                "better, and near jumps of depth, the focus measure's stands"
            )
    else:
        notes.append("by a focus measure over all photos; --fit goes on from there, with a model of the blur")
    out = args.out or Path("runs") / f"dfd_selfsup-{stack.name}"
    if stack.images.shape != photos.images.shape:
        notes.append(
            "aif_full.png is all in focus at the photos' size, put together from all of them by the depth"
        )
        defocus = at_full_size(photos, stack, estimate)
        full = full_size_image(photos.images, defocus, estimate.q)
        write_bytes(out / "aif_full.png", encode_png(full))
    if estimate.confidence is not None and not bool(estimate.depth.valid.all()):
        notes.append(
            f"{max(0.01, 1 - estimate.depth.valid.float().mean()):.0%} of the depth at most: {UNTOLD}"
        )
    write_results(out, stack, estimate, start, notes, time.perf_counter() - started)
    for line in (*notes, f"depth in {stack.depth_unit}: {stack.depth_in_words}"):
        print(line)  # noqa: T201
    say_done(out, f"open {out}/report.html in a browser, or look around: python -m shared.show.viewer {out}")


def learned(
    args: argparse.Namespace, method: DepthFromDefocus, stack: FocalStack, start: Estimate
) -> Estimate:
    """What the network says of the stack, fitted to it if told."""
    if args.fit is None:
        return method.predict(stack)
    with progress_bar(0, args.fit) as bar:

        def report(step: int, error: float) -> None:
            bar.update()
            bar.set_postfix(error=f"{error:.4f}", refresh=False)

        return method.fit(stack, steps=args.fit, seed=args.seed, report=report, start=start)


def at_full_size(photos: FocalStack, stack: FocalStack, estimate: Estimate) -> Defocus:
    """The defocus of all photos; what was fitted at the smaller size is scaled up."""
    if photos.depth_unit != "slices":
        return photos.defocus
    gain = float(estimate.defocus.gain_px.mean()) * photos.size[1] / stack.size[1]
    return replace(photos.defocus, gain_px=torch.full_like(photos.defocus.gain_px, gain))


def write_results(
    out: Path, stack: FocalStack, estimate: Estimate, start: Estimate, notes: list[str], seconds: float
) -> None:
    """Write depth.pfm and .json, the pictures, report.html, and points.ply where a lens is known."""
    start = shrunk(start, stack)
    facts = facts_of(stack, estimate, start) | {"seconds": round(seconds, 1), "notes": notes}
    depth = replace(estimate.depth, facts={**estimate.depth.facts, **facts})
    if max(stack.size) > EXPORT_SIDE:  # points, mesh and video of a whole photo would take minutes
        first = fit_to_size(replace(stack.only([0]), aif=None, depth=None, valid=None), EXPORT_SIDE, 1)
        small = shrunk(estimate, replace(first, defocus=stack.defocus))
        export_views(out / "small", Views.of_one(small.aif, small.depth))
    else:
        export_views(out, Views.of_one(estimate.aif, depth))
    depth.save(out / "depth.pfm")
    picture = depth_picture(depth, status=stack.depth_in_words, grey=UNTOLD)
    write_bytes(out / "depth.png", encode_png(picture))
    write_bytes(out / "aif.png", encode_png(estimate.aif))
    cells = [[stack.images[0], stack.images[-1], estimate.aif], [picture]]
    if estimate.confidence is not None:
        write_image(out / "confidence.png", estimate.confidence[None])
        cells[1].append(estimate.confidence[None])
    if estimate.q is not start.q:
        cells[1].append(depth_picture(start.depth, status=stack.depth_in_words, grey=UNTOLD))
    ends = (
        ["first photo", "last photo"]
        if stack.defocus.kind == "place"
        else ["nearest focus", "farthest focus"]
    )
    below = ["depth", "confidence, 0 to 1", "depth by the focus measure"][: len(cells[1])]
    text = f"Top: {', '.join(ends)}, all in focus. Below: {', '.join(below)}."
    sections = [
        Section("Result", [Picture(contact_sheet(cells, cell_width=360), text), *notes]),
        Section("Depth", [Picture(picture, stack.depth_in_words)]),
    ]
    size = f"{stack.size[1]} x {stack.size[0]}"
    cover = {"Slices": len(stack.images), "Size": size, "Depth": stack.depth_in_words}
    write_report(out, f"Focal stack {stack.name}", sections, facts=cover)


def facts_of(stack: FocalStack, estimate: Estimate, start: Estimate) -> dict[str, Any]:
    """How good the result is as far as that can be told, compared with the focus measure's."""
    found = {"predicted": estimate} | ({} if estimate.q is start.q else {"depth_from_focus": start})
    rows = {name: measure_stack(stack, each, LIMITS_M) for name, each in found.items()}
    if stack.depth is not None:
        truth = 1 / stack.depth.clamp(min=1e-6)
        for name, each in found.items():
            rows[name]["rank_correlation"] = rank_correlation(each.q, truth, stack.valid)
    facts = {
        "stack": stack.name,
        "slices": len(stack.images),
        "size": list(stack.size),
        "blur_px_per_unit": estimate.defocus.gain_px.tolist(),
        "sharpness": {name: {key: row[key] for key in ("mg", "sf")} for name, row in rows.items()},
    }
    return facts if stack.aif is None and stack.depth is None else facts | {"against_truth": rows}


if __name__ == "__main__":
    command_line(main)
