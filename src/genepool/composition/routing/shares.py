"""Who answers: the weights that a router gives to the skills, as means over the inputs of a task or token by token.

What is told of a router after it is fitted, and what `--show-skills` prints. Inputs are read one at a time, so padding
has no part in it. Uses `adapter_mixture` and tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from genepool import progress
from genepool.composition.routing.adapter_mixture import AdapterMixture
from genepool.composition.world import World
from genepool.tasks.decoding import continuation
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.tasks.used_skills import SHOWN, UsedSkills

# Inputs of each task that are looked at, at most; below and above these mean weights a skill never or alone answers.
_ASKED, _NEVER, _ALONE = 16, 0.01, 0.99


class Reads(Protocol):
    """A model around a mixture."""

    mixture: AdapterMixture
    skill_names: list[str]

    def read(self, prompt: str) -> None:
        """Reads a prompt, for whoever watches the mixture."""


class TellsTokens(Protocol):
    """A model that tells who answers token by token."""

    skill_names: list[str]

    def token_weights(self, prompt: str, answer: str = "") -> tuple[list[str], torch.Tensor]:
        """The tokens of a prompt and an answer, and the weights of the skills at each."""


def mean_weights(model: Reads, prompts: Sequence[str]) -> torch.Tensor:
    """The mean weight of every skill over the tokens of some prompts and all layers, (skills,), float64."""
    total, count = torch.zeros(len(model.skill_names), dtype=torch.float64), 0

    def watch(_: str, weights: torch.Tensor) -> None:
        nonlocal total, count
        rows = weights.reshape(-1, weights.shape[-1]).double().cpu()
        total, count = total + rows.sum(0), count + len(rows)

    with torch.inference_mode(), model.mixture.watched(watch):
        for prompt in prompts:
            model.read(prompt)
    return total / max(1, count)


def shares_of_tasks(model: Reads, world: World) -> dict[str, Any]:
    """What a record says of a router: the mean weights by task, and a warning of each skill that has no part in them.

    Args:
        model: answers as the composition.
        world: whose tasks are looked at; nothing is told where there are none.
    """
    found = {}
    for composed in world.tasks:
        prompts = [composed.task.prompt_for(one, world.network) for one in composed.examples[:_ASKED]]
        found[composed.task.name] = mean_weights(model, prompts).tolist()
    if not found:
        return {}
    names = model.skill_names
    warnings = warnings_of(found, names)
    for warning in warnings:
        progress.message(f"warning: {warning}")
    rounded = {
        task: {name: round(share, 4) for name, share in zip(names, shares, strict=True)}
        for task, shares in found.items()
    }
    return {"shares": rounded, **({"warnings": warnings} if warnings else {})}


def warnings_of(shares: Mapping[str, Sequence[float]], names: Sequence[str]) -> list[str]:
    """One line for each skill that never answers, and for one that always answers alone.

    Args:
        shares: mean weights of the skills, by task.
        names: of the skills.
    """
    found = []
    for number, name in enumerate(names):
        own = [one[number] for one in shares.values()]
        if all(abs(share) < _NEVER for share in own):
            found.append(f"{name}: the router never lets it answer (mean weight below {_NEVER:g} on every task)")
        elif len(names) > 1 and all(share > _ALONE for share in own):
            found.append(f"{name}: the router lets it alone answer every task (mean weight above {_ALONE:g})")
    return found


def token_weights(
    lead: LanguageModel, network: Any, mixture: AdapterMixture, prompt: str, answer: str
) -> tuple[list[str], torch.Tensor]:
    """The tokens of a prompt and an answer, and the weights of the skills at each, the mean over layers.

    Args:
        lead: encodes and decodes the tokens.
        network: called like one of transformers' causal language models.
        mixture: what its layers add.
        prompt, answer: texts.

    Returns:
        Texts of the tokens; and (tokens, skills), float32: the weights while the token was read, which decide the
        next one.
    """
    ids = [*lead.encode(prompt), *(continuation(lead, prompt, answer) if answer else ())]
    seen: list[torch.Tensor] = []
    with torch.inference_mode(), mixture.watched(lambda _, weights: seen.append(weights)):
        network(input_ids=torch.tensor([ids], device=lead.device), use_cache=False)
    each = torch.stack([one.float().cpu().reshape(len(ids), -1) for one in seen]).mean(0)
    return [lead.decode([one]) for one in ids], each


def used_skills(model: TellsTokens, prompts: Sequence[str], answers: Sequence[str]) -> list[UsedSkills]:
    """See `Model.skills_used`: the weights of the skills where each token of an answer was predicted.

    Args:
        model: answers as the composition.
        prompts, answers: texts.
    """
    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens, weights = model.token_weights(prompt, answer)
        first = len(model.token_weights(prompt)[0])
        rows = weights[first - 1 : len(tokens) - 1].tolist()
        named = [
            {name: weight for name, weight in zip(model.skill_names, row, strict=True) if abs(weight) >= SHOWN}
            for row in rows
        ]
        found.append(UsedSkills(tokens=tuple(zip(tokens[first:], named, strict=True))))
    return found
