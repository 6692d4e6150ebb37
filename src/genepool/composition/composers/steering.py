"""Steering vectors: each skill becomes a constant behind one layer of the base, chosen and scaled on its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from genepool import progress
from genepool.composition.composer import Composer, ComposerOptions, register
from genepool.composition.composition import Composition, Saved
from genepool.composition.steering.steered_model import SteeredLanguageModel, steering_biases
from genepool.composition.world import ComposedTask, World
from genepool.errors import InputError
from genepool.tasks import DEFAULT_BATCH, open_model
from genepool.tasks.answering import answer
from genepool.tasks.metrics import find_metric
from genepool.tasks.models import Model, check_kind, load_as
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.weights import Change
from genepool.weights.in_memory import ResidentChange

if TYPE_CHECKING:
    import torch

    from genepool.tasks.network import Network

# Of a task's examples, the part on which layers and scales are compared, and the fewest examples that can be divided.
_HELD, _FEWEST = 0.5, 4


class SteeringOptions(ComposerOptions):
    """Options of steering."""

    contrast: Literal["skill", "answers"] = Field(
        default="skill",
        description="Take the difference between a skill and its base that read right answers (skill), or between "
        "right answers and the wrong ones of the base (answers).",
    )
    scales: tuple[float, ...] = Field(
        default=(0.25, 0.5, 1.0, 2.0),
        min_length=1,
        max_length=32,
        description="Scales to try, in units of the mean norm of the layer's hidden states.",
    )
    layers: tuple[int, ...] = Field(default=(), description="Layers to try, from 0; all when empty.")
    place: Literal["spread", "one"] = Field(
        default="spread",
        description="Give every skill a layer of its own while there are layers (spread), or add all vectors up behind "
        "one layer (one).",
    )
    everywhere: bool = Field(
        default=False, description="Add vectors to the prompt's tokens too; then they fold into biases."
    )


@register(
    "steering",
    source="Rimsky et al., Contrastive activation addition, arXiv:2312.06681: mean difference at the answer's last "
    "token, added behind the prompt; several at different layers: van der Weij et al., arXiv:2403.05767; scales and "
    "the difference between a skill and its base are ours",
    when="A skill is mostly a matter of mode: the base can do it and does not.",
    needs="answers",
    out="module",
    cost="one pass of each skill over its examples; then layers times scales evaluations of half of them",
    skills=(1, None),
)
class Steering(Composer[SteeringOptions]):
    """`h_l += scale_i norm_l v_i` from the prompt's last token on, for every skill i at its layer l.

    The skills are placed one after the other: each layer and scale is scored on the skill's held-out examples together
    with those of the skills before it, whose vectors are on.
    """

    def __init__(self, options: SteeringOptions) -> None:
        super().__init__(options)
        if options.everywhere:
            # A constant at every place is a bias.
            self.out = "weights"  # type: ignore[misc]

    def fit(self, world: World) -> Composition:
        import torch

        check_kind(LanguageModel, open_model(world.skills.base), self.name)
        world.check_owned()
        base = world.network
        assert isinstance(base, LanguageModel)
        owned = [(number, task) for number in range(len(world.skills.skills)) for task in _owned(world, number)]
        parts = [_parted(task) for _, task in owned]
        extracted = [
            self._vectors(world, base, number, task, learn)
            for (number, task), (learn, _) in zip(owned, parts, strict=True)
        ]
        held = [(task, examples) for (_, task), (_, examples) in zip(owned, parts, strict=True)]
        placed, scores = self._placed(base, extracted, held)
        numbers = torch.tensor([layer for layer, _ in placed])
        vectors = torch.stack([vector for _, vector in placed])
        record = {
            "seed": world.seed,
            "warnings": [
                _no_help(task, score) for (_, task), score in zip(owned, scores, strict=True) if not _helps(score)
            ],
            "placed": [
                {"task": task.task.name, "layer": layer, "norm": round(float(vector.norm()), 4), **score}
                for (_, task), (layer, vector), score in zip(owned, placed, scores, strict=True)
            ],
        }
        return SteeringComposition(self, world.skills, record, numbers, vectors)

    def restore(self, saved: Saved) -> Composition:
        import torch

        vectors = saved.tensor("vectors", (None, None))
        layers = saved.tensor("layers", (len(vectors),))
        if not torch.equal(layers, layers.round()) or bool((layers < 0).any()):
            raise InputError("is no list of layers", where=f"{saved.where}:layers", fix="Compose it again")
        return SteeringComposition(self, saved.skills, saved.record, layers.long(), vectors)

    def _vectors(
        self, world: World, base: LanguageModel, number: int, task: ComposedTask, learn: Sequence[Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of one skill: the vector of every layer, (layers, width), and the layers' mean norms, (layers,)."""
        from genepool.composition.steering.extraction import answer_states, steering_vectors

        prompts = [task.task.prompt_for(example, base) for example in learn]
        answers = [example.answer for example in learn]
        if self.options.contrast == "skill":
            other = answer_states(base, prompts, answers)
            base.assign(world.skills.skills[number].change.applied())
            right = answer_states(base, prompts, answers)
            base.assign(world.skills.base)
            return steering_vectors(right, other)
        outcomes = answer(base, task.task, learn, DEFAULT_BATCH, True)
        wrong = [at for at, one in enumerate(outcomes) if one.score < 1 and one.output]
        if not wrong:
            raise InputError(
                "the base answers every example right, so there is no wrong answer to steer away from",
                where=task.task.name,
                fix="Give other examples, or --set contrast=skill",
            )
        asked = [prompts[at] for at in wrong]
        right = answer_states(base, asked, [answers[at] for at in wrong])
        return steering_vectors(right, answer_states(base, asked, [outcomes[at].output or "" for at in wrong]))

    def _placed(
        self,
        base: LanguageModel,
        extracted: Sequence[tuple[torch.Tensor, torch.Tensor]],
        held: Sequence[tuple[ComposedTask, Sequence[Any]]],
    ) -> tuple[list[tuple[int, torch.Tensor]], list[dict[str, float]]]:
        """(layer, vector as it is added) of every skill, and the mean held-out scores: without it, and with it."""
        depth = len(extracted[0][1])
        for layer in self.options.layers:
            if not 0 <= layer < depth:
                raise InputError(
                    f"there is no layer {layer}, the base has {depth}",
                    where="--set layers",
                    fix=f"Name 0 to {depth - 1}",
                )
        wanted = list(self.options.layers) or list(range(depth))
        placed: list[tuple[int, torch.Tensor]] = []
        scores: list[dict[str, float]] = []
        with progress.bar("placing vectors", len(extracted) * len(wanted) * len(self.options.scales), "tries") as bar:
            for number, (vectors, norms) in enumerate(extracted):
                free = self._free(wanted, placed)
                without = self._score(base, placed, held[: number + 1])
                best: tuple[float, int, torch.Tensor] | None = None
                for layer in free:
                    for scale in self.options.scales:
                        vector = scale * norms[layer] * vectors[layer]
                        score = self._score(base, [*placed, (layer, vector)], held[: number + 1])
                        if best is None or score > best[0]:
                            best = (score, layer, vector)
                        bar.advance()
                assert best is not None
                placed.append(best[1:])
                scores.append({"without": round(without, 6), "score": round(best[0], 6)})
                if not _helps(scores[-1]):
                    progress.message(f"warning: {_no_help(held[number][0], scores[-1])}")
        return placed, scores

    def _free(self, wanted: list[int], placed: Sequence[tuple[int, Any]]) -> list[int]:
        """The layers where the next vector may go."""
        used = [layer for layer, _ in placed]
        if self.options.place == "one":
            return used[:1] or wanted
        return [layer for layer in wanted if layer not in used] or wanted

    def _score(
        self,
        base: LanguageModel,
        placed: Sequence[tuple[int, torch.Tensor]],
        held: Sequence[tuple[ComposedTask, Sequence[Any]]],
    ) -> float:
        """The mean score of a base steered by some vectors, each task counting once."""
        everywhere = self.options.everywhere
        model = SteeredLanguageModel(base, summed(placed), "steered", "", everywhere=everywhere)
        means = []
        for task, examples in held:
            outcomes = answer(model, task.task, examples, DEFAULT_BATCH, False)
            means.append(sum(one.score for one in outcomes) / len(outcomes))
        return sum(means) / len(means)


