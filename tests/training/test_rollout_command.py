"""`genepool train --objective grpo`, as it is typed: what is drawn, rewarded, counted and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_runs import result_bytes, rows, told

from genepool.tasks import load_tasks, open_model
from genepool.training import run as running
from genepool.training.examples import TrainingExample
from genepool.training.journal import ExampleRow, Journal, StepRow
from genepool.training.samples import draw_samples

SHORT = ("--steps", 6, "--every", 3, "--batch", 4, "--lora", 2, "--set", "samples=4", "--test", 8, "--quiet")


@pytest.mark.slow
def test_every_sample_is_on_record_with_its_reward_and_divergence(
    cli: Callable[..., Any], half_known: str, small_world: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    answer = cli(
        "train", small_world / "tasks" / "first", "--base", half_known, "--objective", "grpo", "--lora", 4,
        "--steps", 4, "--every", 2, "--batch", 12, "--learning-rate", 0.01, "--out", run, "--quiet", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["options"]["samples"] == 8
    assert found["samples"]["drawn"] == 4 * 12 * 8
    assert 0 < found["samples"]["learned_from"] < found["samples"]["drawn"]
    assert found["samples"]["failed"] == 0
    # Alike within a group: not learned from, and no divergence is computed for it.
    assert rows(run, "SELECT count(*) FROM examples WHERE (kl IS NULL) != (kept = 0)") == [(0,)]
    assert rows(run, "SELECT count(*) FROM examples WHERE kept = 0 AND loss != 0") == [(0,)]
    assert rows(run, "SELECT max(abs(kl)) < 1e-6 FROM examples WHERE step = 1") == [(1,)]
    assert rows(run, "SELECT min(kl) >= -1e-6, max(kl) > 0.001 FROM examples WHERE step = 4") == [(1, 1)]
    assert "<h3>KL divergence</h3>" in (run / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["grpo", "reft", "hpt"])
def test_rewarded_answers_become_frequent(
    cli: Callable[..., Any], tiny_testbed: Any, tmp_path: Path, objective: str
) -> None:
    # As many samples for all, and the reward whose mean is looked at below.
    answer = cli(
        "train", tiny_testbed.tasks / "reverse", "--base", tiny_testbed.folder / "base", "--objective", objective,
        "--set", "samples=8", "--set", "reward=metric", "--steps", 20, "--every", 10, "--batch", 8,
        "--learning-rate", 0.003, "--test", 128, "--out", tmp_path / "run", "--quiet",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    (target,) = told(tmp_path / "run")["target"]
    assert target["difference"]["lo"] > 0.5
    rewards = [row[0] for row in rows(tmp_path / "run", "SELECT avg(reward) FROM examples GROUP BY step ORDER BY step")]
    assert sum(rewards[:3]) < 0.5 < 1.5 < sum(rewards[-3:])


@pytest.mark.slow
def test_samples_are_drawn_again_to_the_same_bits_and_shared_by_steps(
    cli: Callable[..., Any], half_known: str, small_world: Path, tmp_path: Path
) -> None:
    task = small_world / "tasks" / "first"
    answer = cli(
        "train", task, "--base", half_known, "--objective", "grpo", "--set", "iterations=3", "--set", "kl=0.1",
        "--set", "temperature=1.2", "--learning-rate", 0.05, "--out", tmp_path / "run", *SHORT,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert cli("verify-run", tmp_path / "run", "--step", 5, "--quiet").code == 0
    drawn = [
        rows(tmp_path / "run", f"SELECT example, length, reward FROM examples WHERE step = {n}") for n in (1, 3, 4)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    # Written once, learned from three times.
    assert told(tmp_path / "run")["cost"]["tokens"] == sum(row[1] for step in (0, 2) for row in drawn[step])
    answer = cli(
        "train", task, "--base", half_known, "--objective", "grpo", "--set", "iterations=2", *SHORT,
        "--out", tmp_path / "other",
    )  # fmt: skip
    assert answer.code == 2
    assert "multiple of the option iterations (2), got 3" in answer.err


def test_right_answers_beside_samples_were_not_generated(tmp_path: Path) -> None:
    numbers = ({"length": 3.0, "demonstration": 0.0}, {"length": 5.0, "demonstration": 1.0})
    with Journal(tmp_path / "run.sqlite") as journal:
        journal.took(StepRow(1, 0.5, 1.0, 0.1, "0" * 64), [ExampleRow("t", "e", 0.5, numbers=one) for one in numbers])
        assert journal.generated() == 3


def test_an_example_that_comes_twice_in_a_step_has_samples_of_its_own(half_known: str, small_world: Path) -> None:
    model: Any = open_model(half_known).load()
    (task,) = load_tasks(small_world / "tasks" / "first")
    one, other = (TrainingExample(task, example) for example in task.examples("train")[:2])

    def texts(lessons: list[TrainingExample], count: int) -> list[str]:
        return [sample.text for sample in draw_samples(model, lessons, count, 2.0, seed=3, step=1)]

    assert texts([one, other, one], 4) == [*texts([one], 8)[:4], *texts([other], 4), *texts([one], 8)[4:]]


@pytest.mark.slow
def test_a_majority_that_is_wrong_is_refused_and_one_that_is_right_is_learned_from(
    cli: Callable[..., Any], half_known: str, small_world: Path, tmp_path: Path
) -> None:
    task, more = small_world / "tasks" / "first", ("--objective", "grpo", "--set", "reward=majority", *SHORT)
    answer = cli("train", task, "--base", small_world / "base", "--out", tmp_path / "run", *more)
    assert answer.code == 2
    assert "maj@4 is 0." in answer.err
    assert "below 0.50" in answer.err
    assert not (tmp_path / "run" / "train.json").exists()
    mixed = ("--objective", "grpo", "--set", "reward={metric: 1, majority: 0.5}", "--set", "temperature=0.1", *SHORT)
    answer = cli("train", task, "--base", half_known, "--out", tmp_path / "right", *mixed)
    assert answer.code == 0, answer.err
    values = {row[0] for row in rows(tmp_path / "right", "SELECT DISTINCT reward FROM examples")}
    # Which others there are hangs on the samples, and these on the processor.
    assert 1.5 in values
    assert values <= {0.0, 0.5, 1.0, 1.5}


PLUGIN = """
from genepool.tasks.metrics import metric

