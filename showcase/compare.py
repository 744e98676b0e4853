"""One scene, four cameras: the depth of all four methods from one viewpoint, next to the truth.

    python -m showcase.compare                                the embedded object and room
    python -m showcase.compare my_capture/ --out compared     a scene that you captured in two or more ways
    python -m showcase.compare --train                        train deepvoxels for each scene

What a capture holds is told in captures.py. diffdiffdepth optimises each scene; dfd_selfsup and nvs_depth
take runs/<paper>-quick where it is, else their shipped weights; deepvoxels learns one scene only and takes
OUT/<capture>/deepvoxels. A method that cannot answer has its reason in the table. Writes report.html,
compare.json and every depth map into OUT.
"""

if __name__ == "__main__":
    from shared.runs.command import begin

    begin()

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import deepvoxels.train
from deepvoxels import DeepVoxels
from dfd_selfsup import DepthFromDefocus
from diffdiffdepth import DiffusedDepth
from nvs_depth import ViewSynthesizer
from shared.errors import DataError, RunError
from shared.files.cameras import read_nerf_scene
from shared.files.disk import read_json, reading, write_json
from shared.files.images import read_image
from shared.geometry.camera import intrinsics_matrix, invert_pose, pixel_grid
from shared.quality.metrics import depth_errors, psnr
from shared.results import DepthMap
from shared.runs.command import add_device_argument, command_line
from shared.show.pictures import colorize_depth, contact_sheet, depth_legend, depth_range
from shared.show.report import Picture, Section, write_report
from shared.show.tables import Column, ResultsTable
from showcase.captures import KINDS, embedded_capture

__all__ = ["Answer", "Capture", "figures_of", "near_edges", "on_viewpoint", "read_capture"]

BAD = 0.05  # of the true depth: a pixel off by more is bad
JUMP = 0.05  # of the depth, between neighbours: an edge
EDGE_PX = 2
TRAINED_DISTANCE = 2.0  # of the object, in nvs_depth's training


@dataclass(frozen=True, eq=False)
class Capture:
    """The viewpoint of a capture in `folder`, its truth, and the views that no method has seen, if any."""

    name: str
    folder: Path
    size: tuple[int, int]
    K: Tensor  # [3, 3]
    world_from_cam: Tensor  # [4, 4]
    photo_K: Tensor  # [3, 3] of photo.png
    distance: float  # of what is looked at
    truth: DepthMap | None
    unseen: Tensor  # [N, 3, S, S]
    unseen_cameras: tuple[Tensor, Tensor] | None  # world_from_cam [N, 4, 4], K [N, 3, 3]


@dataclass(frozen=True, eq=False)
class Answer:
    """A method's z-depth on the viewpoint's pixels, and its pictures for the unseen cameras."""

    depth: Tensor  # [H, W]
    valid: Tensor  # [H, W] bool
    views: Tensor | None = None  # [N, 3, S, S]
    metric: bool = True  # else right up to one factor
    seconds: float = 0.0


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    sections, figures, rows = [], {}, []
    folders = {folder.name: folder for folder in args.captures}
    for name, folder in (folders or {name: embedded_capture(args.data, name) for name in KINDS}).items():
        capture = read_capture(folder, name)
        found = dict(answers(capture, args))
        figures[name] = {method: _row(capture, answer) for method, answer in found.items()}
        rows += [{"scene": name, "method": method, **row} for method, row in figures[name].items()]
        sections.append(Section(name, pictures(capture, found, args.out / name)))
    table = ResultsTable("One scene, four cameras", COLUMNS, rows, NOTE)
    write_json(args.out / "compare.json", figures)
    page = write_report(args.out, "One scene, four cameras", [Section("Figures", [table]), *sections])
    print(f"{table.text()}\n{page}")  # noqa: T201


def _row(capture: Capture, answer: Answer | str) -> dict[str, Any]:
    return {"note": answer} if isinstance(answer, str) else figures_of(capture, answer)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument(
        "captures", nargs="*", type=Path, metavar="CAPTURE", help="default: the embedded ones"
    )
    parser.add_argument("--data", type=Path, default=Path("data/compare"), metavar="DIR", help="of these")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="holds <paper>-quick")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), metavar="DIR")
    parser.add_argument("--train", action="store_true", help="train what has no run yet; some minutes each")
    add_device_argument(parser)
    return parser.parse_args(argv)


def read_capture(folder: Path, name: str = "") -> Capture:
    """The viewpoint of a capture; DataError for one without any part, or with a damaged capture.json."""
    if not any((folder / part).exists() for part, _ in METHODS.values()):
        remedy = f"Put two or more of {', '.join(part for part, _ in METHODS.values())} there"
        raise DataError(folder, "holds no part of a capture", remedy)
    path = folder / "capture.json"
    record = read_json(path)
    with reading(path, "is not the description of a capture", "showcase/captures.py tells what it holds"):
        K, pose, photo_K = (torch.tensor(record[key]) for key in ("K", "world_from_cam", "photo_K"))
        size, distance = tuple(record["size"]), float(record["distance"])
    truth = DepthMap.load(folder / "truth.pfm") if (folder / "truth.pfm").exists() else None
    unseen, cameras = torch.zeros(0), None
    if (folder / "unseen").is_dir():
        frames = read_nerf_scene(folder / "unseen").frames
        unseen = torch.stack(
            [read_image(frame.image_path, orientation=frame.orientation) for frame in frames]
        )
        cameras = tuple(
            torch.stack([getattr(f, key) for f in frames]).float() for key in ("world_from_cam", "K")
        )
    return Capture(name or folder.name, folder, size, K, pose, photo_K, distance, truth, unseen, cameras)


