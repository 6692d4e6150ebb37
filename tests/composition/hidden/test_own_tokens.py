"""CALM across tokenizers: each place sees what the other tokenizer makes of the text up to there, and nothing later."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.composition.hidden.augmenting import OwnTokens
from genepool.composition.logits.readers import ReadTokens
from genepool.composition.steering.layers import decoder_layers
from genepool.errors import InputError
from genepool.tasks import Decoding, open_model
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.weights import open_weights
from tests.tasks.tiny_models import CHARACTERS, write_model

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LanguageModel]:
    place = tmp_path_factory.mktemp("models")
    made = {
        "characters": write_model(place / "characters"),
        "merging": write_model(place / "merging", seed=3, merging=True),
        "merging, gpt2": write_model(place / "gpt2", seed=4, merging=True, kind="gpt2"),
    }
    return {name: LanguageModel.load(open_weights(folder)) for name, folder in made.items()}


def beside(models: dict[str, LanguageModel], name: str, lead: str) -> OwnTokens:
    other = models[name]
    layers = decoder_layers(other.model, "")
    return OwnTokens(other.model, other.tokenizer, models[lead].tokenizer, layers, name, other.context)


def what_is_seen(found: Any, row: int, place: int) -> torch.Tensor:
    """The last layer's states that a place sees, in the order of the text."""
    states, seen, _ = found
    return states[max(states)][row, seen[row, place]]


@torch.no_grad()
def read_alone(model: LanguageModel, text: str) -> torch.Tensor:
    """The last layer's states of a text as its own tokenizer cuts it."""
    ids = torch.tensor([model.tokenizer(text).input_ids or [model.tokenizer.bos_token_id]])
    states: list[torch.Tensor] = []
    handle = decoder_layers(model.model, "")[-1].register_forward_hook(
        lambda _m, _i, output: states.append(output[0] if isinstance(output, tuple) else output)
    )
    try:
        model.model(input_ids=ids)
    finally:
        handle.remove()
    return states[0].reshape(-1, states[0].shape[-1])


@pytest.mark.parametrize("name", ["merging", "merging, gpt2"])
@settings(max_examples=12, deadline=None)
@given(texts=st.lists(st.text("ab cd12\n", min_size=1, max_size=9), min_size=1, max_size=3))
def test_a_place_sees_the_text_up_to_there_as_the_other_tokenizer_cuts_it(
    models: dict[str, LanguageModel], name: str, texts: list[str]
) -> None:
    """Whole rows at once, padded: the states are those of the text read alone, branch after branch."""
    lead, other = models["characters"], models[name]
    rows = [lead.tokenizer(text).input_ids for text in texts]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    found = beside(models, name, "characters").read(ReadTokens(ids, mask, None), None, True)
    for row, text in enumerate(texts):
        for end in range(1, len(text) + 1):
            expected = read_alone(other, text[:end])
            seen = what_is_seen(found, row, width - len(text) + end - 1)
            torch.testing.assert_close(seen, expected, atol=1e-3, rtol=1e-3)


def test_tokens_that_no_longer_count_are_a_branch(models: dict[str, LanguageModel]) -> None:
    """a, ab, abc and abcd are [a], [ab], [ab, c] and [abcd]: four are read, and the last place sees the last one."""
    lead = models["characters"]
    ids = torch.tensor([lead.tokenizer("abcd").input_ids])
    reader = beside(models, "merging", "characters")
    states, seen, trace = reader.read(ReadTokens(ids, None, None), None, True)
    assert seen[0].sum(-1).tolist() == [1, 1, 2, 1]
    assert states[0].shape[1] == seen.shape[2] == 4
    assert trace.path[0] == [3]
    # A token later the text goes on from it.
    more = torch.tensor([lead.tokenizer("a").input_ids])
    _, seen, trace = reader.read(ReadTokens(more, torch.ones(1, 5), None, 4), trace, True)
    assert seen[0].tolist() == [[False, False, False, True, True]]


def test_read_by_pieces_and_taken_back_is_read_at_once(models: dict[str, LanguageModel]) -> None:
    lead = models["characters"]
    whole = torch.tensor([lead.tokenizer("ab cdab12").input_ids])
    reader = beside(models, "merging", "characters")
    expected = reader.read(ReadTokens(whole, None, None), None, True)
    _, _, trace = reader.read(ReadTokens(whole[:, :4], None, None), None, True)
    wrong = torch.tensor([lead.tokenizer("12").input_ids])
    _, _, trace = reader.read(ReadTokens(wrong, torch.ones(1, 6), None, 4), trace, True)
    trace.crop(2)
    for at in range(4, whole.shape[1]):
        found = reader.read(ReadTokens(whole[:, at : at + 1], torch.ones(1, at + 1), None, at), trace, True)
        trace = found[2]
    # What the last place sees lies in several pieces of the cache; its own new states are those of one reading.
    last = found[0][1][0, -1]
    at_once = what_is_seen(expected, 0, whole.shape[1] - 1)[-1]
    torch.testing.assert_close(last, at_once, atol=1e-3, rtol=1e-3)
    assert int(found[1].sum()) == int(expected[1][0, -1].sum())


