"""The trained part of a reward model: several sets of factors on one base, each with a head that gives a number.

Trained by `trainers.reward_model`, written as one adapter a set, put back by `reward_ensemble`. Uses torch and PEFT.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.seeding import torch_generator
from genepool.staging import staged_folder
from genepool.tasks.network import Network
from genepool.training.recipe import Lora
from genepool.training.trained import FACTOR_BOOST, Trained, in_order, lora_config, start_factors, with_factors
from genepool.training.value_head import LogitInputs
from genepool.weights import Weights

if TYPE_CHECKING:
    import torch

    from genepool.tasks.answers import AnswerBatch
    from genepool.weights.control import Control

HEADS_FILE, ABOUT_FILE, ADAPTER_FILE = "heads.safetensors", "reward_model.json", "adapter_model.safetensors"


class RewardFactors(Trained):
    """Sets of low-rank factors, the members, and a linear head for each.

    Args:
        model: the base, loaded; a causal language model.
        lora: rank, alpha and layers, for all members.
        weights: what the base was loaded from.
        seed: decides factors and heads at the start; each belongs to (seed, name).
        count: how many members there are.

    Attributes:
        members: their names.
        heads: by name, shape (hidden,), float32; at the start drawn with a variance of 1 / (hidden + 1), as TRL does.

    Raises:
        InputError: the model has no layers for factors, or none behind which a head could stand.
    """

    place = "reward_model"
    boost = FACTOR_BOOST

    def __init__(self, model: Network, lora: Lora, weights: Weights, seed: int, count: int) -> None:
        import torch

        super().__init__(model)
        self._inputs = LogitInputs(model)
        self._lora = lora
        self.members = [f"member_{number}" for number in range(count)]
        config = lora_config(model, lora, weights)
        self._adapted: Any = with_factors(model, config, self.members[0])
        for name in self.members[1:]:
            self._adapted.add_adapter(name, config)
        self._factors = {name: one for name, one in self._adapted.named_parameters() if "lora_" in name}
        start_factors(self._factors, seed)
        width = self._inputs.width
        self.heads = {
            name: torch.nn.Parameter(
                (torch.randn(width, generator=torch_generator(seed, "reward head", name)) * (width + 1) ** -0.5).to(
                    model.device
                )
            )
            for name in self.members
        }
        self._use(self.members[0])

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {**self._factors, **{f"head.{name}": head for name, head in self.heads.items()}}

    def _use(self, name: str) -> None:
        self._adapted.set_adapter(name)
        # PEFT freezes the sets that are not used.
        for parameter in self._factors.values():
            parameter.requires_grad_(True)

    def rewards(self, batch: AnswerBatch, name: str) -> torch.Tensor:
        """What a member thinks of every answer of a batch, shape (questions,), float32, with gradients if they are on.

        Args:
            batch: prompts with their answers, which end with the token that ends one.
            name: of the member.
        """
        self._use(name)
        with self._inputs.listening():
            self.model.answer_logits(batch)
            return self._inputs.at_ends(batch) @ self.heads[name]

    def stacked(self) -> list[torch.Tensor]:
        """For each layer the matrices A of all members, row on row: shape (members x rank, inputs)."""
        import torch

        layers: dict[str, list[torch.Tensor]] = {}
        for member in self.members:
            for name, factor in self._factors.items():
                if f".lora_A.{member}." in name:
                    layers.setdefault(name.replace(f".{member}.", "."), []).append(factor)
        return [torch.cat(matrices) for matrices in layers.values()]

    def fill(self, name: str, factors: Mapping[str, torch.Tensor], head: torch.Tensor) -> None:
        """Gives a member the factors of an adapter, by the names they have there, and a head.

        Raises:
            ValueError: a tensor is missing or not needed, or has another shape.
        """
        import torch

        own = {key.replace(f".{name}.", "."): one for key, one in self._factors.items() if f".{name}." in key}
        if set(own) != set(factors):
            raise ValueError(f"{min(set(own) ^ set(factors))} is missing or not needed")
        for key, target, values in [(key, own[key], factors[key]) for key in own] + [("head", self.heads[name], head)]:
            if target.shape != values.shape:
                raise ValueError(f"{key} is {list(values.shape)}, expected {list(target.shape)}")
            with torch.no_grad():
                target.copy_(values)

    def remember(self) -> None:
        """The base stands beside the factors."""

    @contextmanager
    def as_begun(self) -> Iterator[None]:
        with self._adapted.disable_adapter():
            yield

    def write(
        self,
        out: Path,
        tensors: Mapping[str, torch.Tensor],
        base: Weights,
        lineage: Mapping[str, Any],
        control: Control | None = None,
    ) -> None:
        from safetensors.torch import save_file

        name = str(lineage["base"]["name"])
        place = str(Path(name).resolve()) if Path(name).exists() else name
        for config in self._adapted.peft_config.values():
            config.base_model_name_or_path = place
        about = {
            "genepool": 1,
            "base": {**lineage["base"], "name": place},
            "members": len(self.members),
            **({"steps": True} if lineage["objective"] == "process_reward" else {}),
            "lora": self._lora.model_dump(mode="json"),
            "lineage": dict(lineage),
        }
        with staged_folder(out, overwrite=True) as unfinished:
            self._adapted.save_pretrained(
                str(unfinished), save_embedding_layers=False, selected_adapters=list(self.members)
            )
            for member in self.members:
                in_order(unfinished / member / "adapter_config.json")
                (unfinished / member / "README.md").unlink(missing_ok=True)
            (unfinished / "README.md").unlink(missing_ok=True)
            heads = {member: tensors[f"head.{member}"].detach().cpu().contiguous() for member in self.members}
            save_file(heads, unfinished / HEADS_FILE)
            text = json.dumps(about, indent=2, ensure_ascii=False)
            (unfinished / ABOUT_FILE).write_text(text + "\n", encoding="utf-8")


def disagreement(rewards: torch.Tensor, uncertainty: float) -> torch.Tensor:
    """The mean of the members' rewards minus uncertainty times their standard deviation, shape (texts,).

    Args:
        rewards: shape (members, texts).
        uncertainty: weight of the deviation, which is that of all members (not n - 1); 0 for one member.

    Example:
        >>> import torch
        >>> disagreement(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), 0.5).tolist()
        [1.5, 0.0]
    """
    return rewards.mean(0) - uncertainty * rewards.std(0, correction=0)
