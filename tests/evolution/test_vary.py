"""What a study varies: `vary`, the keys of before it, and every kind of genome, through the command line."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evolve_fakes as fakes
import evolve_world
import pytest
import yaml

import genepool.evolution
from genepool.evolution import Study, load_study
from genepool.evolution.representations import kind_for, kinds_for, representations, strategies_for
from genepool.evolution.representations.merge_parameters import MergeParametersOptions
from genepool.evolution.strategies import strategies
from genepool.schema import validate

Cli = Callable[..., Any]

COMMON = {key: evolve_world.STUDY[key] for key in ("study", "base", "tasks", "seed", "batch")}
SKILLS, ADAPTER = ["skills/a", "skills/b"], ["base+adapter"]
WEIGHT = {"low": 0.0, "high": 1.0, "start": 0.4, "per": {"layer_groups": 2}}
WHOLE_WEIGHT = {**WEIGHT, "sum": None, "per": {"layer_groups": 2, "roles": [], "skill": None}}
SUMMED = {"low": -1.0, "high": 2.0, "start": None, "sum": 1.0, "per": {"layer_groups": 1, "roles": [], "skill": None}}
LEFT_OUT: dict[str, Any] = {
    "method": "",
    "parameters": {},
    "search": {},
    "breed": {"form": "auto"},
    "learn": None,
    "singular": {"largest": None, "low": 0.0, "high": 2.0},
}
LEARN = {"steps": 3, "batch": 16, "rate": 1e-4, "inherit": True}

# The strategy and skills, the keys of before `vary`, the same said by `vary`, and what is recorded of it, as ever.
SAID: dict[str, tuple[dict[str, Any], dict[str, Any], Any, dict[str, Any]]] = {
    "merge": (
        {"skills": SKILLS},
        {"method": "task_arithmetic", "parameters": {"lambda": 1.0}, "search": {"weight": WEIGHT}},
        {"method": "task_arithmetic", "parameters": {"lambda": 1.0}, "search": {"weight": WEIGHT}},
        {"method": "task_arithmetic", "parameters": {"lambda": 1.0}, "search": {"weight": WHOLE_WEIGHT}},
    ),
    "coefficients": (
        {"skills": SKILLS, "strategy": "lcsc"},
        {"method": "linear", "search": {"weight": {"low": -1, "high": 2, "sum": 1}}},
        None,
        {"method": "linear", "search": {"weight": SUMMED}},
    ),
    "bred": (
        {"skills": SKILLS, "strategy": "genome"},
        {"learn": {"steps": 3}},
        {"learn": {"steps": 3}},
        {"learn": LEARN},
    ),
    "bred as they fit": ({"skills": SKILLS, "strategy": "genome"}, {"breed": {"form": "auto"}}, None, {}),
    "models": (
        {"skills": SKILLS, "strategy": "m2n2"},
        {"breed": {"form": "models"}},
        "whole_models",
        {"breed": {"form": "models"}},
    ),
    "adapters": (
        {"skills": ADAPTER, "strategy": "weight_es"},
        {"breed": {"form": "adapters"}},
        {"kind": "adapters"},
        {"breed": {"form": "adapters"}},
    ),
    "singular": (
        {"skills": ADAPTER, "strategy": "essa"},
        {"singular": {"largest": 1, "low": 0.5}},
        {"kind": "singular_values", "largest": 1, "low": 0.5},
        {"singular": {"largest": 1, "low": 0.5, "high": 2.0}},
    ),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = evolve_world.build_world(tmp_path_factory.mktemp("vary"))
    evolve_world.build_adapter(folder)
    return folder


def written(folder: Path, name: str, **parts: Any) -> Path:
    path = folder / f"{name}.yaml"
    data = {**COMMON, "skills": SKILLS, "budget": {"evaluations": 6}, **parts}
    path.write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}))
    return path


# ---------------------------------------------------------------------- one meaning, two ways to say it


@pytest.mark.parametrize("name", SAID)
def test_the_keys_of_before_and_vary_are_one_study_and_recorded_as_ever(name: str) -> None:
    parts, older, vary, recorded = SAID[name]
    studies = [
        validate(Study, {**COMMON, **parts, "budget": {"evaluations": 6}, **how}, "study")
        for how in (older, {} if vary is None else {"vary": vary})
    ]
    for study in studies:
        settings = json.loads(json.dumps(study.settings()))
        assert {key: settings[key] for key in LEFT_OUT} == {**LEFT_OUT, **recorded}
        assert set(settings) == {
            *LEFT_OUT, "study", "skills", "tasks", "objective", "strategy", "race", "screen", "probe", "steady",
            "finalists", "seed", "threads", "batch", "compute", "dtype",
        }  # fmt: skip
    assert studies[0].settings() == studies[1].settings()
    assert studies[0] == studies[1] or name == "coefficients"
    assert studies[0].how == studies[1].how or name == "coefficients"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["merge", "coefficients", "models", "adapters", "singular"])
def test_a_run_that_the_older_keys_began_goes_on_by_vary(world: Path, tmp_path: Path, cli: Cli, name: str) -> None:
    parts, older, vary, _ = SAID[name]
    strategy = parts.get("strategy", "cma_es")
    small = {key: 4 for key in ("population", "children") if key in strategies()[strategy].build.Options.model_fields}
    parts = {**parts, "strategy": {"name": strategy, "options": small}}
    before = written(world, "before", **parts, **older)
    after = written(world, "after", **parts, **({} if vary is None else {"vary": vary}))
    for study, budget in ((before, 6), (after, 10)):
        assert cli("evolve", study, "--out", tmp_path / "steps", "--budget", budget, "--quiet").code == 0
        told = load_study(tmp_path / "steps" / "study.yaml")
        assert told.settings() == load_study(after).settings()
        assert not set(yaml.safe_load((tmp_path / "steps" / "study.yaml").read_text())) & set(LEFT_OUT)
    assert cli("evolve", before, "--out", tmp_path / "once", "--budget", 10, "--quiet").code == 0
    assert fakes.history(tmp_path / "steps") == fakes.history(tmp_path / "once")
    prints = [json.loads((tmp_path / run / "best.json").read_text())["fingerprint"] for run in ("steps", "once")]
    assert prints[0] == prints[1]


def test_a_study_made_in_python_may_hold_options_of_a_class() -> None:
    parts = {"base": "b", "skills": SKILLS, "tasks": "t", "budget": {"evaluations": 6}}
    said = Study(**parts, vary={"method": "linear", "search": {"weight": WEIGHT}})
    made = Study(**parts, vary=MergeParametersOptions(method="linear", search={"weight": WEIGHT}))
    assert made.vary.kind == "merge_parameters"
    assert made == said == Study.model_validate(said.model_dump()) == Study.model_validate(said)
    with pytest.raises(ValueError, match="genome proposes births"):
        Study(**parts, strategy="genome", vary=said.vary)


# ---------------------------------------------------------------------- what is wrong is one line


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"vary": "merge_parameters", "method": "ties"}, "wrong.yaml:method: contradicts `vary`. Write it under"),
        ({"vary": {}, "learn": {}, "strategy": "genome"}, "wrong.yaml:learn: contradicts `vary`"),
        (
            {"vary": "merge_paramters"},
            "vary.kind: unknown kind 'merge_paramters'. Did you mean 'merge_parameters'?",
        ),
        ({"vary": {"kind": 5}}, "vary.kind: unknown kind '5'"),
        ({"vary": 5}, "wrong.yaml:vary: is not a mapping of keys to values"),
        ({"vary": ["adapters"]}, "wrong.yaml:vary: is not a mapping of keys to values"),
        ({"vary": {}}, "wrong.yaml:vary.method: this key is required"),
        ({"vary": {"methd": "ties"}}, "vary.methd: unknown key 'methd'. Did you mean 'method'?"),
        ({"vary": {"method": "ties", "search": {}}}, "wrong.yaml:vary.search: name at least one parameter to search"),
        (
            {"vary": {"method": "ties", "search": {"weight": {"low": 0, "hihg": 1}}}},
            "vary.search.weight.hihg: unknown key 'hihg'. Did you mean 'high'?",
        ),
        (
            {"vary": {"method": "tise", "search": {"weight": {"low": 0, "high": 1}}}},
            "wrong.yaml:vary.method: unknown merge method 'tise'. Did you mean 'ties'?",
        ),
        (
            {"vary": {"method": "ties", "search": {"wieght": {"low": 0, "high": 1}}}},
            "wrong.yaml:vary.search.wieght: ties has no parameter 'wieght'",
        ),
        (
            {"vary": {"method": "ties", "search": {"weight": {"low": 0, "high": 1}}}, "skills": ["skills/a"]},
            "merging needs two skills or more, got 1",
        ),
        (
            {"vary": "merge_parameters", "strategy": "genome"},
            "vary.kind: genome proposes births, which cannot make parameters. Write one of adapters, ",
        ),
        (
            {"vary": "merge_parameters", "strategy": "genome"},
            "whole_models, or take a strategy that searches merge_parameters: cma_es, ",
        ),
        ({"vary": "adapters"}, "vary.kind: cma_es proposes points, which cannot make models"),
        (
            {"vary": "adapters", "strategy": "genome"},
            "not all skills are LoRA adapters of the same ranks on the same tensors. Write `kind: whole_models`",
        ),
        ({"vary": {"learn": {"steps": 0}}, "strategy": "genome"}, "vary.learn.steps: input should be greater"),
        ({"vary": {"kind": "whole_models", "form": "models"}, "strategy": "genome"}, "vary.form: unknown key 'form'"),
        ({"vary": {"kind": "singular_values", "low": 2}}, "vary: the range (2 to 2) must hold 1"),
        ({"vary": "singular_values"}, "cma_es varies one adapter, got 2"),
        ({"vary": {"low": 3}, "strategy": "lcsc"}, "vary: low (3) must be below high (2)"),
        ({"strategy": "genmoe"}, "wrong.yaml:strategy.name: unknown strategy 'genmoe'. Did you mean 'genome'?"),
        ({"vry": {}}, "wrong.yaml:vry: unknown key 'vry'. Did you mean 'vary'?"),
        # The keys of before `vary` are at fault where they stand.
        ({"strategy": "genome", "breed": {"form": "adapter"}}, "wrong.yaml:breed.form: input should be"),
        ({"strategy": "essa", "singular": {"lagest": 1}}, "wrong.yaml:singular.lagest: unknown key 'lagest'"),
        ({"strategy": "essa", "breed": {"form": "models"}}, "essa varies singular values: leave `breed` out"),
    ],
)
def test_what_cannot_be_varied_is_one_line_and_leaves_nothing(
    world: Path, tmp_path: Path, cli: Cli, parts: dict[str, Any], said: str
) -> None:
    study = written(world, "wrong", **parts)
    for call in (("evolve", study, "--out", tmp_path / "run", "--quiet"), ("plan", study)):
        refused = cli(*call)
        assert (refused.code, refused.out, refused.err.strip().count("\n")) == (2, "", 0)
        assert said in refused.err
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------- what suits what


def test_every_kind_is_a_file_of_its_name_with_what_a_page_needs() -> None:
    for kind, one in representations().items():
        assert one is vars(importlib.import_module(f"genepool.evolution.representations.{kind}"))[one.__name__]
        assert one.noun
        assert one.Options.__doc__
        assert one.Options.__module__ == one.__module__
        assert all(field.description for field in one.Options.model_fields.values())
        assert strategies_for(kind)
    for name, entry in strategies().items():
        assert kind_for(entry) in kinds_for(entry), name


def test_no_file_asks_which_kind_a_study_varies() -> None:
    """Outside their folder kinds are known by their base class alone."""
    package = Path(genepool.evolution.__file__).parent.parent
    for path in package.rglob("*.py"):
        if path.parent.name != "representations":
            named = [kind for kind in representations() if f"representations.{kind}" in path.read_text()]
            assert not named, f"{path.relative_to(package)} imports {named}"


def test_strategies_say_what_they_vary(cli: Cli) -> None:
    rows = {row["name"]: row for row in json.loads(cli("strategies", "--json").out)["strategies"]}
    assert rows["essa"]["varies"] == "singular_values"
    assert {"checkpoint_coefficients", "merge_parameters", "singular_values"} <= set(rows["lcsc"]["representations"])
    assert not {"whole_models", "adapters"} & set(rows["lcsc"]["representations"])
    assert (rows["m2n2"]["proposals"], rows["m2n2"]["varies"]) == ("births", "models_or_adapters")
    shown = " ".join(cli("strategies", "essa").out.split())
    assert "Varies singular_values unless `vary` says one of: " in shown
    assert "merge_parameters" in shown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "gene"),
    [
        ({"strategy": "cma_es", "vary": {"kind": "singular_values", "largest": 1}, "skills": ADAPTER}, ":A[0]"),
        ({"strategy": "random_search", "vary": "checkpoint_coefficients"}, "a.weight"),
        (
            {
                "strategy": "essa",
                "vary": {"kind": "merge_parameters", "method": "linear", "search": {"weight": WEIGHT}},
            },
            "a.weight[layers 0-0]",
        ),
        ({"strategy": {"name": "genome", "options": {"population": 3}}, "vary": "whole_models"}, "op"),
    ],
)
def test_a_strategy_searches_every_kind_that_takes_its_proposals(
    world: Path, tmp_path: Path, cli: Cli, parts: dict[str, Any], gene: str
) -> None:
    study = written(world, "other", **parts, finalists=0, budget={"evaluations": 10})
    done = cli("evolve", study, "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    vary = parts["vary"]
    assert told["vary"] == (vary if isinstance(vary, str) else vary["kind"])
    assert any(name.endswith(gene) for name in told["genome"])
    if vary == "checkpoint_coefficients":
        assert sum(told["genome"].values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_a_fork_begins_by_what_the_earlier_run_varied(world: Path, tmp_path: Path, cli: Cli) -> None:
    vary = {"kind": "merge_parameters", "method": "linear", "search": {"weight": {"low": 0.0, "high": 1.0}}}
    first, old = written(world, "first", vary=vary), tmp_path / "old"
    assert cli("evolve", first, "--out", old, "--quiet").code == 0
    wider = {**vary, "search": {"weight": {"low": 0.0, "high": 3.0}}}
    done = cli("evolve", written(world, "wider", vary=wider), "--out", tmp_path / "new", "--fork", old, "--quiet")
    assert done.code == 0, done.err
    winner = json.loads((old / "best.json").read_text())["genome"]
    begins = fakes.history(tmp_path / "new")[0]["genome"]
    assert list(begins.values()) == pytest.approx([sum(winner.values()) / 2] * 2, abs=1e-5)
    for parts, said in (
        ({"skills": ADAPTER, "strategy": "essa"}, "that run varied parameters, and essa varies singular values, which"),
        ({"strategy": "lcsc"}, "that run varied parameters, and lcsc varies coefficients of checkpoints, which cannot"),
    ):
        refused = cli("evolve", written(world, "no", **parts), "--out", tmp_path / "no", "--fork", old, "--quiet")
        assert refused.code == 2
        assert said in refused.err