class SteeringComposition(Composition):
    """Vectors behind layers.

    Args:
        composer, skills, record, name: as for `Composition`.
        layers: the layer of each vector, (vectors,), int64.
        vectors: as they are added, (vectors, width).
    """

    composer: Steering

    def __init__(
        self,
        composer: Steering,
        skills: Any,
        record: Mapping[str, Any],
        layers: torch.Tensor,
        vectors: torch.Tensor,
        name: str = "",
    ) -> None:
        super().__init__(composer, skills, record, name)
        self.layers, self.vectors = layers, vectors

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {"layers": self.layers.float(), "vectors": self.vectors}

    @property
    def kind(self) -> type[Model]:
        return SteeredLanguageModel

    def added(self) -> dict[int, torch.Tensor]:
        """What is added behind each layer, by its number."""
        return summed(list(zip(self.layers.tolist(), self.vectors, strict=True)))

    def apply(self, network: Network) -> Model:
        from genepool.composition.steering.layers import decoder_layers

        assert isinstance(network, LanguageModel)
        depth = len(decoder_layers(network.model, network.title))
        width = network.model.config.get_text_config().hidden_size
        if int(self.layers.max()) >= depth or self.vectors.shape[1] != width:
            raise InputError(
                f"its vectors are of {self.vectors.shape[1]} numbers up to layer {int(self.layers.max())}, and the "
                f"base has {depth} layers of {width}",
                where=self.name,
                fix="Compose it again",
            )
        everywhere = self.composer.options.everywhere
        return SteeredLanguageModel(network, self.added(), self.name, self.fingerprint, everywhere=everywhere)

    def fold(self) -> Change:
        """The biases of the layers' MLPs, changed.

        Raises:
            InputError: vectors are added to answers alone, or a layer has no such bias.
        """
        if not self.composer.options.everywhere:
            raise InputError(
                "its vectors are added to answers alone, and a bias is added everywhere",
                where=self.name,
                fix="Use the folder of the composition as it is, or compose with --set everywhere=true",
            )
        added = self.added()
        base = load_as(LanguageModel, open_model(self.skills.base), self.composer.name)
        names = steering_biases(base, list(added))
        deltas = dict(zip(names, added.values(), strict=True))
        return self.skills.on_base(ResidentChange(deltas, self.skills.memory_base, self.name))