# ---- the methods -------------------------------------------------------------------------------------------


def answers(capture: Capture, args: argparse.Namespace) -> Iterator[tuple[str, Answer | str]]:
    """What each method says of this capture, or why it cannot."""
    for name, (part, method) in METHODS.items():
        if not (capture.folder / part).exists():
            yield name, f"this capture has no {part}"
            continue
        started = time.process_time()
        try:
            answer = method(capture, args)
        except RunError as error:
            yield name, str(error)
        else:
            yield name, replace(answer, seconds=time.process_time() - started)


def _deepvoxels(capture: Capture, args: argparse.Namespace) -> Answer:
    run = args.out / capture.name / "deepvoxels"
    if not (run / "eval.json").exists():
        if not args.train:
            raise RunError(f"not trained yet ({run}): add --train")
        _train_deepvoxels(run, capture.folder / "posed", args.device)
    scene = DeepVoxels.load(run, args.device)
    side = scene.image_side
    focal, centre = float(capture.K[0, 0]) * side / max(capture.size), (side - 1) / 2
    K = intrinsics_matrix(focal, focal, centre, centre)  # of a square around the viewpoint's picture
    depth = scene.render(capture.world_from_cam, K).depth
    views = scene.render(*capture.unseen_cameras) if capture.unseen_cameras else None
    return Answer(*on_viewpoint(depth[0], capture), views=None if views is None else views.images)


def _diffdiffdepth(capture: Capture, args: argparse.Namespace) -> Answer:
    fitted = DiffusedDepth("hci", args.device)
    fitted.fit(capture.folder / "light_field")
    if fitted.z_depth is None:
        raise RunError("light_field/ has no parameters.cfg: disparity alone is no depth")
    return Answer(*on_viewpoint(fitted.z_depth, capture))


def _dfd_selfsup(capture: Capture, args: argparse.Namespace) -> Answer:
    method = DepthFromDefocus.load(_trained(args.runs / "dfd_selfsup-quick", "rooms"), args.device)
    return Answer(*on_viewpoint(method.predict(capture.folder / "focal_stack").depth, capture))


def _nvs_depth(capture: Capture, args: argparse.Namespace) -> Answer:
    method = ViewSynthesizer.load(_trained(args.runs / "nvs_depth-quick", "chairs"), args.device)
    source = method.encode(capture.folder / "photo.png", capture.photo_K)
    views = None
    if capture.unseen_cameras:
        poses = invert_pose(capture.unseen_cameras[0]) @ capture.world_from_cam
        poses[:, :3, 3] *= TRAINED_DISTANCE / capture.distance
        views = source.views(poses).images
    return Answer(*on_viewpoint(source.depth, capture), views=views, metric=False)


def _trained(run: Path, shipped: str) -> Path | str:
    """The finished run, or else the name of shipped weights."""
    return run if (run / "eval.json").exists() else shipped


def _train_deepvoxels(run: Path, posed: Path, device: str) -> None:
    """Train on the posed photos of a capture, or go on where that was interrupted."""
    config = Path(__file__).parents[1] / "deepvoxels" / "configs" / "quick.yaml"
    settings = [f"data.root={posed}", "data.scene=", "data.embedded=null", "model.largest_state=6"]
    command = ["--config", str(config), "--out", str(run), "--device", device, "--set", *settings]
    deepvoxels.train.main([*command, "--resume"] if run.exists() else command)


# Of each method the part of a capture that it takes, and how it answers.
METHODS: dict[str, tuple[str, Callable[[Capture, argparse.Namespace], Answer]]] = {
    "deepvoxels": ("posed", _deepvoxels),
    "diffdiffdepth": ("light_field", _diffdiffdepth),
    "dfd_selfsup": ("focal_stack", _dfd_selfsup),
    "nvs_depth": ("photo.png", _nvs_depth),
}


def on_viewpoint(depth: DepthMap, capture: Capture) -> tuple[Tensor, Tensor]:
    """A depth map [h, w] of a camera in the viewpoint's pose, on its pixels: values and mask [H, W].

    Both cameras look the same way from one place, so that z-depth stays and only the pixels change.
    """
    K_map = capture.K if depth.K is None else depth.K
    height, width = capture.size
    rays = (pixel_grid(height, width) - capture.K[:2, 2]) / capture.K[[0, 1], [0, 1]]  # [H, W, 2]
    pixels = rays * K_map[[0, 1], [0, 1]] + K_map[:2, 2]
    sides = pixels.new_tensor([depth.values.shape[1], depth.values.shape[0]])
    grid = (2 * (pixels + 0.5) / sides - 1)[None]
    sample = partial(F.grid_sample, grid=grid, align_corners=False)
    values = sample(depth.values[None, None], padding_mode="border")[0, 0]
    return values, sample(depth.valid[None, None].float(), mode="nearest")[0, 0] > 0.5


