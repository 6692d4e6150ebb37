"""Models that exchange hidden states as one of transformers': padding, caches, beams, assisted decoding, causality."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genepool.composition.hidden.augmented import AugmentedReader
from genepool.composition.hidden.augmenting import Augmenting, OwnTokens, SameTokens
from genepool.composition.hidden.cross_attention import Connection, spaced
from genepool.composition.hidden.crossed import CrossedReader
from genepool.composition.hidden.exchanging_model import ExchangingLanguageModel, readers_of
from genepool.composition.hidden.stream_gates import StreamGates
from genepool.composition.steering.layers import decoder_layers
from genepool.errors import InputError
from genepool.tasks import Decoding
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.weights import open_weights
from tests.tasks.tiny_models import write_model

KINDS = ("calm", "calm, own tokens", "x_cross")
ROWS = [[4, 5, 6, 7, 8], [9, 10], [11, 4, 12]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LanguageModel]:
    place = tmp_path_factory.mktemp("models")
    made = {
        "lead": write_model(place / "lead", seed=0),
        "like": write_model(place / "like", seed=1),
        "wider": write_model(place / "wider", seed=2, kind="gpt2", n_embd=24, n_layer=3, n_head=3),
        "merging": write_model(place / "merging", seed=3, merging=True),
    }
    return {name: LanguageModel.load(open_weights(folder)) for name, folder in made.items()}


def exchanging(models: dict[str, LanguageModel], kind: str, *, fresh: bool = False) -> ExchangingLanguageModel:
    lead = models["lead"]
    torch.manual_seed(7)
    if kind.startswith("calm"):
        other = models["wider" if kind == "calm" else "merging"]
        layers = decoder_layers(lead.model, ""), decoder_layers(other.model, "")
        connections = torch.nn.ModuleList(Connection(16, 24 if kind == "calm" else 16) for _ in range(2))
        for one in connections:
            one.heads = 2
        beside: Augmenting
        if kind == "calm":
            beside = SameTokens(readers_of(lead, [other], "calm")[1], layers[1])
        else:
            beside = OwnTokens(other.model, other.tokenizer, lead.tokenizer, layers[1], "merging", other.context)
        places = list(zip(spaced(2, 2), spaced(len(layers[1]), 2), strict=True))
        reader = AugmentedReader(readers_of(lead, [], "calm")[0], beside, layers[0], list(connections), places)
        found = ExchangingLanguageModel(lead, [other], reader, connections, "calm", "")
    else:
        other = models["like"]
        gates = StreamGates(2, 16, 2)
        layers = decoder_layers(lead.model, ""), decoder_layers(other.model, "")
        crossed = CrossedReader(readers_of(lead, [other], "x_cross"), layers, gates)
        found = ExchangingLanguageModel(lead, [other], crossed, gates, "x_cross", "")
    if not fresh:
        for parameter in found.model.connections.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return found


def left_padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


@torch.inference_mode()
def step_by_step(network: torch.nn.Module, rows: list[list[int]], steps: int) -> torch.Tensor:
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


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_modules_change_nothing(models: dict[str, LanguageModel], kind: str) -> None:
    """CALM starts as the anchor to the bit, and X-Cross as the mean of its sources' predictions."""
    ids = torch.tensor([ROWS[0]])
    with torch.inference_mode():
        found = exchanging(models, kind, fresh=True).model(ids, use_cache=False).logits
        lead, like = (models[name].model(ids).logits for name in ("lead", "like"))
    if kind.startswith("calm"):
        assert torch.equal(found, lead)
    else:
        torch.testing.assert_close(found, (lead + like) / 2)


