"""How good is what a model wrote: one file of this folder for each reward, found by being there.

A reward looks at all samples of one prompt together. One that fails for a sample, by raising or by NaN, leaves that
sample out; the trainer counts them and ends a training where most of a step fails. Uses tasks and samples.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from genepool.errors import InputError, one_line
from genepool.folder_classes import classes_by_name, of_name
from genepool.schema import Strict, validate
from genepool.training.samples import Sample

if TYPE_CHECKING:
    import torch

FAILED = math.nan


class RewardOptions(Strict):
    """Options of a reward: none, unless it says some."""

    page = "reference/training"


@dataclass(frozen=True)
class RewardInputs:
    """What a reward may ask beside the samples.

    Attributes:
        embed: the last hidden states of texts, (tokens, hidden) each, of the model as it was before the training.
        device, dtype: where and in what another model computes that a reward loads.
    """

    embed: Callable[[Sequence[str]], list[torch.Tensor]]
    device: str
    dtype: str


class Reward(ABC):
    """How good some samples are.

    Args:
        options: its options; the defaults when None.

    Attributes:
        name: what `reward` calls it; its file's name.
        source: where it comes from.
        when: one sentence on what it is for.
        reads_answers: whether it compares a sample with the right answer, which must be known for that.
        follows_majority: whether samples are good for being like the others, which must be right for that.
        Options: the model of its options.
        models: those of its options that name a model, which decides the bits of a training by its fingerprint.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    when: ClassVar[str]
    reads_answers: ClassVar[bool] = False
    follows_majority: ClassVar[bool] = False
    Options: ClassVar[type[RewardOptions]] = RewardOptions
    models: ClassVar[tuple[str, ...]] = ()

    def __init__(self, options: RewardOptions | None = None) -> None:
        self.options = options if options is not None else self.Options()

    @property
    def needs_reference(self) -> bool:
        """Whether it asks the model as it was before the training."""
        return False

    def begin(self, inputs: RewardInputs) -> None:
        """Called once before the first sample.

        Raises:
            InputError: what it needs is not there.
        """
        return

    @abstractmethod
    def score(self, samples: Sequence[Sample]) -> list[float]:
        """A number for each sample of one prompt, the higher the better; NaN where it cannot tell.

        Raises:
            Exception: it failed for all of them.
        """

    def elected(self, samples: Sequence[Sample]) -> Sample | None:
        """The sample whose answer the majority gives, for rewards that follow it; None where nothing is answered."""
        return None

    def fingerprint(self, option: str) -> str:
        """Of the model that an option names.

        Raises:
            InputError: there is none.
        """
        from genepool.weights import open_weights

        return open_weights(str(getattr(self.options, option))).fingerprint()


#: A reward, or several: a weight each, or a map of options with the key `weight`.
Named = str | Mapping[str, Any]


