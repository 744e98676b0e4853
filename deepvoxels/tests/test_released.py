"""State dicts of the released code: names, shapes, round trips, refusals."""

import re
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from deepvoxels.config import GeneratorOptions
from deepvoxels.models.generator import Generator
from deepvoxels.models.networks import Discriminator
from deepvoxels.models.released import export_released, import_released, load_released
from deepvoxels.tests.conftest import SMALL, variant
from shared.errors import DataError

TABLE = Path(__file__).parent / "released_state_dict.tsv"


def small(seed: int, **changes) -> Generator:
    torch.manual_seed(seed)
    generator = Generator(GeneratorOptions(**(SMALL | {"lattice": "released"} | changes)))
    generator.state.normal_()
    return generator


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_names_and_shapes_are_those_of_a_released_file():
    lines = TABLE.read_text().splitlines()[1:]
    expected = dict(line.split("\t") for line in lines)
    with torch.device("meta"):
        exported = export_released(Generator(GeneratorOptions()))
    assert len(expected) == 508
    assert {key: str(tuple(tensor.shape)) for key, tensor in exported.items()} == expected


@pytest.mark.parametrize(
    ("name", "changes", "keys"),
    [("official", {"occlusion": False}, 445), ("legacy", {}, 422), ("legacy", {"depth_planes": 48}, 434)],
)
def test_other_variants_have_as_many_names_as_in_the_released_code(name, changes, keys):
    with torch.device("meta"):
        assert len(export_released(Generator(variant(name, **changes)))) == keys


def test_discriminator_names():
    exported = export_released(Discriminator())
    assert len(exported) == 25
    shapes = {key: tuple(exported[key].shape) for key in exported if key.endswith("weight")}
    assert shapes == {
        "model.1.weight": (28, 3, 4, 4),
        "model.4.weight": (56, 28, 4, 4),
        "model.5.weight": (56,),
        "model.9.weight": (112, 56, 4, 4),
        "model.10.weight": (112,),
        "model.14.weight": (224, 112, 4, 4),
        "model.15.weight": (224,),
        "model.19.weight": (1, 224, 4, 4),
    }


@pytest.mark.parametrize(
    "changes", [{}, {"occlusion": False}, {"renderer_dropout": 0.0, "extractor_dropout": 0.1}]
)
def test_export_and_import_are_inverse(changes):
    source, copy = small(0, **changes), small(1, **changes)
    assert not same(source, copy)
    import_released(copy, export_released(source))
    assert same(source, copy)


def test_prefixes_old_names_and_missing_duplicates_are_accepted():
    source = small(0)
    exported = export_released(source)
    wrapped = {f"module.{key}": tensor for key, tensor in exported.items()}
    old = {
        re.sub(r"^(feature_extractor|rendering_net)\.net\.", r"\1.", key): tensor
        for key, tensor in exported.items()
    }
    assert "rendering_net.5.bias" in old
    lean = {
        key: tensor
        for key, tensor in exported.items()
        if "." not in key or ".net.1.".join(key.rsplit(".", 1)) not in exported
    }
    assert len(lean) < len(exported)
    for state_dict in (wrapped, old, lean):
        copy = small(1)
        import_released(copy, state_dict)
        assert same(source, copy)


def test_misfits_are_named_in_one_error_and_nothing_is_copied():
    exported = export_released(small(0))
    del exported["integration_net.new_integration.1.bias"]
    exported["classifier.weight"] = torch.zeros(3)
    exported["inpainting_net.in_layer.1.bias"] = torch.zeros(5)
    exported["deepvoxels"] = "not a tensor"
    generator, untouched = small(1), small(1)
    with pytest.raises(ValueError, match="1 missing") as caught:
        import_released(generator, exported)
    for name in (
        "integration_net.new_integration.1.bias",
        "classifier.weight",
        "inpainting_net.in_layer.1.bias (5,)",
        "deepvoxels",
    ):
        assert name in str(caught.value)
    assert same(generator, untouched)


def test_another_architecture_is_refused_briefly():
    with pytest.raises(ValueError, match="and [0-9]+ more") as caught:
        import_released(small(0, occlusion=False), export_released(small(0)))
    assert len(str(caught.value)) < 1500


def test_files_round_trip(tmp_path):
    source, copy = small(0), small(1)
    judge, judge_copy = Discriminator(), Discriminator()
    path = tmp_path / "model.pth"
    torch.save({"model": export_released(source), "discriminator": export_released(judge)}, path)
    load_released(path, copy, judge_copy)
    assert same(source, copy)
    assert same(judge, judge_copy)
    torch.save(export_released(source), path)  # a bare generator
    load_released(path, small(2), judge_copy)  # which leaves the discriminator as it is
    assert same(judge, judge_copy)


CHECKPOINTS = {
    "text": (lambda path, state: path.write_text("hello"), "not a readable file of plain tensors"),
    "cut short": (lambda path, state: path.write_bytes(path.read_bytes()[:900]), "not a readable file"),
    "pickled code": (lambda path, state: torch.save({"model": Fraction(1, 2)}, path), "plain tensors"),
    "a list": (lambda path, state: torch.save([1, 2], path), "list"),
    "no state dict": (lambda path, state: torch.save({"model": 3}, path), "has no 'model' state dict"),
    "a weight missing": (lambda path, state: torch.save(dict(list(state.items())[:-1]), path), "1 missing"),
    "NaN": (
        lambda path, state: torch.save(state | {"deepvoxels": state["deepvoxels"] * torch.nan}, path),
        "deepvoxels of model holds NaN",
    ),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_damaged_files_are_refused_and_change_nothing(tmp_path, case):
    spoil, says = CHECKPOINTS[case]
    generator, before, path = small(0), small(0), tmp_path / "model.pth"
    torch.save(export_released(small(1)), path)
    spoil(path, export_released(small(1)))
    with pytest.raises(DataError, match=says):
        load_released(path, generator)
    assert same(generator, before)
