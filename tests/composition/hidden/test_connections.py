"""CALM's connections and X-Cross's gates by their definitions, and networks that wait for each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from genepool.composition.hidden.cross_attention import Connection, seen_places, spaced
from genepool.composition.hidden.lockstep import in_lockstep
from genepool.composition.hidden.stream_gates import StreamGates


@settings(max_examples=20)
@given(seed=st.integers(0, 999), heads=st.sampled_from([1, 2, 4]), other=st.integers(3, 9))
def test_a_connection_is_multi_head_attention_behind_an_rms_norm(seed: int, heads: int, other: int) -> None:
    """Held against torch's own attention with the same matrices."""
    torch.manual_seed(seed)
    own = Connection(8, other)
    own.heads = heads
    nn.init.normal_(own.gain)
    theirs = nn.MultiheadAttention(8, heads, batch_first=True)
    norm = nn.RMSNorm(8, eps=1e-6)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([own.query.weight, own.key.weight, own.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([own.query.bias, own.key.bias, own.value.bias]))
        theirs.out_proj.load_state_dict(own.out.state_dict())
        norm.weight.copy_(own.gain)
    states, given_states = torch.randn(2, 5, 8), torch.randn(2, 5, other)
    seen = seen_places(torch.tensor([[1] * 5, [0, 0, 1, 1, 1]]), 5)
    memory = own.project(given_states)
    mask = ~seen.repeat_interleave(heads, 0)
    expected = states + norm(theirs(states, memory, memory, attn_mask=mask, need_weights=False)[0])
    found = own(states, own.projected(given_states), seen)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_fresh_connection_changes_nothing() -> None:
    one = Connection(4, 3)
    states = torch.randn(1, 2, 4)
    assert torch.equal(one(states, one.projected(torch.randn(1, 2, 3)), seen_places(torch.ones(1, 2), 2)), states)


def test_places_see_those_before_them_that_are_no_padding() -> None:
    seen = seen_places(torch.tensor([[1, 1, 1], [0, 1, 1]]), 3).int().tolist()
    assert seen == [[[1, 0, 0], [1, 1, 0], [1, 1, 1]], [[1, 0, 0], [0, 1, 0], [0, 1, 1]]]
    assert seen_places(torch.tensor([[0, 1, 1, 1]]), 1).int().tolist() == [[[0, 1, 1, 1]]]


def test_layers_are_evenly_spaced_and_the_last_is_one_of_them() -> None:
    assert spaced(12, 2) == [5, 11]
    assert spaced(12, 3) == [3, 7, 11]
    assert spaced(2, 2) == [0, 1]
    assert spaced(5, 2) == [2, 4]


@settings(max_examples=20)
@given(seed=st.integers(0, 999), sources=st.integers(1, 3))
def test_streams_take_of_each_other_what_the_formula_says(seed: int, sources: int) -> None:
    torch.manual_seed(seed)
    gates = StreamGates(sources, 4, 1)
    streams = [torch.randn(2, 3, 4) for _ in range(sources)]
    assert all(torch.equal(a, b) for a, b in zip(gates.exchanged(0, streams), streams, strict=True))
    nn.init.normal_(gates.maps[0].weight)
    nn.init.normal_(gates.maps[0].bias)
    nn.init.normal_(gates.scores)
    found = gates.exchanged(0, streams)
    for row in range(2):
        for place in range(3):
            at = [one[row, place] for one in streams]
            g = (gates.maps[0].weight @ torch.cat(at) + gates.maps[0].bias).view(sources, sources)
            for i in range(sources):
                expected = at[i] + sum(g[i, j] * (at[j] - at[i]) for j in range(sources))
                torch.testing.assert_close(found[i][row, place], expected, atol=1e-4, rtol=1e-4)
    # An output layer that all share gives the prediction of the averaged states.
    head = nn.Linear(4, 7)
    shares = gates.scores.softmax(0)
    whole = head(sum(share * one for share, one in zip(shares, streams, strict=True)))
    torch.testing.assert_close(gates.averaged([head(one) for one in streams]), whole, atol=1e-5, rtol=1e-5)


def stack(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))


def test_networks_in_lockstep_exchange_what_each_layer_gave() -> None:
    networks = [stack(seed) for seed in range(3)]
    inputs = [torch.randn(2, 3) for _ in networks]

    def mean(_number: int, states: list[torch.Tensor]) -> list[torch.Tensor]:
        return [torch.stack(states).mean(0)] * len(states)

    calls = [lambda one=one, x=x: one(x) for one, x in zip(networks, inputs, strict=True)]
    for _ in range(3):
        found = in_lockstep(calls, [list(one) for one in networks], mean)
        first = torch.stack([one[0](x) for one, x in zip(networks, inputs, strict=True)]).mean(0)
        expected = torch.stack([one[1](first) for one in networks]).mean(0)
        for one in found:
            torch.testing.assert_close(one, expected)
    found[0].sum().backward()
    assert all(one[0].weight.grad is not None for one in networks)
    with torch.inference_mode():
        assert in_lockstep(calls, [list(one) for one in networks], mean)[0].is_inference()
    # Nobody is left with a hook.
    torch.testing.assert_close(networks[0](inputs[0]), networks[0][1](networks[0][0](inputs[0])))


def test_what_fails_in_one_network_or_between_them_is_what_is_raised() -> None:
    networks = [stack(seed) for seed in range(2)]
    fine = lambda: networks[0](torch.randn(1, 3))  # noqa: E731
    layers = [list(one) for one in networks]
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        in_lockstep([fine, lambda: networks[1](torch.randn(1, 5))], layers, lambda _, states: states)

    def broken(_number: int, _states: list[torch.Tensor]) -> list[torch.Tensor]:
        raise ValueError("between them")

    with pytest.raises(ValueError, match="between them"):
        in_lockstep([fine, lambda: networks[1](torch.randn(1, 3))], layers, broken)