def summed(placed: Sequence[tuple[int, torch.Tensor]]) -> dict[int, torch.Tensor]:
    """Vectors by layer; those behind one layer are added up."""
    found: dict[int, torch.Tensor] = {}
    for layer, vector in placed:
        found[layer] = found[layer] + vector if layer in found else vector
    return found


def _helps(score: Mapping[str, float]) -> bool:
    """Whether a vector is better than none, on held-out examples."""
    return score["score"] > score["without"]


def _no_help(task: ComposedTask, score: Mapping[str, float]) -> str:
    return (
        f"{task.task.name}: no vector helps (held-out score {score['without']:.3f} without one, {score['score']:.3f} "
        "with the best, which is added all the same)."
    )


def _owned(world: World, number: int) -> list[ComposedTask]:
    """The tasks of a skill whose answers are texts."""
    found = [task for task in world.tasks if task.owner == number]
    for task in found:
        if not find_metric(task.task.settings.metric).answers_are_texts:
            raise InputError(
                "its answers are patterns, not texts", where=task.task.name, fix="Leave it out with --task"
            )
    return found


def _parted(task: ComposedTask) -> tuple[Sequence[Any], Sequence[Any]]:
    """Examples to extract from, and held-out ones to choose by.

    Raises:
        InputError: there are too few.
    """
    count = len(task.examples)
    if count < _FEWEST:
        raise InputError(f"has {count} examples, at least {_FEWEST} are needed", where=task.task.name, fix="Give more")
    kept = round(count * (1 - _HELD))
    return task.examples[:kept], task.examples[kept:]
