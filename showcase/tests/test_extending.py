"""docs/extending.md: the data set and the loss are added exactly as the page says."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch

from dfd_selfsup.config import TrainConfig
from dfd_selfsup.datasets import splits
from nvs_depth.losses import LossOptions
from nvs_depth.models.synthesis import View
from shared.files.images import write_image
from shared.runs.config import load_config
from showcase.results import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text()


def block(first_line: str) -> str:
    """The fenced block that begins with this comment, without it."""
    return re.search(rf"^```\w+\n# {re.escape(first_line)}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1]


def test_the_data_set_of_the_page_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("named_slices")
    exec(block("dfd_selfsup/datasets/named_slices.py"), module.__dict__)
    entry = eval(f"{{{block('dfd_selfsup/datasets/splits.py, in KINDS')}}}", module.__dict__)
    monkeypatch.setattr(splits, "KINDS", splits.KINDS | entry)
    configs = ROOT / "dfd_selfsup" / "configs"
    text = block("dfd_selfsup/configs/named_slices.yaml").replace("quick.yaml", str(configs / "quick.yaml"))
    (tmp_path / "named_slices.yaml").write_text(text)
    for split in ("train", "validation", "test"):
        for focus_m in (2.0, 0.45, 0.9):
            grey = torch.full((3, 32, 48), focus_m / 2)
            write_image(tmp_path / "data" / "mine" / split / "desk" / f"{focus_m}.png", grey)

    config = load_config(TrainConfig, tmp_path / "named_slices.yaml", [f"data.root={tmp_path / 'data/mine'}"])
    stacks = splits.load_splits(config.data)
    (stack,) = stacks["train"]
    assert stack.images.shape == (3, 3, 32, 48)
    torch.testing.assert_close(1 / stack.defocus.focus_q, torch.tensor([0.45, 0.9, 2.0]))  # nearest first
    torch.testing.assert_close(stack.images[:, 0, 0, 0], torch.tensor([0.225, 0.45, 1.0]), atol=2e-3, rtol=0)


def test_the_loss_of_the_page_is_a_term(monkeypatch: pytest.MonkeyPatch) -> None:
    source = (ROOT / "nvs_depth" / "losses.py").read_text()
    field, term = (block(f"nvs_depth/losses.py, in {place}") for place in ("LossWeights", "loss_terms"))
    source = source.replace("    def __post_init__", f"{field}\n    def __post_init__", 1)
    source = source.replace("    return terms\n", f"{term}    return terms\n")
    module = types.ModuleType("extended_losses")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec("from shared.quality.ssim import ssim\n" + source, module.__dict__)
    weights = module.LossWeights(0, 0, 0, 0, 0, structure=10)
    image = torch.rand(1, 3, 32, 32, generator=torch.manual_seed(0))
    outputs = types.SimpleNamespace(rendered=([image], None), depth_target_image=None)
    view = View(image, torch.eye(3)[None])
    terms = module.loss_terms(outputs, view, view, torch.eye(4)[None], weights, LossOptions())
    assert list(terms) == ["structure"]
    assert abs(terms["structure"]) < 1e-6


def test_files_of_the_page_exist() -> None:
    for target in re.findall(r"\]\(\.\./([^)]+)\)", PAGE):
        assert (ROOT / target).is_file(), target
