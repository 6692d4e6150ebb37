"""Personal adapters (RecLoRA): experts of low rank, mixed for each user by a frozen recommender's vector."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool.bounded import read_bytes
from genepool.errors import InputError
from genepool.weights.encodings.low_rank import Product
from genepool.weights.formats.safetensors import SafetensorsFile
from genepool.weights.formed.adapter_form import Beginning, FormOptions, LinearForm, Parts, Shapes
from genepool.weights.formed.sites import LinearSite, ModelSites

if TYPE_CHECKING:
    import torch

_MOST_BYTES = 10**9


class PersonalOptions(FormOptions):
    """Options of personal adapters."""

    users: str = Field(
        default="", description="A .safetensors file with one vector for each task (user), by its name; required."
    )
    width: int = Field(default=64, ge=1, le=65536, description="Entries of a user's vector.")
    experts: int = Field(default=16, ge=1, le=1024, description="How many experts are mixed (authors' settings: 16).")
    rank: int = Field(default=8, ge=1, le=4096, description="Rank of each expert.")
    alpha: float = Field(default=16.0, gt=0, description="The change is scaled by alpha / rank.")
    temperature: float = Field(
        default=5.0, gt=0, description="The softmax over experts divides by this (authors' settings: 5 to 10)."
    )


class Personal(LinearForm):
    """y = W x + b + s sum_e w_e B_e A_e x, with w = softmax(G u / temperature) for the frozen vector u of a user.

    A task is a user. w is constant for each, so FORM#USER folds; without a user, all experts weigh the same.
    """

    name = "personal"
    source = "Zhu et al., RecLoRA (arXiv:2408.03533): the text and the settings of its code"
    when = "Many users with few examples each, of whom another model already knows what they are like."
    traps = (
        "The recommender is not trained here: its vectors are a file. A user without a vector cannot be asked, and "
        "the vectors are kept with the form: they may tell who the users are."
    )
    by_task = True
    Options = PersonalOptions
    options: PersonalOptions

    def parts(self, site: LinearSite, sites: ModelSites) -> Shapes:
        options = self.options
        return {
            "A": (options.experts, options.rank, site.inputs),
            "B": (options.experts, site.outputs, options.rank),
            "gate": (options.experts, options.width),
            "users": (len(self.tasks), options.width),
        }

    def key(self, site: LinearSite, part: str, sites: ModelSites) -> str:
        return part if part in ("gate", "users") else super().key(site, part, sites)

    def frozen(self, name: str) -> bool:
        return name == "users"

    def settings(self) -> dict[str, Any]:
        found = super().settings()
        if not self.options.users:
            raise InputError("names no file of users' vectors", where="--set form.users", fix="Set it to a file")
        data = read_bytes(Path(self.options.users), _MOST_BYTES, fix="Name a .safetensors file")
        return {**found, "users": hashlib.sha256(data).hexdigest()}

    def saved_parameters(self) -> dict[str, Any]:
        # The vectors themselves are kept, wherever they came from.
        return {**super().saved_parameters(), "users": ""}

    def begin(self, beginning: Beginning) -> dict[str, torch.Tensor]:
        import torch

        found = super().begin(beginning)
        found["gate"] = beginning.normal("gate", tuple(found["gate"].shape), self.options.width**-0.5)
        file = SafetensorsFile(Path(self.options.users))
        for place, user in enumerate(self.tasks):
            where = f"{file.path}:{user}"
            if user not in file.infos:
                raise InputError("there is no vector of this user", where=where, fix="Add one to the file")
            if file.infos[user].shape != (self.options.width,) or not file.infos[user].is_float:
                shape = list(file.infos[user].shape)
                fix = f"Set its width: --set form.width={shape[0] if shape else 1}"
                raise InputError(f"has shape {shape}, expected [{self.options.width}]", where=where, fix=fix)
            vector = file.read(user).float()
            if not bool(torch.isfinite(vector).all()):
                raise InputError("holds NaN or infinity", where=where, fix="Write the vector again")
            found["users"][place] = vector
        return found

    def begin_at(self, site: LinearSite, beginning: Beginning) -> dict[str, torch.Tensor]:
        import torch

        shapes = self.parts(site, beginning.sites)
        found = {part: torch.zeros(shape) for part, shape in shapes.items()}
        found["A"] = beginning.kaiming(f"{site.module}.A", shapes["A"])
        return found

    def _weights(self, parts: Parts, task: int) -> torch.Tensor:
        """How much of each expert acts for a user, (experts,)."""
        import torch

        if task < 0:
            return torch.full_like(parts["gate"][:, 0], 1 / self.options.experts)
        return ((parts["gate"] @ parts["users"][task]) / self.options.temperature).softmax(0)

    def forward(
        self, site: LinearSite, parts: Parts, x: torch.Tensor, plain: Callable[[torch.Tensor], torch.Tensor], task: int
    ) -> torch.Tensor:
        # All experts side by side, each row of A's product times its expert's weight.
        weights = self._weights(parts, task).repeat_interleave(self.options.rank)
        inner = (x @ parts["A"].flatten(0, 1).T) * weights
        return plain(x) + (inner @ _beside(parts["B"]).T) * (self.options.alpha / self.options.rank)

    def change(
        self, site: LinearSite, parts: Parts, weight: torch.Tensor, bias: torch.Tensor | None, task: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        import torch

        mixed = torch.einsum("e,eor,eri->oi", self._weights(parts, task), parts["B"], parts["A"])
        return mixed * (self.options.alpha / self.options.rank), None

    def product(self, site: LinearSite, parts: Parts, task: int) -> Product:
        weights = self._weights(parts, task).repeat_interleave(self.options.rank)
        scale = self.options.alpha / self.options.rank
        return Product(_beside(parts["B"]), parts["A"].flatten(0, 1) * weights[:, None], scale)


def _beside(experts: torch.Tensor) -> torch.Tensor:
    """(experts, outputs, rank) as one matrix (outputs, experts x rank)."""
    return experts.permute(1, 0, 2).flatten(1)
