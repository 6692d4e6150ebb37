"""The greedy soup: the order, what stays, and that nothing is asked or written that need not be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merging_in_memory import one

from genepool.errors import InputError
from genepool.merging import Soup, greedy_soup
from genepool.weights import Weights
from genepool.weights.in_memory import TensorWeights

points = st.lists(st.tuples(*[st.integers(-8, 8)] * 3), min_size=1, max_size=6)


def _models(values: list[tuple[int, ...]]) -> list[Weights]:
    return [TensorWeights(one([float(v) for v in value]), f"m{i}") for i, value in enumerate(values)]


def _closeness(weights: Weights) -> float:
    """Larger the nearer to (1, 1, 1)."""
    return -float((weights.read("norm.weight") - 1).square().sum())


def _kept(soup: Soup) -> list[str]:
    return [step.model for step in soup.steps if step.kept]


@given(values=points)
def test_the_soup_is_never_worse_than_its_best_model_and_is_what_its_recipe_says(values: list[tuple[int, ...]]) -> None:
    models = _models(values)
    soup = greedy_soup(models, _closeness)
    alone = [step.alone for step in soup.steps]
    assert alone == sorted(alone, reverse=True)
    assert soup.score >= alone[0]
    assert [entry.model for entry in soup.recipe.models or []] == _kept(soup)
    kept = torch.stack([models[int(name[1:])].read("norm.weight") for name in _kept(soup)])
    torch.testing.assert_close(soup.plan.weights().read("norm.weight"), kept.mean(0))
    assert soup.score == pytest.approx(_closeness(soup.plan.weights()), abs=1e-4)


@given(values=points)
def test_each_model_is_asked_alone_and_once_with_the_soup(values: list[tuple[int, ...]]) -> None:
    asked = []

    def score(weights: Weights) -> float:
        asked.append(weights)
        return _closeness(weights)

    greedy_soup(_models(values), score)
    assert len(asked) == 2 * len(values) - 1


def test_by_hand() -> None:
    # Best alone is (2 1 1); (0 1 1) makes it perfect; (1 1 2) then only makes it worse.
    soup = greedy_soup(_models([(1, 1, 3), (2, 1, 1), (0, 1, 1), (1, 1, 9)]), _closeness)
    assert [(step.model, step.kept) for step in soup.steps] == [
        ("m1", True), ("m2", True), ("m0", False), ("m3", False),
    ]  # fmt: skip
    assert [step.alone for step in soup.steps] == [-1, -1, -4, -64]
    assert soup.score == 0


def test_a_model_that_changes_nothing_stays_out() -> None:
    assert _kept(greedy_soup(_models([(2, 1, 1), (2, 1, 1)]), _closeness)) == ["m0"]


def test_the_base_gives_the_config() -> None:
    base = TensorWeights(one([0.0, 0.0, 0.0]), "base")
    soup = greedy_soup(_models([(1, 1, 1)]), _closeness, base=base)
    assert soup.recipe.base == "base"
    assert soup.plan.weights().read("norm.weight").tolist() == [1, 1, 1]


def test_what_cannot_be_a_soup_is_refused_before_anything_is_asked() -> None:
    def never(weights: Weights) -> float:
        raise AssertionError("asked")

    with pytest.raises(InputError, match="no model is named"):
        greedy_soup([], never)
    with pytest.raises(InputError, match="m0 is listed twice"):
        greedy_soup([*_models([(1, 1, 1)]), *_models([(2, 2, 2)])], never)
    with pytest.raises(InputError, match="shapes differ"):
        greedy_soup([*_models([(1, 1, 1)]), TensorWeights(one([1.0]), "short")], never)
    with pytest.raises(InputError, match="m0: got the score nan, expected a finite number"):
        greedy_soup(_models([(1, 1, 1)]), lambda _: float("nan"))
