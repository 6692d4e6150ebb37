"""What stays in memory: planned from headers, streamed where it does not fit, refused with the figure."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import evolve_world
import pytest
import torch
import yaml
from safetensors.torch import save_file

from genepool.cli.main import run as command
from genepool.errors import InputError
from genepool.evolution import load_study
from genepool.evolution.candidates import Candidate
from genepool.evolution.evaluator import build_evaluator
from genepool.evolution.memory_plan import asked_per_candidate, plan_memory
from genepool.evolution.opened_study import OpenedStudy
from genepool.kernels.memory import free_memory

GB = 10**9


def sparse_checkpoint(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A checkpoint in bfloat16 of any size: a header, and a hole where the numbers would be."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    folder.mkdir(parents=True)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
    os.truncate(folder / "model.safetensors", 8 + len(text) + end)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "torch_dtype": "bfloat16"}))


def seven_billion() -> dict[str, tuple[int, ...]]:
    """The tensors of Llama 2 7B."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (32000, 4096)}
    for layer in range(32):
        for name in ("q", "k", "v", "o"):
            shapes[f"model.layers.{layer}.self_attn.{name}_proj.weight"] = (4096, 4096)
        for name in ("gate", "up"):
            shapes[f"model.layers.{layer}.mlp.{name}_proj.weight"] = (11008, 4096)
        shapes[f"model.layers.{layer}.mlp.down_proj.weight"] = (4096, 11008)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{name}.weight"] = (4096,)
    return {**shapes, "model.norm.weight": (4096,), "lm_head.weight": (32000, 4096)}


def large_study(folder: Path, world: Path, **changes: Any) -> OpenedStudy:
    """Eight adapters of rank 16 on a base of seven billion weights."""
    sparse_checkpoint(folder / "base", seven_billion())
    for i in range(8):
        adapter = folder / f"adapter{i}"
        adapter.mkdir()
        settings = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"]}
        (adapter / "adapter_config.json").write_text(json.dumps(settings))
        prefix = "base_model.model.model.layers"
        save_file(
            {
                f"{prefix}.{layer}.self_attn.{name}_proj.lora_{side}.weight": torch.zeros(shape)
                for layer in range(32)
                for name in ("q", "v")
                for side, shape in (("A", (16, 4096)), ("B", (4096, 16)))
            },
            adapter / "adapter_model.safetensors",
        )
    data = {key: value for key, value in evolve_world.STUDY.items() if key not in ("method", "parameters", "search")}
    data |= {"skills": [f"base+adapter{i}" for i in range(8)], "strategy": "genome", **changes}
    data["tasks"] = {"dir": str(world / "tasks"), "valid": 20}
    (folder / "study.yaml").write_text(yaml.safe_dump(data))
    return OpenedStudy.open(load_study(folder / "study.yaml"), "study.yaml")


def test_eight_adapters_of_a_base_of_seven_billion_fit_into_24_gb(world: Path, tmp_path: Path) -> None:
    opened = large_study(tmp_path / "bred", world, compute="bfloat16")
    needs = plan_memory(opened, 1, 24 * GB)
    # The class does not tie the head, so it counts beside the embedding, though both are zeros here.
    assert needs.model == pytest.approx(13.48 * GB, rel=0.01)
    assert needs.fits
    needs.check("study.yaml", "bfloat16")
    # In float32 the model alone is larger than that.
    opened.study = opened.study.model_copy(update={"compute": "float32"})
    with pytest.raises(InputError, match=r"1 worker of 2\d\.\d GB each do not fit: 24\.0 GB are free.*bfloat16"):
        plan_memory(opened, 1, 24 * GB).check("study.yaml", "float32")
    with pytest.raises(InputError, match=r"2 workers of .*fewer --workers"):
        plan_memory(opened, 2, 24 * GB).check("study.yaml", "bfloat16")