# ---- what is shown -----------------------------------------------------------------------------------------


def figures_of(capture: Capture, answer: Answer) -> dict[str, float]:
    """Errors on the pixels where truth and answer are valid, and PSNR of the unseen views."""
    row = {"seconds": answer.seconds}
    if capture.truth is not None:
        truth, known = capture.truth.values, capture.truth.valid
        both = known & answer.valid
        depth = aligned(capture, answer)
        errors = depth_errors(depth[None], truth[None], both[None], None, None)
        bad = (depth - truth).abs() > BAD * truth
        edges = near_edges(truth, known) & both
        row |= {"abs_rel": errors["abs_rel"], "delta1": errors["delta1"]}
        row |= {
            "bad": 100 * bad[both].float().mean().item(),
            "covered": (100 * both.sum() / known.sum()).item(),
        }
        row["edges"] = ((depth - truth).abs() / truth)[edges].mean().item()
    if answer.views is not None and len(capture.unseen):
        target = F.interpolate(capture.unseen, size=answer.views.shape[-2:], mode="area")
        row["psnr"] = psnr(answer.views, target).mean().item()
    return row


def aligned(capture: Capture, answer: Answer) -> Tensor:
    """The depth of an answer, brought to the truth's median where its scale is not known."""
    if answer.metric or capture.truth is None:
        return answer.depth
    both = capture.truth.valid & answer.valid
    return answer.depth * (capture.truth.values[both].median() / answer.depth[both].median())


def near_edges(depth: Tensor, valid: Tensor) -> Tensor:
    """Pixels [H, W] within EDGE_PX of a jump of the depth by more than JUMP, or of the end of the valid."""
    filled = torch.where(valid, depth, math.inf).log()[None, None]
    high, low = F.max_pool2d(filled, 3, 1, 1), -F.max_pool2d(-filled, 3, 1, 1)
    jump = (high - low > math.log1p(JUMP)).float()
    return F.max_pool2d(jump, 2 * EDGE_PX - 1, 1, EDGE_PX - 1)[0, 0] > 0


def pictures(capture: Capture, found: dict[str, Answer | str], folder: Path) -> list[str | Picture]:
    """Depth and error of each method in one range of colours; the maps are written into `folder`."""
    given = {name: answer for name, answer in found.items() if isinstance(answer, Answer)}
    for name, answer in given.items():
        unit = ("m", "metric") if answer.metric else ("units", "right up to one factor")
        held = DepthMap(answer.depth, "z_depth", *unit, answer.valid, K=capture.K)
        held.save(folder / f"{name}.pfm")
    columns, cells = list(given), [(aligned(capture, answer), answer.valid) for answer in given.values()]
    if capture.truth is not None:
        columns, cells = [*columns, "truth"], [*cells, (capture.truth.values, capture.truth.valid)]
    if not cells:
        return ["No method has an answer yet."]
    low, high = depth_range(*cells[-1])
    rows = [[colorize_depth(depth, valid, low, high) for depth, valid in cells]]
    if capture.truth is not None:
        truth, known = capture.truth.values, capture.truth.valid
        off = [((depth - truth).abs() / truth, valid & known) for depth, valid in cells[:-1]]
        rows.append([colorize_depth(error, seen, 0, 2 * BAD, "magma") for error, seen in off])
    sheet = contact_sheet(
        rows, columns, ["depth", "error"][: len(rows)], 208, depth_legend(416, low, high, "m")
    )
    text = f"Above: depth. Below: error, black is none, bright is {200 * BAD:.0f} % of the depth or more."
    return [
        Picture(sheet, text),
        *[f"{name}: {text}" for name, text in found.items() if isinstance(text, str)],
    ]


def _column(key: str, label: str, definition: str, better: Any, digits: int = 3) -> Column:
    return Column(key, label, "this run", "one viewpoint", definition, better, digits)


COLUMNS = [
    Column("scene", "scene"),
    Column("method", "method"),
    _column("abs_rel", "AbsRel", "mean of |d - d*| / d*", "lower"),
    _column("delta1", "delta1", "share with max(d / d*, d* / d) < 1.25", "higher"),
    _column("bad", "bad %", f"pixels off by more than {100 * BAD:.0f} %", "lower", 1),
    _column("edges", "edges", f"AbsRel within {EDGE_PX} px of a jump in depth", "lower"),
    _column("covered", "covered %", "pixels with truth that the method answers for", "higher", 1),
    _column("psnr", "views dB", "PSNR of the unseen views, full frame", "higher", 1),
    _column("seconds", "s", "processor seconds, training of what is loaded left out", None, 1),
    Column("note", "note"),
]
NOTE = "nvs_depth sees one picture: its depth is brought to the truth's median first."

if __name__ == "__main__":
    command_line(main)
