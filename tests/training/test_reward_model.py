"""Reward models: their loss, what is written and put back, and what they reward."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_runs import rows, told

from genepool.errors import InputError
from genepool.tasks import open_model
from genepool.training import find_objective
from genepool.training.objectives.reward_model import RewardModelObjective
from genepool.training.reward_ensemble import RewardModelSource
from genepool.training.reward_factors import disagreement

SHORT = ("--steps", 12, "--every", 6, "--batch", 16, "--learning-rate", 0.02, "--lora", 2, "--quiet")


def objective(**options: Any) -> RewardModelObjective:
    found = find_objective("reward_model", options)
    assert isinstance(found, RewardModelObjective)
    return found


@pytest.mark.parametrize("centre", [0.0, 0.1])
def test_the_loss_is_trls(centre: float) -> None:
    from trl.trainer.reward_trainer import RewardTrainer

    chosen, rejected = torch.randn(2, 6, generator=torch.Generator().manual_seed(3))
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(center_rewards_coefficient=centre),
        accelerator=SimpleNamespace(gather=lambda one: one, gather_for_metrics=lambda one: one),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    both = torch.cat([chosen, rejected]).unsqueeze(-1)
    inputs = {"attention_mask": torch.ones(12, 1)}
    expected = RewardTrainer.compute_loss(trainer, lambda **_: SimpleNamespace(logits=both), inputs)
    assert float(objective(centre=centre).losses(chosen, rejected).mean()) == pytest.approx(float(expected), rel=1e-6)


def test_members_that_differ_cost_less() -> None:
    one, two = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    ensemble = objective(members=2, diversity=0.5)
    rank_one, rank_two = torch.cat([one, one]), torch.cat([one, two])
    # The singular values: sqrt(2) of the first; sqrt(2) and 1 of the second.
    assert float(ensemble.alikeness([rank_one])) == pytest.approx(-0.5 * 2**0.5)  # type: ignore[arg-type]
    assert float(ensemble.alikeness([rank_one, rank_two])) == pytest.approx(-0.5 * (2**0.5 + 0.5))  # type: ignore[arg-type]
    assert objective().alikeness([one]) is None
    assert objective(members=2, diversity=0).alikeness([rank_one]) is None
    assert disagreement(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), 0.5).tolist() == [1.5, 0.0]
    assert disagreement(torch.tensor([[1.0, 2.0]]), 9.0).tolist() == [1.0, 2.0]


@pytest.fixture(scope="module")
def judge(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of a reward model with two members on pairs that prefer the right letter."""
    from genepool.training import Training, run_training

    folder = tmp_path_factory.mktemp("judge")
    recipe = Training(
        base=str(small_world / "base"), tasks=(str(small_world / "pairs" / "first"),), objective="reward_model",
        options={"members": 2, "diversity": 0.02}, steps=60, every=20, batch=16, learning_rate=0.02,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENEPOOL_CACHE", str(folder / "cache"))
        run_training(recipe, folder / "run", ledger=folder / "ledger.sqlite")
    return folder / "run"


def test_a_reward_model_learns_which_answer_is_better_and_is_asked_the_test_pairs(judge: Path) -> None:
    found = told(judge)
    (target,) = found["target"]
    assert target["n"] == 12
    assert target["after"] > 0.8 > target["before"]
    assert found["others"] == []
    assert found["result"] == "reward_model"
    assert found["equal_pairs"] == 0
    assert {one.name for one in (judge / "reward_model").iterdir()} == {
        "README.md", "heads.safetensors", "member_0", "member_1", "reward_model.json",
    }  # fmt: skip
    margins = [row[0] for row in rows(judge, "SELECT avg(margin) FROM examples GROUP BY step ORDER BY step")]
    assert margins[-1] > 0.2 > margins[0]
    assert "It is a reward model" in (judge / "reward_model" / "README.md").read_text()
    first, second = (load_file(judge / "reward_model" / f"member_{n}" / "adapter_model.safetensors") for n in (0, 1))
    assert first.keys() == second.keys()
    assert all(not torch.equal(first[key], second[key]) for key in first)


def test_members_are_adapters_that_peft_loads_to_the_same_rewards(judge: Path, small_world: Path) -> None:
    from peft import PeftModel

    ensemble = RewardModelSource(judge / "reward_model").load()
    rewards = ensemble.rewards(["fab=", "fbcd="], ["a", "bc"])
    assert rewards.shape == (2, 2)
    heads = load_file(judge / "reward_model" / "heads.safetensors")
    for row, member in enumerate(("member_0", "member_1")):
        model: Any = open_model(small_world / "base").load()
        adapted = PeftModel.from_pretrained(model.model, str(judge / "reward_model" / member))
        for column, (prompt, answer) in enumerate([("fab=", "a"), ("fbcd=", "bc")]):
            ids = [*model.encode(prompt), *model.tokenizer(answer, add_special_tokens=False).input_ids]
            whole = torch.tensor([[*ids, model.tokenizer.eos_token_id]])
            with torch.no_grad():
                last = adapted(input_ids=whole, output_hidden_states=True).hidden_states[-1][0, -1]
            assert float(last @ heads[member]) == pytest.approx(float(rewards[row, column]), rel=1e-4, abs=1e-5)
    assert [one.logprob for one in ensemble.loglikelihoods(["fab="], ["a"])] == pytest.approx(
        [float(rewards[:, 0].mean())], rel=1e-5
    )
    # An empty answer is its end alone.
    assert bool(ensemble.rewards(["fab="], [""]).isfinite().all())


@pytest.mark.slow
def test_what_a_reward_model_prefers_is_reinforced_less_where_members_disagree(
    cli: Callable[..., Any], judge: Path, half_known: str, small_world: Path, tmp_path: Path
) -> None:
    task = small_world / "tasks" / "first"
    moved = tmp_path / "moved"
    shutil.copytree(judge / "reward_model", moved)
    command = (
        "train", task, "--base", half_known, "--objective", "grpo", "--set", "samples=4", "--steps", 2, "--every", 2,
        "--batch", 4, "--test", 4, "--quiet", "--out",
    )  # fmt: skip
    for name, uncertainty in (("mean", 0), ("careful", 2)):
        reward = f"reward={{reward_model: {{path: {moved}, uncertainty: {uncertainty}}}, metric: 0.5}}"
        answer = cli(*command, tmp_path / name, "--set", reward)
        assert answer.code == 0, answer.err
    first = "SELECT reward FROM examples WHERE step = 1 ORDER BY place"
    mean, careful = ([row[0] for row in rows(tmp_path / name, first)] for name in ("mean", "careful"))
    assert all(low <= high for low, high in zip(careful, mean, strict=True))
    assert careful != mean
    plans = [json.loads(cli("plan", run / "training.yaml", "--json").out) for run in (tmp_path / "mean", judge)]
    assert plans[0]["weights"] > 1.9 * plans[1]["weights"]
    # The recipe in the folder is enough, from wherever it is read; and a reward model in --out is not written over.
    assert cli("verify-run", tmp_path / "mean", "--step", 2, "--quiet").code == 0
    inside = cli(*command, moved, "--set", f"reward={{reward_model: {{path: {moved}}}}}", "--overwrite")
    assert inside.code == 2
    assert (moved / "heads.safetensors").is_file()


@pytest.mark.slow
def test_a_reward_model_that_was_stopped_goes_on_to_the_same_bits(
    cli: Callable[..., Any], small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genepool.training import run as running

    command = (
        "train", small_world / "pairs" / "first", "--base", small_world / "base", "--objective", "reward_model",
        "--set", "members=2", "--set", "diversity=0.1", "--set", "centre=0.05", "--micro-batch", 5, *SHORT, "--out",
    )  # fmt: skip
    assert cli(*command, tmp_path / "whole").code == 0
    after = running.Run._after

    def stopping(self: Any, step: Any, *rest: Any) -> bool:
        ended = after(self, step, *rest)
        if step.number == 9:
            raise KeyboardInterrupt
        return ended

    with monkeypatch.context() as patch:
        patch.setattr(running.Run, "_after", stopping)
        assert cli(*command, tmp_path / "stopped").code == 130
    assert cli(*command, tmp_path / "stopped").code == 0
    for file in sorted((tmp_path / "whole" / "reward_model").rglob("*")):
        if file.is_file():
            other = tmp_path / "stopped" / "reward_model" / file.relative_to(tmp_path / "whole" / "reward_model")
            assert other.read_bytes() == file.read_bytes(), file
    assert told(tmp_path / "stopped") == told(tmp_path / "whole")
    assert cli("verify-run", tmp_path / "whole", "--step", 7, "--quiet").code == 0
    assert cli("plan", tmp_path / "whole" / "training.yaml", "--json").code == 0


@pytest.mark.slow
def test_another_training_cannot_go_on_from_a_reward_model_nor_it_from_another(
    cli: Callable[..., Any], judge: Path, small_world: Path, tmp_path: Path
) -> None:
    base = ("--base", small_world / "base", "--fork", judge, "--out", tmp_path / "run", "--quiet")
    pairs = ("train", small_world / "pairs" / "first", *base, "--objective")
    for command in ((*pairs, "dpo"), (*pairs, "reward_model", "--set", "members=3")):
        answer = cli(*command)
        assert answer.code == 2
        assert "another part of a model" in answer.err
    # From the same kind it goes on; the mean of all weights is what is written then.
    (tmp_path / "more.yaml").write_text(
        f"train: 1\nbase: {small_world / 'base'}\ntasks: [{small_world / 'pairs' / 'first'}]\n"
        "objective: reward_model\noptions: {members: 2}\naverage: {decay: 0.5}\nsteps: 2\nevery: 2\nbatch: 4\n"
        "learning_rate: 0.0001\n"
    )
    answer = cli("train", tmp_path / "more.yaml", "--fork", judge, "--out", tmp_path / "more", "--quiet")
    assert answer.code == 0, answer.err
    assert told(tmp_path / "more")["target"][0]["after"] > 0.8
    heads = [load_file(run / "reward_model" / "heads.safetensors")["member_0"] for run in (judge, tmp_path / "more")]
    assert 0 < float((heads[0] - heads[1]).abs().max()) < 0.1


def _changed(folder: Path, key: str, value: Any) -> None:
    about = json.loads((folder / "reward_model.json").read_text())
    about[key] = value
    (folder / "reward_model.json").write_text(json.dumps(about))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no heads": (lambda folder: (folder / "heads.safetensors").unlink(), "heads.safetensors: is missing"),
    "an infinite head": (
        lambda folder: save_file(
            {f"member_{n}": torch.full((32,), torch.inf) for n in (0, 1)}, folder / "heads.safetensors"
        ),
        "finite numbers",
    ),
    "a head of another size": (
        lambda folder: save_file({f"member_{n}": torch.zeros(3) for n in (0, 1)}, folder / "heads.safetensors"),
        "expected [32]",
    ),
    "more members than adapters": (lambda folder: _changed(folder, "members", 3), "member_2"),
    "too many members": (lambda folder: _changed(folder, "members", 10**9), "members"),
    "another rank": (lambda folder: _changed(folder, "lora", {"rank": 3}), "expected [3"),
    "another base": (
        lambda folder: _changed(folder, "base", {"name": str(folder.parent / "base"), "fingerprint": "0" * 64}),
        "another model",
    ),
    "no JSON": (lambda folder: (folder / "reward_model.json").write_text("{"), "cannot be read"),
    "nothing": (shutil.rmtree, "holds no reward model"),
}


@pytest.mark.parametrize("case", sorted(DAMAGE))
def test_a_damaged_reward_model_is_one_clear_error(judge: Path, small_world: Path, tmp_path: Path, case: str) -> None:
    (tmp_path / "base").symlink_to(small_world / "base")
    folder = tmp_path / "judge"
    shutil.copytree(judge / "reward_model", folder)
    damage, said = DAMAGE[case]
    damage(folder)
    with pytest.raises(InputError) as error:
        RewardModelSource(folder).load()
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1


BAD: dict[str, tuple[list[Any], str]] = {
    "every tensor": (["pairs", "--full"], "trains factors alone"),
    "no pairs": (["tasks"], "has no rejected answer"),
    "no members": (["pairs", "--set", "members=0"], "--set members"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_what_is_wrong_is_one_line(cli: Callable[..., Any], small_world: Path, tmp_path: Path, case: str) -> None:
    (kind, *options), said = BAD[case]
    answer = cli(
        "train", small_world / kind / "first", "--base", small_world / "base", "--objective", "reward_model",
        "--out", tmp_path / "run", *options, "--quiet",
    )  # fmt: skip
    assert answer.code == 2
    assert said in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
