"""Compositions in logit space: which model leads, which rule the others follow, and what other vocabularies lose.

What the composers of logit space share. Torch is imported only once models are loaded. Uses composition and tasks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import Field

from genepool import progress
from genepool.composition.composed_model import check_plain_models
from genepool.composition.composer import Composer, ComposerOptions
from genepool.composition.composition import Composition, Saved
from genepool.composition.logits.fused_model import FusedLanguageModel
from genepool.composition.world import ComposedTask, World
from genepool.errors import InputError
from genepool.tasks.models import Model, Source, WeightsSource, load_as, open_model
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.tasks.pretrained import load_tokenizer
from genepool.weights import Change

if TYPE_CHECKING:
    import torch

    from genepool.composition.logits.rules import FusionRule
    from genepool.tasks.network import Network

# Above this share of the predictions' mass on tokens that the leading model lacks, a fusion says little of the skill.
_HIGHEST_UNCOVERED = 0.1


class FusionOptions(ComposerOptions):
    """Options of every composer of logit space."""

    prefix: str = Field(default="", description="Text that every model but the leading one reads before each prompt.")


class SmallBaseOptions(FusionOptions):
    """Options where the skills may be of another base than the model that they steer."""

    models: ClassVar[tuple[str, ...]] = ("small_base",)

    small_base: str | None = Field(
        default=None, description="The model that the skills were made of, where that is not --base."
    )


FusionOptionsOf = TypeVar("FusionOptionsOf", bound=FusionOptions)


class LogitComposer(Composer[FusionOptionsOf]):
    """A composer whose models run side by side and whose logits become one. Nothing is learned."""

    def fit(self, world: World) -> Composition:
        """Checks the models, and measures what their vocabularies lose on the tasks."""
        found = FusedComposition(self, world.skills, {})
        found.check()
        if found.vocabularies_differ():
            if not world.tasks:
                raise InputError(
                    "the models have different vocabularies, and no task tells how much of their predictions is lost",
                    where="--tasks",
                    fix="Name tasks",
                )
            found.record["uncovered"] = _uncovered(found, world)
        return found

    def restore(self, saved: Saved) -> Composition:
        found = FusedComposition(self, saved.skills, saved.record)
        found.check()
        return found

    def parts(self, base: Source, skills: Sequence[Source]) -> tuple[Source, list[Source]]:
        """The leading model, and the others in the order that the rule expects; the base leads the skills."""
        small = getattr(self.options, "small_base", None)
        return base, [*skills, *([] if small is None else [open_model(small)])]

    @abstractmethod
    def rule(self, skills: int) -> FusionRule:
        """How the logits become one.

        Args:
            skills: their number.
        """


class FusedComposition(Composition):
    """Models side by side, with nothing learned. Arguments as for `Composition`."""

    composer: LogitComposer[Any]

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {}

    @property
    def kind(self) -> type[Model]:
        return FusedLanguageModel

    def sources(self) -> tuple[Source, list[Source]]:
        """The leading model and the others; nothing is loaded."""
        return self.composer.parts(open_model(self.skills.base), [skill.source for skill in self.skills.skills])

    def check(self) -> None:
        """Refuses models that cannot be read beside others, before anything is loaded.

        Raises:
            InputError: one is no causal language model, or is a composition itself.
        """
        lead, others = self.sources()
        check_plain_models((lead, *others), self.composer.name)

    def vocabularies_differ(self) -> bool:
        """Whether a model has other tokens than the leading one; reads tokenizers only."""
        lead, others = self.sources()
        first, *rest = (load_tokenizer(one.weights) for one in (lead, *others) if isinstance(one, WeightsSource))
        return any(tokenizer.get_vocab() != first.get_vocab() for tokenizer in rest)

    def load(self, device: str = "cpu", dtype: str = "float32") -> Model:
        """Loads every model."""
        lead, others = self.sources()
        return self._fused(load_as(LanguageModel, lead, self.composer.name, device=device, dtype=dtype), others)

    def apply(self, network: Network) -> Model:
        """Puts the other models beside the base that is in memory, where the base leads."""
        lead, others = self.sources()
        assert isinstance(network, LanguageModel)
        if lead.fingerprint != network.fingerprint:
            return self.load(str(network.device), _type_name(network))
        return self._fused(network, others)

    def _fused(self, lead: LanguageModel, others: Sequence[Source]) -> FusedLanguageModel:
        device, dtype = str(lead.device), _type_name(lead)
        loaded = [load_as(LanguageModel, one, self.composer.name, device=device, dtype=dtype) for one in others]
        rule = self.composer.rule(len(self.skills.skills))
        return FusedLanguageModel(lead, loaded, rule, self.name, self.fingerprint, self.composer.options.prefix)

    def fold(self) -> Change:
        """Refused: logits are added up for every token anew."""
        raise InputError(
            f"{self.composer.name} adds up the predictions of several models, and no weights do the same",
            where=self.name,
            fix="Use the folder of the composition as it is",
        )


def _type_name(model: LanguageModel) -> str:
    return str(model.model.dtype).removeprefix("torch.")


def _uncovered(composition: FusedComposition, world: World) -> dict[str, float]:
    """The share of each model's predictions that the leading model has no tokens for, on the tasks of the world.

    Raises:
        InputError: a share is above 10%.
    """
    model = composition.load(world.device, world.dtype)
    assert isinstance(model, FusedLanguageModel)
    prompts, answers = _asked(world.tasks, model)
    shares = model.uncovered(prompts, answers)
    for other, share in zip(model.others, shares, strict=True):
        if share > _HIGHEST_UNCOVERED:
            raise InputError(
                f"{share:.0%} of its predictions on these tasks are tokens that {model.lead.title} does not have, "
                f"at most {_HIGHEST_UNCOVERED:.0%} may be",
                where=other.title,
                fix="Use models whose vocabularies are closer",
            )
        if share:
            progress.message(f"{other.title}: {share:.2%} of its predictions are tokens {model.lead.title} lacks")
    return {other.title: round(share, 6) for other, share in zip(model.others, shares, strict=True)}


def _asked(tasks: Sequence[ComposedTask], model: LanguageModel) -> tuple[list[str], list[str]]:
    """Prompts and right answers of the tasks."""
    pairs = [(one.task.prompt_for(example, model), example.answer) for one in tasks for example in one.examples]
    return [prompt for prompt, _ in pairs], [answer for _, answer in pairs]
