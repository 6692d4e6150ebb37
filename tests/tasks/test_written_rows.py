"""Rows that are written together: read in groups, alike prompts once, ended rows gone, and each answer its prompt's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import write_model, write_translator

from genepool.errors import InputError
from genepool.tasks import Decoding, LanguageModel, written_rows
from genepool.tasks.decoding import generate_tokens
from genepool.tasks.models import open_model
from genepool.weights import open_weights

KINDS: list[dict[str, Any]] = [
    {},
    {"kind": "gpt2"},
    {"kind": "gpt_neox"},
    {"kind": "mixtral", "sliding_window": 6},
]
# Of different lengths, two of them alike.
PROMPTS = ["ab=", "a", "1+2=3 cd", "ab=", "gh: hg 12", "0123456789abcdef", "b", "c d", "hhh", "=1"]
STOPS = ("1", "c", "f", "5", "h", "a")


@pytest.fixture(params=KINDS, ids=["llama", "gpt2", "gpt_neox", "sliding window"])
def model(request: Any, tiny_model: Callable[..., Path]) -> LanguageModel:
    return LanguageModel.load(open_weights(tiny_model("m", seed=3, **request.param)))


def alone(model: LanguageModel, head: list[int], decoding: Decoding) -> tuple[list[int], float]:
    """Greedy tokens and their likelihood by reading everything again for every token."""
    import torch

    found: list[int] = []
    total = 0.0
    with torch.inference_mode():
        while len(found) < decoding.max_new_tokens and len(head) + len(found) < model.context:
            logits = model.model(input_ids=torch.tensor([head + found]), use_cache=False).logits[0, -1].log_softmax(-1)
            token = int(logits.argmax())
            found.append(token)
            if token in model.end_tokens:
                break
            total += float(logits[token])
            if any(stop in model.decode(found) for stop in decoding.stop):
                break
    return found, total


@pytest.mark.parametrize("at_once", [1, 20, 10**6])
def test_each_row_is_written_as_if_it_were_alone(
    model: LanguageModel, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genepool.tasks import roomy_cache

    monkeypatch.setattr(written_rows, "_READ_AT_ONCE", at_once)
    # Room that is used up and made again several times.
    monkeypatch.setattr(roomy_cache, "_ROOM", 3)
    heads = [model.encode(prompt) for prompt in PROMPTS]
    decoding = Decoding(max_new_tokens=20, stop=STOPS)
    found = generate_tokens(model, heads, PROMPTS, decoding, 128)
    lengths = set()
    for one, head in zip(found, heads, strict=True):
        tokens, logprob = alone(model, head, decoding)
        assert list(one.tokens) == tokens
        assert one.logprob == pytest.approx(logprob, abs=1e-3)
        lengths.add(len(tokens))
    # Otherwise no row left before the others.
    assert len(lengths) > 1


def test_alike_prompts_are_read_once_and_ended_rows_are_not_read_any_more(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    watched = model.model.register_forward_pre_hook(
        lambda _, args, named: read.append(len(named["input_ids"])), with_kwargs=True
    )
    try:
        heads = [model.encode(prompt) for prompt in PROMPTS]
        assert model.keeps_keys_and_values
        read.clear()
        found = generate_tokens(model, heads, PROMPTS, Decoding(max_new_tokens=20, stop=STOPS), 128)
    finally:
        watched.remove()
    assert read[0] == len(PROMPTS) - 1
    assert read[1] <= len(PROMPTS)
    running = [sum(len(one.tokens) > step for one in found) for step in range(1, len(read))]
    assert all(0.75 * lines < going <= lines for lines, going in zip(read[1:], running, strict=True))
    assert read[-1] < len(PROMPTS)


@pytest.mark.parametrize("at_once", [1, 30, 10**6])
def test_what_all_prompts_begin_with_is_read_once_and_changes_no_answer(
    model: LanguageModel, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(written_rows, "_READ_AT_ONCE", at_once)
    monkeypatch.setattr(written_rows, "_WORTH_SHARING", 5)
    heads = [model.encode("12+34=46 " + prompt) for prompt in PROMPTS]
    read: list[int] = []
    watched = model.model.register_forward_pre_hook(
        lambda _, args, named: read.append(named["input_ids"].numel()), with_kwargs=True
    )
    decoding = Decoding(max_new_tokens=8, stop=STOPS)
    try:
        assert model.keeps_keys_and_values
        read.clear()
        found = generate_tokens(model, heads, PROMPTS, decoding, 128)
    finally:
        watched.remove()
    for one, head in zip(found, heads, strict=True):
        tokens, logprob = alone(model, head, decoding)
        assert list(one.tokens) == tokens
        assert one.logprob == pytest.approx(logprob, abs=1e-3)
    unique = set(map(tuple, heads))
    windows = getattr(model.model.config, "sliding_window", None)
    # The beginning has nine tokens and the one that begins a text, if there is one; with a window it is read again.
    begin = min(map(len, unique)) - 1
    assert read[0] == begin
    if at_once == 1:
        expected = [len(head) - (0 if windows else begin) for head in sorted(unique, key=len, reverse=True)]
        assert read[1 : 1 + len(unique)] == expected


def test_attention_that_is_written_out_sees_no_padding_in_float64(tiny_model: Callable[..., Path]) -> None:
    """The lowest number of float64 is minus infinity in float32, and shares of nothing but that are NaN."""
    model = LanguageModel.load(open_weights(tiny_model("m", seed=3)), dtype="float64")
    model.model.set_attn_implementation("eager")
    heads = [model.encode(prompt) for prompt in PROMPTS]
    decoding = Decoding(max_new_tokens=6)
    found = generate_tokens(model, heads, PROMPTS, decoding, 128)
    assert [list(one.tokens) for one in found] == [alone(model, head, decoding)[0] for head in heads]


def test_rows_that_a_network_turns_otherwise_are_written_apart(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """LongRoPE turns all keys of a batch by the longest row, so a short row beside a long one was read otherwise."""
    scaling = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "rope_theta": 1e4}
    scaling["original_max_position_embeddings"] = 12
    model = LanguageModel.load(open_weights(tiny_model("m", seed=3, rope_parameters=scaling)))
    prompts = ["ab=", "a", "0123456789abcdef", "gh: hg 12 abcd", "b", "hhh"]
    heads = [model.encode(prompt) for prompt in prompts]
    decoding = Decoding(max_new_tokens=6)
    assert model.turns_at == 12
    found = generate_tokens(model, heads, prompts, decoding, 128)
    expected = [alone(model, head, decoding)[0] for head in heads]
    assert [list(one.tokens) for one in found] == expected
    # Otherwise it would not matter here.
    monkeypatch.setattr(model, "turns_at", 10**9)
    mixed = generate_tokens(model, heads, prompts, decoding, 128)
    assert [list(one.tokens) for one in mixed] != expected


def test_drawn_answers_do_not_depend_on_the_rows_beside(model: LanguageModel) -> None:
    decoding = Decoding(max_new_tokens=12, temperature=1.2, top_p=0.9, seed=5, stop=("1",))
    together = model.write(PROMPTS, PROMPTS, decoding)
    apart = [model.write([prompt], [prompt], decoding)[0] for prompt in PROMPTS]
    assert [one.tokens for one in together] == [one.tokens for one in apart]


def test_the_rows_of_an_encoder_decoder_leave_too(tmp_path: Path) -> None:
    model: Any = open_model(write_translator(tmp_path / "m", seed=6)).load()
    read: list[int] = []
    watched = model.model.register_forward_pre_hook(
        lambda _, args, named: read.append(len(named["decoder_input_ids"])), with_kwargs=True
    )
    try:
        decoding = Decoding(max_new_tokens=12, stop=("1", "c", "a"))
        together = model.write(PROMPTS, PROMPTS, decoding)
        fewest = min(read)
        apart = [model.write([prompt], [prompt], decoding)[0] for prompt in PROMPTS]
    finally:
        watched.remove()
    assert [one.tokens for one in together] == [one.tokens for one in apart]
    assert fewest < len(PROMPTS)


def test_a_decoder_without_room_for_a_token_is_refused(tmp_path: Path) -> None:
    model: Any = open_model(write_translator(tmp_path / "m", kind="bart", max_position_embeddings=1)).load()
    with pytest.raises(InputError, match="no room for an answer in a context of 1"):
        model.write([""], ["a"], Decoding())


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    window=st.sampled_from([None, 2, 4, 50]),
    steps=st.lists(st.one_of(st.integers(1, 3), st.lists(st.integers(0, 3), min_size=1, max_size=3)), max_size=8),
    seed=st.integers(0, 99),
)
def test_a_roomy_cache_is_transformers_own(
    lengths: list[int], window: int | None, steps: list[int | list[int]], seed: int
) -> None:
    """Whatever is added and whichever rows stay, the network sees the keys and values it would have seen."""
    import torch
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    from genepool.tasks.roomy_cache import RoomyCache, is_plain

    chance = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Any:
        return torch.randn(*shape, generator=chance)

    def cache() -> Any:
        made = DynamicCache()
        made.layers = [DynamicLayer() if window is None else DynamicSlidingWindowLayer(window)]
        return made

    width = max(lengths)
    prompts = [drawn(2, 1, 2, length, 3) for length in lengths]
    theirs = cache()
    padded = torch.stack([torch.nn.functional.pad(one, (0, 0, width - one.shape[-2], 0)) for one in prompts])
    theirs.update(padded[:, 0, 0], padded[:, 1, 0], 0)
    ours = None
    for row, prompt in enumerate(prompts):
        part = cache()
        part.update(prompt[0], prompt[1], 0)
        assert is_plain(part)
        ours = RoomyCache(part, len(prompts), width) if ours is None else ours
        ours.put([(row, 0)], part)
    assert ours is not None
    rows = len(prompts)
    for step in steps:
        if isinstance(step, list):
            kept = torch.tensor([row % rows for row in step])
            rows = len(kept)
            theirs.batch_select_indices(kept)
            ours.batch_select_indices(kept)
            continue
        assert ours.get_mask_sizes(step, 0) == theirs.get_mask_sizes(step, 0)
        keys, values = drawn(rows, 2, step, 3), drawn(rows, 2, step, 3)
        for own, expected in zip(ours.update(keys, values, 0), theirs.update(keys, values, 0), strict=True):
            assert torch.equal(own, expected)
        assert ours.get_seq_length() == theirs.get_seq_length()
        assert torch.equal(ours.layers[0].keys, theirs.layers[0].keys)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text(alphabet="ab12=: ", max_size=8), max_size=12))
def test_many_texts_have_the_tokens_that_each_has_alone(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    weights = open_weights(write_model(tmp_path_factory.mktemp("closing"), closing=True))
    together, apart = LanguageModel.load(weights), LanguageModel.load(weights)
    assert together.encode_all(texts) == [apart.encode(text) for text in texts]
    # What was read ahead is what is found later.
    assert [together.encode_whole(text) for text in texts] == [apart.encode_whole(text) for text in texts]
