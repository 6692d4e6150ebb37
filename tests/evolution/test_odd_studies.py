"""Studies that someone wrote in haste: one clear line each, nothing written, or the failure on record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evolve_world
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from test_bred_runs import bred_study

from genepool.errors import InputError
from genepool.evolution import load_study, run_study
from genepool.evolution.forking import forked
from genepool.evolution.store import StudyStore


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run that bred models."""
    out = tmp_path_factory.mktemp("bred") / "run"
    study = bred_study(world, "first", {"name": "genome", "options": {"population": 3}}, budget={"evaluations": 6})
    run_study(study, out, ledger=out.parent / "ledger.sqlite")
    return out


def merging_study(world: Path, name: str, **changes: Any) -> Path:
    path = world / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**evolve_world.STUDY, "budget": {"evaluations": 8}, **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 10**40}, "seed: input should be less than 9223372036854775808"),
        ({"threads": 10**6}, "threads: input should be less than or equal to 1024"),
        ({"budget": {"evaluations": 10**12}}, "evaluations: input should be less than or equal to 1000000000"),
        ({"search": {"weight": {"low": -1e308, "high": 1e308}}}, "search.weight.low: input should be greater than"),
        ({"breed": {"form": "models"}}, "cma_es varies parameters: leave `breed` out"),
        ({"singular": {"largest": 2}}, "cma_es varies parameters: leave `singular` out"),
        ({"skills": "skills/a"}, "skills: input should be a list (it says 'skills/a')"),
        ({"race": True}, "race: input should be a mapping of keys to values (it says True)"),
        (
            {"strategy": "m2n2", "method": "", "search": {}, "parameters": {}, "skills": ["skills/a"]},
            "m2n2 needs 2 skills",
        ),
        ({"strategy": {"name": "nsga2", "options": {"objectives": "pick"}}}, "objectives: input should be a list"),
        (
            {"strategy": {"name": "nsga2", "options": {"objectives": ["pick", "pick"]}}},
            "objectives: a task is named twice",
        ),
        ({"race": {"first": 10**9}}, "odd.yaml:race.first: must be below"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    world: Path, tmp_path: Path, cli: Callable[..., Any], changes: dict[str, Any], said: str
) -> None:
    study = merging_study(world, "odd", **changes)
    refused = cli("evolve", study, "--out", tmp_path / "run", "--ledger", tmp_path / "ledger.sqlite", "--quiet")
    assert refused.code == 2
    assert said in refused.err
    assert len(refused.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_numbers_on_the_command_line_are_bounded_too(world: Path, tmp_path: Path) -> None:
    study = merging_study(world, "bounds")
    many, far = (
        ({"evaluations": 10**400}, "got 401 digits"),
        ({"seed": 10**40}, "the seed must be from 0 to 2.63 - 1, got 41 digits"),
    )
    for given, said in (many, far):
        with pytest.raises(InputError, match=said):
            run_study(study, tmp_path / "run", **given)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_a_place_that_takes_no_folders_is_refused(world: Path) -> None:
    with pytest.raises(InputError, match=r"/proc/run: (nothing can be|cannot be) written here"):
        run_study(merging_study(world, "place"), "/proc/run")


# ---------------------------------------------------------------------- numbers that are none


def broken_skill(world: Path) -> Path:
    folder = world / "skills" / "nan"
    if not folder.exists():
        folder.mkdir()
        for path in (world / "skills" / "a").iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        tensors = load_file(folder / "model.safetensors")
        tensors["model.norm.weight"][0] = float("nan")
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("strategy", ["genome", "m2n2", "cycleqd"])
def test_a_skill_with_nan_ends_a_study_that_would_breed_it(world: Path, tmp_path: Path, strategy: str) -> None:
    broken_skill(world)
    study = bred_study(world, "nan", strategy, skills=["skills/a", "skills/nan"])
    with pytest.raises(InputError, match=r"nan:model\.norm\.weight: holds NaN or infinity\. .*leave this model out"):
        run_study(study, tmp_path / "run", ledger=tmp_path / "ledger.sqlite")


def test_who_learned_too_fast_has_failed(world: Path, tmp_path: Path) -> None:
    strategy = {"name": "genome", "options": {"population": 3}}
    study = bred_study(world, "fast", strategy, learn={"steps": 2, "rate": 1e30}, budget={"evaluations": 6})
    with pytest.raises(InputError, match=r"candidates failed, the last with: .* NaN or infinity after learning"):
        run_study(study, tmp_path / "run", ledger=tmp_path / "ledger.sqlite")
    with StudyStore(tmp_path / "run" / "study.sqlite") as store:
        verdicts = [verdict for _, verdict in store.finished()]
    assert verdicts
    assert all(verdict.fitness is None for verdict in verdicts)
    assert not (tmp_path / "run" / "winner").exists()


# ---------------------------------------------------------------------- forks and records


def test_a_run_of_another_kind_is_no_place_to_begin(world: Path, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"that run varied models, and cma_es varies parameters, .*Leave --fork out"):
        run_study(merging_study(world, "fork"), tmp_path / "run", fork=finished, ledger=tmp_path / "ledger.sqlite")
    assert not (tmp_path / "run").exists()
    same = load_study(bred_study(world, "again", {"name": "m2n2"}))
    assert [skill.name for skill in forked(same, finished).skills][-1] == "winner-of-run"


def test_a_run_without_a_parameter_in_common_says_so(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, genome in (("one", {"density": 0.5}), ("two", {"a.weight[layers 0-1]": 0.25})):
        (tmp_path / name).mkdir()
        best = {"genome": genome, "strategy": "cma_es", "fitness": 0.5, "fingerprint": "", "valid": {}, "test": {}}
        (tmp_path / name / "best.json").write_text(json.dumps({**best, "evaluations": 1, "seed": 0}))
    study = load_study(merging_study(world, "common", method="linear", search={"weight": {"low": 0, "high": 1}}))
    assert forked(study, tmp_path / "one") == study
    assert "searched no parameter of this study" in capsys.readouterr().err
    assert forked(study, tmp_path / "two").vary.searched["weight"].start == 0.25


@pytest.mark.slow
def test_an_emptied_record_beside_results_is_not_begun_anew(world: Path, tmp_path: Path) -> None:
    study = merging_study(world, "emptied")
    run_study(study, tmp_path / "run", ledger=tmp_path / "ledger.sqlite")
    best = (tmp_path / "run" / "best.json").read_bytes()
    for path in (tmp_path / "run").glob("study.sqlite*"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"study\.sqlite: is empty, and history\.jsonl beside it has candidates"):
        run_study(study, tmp_path / "run", ledger=tmp_path / "ledger.sqlite", evaluations=12)
    assert (tmp_path / "run" / "best.json").read_bytes() == best
    run_study(study, tmp_path / "run", ledger=tmp_path / "ledger.sqlite", overwrite=True)


def test_a_collection_is_not_written_by_half(finished: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    for arguments, said in (
        (("--out", tmp_path / "x"), "--out: has no effect without --write"),
        (("--write", "0.0", "--out", tmp_path / "x", "--as-lora", "0"), "--as-lora: must be at least 1, got 0"),
    ):
        refused = cli("collection", finished, *arguments)
        assert refused.code == 2
        assert said in refused.err
    assert not (tmp_path / "x").exists()
    lora = cli("collection", finished, "--write", "winner", "--out", tmp_path / "x", "--as-lora", "10000")
    assert lora.code == 0
    assert "no adapter holds model.embed_tokens.weight" in lora.out
    assert torch.isfinite(torch.tensor(float(lora.out.split("relative error ")[1].split(";")[0])))
