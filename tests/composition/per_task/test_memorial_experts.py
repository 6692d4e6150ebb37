"""TaskExpert's decoder and the tokens of a task by their definitions."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import gelu, layer_norm

from genepool.composition.per_task.memorial_experts import LayerFeatures, MemorialExperts
from genepool.composition.per_task.token_model import TaskTokenizers


def drawn(seed: int, rows: int, places: int) -> tuple[MemorialExperts, LayerFeatures]:
    torch.manual_seed(seed)
    decoder = MemorialExperts([4, 3], 2, 3, 5, 7)
    states = [[torch.randn(rows, places, width) for _ in range(2)] for width in (4, 3)]
    return decoder, LayerFeatures(states, torch.ones(rows, places, dtype=torch.bool))


@settings(max_examples=15)
@given(seed=st.integers(0, 999), task=st.integers(0, 2))
def test_experts_gates_and_memory_are_those_of_the_definition(seed: int, task: int) -> None:
    """For one input, written out place by place."""
    decoder, features = drawn(seed, 1, 3)
    token, memory = decoder.tokens[task], torch.zeros(3, 5)
    for layer in range(2):
        experts = [
            decoder.experts[layer][model](layer_norm(states[layer][0], states[layer].shape[-1:]))
            for model, states in enumerate(features.states)
        ]
        mean = (experts[0] + experts[1]) / 2
        scores = torch.stack([token @ decoder.keys[layer](mean[place]) / 5**0.5 for place in range(3)]).softmax(0)
        token = token + sum(scores[place] * decoder.values[layer](mean[place]) for place in range(3))
        gates = decoder.gates[layer](token).softmax(0)
        # The memory is read as one more expert, and written what was taken.
        taken = gates[0] * experts[0] + gates[1] * experts[1] + gates[2] * memory
        memory = memory + gelu(decoder.writes[layer](taken))
    expected = decoder.heads[task](decoder.norm(memory).mean(0))
    torch.testing.assert_close(decoder(features, task)[0], expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=15)
@given(seed=st.integers(0, 999), more=st.integers(1, 4))
def test_padding_and_other_rows_change_nothing(seed: int, more: int) -> None:
    decoder, features = drawn(seed, 3, 4)
    alone = decoder(features, 1)
    padded = [[torch.cat([one, torch.randn(3, more, one.shape[2])], 1) for one in layers] for layers in features.states]
    mask = torch.cat([features.mask, torch.zeros(3, more, dtype=torch.bool)], 1)
    torch.testing.assert_close(decoder(LayerFeatures(padded, mask), 1), alone, atol=1e-5, rtol=1e-5)
    row = LayerFeatures([[one[1:2] for one in layers] for layers in features.states], features.mask[1:2])
    torch.testing.assert_close(decoder(row, 1), alone[1:2], atol=1e-5, rtol=1e-5)


def test_every_task_has_a_tokenizer_of_its_own() -> None:
    torch.manual_seed(0)
    tokenizers = TaskTokenizers(4, 2, 3, 5)
    places = torch.randn(2, 6, 4)
    found = tokenizers(places, 1)
    assert found.shape == (2, 3, 4)
    for row in range(2):
        seen = nn.functional.layer_norm(places[row].mean(0), (4,))
        expected = tokenizers.outer[1](gelu(tokenizers.inner[1](seen))).view(3, 4)
        torch.testing.assert_close(found[row], expected)
    assert not torch.allclose(found, tokenizers(places, 0))
