"""Figures in the READMEs: blocks between `<!-- figures:NAME -->` and `<!-- end -->`, filled from results/.

A block is a table on lines of its own, or a few words within a line.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.errors import DataError

__all__ = ["blocks", "fill", "minutes"]

BLOCK = re.compile(r"<!-- figures:([\w-]+) -->(.*?)<!-- end -->", re.DOTALL)
Results = Mapping[str, Any]
Formats = Mapping[str, str]  # of a value by its key, as for format()


def fill(readme: str, figures: Mapping[str, str], path: Path) -> str:
    """The text with its blocks as they should be; DataError for a block that is not known here."""

    def block(match: re.Match[str]) -> str:
        name = match[1]
        if name not in figures:
            raise DataError(
                path, f"has a block of unknown figures, {name}", f"Known are {', '.join(figures)}"
            )
        text = f"\n{figures[name]}\n" if figures[name].startswith("|") else figures[name]
        return f"<!-- figures:{name} -->{text}<!-- end -->"

    return BLOCK.sub(block, readme)


def blocks(folder: Path) -> dict[str, dict[str, str]]:
    """The blocks of each paper's README by name, and under "" those of the README at the root."""

    def read(name: str) -> Results:
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))

    papers = {
        "deepvoxels": _deepvoxels(read),
        "diffdiffdepth": _diffdiffdepth(read),
        "dfd_selfsup": _dfd_selfsup(read),
        "nvs_depth": _nvs_depth(read),
    }
    for paper, made in papers.items():
        cpu_seconds = read(f"{paper}/quick")["run"]["cpu_seconds"]
        made["quick-time"] = f"{minutes(cpu_seconds)} of processor time"
        if (folder / paper / "evening.json").exists():
            cpu_seconds = read(f"{paper}/evening")["run"]["cpu_seconds"]
            made["evening-time"] = f"{minutes(cpu_seconds)} of processor time"
    lines = {paper: f"{made['quick-time']}: {made['quick-line']}" for paper, made in papers.items()}
    return papers | {"": lines}


