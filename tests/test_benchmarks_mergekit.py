"""The tables of docs/reference/mergekit.md: all that mergekit takes has a verdict, and what they call read is read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from benchmarks.mergekit import answers, evolve_files, mixtures, parameters, verdicts
from benchmarks.mergekit.__main__ import RECORD
from benchmarks.mergekit.cases import CASES
from benchmarks.mergekit.page import PAGE, used, written
from genepool.cli.main import build_app
from genepool.errors import InputError
from genepool.evolution.mergekit_evolve import EvolveFile
from genepool.merging.mergekit import translate
from genepool.merging.mixture.recipe import MixtureRecipe
from genepool.schema import validate
from tests.cli.calls_in_tests import options_of

MEASURED: dict[str, Any] = json.loads(RECORD.read_text())
PARAMETERS = [(method, name) for method, names in MEASURED["methods"].items() for name in names]
# Three recipes that use every key: models, slices and modules exclude each other, as do the two words for tokenizers.
_SOURCES = [{"model": name, "layer_range": [0, 2], "parameters": {"weight": 1}} for name in ("base", "a")]
_SLICE = {"sources": _SOURCES, "base_model": "base", "residual_weight": 1, "parameters": {"density": 0.5}}
_TIES = {"merge_method": "ties", "base_model": "base", "dtype": "float32", "parameters": {"weight": 1}}
RECIPES: list[dict[str, Any]] = [
    {**_TIES, "slices": [_SLICE], "tokenizer_source": "union", "chat_template": "auto", "out_dtype": "bfloat16"},
    {
        **_TIES,
        "models": [{"model": "a", "parameters": {"weight": 1}}],
        "tokenizer": {"source": "base", "tokens": {"x": {"source": "a"}}, "pad_to_multiple_of": 8},
    },
    {
        **_TIES,
        "modules": {
            "text_decoder": {"slices": [_SLICE], "parameters": {"density": 0.5}},
            "vision_tower": {"models": [{"model": "a"}]},
        },
    },
]
RECIPE_PARTS = ("recipe", "slice", "source or model", "module", "tokenizer")
EXPERT = {
    "source_model": "a",
    "positive_prompts": ["x"],
    "negative_prompts": ["y"],
    "noise_scale": 0.1,
    "residual_scale": 0.5,
}
MIXTURE = {
    "base_model": "base",
    "experts": [EXPERT],
    "gate_mode": "hidden",
    "dtype": "float32",
    "experts_per_token": 1,
    "shared_experts": [EXPERT],
    "architecture": "qwen",
}
TASK = {"name": "t", "weight": 1.0, "metric": "acc"}
GENOME = {
    "models": ["a", "b"],
    "merge_method": "ties",
    "base_model": "base",
    "tokenizer_source": "union",
    "layer_granularity": 2,
    "normalize": True,
    "allow_negative_weights": True,
    "filters": ["mlp"],
    "smooth": True,
}
EVOLVE = {
    "genome": GENOME,
    "tasks": [TASK],
    "limit": 5,
    "num_fewshot": 0,
    "shuffle": True,
    "random_init": True,
    "apply_chat_template": True,
    "fewshot_as_multiturn": True,
}


def test_everything_that_mergekit_takes_has_a_verdict_and_nothing_else_has() -> None:
    assert verdicts.missing(MEASURED) == []
    assert set(verdicts.EVERY_MERGE) == set(MEASURED["every merge"])
    assert {command: set(all_) for command, all_ in verdicts.COMMANDS.items()} == _sets(MEASURED["commands"])
    assert {part: set(all_) for part, all_ in verdicts.KEYS.items()} == _sets(MEASURED["keys"])
    assert set(verdicts.METHODS) <= set(MEASURED["methods"])
    known = {name for _, name in PARAMETERS} | {f"{method}.{name}" for method, name in PARAMETERS}
    assert set(verdicts.PARAMETERS) <= known


def _sets(lists: dict[str, list[str]]) -> dict[str, set[str]]:
    return {name: set(all_) for name, all_ in lists.items()}


def test_every_verdict_that_names_a_measurement_has_one() -> None:
    named = [one for all_ in (*verdicts.COMMANDS.values(), *verdicts.KEYS.values()) for one in all_.values()]
    cases = {one.case for one in (*named, *verdicts.INPUTS.values()) if one.case}
    cases -= {"recipes", "several documents", "mixtures"}
    assert cases <= set(MEASURED["cases"])
    assert set(MEASURED["cases"]) == {*CASES, *answers.TRANSPLANTS}
    assert set(MEASURED["recipes"]) == {name for name, _ in answers.comparable()}
    assert set(MEASURED["genomes"]) == set(answers.stored_genomes())
    assert set(MEASURED["parameters"]) == set(parameters.VALUES)
    assert set(MEASURED["mixtures"]) == set(mixtures.MIXTURES)
    assert set(MEASURED["evolve"]) == set(evolve_files.FILES)


def test_every_option_that_a_verdict_points_to_is_there() -> None:
    tables = (verdicts.EVERY_MERGE, *verdicts.COMMANDS.values(), *verdicts.KEYS.values(), verdicts.METHODS)
    text = " ".join(one.here for table in (*tables, verdicts.PARAMETERS) for one in table.values())
    ours = {word for _, words in options_of(typer.main.get_command(build_app())) for word in words}
    theirs = {word for words in MEASURED["commands"].values() for word in words}
    named = set(re.findall(r"--[a-z][a-z-]*", text))
    assert named
    assert named <= ours | theirs, named - ours - theirs


def test_the_page_is_what_the_record_says() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert written(page, MEASURED) == page


def test_what_is_called_the_same_is_the_same_in_float32() -> None:
    worst = {name: value for name, value in MEASURED["recipes"].items() if value > 1e-6}
    live = ("parameters", "mixtures", "evolve")
    worst |= {name: value for part in live for name, value in MEASURED[part].items() if value > 1e-6}
    assert not worst
    # Rows that are solved for have the condition of the problem on top.
    assert all(value <= 2e-5 for value in MEASURED["cases"].values() if not isinstance(value, str))
    assert all(value <= 1e-7 for value in MEASURED["genomes"].values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ties_density", "multi_mega", "vocabulary_union_task_arithmetic"])
def test_a_recorded_difference_is_found_again(name: str, tmp_path: Path) -> None:
    inputs = answers.golden_inputs()
    models = inputs.write_models(tmp_path / "models")
    found = answers.recipe_difference(name, dict(answers.comparable())[name], models, tmp_path, inputs)
    assert found == pytest.approx(MEASURED["recipes"][name], abs=1e-6)


@pytest.mark.slow
def test_a_difference_is_seen(tmp_path: Path) -> None:
    """Against the answer of another recipe it is no rounding."""
    inputs, stored = answers.golden_inputs(), dict(answers.comparable())
    models = inputs.write_models(tmp_path / "models")
    assert answers.recipe_difference("ties_density", stored["linear_weights"], models, tmp_path, inputs) > 1e-3


def test_every_key_of_a_recipe_is_read() -> None:
    for recipe in RECIPES:
        translate(recipe, "recipe.yaml")
    keys = {f"{part}.{key}" for part in RECIPE_PARTS for key in MEASURED["keys"][part]}
    assert keys <= {word for recipe in RECIPES for word in used(recipe)}


@pytest.mark.parametrize("place", ["recipe", "slices", "sources", "modules", "tokenizer"])
def test_a_key_that_is_none_is_refused(place: str) -> None:
    slices, models, modules = json.loads(json.dumps(RECIPES))
    recipe, part = {
        "recipe": (models, models),
        "slices": (slices, slices["slices"][0]),
        "sources": (slices, slices["slices"][0]["sources"][0]),
        "modules": (modules, modules["modules"]["text_decoder"]),
        "tokenizer": (models, models["tokenizer"]),
    }[place]
    part["nonsense"] = 1
    with pytest.raises(InputError, match="nonsense"):
        translate(recipe, "recipe.yaml")


def test_every_key_of_mixtures_and_of_evolution_is_read() -> None:
    validate(MixtureRecipe, MIXTURE, "mixture.yaml")
    validate(EvolveFile, EVOLVE, "evolve.yaml")
    examples = {"mixture": MIXTURE, "expert": EXPERT, "evolve": EVOLVE, "genome": GENOME, "task": TASK}
    for part, example in examples.items():
        assert set(example) == set(MEASURED["keys"][part]), part
    for model, data, part in (
        (MixtureRecipe, MIXTURE, EXPERT),
        (EvolveFile, EVOLVE, GENOME),
        (EvolveFile, EVOLVE, TASK),
    ):
        key = next(key for key, value in data.items() if value in (part, [part]))
        spoilt = {**part, "nonsense": 1}
        with pytest.raises(InputError, match="nonsense"):
            validate(model, {**data, key: [spoilt] if isinstance(data[key], list) else spoilt}, "file.yaml")


@pytest.mark.parametrize(("method", "name"), PARAMETERS)
def test_a_parameter_is_read_or_warned_of(method: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = verdicts.of_parameter(method, name)
    assert verdict is not None
    recipe = {"merge_method": method, "base_model": "base", "models": [{"model": "a"}, {"model": "b"}]}
    given = {"weight": 1.0} if (method, "weight") in PARAMETERS else {}
    found = translate({**recipe, "parameters": {**given, name: 1}}, "recipe.yaml")
    warned = f"parameters.{name}: has no effect on {method}" in capsys.readouterr().err
    assert warned == verdict.here.startswith("no effect in either")
    assert warned or name in found.parameters