def test_one_source_with_zero_gates_is_that_source(models: dict[str, LanguageModel]) -> None:
    lead = models["lead"]
    reader = CrossedReader(readers_of(lead, [], "x_cross"), [decoder_layers(lead.model, "")], StreamGates(1, 16, 2))
    model = ExchangingLanguageModel(lead, [], reader, torch.nn.Module(), "one", "")
    ids, mask = left_padded(ROWS)
    with torch.inference_mode():
        found = model.model(ids, attention_mask=mask).logits
        expected = lead.model(ids, attention_mask=mask).logits
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_batch_gives_every_row_what_it_gets_alone(models: dict[str, LanguageModel], kind: str) -> None:
    network = exchanging(models, kind).model
    together = step_by_step(network, ROWS, 5)
    assert not torch.allclose(together, step_by_step(models["lead"].model, ROWS, 5), atol=1e-2)
    for place, row in enumerate(ROWS):
        torch.testing.assert_close(together[place], step_by_step(network, [row], 5)[0], atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_decoding_with_a_cache_is_decoding_without(models: dict[str, LanguageModel], kind: str) -> None:
    network = exchanging(models, kind).model
    written = step_by_step(network, ROWS, 4)
    for row, logits in zip(ROWS, written, strict=True):
        whole = row + logits.argmax(-1)[:-1].tolist()
        read = network(input_ids=torch.tensor([whole]), use_cache=False).logits[0, len(row) - 1 :]
        torch.testing.assert_close(read, logits, atol=2e-3, rtol=1e-3)
    ids, mask = left_padded(ROWS)
    settings = {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    assert torch.equal(network.generate(ids, **settings)[:, ids.shape[1] :], written.argmax(-1))


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_no_place_sees_what_comes_later(models: dict[str, LanguageModel], kind: str) -> None:
    network = exchanging(models, kind).model
    one, other = (network(torch.tensor([row]), use_cache=False).logits[0] for row in ([4, 5, 6, 7], [4, 5, 9, 9]))
    if kind == "calm, own tokens":
        # Other places stand between: sums are the same, their rounding is not.
        torch.testing.assert_close(one[:2], other[:2], atol=1e-4, rtol=1e-4)
    else:
        assert torch.equal(one[:2], other[:2])
    assert not torch.allclose(one[2:], other[2:])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_selected_repeated_and_cropped_in_every_part(models: dict[str, LanguageModel], kind: str) -> None:
    network = exchanging(models, kind).model
    ids, mask = left_padded(ROWS)
    with torch.inference_mode():
        cache = network(input_ids=ids, attention_mask=mask, logits_to_keep=1).past_key_values
        more = torch.full((3, 2), 6)
        grown = torch.cat([mask, torch.ones_like(more)], 1)
        network(input_ids=more, attention_mask=grown, past_key_values=cache)
        cache.crop(-2)
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([4, 1]))
        new = torch.tensor([[5], [6]])
        read = torch.cat([mask[[2, 0]], torch.ones_like(new)], 1)
        found = network(input_ids=new, attention_mask=read, past_key_values=cache).logits[:, -1]
        for place, (row, token) in enumerate([(2, 5), (0, 6)]):
            expected = network(torch.tensor([[*ROWS[row], token]]), use_cache=False).logits[0, -1]
            torch.testing.assert_close(found[place], expected, atol=2e-3, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_assisted_decoding_writes_what_greedy_decoding_writes(models: dict[str, LanguageModel], kind: str) -> None:
    network = exchanging(models, kind).model
    ids = torch.tensor([ROWS[0]])
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    assistant = models["like"].model
    assert torch.equal(network.generate(ids, assistant_model=assistant, **settings), network.generate(ids, **settings))


@pytest.mark.parametrize("kind", KINDS)
def test_tasks_ask_many_prompts_as_they_ask_each(models: dict[str, LanguageModel], kind: str) -> None:
    model = exchanging(models, kind)
    prompts, answers = ["abc=", "fg=", "a="], ["cba", "gf", "ha"]
    written = model.write(prompts, prompts, Decoding(max_new_tokens=3))
    read = model.loglikelihoods(prompts, answers)
    forced = model.forced_answers(prompts, answers, Decoding(max_new_tokens=3), True, 128)
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        assert model.write([prompt], [prompt], Decoding(max_new_tokens=3))[0].text == written[number].text
        alone = model.loglikelihoods([prompt], [answer])[0].logprob
        assert read[number].logprob == pytest.approx(alone, abs=1e-3)
        assert forced[number].logprob == pytest.approx(alone, abs=1e-3)
    assert model.context == 40


def test_other_tokens_are_refused_where_streams_share_places(models: dict[str, LanguageModel]) -> None:
    with pytest.raises(InputError, match="has other tokens than"):
        readers_of(models["lead"], [models["merging"]], "x_cross")


def test_the_modules_are_what_learns(models: dict[str, LanguageModel], tmp_path: Path) -> None:
    """Gradients reach all of them once they are away from zero, and nothing of the models."""
    for kind in KINDS:
        model = exchanging(models, kind)
        model.model.requires_grad_(False)
        model.model.connections.requires_grad_(True)
        model.model(torch.tensor([ROWS[0]]), use_cache=False).logits.logsumexp(-1).sum().backward()
        assert all(one.grad is not None and bool(one.grad.any()) for one in model.model.connections.parameters())
        assert all(one.grad is None for one in model.model.networks.parameters())
