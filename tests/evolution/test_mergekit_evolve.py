"""Files of mergekit-evolve: read as studies in the same coordinates, whose merges are those that mergekit makes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.evolution import load_study
from genepool.evolution.mergekit_evolve import FIRST_STEP
from genepool.evolution.representations.mergekit_genome import MergekitGenomeOptions, MergekitSpace
from genepool.evolution.strategies import make_strategy
from genepool.evolution.study import Study
from genepool.merging import load_recipe, parse_recipe, plan_merge
from genepool.schema import validate

GOLDENS = json.loads((Path(__file__).parent.parent / "goldens" / "mergekit" / "evolve.json").read_text())
GENOMES: dict[str, dict[str, Any]] = GOLDENS["genomes"]


def space_of(genome: dict[str, Any], **more: Any) -> MergekitSpace:
    """The space of the `genome` of a file, its models known by their names."""
    keys = {"merge_method": "method"}
    named = ("models", "base_model")
    options = {keys.get(key, key): value for key, value in genome.items() if key not in named}
    study = {
        "base": genome.get("base_model"),
        "skills": genome["models"],
        "vary": MergekitGenomeOptions(kind="mergekit_genome", **options, **more),
        "tasks": "tasks",
        "budget": {"evaluations": 100},
    }
    return MergekitSpace(validate(Study, study, "here"), GOLDENS["layers"])


def point(space: MergekitSpace, genotype: list[float], reach: float = 4.0) -> np.ndarray:
    return (np.array(genotype) + reach) / (2 * reach)


@pytest.mark.parametrize("name", GENOMES)
def test_a_point_is_the_merge_that_mergekit_makes_of_it(name: str) -> None:
    told = GENOMES[name]
    space = space_of(told["genome"])
    if told["genome"]["merge_method"] == "slerp":
        np.testing.assert_allclose(space.start, point(space, told["start"]))
    ours = space.as_mergekit(space.genome(point(space, told["genotype"])))
    theirs = {key: value for key, value in told["recipe"].items() if key != "dtype"}
    assert theirs["parameters"].pop("int8_mask") is True
    if told["genome"]["merge_method"] == "slerp":
        # It knows no normalisation.
        del theirs["parameters"]
    assert plain(ours) == plain(theirs)


def plain(value: Any) -> Any:
    """With numbers to five digits, and without what says nothing."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if inner is not None and inner != {}}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return round(value, 5) if isinstance(value, float) else value


@pytest.mark.parametrize("name", GENOMES)
def test_the_start_is_that_of_mergekit(name: str) -> None:
    space = space_of(GENOMES[name]["genome"])
    np.testing.assert_allclose(space.start, point(space, GENOMES[name]["start"]), atol=1e-7)


