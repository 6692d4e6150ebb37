"""Adaptive decoding: what a chosen temperature does, what a head learns, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genepool.composition.adaptive.adaptive_model import AdaptiveLanguageModel
from genepool.composition.adaptive.preferences import ScoredAnswer, head_inputs, preferred_pairs, train_head
from genepool.composition.adaptive.tempered import Tempered
from genepool.tasks import Decoding
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.weights import open_weights
from tests.tasks.tiny_models import write_model

PROMPTS = ["ab=", "abcdef: 12", "g", "12+34="]
HEATS = (0.0, 0.5, 2.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return LanguageModel.load(open_weights(write_model(tmp_path_factory.mktemp("model") / "base")))


def adaptive(
    base: LanguageModel, bias: list[float], *, whole: bool = False, spread: float = 0
) -> AdaptiveLanguageModel:
    weight = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)) * spread
    return AdaptiveLanguageModel(
        base, weight, torch.tensor(bias), HEATS, whole=whole, name="adaptive", fingerprint="a" * 64
    )


@pytest.mark.parametrize(("bias", "heat"), [([0, 1, 0], 0.5), ([0, 0, 1], 2.0), ([1, 0, 0], 0.0)])
@pytest.mark.parametrize("whole", [False, True])
def test_a_head_that_always_chooses_one_draws_as_at_that_temperature(
    base: LanguageModel, bias: list[float], heat: float, whole: bool
) -> None:
    found = adaptive(base, bias, whole=whole).write(PROMPTS, PROMPTS, Decoding(6, temperature=1.0, seed=3))
    expected = base.write(PROMPTS, PROMPTS, Decoding(6, temperature=heat, seed=3))
    assert [one.text for one in found] == [one.text for one in expected]


def test_at_temperature_nothing_it_is_the_model_itself(base: LanguageModel) -> None:
    model = adaptive(base, [0, 0, 0], spread=1)
    found, expected = (one.write(PROMPTS, PROMPTS, Decoding(6)) for one in (model, base))
    assert [one.text for one in found] == [one.text for one in expected]


def test_tokens_choose_by_what_they_read_and_answers_keep_the_first_choice(base: LanguageModel) -> None:
    """Each place's logits are the model's divided by the likeliest temperature of the head there."""
    ids = torch.tensor([base.encode("abcdef: 12")])
    with torch.inference_mode():
        plain = base.model(input_ids=ids).logits[0]
        states = base.hidden_states(["abcdef: 12"])[0][-1]
        for whole in (False, True):
            model = adaptive(base, [0.3, 0, 0], whole=whole, spread=1)
            weight, bias = model.model.readers[1].weight, model.model.readers[1].bias
            chosen = (states @ weight.T + bias).argmax(-1).tolist()
            assert len(set(chosen)) > 1
            found = model.model(input_ids=ids, use_cache=False).logits[0]
            for place, own in enumerate(chosen):
                heat = HEATS[chosen[0] if whole else own]
                if heat:
                    assert torch.allclose(found[place], plain[place] / heat, atol=1e-4)
                else:
                    assert found[place].isfinite().sum() == 1
                    assert found[place].argmax() == plain[place].argmax()


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
def test_a_batch_draws_what_single_prompts_draw(base: LanguageModel, whole: bool) -> None:
    model, decoding = adaptive(base, [0, 0, 0], whole=whole, spread=1), Decoding(5, temperature=1.0)
    together = model.write(PROMPTS, PROMPTS, decoding)
    for prompt, one in zip(PROMPTS, together, strict=True):
        assert model.write([prompt], [prompt], decoding)[0].text == one.text


def test_a_rule_of_two_temperatures_by_hand() -> None:
    lead = torch.tensor([[1.0, 3.0], [1.0, 3.0]])
    scores = torch.tensor([[[2.0, 0.0], [0.0, 2.0]]])
    fused, state = Tempered((0.0, 2.0), whole=False).fuse(lead, scores, None)
    assert state is None
    assert fused.tolist() == [[float("-inf"), 0.0], [0.5, 1.5]]


def test_pairs_are_of_one_prompt_and_different_temperatures() -> None:
    answers = [
        ScoredAnswer(0, 0, "a", 1),
        ScoredAnswer(0, 1, "b", 0),
        ScoredAnswer(0, 0, "c", 0),
        ScoredAnswer(1, 1, "d", 0),
    ]
    assert preferred_pairs(answers, 0) == [(0, 1)]
    many = [ScoredAnswer(0, at % 2, "", float(at)) for at in range(20)]
    assert len(preferred_pairs(many, 0)) == 16
    assert preferred_pairs(many, 0) == preferred_pairs(many, 0)


def test_states_are_those_that_predict_the_texts_tokens(base: LanguageModel) -> None:
    found = head_inputs(base, ["ab=", "g"], ["cd", ""])
    assert [len(one) for one in found] == [2, 1]
    for row, (text, first) in enumerate((("ab=cd", 2), ("g", 0))):
        expected = base.hidden_states([text])[0][-1][first : first + len(found[row])]
        assert torch.allclose(found[row], expected, atol=1e-5)


def test_a_head_learns_which_prompts_want_which_temperature() -> None:
    """Two kinds of prompts, told apart by one number of the state: one is better cold, the other hot."""
    generator = torch.Generator().manual_seed(0)
    states, answers, pairs = [], [], []
    for prompt in range(20):
        kind = prompt % 2
        for heat in range(2):
            state = torch.randn(3, 4, generator=generator)
            state[:, 0] = 5.0 * kind + 2
            states.append(state)
            answers.append(ScoredAnswer(prompt, heat, "", float(heat == kind)))
        pairs.append((2 * prompt + kind, 2 * prompt + 1 - kind))
    weight, bias, losses = train_head(states, answers, pairs, 2, beta=1.0, steps=100, learning_rate=0.05)
    assert losses[-1] < losses[0] / 4
    for state, one in zip(states, answers, strict=True):
        assert (state @ weight.T + bias).argmax(-1).tolist() == [one.prompt % 2] * 3


# ---------------------------------------------------------------------- the command


@pytest.mark.slow
def test_composed_saved_and_asked(cli: Callable[..., Any], tmp_path: Path) -> None:
    write_model(tmp_path / "base", seed=0)
    skill = write_model(tmp_path / "skill", seed=1)
    task = tmp_path / "tasks" / "letters"
    task.mkdir(parents=True)
    rows = [{"id": str(at), "prompt": f"{at}=", "answer": "[a-h]"} for at in range(8)]
    for split in ("train", "valid", "test"):
        (task / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (task / "task.yaml").write_text("metric: regex\nmax_new_tokens: 1\n")
    call = ["compose", "adaptive_decoding", skill, "--base", tmp_path / "base", "--tasks", tmp_path / "tasks"]
    for level in ("token", "sequence"):
        out = tmp_path / level
        answer = cli(*call, "--out", out, "--set", f"level={level}", "--set", "steps=20", "--json")
        assert answer.code == 0, answer.err
        record = json.loads(answer.out)["record"]
        assert record["pairs"] > 0
        assert record["loss"][1] < record["loss"][0]
        assert set(record["score_by_temperature"]) == {"0", "0.2", "0.4", "0.6", "0.8", "1"}
        asked = cli("evaluate", out, "--tasks", tmp_path / "tasks", "--json")
        assert asked.code == 0, asked.err
        texts = [cli("generate", one, "--prompt", "3=", "--json").out for one in (out, skill)]
        assert len({json.loads(text)["results"][0]["output"] for text in texts}) == 1
    for setting, what in (("temperatures=[0.5,0.5]", "different numbers"), ("temperatures=[1]", "temperatures"),
                          ("level=word", "level")):  # fmt: skip
        answer = cli(*call, "--out", tmp_path / "bad", "--set", setting)
        assert answer.code == 2
        assert what in answer.err
