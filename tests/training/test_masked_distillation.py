"""Whom each token follows: the teacher, or the model as it began."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from genepool.tasks.answers import AnswerBatch
from genepool.training import find_objective, target_objective
from genepool.training.divergences import kullback_leibler

# Three tokens of three choices; the right ones are 0, 1, 2.
STUDENT = torch.tensor([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
TEACHER = torch.tensor([[0.0, 3.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]])
BEGAN = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 4.0], [0.0, 0.0, 1.0]])
ROW = torch.arange(3)
BATCH = AnswerBatch({}, [0], torch.zeros(3, dtype=torch.long), ROW * 0, ROW, ROW, [0])


class Fixed:
    device = torch.device("cpu")

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits

    def answer_logits(self, batch: AnswerBatch) -> torch.Tensor:
        return self.logits


def follows(name: str, **options: Any) -> list[bool]:
    """By token: whether its loss is the divergence from the teacher, else it is that from the model as it began."""
    objective: Any = find_objective(name, options)
    losses = objective.losses(Fixed(STUDENT), BATCH, Fixed(TEACHER), Fixed(BEGAN))
    logs = STUDENT.log_softmax(-1)
    teacher, began = (kullback_leibler(one.log_softmax(-1), logs) for one in (TEACHER, BEGAN))
    found = losses.isclose(teacher, atol=1e-6)
    assert bool((found ^ losses.isclose(began, atol=1e-6)).all())
    return [bool(one) for one in found]


def test_muscle_follows_the_old_version_where_the_model_is_wrong() -> None:
    assert follows("muscle") == [False, True, False]


def test_any_to_any_follows_the_teacher_where_it_is_surer() -> None:
    assert follows("any_to_any") == [False, True, True]
    assert follows("any_to_any", supervised=False) == [True, False, True]


def test_learning_without_forgetting_adds_what_was_softened() -> None:
    objective: Any = find_objective("lwf", {"weight": 0.5, "temperature": 2.0})
    likelihood: Any = target_objective("likelihood").losses(Fixed(STUDENT), BATCH)  # type: ignore[arg-type]
    losses = objective.losses(Fixed(STUDENT), BATCH, None, Fixed(BEGAN))
    soft = kullback_leibler((BEGAN / 2).log_softmax(-1), (STUDENT / 2).log_softmax(-1))
    assert losses.tolist() == pytest.approx((likelihood + 0.5 * soft).tolist(), rel=1e-5)
    plain: Any = find_objective("lwf", {"weight": 0})
    assert torch.allclose(plain.losses(Fixed(STUDENT), BATCH, None, Fixed(BEGAN)), likelihood)
