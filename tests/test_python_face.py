"""What `import genepool as gp` gives: whole signatures, and examples in the docstrings that run as they stand."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

import genepool as gp
from genepool.errors import InputError
from genepool.skills.library import Library

FUNCTIONS = ("build_testbed", "compare", "evaluate", "evolve", "load", "merge", "train")


def test_every_name_is_there() -> None:
    assert all(getattr(gp, name) is not None for name in gp.__all__)
    assert set(FUNCTIONS) <= set(gp.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_signature_says_every_option(name: str) -> None:
    parameters = inspect.signature(getattr(gp, name)).parameters.values()
    assert not [one.name for one in parameters if one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
    documented = inspect.getdoc(getattr(gp, name)) or ""
    assert not [one.name for one in parameters if not re.search(rf"^ +[\w, ]*\b{one.name}\b[\w, ]*:", documented, re.M)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Library", "Skill", "compare", "evaluate", "evolve", "merge", "train"])
def test_the_example_of_the_docstring_runs(
    name: str, tiny_testbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bed").symlink_to(tiny_testbed.folder)
    found = re.search(r"\n\n((?: {4}.*\n)+)", (inspect.getdoc(getattr(gp, name)) or "") + "\n")
    assert found is not None, f"gp.{name} has no example"
    exec(compile(textwrap.dedent(found[1]), f"gp.{name}", "exec"), {"gp": gp})


# ---------------------------------------------------------------------- Skill


@pytest.fixture
def models(save_model: Any) -> tuple[Path, dict[str, torch.Tensor]]:
    """A base and two fine-tunes, `one` and `two`, and their tensors."""
    drawn = torch.Generator().manual_seed(0)
    shapes = {"model.layers.0.self_attn.q_proj.weight": (12, 16), "model.norm.weight": (16,)}
    tensors = {
        model: {name: torch.randn(shape, generator=drawn) for name, shape in shapes.items()}
        for model in ("base", "one", "two")
    }
    for model, held in tensors.items():
        folder = save_model(model, held)
    return folder.parent, {f"{model}/{name}": value for model, held in tensors.items() for name, value in held.items()}


def test_a_skill_is_calculated_with_as_its_tensors_are(models: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, tensors = models
    one, two = (gp.Skill.extract(folder / model, base=folder / "base") for model in ("one", "two"))
    assert set(one.names()) == {"model.layers.0.self_attn.q_proj.weight", "model.norm.weight"}
    for name in one.names():
        first, second = (tensors[f"{model}/{name}"] - tensors[f"base/{name}"] for model in ("one", "two"))
        torch.testing.assert_close(one.tensor(name), first)
        torch.testing.assert_close((0.5 * one - two * 2).tensor(name), 0.5 * first - 2 * second)
        torch.testing.assert_close((-(one + two)).tensor(name), -(first + second))
        merged = (one + two).model().read(name)
        torch.testing.assert_close(merged, tensors[f"base/{name}"] + first + second)
    kept = one.largest(0.25)
    assert sum(int((kept.tensor(name) != 0).sum()) for name in kept.names()) == 208 // 4
    some = one.dropped(0.5, seed=3)
    for name in some.names():
        left = some.tensor(name)
        torch.testing.assert_close(left[left != 0], 2 * one.tensor(name)[left != 0])


def test_a_skill_goes_into_a_file_and_a_library_and_back(models: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, _ = models
    one = gp.Skill.extract(folder / "one", base=folder / "base")
    file = (3 * one).save(folder / "one.safetensors", name="one", description="three times")
    again = gp.Skill.open(file)
    for name in one.names():
        torch.testing.assert_close(again.tensor(name), 3 * one.tensor(name))
    assert again.change.header.lineage["operation"] == "scale"
    assert again.change.header.lineage["arguments"] == {"factor": 3.0}
    Library.create(folder / "library")
    with gp.Library(folder / "library") as library:
        library.add(file, tags=["tests"])
        kept = library.open("one", base=folder / "base")
        assert (kept.name, kept.base_name) == ("one", one.base_name)
        model = kept.model()
        for name in one.names():
            torch.testing.assert_close(model.read(name), model.base.read(name) + 3 * one.tensor(name))
    low = one.save(folder / "low.safetensors", rank=2, dtype="float32")
    assert gp.Skill.open(low).change.factors("model.layers.0.self_attn.q_proj.weight").left.shape == (12, 2)
    adapter = one.save_adapter(folder / "adapter", rank=12)
    back = gp.Skill.open(adapter, base=folder / "base")
    torch.testing.assert_close(
        back.tensor("model.layers.0.self_attn.q_proj.weight"),
        one.tensor("model.layers.0.self_attn.q_proj.weight"),
        atol=2e-2,
        rtol=2e-2,
    )


def test_what_a_skill_cannot_do_is_said(models: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, _ = models
    one = gp.Skill.extract(folder / "one", base=folder / "base")
    with pytest.raises(InputError, match="finite number"):
        one * float("nan")
    with pytest.raises(TypeError):
        one * "2"  # type: ignore[operator]
    with pytest.raises(TypeError):
        one + 1  # type: ignore[operator]
    with pytest.raises(InputError, match="does not change this tensor"):
        one.tensor("lm_head.weight")
    with pytest.raises(InputError, match="expected one of float32"):
        one.save(folder / "x.safetensors", dtype="int3")
    lone = gp.Skill.open(one.save(folder / "lone.safetensors"))
    with pytest.raises(InputError, match="base of the skill is not open"):
        lone.model()
    with pytest.raises(InputError, match="base of the skill is not open"):
        lone.save_adapter(folder / "no")
    assert not (folder / "x.safetensors").exists()
    assert not (folder / "no").exists()


def test_a_skills_largest_entries_are_as_many_as_the_share_says(save_model: Any) -> None:
    """Changes of two magnitudes: of those that tie with the last one, the first by their place stay."""
    signs = torch.randint(0, 2, (10, 10), generator=torch.Generator().manual_seed(0)).mul(2).sub(1).float()
    change = signs.clone()
    change[::2] *= 0.5
    save_model("base", {"w": torch.zeros(10, 10)})
    tuned = save_model("tuned", {"w": change})
    for scope in ("model", "tensor"):
        kept = gp.Skill.extract(tuned, base=tuned.parent / "base").largest(0.3, scope).tensor("w")
        expected = torch.zeros(10, 10)
        expected[1:6:2] = change[1:6:2]
        assert torch.equal(kept, expected)
