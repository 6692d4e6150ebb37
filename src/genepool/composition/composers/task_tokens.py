"""Task tokens: a frozen classifier that reads tokens which a tokenizer of each task makes of the input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from genepool.composition.composer import Composer, register
from genepool.composition.composition import Composition, Saved
from genepool.composition.module_fit import ModuleFitOptions, fit_modules
from genepool.composition.per_task.told_task import ToldTaskComposition, kind_of_base
from genepool.composition.world import World
from genepool.errors import InputError
from genepool.tasks.models import Model, check_kind
from genepool.tasks.network import Network

if TYPE_CHECKING:
    from genepool.composition.per_task.token_model import TaskTokenizers


class TaskTokensOptions(ModuleFitOptions):
    """Options of task tokens."""

    tokens: int = Field(default=1, ge=1, le=1024, description="Tokens of a task (the paper's one).")
    hidden: int = Field(default=64, ge=1, le=65536, description="Hidden units of a task's tokenizer (ours).")


@register(
    "task_tokens",
    source="Vainshtein et al., Task Tokens, arXiv:2503.22886: a tokenizer for each task before a frozen transformer; "
    "the paper trains it by reward, here it is the likelihood of right answers, and the sizes are ours",
    when="One vision transformer that must not be changed, several told tasks near its own, and labels.",
    needs="answers",
    gradients=True,
    out="module",
    cost="steps through the whole network, for the gradient of a few tokens",
    skills=(1, 1),
    members="models",
)
class TaskTokens(Composer[TaskTokensOptions]):
    """The skill's network reads `[x, tokens_t(x)]`; nothing of the network is changed. `FOLDER#TASK` is asked."""

    def fit(self, world: World) -> Composition:
        from genepool.composition.per_task.token_model import TaskTokenizers, transformer_layers
        from genepool.training.fit import drawing

        if not world.tasks:
            raise InputError("there is no task to learn", where="--tasks", fix="Name tasks")
        kind_of_base(world.skills, self.name)
        source = world.skills.skills[0].source
        check_kind(type(world.network), source, self.name)
        network = source.load(world.device, world.dtype)
        assert isinstance(network, Network)
        transformer_layers(network)
        tasks = [one.task.name for one in world.tasks]
        first = world.tasks[0]
        width = network.hidden_states([first.task.prompt_for(first.examples[0], network)])[0][0].shape[1]
        with drawing(world.seed, 0, "tokenizers"):
            tokenizers = TaskTokenizers(width, len(tasks), self.options.tokens, self.options.hidden)
        found = TokenComposition(self, world.skills, {}, tokenizers, tasks)
        model = found.before(network, 0)
        for parameter in network.model.parameters():
            parameter.requires_grad_(False)

        def asked(task: str) -> None:
            model.task = tasks.index(task)

        named = {"composer": self.name, "options": self.options.model_dump(mode="json")}
        record = fit_modules(world, model, dict(tokenizers.named_parameters()), self.options, named, asked=asked)
        return TokenComposition(self, world.skills, record, tokenizers.float().cpu(), tasks)

    def restore(self, saved: Saved) -> Composition:
        import torch

        from genepool.composition.per_task.token_model import TaskTokenizers

        tasks, options = list(saved.labels.get("tasks", ())), self.options
        width = saved.tensor("inner.0.weight", (options.hidden, None)).shape[1]
        # Checked before perceptrons of this size take memory for every task.
        for task in range(len(tasks)):
            saved.tensor(f"inner.{task}.weight", (options.hidden, width))
            saved.tensor(f"outer.{task}.weight", (options.tokens * width, options.hidden))
        tokenizers = TaskTokenizers(width, len(tasks), options.tokens, options.hidden)
        with torch.no_grad():
            for name, own in tokenizers.named_parameters():
                own.copy_(saved.tensor(name, tuple(own.shape)))
        tokenizers.requires_grad_(False)
        return TokenComposition(self, saved.skills, saved.record, tokenizers, tasks)


class TokenComposition(ToldTaskComposition):
    """See `ToldTaskComposition`; the module is the tokenizers."""

    composer: TaskTokens
    module: TaskTokenizers

    @property
    def kind(self) -> type[Model]:
        from genepool.composition.per_task.token_model import token_kind

        return token_kind(kind_of_base(self.skills, self.composer.name))

    def asked(self, network: Network, number: int) -> Model:
        dtype = str(next(network.model.parameters()).dtype).removeprefix("torch.")
        own = self.skills.skills[0].source.load(str(network.device), dtype)
        assert isinstance(own, Network)
        model: Model = self.before(own, number)
        return model

    def before(self, network: Network, number: int) -> Any:
        """The tokenizers before the skill's network in memory.

        Raises:
            InputError: it has layers that no token can enter.
        """
        from genepool.composition.per_task.token_model import token_kind

        kind = token_kind(type(network))
        fingerprint = self.fingerprint
        module = self.module.to(network.device, next(network.model.parameters()).dtype)
        return kind(network, module, number, self.name, fingerprint)
