"""Classes are compared by their numbers, in whatever order a config.json holds them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.weights import ClassHead, open_weights, with_head
from genepool.weights.class_head import class_names


@given(st.permutations(range(12)))
def test_classes_are_named_by_number(order: list[int]) -> None:
    named = {str(number): f"class-{number}" for number in order}
    assert class_names({"id2label": named}) == tuple(f"class-{number}" for number in range(12))


@pytest.mark.parametrize("config", [None, {}, {"id2label": None}, {"id2label": ["a"]}])
def test_a_config_without_classes_names_none(config: dict[str, Any] | None) -> None:
    assert class_names(config) == ()


def test_what_are_no_numbers_stand_as_they_are() -> None:
    assert class_names({"id2label": {"b": "second", "a": 1}}) == ("second", "1")


def test_a_base_with_sorted_keys_has_the_classes_of_a_change(save_model: Callable[..., Path]) -> None:
    names = {str(number): f"class-{number}" for number in range(12)}
    folder = save_model(
        "base",
        {"w": torch.ones(1)},
        architectures=["BertForSequenceClassification"],
        id2label={key: names[key] for key in sorted(names)},
    )
    base, classes = open_weights(folder), tuple(names.values())
    assert with_head(base, ClassHead("BertForSequenceClassification", classes)) is base
    with pytest.raises(InputError, match="Name the base it was trained on"):
        with_head(base, ClassHead("BertForSequenceClassification", classes[::-1]))
