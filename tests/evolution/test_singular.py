"""ESSA: an adapter's singular values as genes, and a whole study over them."""

from __future__ import annotations

from pathlib import Path

import evolve_world
import numpy as np
import pytest
import torch
import yaml

from genepool.errors import InputError
from genepool.evolution import run_study
from genepool.evolution.candidates import Candidate
from genepool.evolution.opened_study import OpenedStudy
from genepool.evolution.representations.singular_values import SingularValues, SingularValuesOptions
from genepool.evolution.study import Study
from genepool.weights import Weights, open_weights


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = evolve_world.build_world(tmp_path_factory.mktemp("singular"))
    evolve_world.build_adapter(folder)
    return folder


def opened(world: Path, **settings: float) -> tuple[SingularValues, Weights]:
    study = Study(
        base=str(world / "base"),
        skills=[f"{world / 'base'}+{world / 'adapter'}"],
        vary={"kind": "singular_values", **settings},
        tasks=str(world / "tasks"),
        budget={"evaluations": 1},
    )
    found = OpenedStudy.open(study)
    assert isinstance(found.representation, SingularValues)
    return found.representation, found.sources[study.skills[0].model]


def test_the_start_is_the_adapter_and_a_factor_of_two_doubles_one_direction(world: Path) -> None:
    varied, adapter = opened(world)
    # Two layers, two matrices, two factors of rank 2.
    assert len(varied.names) == 2 * 2 * 2 * 2
    genome = varied.genome(varied.start)
    assert set(genome.values()) == {1.0}
    plain = varied.source(Candidate("x", 0, 0, genome, 0))
    for name in adapter.names():
        assert torch.allclose(plain.read(name), adapter.read(name), atol=1e-6)
    name = "model.layers.0.self_attn.q_proj.weight"
    doubled = varied.source(Candidate("x", 0, 1, {**genome, f"{name}:A[0]": 2.0, f"{name}:A[1]": 2.0}, 0))
    twice = doubled.delta(name, doubled.base)  # type: ignore[attr-defined]
    assert torch.allclose(twice, 2 * adapter.delta(name, adapter.base), atol=1e-5)  # type: ignore[attr-defined]
    assert doubled.fingerprint() != plain.fingerprint()


def test_only_the_largest_values_are_searched_when_so_asked(world: Path) -> None:
    varied, _ = opened(world, largest=1, low=0.5, high=1.5)
    assert len(varied.names) == 2 * 2 * 2
    assert set(varied.genome(np.zeros(8)).values()) == {0.5}
    with pytest.raises(ValueError, match="must hold 1"):
        SingularValuesOptions(low=1.5, high=2)


@pytest.mark.slow
def test_a_study_over_singular_values(world: Path, tmp_path: Path) -> None:
    data = {k: v for k, v in evolve_world.STUDY.items() if k not in ("method", "parameters", "search")}
    study = world / "essa.yaml"
    study.write_text(
        yaml.safe_dump({**data, "skills": ["base+adapter"], "strategy": "essa", "budget": {"evaluations": 16}})
    )
    result = run_study(study, tmp_path / "out", ledger=tmp_path / "ledger.sqlite")
    assert open_weights(result.winner).fingerprint() == result.best["fingerprint"]
    assert (result.winner / "singular_values.json").is_file()
    again = run_study(study, tmp_path / "out", evaluations=18, ledger=tmp_path / "ledger.sqlite")
    assert again.best["evaluations"] == 18


@pytest.mark.parametrize(
    ("skills", "message"),
    [(["skills/a"], "not a LoRA adapter"), (["base+adapter", "skills/a"], "varies one adapter, got 2")],
)
def test_what_has_no_factors_is_refused(world: Path, tmp_path: Path, skills: list[str], message: str) -> None:
    data = {k: v for k, v in evolve_world.STUDY.items() if k not in ("method", "parameters", "search")}
    study = world / "wrong.yaml"
    study.write_text(yaml.safe_dump({**data, "skills": skills, "strategy": "essa"}))
    with pytest.raises(InputError, match=message):
        run_study(study, tmp_path / "out", ledger=tmp_path / "ledger.sqlite")
    assert not (tmp_path / "out").exists()