def test_a_character_of_several_tokens_is_seen_when_it_is_whole(models: dict[str, LanguageModel]) -> None:
    """The anchor writes bytes, and the other model reads characters: half of one is not read."""
    lead = models["merging"]
    ids = lead.tokenizer("aé").input_ids
    assert len(ids) == 3
    reader = beside(models, "characters", "merging")
    _, seen, trace = reader.read(ReadTokens(torch.tensor([ids]), None, None), None, True)
    assert seen[0].sum(-1).tolist() == [1, 1, 2]
    assert trace.own[0] == models["characters"].tokenizer("aé").input_ids


def test_models_that_take_no_such_mask_are_refused(models: dict[str, LanguageModel], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, MistralConfig

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(CHARACTERS) + 4, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=4,
    )  # fmt: skip
    network = AutoModelForCausalLM.from_config(config)
    lead = models["merging"].tokenizer
    with pytest.raises(InputError, match="cannot be told for each token which ones it sees") as refused:
        OwnTokens(network, models["characters"].tokenizer, lead, decoder_layers(network, ""), "short", 40)
    assert refused.value.where == "short"

    class Blind(torch.nn.Module):
        """Hides nothing, whatever it is told."""

        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner, self.config = inner, inner.config

        def forward(self, attention_mask: torch.Tensor, **named: Any) -> Any:
            return self.inner(**named)

    blind = Blind(models["characters"].model)
    with pytest.raises(InputError, match="cannot be told"):
        OwnTokens(blind, models["characters"].tokenizer, lead, decoder_layers(blind.inner, ""), "blind", 40)


@pytest.fixture(scope="module")
def composed(text_bed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CALM of the text bed's base and a model with another tokenizer, as it is typed."""
    from genepool.cli.main import run

    place = tmp_path_factory.mktemp("calm")
    other = write_model(place / "other", seed=3, merging=True)
    line = [
        "compose", "calm", other, "--base", text_bed / "base", "--tasks", text_bed / "tasks", "--examples", 8, "--out",
        place / "out", "-q", "--set", "steps=6", "--set", "every=3", "--set", "batch=4", "--set", "learning_rate=0.03",
    ]  # fmt: skip
    assert run([str(word) for word in line]) == 0
    return place / "out"


@pytest.mark.slow
def test_it_learns_is_saved_and_writes_by_its_cache(cli: Cli, composed: Path, text_bed: Path) -> None:
    record = json.loads((composed / "composition.json").read_text())["record"]
    looks = dict(record["held_out"])
    assert min(looks.values()) < looks[0]
    model: Any = open_model(composed).load()
    prompts = ["abcd=", "fgh=", "ab cd="]
    written = [one.text for one in model.write(prompts, prompts, Decoding(max_new_tokens=4), 3)]
    for prompt, text in zip(prompts, written, strict=True):
        ids = list(model.encode(prompt))
        start = len(ids)
        with torch.inference_mode():
            for _ in range(4):
                ids.append(int(model.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
                if ids[-1] in model.end_tokens:
                    ids.pop()
                    break
        assert model.decode(ids[start:]) == text
    ids = torch.tensor([list(model.encode("abcd="))])
    beams = {"num_beams": 3, "max_new_tokens": 4, "do_sample": False}
    cached, anew = (model.model.generate(ids, use_cache=use, **beams) for use in (True, False))
    assert torch.equal(cached, anew)
    assert cli("evaluate", composed, "--tasks", text_bed / "tasks", "--limit", 4).code == 0


@pytest.mark.slow
def test_streams_need_one_tokenizer(cli: Cli, text_bed: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", seed=3, merging=True)
    answer = cli(
        "compose", "x_cross", other, text_bed / "lora" / "one", "--base", text_bed / "base", "--tasks",
        text_bed / "tasks", "--examples", 4, "--out", tmp_path / "out",
    )  # fmt: skip
    assert answer.code == 2
    assert "has other tokens than" in answer.err
    assert answer.err.count("error: ") == 1
    assert not (tmp_path / "out").exists()
