"""Genes, vectors and recipes: every tensor gets the value of the gene that covers it, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.evolution.genome import Partition, Space
from genepool.evolution.representations.merge_parameters import MergeParametersOptions
from genepool.evolution.study import Study
from genepool.merging import Recipe, find_method
from genepool.merging.parameters import Site, check_value, resolve
from genepool.schema import validate
from genepool.weights import PARTS, Role

METHOD = find_method("dare_ties")


def roles_of(layers: int, *, head: bool = True) -> dict[str, Role]:
    """A decoder of so many layers, with embedding, final norm and perhaps a head."""
    roles: dict[str, Role] = {"embed": Role("embedding")}
    for layer in range(layers):
        for part in ("attention", "mlp", "norm"):
            roles[f"layers.{layer}.{part}"] = Role(part, layer, "layers")
    roles["final_norm"] = Role("norm")
    return {**roles, "head": Role("head")} if head else roles


def study_of(search: dict[str, Any], skills: int = 2, **changes: Any) -> Study:
    data = {
        "study": 1,
        "base": "base",
        "skills": [f"skills/s{i}" for i in range(skills)],
        "method": METHOD.name,
        "search": search,
        "tasks": "tasks",
        "budget": {"evaluations": 100},
        **changes,
    }
    return validate(Study, data, "study")


def space_of(study: Study, roles: dict[str, Role]) -> Space:
    assert isinstance(study.vary, MergeParametersOptions)
    return Space(study, study.vary, roles, METHOD.parameters, where=f"study:{study.vary.place('search')}")


splits = st.fixed_dictionaries(
    {},
    optional={
        "skill": st.booleans(),
        "layer_groups": st.integers(1, 4),
        "roles": st.lists(st.sampled_from(["attention", "mlp", "norm", "embedding", "head"]), unique=True),
    },
)
ranges = st.tuples(st.floats(0, 0.4), st.floats(0.5, 1), splits).map(
    lambda drawn: {"low": drawn[0], "high": drawn[1], "per": drawn[2]}
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    weight=ranges,
    density=ranges,
    skills=st.integers(2, 4),
    layers=st.integers(4, 9),
    data=st.data(),
)
def test_the_recipe_gives_every_tensor_the_value_of_its_own_gene(
    weight: dict[str, Any], density: dict[str, Any], skills: int, layers: int, data: st.DataObject
) -> None:
    roles = roles_of(layers)
    study = study_of({"weight": weight, "density": density, "lambda": {"low": 0, "high": 2}}, skills)
    space = space_of(study, roles)
    d = len(space.genes)
    x = np.array(data.draw(st.lists(st.floats(0, 1), min_size=d, max_size=d)))
    genome = space.genome(x)
    assert list(genome) == list(space.names)
    assert len(set(space.names)) == d

    recipe, _ = validate(Recipe, space.recipe(genome, 7), "recipe").checked()
    assert recipe.seed == 7
    used = set()
    for name, role in roles.items():
        site = Site(name, role.part, role.layer, 0.0)
        for skill, entry in zip(study.skills, recipe.models or [], strict=True):
            for parameter in ("weight", "density"):
                value = resolve([entry.parameters, recipe.parameters], METHOD.parameter(parameter), site)
                covering = [
                    gene
                    for gene in space.genes
                    if gene.parameter == parameter and gene.skill in (None, skill.name) and covers(gene, role, space)
                ]
                assert len(covering) == 1, (name, covering)
                assert value == genome[covering[0].name]
                used.add(covering[0].name)
        value = resolve([recipe.parameters], METHOD.parameter("lambda"), site)
        assert value == genome["lambda"]
    # No gene is idle: a search would drift along it for nothing.
    assert used | {"lambda"} == set(space.names)


def covers(gene: Any, role: Role, space: Space) -> bool:
    """What a gene's layers and role say in words, worked out anew."""
    same = [g for g in space.genes if (g.parameter, g.skill) == (gene.parameter, gene.skill)]
    listed = {g.part for g in same if g.part is not None}
    if gene.part != (role.part if role.part in listed else None):
        return False
    groups = [g.layers for g in same if g.layers is not None]
    if not groups:
        return True
    first, last = min(groups), max(groups)
    if role.layer is None:
        return bool(gene.layers == (first if role.part == "embedding" else last))
    return bool(gene.layers[0] <= role.layer <= gene.layers[1])


