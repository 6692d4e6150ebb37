"""An adapter that is generated from a task's vector, by a network that has seen adapters of other tasks.

What `icm_lora` and `weight_diffusion` share: adapters as flat vectors and back, the vectors of tasks, and an adapter
that was generated as a composition. They differ in how the latent of a new adapter is drawn. Uses `generation`.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from pydantic import Field

from genepool.composition.composer import Composer, ComposerOptions
from genepool.composition.composition import Composition, Saved
from genepool.composition.kept_fit import KeptFit
from genepool.composition.skill_set import SkillSet
from genepool.composition.world import ComposedTask, World
from genepool.errors import InputError, nearest
from genepool.tasks.models import Model, Source, WeightsSource
from genepool.tasks.network import Network
from genepool.threads import torch_threads
from genepool.training.run import sensible_threads
from genepool.weights import Change, Weights
from genepool.weights.encodings.low_rank import Product

if TYPE_CHECKING:
    import torch

    from genepool.composition.generation import AdapterAutoencoder

# Prompts read at once for a task's vector.
_BATCH = 16
# What stands between a task's name and the number of one of its adapters.
_MARK = "-"


class GeneratingOptions(ComposerOptions):
    """What every generator of adapters can be told."""

    target: str = Field(
        default="", description="The task that an adapter is generated for; by default the first one without a skill."
    )
    latent: int = Field(default=256, ge=1, le=10**5, description="Entries of the latent (authors' code).")
    halvings: int = Field(
        default=12, ge=1, le=20, description="Convolutions of stride 2 on either side (authors' code: 12)."
    )
    divergence: float = Field(
        default=0.005, ge=0, description="Weight of the KL divergence from N(0, 1) (authors' code)."
    )
    steps: int = Field(default=500, ge=1, le=10**6, description="Steps over all adapters at once (ours).")
    learning_rate: float = Field(default=1e-3, gt=0, le=1, description="Of Adam; it falls to 0 along a line (ours).")


_Options = TypeVar("_Options", bound=GeneratingOptions)


class GeneratesAdapter(Composer[_Options]):
    """The decoder of a CVAE of flat adapters, at the latent and the vector of the target task.

    A task's vector is the base's mean last hidden state over its inputs, less the mean over all tasks, and of length 1.
    An adapter belongs to the task of its name; `sort-1` and `sort-2` both belong to `sort`. The record names the task
    whose vector is nearest to the target's: what a generated adapter has to beat is an adapter of that task.
    """

    @abstractmethod
    def latent(
        self, model: AdapterAutoencoder, adapters: torch.Tensor, tasks: torch.Tensor, wanted: torch.Tensor, seed: int
    ) -> torch.Tensor:
        """The latent that is decoded, (1, latent).

        Args:
            model: trained.
            adapters: normalised, (adapters, entries).
            tasks: the vector of each one's task, (adapters, width).
            wanted: the target's, (width,).
            seed: decides every draw.
        """

    def fit(self, world: World) -> Composition:
        import torch

        from genepool.composition.generation import AutoencoderFit, train_autoencoder

        options = self.options
        pieces = pieces_of(world.skills)
        owners = [owner_of(name, world.tasks) for name in world.skills.names]
        target = self._target(world, {task.task.name for task in owners})
        flat = torch.stack([flattened(world.skills, number, pieces) for number in range(len(owners))])
        mean, deviation = flat.mean(0), flat.std(0, correction=0).clamp(min=1e-8)
        with torch_threads(sensible_threads(world.skills.base)):
            vectors = self._task_vectors(world)
            conditions = torch.stack([vectors[task.task.name] for task in owners])
            named = {"composer": self.name, "options": options.model_dump(mode="json"), "pieces": repr(pieces)}
            digest = hashlib.sha256(conditions.numpy().tobytes()).hexdigest()
            kept = KeptFit(world.work, {**world.identity(), **named, "conditions": digest})
            how = AutoencoderFit(
                options.steps, options.learning_rate, options.divergence, options.latent, options.halvings, world.seed
            )
            model, record = train_autoencoder((flat - mean) / deviation, conditions, how, kept)
            with torch.no_grad():
                latent = self.latent(model, (flat - mean) / deviation, conditions, vectors[target], world.seed)
                made = model.decode(latent, vectors[target][None])[0] * deviation + mean
        near = {task.task.name: float(vectors[task.task.name] @ vectors[target]) for task in owners}
        near.pop(target, None)
        best = max(near, key=lambda name: (near[name], name)) if near else None
        found = {
            **record,
            "target": target,
            "nearest": None if best is None else {"task": best, "cosine": near[best]},
            "adapters": len(owners),
            "entries": flat.shape[1],
            "seed": world.seed,
        }
        return GeneratedComposition(self, world.skills, found, made)

    def restore(self, saved: Saved) -> Composition:
        entries = sum(rank * (rows + columns) for _, rows, rank, columns in pieces_of(saved.skills))
        return GeneratedComposition(self, saved.skills, saved.record, saved.tensor("adapter", (entries,)))

    def _target(self, world: World, owned: set[str]) -> str:
        names = [task.task.name for task in world.tasks]
        if self.options.target and self.options.target not in names:
            raise InputError(
                f"there is no task '{self.options.target}'",
                where="--set target",
                fix=nearest(self.options.target, names),
            )
        free = [name for name in names if name not in owned]
        return self.options.target or (free or names)[0]

    def _task_vectors(self, world: World) -> dict[str, torch.Tensor]:
        """The vector of each task, (width,), of length 1."""
        import torch

        found = {}
        for task in world.tasks:
            prompts = [task.task.prompt_for(example, world.network) for example in task.examples]
            rows = [
                world.network.embeddings(prompts[start : start + _BATCH], _BATCH)
                for start in range(0, len(prompts), _BATCH)
            ]
            found[task.task.name] = torch.cat(rows).float().mean(0)
        center = torch.stack(list(found.values())).mean(0)
        if not bool(torch.isfinite(center).all()):
            raise InputError(
                "its hidden states are NaN or infinite, so tasks cannot be told apart by them",
                where=world.skills.reference,
                fix="Compute with --dtype float32",
            )
        # Of a single task nothing is left beside the mean.
        moved = {name: one - center if len(found) > 1 else one for name, one in found.items()}
        return {name: one / one.norm().clamp(min=1e-12) for name, one in moved.items()}


class Piece(NamedTuple):
    """A tensor that every adapter changes by factors `(rows, rank)` and `(rank, columns)`."""

    name: str
    rows: int
    rank: int
    columns: int


def pieces_of(skills: SkillSet) -> tuple[Piece, ...]:
    """What the adapters are made of; of a tensor that some change with a lower rank, or not at all, the largest rank.

    Raises:
        InputError: one changes a tensor otherwise than by a product.
    """
    vectors = skills.vectors()
    found = []
    for name in vectors.names:
        rows, columns = vectors.matrix(name)
        ranks = []
        for number in vectors.holders(name):
            product = vectors.factors(number, name)
            if product is None:
                raise InputError(
                    f"changes {name} otherwise than by a product of two factors",
                    where=skills.skills[number].reference,
                    fix="Name adapters, or run `genepool skill convert --to peft --rank N --factors-only` on it first",
                )
            ranks.append(product.left.shape[1])
        found.append(Piece(name, rows, max(ranks), columns))
    return tuple(found)


def owner_of(skill: str, tasks: tuple[ComposedTask, ...]) -> ComposedTask:
    """The task that an adapter belongs to: that of its name, or of its name up to the last `-`.

    Raises:
        InputError: there is none.
    """
    for name in (skill, skill.rpartition(_MARK)[0]):
        for task in tasks:
            if task.task.name == name:
                return task
    raise InputError(
        f"no task is called '{skill}', nor what stands before its last '{_MARK}'",
        where="--tasks",
        fix="Name adapters after their tasks: sort, or sort-1 and sort-2",
    )


def flattened(skills: SkillSet, number: int, pieces: tuple[Piece, ...]) -> torch.Tensor:
    """All factors of an adapter one after the other, its scale in the left ones, lower ranks filled up with zeros."""
    import torch

    vectors, found = skills.vectors(), []
    for piece in pieces:
        left, right = torch.zeros(piece.rows, piece.rank), torch.zeros(piece.rank, piece.columns)
        product = vectors.factors(number, piece.name) if number in vectors.holders(piece.name) else None
        if product is not None:
            rank = product.left.shape[1]
            left[:, :rank], right[:rank] = product.left.float() * product.factor, product.right.float()
        found += [left.flatten(), right.flatten()]
    return torch.cat(found)


class GeneratedComposition(Composition):
    """An adapter that was generated: it folds into the base like any other.

    Args:
        composer, skills, record: as for `Composition`.
        adapter: all factors one after the other, (entries,).
    """

    def __init__(
        self, composer: Composer[Any], skills: SkillSet, record: Mapping[str, Any], adapter: torch.Tensor
    ) -> None:
        super().__init__(composer, skills, record)
        self._adapter = adapter.detach().float().cpu()

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {"adapter": self._adapter}

    def apply(self, network: Network) -> Model:
        network.assign(self.fold().applied(self.name))
        return network

    def fold(self) -> Change:
        made = GeneratedAdapter(self.skills, pieces_of(self.skills), self._adapter, self.name)
        return self.skills.on_base(made)

    def source(self) -> Source:
        return WeightsSource(self.fold().applied(self.name))


class GeneratedAdapter(Change):
    """A flat adapter as products.

    Args:
        skills: the base and the skills that it is made like.
        pieces: what it is made of.
        flat: (entries,).
        name: what the user calls it.
    """

    kind: ClassVar[str] = "generated"
    base: Weights

    def __init__(self, skills: SkillSet, pieces: tuple[Piece, ...], flat: torch.Tensor, name: str) -> None:
        self.base, self.name, self._flat = skills.memory_base, name, flat
        self._held: dict[str, Product] = {}
        start = 0
        for piece in pieces:
            middle = start + piece.rows * piece.rank
            end = middle + piece.rank * piece.columns
            left = flat[start:middle].view(piece.rows, piece.rank)
            self._held[piece.name] = Product(left, flat[middle:end].view(piece.rank, piece.columns))
            start = end

    def names(self) -> tuple[str, ...]:
        return tuple(self._held)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.base.info(name).shape

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        left, right, _ = self._held[name]
        return left[start:stop] @ right

    def factors(self, name: str) -> Product:
        return self._held[name]

    def digest(self) -> str:
        return hashlib.sha256(self._flat.numpy().tobytes()).hexdigest()
