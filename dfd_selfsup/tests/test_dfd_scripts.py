"""Every script as a user runs it, for a few steps, on small stacks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
import yaml

from dfd_selfsup import DepthFromDefocus, predict, table, train
from dfd_selfsup import eval as evaluation
from dfd_selfsup.config import TrainConfig
from dfd_selfsup.models.daif_net import DaifNet
from dfd_selfsup.models.options import PsfOptions
from dfd_selfsup.models.psf import render_stack
from dfd_selfsup.models.released import swap_red_and_blue
from dfd_selfsup.models.thin_lens import Defocus, Lens
from shared.errors import ConfigError, RunError
from shared.files.images import read_image, write_image
from shared.files.maps import read_pfm, write_pfm
from shared.quality.losses import backbone_file
from shared.quality.metrics import Lpips
from shared.results import DepthMap
from shared.runs.checkpoint import load_checkpoint
from shared.runs.config import load_config

FOCUS_M = [1.0, 2.0, 4.0]
LENS = {"focal_length_mm": 100, "f_number": 2, "pixel_pitch_um": 400}


def write_stack(folder, seed: int, height: int = 32, width: int = 40, truth: bool = True) -> None:
    generator = torch.Generator().manual_seed(seed)
    aif = torch.rand(1, 3, height, width, generator=generator)
    depth = 1 + 2 * torch.rand(1, 1, 2, 2, generator=generator)
    depth = torch.nn.functional.interpolate(depth, (height, width), mode="bilinear", align_corners=True)
    sigma = Defocus.thin_lens(Lens(100, 2, 400), FOCUS_M).sigma_at_depth_px(depth)
    for index, image in enumerate(render_stack(aif, sigma, PsfOptions(11, threshold_px=0.2))[0]):
        write_image(folder / f"slice_{index}.png", image)
    (folder / "stack.yaml").write_text(yaml.safe_dump({"focus_m": FOCUS_M, **LENS}))
    if truth:
        write_image(folder / "aif.png", aif[0])
        write_pfm(folder / "depth.pfm", depth[0, 0])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("stacks")
    for split, count in (("train", 3), ("validation", 1), ("test", 2)):
        for index in range(count):
            write_stack(root / split / f"s{index}", 10 * count + index)
    config = {
        "data": {"kind": "folders", "root": str(root)},
        "network": {"base_width": 4, "levels": 3},
        "heads": {
            "depth": "inverse",
            "aif": "composite",
            "focus_input": "inverse",
            "near_m": 0.7,
            "far_m": 6.0,
        },
        "psf": {"window": 11, "threshold_px": 0.2},
        "loss": {"soft_coarse_px": 0.5, "border_fix": True},
        "steps": 6,
        "batch_size": 2,
        "crop": 24,
        "flip": True,
        "learning_rate": 1e-3,
        "log_every": 2,
        "validate_every": 3,
        "checkpoint_every": 3,
    }
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    return root


def run_train(data, out, *settings: str, resume: bool = False) -> dict:
    flags = ["--config", str(data / "config.yaml"), "--out", str(out), "--device", "cpu"]
    train.main([*flags, *(["--resume"] if resume else []), *(["--set", *settings] if settings else [])])
    return json.loads((out / "eval.json").read_text())


@pytest.fixture(scope="module")
def run_folder(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    run_train(data, out)
    return out


def test_training_leaves_a_whole_run_folder(run_folder):
    results = json.loads((run_folder / "eval.json").read_text())
    assert set(results["mean"]) == {
        "constant", "best_slice", "focus_sml", "focus_ring", "focus_even", "plane_sweep", "descent",
        "selfsup", "selfsup_descent", "oracle"
    }  # fmt: skip
    assert results["mean"]["oracle"]["abs_rel"] < 1e-6
    assert results["mean"]["selfsup"]["psnr"] > 5
    assert (results["test_stacks"], results["train_stacks"], results["depth_limits_m"]) == (2, 3, [0.7, 6.0])
    for name in ("config.yaml", "metrics.jsonl", "report.html", "test_stacks.png", "checkpoints/best.pt"):
        assert (run_folder / name).stat().st_size > 0
    logged = (run_folder / "metrics.jsonl").read_text()
    errors = [row["validation_loss"] for row in logged_losses(run_folder) if "validation_loss" in row]
    assert min(errors) > 0
    best = load_checkpoint(run_folder / "checkpoints" / "best.pt").step
    assert errors[best // 3 - 1] == min(errors)
    assert all(
        f'"{name}"' in logged for name in ("recon", "aif_blur", "coarse_blur", "smooth", "validation_loss")
    )


def test_evaluation_of_the_folder_gives_the_same_figures(run_folder, capsys):
    before = json.loads((run_folder / "eval.json").read_text())["mean"]
    evaluation.main(["--run", str(run_folder), "--checkpoint", "last", "--device", "cpu"])
    assert "DAIF-Net, self-supervised (ours)" in capsys.readouterr().out
    after = json.loads((run_folder / "eval.json").read_text())["mean"]
    assert after["selfsup"] == pytest.approx(before["selfsup"], rel=1e-5)


def test_lpips_is_measured_once_its_backbone_is_there(data, run_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    run_folder = shutil.copytree(run_folder, tmp_path / "run")  # other tests read its figures
    command = ["--run", str(run_folder), "--device", "cpu"]
    evaluation.main(command)
    assert "AIF LPIPS: not measured: `prepare.py weights`" in capsys.readouterr().out
    network = torchvision.models.alexnet()
    (tmp_path / "checkpoints").mkdir()
    torch.save(network.state_dict(), backbone_file("alexnet")[1])
    evaluation.main(command)
    assert "AIF LPIPS: LPIPS v0.1 (AlexNet)" in capsys.readouterr().out
    results = json.loads((run_folder / "eval.json").read_text())
    assert results["mean"]["selfsup"]["lpips"] > 0
    assert "lpips" not in results["mean"]["constant"]
    for row in results["per_stack"]["best_slice"]:
        folder, learned = data / "test" / row["stack"], Lpips("alex")
        truth = read_image(folder / "aif.png")[None]
        found = [learned(read_image(path)[None], truth).item() for path in folder.glob("slice_*.png")]
        assert any(row["lpips"] == pytest.approx(value, rel=1e-4) for value in found)


def logged_losses(folder) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in row.items() if "time" not in key and "second" not in key}
        for row in rows
    ]


RESUMED = {
    "guided by a focus measure": ["guide=focus", "guide_steps=5", "noise_std=0.01"],
    "guided by descent": ["guide=descent", "guide_steps=5"],
    "supervised": ["method=supervised"],
    "reseeded": ["heads.depth=norm", "heads.aif=clip", "dead_heads=reseed", "loss.sharp=10"],
}


@pytest.mark.parametrize("kind", RESUMED)
def test_a_run_stopped_and_resumed_equals_one_that_never_stopped_to_the_last_bit(
    data, tmp_path, monkeypatch, kind
):
    settings = [*RESUMED[kind], "log_every=1", "compare_slow=false"]
    run_train(data, tmp_path / "whole", *settings)
    with monkeypatch.context() as patch:
        draw = train.draw_batch

        def stopped(step, *rest):
            if step == 5:
                raise RunError("the power failed")
            return draw(step, *rest)

        patch.setattr(train, "draw_batch", stopped)
        with pytest.raises(RunError, match="power"):
            run_train(data, tmp_path / "parts", *settings)
    run_train(data, tmp_path / "parts", *settings, resume=True)
    whole, parts = (
        load_checkpoint(tmp_path / name / "checkpoints" / "last.pt", "dfd_selfsup").state
        for name in ("whole", "parts")
    )
    assert all(torch.equal(value, parts["model"][name]) for name, value in whole["model"].items())
    moments = [state["optimizer"]["state"] for state in (whole, parts)]
    assert moments[0].keys() == moments[1].keys()
    for index, values in moments[0].items():
        assert all(torch.equal(value, moments[1][index][name]) for name, value in values.items())
    assert logged_losses(tmp_path / "whole") == logged_losses(tmp_path / "parts")


def test_weights_do_not_depend_on_whether_the_data_were_there(data, tmp_path, monkeypatch):
    def loader(drawn):  # draws numbers, as rendering does
        return lambda config: [load_splits(config), torch.rand(drawn)][0]

    found, load_splits = [], train.load_splits
    for drawn in (0, 7):
        monkeypatch.setattr(train, "load_splits", loader(drawn))
        run_train(data, tmp_path / f"{drawn}", "steps=1", "compare_slow=false", *RESUMED["reseeded"])
        last = tmp_path / f"{drawn}" / "checkpoints" / "last.pt"
        found.append(load_checkpoint(last, "dfd_selfsup").state["model"])
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


@pytest.mark.parametrize("supervise", ["depth", "aif"])
def test_supervised_training_runs(data, tmp_path, supervise, updates):
    results = run_train(data, tmp_path / "run", "method=supervised", f"supervise={supervise}", "steps=2")
    assert f"supervised_{supervise}" in results["mean"]
    assert [rate for rate, *_ in updates] == pytest.approx([1e-3, 5e-4])
    assert all(loss == sum(terms.values()) and list(terms) == [supervise] for _, loss, terms in updates)


def test_a_released_checkpoint_is_measured_and_trained_further(data, tmp_path):
    """With the released heads, from a file as the released code writes it."""
    heads = ["heads.depth=norm", "heads.aif=clip", "heads.focus_input=metres", "loss.sharp=100"]
    torch.manual_seed(1)
    released = DaifNet(base_width=4, levels=3)
    torch.save({"model": released.state_dict(), "optimizer": {}, "iter": 7}, tmp_path / "model.pth")
    settings = [
        *heads,
        "compare_slow=false",
        f"released_checkpoint={tmp_path / 'model.pth'}",
        "dead_heads=keep",
    ]
    for steps in (0, 2):
        assert "selfsup" in run_train(data, tmp_path / f"{steps}", *settings, f"steps={steps}")["mean"]
    found = DepthFromDefocus.load(tmp_path / "0", "cpu").model.network.state_dict()
    further = DepthFromDefocus.load(tmp_path / "2", "cpu").model.network.state_dict()
    for name, weight in swap_red_and_blue(released.state_dict()).items():
        assert torch.equal(found[name], weight)
        assert (further[name] - weight).abs().max() < 3e-3  # two steps of 1e-3


def test_the_table_trains_its_rows_once(data, tmp_path, capsys):
    flags = ["--config", str(data / "config.yaml"), "--out", str(tmp_path), "--device", "cpu"]
    flags += ["--set", "steps=1"]
    table.main([*flags, "--rows", "selfsup", "supervised_depth"])
    text = capsys.readouterr().out
    assert "supervised by depth" in text
    assert "Table 2 of the paper" in text
    table.main([*flags, "--rows", "selfsup"])
    assert "| Method |" in (tmp_path / "table.md").read_text()


def test_prediction_with_a_lens_is_metric(data, run_folder, tmp_path, capsys):
    write_stack(tmp_path / "mine", 99, height=35, width=50)
    out = tmp_path / "out"
    predict.main([str(tmp_path / "mine"), "--run", str(run_folder), "--out", str(out), "--device", "cpu"])
    depth = read_pfm(out / "depth.pfm")
    assert depth.shape == (35, 50)
    assert 0.69 < depth.min() <= depth.max() < 6.01
    result = json.loads((out / "depth.json").read_text())
    assert result["unit"] == "m"
    assert set(result["against_truth"]) == {"predicted", "depth_from_focus"}
    assert (out / "points.ply").read_bytes().startswith(b"ply")
    assert (out / "cameras.json").exists()
    assert "metric z-depth" in capsys.readouterr().out


def test_prediction_without_a_lens_is_ordered_and_says_so(tmp_path, capsys):
    write_stack(tmp_path / "mine", 98, truth=False)
    (tmp_path / "mine" / "stack.yaml").unlink()
    out = tmp_path / "out"
    flags = [
        "--fit",
        "3",
        "--max-side",
        "36",
        "--max-slices",
        "2",
        "--device",
        "cpu",
        "--order",
        "near_to_far",
    ]
    predict.main([str(tmp_path / "mine"), "--out", str(out), *flags])
    result = json.loads((out / "depth.json").read_text())
    assert (result["unit"], result["nearer is"]) == ("slices", "larger")
    assert not (out / "cameras.json").exists()
    said = capsys.readouterr().out
    assert "shrunk to 36 x 29" in said
    assert read_image(out / "aif_full.png").shape == (3, 32, 40)
    assert read_image(out / "aif.png").shape == (3, 29, 36)
    assert "2 of 3 photos" in said
    assert "ordered only" in said


def test_without_a_network_all_photos_answer_at_full_size_and_claim_no_direction(tmp_path, capsys):
    write_stack(tmp_path / "mine", 1, truth=False)
    (tmp_path / "mine" / "stack.yaml").unlink()
    found = {}
    for order in ("auto", "near_to_far", "far_to_near"):
        out = tmp_path / order
        predict.main([str(tmp_path / "mine"), "--out", str(out), "--order", order])
        found[order] = DepthMap.load(out / "depth.pfm")
        assert read_image(out / "aif.png").shape == (3, 32, 40)
        assert read_image(out / "confidence.png").shape == (3, 32, 40)
        assert ("which end is near is not known" in capsys.readouterr().out) == (order == "auto")
    assert [found[order].kind for order in found] == ["place", "order", "order"]
    assert json.loads((tmp_path / "auto" / "depth.json").read_text())["nearer is"] == "not known"
    assert torch.allclose(found["near_to_far"].values, 2 - found["far_to_near"].values, atol=1e-4)
    assert torch.allclose(found["auto"].values, found["far_to_near"].values, atol=1e-4), (
        "0 is the first photo"
    )


@pytest.mark.parametrize("path", sorted(Path(train.__file__).parent.glob("configs/*.yaml")), ids=str)
def test_every_config_of_the_folder_is_valid(path):
    assert load_config(TrainConfig, path).steps > 0


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("heads.dept=norm", "heads.depth"),
        ("heads.far_m=0.5", "far_m"),
        ("heads.depth=relative", "heads.depth"),
        ("psf.window=8", "window"),
        ("data.resize_to=[8, 128]", "data.resize_to"),
        ("data.embedded.test_scenes=[-1, 2]", "data.embedded.test_scenes"),
        ("batch_size=0", "batch_size"),
    ],
)
def test_values_that_make_no_sense_are_refused(override, named):
    quick = Path(train.__file__).parent / "configs" / "quick.yaml"
    with pytest.raises(ConfigError, match=named):
        load_config(TrainConfig, quick, [override])


@pytest.mark.slow
def test_two_processes_equal_one_with_the_double_batch(data, tmp_path):
    """As torchrun starts them, on the CPU; float32 sums in another order differ in their last digits."""
    command = ["-m", "dfd_selfsup.train", "--config", str(data / "config.yaml"), "--device", "cpu"]
    settings = ["--set", "batch_size=4", "steps=3", "validate_every=0", "loss.soft_coarse_px=0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    states = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        launcher = [sys.executable]
        if processes > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        done = subprocess.run(
            [*launcher, *command, "--out", str(out), *settings],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        states.append(load_checkpoint(out / "checkpoints" / "last.pt", "dfd_selfsup").state["model"])
    for name, value in states[0].items():
        assert torch.allclose(value, states[1][name], atol=2e-4), name
