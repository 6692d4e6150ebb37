"""CALM: a base whose layers attend to those of one other model, while both stay as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import Field

from genepool.composition.composed_model import check_plain_models
from genepool.composition.composer import Composer, register
from genepool.composition.composition import Composition, Saved
from genepool.composition.module_fit import ModuleFitOptions, fit_modules
from genepool.composition.skill_set import SkillSet
from genepool.composition.world import World
from genepool.errors import InputError
from genepool.tasks.models import Model, load_as, open_model
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.tasks.network import Network

if TYPE_CHECKING:
    import torch

    from genepool.composition.hidden.augmenting import Augmenting
    from genepool.composition.hidden.cross_attention import Connection

# More connections than any network has layers that are worth it.
_MOST = 1024


class CalmOptions(ModuleFitOptions):
    """Options of CALM."""

    connections: int = Field(
        default=2,
        ge=1,
        le=_MOST,
        description="How many layers of the base attend to the other model, evenly spaced (the authors' code; in the "
        "paper it is every fourth).",
    )


@register(
    "calm",
    source="Bansal et al., LLM augmented LLMs (CALM), arXiv:2401.02412: attention to projected hidden states behind an "
    "RMS norm, 2 connections; a gain that begins at zero, masks and caches that hold for padding and decoding, and the "
    "defaults of the training are ours",
    when="A task needs what two models know, one may be small, their tokenizers may differ, and their weights cannot "
    "be merged.",
    needs="answers",
    gradients=True,
    out="module",
    cost="steps through both models; when asked, both read every token",
    skills=(1, 1),
    members="models",
)
class Calm(Composer[CalmOptions]):
    """`h_l += gain * RMSNorm(MHA(q=h_l, kv=W h'_m))` in the base, where h' are the hidden states of the other model.

    Where its tokenizer is another one, it reads the same text by its own tokens: a place of the base attends to the
    tokens that the text up to there is cut into.
    """

    def fit(self, world: World) -> Composition:
        from genepool.composition.hidden.cross_attention import Connection
        from genepool.training.fit import drawing

        other = world.skills.skills[0].source
        check_plain_models((open_model(world.skills.base), other), self.name)
        anchor = world.network
        assert isinstance(anchor, LanguageModel)
        augmenting = load_as(LanguageModel, other, self.name, device=world.device, dtype=world.dtype)
        widths = [model.model.config.get_text_config().hidden_size for model in (anchor, augmenting)]
        with drawing(world.seed, 0, "connections"):
            connections = [Connection(*widths) for _ in range(self.options.connections)]
        found = CalmComposition(self, world.skills, {}, connections)
        model = found.beside(anchor, augmenting)
        named = {"composer": self.name, "options": self.options.model_dump(mode="json")}
        record = fit_modules(world, model, dict(model.model.connections.named_parameters()), self.options, named)
        # In float32, whatever was computed in.
        for one in connections:
            one.float()
        return CalmComposition(self, world.skills, record, [one.cpu() for one in connections])

    def restore(self, saved: Saved) -> Composition:
        import torch

        from genepool.composition.hidden.cross_attention import Connection

        connections = []
        for number in range(self.options.connections):
            width, other = saved.tensor(f"{number}.project.weight", (None, None)).shape
            # Checked before modules of this width take memory: one row of a file is not to ask for a square of rows.
            saved.tensor(f"{number}.query.weight", (width, width))
            one = Connection(width, other)
            with torch.no_grad():
                for name, own in one.named_parameters():
                    own.copy_(saved.tensor(f"{number}.{name}", tuple(own.shape)))
            connections.append(one)
        return CalmComposition(self, saved.skills, saved.record, connections)


class CalmComposition(Composition):
    """Two models and the connections between them.

    Args:
        composer, skills, record: as for `Composition`.
        connections: in the order of the layers that they stand behind.
    """

    composer: Calm

    def __init__(
        self, composer: Calm, skills: SkillSet, record: Mapping[str, Any], connections: list[Connection]
    ) -> None:
        super().__init__(composer, skills, record)
        self._connections = connections

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {
            f"{number}.{name}": parameter.detach()
            for number, one in enumerate(self._connections)
            for name, parameter in one.named_parameters()
        }

    @property
    def kind(self) -> type[Model]:
        from genepool.composition.hidden.exchanging_model import ExchangingLanguageModel

        return ExchangingLanguageModel

    def apply(self, network: Network) -> Model:
        assert isinstance(network, LanguageModel)
        device, dtype = str(network.device), str(network.model.dtype).removeprefix("torch.")
        other = self.skills.skills[0].source
        return self.beside(network, load_as(LanguageModel, other, self.composer.name, device=device, dtype=dtype))

    def beside(self, anchor: LanguageModel, augmenting: LanguageModel) -> LanguageModel:
        """The base in memory beside the other model.

        Raises:
            InputError: one keeps more than keys and values of a prompt, or the connections are of other models.
        """
        import torch

        from genepool.composition.hidden.augmented import AugmentedReader
        from genepool.composition.hidden.cross_attention import spaced
        from genepool.composition.hidden.exchanging_model import ExchangingLanguageModel, readers_of
        from genepool.composition.steering.layers import decoder_layers

        reader = readers_of(anchor, [], self.composer.name)[0]
        layers = tuple(decoder_layers(one.model, one.title) for one in (anchor, augmenting))
        count = len(self._connections)
        if count > min(map(len, layers)):
            raise InputError(
                f"got {count} connections, and a model has {min(map(len, layers))} layers",
                where="--set connections",
                fix="Give fewer",
            )
        config = anchor.model.config.get_text_config()
        wanted = (config.hidden_size, augmenting.model.config.get_text_config().hidden_size)
        for one in self._connections:
            if (widths := tuple(one.project.weight.shape)) != wanted:
                raise InputError(
                    f"its connections are of widths {list(widths)}, and the models have {list(wanted)}",
                    where=self.name,
                    fix="Compose it again",
                )
            one.heads = config.num_attention_heads if config.hidden_size % config.num_attention_heads == 0 else 1
        # Taken before the connections are rounded to what is computed in: it belongs to what was saved.
        fingerprint = self.fingerprint
        modules = torch.nn.ModuleList(self._connections).to(anchor.device, anchor.model.dtype)
        places = list(zip(*(spaced(len(one), count) for one in layers), strict=True))
        beside = self._augmenting(anchor, augmenting, layers[1])
        augmented = AugmentedReader(reader, beside, layers[0], self._connections, places)
        return ExchangingLanguageModel(anchor, [augmenting], augmented, modules, self.name, fingerprint)

    def _augmenting(
        self, anchor: LanguageModel, augmenting: LanguageModel, layers: Sequence[torch.nn.Module]
    ) -> Augmenting:
        """The other model as it reads beside the base: the same tokens, or the same text by its own."""
        from genepool.composition.hidden.augmenting import OwnTokens, SameTokens
        from genepool.composition.hidden.exchanging_model import check_kept, readers_of

        if set(augmenting.tokenizer.get_vocab()) == set(anchor.tokenizer.get_vocab()):
            return SameTokens(readers_of(anchor, [augmenting], self.composer.name)[1], layers)
        check_kept(augmenting)
        return OwnTokens(
            augmenting.model,
            augmenting.tokenizer,
            anchor.tokenizer,
            layers,
            augmenting.title,
            augmenting.context,
        )

    def fold(self) -> NoReturn:
        """Refused: the connections read hidden states."""
        raise InputError(
            "lets a base attend to the layers of another model, and no weights do the same",
            where=self.name,
            fix="Use the folder of the composition as it is",
        )