class Rewards:
    """A weighted sum of rewards.

    Args:
        named: a reward, or several with their weights and options.

    Raises:
        InputError: there is none of that name, none is named, or an option is wrong.
    """

    def __init__(self, named: Named) -> None:
        if not named:
            raise InputError("no reward is named", where="reward", fix=f"Name one: {', '.join(rewards())}")
        self._parts = [
            (find_reward(name, {key: value for key, value in said.items() if key != "weight"}), said.get("weight", 1.0))
            for name, said in _as_options(named).items()
        ]

    @property
    def reads_answers(self) -> bool:
        """Whether one of them compares samples with right answers."""
        return any(reward.reads_answers for reward, _ in self._parts)

    @property
    def follows_majority(self) -> bool:
        """Whether one of them does."""
        return any(reward.follows_majority for reward, _ in self._parts)

    @property
    def needs_reference(self) -> bool:
        """Whether one of them asks the model as it was before the training."""
        return any(reward.needs_reference for reward, _ in self._parts)

    def begin(self, inputs: RewardInputs) -> None:
        """Called once before the first sample; see `Reward.begin`."""
        for reward, _ in self._parts:
            reward.begin(inputs)

    def models(self) -> list[str]:
        """The models that options name."""
        found = [getattr(reward.options, option) for reward, _ in self._parts for option in reward.models]
        return [str(name) for name in found if name is not None]

    def settings(self) -> dict[str, Any]:
        """Names, weights and options as plain data, where a model stands by its fingerprint instead of its place."""
        told = {}
        for reward, weight in self._parts:
            options = reward.options.model_dump(mode="json")
            known = {one: reward.fingerprint(one) for one in reward.models if options[one] is not None}
            told[reward.name] = {"weight": weight, **options, **known}
        return told

    def of(self, samples: Sequence[Sample], group: int) -> tuple[list[float], str]:
        """The reward of each sample, and why the first one failed that did.

        Args:
            samples: one prompt's after another's.
            group: samples of each prompt.
        """
        found: list[float] = []
        why = ""
        for start in range(0, len(samples), group):
            part = samples[start : start + group]
            total = [0.0] * len(part)
            for reward, weight in self._parts:
                try:
                    scores = reward.score(part)
                except Exception as error:
                    why = why or f"{reward.name}: {one_line(error)}"
                    scores = [FAILED] * len(part)
                total = [before + weight * score for before, score in zip(total, scores, strict=True)]
            found += [value if math.isfinite(value) else FAILED for value in total]
        if not why and any(map(math.isnan, found)):
            why = "its value is no finite number"
        return found, why

    def measured_majority(self, samples: Sequence[Sample], group: int) -> float:
        """The share of prompts whose most frequent answer is right by the task's metric (maj@group)."""
        from genepool.training.rewards.metric import judged

        voting = next(reward for reward, _ in self._parts if reward.follows_majority)
        groups = [samples[start : start + group] for start in range(0, len(samples), group)]
        elected = [voting.elected(part) for part in groups]
        return sum(one is not None and judged(one) == 1 for one in elected) / len(groups)


def located(named: Named, found: Callable[[str], str]) -> Named:
    """The same with the models that options name put where they are found.

    Args:
        named: as for `Rewards`.
        found: the place of what a file calls a model.
    """
    # What is no reward at all is refused where it is read.
    if not isinstance(named, Mapping):
        return named
    known = rewards()
    places: dict[str, Any] = {}
    for name, said in named.items():
        models = known[name].models if name in known and isinstance(said, Mapping) else ()
        told = {key: found(said[key]) for key in models if isinstance(said.get(key), str)}
        places[name] = {**said, **told} if told else said
    return places


def rewards() -> dict[str, type[Reward]]:
    """Every reward by name."""
    return classes_by_name(__name__, Reward)


def find_reward(name: str, options: Mapping[str, Any] | None = None) -> Reward:
    """The reward of this name.

    Args:
        name: what `reward` calls it.
        options: those that are not the defaults.

    Raises:
        InputError: there is none, and the nearest name is suggested; or an option is unknown or wrong.
    """
    kind = of_name(rewards(), "reward", name, "reward")
    return kind(validate(kind.Options, dict(options or {}), f"reward.{name}"))


def _as_options(named: Named) -> dict[str, Mapping[str, Any]]:
    """Each reward with its weight and its options.

    Raises:
        InputError: a weight is no number.
    """
    if isinstance(named, str):
        return {named: {}}
    told = {name: said if isinstance(said, Mapping) else {"weight": said} for name, said in named.items()}
    for name, said in told.items():
        weight = said.get("weight", 1.0)
        if isinstance(weight, str):
            # YAML reads 1e-3, which has no point, as a text.
            try:
                weight = float(weight)
            except ValueError:
                pass
            else:
                told[name] = {**said, "weight": weight}
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise InputError(
                f"the weight of '{name}' must be a number, got {weight!r}", where="reward", fix="Write {metric: 1}"
            )
    return told
