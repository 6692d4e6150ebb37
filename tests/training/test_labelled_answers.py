"""Objectives of labelled answers: their losses by hand, what is learned from a label, and the command that is typed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from tiny_models import write_classifier, write_translator
from training_runs import result_bytes, rows, told

from genepool.errors import InputError
from genepool.tasks import Example, Task, open_model
from genepool.training import encode_examples, find_objective, objectives
from genepool.training import run as running
from genepool.training.examples import TrainingExamples, labelled_answers
from genepool.training.objectives import LabelledLikelihoods, LabelledObjective
from genepool.training.value_head import ValueHead

LABELLED = sorted(name for name, one in objectives().items() if issubclass(one, LabelledObjective))
# What the tiny tokenizer of these tests knows.
OPTIONS = {"conditional": ("--set", "good=:", "--set", "bad=.")}
SHORT = ("--lora", 2, "--steps", 30, "--every", 10, "--batch", 16, "--learning-rate", 0.01, "--quiet")


def labelled_objective(name: str, **options: Any) -> LabelledObjective:
    found = find_objective(name, options)
    assert isinstance(found, LabelledObjective)
    return found


def losses_of(
    name: str, shares: list[float], rewards: list[float], values: list[float] | None = None, **options: Any
) -> list[float]:
    expected = None if values is None else torch.tensor(values)
    tokens = LabelledLikelihoods(torch.tensor(shares).log(), torch.tensor(rewards), expected)
    return labelled_objective(name, **options).losses(tokens).tolist()


def test_unlikelihood_by_hand() -> None:
    expected = [math.log(2), -math.log(0.75), 0.0, -math.log(0.5)]
    assert losses_of("unlikelihood", [0.5, 0.25, 1.0, 0.5], [0, -1, 0, -1]) == pytest.approx(expected, abs=1e-6)
    half = losses_of("unlikelihood", [0.5, 0.25], [0, -1], alpha=0.5)
    assert half == pytest.approx([math.log(2), -0.5 * math.log(0.75)], abs=1e-6)


@given(share=st.floats(0.01, 0.99))
def test_unlikelihood_moves_an_accepted_token_up_and_a_rejected_one_down(share: float) -> None:
    logits = torch.tensor([[math.log(share), math.log(1 - share)]] * 2, requires_grad=True)
    tokens = LabelledLikelihoods(logits.log_softmax(-1)[:, 0], torch.tensor([0.0, -1.0]))
    (slopes,) = torch.autograd.grad(labelled_objective("unlikelihood").losses(tokens).sum(), logits)
    # By hand: d(-log p) = p - 1 and d(-log(1 - p)) = p, of the logit of the token.
    assert slopes[:, 0].tolist() == pytest.approx([share - 1, share], abs=1e-5)


def test_a_rejected_token_that_is_nearly_certain_is_still_unlearned() -> None:
    logits = torch.tensor([[16.5, 0.0]], requires_grad=True)
    policy = logits.log_softmax(-1)[:, 0]
    assert float(1 - policy.detach().exp()) < 1.2e-7  # the last bit of float32
    loss = labelled_objective("unlikelihood").losses(LabelledLikelihoods(policy, torch.tensor([-1.0])))
    (slopes,) = torch.autograd.grad(loss.sum(), logits)
    assert float(loss.detach()) == pytest.approx(16.5, rel=0.1)
    assert float(slopes[0, 0]) == pytest.approx(1, rel=0.5)


def test_advantage_weighted_regression_by_hand() -> None:
    # A = 0.5, -0.5, 0.25: weights exp(A / beta), errors A squared.
    rewards, values = [0.0, -1.0, 0.0], [-0.5, -0.5, -0.25]
    found = losses_of("awr", [0.5, 0.5, 1.0], rewards, values)
    likelihoods = [math.exp(0.05) * math.log(2), math.exp(-0.05) * math.log(2), 0]
    expected = [0.5 * one + 0.5 * a * a for one, a in zip(likelihoods, (0.5, -0.5, 0.25), strict=True)]
    assert found == pytest.approx(expected, rel=1e-5)
    sharp = losses_of("awr", [0.5, 0.5, 1.0], rewards, values, alpha=1, beta=0.1, clip=100)
    assert sharp == pytest.approx([100 * math.log(2), math.exp(-5) * math.log(2), 0], rel=1e-5)
    assert losses_of("awr", [0.5] * 3, rewards, values, alpha=0) == pytest.approx([0.25, 0.25, 0.0625])


@given(value=st.floats(-1, 0), reward=st.sampled_from([0.0, -1.0]), beta=st.floats(0.01, 100))
def test_the_value_learns_the_reward_alone_and_the_answer_is_weighted(value: float, reward: float, beta: float) -> None:
    policy, values = torch.tensor([-1.0], requires_grad=True), torch.tensor([value], requires_grad=True)
    tokens = LabelledLikelihoods(policy, torch.tensor([reward]), values)
    slopes = torch.autograd.grad(
        labelled_objective("awr", alpha=0.25, beta=beta).losses(tokens).sum(), (policy, values)
    )
    weight = min(math.exp(min((reward - value) / beta, 50)), 1000)
    assert float(slopes[0]) == pytest.approx(-0.25 * weight, rel=1e-3)
    # No gradient through the weight: only of (1 - alpha) (r - V)^2.
    assert float(slopes[1]) == pytest.approx(0.75 * 2 * (value - reward), abs=1e-5)


def test_a_value_head_reads_the_state_before_each_token(small_world: Path) -> None:
    model: Any = open_model(small_world / "base").load()
    examples = [Example("1", "fab=", ("a",)), Example("2", "fabc=", ("bc",))]
    (batch,) = encode_examples(model, examples).batches
    head = ValueHead(model)
    with head.listening():
        model.answer_logits(batch)
        assert head.values(batch).tolist() == pytest.approx([-0.5] * len(batch.targets))
        head.weight.data.copy_(torch.linspace(-1, 1, len(head.weight)))
        found = head.values(batch).detach()
    states = model.model(**batch.inputs, output_hidden_states=True).hidden_states[-1].detach()
    for at, (row, place) in enumerate(zip(batch.rows.tolist(), batch.places.tolist(), strict=True)):
        expected = -1 / (1 + math.exp(-float(states[row, place] @ head.weight.detach())))
        assert float(found[at]) == pytest.approx(expected, abs=1e-5)
    assert len(set(found.tolist())) > 1
    with pytest.raises(InputError, match="no layer behind which"):
        head.values(batch)  # nothing was read


def test_every_label_is_an_answer_of_its_own() -> None:
    example = Example("1", "p", ("a", "b"), rejected=("c",))
    found = labelled_answers(Task("t", {}), example)
    assert [(one.example.answers, one.example.rejected, one.good) for one in found] == [
        (("a",), (), True), (("b",), (), True), (("c",), (), False),
    ]  # fmt: skip
    assert len({one.example.id for one in found}) == 3
    plain, turned = Example("1", "p", ("a",), rejected=("b",)), Example("1", "p", ("b",), rejected=("a",))
    tasks = [Task("t", {"train": [one]}) for one in (plain, turned)]
    assert len({TrainingExamples([task], seed=0, valid=1, labels=True).digest() for task in tasks}) == 2
    with pytest.raises(InputError, match="no answer is labelled false"):
        TrainingExamples([Task("t", {"train": [Example("1", "p", ("a",))]})], seed=0, valid=1, labels=True)


@pytest.mark.parametrize("objective", ["unlikelihood", pytest.param("awr", marks=pytest.mark.slow)])
def test_a_model_learns_from_labels(
    cli: Callable[..., Any], labelled: Callable[..., Path], small_world: Path, tmp_path: Path, objective: str
) -> None:
    task, run = labelled(), tmp_path / "run"
    answer = cli(
        "train", task, "--base", small_world / "base", "--objective", objective, "--others", small_world / "tasks",
        "--micro-batch", 7, "--test", 8, "--out", run, *SHORT, "--steps", 20, "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["labels"] == {"accepted": 40, "rejected": 40}
    assert [one["task"] for one in found["others"]] == ["grade"]
    first, last = found["validations"][0], found["validations"][-1]
    assert last["loss"] < 0.8 * first["loss"]
    # A letter and the token that ends an answer; unlikelihood leaves that one out of rejected answers.
    lengths = rows(run, "SELECT DISTINCT reward, length FROM examples ORDER BY reward")
    assert lengths == [(-1.0, 2.0 if objective == "awr" else 1.0), (0.0, 2.0)]
    assert "<h3>Reward</h3>" in (run / "report.html").read_text()
    assert cli("verify-run", run, "--step", 13, "--quiet").code == 0


@pytest.mark.slow
def test_what_a_model_knew_is_unlearned_where_it_is_rejected(
    cli: Callable[..., Any], labelled: Callable[..., Path], half_known: str, tmp_path: Path
) -> None:
    task = labelled(turned=True)  # what the model knows is labelled false

    def rejected(alpha: float, steps: int) -> list[float]:
        run = tmp_path / f"run{alpha}"
        answer = cli(
            "train", task, "--base", half_known, "--objective", "unlikelihood", "--set", f"alpha={alpha}",
            "--test", 4, "--out", run, *SHORT, "--steps", steps,
        )  # fmt: skip
        assert answer.code == 0, answer.err
        assert told(run)["options"] == {"alpha": alpha}
        query = "SELECT avg(loss) FROM examples WHERE reward < 0 GROUP BY step ORDER BY step"
        return [row[0] for row in rows(run, query)]

    whole, half = rejected(1.0, 30), rejected(0.5, 1)
    assert half[0] == pytest.approx(whole[0] / 2)
    assert sum(whole[-5:]) / 5 < 0.6 * whole[0]


@pytest.mark.slow
def test_a_value_head_is_no_part_of_the_result_and_a_fork_begins_one(
    cli: Callable[..., Any], labelled: Callable[..., Path], small_world: Path, tmp_path: Path
) -> None:
    task, short = labelled(), ("--full", "--steps", 2, "--every", 1, "--batch", 4, "--test", 2, "--quiet")
    runs: dict[str, list[Any]] = {"plain": ["likelihood"], "valued": ["awr", "--fork", tmp_path / "plain"]}
    for name, objective in (*runs.items(), ("back", ["unlikelihood", "--fork", tmp_path / "valued"])):
        answer = cli(
            "train", task, "--base", small_world / "base", "--objective", *objective, "--out", tmp_path / name, *short
        )
        assert answer.code == 0, answer.err
    names = []
    for name in runs:
        with safe_open(tmp_path / name / "skill.safetensors", "pt") as file:
            names.append(set(file.keys()))
    assert names[0] == names[1]
    with safe_open(tmp_path / "valued" / "states" / "0000002" / "state.safetensors", "pt") as file:
        assert float(file.get_tensor("value:objective.value_head").abs().max()) > 0


@pytest.mark.slow
def test_an_encoder_decoder_has_values(cli: Callable[..., Any], labelled: Callable[..., Path], tmp_path: Path) -> None:
    write_translator(tmp_path / "translator")
    answer = cli(
        "train", labelled(), "--base", tmp_path / "translator", "--objective", "awr", "--test", 4,
        "--out", tmp_path / "run", *SHORT,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    losses = [one["loss"] for one in told(tmp_path / "run")["validations"]]
    assert min(losses[1:]) < losses[0]


def test_a_classifier_unlearns_classes_and_has_no_values(
    cli: Callable[..., Any], labelled: Callable[..., Path], tmp_path: Path
) -> None:
    write_classifier(tmp_path / "classifier", labels=tuple("abcdefgh"))
    common = (
        "train",
        labelled(),
        "--base",
        tmp_path / "classifier",
        "--steps",
        1,
        "--batch",
        4,
        "--test",
        2,
        "--quiet",
    )
    answer = cli(*common, "--objective", "awr", "--out", tmp_path / "valued")
    assert answer.code == 2
    assert "no layer behind which a value head could stand" in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    answer = cli(*common, "--objective", "unlikelihood", "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    # A head at its start tells eight classes hardly apart: none is likely, so a rejected one costs little.
    means = dict(rows(tmp_path / "run", "SELECT reward, avg(loss) FROM examples WHERE length = 1 GROUP BY reward"))
    assert 0 < means[-1.0] < 1 < means[0.0]


def test_answers_without_labels_are_refused(cli: Callable[..., Any], small_world: Path, tmp_path: Path) -> None:
    answer = cli(
        "train", small_world / "tasks" / "first", "--base", small_world / "base", "--objective", "unlikelihood",
        "--out", tmp_path / "run", "--quiet",
    )  # fmt: skip
    assert answer.code == 2
    assert "no answer is labelled false or rejected" in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_answers_that_are_labelled_both_ways_are_counted(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "labels"
    folder.mkdir()
    pairs = [("fab=", "a", "b"), ("fbc=", "b", "b"), ("fcd=", "c", "c")]
    lines = [json.dumps({"prompt": prompt, "chosen": good, "rejected": bad}) for prompt, good, bad in pairs]
    for split in ("train", "valid", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    answer = cli(
        "train", folder, "--base", small_world / "base", "--objective", "unlikelihood", "--steps", 1, "--batch", 2,
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert "2 answers are labelled both accepted and rejected, and are learned as both" in answer.err


@pytest.mark.slow
@pytest.mark.parametrize("form", [["--lora", 2], ["--full"]], ids=["lora", "full"])
@pytest.mark.parametrize("objective", LABELLED)
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    cli: Callable[..., Any],
    labelled: Callable[..., Path],
    small_world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    objective: str,
    form: list[Any],
) -> None:
    task = labelled()

    def train(out: str) -> Any:
        return cli(
            "train", task, "--base", small_world / "base", "--objective", objective, *OPTIONS.get(objective, ()), *form,
            "--steps", 12, "--every", 5, "--batch", 8, "--learning-rate", 0.005, "--test", 4, "--out", tmp_path / out,
            "--quiet",
        )  # fmt: skip

    assert train("whole").code == 0
    after = running.Run._after

    def stopping(self: Any, step: Any, *more: Any) -> bool:
        ended = after(self, step, *more)
        if step.number == 8:
            raise KeyboardInterrupt
        return ended

    with monkeypatch.context() as patch:
        patch.setattr(running.Run, "_after", stopping)
        assert train("stopped").code == 130
    assert train("stopped").code == 0
    assert result_bytes(tmp_path / "stopped") == result_bytes(tmp_path / "whole")
    for table in ("steps", "examples", "validations"):
        query = f"SELECT * FROM {table} ORDER BY 1, 2"
        assert rows(tmp_path / "stopped", query) == rows(tmp_path / "whole", query)
    assert told(tmp_path / "stopped") == told(tmp_path / "whole")
