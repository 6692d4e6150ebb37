"""Adaptive decoding: a head that chooses the temperature of every token, or of every answer, of a frozen model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from genepool import progress
from genepool.composition.adaptive.adaptive_model import AdaptiveLanguageModel
from genepool.composition.composer import Composer, ComposerOptions, register
from genepool.composition.composition import Composition, Saved
from genepool.composition.world import World
from genepool.errors import InputError
from genepool.seeding import derive
from genepool.tasks import DEFAULT_BATCH, Decoding
from genepool.tasks.metrics import find_metric
from genepool.tasks.models import Model, load_as
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.weights import Change

if TYPE_CHECKING:
    import torch

    from genepool.composition.adaptive.preferences import ScoredAnswer
    from genepool.tasks.network import Network


class AdaptiveDecodingOptions(ComposerOptions):
    """Options of adaptive decoding."""

    temperatures: tuple[float, ...] = Field(
        default=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
        min_length=2,
        max_length=32,
        description="Temperatures that the head chooses among (the paper's).",
    )
    level: Literal["token", "sequence"] = Field(
        default="token", description="Choose for every token, or once for an answer, at the prompt's end."
    )
    samples: int = Field(default=4, ge=1, le=64, description="Answers drawn at each temperature above 0 for a prompt.")
    beta: float = Field(default=1.0, gt=0, le=100, description="How sharply a preference counts.")
    steps: int = Field(default=200, ge=1, le=100_000, description="Steps of Adam, on all pairs.")
    learning_rate: float = Field(default=1e-2, gt=0, le=1, description="Of Adam.")

    @field_validator("temperatures")
    @classmethod
    def _usable(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(math.isfinite(one) and 0 <= one <= 10 for one in value) or len(set(value)) < len(value):
            raise ValueError("temperatures must be different numbers from 0 to 10")
        return value


@register(
    "adaptive_decoding",
    source="Dhuliawala et al., Adaptive decoding via latent preference optimization, arXiv:2411.09661: temperatures by "
    "0.2, the loss; a linear head, its likeliest temperature, and the defaults are ours",
    when="One model answers both what has one right answer and what has many, drawn at temperature 1.",
    needs="answers",
    out="module",
    cost="answers drawn at every temperature for each example; the head itself takes seconds",
    skills=(1, 1),
    members="models",
)
class AdaptiveDecoding(Composer[AdaptiveDecodingOptions]):
    """`softmax(logits / tau)`, where a head on the last hidden state chooses tau. The skill's model is decoded."""

    def fit(self, world: World) -> Composition:
        from genepool.composition.adaptive.preferences import head_inputs, preferred_pairs, train_head

        options = self.options
        model = load_as(LanguageModel, world.skills.skills[0].source, self.name, device=world.device, dtype=world.dtype)
        prompts, answers = self._drawn(world, model)
        pairs = preferred_pairs(answers, world.seed)
        if not pairs:
            raise InputError(
                "no prompt has a better and a worse answer drawn at different temperatures, so none is preferred",
                where="--tasks",
                fix="Give other tasks, more --examples, or --set samples=8",
            )
        states = head_inputs(model, [prompts[one.prompt] for one in answers], [one.text for one in answers])
        if options.level == "sequence":
            states = [one[:1] for one in states]
        weight, bias, losses = train_head(
            states,
            answers,
            pairs,
            len(options.temperatures),
            beta=options.beta,
            steps=options.steps,
            learning_rate=options.learning_rate,
        )
        record = {
            "seed": world.seed,
            "prompts": len(prompts),
            "answers": len(answers),
            "pairs": len(pairs),
            "loss": [round(losses[0], 6), round(losses[-1], 6)],
            "score_by_temperature": self._means(answers),
        }
        return AdaptiveComposition(self, world.skills, record, weight, bias)

    def restore(self, saved: Saved) -> Composition:
        count = len(self.options.temperatures)
        weight, bias = saved.tensor("weight", (count, None)), saved.tensor("bias", (count,))
        return AdaptiveComposition(self, saved.skills, saved.record, weight, bias)

    def _drawn(self, world: World, model: LanguageModel) -> tuple[list[str], list[ScoredAnswer]]:
        """All prompts, and what was drawn at every temperature for each; at 0 one answer."""
        from genepool.composition.adaptive.preferences import ScoredAnswer

        prompts: list[str] = []
        answers: list[ScoredAnswer] = []
        tries = [(number, turn) for number, heat in enumerate(self.options.temperatures) for turn in self._turns(heat)]
        with progress.bar("drawing answers", len(world.tasks) * len(tries), "draws") as bar:
            for composed in world.tasks:
                ask = composed.task.settings
                metric = find_metric(ask.metric)
                if metric.needs != "text":
                    raise InputError(
                        "its answers are chosen, not written", where=composed.task.name, fix="Leave it out"
                    )
                first = len(prompts)
                asked = [composed.task.prompt_for(one, model) for one in composed.examples]
                prompts += asked
                keys = [one.key for one in composed.examples]
                for number, turn in tries:
                    heat, seed = self.options.temperatures[number], derive(world.seed, "drawn", number, turn) % 2**31
                    decoding = Decoding(ask.max_new_tokens, tuple(ask.stop), heat, 1.0, seed)
                    for at, one in enumerate(model.write(asked, keys, decoding, DEFAULT_BATCH)):
                        score = metric.score(one.text, composed.examples[at], ask.strip)
                        answers.append(ScoredAnswer(first + at, number, one.text, score))
                    bar.advance()
        return prompts, answers

    def _turns(self, temperature: float) -> range:
        return range(self.options.samples if temperature else 1)

    def _means(self, answers: list[ScoredAnswer]) -> dict[str, float]:
        """The mean score at each fixed temperature: what the head has to beat."""
        found = {}
        for number, temperature in enumerate(self.options.temperatures):
            scores = [one.score for one in answers if one.temperature == number]
            found[f"{temperature:g}"] = round(sum(scores) / len(scores), 6)
        return found


