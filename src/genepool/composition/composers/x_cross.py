"""X-Cross: several fine-tunes that read one text side by side and take of each other's hidden states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from genepool.composition.composed_model import check_plain_models
from genepool.composition.composer import Composer, register
from genepool.composition.composition import Composition, Saved
from genepool.composition.module_fit import ModuleFitOptions, fit_modules
from genepool.composition.skill_set import SkillSet
from genepool.composition.world import World
from genepool.errors import InputError
from genepool.tasks.models import Model, load_as
from genepool.tasks.models.causal_lm import LanguageModel
from genepool.tasks.network import Network

if TYPE_CHECKING:
    import torch

    from genepool.composition.hidden.stream_gates import StreamGates


class XCrossOptions(ModuleFitOptions):
    """Options of X-Cross."""


@register(
    "x_cross",
    source="Hadad et al., X-Cross, arXiv:2504.20859: integrators behind every layer; gates that begin at zero and the "
    "defaults of the training are ours",
    when="A new task lies between those of several fine-tunes, it has few examples, and all of them fit the memory.",
    needs="answers",
    gradients=True,
    out="module",
    cost="steps through all models; when asked, all of them read every token",
    members="models",
)
class XCross(Composer[XCrossOptions]):
    """`h_i += sum_j g_ij (h_j - h_i)` behind every layer, g linear in all streams; a learned average at the end."""

    def fit(self, world: World) -> Composition:
        from genepool.composition.hidden.stream_gates import StreamGates

        check_plain_models([skill.source for skill in world.skills.skills], self.name)
        models = _loaded(world.skills, world.device, world.dtype)
        config = models[0].model.config.get_text_config()
        gates = StreamGates(len(models), config.hidden_size, config.num_hidden_layers)
        found = XCrossComposition(self, world.skills, {}, gates)
        model = found.crossed(models)
        named = {"composer": self.name, "options": self.options.model_dump(mode="json")}
        record = fit_modules(world, model, dict(gates.named_parameters()), self.options, named)
        shares = gates.scores.detach().float().softmax(0).tolist()
        record["shares"] = {name: round(one, 6) for name, one in zip(world.skills.names, shares, strict=True)}
        return XCrossComposition(self, world.skills, record, gates.float().cpu())

    def restore(self, saved: Saved) -> Composition:
        import torch

        from genepool.composition.hidden.stream_gates import StreamGates

        count = len(saved.skills.skills)
        layers = len({name.split(".")[1] for name in saved.tensors if name.startswith("maps.")})
        width, rest = divmod(saved.tensor("maps.0.weight", (count**2, None)).shape[1], count)
        if rest:
            raise InputError(
                f"does not read {count} streams", where=f"{saved.where}:maps.0.weight", fix="Compose again"
            )
        # Checked before gates of this width take memory for every layer.
        for number in range(layers):
            saved.tensor(f"maps.{number}.weight", (count**2, count * width))
        gates = StreamGates(count, width, layers)
        with torch.no_grad():
            for name, own in gates.named_parameters():
                own.copy_(saved.tensor(name, tuple(own.shape)))
        return XCrossComposition(self, saved.skills, saved.record, gates)


class XCrossComposition(Composition):
    """Models and the gates between them.

    Args:
        composer, skills, record: as for `Composition`.
        gates: between the skills, in their order.
    """

    composer: XCross

    def __init__(self, composer: XCross, skills: SkillSet, record: Mapping[str, Any], gates: StreamGates) -> None:
        super().__init__(composer, skills, record)
        self._gates = gates

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {name: parameter.detach() for name, parameter in self._gates.named_parameters()}

    @property
    def kind(self) -> type[Model]:
        from genepool.composition.hidden.exchanging_model import ExchangingLanguageModel

        return ExchangingLanguageModel

    def load(self, device: str = "cpu", dtype: str = "float32") -> Model:
        """Loads the skills; the base is not needed."""
        return self.crossed(_loaded(self.skills, device, dtype))

    def apply(self, network: Network) -> Model:
        """Loads the skills where the base is; that one is not changed."""
        assert isinstance(network, LanguageModel)
        return self.load(str(network.device), str(network.model.dtype).removeprefix("torch."))

    def crossed(self, models: Sequence[LanguageModel]) -> LanguageModel:
        """The skills in memory as streams.

        Raises:
            InputError: they do not read the same tokens, have other shapes, or the gates are of other models.
        """
        from genepool.composition.hidden.crossed import CrossedReader
        from genepool.composition.hidden.exchanging_model import ExchangingLanguageModel, readers_of
        from genepool.composition.steering.layers import decoder_layers

        lead, *others = models
        readers = readers_of(lead, others, self.composer.name)
        layers = [decoder_layers(one.model, one.title) for one in models]
        widths = [one.model.config.get_text_config().hidden_size for one in models]
        shapes = list(zip(widths, map(len, layers), strict=True))
        for one, shape in zip(models, shapes, strict=True):
            if shape != shapes[0]:
                raise InputError(
                    f"has width {shape[0]} and {shape[1]} layers, and {lead.title} {shapes[0][0]} and {shapes[0][1]}",
                    where=one.title,
                    fix="Compose models of one shape",
                )
        gates = self._gates
        known = (gates.width, len(gates.maps))
        if known != shapes[0]:
            raise InputError(
                f"its gates are of width {known[0]} and {known[1]} layers, and the models have {shapes[0][0]} and "
                f"{shapes[0][1]}",
                where=self.name,
                fix="Compose it again",
            )
        # Taken before the gates are rounded to what is computed in: it belongs to what was saved.
        fingerprint = self.fingerprint
        gates.to(lead.device, lead.model.dtype)
        reader = CrossedReader(readers, layers, gates)
        return ExchangingLanguageModel(lead, others, reader, gates, self.name, fingerprint)

    def fold(self) -> NoReturn:
        """Refused: the gates read hidden states."""
        raise InputError(
            "lets models exchange hidden states, and no weights do the same",
            where=self.name,
            fix="Use the folder of the composition as it is",
        )


def _loaded(skills: SkillSet, device: str, dtype: str) -> list[LanguageModel]:
    return [load_as(LanguageModel, one.source, "x_cross", device=device, dtype=dtype) for one in skills.skills]