@metric("1")
def {name}(output, example, strip):
    if {when}:
        raise RuntimeError("no judge today")
    return float(output == example.answer)
"""


@pytest.mark.parametrize(("when", "code"), [('example.prompt.startswith("fa")', 0), ("len(output) > -1", 2)])
def test_rewards_that_fail_are_left_out_and_too_many_end_the_run(
    cli: Callable[..., Any], half_known: str, small_world: Path, tmp_path: Path, when: str, code: int
) -> None:
    task = tmp_path / "fragile"
    task.mkdir()
    (tmp_path / "judge.py").write_text(PLUGIN.format(name=f"fragile_{code}", when=when))
    # Only what is rewarded holds examples that the judge cannot take.
    for split in ("train", "valid", "test"):
        lines = (small_world / "tasks" / "first" / f"{split}.jsonl").read_text().splitlines()
        kept = [line for line in lines if split == "train" or json.loads(line)["answer"] in "bc"]
        (task / f"{split}.jsonl").write_text("\n".join(kept[: 48 if split == "train" else 1]) + "\n")
    (task / "task.yaml").write_text(f"metric: fragile_{code}\nmax_new_tokens: 3\n")
    answer = cli(
        "train", task, "--base", half_known, "--plugin", tmp_path / "judge.py", "--objective", "grpo",
        "--out", tmp_path / "run", *SHORT,
    )  # fmt: skip
    assert answer.code == code, answer.err
    if code:
        assert "no judge today" in answer.err
        assert len(answer.err.strip().splitlines()) == 1
    else:
        failed = told(tmp_path / "run")["samples"]["failed"]
        assert failed > 0
        assert rows(tmp_path / "run", "SELECT count(*), max(kept) FROM examples WHERE reward IS NULL") == [(failed, 0)]


BAD: dict[str, tuple[list[Any], str]] = {
    "an unknown reward": (["--set", "reward=metrix"], "metrix"),
    "a weight that is no number": (["--set", "reward={metric: much}"], "must be a number, got 'much'"),
    "one sample": (["--set", "samples=1"], "--set samples"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_a_wrong_option_is_one_line(cli: Callable[..., Any], small_world: Path, tmp_path: Path, case: str) -> None:
    options, said = BAD[case]
    task, base = small_world / "tasks" / "first", small_world / "base"
    answer = cli("train", task, "--base", base, "--objective", "grpo", "--out", tmp_path / "run", *options, "--quiet")
    assert answer.code == 2
    assert said in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "stop"),
    [
        *((name, stop) for name in ("dpo", "grpo", "gkd") for stop in (1, 4, 6, 7)),
        ("hpt", 6),
        ("evol_rl", 6),
        ("reft", 6),
    ],
)
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    cli: Callable[..., Any],
    half_known: str,
    small_world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    objective: str,
    stop: int,
) -> None:
    task = small_world / ("pairs" if objective == "dpo" else "tasks") / "first"
    few = ["--set", "samples=4"]
    more = {
        "dpo": [],
        "grpo": ["--set", "iterations=2", *few],
        "gkd": ["--teacher", half_known],
        "hpt": ["--set", "iterations=2", "--set", "temperature=0.3", *few],
        "reft": ["--set", "iterations=2", "--set", "samples=2", "--set", "reward=metric"],
        "evol_rl": ["--set", "trained=2", "--set", "temperature=0.1", *few],
    }
    command = (
        "train", task, "--base", half_known, "--objective", objective, *more[objective], "--lora", 2, "--steps", 8,
        "--every", 4, "--batch", 4, "--learning-rate", 0.01, "--test", 4, "--quiet",
    )  # fmt: skip
    assert cli(*command, "--out", tmp_path / "whole").code == 0
    after = running.Run._after

    def stopping(self: Any, step: Any, *rest: Any) -> bool:
        ended = after(self, step, *rest)
        if step.number == stop:
            raise KeyboardInterrupt
        return ended

    with monkeypatch.context() as patch:
        patch.setattr(running.Run, "_after", stopping)
        assert cli(*command, "--out", tmp_path / "stopped").code == 130
    assert cli(*command, "--out", tmp_path / "stopped").code == 0
    assert result_bytes(tmp_path / "stopped") == result_bytes(tmp_path / "whole")
    assert (tmp_path / "stopped" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    for table in ("steps", "examples", "validations"):
        query = f"SELECT * FROM {table} ORDER BY 1, 2"
        assert rows(tmp_path / "stopped", query) == rows(tmp_path / "whole", query)
    assert told(tmp_path / "stopped") == told(tmp_path / "whole")
