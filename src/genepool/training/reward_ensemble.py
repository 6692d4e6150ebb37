"""A trained reward model as something that can be asked: how good an answer is, and how far its members agree.

Opened from the folder that `reward_factors` writes. A training asks it for rewards; the table before and after asks it
which of two answers it prefers. Uses tasks and weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from genepool.checked import parsed_json
from genepool.errors import InputError, one_line
from genepool.schema import Strict, validate
from genepool.tasks import DEFAULT_BATCH, Example, LanguageModel, Task, open_model
from genepool.tasks.answers import end_of, token_batches
from genepool.tasks.decoding import continuation
from genepool.tasks.likelihoods import ContinuationLikelihood
from genepool.tasks.models import Capability, Model, Source, load_as
from genepool.training.examples import pairs_of
from genepool.training.recipe import Lora
from genepool.training.reward_factors import ABOUT_FILE, ADAPTER_FILE, HEADS_FILE, RewardFactors
from genepool.weights import Weights, open_weights, without_head

if TYPE_CHECKING:
    import torch

#: Bytes of the file about a reward model, at most.
_LONGEST = 10_000_000


class _Base(Strict):
    """The model that the factors stand on."""

    name: str
    fingerprint: str


class _About(Strict):
    """What `reward_model.json` says."""

    genepool: int = Field(ge=1, le=1)
    base: _Base
    members: int = Field(ge=1, le=64)
    steps: bool = False
    lora: Lora
    lineage: dict[str, Any]


class RewardEnsemble(Model):
    """A causal language model whose factors and heads give rewards.

    Asked which of several answers is likely, it says the mean reward: the answer that it prefers is the likeliest.

    Args:
        model: the base, loaded, with the factors in place.
        factors: they.
        source: what it was opened from.
    """

    kind = "a reward model"
    can: ClassVar[frozenset[Capability]] = frozenset({"likelihoods"})

    def __init__(self, model: LanguageModel, factors: RewardFactors, source: RewardModelSource) -> None:
        self.model, self._factors, self._source = model, factors, source

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def fingerprint(self) -> str:
        return self._source.fingerprint

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def of_steps(self) -> bool:
        """Whether it judges the steps of answers, and not whole ones."""
        return self._source.of_steps

    def rewards(
        self,
        prompts: Sequence[str],
        answers: Sequence[str],
        batch_size: int = DEFAULT_BATCH,
        *,
        closed: bool | None = None,
    ) -> torch.Tensor:
        """What every member thinks of each answer: shape (members, answers), float32, on the processor.

        Args:
            prompts: texts, as a task puts them to a model.
            answers: one to each.
            batch_size: answers that are read at once, at most.
            closed: the token that ends an answer is read too; None: unless the answers are steps.

        Raises:
            InputError: an answer with its prompt exceeds the context.
        """
        import torch

        heads = [self.model.encode(prompt) for prompt in prompts]
        ends = not self.of_steps if closed is None else closed
        tails = [self._tail(prompt, answer, ends) for prompt, answer in zip(prompts, answers, strict=True)]
        for head, tail in zip(heads, tails, strict=True):
            if len(head) + len(tail) > self.model.context:
                raise InputError(
                    f"a prompt ({len(head)} tokens) and its answer ({len(tail)}) exceed the context of "
                    f"{self.model.context}",
                    where=self.name,
                    fix="Shorten it, or set a smaller max_new_tokens",
                )
        found = torch.zeros(len(self._factors.members), len(prompts))
        # Not inference mode: factors are switched.
        with torch.no_grad():
            for batch in token_batches(self.model, heads, tails, batch_size):
                for row, member in enumerate(self._factors.members):
                    found[row, batch.numbers] = self._factors.rewards(batch, member).cpu()
        return found

    def _tail(self, prompt: str, answer: str, ends: bool) -> list[int]:
        """The tokens of an answer, and the one that ends it if it `ends`."""
        tail = [*(continuation(self.model, prompt, answer) if answer else []), *(end_of(self.model) if ends else [])]
        if not tail:
            raise InputError("an empty answer has no tokens", where=self.name, fix="Use a tokenizer with an end token")
        return tail

    def loglikelihoods(
        self, prompts: Sequence[str], continuations: Sequence[str], batch_size: int = DEFAULT_BATCH
    ) -> list[ContinuationLikelihood]:
        """The mean reward of each continuation in the place of its likelihood."""
        rewards = self.rewards(prompts, continuations, batch_size).mean(0).tolist()
        return [ContinuationLikelihood(reward, False, 1) for reward in rewards]

    @classmethod
    def holds(cls, config: Mapping[str, Any]) -> bool:
        """No config describes it."""
        return False

    @classmethod
    def load(cls, weights: Weights, *, device: str = "cpu", dtype: str = "float32") -> Self:
        """Refused: weights alone do not reward."""
        raise InputError("weights alone do not reward", where=weights.name, fix="Name the folder of a reward model")

    def assign(self, weights: Weights) -> None:
        self._cannot("take weights")

    def changing(self, names: Collection[str]) -> AbstractContextManager[dict[str, torch.nn.Parameter]]:
        self._cannot("be trained")


class RewardModelSource(Source):
    """The folder of a reward model.

    Args:
        folder: holds `reward_model.json`, `heads.safetensors` and an adapter for each member.
        base: the model its factors stand on; None: the one that the folder names.

    Attributes:
        base: that model.

    Raises:
        InputError: no reward model is there, it is damaged, or its base is another model by now.
    """

    def __init__(self, folder: str | Path, base: Weights | None = None) -> None:
        self.folder, self.name = Path(folder), str(folder)
        self._about = _read_about(self.folder)
        known = self._about.base
        self.base = base if base is not None else open_weights(known.name)
        if without_head(self.base).fingerprint() != known.fingerprint:
            raise InputError(
                f"was trained on another model than {self.base.name} is now",
                where=self.folder / ABOUT_FILE,
                fix="Put that base back, or train the reward model again",
            )
        self._files = [self.folder / HEADS_FILE]
        self._files += [self.folder / f"member_{number}" / ADAPTER_FILE for number in range(self._about.members)]
        for file in self._files:
            if not file.is_file():
                raise InputError("is missing", where=file, fix="Train the reward model again")

    @property
    def fingerprint(self) -> str:
        """SHA-256, hex, over the base and the bytes of factors and heads."""
        total = hashlib.sha256(f"reward model\x1f{self._about.base.fingerprint}\x1f{self._about.lora.alpha}".encode())
        for file in self._files:
            with file.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        return total.hexdigest()

    @property
    def of_steps(self) -> bool:
        """Whether it was trained on the steps of answers."""
        return self._about.steps

    @property
    def kind(self) -> type[Model]:
        """Its class."""
        return RewardEnsemble

    def load(self, device: str = "cpu", dtype: str = "float32") -> RewardEnsemble:
        """The base in memory, with factors and heads put on it.

        Raises:
            InputError: a file is damaged or does not fit the base.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        model = load_as(LanguageModel, open_model(self.base), "a reward model", device=device, dtype=dtype)
        factors = RewardFactors(model, self._about.lora, self.base, 0, self._about.members)
        heads_file, *adapters = self._files
        file = heads_file
        try:
            heads = load_file(heads_file)
            for member in factors.members:
                if member not in heads or not bool(heads[member].isfinite().all()):
                    raise ValueError(f"there is no head of finite numbers for {member}")
            for member, file in zip(factors.members, adapters, strict=True):
                factors.fill(member, load_file(file), heads[member])
        except (OSError, SafetensorError, ValueError) as error:
            raise InputError(
                f"cannot be used ({one_line(error)})", where=file, fix="Train the reward model again"
            ) from None
        # What PEFT adds begins in training mode, with its dropout.
        model.model.eval()
        for parameter in model.model.parameters():
            parameter.requires_grad_(False)
        return RewardEnsemble(model, factors, self)


