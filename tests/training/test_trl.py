"""TRL as the oracle: on the same batch our losses are TRL's own, computed by TRL's own code."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from genepool.tasks import open_model
from genepool.training import Training
from genepool.training.divergences import jensen_shannon
from genepool.training.opened_training import OpenedTraining
from genepool.training.samples import draw_samples
from genepool.training.session import Session
from genepool.weights import open_weights

ACCELERATOR = SimpleNamespace(
    device=torch.device("cpu"),
    num_processes=1,
    sync_gradients=True,
    gather=lambda tensor: tensor,
    gather_for_metrics=lambda tensor: tensor,
    reduce=lambda tensor, reduction: tensor,
)
Rows = Sequence[tuple[Sequence[int], Sequence[int]]]


def moved_session(world: Path, tasks: Path, objective: str, options: dict[str, Any], **more: Any) -> Session:
    """A session whose factors have moved away from where they begin."""
    recipe = Training(
        base=str(world / "base"),
        tasks=(str(tasks),),
        objective=objective,
        options=options,
        batch=5,
        micro_batch=2,
        **more,
    )
    opened = OpenedTraining.open(recipe, others=False)
    teacher = None if recipe.teacher is None else open_model(recipe.teacher).load()
    session = Session(recipe, open_model(opened.base).load(), opened.base, opened.lessons, teacher)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in sorted(session.trained.parameters().items()):
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return session


def padded(rows: Rows) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, attention mask and mask of the answers of (prompt, answer) rows, padded on the right."""
    width = max(len(head) + len(tail) for head, tail in rows)
    ids, mask, answers = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(3))
    for row, (head, tail) in enumerate(rows):
        whole = [*head, *tail]
        ids[row, : len(whole)], mask[row, : len(whole)] = torch.tensor(whole), 1
        answers[row, len(head) : len(whole)] = 1
    return ids, mask, answers


