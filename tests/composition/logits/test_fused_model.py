"""A fusion asked as any language model is: written, forced and likely answers agree, alone and in batches."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_fused_network import RULES
from transformers import AutoTokenizer

from genepool.composition.logits.fused_model import FusedLanguageModel
from genepool.composition.logits.rules import Shifted
from genepool.errors import GenepoolError
from genepool.tasks import Decoding
from genepool.tasks.answers import Question
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.weights import open_weights
from tests.tasks.tiny_models import write_model

PROMPTS = ["ab=", "abcdef: 12", "g", "a b c d=", "hh", "12+34=", "fed"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LanguageModel]:
    place = tmp_path_factory.mktemp("models")
    return {
        "lead": LanguageModel.load(open_weights(write_model(place / "lead", seed=0))),
        "first": LanguageModel.load(open_weights(write_model(place / "first", seed=1))),
        "merging": LanguageModel.load(open_weights(write_model(place / "merging", seed=3, merging=True))),
    }


def fused(models: dict[str, LanguageModel], rule: str) -> FusedLanguageModel:
    return FusedLanguageModel(models["lead"], [models["first"], models["merging"]], RULES[rule](), "fused", "f" * 64)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["contrastive", "dynamic", "by shift"])
def test_what_is_written_alone_in_a_batch_and_read_at_once_agree(models: dict[str, LanguageModel], rule: str) -> None:
    model = fused(models, rule)
    decoding = Decoding(max_new_tokens=3)
    written = model.write(PROMPTS, PROMPTS, decoding)
    assert len({one.text for one in written}) > 1
    for prompt, one in zip(PROMPTS, written, strict=True):
        (alone,) = model.write([prompt], [prompt], decoding)
        assert alone.text == one.text
        assert alone.logprob == pytest.approx(one.logprob, abs=1e-3)


@pytest.mark.parametrize("rule", ["contrastive", "dynamic", "by shift"])
def test_an_answer_is_as_likely_however_it_is_asked(models: dict[str, LanguageModel], rule: str) -> None:
    model = fused(models, rule)
    answers = ["ab1", "c d", "e", "12", "h=", "fgh", "a"]
    likely = model.loglikelihoods(PROMPTS, answers)
    forced = model.forced_answers(PROMPTS, answers, Decoding(), False, 8)
    pairs = zip(PROMPTS, answers, strict=True)
    questions = [Question(str(at), prompt, answer) for at, (prompt, answer) in enumerate(pairs)]
    trained = {}
    for batch in model.answer_batches(questions):
        logs = model.answer_logits(batch).log_softmax(-1).gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1)
        trained |= {number: logs[batch.owners == at].sum().item() for at, number in enumerate(batch.numbers)}
    for at in range(len(PROMPTS)):
        (alone,) = model.loglikelihoods([PROMPTS[at]], [answers[at]])
        for found in (forced[at].logprob, alone.logprob, trained[at]):
            assert found == pytest.approx(likely[at].logprob, abs=1e-2)


@pytest.mark.slow
def test_choices_of_one_prompt_are_as_likely_together_as_alone(models: dict[str, LanguageModel]) -> None:
    model = fused(models, "dynamic")
    choices = ["ab", "c", "d e", "12"]
    together = model.loglikelihoods([PROMPTS[1]] * 4, choices)
    for choice, one in zip(choices, together, strict=True):
        (alone,) = model.loglikelihoods([PROMPTS[1]], [choice])
        assert one.logprob == pytest.approx(alone.logprob, abs=1e-2)


def test_it_takes_no_weights_and_shows_no_hidden_states(models: dict[str, LanguageModel]) -> None:
    model = fused(models, "shifted")
    assert (model.name, model.fingerprint) == ("fused", "f" * 64)
    for refused in (
        lambda: model.assign(open_weights(str(models["lead"].title))),
        lambda: model.hidden_states(["a"]),
        lambda: model.changing([]).__enter__(),
    ):
        with pytest.raises(GenepoolError):
            refused()


def test_a_prefix_stands_behind_the_token_that_begins_a_text(tmp_path: Path) -> None:
    """The skill reads one text, with one begin token, as it would alone."""
    from tokenizers.processors import TemplateProcessing

    models = []
    for seed in range(2):
        folder = write_model(tmp_path / str(seed), seed=seed)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        tokenizer.save_pretrained(folder)
        models.append(LanguageModel.load(open_weights(folder)))
    lead, skill = models
    assert lead.encode("a")[0] == 1
    model = FusedLanguageModel(lead, [skill], Shifted((1.0,), untuned=False), "fused", "f" * 64, prefix="ab+")
    decoding = Decoding(max_new_tokens=4)
    alone = skill.write([f"ab+{prompt}" for prompt in PROMPTS], PROMPTS, decoding)
    assert [one.text for one in model.write(PROMPTS, PROMPTS, decoding)] == [one.text for one in alone]


def test_there_is_room_for_what_the_smallest_model_reads(models: dict[str, LanguageModel], tmp_path: Path) -> None:
    short = LanguageModel.load(open_weights(write_model(tmp_path / "short", seed=1, max_position_embeddings=12)))
    model = FusedLanguageModel(models["lead"], [short], RULES["dynamic, one skill"](), "fused", "f" * 64, prefix="ab")
    assert model.context == 10
    with pytest.raises(GenepoolError, match="does not fit the context of 10"):
        model.write(["abcdefabcdef"], ["key"], Decoding())
