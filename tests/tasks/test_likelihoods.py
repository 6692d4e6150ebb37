"""Likelihoods of continuations: read on top of a shared prompt or whole, in batches of any size, they are the same."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genepool.errors import InputError
from genepool.tasks import LanguageModel, Ledger, Task, TaskSettings, evaluate
from genepool.tasks.example import Example
from genepool.tasks.likelihoods import loglikelihoods, token_likelihoods
from genepool.weights import open_weights

KINDS: list[dict[str, Any]] = [
    {},
    {"merging": True},
    {"kind": "gpt2"},
    {"kind": "gpt_neox"},
    {"kind": "mixtral", "sliding_window": 6},
]


@pytest.fixture(params=KINDS, ids=["llama", "merges", "gpt2", "gpt_neox", "sliding window"])
def model(request: Any, tiny_model: Callable[..., Path]) -> LanguageModel:
    return LanguageModel.load(open_weights(tiny_model("m", seed=3, **request.param)))


def alone(model: LanguageModel, head: list[int], tail: list[int]) -> tuple[float, bool]:
    """The same by reading one prompt and continuation whole, with nothing beside them."""
    import torch

    with torch.inference_mode():
        logits = model.model(input_ids=torch.tensor([head + tail]), use_cache=False).logits[0].log_softmax(-1)
    places = range(len(head) - 1, len(head) + len(tail) - 1)
    total = sum(float(logits[place, token]) for place, token in zip(places, tail, strict=True))
    return total, all(int(logits[p].argmax()) == token for p, token in zip(places, tail, strict=True))


def drawn(seed: int, vocabulary: int) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts of 1 to 20 tokens with 1 to 6 continuations of 0 to 8 tokens each, shuffled."""
    chance = random.Random(seed)
    pairs = []
    for _ in range(9):
        head = [chance.randrange(4, vocabulary) for _ in range(chance.choice([1, 2, 5, 11, 20]))]
        lengths = [chance.choice([0, 1, 1, 2, 4, 8]) for _ in range(chance.randint(1, 6))]
        pairs += [(head, [chance.randrange(4, vocabulary) for _ in range(length)]) for length in lengths]
    chance.shuffle(pairs)
    return [list(head) for head, _ in pairs], [tail for _, tail in pairs]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_shared_prompt_changes_no_likelihood(model: LanguageModel, batch_size: int) -> None:
    assert model.keeps_keys_and_values
    for seed in range(3):
        heads, tails = drawn(seed, model.vocabulary_size)
        found = token_likelihoods(model, heads, tails, batch_size)
        for one, head, tail in zip(found, heads, tails, strict=True):
            expected, greedy = alone(model, head, tail)
            assert one.logprob == pytest.approx(expected, abs=2e-4)
            assert (one.greedy, one.tokens) == (greedy, len(tail))


def test_a_greedy_continuation_is_told(model: LanguageModel) -> None:
    import torch

    head = [5, 9, 7]
    row = torch.tensor([head])
    with torch.inference_mode():
        for _ in range(4):
            row = torch.cat([row, model.model(input_ids=row).logits[:, -1:].argmax(-1)], 1)
    best = row[0, 3:].tolist()
    other = [*best[:3], 4 + (best[3] == 4)]
    found = token_likelihoods(model, [head] * 3, [best, other, best[:1]], 8)
    assert [one.greedy for one in found] == [True, False, True]


def test_models_without_keys_and_values_are_read_whole(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    heads, tails = drawn(7, model.vocabulary_size)
    shared = token_likelihoods(model, heads, tails, 8)
    monkeypatch.setitem(model.__dict__, "keeps_keys_and_values", False)
    whole = token_likelihoods(model, heads, tails, 8)
    assert [one.logprob for one in whole] == pytest.approx([one.logprob for one in shared], abs=2e-4)


def test_what_is_too_long_is_refused(model: LanguageModel) -> None:
    with pytest.raises(InputError, match="does not fit the context of 40"):
        loglikelihoods(model, ["a" * 39, "a" * 39], ["ccccc", "ddddd"], 8)


def test_confidence_is_the_share_among_the_choices(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model = LanguageModel.load(open_weights(tiny_model("m", seed=5)))
    choices = ("a", "bc", "def")
    task = Task("t", {"all": [Example("0", "ab=", ("bc",), choices)]}, TaskSettings(metric="multiple_choice"))
    with Ledger(tmp_path / "l.sqlite") as ledger:
        (outcome,) = evaluate([model], [task], ledger=ledger).outcomes(model.name, "t")
    likelihoods = loglikelihoods(model, ["ab="] * 3, choices, 8)
    shares = [math.exp(one.logprob) for one in likelihoods]
    assert outcome.output == choices[shares.index(max(shares))]
    assert outcome.detail["confidence"] == pytest.approx(max(shares) / sum(shares), rel=1e-4)


def test_confidence_in_what_was_written(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """The likelihood of the tokens written, whether the answer was forced or decoded."""
    model = LanguageModel.load(open_weights(tiny_model("m", seed=5)))
    (text,) = model.generate(["ab="])
    examples = [Example("right", "ab=", (text,)), Example("wrong", "ab=", ("zz",))]
    for strip in (True, False):
        task = Task(f"t{strip}", {"all": examples}, TaskSettings(metric="exact_match", strip=strip))
        with Ledger(tmp_path / "l.sqlite") as ledger:
            right, wrong = evaluate([model], [task], ledger=ledger).outcomes(model.name, task.name)
        (likelihood,) = loglikelihoods(model, ["ab="], [text], 8)
        assert (right.output, wrong.output) == (text, text)
        assert right.detail["confidence"] == pytest.approx(math.exp(likelihood.logprob), rel=1e-3)
        assert wrong.detail["confidence"] == pytest.approx(math.exp(likelihood.logprob), rel=1e-3)


def test_a_large_task_is_committed_in_blocks(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stop loses of a task is at most one block: the rest is not asked again."""
    monkeypatch.setattr(sys.modules["genepool.tasks.evaluate"], "_COMMITTED", 4)
    model = LanguageModel.load(open_weights(tiny_model("m")))
    asked: list[str] = []

    def scorer(_: LanguageModel, example: Example) -> float:
        asked.append(example.id)
        if example.id == "9" and asked.count("9") == 1:
            raise KeyboardInterrupt
        return 1.0

    from genepool.tasks import callable_task

    task = callable_task("t", scorer, [{"id": str(i), "prompt": f"a{i}", "answer": "b"} for i in range(11)])
    with Ledger(tmp_path / "l.sqlite") as ledger:
        with pytest.raises(KeyboardInterrupt):
            evaluate([model], [task], ledger=ledger)
        evaluate([model], [task], ledger=ledger)
    assert asked == [str(i) for i in [*range(10), 8, 9, 10]]