def _grid(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(values: Results, formats: Formats) -> list[str]:
    return [format(values[key], text) if key in values else "–" for key, text in formats.items()]


def minutes(seconds: float) -> str:
    whole, rest = divmod(round(seconds), 60)
    return f"{whole} min {rest} s" if whole else f"{rest} s"


def _deepvoxels(read: Any) -> dict[str, str]:
    from deepvoxels.published import ABLATION, METHOD_NAMES, TABLE_1

    quick = read("deepvoxels/quick")
    rows = []
    for row, name in METHOD_NAMES.items():
        paper = TABLE_1[row]["cube"] if row in TABLE_1 else (ABLATION["cube"], None)
        published = ["–" if value is None else f"{value:.2f}" for value in paper]
        mean = read(f"deepvoxels/table/{row}")["mean"]
        rows.append([name, *published, *_cells(mean, {"psnr": ".2f", "ssim": ".3f"})])
    gain = quick["mean"]["psnr"] - quick["nearest_neighbour"]["psnr"]
    line = f"{quick['mean']['psnr']:.1f} dB on new views, {gain:.1f} dB above the nearest photo"
    line += f"; depth off by {100 * quick['depth']['abs_rel']:.1f} %"
    evening = read("deepvoxels/evening")
    longer = f"{evening['mean']['psnr']:.1f} dB, SSIM {evening['mean']['ssim']:.3f}, depth off by "
    longer += f"{100 * evening['depth']['abs_rel']:.1f} %"
    headings = ["cube", "PSNR, paper", "SSIM, paper", "PSNR, ours", "SSIM, ours"]
    return {"table-1": _grid(headings, rows), "quick-line": line, "evening": longer}


def _diffdiffdepth(read: Any) -> dict[str, str]:
    names = {
        "nearest": "nearest label",
        "diffusion": "diffusion of the same points, not optimised",
        "ours": "**optimised**",
        "median": "optimised, weighted median after it",
    }
    headings = {"mse_x100": "MSE x 100", "bp_0.01": "BP(0.01)", "bp_0.03": "BP(0.03)", "bp_0.07": "BP(0.07)"}
    headings |= {"q25_x100": "Q25 x 100", "mse": "MSE"}
    field = dict.fromkeys(list(headings)[:4], ".1f") | {"q25_x100": ".2f"}
    figures = {}
    for name, formats in (
        ("quick", field),
        ("antinous", field),
        ("quick_mvs", {"mse": ".3f", "q25_x100": ".2f"}),
    ):
        found = read(f"diffdiffdepth/{name}")["rows"]
        rows = [[label, *_cells(found[key], formats)] for key, label in names.items()]
        figures[name] = _grid(["", *(headings[key] for key in formats)], rows)
    quick = read("diffdiffdepth/quick")
    before, after = (quick["rows"][key]["bp_0.03"] for key in ("diffusion", "ours"))
    line = "share of pixels more than 0.03 px off from "
    line += f"{before:.0f} % (plain diffusion of the same noisy points) to {after:.0f} %"
    return figures | {"quick-line": line}


def _dfd_selfsup(read: Any) -> dict[str, str]:
    names = {
        "constant": "constant depth",
        "best_slice": "best single slice (needs truth)",
        "focus_sml": "depth from focus, SML",
        "focus_ring": "depth from focus, ring difference",
        "focus_even": "depth from focus, as `predict.py` without a network",
        "plane_sweep": "plane sweep by re-blurring",
        "descent": "descent of the same losses, pixel by pixel",
        "selfsup": "**DAIF-Net, self-supervised**",
        "selfsup_descent": "**DAIF-Net, then descent of the same losses**",
        "supervised_depth": "DAIF-Net, supervised by depth",
        "supervised_aif": "DAIF-Net, supervised by image",
        "supervised_both": "DAIF-Net, supervised by both",
        "oracle": "true depth (needs truth)",
    }
    formats = {"abs_rel": ".3f", "rmse": ".3f", "delta1": ".3f", "psnr": ".2f", "ssim": ".4f"}
    quick = read("dfd_selfsup/quick")
    means = dict(quick["mean"])
    for row in ("supervised_depth", "supervised_aif", "supervised_both"):
        means[row] = read(f"dfd_selfsup/table/{row}")["mean"][row]
    rows = [[label, *_cells(means[key], formats)] for key, label in names.items()]
    heads = ["AbsRel", "RMSE (m)", "δ1", "AIF PSNR (dB)", "AIF SSIM"]
    table = _grid(["method", *heads], rows)

    evening_means = read("dfd_selfsup/evening")["mean"]
    evening = _grid(
        ["method", *heads],
        [
            [label, *_cells(evening_means[key], formats)]
            for key, label in names.items()
            if key in evening_means
        ],
    )

    real = read("dfd_selfsup/real")["stacks"]
    formats = {"abs_rel": ".3f", "rmse": ".3f", "delta1": ".3f", "psnr": ".1f", "rank_correlation": ".3f"}
    rows = []
    for name, stack in real.items():
        several = zip(*(_cells(stack[who], formats) for who in ("focus", "network", "sml")), strict=True)
        size = f"{stack['size'][1]} x {stack['size'][0]}, {stack['slices']}"
        rows.append([name, size, *("–" if "–" in cells else " / ".join(cells) for cells in several)])
    columns = ["stack", "size, slices", "AbsRel", "RMSE (m)", "δ1", "AIF PSNR (dB)", "rank correlation"]
    stacks = _grid(columns, rows)

    own, both, focus = (100 * means[key]["abs_rel"] for key in ("selfsup", "selfsup_descent", "focus_even"))
    line = f"depth off by {own:.1f} % in one pass, {both:.1f} % when its own losses are descended further"
    line += f"; the best focus measure: {focus:.1f} %"
    return {"table": table, "evening": evening, "stacks": stacks, "quick-line": line}


def _nvs_depth(read: Any) -> dict[str, str]:
    from nvs_depth.table import spread

    names = {
        "method": "**method**",
        "direct_warp": "its source splatted by D_s",
        "inverse_warp": "its source fetched by D_t",
        "identity": "source shown as target",
    }
    formats = {"l1": ".4f", "ssim": ".3f", "psnr": ".2f"}
    figures = {}
    for name, digits in (("quick", 4), ("evening", 4), ("quick_street", 3)):
        results = read(f"nvs_depth/{name}")
        depth = {key: f"{value['abs_rel']:.{digits}f}" for key, value in results["depth"].items()}
        rows = [[label, *_cells(results["images"][key], formats), "", ""] for key, label in names.items()]
        rows[0][4:] = [depth["depth_new_none"], depth["depth_read_none"]]
        constant = [depth["constant_none"]] * 2
        rows.append(["constant depth (median of training truth)", "", "", "", *constant])
        figures[name] = _grid(["", "L1", "SSIM", "PSNR", "D_t abs_rel", "D_b abs_rel"], rows)
        ratio = results["images"]["method"]["l1"] / results["images"]["identity"]["l1"]
        errors = [100 * results["depth"][f"{kind}_none"]["abs_rel"] for kind in ("depth_new", "constant")]
        places = 1 if digits == 4 else 0
        line = f"L1 at {ratio:.2f} of showing the given picture; "
        line += f"depth off by {errors[0]:.{places}f} %, a constant by {errors[1]:.{places}f} %"
        figures[f"{name}-line"] = line

    halves = {
        "full": "jointly",
        "views_only": "views alone (no depth losses)",
        "depth_only": "depth alone (no image losses)",
    }
    rows = []
    for key, label in halves.items():
        runs = [read(f"nvs_depth/table/{key}-{seed}") for seed in range(3)]
        method = [run["images"]["method"] for run in runs]
        images = [spread([run["l1"] for run in method], 4), spread([run["psnr"] for run in method], 2)]
        depth = [
            spread([run["depth"][f"{kind}_none"]["abs_rel"] for run in runs], 3)
            for kind in ("depth_new", "depth_read")
        ]
        rows.append([label, *(["–", "–"] if key == "depth_only" else images), *depth])
    figures["halves"] = _grid(["", "L1", "PSNR", "D_t abs_rel", "D_b abs_rel"], rows)
    for name in ("real_two_chairs", "real_kitti_sequence"):
        images = read(f"nvs_depth/{name}")["images"]
        rows = [[label, *_cells(images[key], formats)] for key, label in names.items()]
        figures[name] = _grid(["", "L1", "SSIM", "PSNR"], rows)
    return figures
