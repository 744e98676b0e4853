"""Depth and an all-in-focus picture from your own focal stack: a folder of photos, see datasets/folder.py.

    python predict.py my_stack/ --fit                         train on this very stack; needs nothing else
    python predict.py my_stack/ --run runs/dfd_selfsup-quick  use a trained network
    python predict.py my_stack/ --run ... --fit 200           adapt a trained network to the stack

Writes depth.pfm, aif.png, report.html, aif_full.png where the photos were shrunk or thinned out, and as every
paper's predict.py the files that shared/show/export.py lists. With a lens in stack.yaml depth is in metres;
without one it is the place in the stack, larger is nearer, and marked so.
"""

from dfd_selfsup import arguments
from shared.runs.command import begin, command_line, say_done

if __name__ == "__main__":
    begin(arguments.predict, __doc__)  # --help is answered before PyTorch is loaded

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dfd_selfsup.api import DepthFromDefocus
from dfd_selfsup.datasets.splits import read_folder
from dfd_selfsup.datasets.stack import Estimate, FocalStack, fit_to_size
from dfd_selfsup.measures import measure_stack, rank_correlation
from dfd_selfsup.models.focus_measure import depth_from_focus, full_size_image
from dfd_selfsup.models.thin_lens import Defocus
from shared.errors import RunError
from shared.files.images import write_image
from shared.results import Views
from shared.runs.command import progress_bar
from shared.show.export import export_views
from shared.show.pictures import contact_sheet, depth_picture
from shared.show.report import Picture, Section, write_report

__all__ = ["main"]

LIMITS_M = (1e-3, 1e3)  # between which depth is measured where there is truth


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; bad data end in DataError, a missing network in RunError."""
    args = arguments.predict(__doc__, argv)
    if args.run is None and args.fit is None:
        remedy = "add --fit to train on this stack, or --run DIR"
        raise RunError(f"{args.stack}: there is no network to use; {remedy}")
    photos = read_folder(args.stack)
    stack = fit_to_size(photos, args.max_side, args.max_slices)
    started = time.perf_counter()
    if args.run is None:
        method = DepthFromDefocus(device=args.device)
    else:
        method = DepthFromDefocus.load(args.run, args.device, args.checkpoint)
    if args.psf_window is not None:
        method.config = replace(method.config, psf=replace(method.config.psf, window=args.psf_window))
    notes = list(stack.notes)
    if args.fit is None:
        estimate = method.predict(stack)
    else:
        with progress_bar(0, args.fit) as bar:

            def report(step: int, error: float) -> None:
                bar.update()
                bar.set_postfix(error=f"{error:.4f}", refresh=False)

            estimate = method.fit(stack, steps=args.fit, seed=args.seed, report=report)
        notes.append("the network's answer was followed by descent pixel by pixel (descent.py)")
    out = args.out or Path("runs") / f"dfd_selfsup-{stack.name}"
    if stack is not photos:
        notes.append(
            "aif_full.png is all in focus at the photos' size, put together from all of them by the depth"
        )
        defocus = at_full_size(photos, stack, estimate)
        write_image(out / "aif_full.png", full_size_image(photos.images, defocus, estimate.q))
    write_results(out, stack, estimate, notes, time.perf_counter() - started)
    for line in (*notes, f"depth in {stack.depth_unit}: {stack.depth_in_words}"):
        print(line)  # noqa: T201
    say_done(out, f"open {out}/report.html in a browser, or look around: python -m shared.show.viewer {out}")


def at_full_size(photos: FocalStack, stack: FocalStack, estimate: Estimate) -> Defocus:
    """The defocus of all photos; what was fitted at the smaller size is scaled up."""
    if photos.defocus.kind != "order":
        return photos.defocus
    gain = float(estimate.defocus.gain_px.mean()) * photos.size[1] / stack.size[1]
    return replace(photos.defocus, gain_px=torch.full_like(photos.defocus.gain_px, gain))


def write_results(out: Path, stack: FocalStack, estimate: Estimate, notes: list[str], seconds: float) -> None:
    """Write depth.pfm, aif.png, report.html, and what `export_views` writes for every paper."""
    focus = stack.estimate(*depth_from_focus(stack.images, stack.defocus))
    facts = facts_of(stack, estimate, focus) | {"seconds": round(seconds, 1), "notes": notes}
    depth = replace(estimate.depth, facts={**estimate.depth.facts, **facts})
    depth.save(out / "depth.pfm")
    cells = [stack.images[0], stack.images[-1]]
    for found in (estimate, focus):
        cells += [found.aif, depth_picture(found.depth, status=stack.depth_in_words)]
    write_image(out / "aif.png", estimate.aif)
    export_views(out, Views.of_one(estimate.aif, depth))
    captions = ["nearest focus", "farthest focus", "all in focus", "depth", "focus composite", "focus depth"]
    sheet = contact_sheet([cells[:3], cells[3:]], cell_width=360)
    text = f"Top: {', '.join(captions[:3])}. Below: {', '.join(captions[3:])}."
    sections = [
        Section("Result", [Picture(sheet, text), *notes]),
        Section("Depth", [Picture(cells[3], stack.depth_in_words)]),
    ]
    size = f"{stack.size[1]} x {stack.size[0]}"
    cover = {"Slices": len(stack.images), "Size": size, "Depth": stack.depth_in_words}
    write_report(out, f"Focal stack {stack.name}", sections, facts=cover)


def facts_of(stack: FocalStack, estimate: Estimate, focus: Estimate) -> dict[str, Any]:
    """How good the result is as far as that can be told, compared with depth from focus."""
    rows = {}
    for name, found in (("predicted", estimate), ("depth_from_focus", focus)):
        rows[name] = measure_stack(stack, found, LIMITS_M)
        if stack.depth is not None:
            truth = 1 / stack.depth.clamp(min=1e-6)
            rows[name]["rank_correlation"] = rank_correlation(found.q, truth, stack.valid)
    sharpness = [{name: row[name] for name in ("mg", "sf")} for row in rows.values()]
    facts = {
        "stack": stack.name,
        "slices": len(stack.images),
        "size": list(stack.size),
        "blur_px_per_unit": estimate.defocus.gain_px.tolist(),
        "sharpness": dict(zip(("aif", "focus_composite"), sharpness, strict=True)),
    }
    return facts if stack.aif is None and stack.depth is None else facts | {"against_truth": rows}


if __name__ == "__main__":
    command_line(main)
