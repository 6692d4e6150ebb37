"""`Composition`: what a fit learned about some frozen skills, as a thing that can be applied, folded, saved and asked.

`MergedComposition` is the kind that folds: coefficients of a merge. Kinds that stand beside the base and choose by
input subclass `Composition`. Uses `skill_set`; `saved_model` writes and reads it.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from genepool.composition.blend import Blend
from genepool.composition.coefficients import CoefficientLayout
from genepool.composition.skill_set import SkillSet
from genepool.errors import InputError, listed
from genepool.tasks.models import Model, Source, WeightsSource, open_model
from genepool.tasks.network import Network
from genepool.weights import Change

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from genepool.composition.composer import Composer
    from genepool.composition.peft_export import PeftExport


@dataclass(frozen=True)
class Saved:
    """What a saved composition says, for `Composer.restore`.

    Attributes:
        skills: the base and the skills, opened.
        tensors: what was learned, by name.
        labels: what the axes of the tensors stand for, by name.
        record: how it was fitted.
        where: the folder, for errors.
    """

    skills: SkillSet
    tensors: Mapping[str, torch.Tensor]
    labels: Mapping[str, Sequence[str]]
    record: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""

    def tensor(self, name: str, shape: tuple[int | None, ...]) -> torch.Tensor:
        """A tensor of a shape, as float32; None stands for any size.

        Raises:
            InputError: it is missing, has another shape or no floats, or holds NaN or infinity.
        """
        import torch

        found = self.tensors.get(name)
        if found is None:
            raise InputError("the tensor is missing", where=f"{self.where}:{name}", fix="Compose it again")
        fits = len(shape) == found.dim() and all(n in (None, m) for n, m in zip(shape, found.shape, strict=True))
        if not fits:
            expected = ", ".join("any" if n is None else str(n) for n in shape)
            raise InputError(
                f"has shape {list(found.shape)}, expected [{expected}]",
                where=f"{self.where}:{name}",
                fix="Compose it again",
            )
        if not found.is_floating_point():
            kind = str(found.dtype).removeprefix("torch.")
            raise InputError(
                f"is of type {kind}, expected floats", where=f"{self.where}:{name}", fix="Compose it again"
            )
        if not bool(torch.isfinite(found).all()):
            raise InputError(
                "holds values that are no finite numbers", where=f"{self.where}:{name}", fix="Compose it again"
            )
        return found.float()


class Composition(ABC):
    """Frozen skills on their base, and what was learned about how much of each to use.

    Args:
        composer: what fitted it.
        skills: the base and the skills.
        record: how it was fitted, as plain data.
        name: what the user calls it.
    """

    def __init__(self, composer: Composer[Any], skills: SkillSet, record: Mapping[str, Any], name: str = "") -> None:
        self.composer, self.skills, self.record = composer, skills, dict(record)
        self.name = name or f"{composer.name}({', '.join(skills.names)})"

    @property
    @abstractmethod
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """What was learned, by name: saved in `router.safetensors`."""

    def saved_tensors(self, hashes: Mapping[str, str]) -> Mapping[str, torch.Tensor]:
        """What was learned, as it is saved beside skills that have other hashes as copies.

        Args:
            hashes: the fingerprint of each skill -> that of its copy.
        """
        return self.tensors

    @property
    def labels(self) -> Mapping[str, Sequence[str]]:
        """What the axes of the tensors stand for, by name of the axis."""
        return {}

    @abstractmethod
    def apply(self, network: Network) -> Model:
        """Makes the base in memory the composition.

        Args:
            network: the base, loaded. It may be changed in place.

        Returns:
            What is asked from then on: the network itself, or a model around it.
        """

    @abstractmethod
    def fold(self) -> Change:
        """The composition as one change of the base as it is stored.

        Raises:
            InputError: it chooses by input, so no single change does the same; why is said.
        """

    def write_peft(self, folder: Path) -> PeftExport:
        """Writes files that PEFT loads and that do the same: what folds as one LoRA, unless it is said otherwise.

        Args:
            folder: is there, and empty.

        Raises:
            InputError: PEFT has nothing that does the same; what would be lost is said.
        """
        from genepool.composition.peft_export import write_fold

        if self.composer.out == "module":
            # Numbers are those of parts that are alike, as of layers.
            learned = sorted({name.partition("/")[0].lstrip("0123456789.") for name in self.tensors})
            lost = f"what it learned to use them by ({listed(learned, 5)})" if learned else "what its settings say"
            raise InputError(
                f"PEFT has nothing that does what {self.composer.name} does: it would hold the skills at most, and "
                f"{lost} would be lost",
                where=self.name,
                fix="Use the folder as it is",
            )
        return write_fold(self, folder)

    @property
    def kind(self) -> type[Model]:
        """The kind of model that `load` gives: the base's, unless it is said otherwise."""
        return open_model(self.skills.base).kind

    def load(self, device: str = "cpu", dtype: str = "float32") -> Model:
        """The composition in memory: the base, loaded, with the composition applied.

        Args:
            device: torch's name of the device.
            dtype: what it computes in.
        """
        network = open_model(self.skills.base).load(device, dtype)
        assert isinstance(network, Network)
        return self.apply(network)

    def for_task(self, task: str) -> Composition:
        """What it is for one task, for compositions that must be told.

        Raises:
            InputError: it answers all tasks by the same weights, or has no such task.
        """
        raise InputError(
            f"needs not be told a task, got '{task}'", where=self.name, fix="Name the folder without `#` and a task"
        )

    def source(self) -> Source:
        """The composition as a model that can be asked; nothing is loaded yet."""
        return CompositionSource(self)

    def model_fingerprints(self) -> dict[str, str]:
        """The hashes of the further models that the options name, by the option."""
        return {key: open_model(name).fingerprint for key, name in self.composer.models().items()}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, hex, of the method and its settings, the base, the skills and what was learned."""
        total = hashlib.sha256(f"composition\x1f{self.composer.name}\x1f".encode())
        # Models that the options name are known by their hashes, wherever they lie.
        options = self.composer.options
        total.update(options.model_dump_json(exclude=set(type(options).models)).encode())
        models = self.model_fingerprints().values()
        for one in (self.skills.base.fingerprint(), *(skill.fingerprint for skill in self.skills.skills), *models):
            total.update(f"\x1f{one}".encode())
        for name, tensor in sorted(self.tensors.items()):
            total.update(f"\x1f{name}\x1f{tuple(tensor.shape)}\x1f".encode())
            total.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return total.hexdigest()


class CompositionSource(Source):
    """A composition as what `open_model` gives.

    Args:
        composition: the composition.
    """

    def __init__(self, composition: Composition) -> None:
        self.composition, self.name = composition, composition.name

    @property
    def fingerprint(self) -> str:
        """See `Composition.fingerprint`."""
        return self.composition.fingerprint

    @property
    def kind(self) -> type[Model]:
        """See `Composition.kind`."""
        return self.composition.kind

    def load(self, device: str = "cpu", dtype: str = "float32") -> Model:
        """See `Composition.load`."""
        return self.composition.load(device, dtype)


class MergedComposition(Composition):
    """Coefficients of a merge: every tensor of every skill (and part of it) has one.

    Args:
        composer, skills, record, name: as for `Composition`.
        coefficients: shape (skills, tensors, parts).
        parts_seed: decides which entries belong to which part.
        by_rows: each row of a tensor is a part.
        changes: what the composer made of the skills' changes before it added them up; the changes themselves when
            None.
    """

    def __init__(
        self,
        composer: Composer[Any],
        skills: SkillSet,
        record: Mapping[str, Any],
        coefficients: torch.Tensor,
        *,
        parts_seed: int = 0,
        by_rows: bool = False,
        changes: Sequence[Change] | None = None,
        name: str = "",
    ) -> None:
        super().__init__(composer, skills, record, name)
        self._vectors = skills.vectors(changes=changes)
        # What the skills were made into is another merge than that of the skills themselves.
        self._made_by = "" if changes is None else f"{composer.name} {composer.options.model_dump_json()} "
        self.coefficients = coefficients.detach().float().cpu()
        shape = tuple(self.coefficients.shape)
        self.layout = CoefficientLayout(len(skills.skills), self._vectors.names, shape[2], parts_seed, by_rows)
        assert shape == self.layout.shape

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {"coefficients": self.coefficients}

    @property
    def labels(self) -> Mapping[str, Sequence[str]]:
        return {"tensors": self._vectors.names}

    def apply(self, network: Network) -> Model:
        network.assign(self.fold().applied(self.name))
        return network

    def fold(self) -> Change:
        identities = [f"{self._made_by}{skill.fingerprint}" for skill in self.skills.skills]
        blend = Blend(self._vectors, self.layout, self.coefficients, self.name, identities)
        return self.skills.on_base(blend)

    def source(self) -> Source:
        return WeightsSource(self.fold().applied(self.name))

    @classmethod
    def restored(
        cls,
        composer: Composer[Any],
        saved: Saved,
        *,
        parts: int | None = 1,
        parts_seed: int = 0,
        by_rows: bool = False,
        changes: Sequence[Change] | None = None,
    ) -> MergedComposition:
        """What `Composer.restore` returns of a merge.

        Args:
            composer: what fitted it.
            saved: what was saved.
            parts: how many parts a tensor has; None where these are its rows.
            parts_seed, by_rows, changes: as for the class.

        Raises:
            InputError: the coefficients are not those of these skills.
        """
        known = {name: place for place, name in enumerate(saved.labels.get("tensors", ()))}
        coefficients = saved.tensor("coefficients", (len(saved.skills.skills), len(known), parts))
        # A skill that was stored as a file no longer names the tensors that it does not move.
        vectors = saved.skills.vectors(changes=changes)
        rows = max((vectors.matrix(name)[0] for name in vectors.names), default=0) if by_rows else 0
        if not known.keys() >= set(vectors.names) or rows > coefficients.shape[2]:
            raise InputError(
                "the coefficients are of other tensors than the skills change",
                where=saved.where,
                fix="Compose it again",
            )
        chosen = coefficients[:, [known[name] for name in vectors.names]]
        return cls(
            composer, saved.skills, saved.record, chosen, parts_seed=parts_seed, by_rows=by_rows, changes=changes
        )