def token_logs(network: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Log-likelihood of every token after the first, as transformers computes it."""
    logits = network(input_ids=ids, attention_mask=mask).logits[:, :-1]
    return logits.log_softmax(-1).gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)


def rows_of(session: Session, side: str) -> list[tuple[list[int], list[int]]]:
    model: Any = session.model
    found = []
    for lesson in session.trainer.lessons.at(0, 5):
        head = model.encode(lesson.task.prompt_for(lesson.example, model))
        text = lesson.example.answer if side == "chosen" else lesson.example.rejected[0]
        found.append((head, [*model.tokenizer(text, add_special_tokens=False).input_ids, model.tokenizer.eos_token_id]))
    return found


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs") / "letters"
    folder.mkdir()
    lines = [{"prompt": f"f{a}{b}=", "chosen": a, "rejected": b + a} for a in "abc" for b in "defgh"]
    for split in ("train", "valid", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize(
    ("objective", "theirs", "options"),
    [
        ("dpo", "sigmoid", {"beta": 0.3}),
        ("dpo", "robust", {"beta": 0.3, "label_smoothing": 0.2}),
        ("ipo", "ipo", {"beta": 0.3}),
        ("dpo_norm", "sigmoid_norm", {"beta": 5.0}),
    ],
)
def test_preferences(small_world: Path, pairs: Path, objective: str, theirs: str, options: dict[str, Any]) -> None:
    from trl.trainer.dpo_trainer import DPOTrainer

    session = moved_session(small_world, pairs, objective, options)
    ids, mask, answers = padded([*rows_of(session, "chosen"), *rows_of(session, "rejected")])
    shifted = answers[:, 1:]
    began: Any = open_model(open_weights(small_world / "base")).load()
    with torch.no_grad():
        logs = token_logs(session.model.model, ids, mask) * shifted
        before = (token_logs(began.model, ids, mask) * shifted).sum(1)
    assert not torch.allclose(logs.sum(1), before, atol=0.1)
    blank = torch.zeros_like(logs)
    outputs = SimpleNamespace(log_probs=logs, entropy=blank, mean_logits=blank, is_top1=blank.bool())
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=ACCELERATOR,
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        beta=options["beta"],
        label_smoothing=options.get("label_smoothing", 0.0),
        loss_types=[theirs],
        loss_weights=[1.0],
        use_weighting=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {"input_ids": ids, "attention_mask": mask, "completion_mask": answers}
    inputs |= dict(zip(("ref_chosen_logps", "ref_rejected_logps"), before.chunk(2), strict=True))
    expected = DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False)
    assert session.gradients(0) == pytest.approx(float(expected), rel=1e-6, abs=1e-6)
    if objective == "dpo":
        margins = [row.numbers["margin"] for row in session.rows]
        assert sum(margins) / 5 == pytest.approx(trainer._metrics["train"]["rewards/margins"][0], rel=1e-5)


@pytest.mark.parametrize(("kl", "entropy"), [(0.0, 0.0), (0.2, 0.0), (0.2, 0.3)])
def test_group_relative_policy_optimisation(small_world: Path, kl: float, entropy: float) -> None:
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.utils import nanstd

    session = moved_session(
        small_world, small_world / "tasks" / "first", "grpo", {"samples": 4, "kl": kl, "entropy": entropy}
    )
    lessons = session.trainer.lessons.at(0, 5)
    drawn = draw_samples(session.model, lessons, 4, 1.0, seed=0, step=0)
    # Rewards that the metric would not give: they differ within every group.
    values = torch.tensor([float(len(one.text) + number % 3) for number, one in enumerate(drawn)])
    session.trainer.rewards.of = lambda samples, group: (values.tolist(), "")  # type: ignore[attr-defined]
    grouped = values.reshape(-1, 4)
    advantages = ((grouped - grouped.mean(1, keepdim=True)) / (nanstd(grouped, dim=1)[:, None] + 1e-4)).reshape(-1)
    ids, mask, answers = padded([(one.head, one.tokens) for one in drawn])
    began: Any = open_model(open_weights(small_world / "base")).load()
    with torch.no_grad():
        logs = token_logs(session.model.model, ids, mask)
        before = token_logs(began.model, ids, mask)
        shares = session.model.model(input_ids=ids, attention_mask=mask).logits[:, :-1].softmax(-1)
        entropies = torch.distributions.Categorical(shares).entropy()
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=ACCELERATOR,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=kl,
        loss_type="dapo",
        epsilon_low=0.2,
        epsilon_high=0.2,
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=entropy > 0,
        use_adaptive_entropy=False,
        entropy_coef=entropy,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *_, **__: (logs, entropies, None),
    )
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": mask[:, :1],
        "completion_ids": ids[:, 1:],
        "completion_mask": answers[:, 1:],
        "advantages": advantages,
        "ref_per_token_logps": before,
        "num_items_in_batch": answers.sum(),
    }
    expected = GRPOTrainer._compute_loss(trainer, None, inputs)
    assert session.gradients(0) == pytest.approx(float(expected), rel=1e-6, abs=1e-6)
    if kl:
        means = [row.numbers["kl"] * row.numbers["length"] for row in session.rows]
        total = sum(row.numbers["length"] for row in session.rows)
        assert sum(means) / total == pytest.approx(trainer._metrics["train"]["kl"][0], rel=1e-4)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_generalised_distillation(small_world: Path, beta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.gkd import GKDTrainer

    student, teacher = torch.randn(2, 4, 7, 11, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[-100] * row + [1] * (7 - row) for row in range(4)])
    expected = GKDTrainer.generalized_jsd_loss(student, teacher, labels, beta=beta)
    rows = labels != -100
    ours = jensen_shannon(teacher.log_softmax(-1)[rows], student.log_softmax(-1)[rows], beta).mean()
    assert float(ours) == pytest.approx(float(expected), rel=1e-6, abs=1e-6)
    if beta == 0.5:
        # The same through a step, whose answers are all the data's.
        session = moved_session(
            small_world,
            small_world / "tasks" / "first",
            "gkd",
            {"own": 0, "beta": beta},
            teacher=str(small_world / "other"),
        )
        ids, mask, answers = padded(rows_of(session, "chosen"))
        other: Any = open_model(open_weights(small_world / "other")).load()
        with torch.no_grad():
            logits = [net(input_ids=ids, attention_mask=mask).logits for net in (session.model.model, other.model)]
        labels = torch.where(answers.bool(), ids, -100)[:, 1:]
        expected = GKDTrainer.generalized_jsd_loss(logits[0][:, :-1], logits[1][:, :-1], labels, beta=beta)
        assert session.gradients(0) == pytest.approx(float(expected), rel=1e-5)
