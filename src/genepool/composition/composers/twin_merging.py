"""Twin-Merging: one part that all skills share, and beside it as much of each skill's own as a router says."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from pydantic import Field

from genepool import progress
from genepool.composition.blend import Blend
from genepool.composition.coefficients import CoefficientLayout
from genepool.composition.composer import Composer, ComposerOptions, register
from genepool.composition.composition import Composition, Saved
from genepool.composition.gradient import MergedNetwork
from genepool.composition.inputs import parted
from genepool.composition.kept_fit import KeptFit
from genepool.composition.known_task import KnownTaskComposition
from genepool.composition.residence import Residence, plan_kept
from genepool.composition.routing.twin_parts import (
    ExclusivePart,
    Factors,
    exclusive_factors,
    rank_of,
    shared_part,
    truncatable,
)
from genepool.composition.skill_set import SkillSet
from genepool.composition.vectors import TaskVectors, held_bytes
from genepool.composition.world import World
from genepool.errors import InputError
from genepool.kernels.memory import free_memory
from genepool.saved_models import TASK_MARK
from genepool.tasks.models import Model, open_model
from genepool.tasks.network import Network
from genepool.threads import torch_threads
from genepool.training.run import sensible_threads
from genepool.weights import Change

if TYPE_CHECKING:
    import torch

    from genepool.composition.routing.router import RoutedInputs, Router

# Of the free memory, what the parts may take while a network answers; they are read from the disk otherwise.
_SHARE = 0.5


class TwinMergingOptions(ComposerOptions):
    """Options of Twin-Merging."""

    scale: float = Field(
        default=0.3, gt=0, le=10, description="What the skills are multiplied by in the shared part (the paper's)."
    )
    rank: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="Share of its singular values that each matrix of an exclusive part keeps, at least one; 1: all.",
    )
    choice: Literal["softmax", "top"] = Field(
        default="softmax",
        description="Mix the exclusive parts by the router's shares (the paper's), or take the likeliest one alone, "
        "which answers all prompts of a skill together.",
    )
    levels: int = Field(
        default=0,
        ge=0,
        le=10**6,
        description="Round shares to multiples of 1 / levels, so that more prompts are answered together; 0: never.",
    )
    epochs: int = Field(
        default=50, ge=1, le=10**5, description="Rounds of the router over the inputs (the authors' code)."
    )
    learning_rate: float = Field(
        default=5e-4, gt=0, le=1, description="The router's first step size, which falls to 0 (the authors' code)."
    )
    batch: int = Field(
        default=32,
        ge=2,
        le=10**6,
        description="Inputs in a step, at most (ours: some hundred inputs give as many steps as the authors' thousands "
        "in batches of 256 to 1024).",
    )
    dropout: float = Field(
        default=0.5, ge=0, lt=1, description="Share of the router's hidden units left out of a step (the authors')."
    )


@register(
    "twin_merging",
    source="Lu et al., Twin-Merging, arXiv:2406.15479: scale 0.3, singular vectors, a router of two hidden layers with "
    "batch normalisation, 50 epochs at 5e-4; its code chooses the epoch by test score, here held-out inputs do",
    when="It is not known which skill an input needs; a few inputs of each are there; one sum of all is too coarse.",
    needs="inputs",
    out="module",
    cost="a singular value decomposition of each matrix of each skill, one pass of the shared model over the inputs; "
    "when asked, one mixture for all prompts of equal weights",
)
class TwinMerging(Composer[TwinMergingOptions]):
    """`th0 + S + sum_i softmax(r(x))_i E_i`, with `S = scale sum_i t_i` and E_i of low rank, near `t_i - S`.

    The router r reads the mean last hidden state of the shared model `th0 + S`. `FOLDER#TASK` is the model of one task,
    `th0 + S + E_i`, without the router.
    """

    def plan(self, skills: SkillSet, dtype: str) -> Residence:
        vectors, kept, largest = skills.vectors(), 0, 0
        for name in truncatable(vectors):
            rows, columns = vectors.matrix(name)
            rank = rank_of((rows, columns), self.options.rank)
            if rank is not None:
                kept += 4 * rank * (rows + columns) * len(skills.skills)
                # The matrix, its factors, and the smaller Gram matrix and its eigenvectors in float64.
                largest = max(largest, 8 * rows * columns + 16 * min(rows, columns) ** 2)
        return plan_kept(skills, kept + largest, dtype=dtype)

    def fit(self, world: World) -> Composition:
        vectors = world.skills.vectors()
        factors = exclusive_factors(vectors, self.shared(vectors, ""), self.options.rank)
        with torch_threads(sensible_threads(world.skills.base)):
            router, record = self._trained_router(world, vectors)
        return TwinComposition(self, world.skills, record, factors, router)

    def restore(self, saved: Saved) -> Composition:
        from genepool.composition.routing.router import Router

        vectors = saved.skills.vectors()
        factors: list[dict[str, Factors]] = [{} for _ in vectors.changes]
        for name in truncatable(vectors):
            rows, columns = vectors.matrix(name)
            if rank_of((rows, columns), self.options.rank) is None:
                continue
            for number, held in enumerate(factors):
                left = saved.tensor(f"left/{number}/{name}", (rows, None))
                held[name] = left, saved.tensor(f"right/{number}/{name}", (left.shape[1], columns))
        width = saved.tensor("router/hidden.0.weight", (None, None)).shape[1]
        # Checked before a router of this width takes memory: one row of a file is not to ask for a square of rows.
        saved.tensor("router/hidden.0.weight", (2 * width, width))
        router = Router(width, len(vectors.changes), self.options.dropout).eval()
        router.put({name: saved.tensor(f"router/{name}", tuple(own.shape)) for name, own in router.tensors().items()})
        return TwinComposition(self, saved.skills, saved.record, factors, router)

    def shared(self, vectors: TaskVectors, identity: str) -> Blend:
        """The shared part."""
        return shared_part(vectors, self.options.scale, "the shared part", identity)

    def _trained_router(self, world: World, vectors: TaskVectors) -> tuple[Router, dict[str, Any]]:
        import torch

        from genepool.composition.routing.router import RouterFit, chosen_of_held, train_router
        from genepool.composition.routing.task_inputs import warn_of_chance

        options, skills = self.options, world.skills
        inputs, examples, digests = self._inputs(world, vectors)
        named = {"composer": self.name, "options": options.model_dump(mode="json"), "tasks": digests}
        how = RouterFit(options.epochs, options.learning_rate, options.batch, options.dropout, world.seed)
        kept = KeptFit(world.work, {**world.identity(), **named})
        router, record = train_router(inputs, len(skills.skills), how, kept)
        owners = inputs.skills[torch.tensor(inputs.held, dtype=torch.long)].numpy()
        warnings = warn_of_chance(chosen_of_held(router, inputs).numpy(), owners, dict(enumerate(skills.names)))
        told = {"warnings": warnings} if warnings else {}
        return router, {**record, "examples": examples, "seed": world.seed, **told}

    def _inputs(
        self, world: World, vectors: TaskVectors
    ) -> tuple[RoutedInputs, dict[str, dict[str, int]], dict[str, list[str]]]:
        """What the router learns from, how many inputs there are by task, and what they are."""
        import torch

        from genepool.composition.routing.routed_model import input_vectors
        from genepool.composition.routing.router import RoutedInputs

        _check_all_owned(world)
        network = world.network
        network.assign(world.skills.on_base(self.shared(vectors, "")).applied("the shared model"))
        found: list[torch.Tensor] = []
        owners: list[int] = []
        learn: list[int] = []
        held: list[int] = []
        examples, prompts = {}, {}
        with progress.bar("reading inputs by the shared model", len(world.tasks), "tasks") as bar:
            for composed in world.tasks:
                bar.advance()
                if composed.owner is None:
                    continue
                task = composed.task
                prompts[task.name] = [task.prompt_for(one, network) for one in composed.examples]
                chosen, left = parted(len(composed.examples))
                first = len(owners)
                learn += [first + at for at in chosen]
                held += [first + at for at in left]
                owners += [composed.owner] * len(composed.examples)
                found.append(input_vectors(network, prompts[task.name]))
                examples[task.name] = {"learn": len(chosen), "held": len(left)}
        network.assign(world.skills.base)
        return RoutedInputs(torch.cat(found), torch.tensor(owners), learn, held), examples, prompts


class TwinComposition(KnownTaskComposition):
    """Skills, the low-rank factors of what each has beside the shared part, and a router.

    Args:
        composer, skills, record: as for `Composition`.
        factors: of each skill, by tensor.
        router: in evaluation mode.
    """

    composer: TwinMerging

    def __init__(
        self,
        composer: TwinMerging,
        skills: SkillSet,
        record: Mapping[str, Any],
        factors: list[dict[str, Factors]],
        router: Router,
    ) -> None:
        super().__init__(composer, skills, record)
        self._factors, self._router = factors, router
        self._vectors = skills.vectors()

    @cached_property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        found = {f"router/{name}": tensor.detach() for name, tensor in self._router.tensors().items()}
        for number, factors in enumerate(self._factors):
            for name, (left, right) in factors.items():
                found |= {f"left/{number}/{name}": left, f"right/{number}/{name}": right}
        return found

    @property
    def labels(self) -> Mapping[str, list[str]]:
        return {"skills": self.skills.names}

    @property
    def kind(self) -> type[Model]:
        from genepool.composition.routing.routed_model import routed_kind

        return routed_kind(open_model(self.skills.base).kind)

    def apply(self, network: Network) -> Model:
        from genepool.composition.mixing.attached import AttachedSkills, why_not_mixed
        from genepool.composition.routing.routed_model import Routing, routed_kind

        options = self.composer.options
        parts = [self._shared, *map(self._exclusive, range(len(self._factors)))]
        sizes = [held_bytes(part, self.skills.memory_base) for part in parts]
        held = range(len(parts)) if sum(sizes) <= _SHARE * free_memory() else ()
        if not held:
            progress.message(f"{self.name}: the parts of the skills are read from the disk for every mixture")
        vectors = self.skills.vectors(held, parts)
        merged = MergedNetwork(network, vectors, CoefficientLayout(len(parts), vectors.names))
        routing = Routing(self._router, options.choice, options.levels, self.name)
        # Otherwise they are put into the network's weights, one mixture at a time.
        beside = range(1, len(parts))
        mixed = not set(beside) & set(why_not_mixed(vectors, network.model, all_rows=True))
        return routed_kind(type(network))(
            network,
            merged,
            routing,
            self.name,
            self.fingerprint,
            skills=self.skills.names,
            attached=AttachedSkills(network.model, vectors, beside, all_rows=True) if mixed else None,
        )

    def fold(self) -> NoReturn:
        """Refused: it chooses by input."""
        raise InputError(
            "chooses by input, and no weights do the same",
            where=self.name,
            fix=f"Name a task, as in {self.name}{TASK_MARK}{self.skills.names[0]}, or use the folder as it is",
        )

    def change_of(self, number: int) -> Change:
        import torch

        parts = [self._shared, self._exclusive(number)]
        vectors = self.skills.vectors(changes=parts)
        layout = CoefficientLayout(len(parts), vectors.names)
        identities = [self.fingerprint, self.skills.skills[number].fingerprint]
        return Blend(vectors, layout, torch.ones(layout.shape), self.name, identities)

    @cached_property
    def _shared(self) -> Blend:
        return self.composer.shared(self._vectors, self.fingerprint)

    def _exclusive(self, number: int) -> ExclusivePart:
        return ExclusivePart(self._vectors, self._shared, number, self._factors[number], self.fingerprint)


def _check_all_owned(world: World) -> None:
    """Says which tasks the router leaves out.

    Raises:
        InputError: a skill has no task, so nothing is known of its inputs.
    """
    owned = {task.owner for task in world.tasks}
    for number, name in enumerate(world.skills.names):
        if number not in owned:
            where = world.skills.skills[number].reference
            raise world.lacks_task(name, "the router knows no input of this skill", where)
    if others := [task.task.name for task in world.tasks if task.owner is None]:
        progress.message(f"{', '.join(others)}: belongs to no skill, so the router does not learn from it")
