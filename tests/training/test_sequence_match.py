"""SequenceMatch: its losses by hand, the ways of a step, decoding with a backspace, and the command that is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import write_model
from training_runs import QUICK, result_bytes, rows, told

from genepool.errors import InputError
from genepool.tasks import open_model, taking_back
from genepool.tasks.decoding import Decoding
from genepool.training import Training, find_objective
from genepool.training import run as running
from genepool.training.objectives.sequence_match import SequenceMatch, Transitions
from genepool.training.opened_training import OpenedTraining
from genepool.training.session import Session
from genepool.weights.control import CONTROL_FILE, Control


def sequence_match(**options: Any) -> SequenceMatch:
    found = find_objective("sequence_match", options)
    assert isinstance(found, SequenceMatch)
    return found


@given(values=st.lists(st.floats(-20, 20), min_size=2, max_size=6), gamma=st.floats(0.5, 0.999))
def test_the_values_of_a_way_add_up_to_that_of_its_prompt(values: list[float], gamma: float) -> None:
    before = torch.tensor(values, dtype=torch.float64)
    after = torch.cat([before[1:], before[-1:]])
    discounts = gamma ** torch.arange(len(values), dtype=torch.float64)
    discounts[-1] /= 1 - gamma  # the last state is the one behind the end, where every way stays
    steps = Transitions(torch.zeros_like(before), before, after, discounts)
    assert float(sequence_match(gamma=gamma).own_losses(steps).sum()) == pytest.approx(values[0] / 2, abs=1e-6)


def test_an_offset_of_all_logits_hardly_counts() -> None:
    """What a model's probabilities do not depend on: an end of value 0 would ask for the offsets of a whole answer."""
    logs = torch.tensor([-0.1, -0.2, 0.0])
    found = []
    for offset in (0.0, 10.0):
        values = torch.full((3,), offset)
        discounts = 0.99 ** torch.arange(3.0)
        discounts[-1] /= 1 - 0.99
        steps = Transitions(logs + values, values, values, discounts)
        objective = sequence_match()
        found.append(float(objective.data_losses(steps).sum() + objective.own_losses(steps).sum()))
    assert abs(found[1] - found[0]) < 0.5


