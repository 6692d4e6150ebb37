"""SLM: every task gets adapters of its own, and each prompt retrieves by itself those that answer it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from genepool.errors import InputError
from genepool.training.continual.memory import Memory
from genepool.training.learners import LearnerOptions, TaskLearner

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from genepool.tasks.answers import AnswerBatch
    from genepool.training.continual.retrieved import LearnedPool
    from genepool.training.examples import TrainingExample
    from genepool.training.opened_training import OpenedTraining

# How the tensors of adapters are called, beside `keys`.
_SIDES = ("down/", "up/")
# The rank of an adapter that the composition takes, at most.
_MOST_RANK = 1024


class SlmLearnerOptions(LearnerOptions):
    """Options of `slm`."""

    deltas: int = Field(
        default=4,
        ge=1,
        le=1000,
        description="Adapters of each task, into which its factors are cut: the rank must be a multiple of it. The "
        "authors' code has 4 of rank 8, which is --lora 32.",
    )
    chosen: int = Field(default=2, ge=1, le=1000, description="Adapters that answer a prompt.")
    groups: int = Field(default=6, ge=1, le=4096, description="Parts of a state that are compared with keys.")
    keys: Literal["means", "orthogonal"] = Field(
        default="means",
        description="means: the means of clusters of a task's states; orthogonal: drawn at right angles, as the "
        "authors' code begins. Both stand still.",
    )


class SlmLearner(TaskLearner):
    """`W x + sum_i w_i B_i A_i x`, the adapters i being those whose keys are nearest to the prompt's state.

    The factors of a task are cut into `deltas` adapters of equal rank. The state of a prompt is the mean of the base's
    last hidden states, without any adapter; its cosine with a key is the mean over groups of its numbers, and w are the
    shares of the `chosen` nearest ones. Every prompt retrieves by itself, no task is named, and the authors' average
    over a batch is left out. While a task is learned, its own adapters move; those of earlier tasks stand still, and
    answer where they are nearer. The authors also leave out keys at random then, which is not done here. The result is
    a composition.
    """

    name = "slm"
    source = (
        "Peng et al., Scalable Language Model with Generalized Continual Learning, ICLR 2024: 4 adapters for each "
        "task, the nearest 2 by cosine over 6 groups as the authors' code; keys by k-means are ours"
    )
    when = "no example may be kept, and no task is named when a prompt is asked"
    factors_only: ClassVar[bool] = True
    one_a_row: ClassVar[bool] = True
    retrieves: ClassVar[bool] = True
    Options: ClassVar[type[LearnerOptions]] = SlmLearnerOptions
    options: SlmLearnerOptions

    def check(self, opened: OpenedTraining) -> None:
        from genepool.tasks import open_model
        from genepool.tasks.quantised import packed_base
        from genepool.training.memory import adapted_output

        recipe, count = opened.recipe, self.options.deltas
        if recipe.lora.rank % count:
            raise InputError(
                f"got {count}, into which factors of rank {recipe.lora.rank} cannot be cut",
                where=recipe.key("options.deltas"),
                fix=f"Train factors of a rank that is a multiple of {count}, or set another number",
            )
        if recipe.lora.rank // count > _MOST_RANK:
            raise InputError(
                f"is {recipe.lora.rank}, so each of {count} adapters has a rank of {recipe.lora.rank // count}, above "
                f"{_MOST_RANK}",
                where=recipe.key("lora.rank"),
                fix="Set a smaller one, or more `deltas`",
            )
        if packed_base(opened.base) is not None:
            raise InputError(
                f"is computed as it is quantised, where the learner {self.name} has no adapters beside it",
                where=recipe.base,
                fix="Name the unquantised model, or another learner",
            )
        if output := adapted_output(opened):
            raise InputError(
                f"name {output}, which writes the tokens, and no prompt retrieves adapters of it",
                where=recipe.key("lora.targets"),
                fix="Leave it out",
            )
        if "text" not in (kind := open_model(opened.base).kind).can:
            raise InputError(
                f"the learner {self.name} needs a model that writes, got {kind.kind}",
                where=recipe.base,
                fix="Name a language model, or another learner",
            )
        for task in opened.lessons.tasks:
            examples = sum(lesson.task is task for lesson in opened.lessons.train)
            if self.options.keys == "means" and examples < count:
                raise InputError(
                    f"has {examples} examples to learn from, fewer than it has adapters ({count})",
                    where=task.name,
                    fix="Give more examples, or set a smaller `deltas`",
                )

    def begins_with(self, stages: Sequence[Callable[[Sequence[str]], torch.Tensor]]) -> int:
        return 0

    def begin_task(self) -> None:
        import torch

        from genepool.tasks import DEFAULT_BATCH
        from genepool.training.continual.retrieved import RetrievedFactors, factor_layers
        from genepool.training.retrieval import GroupedKeys, means_of_clusters, orthogonal_keys

        place, ask, device = self.place, self.options, self.place.model.device
        self._layers = factor_layers(place)
        # The factors change nothing yet, so these are the states of the base.
        prompts = [lesson.task.prompt_for(lesson.example, place.model) for lesson in place.lessons]
        distinct = list(dict.fromkeys(prompts))
        with torch.no_grad():
            # In parts: the states of all layers and tokens of a part are in memory at once.
            starts = range(0, len(distinct), DEFAULT_BATCH)
            parts = [place.model.embeddings(distinct[start : start + DEFAULT_BATCH]).float() for start in starts]
        states = dict(zip(distinct, torch.cat(parts), strict=True))
        own = torch.stack([states[prompt] for prompt in prompts])
        self._states = {lesson.example.key: state for lesson, state in zip(place.lessons, own, strict=True)}
        if ask.keys == "means":
            keys = means_of_clusters(own, ask.deltas)
        else:
            keys = orthogonal_keys(ask.deltas, own.shape[1], ask.groups, place.seed, place.number)
        kept = {name: tensor.to(device) for name, tensor in self.memory.tensors.items()}
        self._keys = torch.cat([*([kept["keys"]] if kept else []), keys.to(device)])
        self._retrieval = GroupedKeys(self._keys, ask.groups, ask.chosen)
        before = {name: tensor for name, tensor in kept.items() if name.startswith(_SIDES)}
        self._factors = RetrievedFactors(self._layers, ask.deltas, before)

    def _weights(self, lessons: Sequence[TrainingExample]) -> torch.Tensor:
        """What every adapter weighs for each example, (examples, adapters)."""
        import torch

        return self._retrieval.weights(torch.stack([self._states[lesson.example.key] for lesson in lessons]))

    def losses(self, batch: AnswerBatch, lessons: Sequence[TrainingExample]) -> torch.Tensor:
        # They stay until the next batch: with checkpoints, layers compute again in the backward pass.
        self._factors.weights = self._weights(lessons)
        return super().losses(batch, lessons)

    def end_task(self) -> Memory:
        import torch

        from genepool.training.continual.retrieved import cut

        kept, own = self.memory.tensors, cut(self.place.values, self._layers, self.options.deltas)
        joined = {name: torch.cat([kept[name], one]) if name in kept else one for name, one in own.items()}
        weights = self._weights(self.place.lessons).mean(0).tolist()
        return Memory(
            {"keys": self._keys.float().cpu(), **joined}, facts={"weights": [round(one, 6) for one in weights]}
        )

    def pool(self, memory: Memory) -> LearnedPool | None:
        from genepool.training.continual.retrieved import LearnedPool

        down = next(one for name, one in memory.tensors.items() if name.startswith("down/"))
        options: Mapping[str, Any] = {**self.options.model_dump(mode="json"), "rank": down.shape[1]}
        return LearnedPool(memory.tensors, self.name, options)
