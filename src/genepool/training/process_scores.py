"""What a process reward model says of whole answers: each of their steps is asked, and the numbers become one.

The reward `process_reward` and the stage `process` ask here. Uses the reward model as it is opened from its folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from genepool.errors import InputError
from genepool.tasks import Example, Task
from genepool.training.reward_ensemble import RewardEnsemble

#: How the chances of the steps of an answer become its reward.
By = Literal["min", "product", "last", "mean"]

_JOINED: Mapping[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "product": math.prod,
    "last": lambda chances: chances[-1],
    "mean": lambda chances: sum(chances) / len(chances),
}


def steps_of(text: str, ends: str) -> list[tuple[str, str]]:
    """The steps of an answer, each with what stands before it; their texts together are the answer.

    Args:
        text: the answer.
        ends: what ends a step and belongs to it; the last step may lack it.

    Example:
        >>> steps_of("1+2=3;3*4=12", ";")
        [('', '1+2=3;'), ('1+2=3;', '3*4=12')]
    """
    found: list[tuple[str, str]] = []
    start = 0
    while start < len(text):
        at = text.find(ends, start)
        end = len(text) if at < 0 else at + len(ends)
        found.append((text[:start], text[start:end]))
        start = end
    return found


def answer_scores(
    judge: RewardEnsemble, asked: Sequence[tuple[Task, Example]], texts: Sequence[str], ends: str, by: By
) -> list[float]:
    """How good a process reward model finds whole answers, from 0 to 1; NaN for an answer without a text.

    Args:
        judge: the model.
        asked: for each answer its task and the example that it answers.
        texts: the answers.
        ends: what ends a step.
        by: what the chances of its steps become.

    Raises:
        InputError: an answer with its prompt exceeds the context.
    """
    prompts: list[str] = []
    steps: list[str] = []
    counts = []
    for (task, example), text in zip(asked, texts, strict=True):
        parts = steps_of(text, ends)
        counts.append(len(parts))
        for before, step in parts:
            # As the lines of a search have it: what was written stands behind the prompt of the example.
            prompts.append(task.prompt_for(replace(example, prompt=example.prompt + before), judge.model))
            steps.append(step)
    chances = judge.rewards(prompts, steps, closed=False).sigmoid().mean(0).tolist() if steps else []
    found = []
    for count in counts:
        own, chances = chances[:count], chances[count:]
        found.append(_JOINED[by](own) if own else math.nan)
    return found


def check_process(judge: RewardEnsemble, where: str) -> None:
    """Refuses a reward model that was trained on whole answers.

    Raises:
        InputError: it was.
    """
    if not judge.of_steps:
        raise InputError(
            "is a reward model of whole answers, and says nothing of their steps",
            where=where,
            fix="Use the reward reward_model, or train one with --objective process_reward",
        )