def test_the_losses_of_data_by_hand() -> None:
    steps = Transitions(*torch.tensor([[3.0, 1.0], [3.5, 2.0], [2.0, 0.0], [1.0, 0.9]]))
    found = sequence_match(gamma=0.9, alpha=2).data_losses(steps)
    rewards = [3 - 0.9 * 2, 1.0]
    expected = [
        -(rewards[0] - rewards[0] ** 2 / 8) + (3.5 - 1.8) / 2,
        0.9 * (-(rewards[1] - rewards[1] ** 2 / 8) + 1.0),
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_a_reward_of_data_is_raised_up_to_twice_alpha() -> None:
    """phi rises up to x = 2 alpha and falls behind it: what is certain is pushed no further."""
    for chosen, sign in ((1.0, -1), (3.9, -1), (4.1, 1)):
        logit = torch.tensor([chosen], requires_grad=True)
        steps = Transitions(logit, torch.zeros(1), torch.zeros(1), torch.ones(1))
        (slope,) = torch.autograd.grad(sequence_match(alpha=2).data_losses(steps).sum(), logit)
        assert float(slope) * sign > 0


def session(world: Path, options: dict[str, Any]) -> Session:
    recipe = Training(
        base=str(world / "base"), tasks=(str(world / "tasks" / "first"),), objective="sequence_match", options=options,
        steps=4, batch=16,
    )  # fmt: skip
    opened = OpenedTraining.open(recipe, others=False)
    model: Any = open_model(opened.base).load()
    return Session(recipe, model, opened.base, opened.lessons)


def test_the_steps_of_a_way_are_what_the_model_thinks_of_each_state(small_world: Path) -> None:
    one = session(small_world, {"backspace": "+", "mistakes": 1, "gamma": 0.5})
    trainer: Any = one.trainer
    model: Any = one.model
    ways = trainer._given(trainer.lessons.at(0, 6), 0)
    assert all(way.ended and not way.own and way.mistake is not None for way in ways)
    back = model.control_tokens("+")[0]

    def behind(tokens: Any) -> torch.Tensor:
        logits: torch.Tensor = model.model(input_ids=torch.tensor([list(tokens)])).logits[0, -1]
        return logits

    with torch.no_grad():
        logits = trainer._logits([(way.head, way.tokens) for way in ways])
        for way, found in zip(ways, logits, strict=True):
            at, wrong = way.mistake
            assert wrong not in (back, way.tokens[at], *model.end_tokens)
            states = [behind([*way.head, *way.tokens[:n]]) for n in range(len(way.tokens))]
            slip = behind([*way.head, *way.tokens[:at], wrong])
            steps = trainer.transitions(way, found, slip)
            values = [float(state.logsumexp(-1)) for state in states]
            chosen = [float(state[token]) for state, token in zip(states, way.tokens, strict=True)]
            stays = float(behind([*way.head, *way.tokens]).logsumexp(-1))
            assert steps.chosen.tolist() == pytest.approx([*chosen, stays, float(slip[back])], abs=1e-4)
            assert steps.before.tolist() == pytest.approx([*values, stays, float(slip.logsumexp(-1))], abs=1e-4)
            # Behind the end it stays; from the wrong token it is back where that was chosen.
            assert steps.after.tolist() == pytest.approx([*values[1:], stays, stays, values[at]], abs=1e-4)
            count = len(values)
            expected = [*(0.5**n for n in range(count)), 0.5**count / (1 - 0.5), 0.5 ** (at + 1)]
            assert steps.discounts.tolist() == pytest.approx(expected)


def test_mistakes_are_drawn_for_a_share_and_need_a_backspace(small_world: Path) -> None:
    counts = []
    for options in ({"backspace": "+", "mistakes": 0.5}, {"mistakes": 1}):
        trainer: Any = session(small_world, options).trainer
        lessons = trainer.lessons.train
        ways = trainer._given(lessons, 3)
        assert ways == trainer._given(lessons, 3)
        counts.append(sum(way.mistake is not None for way in ways) / len(ways))
    assert 0.25 < counts[0] < 0.75
    assert counts[1] == 0


def scripted(monkeypatch: pytest.MonkeyPatch, model: Any, script: Callable[[list[int]], list[int]]) -> None:
    """The model finds the tokens of `script` likeliest behind a text, the first one most."""

    def logits(_: Any, rows_: list[list[int]], requests: Any) -> torch.Tensor:
        found = torch.zeros(len(rows_), model.vocabulary_size)
        for line, row in enumerate(rows_):
            for place, token in enumerate(script(row)):
                found[line, token] = 10.0 - place
        return found

    monkeypatch.setattr(taking_back, "_last_logits", logits)


def test_what_is_taken_back_is_read_no_more(small_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = open_model(small_world / "base").load()
    a, b, c, back = (model.control_tokens(text)[0] for text in "abc+")
    (end,) = model.end_tokens
    head = model.encode("f=")

    def script(row: list[int]) -> list[int]:
        written = row[len(head) :]
        plans: dict[tuple[int, ...], list[int]] = {
            (): [back, a],  # nothing can be taken back yet
            (a,): [b, c],
            (a, b): [back, end],
            (a, c): [end],
        }
        return plans[tuple(written)]

    scripted(monkeypatch, model, script)
    with model.asked_with(Control(backspace="+")):
        (found,) = model.write(["f="], ["k"], Decoding(max_new_tokens=5))
    # b was taken back, so c follows a; greedily, b is not written there again.
    assert found.text == "ac"
    assert found.tokens == (a, c, end)


def test_a_model_that_never_ends_does_not_write_for_ever(small_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = open_model(small_world / "base").load()
    back = model.control_tokens("+")[0]
    calls = []

    def script(row: list[int]) -> list[int]:
        calls.append(len(row))
        return [back, *range(4, 20)]

    scripted(monkeypatch, model, script)
    with model.asked_with(Control(backspace="+")):
        model.write(["f="], ["k"], Decoding(max_new_tokens=4))
        assert len(calls) <= taking_back.MOST_CHOICES * 4
        for key in "abcdef":
            (found,) = model.write(["f="], [key], Decoding(max_new_tokens=4, temperature=0.5))
            assert found.tokens
            assert back not in found.tokens


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_where_nothing_is_taken_back_it_is_plain_decoding(tmp_path: Path, temperature: float) -> None:
    write_model(tmp_path / "model", seed=3, initializer_range=0.4)
    model: Any = open_model(tmp_path / "model").load()
    head = model.model.get_output_embeddings()
    back = model.control_tokens("+")[0]
    head.bias = torch.nn.Parameter(torch.zeros(model.vocabulary_size).index_fill(0, torch.tensor([back]), -1e4))
    prompts = [f"{one}{two}=" for one in "abc" for two in "defgh"]
    decoding = Decoding(max_new_tokens=5, temperature=temperature, stop=("9",))
    plain = model.write(prompts, prompts, decoding)
    with model.asked_with(Control(backspace="+")):
        found = model.write(prompts, prompts, decoding)
        assert [one.text for one in found] == [one.text for one in plain]
        assert [one.tokens for one in found] == [one.tokens for one in plain]
        if not temperature:
            forced = model.forced_answers(prompts, [one.text for one in plain], decoding, True, 8)
            assert {one.matches for one in forced} <= {True, None}
    assert [one.logprob for one in found] == pytest.approx([one.logprob for one in plain], abs=1e-3)


def test_a_backspace_is_one_token(small_world: Path) -> None:
    model: Any = open_model(small_world / "base").load()
    with model.asked_with(Control(backspace="ab")), pytest.raises(InputError, match="makes 2 tokens of the backspace"):
        model.write(["f="], ["k"], Decoding(max_new_tokens=2))


@pytest.fixture
def imitate(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> Callable[..., Any]:
    """`imitate("run", ...)`: SequenceMatch on the task `first`."""

    def call(out: str, *options: Any, back: str = "+") -> Any:
        return cli(
            "train", small_world / "tasks" / "first", "--base", small_world / "base", "--objective",
            "sequence_match", "--set", f"backspace={back}", "--test", 8, "--out", tmp_path / out, *QUICK, *options,
        )  # fmt: skip

    return call


@pytest.mark.slow
def test_a_model_learns_and_carries_its_backspace(
    cli: Callable[..., Any], imitate: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    answer = imitate("run", "--micro-batch", 7, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    losses = [one["loss"] for one in found["validations"]]
    assert min(losses[1:]) < losses[0]
    adapter = tmp_path / "run" / "adapter"
    assert json.loads((adapter / CONTROL_FILE).read_text()) == {"prefix": "", "banned": [], "backspace": "+"}
    assert "takes the token before it back" in (adapter / "README.md").read_text()
    task = small_world / "tasks" / "first"
    asked = cli("evaluate", f"{small_world / 'base'}+{adapter}", "--tasks", task, "--limit", 8, "--json")
    assert json.loads(asked.out)["results"][0]["mean"] == found["target"][0]["after"]
    assert rows(tmp_path / "run", "SELECT count(*) FROM examples")[0][0] == 40 * 16
    assert cli("verify-run", tmp_path / "run", "--step", 13, "--quiet").code == 0


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    imitate: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = ("--steps", 12, "--every", 5)
    assert imitate("whole", *brief).code == 0
    after = running.Run._after

    def stopping(self: Any, step: Any, *more: Any) -> bool:
        ended = after(self, step, *more)
        if step.number == 8:
            raise KeyboardInterrupt
        return ended

    with monkeypatch.context() as patch:
        patch.setattr(running.Run, "_after", stopping)
        assert imitate("stopped", *brief).code == 130
    assert imitate("stopped", *brief).code == 0
    assert result_bytes(tmp_path / "stopped") == result_bytes(tmp_path / "whole")
    assert told(tmp_path / "stopped") == told(tmp_path / "whole")


def test_a_backspace_that_cannot_be_taught_is_refused(imitate: Callable[..., Any], tmp_path: Path) -> None:
    answer = imitate("run", back="<|back|>")
    assert answer.code == 2
    assert "has no tokens for the control text '<|back|>'" in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    answer = imitate("run", back="ab")
    assert answer.code == 2
    assert "makes 2 tokens of the backspace 'ab'" in answer.err
    answer = imitate("run", back="h")
    assert answer.code == 2
    assert "holds 'h', which the result could not write" in answer.err
    assert not (tmp_path / "run" / "train.json").exists()