@settings(max_examples=100, deadline=None)
@given(low=st.floats(-5, 5), width=st.floats(1e-3, 10), data=st.data())
def test_vector_and_genome_are_each_others_inverse(low: float, width: float, data: st.DataObject) -> None:
    study = study_of({"weight": {"low": low, "high": low + width, "per": {"layer_groups": 2}}})
    space = space_of(study, roles_of(4))
    d = len(space.genes)
    x = np.array(data.draw(st.lists(st.floats(0, 1), min_size=d, max_size=d)))
    genome = space.genome(x)
    assert all(low <= value <= low + width for value in genome.values())
    assert np.abs(space.vector(genome) - x).max() < 2e-6
    assert space.genome(space.vector(genome).clip(0, 1)) == pytest.approx(genome, rel=1e-6, abs=1e-6 * width)


def test_start_maps_into_the_cube_and_defaults_to_its_middle() -> None:
    space = space_of(
        study_of({"weight": {"low": -1, "high": 3, "start": 0}, "lambda": {"low": 0, "high": 2}}), roles_of(2)
    )
    assert space.names == ("s0.weight", "s1.weight", "lambda")
    assert space.start.tolist() == [0.25, 0.25, 0.5]
    assert space.genome(space.start) == {"s0.weight": 0.0, "s1.weight": 0.0, "lambda": 1.0}


def test_the_recipe_reads_as_a_person_would_write_it() -> None:
    study = study_of(
        {
            "weight": {"low": 0, "high": 1, "per": {"layer_groups": 2, "roles": ["attention"]}},
            "density": {"low": 0.2, "high": 1, "start": 0.5, "per": {"skill": False}},
        },
        parameters={"scope": "tensor"},
        dtype="float32",
    )
    space = space_of(study, roles_of(4, head=False))
    assert space.names[:4] == (
        "s0.weight[layers 0-1, attention]",
        "s0.weight[layers 0-1]",
        "s0.weight[layers 2-3, attention]",
        "s0.weight[layers 2-3]",
    )
    recipe = space.recipe(space.genome(np.linspace(0, 1, len(space.genes))), 3)
    assert recipe["models"][0] == {
        "model": "skills/s0",
        "parameters": {
            "weight": [
                {"layers": [0, 1], "role": "attention", "value": 0.0},
                {"layers": [0, 1], "value": 0.125},
                {"layers": [2, 3], "role": "attention", "value": 0.25},
                {"layers": [2, 3], "value": 0.375},
                {"role": "embedding", "value": 0.125},
                {"value": 0.375},
            ]
        },
    }
    assert recipe["parameters"] == {"scope": "tensor", "density": 1.0}
    assert {key: recipe[key] for key in ("genepool", "method", "base", "seed", "dtype")} == {
        "genepool": 1,
        "method": "dare_ties",
        "base": "base",
        "seed": 3,
        "dtype": "float32",
    }


def test_values_keep_six_digits_of_their_range() -> None:
    space = space_of(study_of({"lambda": {"low": 0, "high": 1}}), roles_of(2))
    assert space.genome(np.array([1 / 3])) == {"lambda": 0.333333}


