"""Several models as one of transformers': caches, padding, beams, assisted decoding, other vocabularies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genepool.composition.logits.fused_network import FusedCache, FusedForCausalLM
from genepool.composition.logits.readers import TextReader, TokenReader
from genepool.composition.logits.rules import DynamicFusion, FusionRule, Shifted, WeightedByShift
from genepool.composition.logits.vocabulary_map import VocabularyMap
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.weights import open_weights
from tests.tasks.tiny_models import write_model

RULES: dict[str, Callable[[], FusionRule]] = {
    "shifted": lambda: Shifted((0.7, 0.4), untuned=False),
    "untuned": lambda: Shifted((1.0,), untuned=True),
    "contrastive": lambda: Shifted((0.5, 0.5), untuned=False, share=0.1),
    "dynamic": lambda: DynamicFusion(2, untuned=False),
    "dynamic, one skill": lambda: DynamicFusion(1, untuned=True),
    "by shift": lambda: WeightedByShift(2, 0.1),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LanguageModel]:
    place = tmp_path_factory.mktemp("models")
    kinds: dict[str, dict[str, Any]] = {
        "lead": {"seed": 0},
        "first": {"seed": 1, "num_hidden_layers": 1},
        "second": {"seed": 2, "kind": "gpt2"},
        "merging": {"seed": 3, "merging": True},
    }
    return {name: LanguageModel.load(open_weights(write_model(place / name, **kind))) for name, kind in kinds.items()}


def reader(models: dict[str, LanguageModel], name: str, prefix: str = "") -> Any:
    lead, own = models["lead"], models[name]
    found = VocabularyMap.between(own.tokenizer, own.vocabulary_size, lead.tokenizer, lead.vocabulary_size)
    if found.one_to_one:
        return TokenReader(own.model, found, own.encode_whole(prefix) if prefix else ())
    return TextReader(own.model, found, own.tokenizer, lead.tokenizer, prefix=prefix)


def fused(models: dict[str, LanguageModel], rule: str, *, second: str = "second", prefix: str = "") -> FusedForCausalLM:
    network = FusedForCausalLM(
        reader(models, "lead"), [reader(models, "first", prefix), reader(models, second, prefix)], RULES[rule]()
    )
    return network.eval()


def left_padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


ROWS = [[4, 5, 6, 7, 8], [9, 10], [11, 4, 12]]


@torch.inference_mode()
def step_by_step(network: FusedForCausalLM, rows: list[list[int]], steps: int) -> torch.Tensor:
    """Greedy decoding of a padded batch by its cache: logits (rows, steps, vocabulary)."""
    ids, mask = left_padded(rows)
    cache, found = None, []
    for _ in range(steps):
        result = network(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = result.past_key_values
        found.append(result.logits[:, -1])
        ids = found[-1].argmax(-1, keepdim=True)
        mask = torch.cat([mask, torch.ones_like(ids)], 1)
    return torch.stack(found, 1)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    finite = one.isfinite()
    return bool((finite == other.isfinite()).all()) and torch.allclose(one[finite], other[finite], atol=2e-3)


@pytest.mark.parametrize("second", ["second", pytest.param("merging", marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", RULES)
def test_a_padded_batch_gives_every_row_what_it_gets_alone(
    models: dict[str, LanguageModel], rule: str, second: str
) -> None:
    network = fused(models, rule, second=second)
    together = step_by_step(network, ROWS, 5)
    for place, row in enumerate(ROWS):
        assert same(together[place], step_by_step(network, [row], 5)[0])


@pytest.mark.slow
@pytest.mark.parametrize("second", ["second", "merging"])
@pytest.mark.parametrize("prefix", ["", "ab:"])
@pytest.mark.parametrize("rule", RULES)
@torch.inference_mode()
def test_reading_an_answer_at_once_gives_what_writing_it_gives(
    models: dict[str, LanguageModel], rule: str, second: str, prefix: str
) -> None:
    network = fused(models, rule, second=second, prefix=prefix)
    written = step_by_step(network, ROWS, 4)
    whole = [row + logits.argmax(-1)[:-1].tolist() for row, logits in zip(ROWS, written, strict=True)]
    width = max(map(len, whole))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in whole])
    starts = torch.tensor([len(row) - 1 for row in ROWS])
    read = network(input_ids=ids, use_cache=False, answer_starts=starts).logits
    for place, row in enumerate(ROWS):
        assert same(read[place, len(row) - 1 : len(row) + 3], written[place])


def test_a_prefix_is_read_by_the_skills_alone(models: dict[str, LanguageModel]) -> None:
    """As a text before the prompt would be read by them."""
    network = fused(models, "shifted", prefix="ab:")
    row = ROWS[0]
    longer = models["first"].encode_whole("ab:") + row
    with torch.inference_mode():
        lead = models["lead"].model(torch.tensor([row])).logits[0, -1]
        skills = torch.stack([models[name].model(torch.tensor([longer])).logits[0, -1] for name in ("first", "second")])
    expected = lead + 0.7 * (skills[0] - lead) + 0.4 * (skills[1] - lead)
    # Logits say nothing by their constant.
    assert same(step_by_step(network, [row], 1)[0, 0].log_softmax(-1), expected.log_softmax(-1))


def test_the_fusion_of_a_model_with_nothing_is_the_model(models: dict[str, LanguageModel]) -> None:
    network = FusedForCausalLM(reader(models, "lead"), [], Shifted((), untuned=False)).eval()
    ids, mask = left_padded(ROWS)
    settings: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False}
    assert torch.equal(network.generate(ids, **settings), models["lead"].model.generate(ids, **settings))


@pytest.mark.parametrize("rule", RULES)
def test_generate_writes_what_steps_write(models: dict[str, LanguageModel], rule: str) -> None:
    network = fused(models, rule)
    ids, mask = left_padded(ROWS)
    written = network.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert torch.equal(written[:, ids.shape[1] :], step_by_step(network, ROWS, 5).argmax(-1))


@pytest.mark.slow
@pytest.mark.parametrize("second", ["second", "merging"])
@pytest.mark.parametrize("rule", RULES)
def test_beams_find_what_a_search_without_a_cache_finds(
    models: dict[str, LanguageModel], rule: str, second: str
) -> None:
    """A cache that was not reordered with its beams would answer for another row."""
    network = fused(models, rule, second=second)
    row, beams, steps = ROWS[0], 3, 4
    written = network.generate(
        torch.tensor([row]), num_beams=beams, max_new_tokens=steps, do_sample=False, eos_token_id=None
    )
    assert written[0].tolist() == row + _beam_search(network, row, beams, steps)


@torch.inference_mode()
def _beam_search(network: FusedForCausalLM, row: list[int], beams: int, steps: int) -> list[int]:
    kept: list[tuple[float, list[int]]] = [(0.0, [])]
    start = torch.tensor([len(row) - 1])
    for _ in range(steps):
        grown = []
        for score, written in kept:
            ids = torch.tensor([row + written])
            logits = network(input_ids=ids, use_cache=False, answer_starts=start).logits[0, -1]
            for share, token in zip(*logits.log_softmax(-1).topk(2 * beams), strict=True):
                grown.append((score + share.item(), [*written, int(token)]))
        kept = sorted(grown, key=lambda one: -one[0])[:beams]
    return kept[0][1]


@pytest.mark.slow
@pytest.mark.parametrize("second", ["second", "merging"])
@pytest.mark.parametrize("rule", RULES)
def test_assisted_decoding_writes_what_greedy_decoding_writes(
    models: dict[str, LanguageModel], rule: str, second: str
) -> None:
    """The assistant's refused tokens are cropped from every part of the cache, and from the rule's states."""
    network = fused(models, rule, second=second)
    ids = torch.tensor([ROWS[0]])
    settings: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    assistant = models["first"].model
    assert torch.equal(network.generate(ids, assistant_model=assistant, **settings), network.generate(ids, **settings))


@pytest.mark.slow
def test_sampling_draws_from_the_fused_chances(models: dict[str, LanguageModel]) -> None:
    network = fused(models, "dynamic")
    row = ROWS[1]
    chances = step_by_step(network, [row], 1)[0, 0].softmax(-1)
    torch.manual_seed(0)
    drawn = network.generate(
        torch.tensor([row]), do_sample=True, num_return_sequences=2000, max_new_tokens=1, top_k=0, eos_token_id=None
    )[:, -1]
    shares = torch.bincount(drawn, minlength=len(chances)) / 2000
    assert (shares - chances).abs().max() < 0.04


def test_rows_are_selected_and_repeated_in_every_part(models: dict[str, LanguageModel]) -> None:
    network = fused(models, "dynamic", second="merging")
    ids, mask = left_padded(ROWS)
    with torch.inference_mode():
        cache: FusedCache = network(input_ids=ids, attention_mask=mask, logits_to_keep=1).past_key_values
        cache.batch_repeat_interleave(2)
        assert cache.batch_size == 6
        cache.batch_select_indices(torch.tensor([4, 1]))
        new = torch.tensor([[5], [6]])
        read = torch.cat([mask[[2, 0]], torch.ones_like(new)], 1)
        found = network(input_ids=new, attention_mask=read, past_key_values=cache).logits[:, -1]
        for place, (row, token) in enumerate([(2, 5), (0, 6)]):
            alone = network(input_ids=torch.tensor([ROWS[row]]), logits_to_keep=1).past_key_values
            expected = network(input_ids=torch.tensor([[token]]), past_key_values=alone).logits[0, -1]
            assert same(found[place], expected)


def test_a_text_reader_predicts_as_its_model_does_after_the_text(
    models: dict[str, LanguageModel], tmp_path: Path
) -> None:
    """Whatever the leading model's tokens were, and although "ab" is one token of the other only once "b" is there."""
    lead, own = models["lead"], models["merging"]
    it = reader(models, "merging")
    network = FusedForCausalLM(reader(models, "lead"), [it], Shifted((1.0,), untuned=False)).eval()
    cache, text = None, ""
    for letter in "abcd 12":
        text += letter
        with torch.inference_mode():
            result = network(input_ids=torch.tensor([lead.encode_whole(letter)]), past_key_values=cache)
            cache = result.past_key_values
            expected = own.model(torch.tensor([own.encode_whole(text)])).logits[0, -1]
        mapped = it.vocabulary.mapped(expected)
        found, covered = result.logits[0, -1], mapped.isfinite()
        # Logits say nothing by their constant.
        assert torch.allclose(found[covered].log_softmax(-1), mapped[covered].log_softmax(-1), atol=1e-3)