def is_reward_model(folder: str | Path) -> bool:
    """Whether a folder says that it is one."""
    return (Path(folder) / ABOUT_FILE).is_file()


def preference_task(task: Task) -> Task:
    """The test pairs of a task as questions which of both answers is better; of labelled steps, which of a prompt's is.

    Raises:
        InputError: an example has no rejected answer, or both are alike everywhere.
    """
    if not {"test", "all"} & set(task.splits):
        return task
    valued = [example for example in task.examples("test") if example.value is not None]
    asked = (
        _which_step(valued)
        if valued
        else [
            replace(pair, choices=(pair.answer, pair.rejected[0]), rejected=())
            for example in task.examples("test")
            for pair in pairs_of(task, example)
            if pair.answer != pair.rejected[0]
        ]
    )
    if not asked:
        raise InputError(
            "no test prompt has two answers of which one is better",
            where=task.name,
            fix="Give pairs of answers that differ, or two labelled steps of one prompt",
        )
    settings = task.settings.model_copy(update={"metric": "multiple_choice"})
    return replace(task, splits={**task.splits, "test": asked}, settings=settings)


def _which_step(valued: Sequence[Example]) -> list[Example]:
    """The labelled steps of each prompt as one question which of them is the best; prompts with equal ones left out."""
    groups: dict[str, dict[str, Example]] = {}
    for example in valued:
        groups.setdefault(example.prompt, {}).setdefault(example.answer, example)
    asked = []
    for steps in groups.values():
        best = max(one.value or 0.0 for one in steps.values())
        right = tuple(text for text, one in steps.items() if one.value == best)
        if len(right) < len(steps):
            asked.append(replace(next(iter(steps.values())), answers=right, choices=tuple(steps), value=None))
    return asked


def _read_about(folder: Path) -> _About:
    file = folder / ABOUT_FILE
    if not file.is_file():
        raise InputError(
            "holds no reward model", where=folder, fix="Name the reward_model/ of a training with that objective"
        )
    try:
        if file.stat().st_size > _LONGEST:
            raise ValueError("it is too large")
        data = parsed_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot be read ({one_line(error)})", where=file, fix="Train the reward model again"
        ) from None
    return validate(_About, data, file)
