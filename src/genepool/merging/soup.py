"""The greedy soup (Wortsman et al., arXiv:2203.05482, recipe 1): average what helps, the best model alone first.

How good a model is comes in as a callable; every candidate is a lazy merge, so nothing is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from genepool import progress
from genepool.errors import InputError
from genepool.merging.plan import Plan
from genepool.merging.planning import plan_merge
from genepool.merging.recipe import Recipe
from genepool.weights import Weights, open_weights

Score = Callable[[Weights], float]


@dataclass(frozen=True)
class SoupStep:
    """One model's turn.

    Attributes:
        model: its name.
        alone: its own score.
        together: the score of the soup with it.
        kept: whether it stayed in: the first always, another when it made the soup strictly better.
    """

    model: str
    alone: float
    together: float
    kept: bool


@dataclass(frozen=True)
class Soup:
    """What `greedy_soup` found.

    Attributes:
        plan: the merge of the models that stayed; `plan.weights()` is the soup, `run_plan` writes it.
        score: its score.
        steps: every model's turn, the best alone first.
    """

    plan: Plan
    score: float
    steps: tuple[SoupStep, ...]

    @property
    def recipe(self) -> Recipe:
        """The soup as a recipe: `linear` over the models that stayed."""
        return self.plan.recipe


def greedy_soup(
    models: Sequence[str | Path | Weights],
    score: Score,
    *,
    base: str | Path | Weights | None = None,
    rest: str | None = None,
    allow_pickle: bool = False,
) -> Soup:
    """Averages models as long as each next one makes the average better.

    Models are sorted by their own score; those that score the same stay in the order given. Each in turn is averaged in
    and stays when the score rises.

    Args:
        models: at least one; each a name to open, or weights.
        score: how good a model is, larger is better, on held-out data. Called once for each model and once for each
            but the best with the soup so far.
        base: what they were fine-tuned from: adapters and skills among the models are opened on it, and the soup
            takes its config and tokenizer.
        rest: average only what all models share, and have everything else as in this model; one of them by name, or
            `base`.
        allow_pickle: also open PyTorch's .bin and .pt files, through `torch.load(weights_only=True)`.

    Raises:
        InputError: no models, two with one name, models that do not fit together, or a score that is no number.
    """
    opened_base = _opened(base, None, allow_pickle) if base is not None else None
    opened = [_opened(model, opened_base, allow_pickle) for model in models]
    names = [weights.name for weights in opened]
    if not names:
        raise InputError("no model is named", fix="Name at least one")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{twice} is listed twice", fix="Name each model once")
    sources = dict(zip(names, opened, strict=True))
    base_name = opened_base.name if opened_base else None
    if opened_base:
        sources[opened_base.name] = opened_base

    def average(chosen: Sequence[str]) -> Plan:
        return plan_merge(Recipe(method="linear", base=base_name, models=list(chosen), rest=rest), sources)

    # Whatever does not fit together is found before the first model is asked.
    average(names)
    with progress.bar("greedy soup", 2 * len(names) - 1, "models") as bar:

        def asked(weights: Weights, note: str) -> float:
            bar.note(note)
            value = float(score(weights))
            if not math.isfinite(value):
                raise InputError(
                    f"got the score {value}, expected a finite number",
                    where=weights.name,
                    fix="Correct the function that scores models",
                )
            bar.advance()
            return value

        alone = {name: asked(sources[name], name) for name in names}
        first, *others = sorted(names, key=lambda name: -alone[name])
        kept, best = [first], alone[first]
        steps = [SoupStep(first, best, best, True)]
        for name in others:
            together = asked(average([*kept, name]).weights(), f"with {name}")
            better = together > best
            steps.append(SoupStep(name, alone[name], together, better))
            if better:
                kept.append(name)
                best = together
    return Soup(average(kept), best, tuple(steps))


def _opened(model: str | Path | Weights, base: Weights | None, allow_pickle: bool) -> Weights:
    return model if isinstance(model, Weights) else open_weights(model, base=base, allow_pickle=allow_pickle)
