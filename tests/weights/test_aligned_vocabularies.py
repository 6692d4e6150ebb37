"""Padded vocabularies: rows are added at the end, from the base first, and every other number stays as it is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genepool.weights import TensorWeights, Weights, vocabulary_rows
from genepool.weights.vocabulary import padded

EMBED, HEAD, WPE = "model.embed_tokens.weight", "lm_head.weight", "model.embed_positions.weight"
LAYER = "model.layers.{}.mlp.up_proj.weight"


def _model(rows: int, fill: float, *, head: bool = True) -> TensorWeights:
    tensors = {EMBED: torch.full((rows, 2), fill), WPE: torch.full((7, 2), fill)}
    tensors |= {LAYER.format(i): torch.full((3, 2), fill) for i in range(3)}
    if head:
        tensors[HEAD] = torch.full((rows, 2), fill)
    config = {"vocab_size": rows, "text_config": {"vocab_size": rows}}
    return TensorWeights(tensors, f"m{fill:g}", config=config, aliases={} if head else {HEAD: EMBED})


def _padded(*models: Weights) -> list[Weights]:
    return list(padded({str(number): model for number, model in enumerate(models)}).values())


def test_position_embeddings_are_no_vocabulary() -> None:
    assert vocabulary_rows(_model(5, 0)) == {EMBED: 5, HEAD: 5}
    without_config = TensorWeights({EMBED: torch.ones(5, 2), WPE: torch.ones(7, 2)})
    assert vocabulary_rows(without_config) == {EMBED: 5}


@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4), head=st.booleans())
def test_each_missing_row_is_that_of_the_first_model_that_has_it(sizes: list[int], head: bool) -> None:
    models = [_model(size, float(i), head=head) for i, size in enumerate(sizes)]
    for model, size, wide in zip(models, sizes, _padded(*models), strict=True):
        for name in (EMBED, HEAD):
            rows = wide.read(name)
            assert tuple(rows.shape) == wide.info(name).shape == (max(sizes), 2)
            assert torch.equal(rows[:size], model.read(name))
            for row in range(size, max(sizes)):
                assert rows[row, 0] == next(i for i, other in enumerate(sizes) if other > row)
        for name in (WPE, LAYER.format(1)):
            assert torch.equal(wide.read(name), model.read(name))
        assert wide.config == {"vocab_size": max(sizes), "text_config": {"vocab_size": max(sizes)}}


@given(base=st.integers(1, 6), expert=st.integers(1, 6))
def test_the_delta_is_zero_where_a_row_was_filled_in(base: int, expert: int) -> None:
    wide_base, wide_expert = _padded(_model(base, 1.0), _model(expert, 4.0))
    delta = wide_expert.delta(EMBED, wide_base)
    assert delta is not None
    assert delta[:, 0].tolist() == [3.0 if row < min(base, expert) else 0.0 for row in range(max(base, expert))]
    assert torch.equal(delta, wide_expert.read(EMBED) - wide_base.read(EMBED))


def test_an_exact_delta_stays_exact() -> None:
    class Change(TensorWeights):
        def moves(self, name: str, base: Weights) -> bool:
            return name == EMBED

        def holds_change(self, base: Weights) -> bool:
            return True

        def delta_rows(self, name: str, base: Weights, start: int, stop: int) -> torch.Tensor | None:
            return torch.full((stop - start, 2), 1e-20) if name == EMBED else None

    base, longer = _model(3, 1.0), _model(5, 2.0)
    change = Change({name: base.read(name) for name in base.names()}, config=base.config)
    wide_base, wide_change, _ = _padded(base, change, longer)
    delta = wide_change.delta(EMBED, wide_base)
    assert delta is not None
    assert delta[:, 0].tolist() == pytest.approx([1e-20] * 3 + [0, 0], rel=1e-6, abs=0)
    assert wide_change.delta(HEAD, wide_base) is None


def test_the_fingerprint_is_the_models_own_until_rows_are_added() -> None:
    short, tall, taller = _model(3, 1.0), _model(5, 2.0), _model(5, 3.0)
    first, last = _padded(short, tall)
    assert last.fingerprint() == tall.fingerprint()
    assert len({first.fingerprint(), short.fingerprint(), _padded(short, taller)[0].fingerprint()}) == 3
