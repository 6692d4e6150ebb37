"""The file of a mixture: the keys of `mergekit-moe`, and a seed."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from genepool.schema import Strict

GateMode = Literal["hidden", "hidden_avg", "hidden_last", "cheap_embed", "random", "uniform_random"]
#: Modes that read prompts.
BY_PROMPTS = frozenset({"hidden", "hidden_avg", "hidden_last", "cheap_embed"})


class ExpertChoice(Strict):
    """A dense model whose MLPs become one expert of every layer."""

    source_model: str = Field(description="The model: a folder, a hub name, BASE+ADAPTER or BASE+SKILL.")
    positive_prompts: tuple[str, ...] = Field(default=(), description="Texts whose tokens this expert is for.")
    negative_prompts: tuple[str, ...] = Field(default=(), description="Texts whose tokens it is not for.")
    noise_scale: float | None = Field(
        default=None, ge=0, description="Standard deviation of noise added to its matrices; null: none."
    )
    residual_scale: float | None = Field(
        default=None, description="Factor of what it adds to the residual stream (its down projection); null: 1."
    )

    @field_validator("positive_prompts", "negative_prompts", mode="before")
    @classmethod
    def _none_is_empty(cls, prompts: Any) -> Any:
        return () if prompts is None else prompts

    @field_validator("positive_prompts", "negative_prompts")
    @classmethod
    def _texts(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        if any(not prompt.strip() for prompt in prompts):
            raise ValueError("a prompt is empty; write a text, or leave it out")
        return prompts


class MixtureRecipe(Strict):
    """A mixture of experts out of dense models of one shape."""

    page = "reference/recipe"

    base_model: str = Field(description="The model that attention, norms, embeddings, config and tokenizer are of.")
    experts: tuple[ExpertChoice, ...] = Field(min_length=1, description="The models that become experts.")
    shared_experts: tuple[ExpertChoice, ...] = Field(
        default=(), description="Experts that every token goes through; how many depends on the architecture."
    )
    gate_mode: GateMode = Field(
        default="hidden",
        description="Where gates come from: the base's hidden states at the last token of the prompts (hidden, "
        "hidden_last) or their mean over the tokens (hidden_avg), the embeddings of the prompts' tokens "
        "(cheap_embed), normal numbers (random), or those of a fresh linear layer (uniform_random).",
    )
    experts_per_token: int | None = Field(
        default=None, ge=1, description="Experts that each token goes through; null: 2, or 1 beside a shared expert of "
        "deepseek.",
    )  # fmt: skip
    architecture: str | None = Field(
        default=None, description="Shape of the result: mixtral, qwen, qwen3 or deepseek; null: the first that fits."
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="Type of the stored tensors; null: that of the base."
    )
    seed: int = Field(default=0, description="Seed of random gates and of noise (not a key of mergekit's).")

    @field_validator("shared_experts", mode="before")
    @classmethod
    def _none_is_empty(cls, experts: Any) -> Any:
        return () if experts is None else experts

    @model_validator(mode="after")
    def _gates_can_be_told(self) -> MixtureRecipe:
        if self.experts_per_token is not None and self.experts_per_token > len(self.experts):
            raise ValueError(
                f"got experts_per_token {self.experts_per_token} for {len(self.experts)} experts, expected no more "
                "than there are"
            )
        if self.gate_mode not in BY_PROMPTS:
            return self
        for number, expert in enumerate(self.experts):
            if not expert.positive_prompts:
                raise ValueError(
                    f"experts[{number}] has no positive_prompts, which gate_mode {self.gate_mode} reads; write some, "
                    "or say gate_mode: random"
                )
        prompts = {(expert.positive_prompts, expert.negative_prompts) for expert in self.experts}
        if len(self.experts) > 1 and len(prompts) == 1:
            raise ValueError("all experts have the same prompts, so all gates would be equal; give each its own")
        return self


def is_mixture(data: object) -> bool:
    """Whether what a YAML file held is a mixture, not a merge recipe."""
    return isinstance(data, dict) and "experts" in data and not {"genepool", "merge_method"} & data.keys()
