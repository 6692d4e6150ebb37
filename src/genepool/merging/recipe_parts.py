"""The parts of a recipe: models, slices, modules, and rules for single tensors.

`genepool.merging.recipe` puts them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from genepool.schema import Strict

Parameters = dict[str, Any]
_MODEL = "Folder, file, hub model, URL, recipe file, or any of these with `+adapter` or `+skill`; or a recipe in place."


class ModelEntry(Strict):
    """One model of a merge, with the parameters that are its own."""

    model: str = Field(min_length=1, description=_MODEL)
    parameters: Parameters = Field(default_factory=dict, description="Parameters of this model alone.")


class LayerSource(ModelEntry):
    """A run of layers of one model."""

    layer_range: tuple[int, int] = Field(description="First layer, and the one after the last: [0, 8] is eight layers.")

    @field_validator("layer_range")
    @classmethod
    def _ordered(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= value[0] < value[1]:
            raise ValueError(f"a range of layers needs 0 <= first < end, not {list(value)}")
        return value


class Slice(Strict):
    """Layers of the output, made from the same number of layers of each source."""

    sources: list[LayerSource] = Field(min_length=1, description="The models' layers that are merged into these.")
    base: str | None = Field(None, min_length=1, description="Base of this slice, when it is not the recipe's.")
    parameters: Parameters = Field(default_factory=dict, description="Parameters of this slice.")

    @model_validator(mode="after")
    def _equally_long(self) -> Slice:
        lengths = {source.layer_range[1] - source.layer_range[0] for source in self.sources}
        if len(lengths) > 1:
            raise ValueError(f"the sources of a slice have different numbers of layers: {sorted(lengths)}")
        return self


class Module(Strict):
    """A part of the models that is merged by itself: a tower, an encoder, what joins them."""

    models: list[ModelEntry] | None = Field(None, description="The models, each over all of this part.")
    slices: list[Slice] | None = Field(None, description="Instead of `models`: layers of this part from bottom to top.")
    parameters: Parameters = Field(default_factory=dict, description="Parameters of this part.")

    @field_validator("models", mode="before")
    @classmethod
    def _plain_names(cls, value: Any) -> Any:
        return entries_of(value)

    @model_validator(mode="after")
    def _complete(self) -> Module:
        given = [part for part in (self.models, self.slices) if part is not None]
        if len(given) != 1 or not given[0]:
            raise ValueError("a module has either `models` or `slices`")
        return self


class TensorRule(Strict):
    """What becomes of some tensors instead of being merged like the rest."""

    match: list[str] = Field(
        min_length=1,
        description="Patterns of names (`*.mlp.*`), paths of modules (`visual.merger`), roles (`head`) or parts "
        "(`vision`); one or a list.",
    )
    source: str = Field(
        alias="from",
        min_length=1,
        description="The model they are taken from as they are; or `base`, `drop` to leave them out, `merge` to merge "
        "them after all.",
    )

    @field_validator("match", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


@dataclass(frozen=True)
class RecipePart:
    """A list of models, or a slice, with all that holds for it.

    Attributes:
        place: where its models stand in the recipe ("slices[0].sources").
        module: the part of the models that it makes; None for all of them.
        base: its base; None when it has none.
        entries: the models, `LayerSource`s where it is a slice.
        levels: maps of parameters beside the models' own, the narrowest first.
    """

    place: str
    module: str | None
    base: str | None
    entries: tuple[ModelEntry, ...]
    levels: tuple[Parameters, ...]

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The layers of every model; empty where it is no slice."""
        return tuple(entry.layer_range for entry in self.entries if isinstance(entry, LayerSource))

    @property
    def length(self) -> int:
        """How many layers it makes; 0 where it is no slice."""
        return self.ranges[0][1] - self.ranges[0][0] if self.ranges else 0


def entries_of(value: Any) -> Any:
    """A list of models with every plain name written as an entry."""
    if isinstance(value, list):
        return [{"model": str(entry)} if isinstance(entry, str | Path) else entry for entry in value]
    return value