@pytest.mark.parametrize(
    ("search", "complaint"),
    [
        (
            {"wieght": {"low": 0, "high": 1}},
            "study:search.wieght: dare_ties has no parameter 'wieght'. Did you mean",
        ),
        ({"scope": {"low": 0, "high": 1}}, "'scope' is not a number that can be searched"),
        ({"density": {"low": -0.5, "high": 1}}, "search.density.low: density is out of range, got -0.5"),
        ({"lambda": {"low": 0, "high": 1, "per": {"skill": True}}}, "'lambda' is one number for the whole merge"),
        (
            {"weight": {"low": 0, "high": 1, "per": {"layer_groups": 9}}},
            "got 9 layer groups, and the base has 4 layers",
        ),
        ({"weight": {"low": 0, "high": 1, "per": {"roles": ["head"]}}}, "no tensor with the role 'head'"),
    ],
)
def test_ranges_that_fit_neither_method_nor_model(search: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        space_of(study_of(search), roles_of(4, head=False))
    assert complaint in str(caught.value)


def test_groups_are_near_equal_and_cover_every_layer() -> None:
    for layers in range(1, 12):
        for groups in range(1, layers + 1):
            partition = Partition(roles_of(layers), groups, ())
            spans = [cell.layers for cell in partition.cells]
            if groups == 1:
                assert spans == [None]
                continue
            covered = [layer for a, b in spans for layer in range(a, b + 1)]
            assert covered == list(range(layers))
            sizes = [b - a + 1 for a, b in spans]
            assert max(sizes) - min(sizes) <= 1


def test_every_role_may_be_listed() -> None:
    present = [part for part in PARTS if part != "other"]
    partition = Partition(roles_of(3), 1, present)
    assert [cell.part for cell in partition.cells] == present


@given(data=st.data())
def test_values_of_skills_are_shifted_to_their_sum_in_every_cell(data: st.DataObject) -> None:
    search = {"weight": {"low": -1, "high": 2, "sum": 1, "per": {"layer_groups": 2}}, "density": {"low": 0, "high": 1}}
    space = space_of(study_of(search, 3), roles_of(4))
    x = np.array(data.draw(st.lists(st.floats(0, 1), min_size=len(space.genes), max_size=len(space.genes))))
    genome = space.genome(x)
    free = {gene.name: gene.low + u * (gene.high - gene.low) for gene, u in zip(space.genes, x, strict=True)}
    for layers in ((0, 1), (2, 3)):
        names = [gene.name for gene in space.genes if gene.parameter == "weight" and gene.layers == layers]
        assert len(names) == 3
        assert sum(genome[name] for name in names) == pytest.approx(1, abs=1e-5)
        # Differences between skills are what was asked for.
        assert genome[names[0]] - genome[names[1]] == pytest.approx(free[names[0]] - free[names[1]], abs=1e-4)
    for gene in space.genes:
        if gene.parameter == "density":
            assert genome[gene.name] == pytest.approx(free[gene.name], abs=1e-5)


def test_what_is_one_number_cannot_sum_to_anything() -> None:
    for search in (
        {"lambda": {"low": 0, "high": 2, "sum": 1}},
        {"weight": {"low": 0, "high": 1, "sum": 1, "per": {"skill": False}}},
    ):
        with pytest.raises(InputError, match="so it cannot have a sum"):
            space_of(study_of(search), roles_of(4))


@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("tower", [2, 5, 9])
def test_layers_of_a_second_stack_get_the_value_of_the_cell_they_are_said_to_be_in(groups: int, tower: int) -> None:
    roles = roles_of(6)
    for layer in range(tower):
        roles[f"vision.{layer}.attention"] = Role("attention", layer, "vision")
    partition = Partition(roles, groups, ["attention"])
    values = {cell: float(i) for i, cell in enumerate(partition.cells)}
    weight = next(parameter for parameter in METHOD.parameters if parameter.name == "weight")
    conditions = check_value(weight, partition.conditions(values), "test")
    for name, role in roles.items():
        found = resolve([{"weight": conditions}], weight, Site(name, role.part, role.layer, 0.0, 6))
        assert found == values[partition.cell(role)], name