class AdaptiveComposition(Composition):
    """A model and its head.

    Args:
        composer, skills, record, name: as for `Composition`.
        weight, bias: the head, (temperatures, width) and (temperatures,).
    """

    composer: AdaptiveDecoding

    def __init__(
        self,
        composer: AdaptiveDecoding,
        skills: Any,
        record: Mapping[str, Any],
        weight: torch.Tensor,
        bias: torch.Tensor,
        name: str = "",
    ) -> None:
        super().__init__(composer, skills, record, name)
        self.weight, self.bias = weight, bias

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {"weight": self.weight, "bias": self.bias}

    @property
    def labels(self) -> Mapping[str, list[str]]:
        return {"temperatures": [f"{one:g}" for one in self.composer.options.temperatures]}

    @property
    def kind(self) -> type[Model]:
        return AdaptiveLanguageModel

    def load(self, device: str = "cpu", dtype: str = "float32") -> Model:
        """The skill's model and the head; the base is not needed."""
        source = self.skills.skills[0].source
        return self.apply(load_as(LanguageModel, source, self.composer.name, device=device, dtype=dtype))

    def apply(self, network: Network) -> Model:
        """Puts the head beside the skill's model.

        Raises:
            InputError: the head is of another width.
        """
        assert isinstance(network, LanguageModel)
        width = network.model.get_output_embeddings().weight.shape[1]
        if self.weight.shape[1] != width:
            raise InputError(
                f"its head reads {self.weight.shape[1]} numbers, and the model has {width}",
                where=self.name,
                fix="Compose it again",
            )
        return AdaptiveLanguageModel(
            network,
            self.weight,
            self.bias,
            self.composer.options.temperatures,
            whole=self.composer.options.level == "sequence",
            name=self.name,
            fingerprint=self.fingerprint,
        )

    def fold(self) -> Change:
        """Refused: temperatures depend on what is read."""
        raise InputError(
            "it chooses temperatures by what it reads, and no weights do the same",
            where=self.name,
            fix="Use the folder of the composition as it is",
        )
