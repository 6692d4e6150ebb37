"""Budgets are kept, spent well, and never exceeded; what flows through a layer decides which columns count."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from genepool.errors import InputError
from genepool.skills import compress, input_energies
from genepool.skills.compressing import ByteBudget
from genepool.tasks import Example, LanguageModel, Task
from genepool.weights import Form, open_change, open_weights, store
from genepool.weights.skill_file import SkillFile

SHAPES = {"layers.0.mlp.up_proj.weight": (96, 64), "layers.0.mlp.down_proj.weight": (64, 96), "norm.weight": (64,)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A change that is mostly of rank 3 in one matrix, and noise in the other."""
    folder = tmp_path_factory.mktemp("models")
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    base = {name: drawn(*shape) for name, shape in SHAPES.items()}
    up, down, norm = SHAPES
    tuned = {
        up: base[up] + 0.02 * drawn(96, 3) @ drawn(3, 64) + 1e-4 * drawn(96, 64),
        down: base[down] + 0.005 * drawn(64, 96),
        norm: base[norm] + 0.01 * drawn(64),
    }
    save_file(base, folder / "base.safetensors")
    save_file(tuned, folder / "tuned.safetensors")
    return folder / "base.safetensors", folder / "tuned.safetensors"


@pytest.mark.slow
@given(budget=st.integers(3_000, 60_000))
def test_a_budget_is_never_exceeded(
    budget: int, models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    changes = open_change(str(models[1]), open_weights(models[0]))
    out = tmp_path_factory.mktemp("packed") / "s.safetensors"
    written = compress(changes, out, budget, {})
    assert out.stat().st_size == written.nbytes <= budget
    assert SkillFile(out).form == "packed"


@pytest.mark.slow
def test_more_bytes_never_lose_more(models: tuple[Path, Path], tmp_path: Path) -> None:
    changes = open_change(str(models[1]), open_weights(models[0]))
    errors = [
        compress(changes, tmp_path / f"{budget}.safetensors", budget, {}).error
        for budget in (4_000, 6_000, 9_000, 14_000, 30_000)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.75
    assert errors[-1] < 0.005


def test_each_tensor_gets_what_suits_it_and_beats_one_size_for_all(models: tuple[Path, Path], tmp_path: Path) -> None:
    changes = open_change(str(models[1]), open_weights(models[0]))
    plain = store(changes, tmp_path / "4.safetensors", Form("packed", bits=4), "convert")
    written = compress(changes, tmp_path / "s.safetensors", plain.nbytes, {})
    assert written.error < plain.error
    # Four bits cost 6 kB of parts; a change of rank 3 needs a tenth of that.
    tight = compress(changes, tmp_path / "t.safetensors", 5_500, {})
    kinds = {name: tight_kind.kind for name in SkillFile(tight.path).names()
             for tight_kind in [SkillFile(tight.path).stored(name)[0]]}  # fmt: skip
    assert kinds["layers.0.mlp.up_proj.weight"] == "singular"


def test_the_error_it_expects_is_the_error_it_makes(models: tuple[Path, Path], tmp_path: Path) -> None:
    changes = open_change(str(models[1]), open_weights(models[0]))
    for budget in (5_000, 9_000, 20_000):
        chosen = ByteBudget(changes, budget)
        written = store(changes, tmp_path / f"{budget}.safetensors", chosen, "compress", form_name="packed")
        assert written.error == pytest.approx(chosen.error, rel=0.05, abs=1e-3)


def test_a_budget_of_nothing_is_refused_and_writes_nothing(
    models: tuple[Path, Path], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    for budget, said in (("500", "is too small"), ("-3MB", "expected a size"), ("much", "expected a size")):
        answer = cli(
            "skill", "compress", models[1], "--base", models[0], "--size", budget, "--out", tmp_path / "s.safetensors"
        )
        assert answer.code == 2
        assert said in answer.err
    assert not list(tmp_path.glob("*.safetensors"))
    answer = cli(
        "skill",
        "compress",
        models[1],
        "--base",
        models[0],
        "--size",
        "9KB",
        "--out",
        tmp_path / "s.safetensors",
        "--json",
    )
    assert json.loads(answer.out)["bytes"] <= 9000
    with pytest.raises(InputError, match="the file exists"):
        compress(open_change(str(models[1]), open_weights(models[0])), tmp_path / "s.safetensors", 9000, {})


def test_what_was_there_stays_until_a_file_fits(
    models: tuple[Path, Path], tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, there = tmp_path / "s.safetensors", []
    out.write_bytes(b"old")

    def watched(*arguments: Any, **options: Any) -> Any:
        written = store(*arguments, **options)
        there.append(out.read_bytes())
        return written

    monkeypatch.setattr("genepool.skills.compressing.store", watched)
    answer = cli(
        "skill", "compress", models[1], "--base", models[0], "--size", "5KB", "--out", out, "--overwrite", "--json"
    )
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["out"] == str(out)
    assert len(there) > 1
    assert set(there) == {b"old"}
    assert out.stat().st_size <= 5000
    assert not list(tmp_path.glob("*.partial"))


def test_columns_that_nothing_flows_through_are_given_up(models: tuple[Path, Path], tmp_path: Path) -> None:
    changes = open_change(str(models[1]), open_weights(models[0]))
    down = "layers.0.mlp.down_proj.weight"
    energies = {down: torch.cat([torch.full((48,), 100.0), torch.full((48,), 1e-6)])}
    errors = []
    for known in (energies, None):
        written = compress(changes, tmp_path / "s.safetensors", 3_500, {}, known, overwrite=True)
        file = SkillFile(written.path)
        back = file.whole(down) if down in file.names() else torch.zeros(SHAPES[down])
        errors.append(float(((back - changes.whole(down)).square() * energies[down]).sum()))
    assert errors[0] < errors[1]


def test_energies_are_the_mean_squares_of_what_goes_in(tiny_testbed: Any) -> None:
    model = LanguageModel.load(open_weights(tiny_testbed.base))
    examples = tuple(Example(str(i), prompt, ("ab",)) for i, prompt in enumerate(["abc", "defghi", "jk", "a"]))
    found = input_energies(model, [Task("t", {"train": examples})])
    name = "model.layers.0.self_attn.q_proj"
    seen: list[torch.Tensor] = []
    handle = model.model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    with torch.inference_mode():
        for example in examples:
            model.model(input_ids=torch.tensor([model.encode(example.prompt + "ab")]))
    handle.remove()
    expected = torch.cat(seen).square().mean(0)
    torch.testing.assert_close(found[f"{name}.weight"], expected, atol=1e-5, rtol=1e-4)