def test_the_search_moves_as_cma_es_in_the_coordinates_of_mergekit() -> None:
    """The same draws, the same candidates: our unit cube is an affine picture of them, which CMA-ES does not see."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cma
    from genepool.seeding import numpy_generator

    space, reach = space_of(GENOMES["ties"]["genome"]), 4.0
    ours = make_strategy("cma_es", space.start, seed=5, options={"sigma": FIRST_STEP / (2 * reach)})
    draws = numpy_generator(5, "cma_es", 0)
    normal = lambda *shape: draws.standard_normal(shape)  # noqa: E731
    options = {"seed": np.nan, "randn": normal, "verbose": -9, "signals_filename": ""}
    theirs = cma.CMAEvolutionStrategy(GENOMES["ties"]["start"], FIRST_STEP, options)
    for generation in range(5):
        mine = ours.ask() * 2 * reach - reach
        others = np.array(theirs.ask())
        # Ours asks first what the start itself is worth.
        told = slice(1 if generation == 0 else 0, None)
        np.testing.assert_allclose(mine[told], others[told], atol=1e-6)
        worth = -((mine - 0.7) ** 2).sum(axis=1)
        ours.tell((mine + reach) / (2 * reach), worth)
        theirs.tell(list(mine), list(-worth))


@settings(max_examples=25)
@given(
    st.sampled_from(sorted(GENOMES)),
    st.lists(st.floats(0, 1), min_size=72, max_size=72),
    st.booleans(),
)
def test_every_point_is_a_recipe(name: str, coordinates: list[float], negative: bool) -> None:
    genome = {**GENOMES[name]["genome"], "allow_negative_weights": negative}
    space = space_of(genome)
    found = space.genome(np.array(coordinates[: len(space.genes)]))
    recipe = parse_recipe(space.recipe(found, 3))
    assert recipe.seed == 3
    for gene in space.genes:
        value = found[gene.name]
        assert -4 <= value <= 4
        if gene.parameter == "density":
            assert 0 <= value <= 1
        elif gene.parameter == "weight" and not negative:
            assert value >= 0


# -- through the command -------------------------------------------------------------------------------------------


FILE: dict[str, Any] = {
    "genome": {"models": ["skills/a", "skills/b"], "merge_method": "linear", "layer_granularity": 1},
    "tasks": [{"name": "say", "weight": 2.0}, "pick"],
    "limit": 8,
}


def written(world: Path, name: str = "evolve.yaml", **changes: Any) -> Path:
    genome = {**FILE["genome"], **changes.pop("genome", {})}
    path = world / name
    path.write_text(yaml.safe_dump({**FILE, **changes, "genome": genome}))
    return path


Cli = Callable[..., Any]


@pytest.mark.slow
def test_a_file_without_a_base_is_searched_and_its_winner_written(cli: Cli, world: Path, tmp_path: Path) -> None:
    file, out = written(world), tmp_path / "run"
    done = cli("evolve", file, "--out", out, "--tasks", world / "tasks", "--budget", 8)
    assert done.code == 0, done.err
    assert "mergekit-evolve" in done.err
    best = json.loads((out / "best.json").read_text())
    assert set(best["genome"]) == {f"{m}.weight[layers {i}-{i}]" for m in "ab" for i in range(2)}
    assert [row["name"] for row in best["models"]] == ["a", "b", "winner"]
    study = load_study(out / "study.yaml")
    assert (study.base, study.vary.kind) == (None, "mergekit_genome")
    assert study.tasks.weights == {"say": 2.0, "pick": 1.0}
    # What was written is what its recipe makes.
    from genepool.weights import open_weights

    recipe, winner = plan_merge(load_recipe(out / "winner" / "recipe.yaml")).weights(), open_weights(out / "winner")
    assert all(recipe.read(name).equal(winner.read(name)) for name in winner.names())
    # The same command finds it finished, and a larger budget goes on from the record.
    again = cli("evolve", file, "--out", out, "--tasks", world / "tasks", "--budget", 8)
    assert "this study is finished" in again.err
    more = cli("evolve", file, "--out", out, "--tasks", world / "tasks", "--budget", 16, "--json")
    assert more.code == 0
    assert json.loads(more.out)["evaluations"] == 16


@pytest.mark.slow
@pytest.mark.parametrize(
    "genome",
    [
        {"merge_method": "slerp", "models": ["skills/a", "skills/b", "base"]},
        {"merge_method": "ties", "base_model": "base", "filters": ["mlp"]},
        {"merge_method": "dare_ties", "base_model": "base", "smooth": True},
        {"merge_method": "task_arithmetic", "base_model": "base", "allow_negative_weights": True},
        {"merge_method": "linear", "base_model": "skills/a", "layer_granularity": 0},
    ],
)
def test_every_method_of_it_is_searched(cli: Cli, world: Path, tmp_path: Path, genome: dict[str, Any]) -> None:
    file = written(world, f"{genome['merge_method']}.yaml", genome=genome, random_init=True)
    done = cli("evolve", file, "--out", tmp_path / "run", "--tasks", world / "tasks", "--budget", 14)
    assert done.code == 0, done.err
    assert (tmp_path / "run" / "winner" / "model.safetensors").is_file()
    assert "failed" not in (tmp_path / "run" / "report.html").read_text().split("<h2")[0]


def test_a_plan_of_it_is_shown(cli: Cli, world: Path) -> None:
    done = cli("plan", written(world), "--tasks", world / "tasks", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["evaluations"] == 100


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"tasks": []}, "tasks: "),
        ({"tasks": ["say", "say"]}, "'say' is named twice"),
        ({"tasks": [{"name": "say", "weight": 0}]}, "no task has a weight above zero"),
        ({"tasks": [{"name": "say", "weight": -1}]}, "tasks.0.weight"),
        ({"tasks": [{"name": "say", "weight": float("nan")}]}, "tasks.0.weight"),
        ({"tasks": [{"name": "say", "metric": "bleu,none"}]}, "the file wants 'bleu,none' of say"),
        ({"num_fewshot": 3}, "the file wants 3 solved examples"),
        ({"limits": 3}, "unknown key 'limits'. Did you mean 'limit'?"),
        ({"genome": {"filter": ["mlp"]}}, "unknown key 'filter'. Did you mean 'filters'?"),
        ({"genome": {"filters": ["mlp", "mlp"]}}, "genome.filters: filters must be different texts"),
        ({"genome": {"merge_method": "tie"}}, "genome.merge_method: input should be"),
        ({"genome": {"merge_method": "ties"}}, "genome.base_model: ties needs a base"),
        ({"genome": {"base_model": "base"}}, "genome.base_model: linear has no value for a base"),
        ({"genome": {"merge_method": "slerp", "smooth": True}}, "leave `smooth` out"),
        ({"genome": {"merge_method": "slerp", "normalize": True}}, "slerp has no normalize"),
        ({"genome": {"layer_granularity": 3}}, "genome.layer_granularity: must divide the 2 layers of the models"),
        ({"genome": {"layer_granularity": -1}}, "genome.layer_granularity"),
        ({"genome": {"models": []}}, "genome.models"),
        ({"genome": {"models": ["skills/a"]}}, "linear merges 2 models or more, got 1"),
        ({"genome": {"models": ["skills/a", "skills/a"]}}, "is named twice"),
        ({"genome": {"models": ["skills/a", "skills/missing"]}}, "skills/missing"),
        ({"genome": {"models": ["skills/a", 3]}}, "got 3, expected the name of a model"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(
    cli: Cli, world: Path, tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    done = cli("evolve", written(world, "wrong.yaml", **changes), "--out", tmp_path / "run", "--tasks", world / "tasks")
    assert done.code == 2
    (line,) = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert complaint in line
    assert not (tmp_path / "run").exists()


def test_tasks_are_for_such_a_file_only(cli: Cli, world: Path, tmp_path: Path) -> None:
    done = cli("evolve", world / "study.yaml", "--out", tmp_path / "run", "--tasks", world / "tasks")
    assert done.code == 2
    assert "--tasks is for files of mergekit-evolve" in done.err


def test_a_method_with_a_base_is_refused_without_one(cli: Cli, world: Path, tmp_path: Path) -> None:
    study = yaml.safe_load((world / "study.yaml").read_text())
    del study["base"]
    (world / "no_base.yaml").write_text(yaml.safe_dump(study))
    done = cli("evolve", world / "no_base.yaml", "--out", tmp_path / "run")
    assert done.code == 2
    assert "task_arithmetic needs a base" in done.err


@pytest.mark.slow
def test_a_study_of_ours_without_a_base(cli: Cli, world: Path, tmp_path: Path) -> None:
    """With workers of its own, and with its candidates written afterwards."""
    study = yaml.safe_load((world / "study.yaml").read_text())
    del study["base"], study["parameters"]
    study |= {"method": "linear", "budget": {"evaluations": 8}, "race": "halving"}
    (world / "no_base.yaml").write_text(yaml.safe_dump(study))
    assert cli("evolve", world / "no_base.yaml", "--out", tmp_path / "run").code == 0
    kept = cli("collection", tmp_path / "run", "--write", "0.0", "--out", tmp_path / "first")
    assert kept.code == 0, kept.err
    refused = cli("collection", tmp_path / "run", "--write", "0.0", "--out", tmp_path / "adapter", "--as-lora", 2)
    assert refused.code == 2
    assert "the study has no base" in refused.err


def test_a_task_with_one_split_is_parted(cli: Cli, world: Path, tmp_path: Path) -> None:
    lines = (world / "tasks" / "pick" / "valid.jsonl").read_text()
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "alone.jsonl").write_text(lines)
    study = yaml.safe_load((world / "study.yaml").read_text())
    study |= {"tasks": {"dir": str(tmp_path / "tasks")}, "budget": {"evaluations": 8}}
    (world / "alone.yaml").write_text(yaml.safe_dump(study))
    refused = cli("evolve", world / "alone.yaml", "--out", tmp_path / "run")
    assert "has one split" in refused.err
    study["tasks"]["held_out"] = 0.25
    (world / "alone.yaml").write_text(yaml.safe_dump(study))
    from genepool.evolution.study_tasks import load_study_tasks

    (task,) = load_study_tasks(load_study(world / "alone.yaml"))
    valid, test = ({example.id for example in task.examples(split)} for split in ("valid", "test"))
    assert (len(valid), len(test), len(valid & test)) == (18, 6, 0)
    assert cli("evolve", world / "alone.yaml", "--out", tmp_path / "run").code == 0
    study["tasks"]["held_out"] = 0.01
    (world / "alone.yaml").write_text(yaml.safe_dump(study))
    with pytest.raises(InputError, match="keeps 0 of 24 examples"):
        load_study_tasks(load_study(world / "alone.yaml"))