def test_merging_them_streams_what_does_not_fit(world: Path, tmp_path: Path) -> None:
    search = {"weight": {"low": 0.0, "high": 1.0}}
    opened = large_study(
        tmp_path / "merged", world, compute="bfloat16", strategy="cma_es", method="task_arithmetic", search=search
    )
    needs = plan_memory(opened, 1, 24 * GB)
    assert needs.fits
    assert needs.base == 0
    assert set(needs.streamed) == {"base", *(f"adapter{i}" for i in range(8))}
    more = plan_memory(opened, 1, 80 * GB)
    assert more.base == needs.model
    assert len(more.skills) + len(more.streamed) == 8
    assert more.skills
    assert more.streamed


@pytest.mark.parametrize("held", [(), ("base",), ("base", "a"), ("base", "a", "b")])
def test_a_candidate_is_worth_the_same_wherever_its_skills_lie(
    world: Path, tmp_path: Path, held: tuple[str, ...]
) -> None:
    study = load_study(world / "study.yaml")
    everywhere, here = (
        build_evaluator(study, "study", tmp_path / f"{i}.sqlite", resident=names)
        for i, names in enumerate([None, held])
    )
    genome = {gene.name: 0.3 + 0.1 * i for i, gene in enumerate(everywhere.representation.space.genes)}  # type: ignore[attr-defined]
    candidate = Candidate("c", 0, 0, genome, 1)
    assert here(candidate).example_scores().tolist() == everywhere(candidate).example_scores().tolist()
    model, other = everywhere._model.model.state_dict(), here._model.model.state_dict()
    assert all(torch.equal(model[name], other[name]) for name in model)


def test_this_machine_says_what_is_free() -> None:
    assert 10**7 < free_memory() < 10**16


def test_a_race_asks_fewer_of_everyone(world: Path) -> None:
    study = load_study(world / "study.yaml")
    opened = OpenedStudy.open(study)
    assert asked_per_candidate(opened, 8) == 20
    opened.study = study.model_copy(
        update={"race": study.model_validate({**evolve_world.STUDY, "race": "halving"}).race}
    )
    # Looks at 8, 16 and 20 examples: 8 answer the first, 4 go on to 16, 2 to the end.
    assert asked_per_candidate(opened, 8) == (8 * 8 + 4 * 8 + 2 * 4) / 8


def test_the_command_plans_a_study(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["plan", str(world / "study.yaml"), "--workers", "2"]) == 0
    shown = capsys.readouterr().out
    assert "cma_es over task_arithmetic: 8 candidates in the first generation of 20 candidates in all" in shown
    assert "fits" in shown
    assert command(["plan", str(world / "study.yaml"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["first_generation"], facts["evaluations"], facts["fits"]) == (8, 20, True)
    assert set(facts["skill_bytes"]) == {"a", "b"}


def test_singular_directions_of_experts_are_counted(world: Path) -> None:
    from test_bred_runs import bred_study

    def children(strategy: str) -> int:
        study = load_study(bred_study(world, strategy, strategy))
        return plan_memory(OpenedStudy.open(study, "study"), 1).children

    opened = OpenedStudy.open(load_study(bred_study(world, "cycleqd", "cycleqd")), "study")
    # Two tasks have an expert each, and the two factors of a square matrix take twice its size.
    assert children("cycleqd") - children("genome") == 2 * 2 * 4 * opened.representation.child_numbers  # type: ignore[attr-defined]


def test_files_that_were_read_do_not_count_as_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genepool.kernels import memory

    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 5000000 kB\n")
    (tmp_path / "memory.max").write_text("4000000\n")
    (tmp_path / "memory.current").write_text("3900000\n")
    monkeypatch.setattr(memory, "_MACHINE", str(tmp_path / "meminfo"))
    monkeypatch.setattr(memory, "_CONTAINER", str(tmp_path))
    assert free_memory() == 100_000
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 3000000\nactive_file 2\n")
    assert free_memory() == 3_100_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory() == 5_000_000 * 1024


def test_a_budget_below_one_generation_is_refused_by_the_plan_too(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = {**evolve_world.STUDY, "budget": {"evaluations": 2}}
    (world / "small.yaml").write_text(yaml.safe_dump(study))
    assert command(["plan", str(world / "small.yaml")]) == 2
    assert "small.yaml:budget.evaluations: got 2, expected at least" in capsys.readouterr().err
