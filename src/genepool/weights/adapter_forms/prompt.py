"""A soft prompt: trained embeddings before every input. With the objective `panda` it is transferred from another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool.errors import InputError
from genepool.weights.formed.adapter_form import Beginning, FormOptions, NetworkForm, Shapes
from genepool.weights.formed.prefix_attention import heads_of, layers_of, put_before
from genepool.weights.formed.sites import ModelSites

if TYPE_CHECKING:
    import torch

    from genepool.weights.formed.attached import Attached


class PromptOptions(FormOptions):
    """Options of soft prompts."""

    length: int = Field(default=20, ge=1, le=65536, description="Embeddings of the prompt.")


class Prompt(NetworkForm):
    """The network reads `length` trained embeddings before every input.

    They are read once for all rows of a batch; what the input sees of them is the keys and values that they leave in
    every layer. They stand at the places -length to -1, which with rotary positions is the same as 0 to length - 1
    before an input that begins at `length`: what PEFT's prompt tuning computes.
    """

    name = "prompt"
    source = "Lester et al., prompt tuning (arXiv:2104.08691); transferred: Zhong et al., PANDA (arXiv:2208.10160)"
    when = "The fewest trained numbers; starts from another task's prompt with --fork, and --objective panda."
    why_not = "embeddings before the input are no weights"
    traps = "For models with rotary positions that attend to what came before alone."
    reads = "text"
    Options = PromptOptions
    options: PromptOptions

    def shapes(self, sites: ModelSites) -> Shapes:
        heads_of(sites)
        layers_of(sites)
        settings = sites.settings.get("text_config") or sites.settings
        if not (settings.get("rope_parameters") or settings.get("rope_theta")):
            raise InputError("has no rotary positions", where=sites.where, fix="Use --form prefix")
        return {"embeddings": (self.options.length, sites.mlps[0].first.inputs)}

    def begin(self, beginning: Beginning) -> dict[str, torch.Tensor]:
        shape = self.shapes(beginning.sites)["embeddings"]
        return {"embeddings": beginning.normal("embeddings", shape, 0.02)}

    def attach(self, attached: Attached) -> None:
        read = _PromptStates(attached)
        put_before(attached, read.layer)
        attached.replace("", read.network)


class _PromptStates:
    """The keys and values that the prompt leaves, while an input is read."""

    def __init__(self, attached: Attached) -> None:
        self._attached = attached
        self._found: list[tuple[torch.Tensor, torch.Tensor]] | None = None
        self._version = -1

    def layer(self, number: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        return None if self._found is None else self._found[number]

    def network(self, plain: Any, *arguments: Any, **named: Any) -> Any:
        import torch

        prompt = self._attached.tensors["embeddings"]
        # What was read stays as it is until the prompt is moved; with gradients it is read anew.
        if torch.is_grad_enabled() or self._found is None or self._version != prompt._version:
            self._found = None
            self._found, self._version = self._read(prompt), prompt._version
        return plain(*arguments, **named)

    def _read(self, prompt: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        import torch

        places = torch.arange(-len(prompt), 0, device=prompt.device)[None]
        body = self._attached.network.base_model
        found = body(inputs_embeds=prompt[None], position_ids=places, use_cache=True).past_key_values
        return [(layer.keys[0], layer.values[0]) for layer in found.layers]
