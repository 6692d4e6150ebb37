"""ICM-LoRA: what is generated is the adapter of the task that is asked for, and PEFT loads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genepool.composition.generation import AutoencoderFit, denoised, train_autoencoder, train_denoiser
from genepool.composition.kept_fit import KeptFit
from genepool.weights import open_weights


@pytest.mark.slow
def test_the_condition_decides_which_adapter_comes_out(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randn(2, 30, generator=generator)
    adapters = torch.cat([kinds + 0.05 * torch.randn(2, 30, generator=generator) for _ in range(4)])
    tasks = torch.eye(2).repeat(4, 1)
    how = AutoencoderFit(300, 3e-3, 0.005, 4, 3, 0)
    model, record = train_autoencoder(adapters, tasks, how, KeptFit(tmp_path / "fit", {}))
    assert record["steps"] == 300
    latent = torch.randn(5, 4, generator=generator)
    with torch.no_grad():
        for kind in range(2):
            made = model.decode(latent, torch.eye(2)[kind].expand(5, -1))
            near = (made[:, None] - kinds).square().mean(2)
            assert torch.all(near[:, kind] < near[:, 1 - kind])
    # A fit that is gone on with from what is kept ends at the same bits.
    again, _ = train_autoencoder(adapters, tasks, how, KeptFit(tmp_path / "fit", {}))
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.slow
def test_a_diffusion_draws_the_modes_that_it_was_shown() -> None:
    generator = torch.Generator().manual_seed(0)
    # The first task has two modes, the second one has another.
    modes = torch.tensor([[2.0, 2.0], [-2.0, -2.0], [2.0, -2.0]])
    latents = modes.repeat(10, 1) + 0.05 * torch.randn(30, 2, generator=generator)
    tasks = torch.tensor([[1.0, 0], [1, 0], [0, 1]]).repeat(10, 1)
    model = train_denoiser(latents, tasks, 30, 800, 1e-2, 0)
    drawn = torch.cat([denoised(model, torch.tensor([1.0, 0]), 30, seed) for seed in range(12)])
    nearest = torch.cdist(drawn, modes).min(1)
    assert set(nearest.indices.tolist()) == {0, 1}
    assert float(nearest.values.median()) < 0.5
    other = torch.cat([denoised(model, torch.tensor([0, 1.0]), 30, seed) for seed in range(6)])
    assert torch.cdist(other, modes).argmin(1).tolist() == [2] * 6


@pytest.mark.slow
@pytest.mark.parametrize("method", ["icm_lora", "weight_diffusion"])
def test_an_adapter_is_generated_for_a_task_that_has_none(
    method: str, cli: Callable[..., Any], text_bed: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    bed = tmp_path / "bed"
    shutil.copytree(text_bed, bed)
    shutil.copytree(bed / "tasks" / "one", bed / "tasks" / "zero")
    shutil.copytree(bed / "lora" / "one", bed / "lora" / "one-2")
    typed = (
        "compose", method, bed / "lora" / "one", bed / "lora" / "one-2", bed / "lora" / "two", "--base",
        bed / "base", "--tasks", bed / "tasks", "--examples", 200, "--set", "steps=20", "--set", "halvings=4", "--set",
        "latent=8", "--out", tmp_path / "made", "--json",
    )  # fmt: skip
    quick = ("--set", "diffusion_steps=20") if method == "weight_diffusion" else ()
    answer = cli(*typed, *quick)
    assert answer.code == 0, answer.err
    record = json.loads(answer.out)["record"]
    assert (record["target"], record["adapters"]) == ("zero", 3)
    # The inputs of `zero` are those of `one`.
    assert record["nearest"] == {"task": "one", "cosine": pytest.approx(1, abs=1e-4)}
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bed / "base"), tmp_path / "made")
    state = peft.merge_and_unload().state_dict()
    ours = open_weights(f"{bed / 'base'}+{tmp_path / 'made'}")
    for name in ours.names():
        assert torch.allclose(state[name], ours.read(name), atol=1e-5), name
    wrong = cli(*typed[:-3], "--set", "target=zeroo", "--out", tmp_path / "other")
    assert wrong.code == 2
    assert "error: --set target: there is no task 'zeroo'. Did you mean 'zero'?" in wrong.err
