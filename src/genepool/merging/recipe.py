"""The recipe: what to merge, how, and what the result is stored as. One model for both dialects.

A file with the key `genepool: 1` is ours: defaults and scopes are the papers'. A file without it is mergekit's and is
translated by `genepool.merging.mergekit` into the same model, with mergekit's defaults written out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from genepool.errors import InputError, nearest
from genepool.merging.lines_scaling import Lines
from genepool.merging.method import Method
from genepool.merging.parameters import check_value
from genepool.merging.registry import find_method
from genepool.schema import Strict

Parameters = dict[str, Any]
# Of the format; a file of a newer one is refused.
RECIPE_VERSION = 1
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


class Recipe(Strict):
    """A merge, complete: give it to `plan_merge` or `genepool merge`.

    Values of parameters are a scalar, a gradient over the layers (`[0.2, 0.8]`), or a list of conditions
    (`[{role: attention, layers: [0, 3], value: 0.4}, {value: 0.6}]`) of which the first that matches wins.
    """

    genepool: Literal[1] = Field(1, description="Version of this format; marks a file as genepool's own.")
    method: str = Field(description="Name of the merge method; `genepool methods` lists them.")
    base: str | None = Field(
        None, min_length=1, description="The model all others were fine-tuned from; named like any model."
    )
    models: list[ModelEntry] | None = Field(None, description="The models, each over all its layers.")
    slices: list[Slice] | None = Field(
        None, description="Instead of `models`: layers of the output from bottom to top."
    )
    parameters: Parameters = Field(default_factory=dict, description="Parameters for the whole merge.")
    lines: Lines | None = Field(
        None, description="LiNeS: scale the merge's change to the base from layer to layer; for methods with a base."
    )
    dtype: Literal["float32", "float16", "bfloat16"] | None = Field(
        None,
        description="What the result is stored as; the widest type of the inputs when absent. Arithmetic is float32.",
    )
    tokenizer: str = Field("base", description="`base`, or one of the models by name: whose tokenizer goes along.")
    config: str = Field(
        "base",
        description="`base`, or one of the models by name: whose config.json goes along, with its processor and all "
        "other files but the tokenizer's. The configs' differences are told; weights are merged whatever they say.",
    )
    vocabulary: Literal["same", "padded", "unchecked"] = Field(
        "same",
        description="`same` refuses models whose tokenizers give one token different ids. `padded` also takes models "
        "with further rows at the end: the most rows are kept, and a row that a model lacks is the base's.",
    )
    chat_template: str | None = Field(None, description="A Jinja chat template that replaces the tokenizer's.")
    nonfinite: Literal["refuse", "allow"] = Field(
        "refuse",
        description="`refuse` stops at the first tensor with NaN or infinity; `allow` computes with them.",
    )
    seed: int = Field(0, ge=0, description="Seed of methods that draw at random.")
    recipes: dict[str, Recipe] = Field(
        default_factory=dict,
        description="Recipes by name, for `base` and `models` here and in each other: merges that are inputs of this "
        "one, computed as they are read. A recipe written in place of a model's name is put here.",
    )
    lenient: bool = Field(
        False,
        description="Accept what mergekit accepts: gradients with more anchors than there are layers, and densities "
        "that keep nothing. Set in recipes that were read from mergekit's.",
    )

    _where: str = PrivateAttr("recipe")
    _folder: Path | None = PrivateAttr(None)

    @model_validator(mode="before")
    @classmethod
    def _recipes_in_place(cls, data: Any) -> Any:
        return _named_recipes(data) if isinstance(data, dict) else data

    @field_validator("tokenizer", "vocabulary", mode="before")
    @classmethod
    def _no_union(cls, value: Any) -> Any:
        if value == "union":
            raise ValueError("joining vocabularies (`union`) is not supported yet: give the models one tokenizer first")
        return value

    @field_validator("models", mode="before")
    @classmethod
    def _plain_names(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [{"model": str(entry)} if isinstance(entry, str | Path) else entry for entry in value]
        return value

    @field_validator("base", mode="before")
    @classmethod
    def _path_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    @model_validator(mode="after")
    def _complete(self) -> Recipe:
        if (self.models is None) == (self.slices is None):
            raise ValueError("a recipe has either `models` or `slices`")
        if not (self.models if self.models is not None else self.slices):
            raise ValueError("the list of models is empty")
        return self

    @property
    def where(self) -> str:
        """The file the recipe came from, for errors."""
        return self._where

    @property
    def folder(self) -> Path | None:
        """The folder that relative model paths start from."""
        return self._folder

    def located(self, where: str | Path, folder: Path | None) -> Recipe:
        """The same recipe, knowing the file and folder it came from."""
        copy = self.model_copy()
        copy._where, copy._folder = str(where), folder
        copy.recipes = {
            name: inner.located(
                # One that came from a file of its own is known by it.
                inner._where if is_recipe_file(name) and inner._where != "recipe" else f"{where}:recipes.{name}",
                folder,
            )
            for name, inner in self.recipes.items()
        }
        return copy

    def model_names(self) -> list[str]:
        """Every model the recipe names, each once, the base first."""
        names = [self.base] if self.base else []
        for part in self.slices or []:
            names += [part.base] if part.base else []
            names += [source.model for source in part.sources]
        names += [entry.model for entry in self.models or []]
        return list(dict.fromkeys(name for name in names if name))

    def config_model(self) -> str:
        """The model whose config goes along: the one `config` names, else the base, or the first model."""
        return self.config if self.config != "base" else self.base or self.model_names()[0]

    def tokenizer_model(self) -> str:
        """The model whose tokenizer goes along: the one `tokenizer` names, else the base, or the first model."""
        return self.tokenizer if self.tokenizer != "base" else self.base or self.model_names()[0]

    def leaf_models(self, scope: Mapping[str, Recipe] | None = None) -> list[str]:
        """Every model that is no recipe itself, those of the recipes inside included, each once.

        Args:
            scope: recipes around this one, which it may name too.
        """
        visible = {**(scope or {}), **self.recipes}
        leaves: dict[str, None] = {}
        for name in self.model_names():
            inner = visible.get(name)
            around = {} if is_recipe_file(name) else visible
            leaves.update(dict.fromkeys([name] if inner is None else inner.leaf_models(around)))
        return list(leaves)

    def renamed(self, rename: Callable[[str], str]) -> Recipe:
        """The same recipe with every model's name passed through `rename`, in the recipes inside it too."""
        data = _replace_models(self.model_dump(exclude={"recipes", "tokenizer", "config"}), rename)
        copy = Recipe.model_validate(data)
        copy.tokenizer = self.tokenizer if self.tokenizer == "base" else rename(self.tokenizer)
        copy.config = self.config if self.config == "base" else rename(self.config)
        copy._where, copy._folder = self._where, self._folder
        copy.recipes = {rename(name): inner.renamed(rename) for name, inner in self.recipes.items()}
        return copy

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without what is left at its default: what is written beside a result."""
        return {"genepool": 1, **self.model_dump(mode="json", exclude_defaults=True)}

    def digest(self, fingerprints: Mapping[str, str]) -> str:
        """SHA-256, hex, of the recipe with every model replaced by its fingerprint.

        Two recipes with the same digest merge to the same weights, wherever their models lie.
        """
        # The recipes inside are covered by the fingerprints of what they make.
        data = {k: v for k, v in self.to_dict().items() if k not in ("chat_template", "lenient", "recipes")}
        text = json.dumps(_replace_models(data, lambda name: fingerprints.get(name, name)), sort_keys=True)
        return hashlib.sha256(f"recipe\x1f{text}".encode()).hexdigest()

    def checked(self) -> tuple[Recipe, Method]:
        """The recipe with its parameters checked against the method and in normal form, and the method.

        Raises:
            InputError: unknown method or parameter, a value of the wrong kind or out of range, or too few or too
                many models.
        """
        method = find_method(self.method, f"{self._where}:method")
        sliced = self.slices is not None and all(part.base for part in self.slices)
        if method.base == "required" and not self.base and not sliced:
            raise InputError(
                f"{method.name} needs a base", where=f"{self._where}:base", fix="Add `base: MODEL`, what they came from"
            )
        if self.lines is not None and (method.base == "unused" or not (self.base or sliced)):
            raise InputError(
                f"`lines` scales the change to a base, and {method.name} has none here",
                where=f"{self._where}:lines",
                fix="Use a method with a base and add `base: MODEL`, or remove `lines`",
            )
        copy = self.model_copy(deep=True)
        copy._where, copy._folder = self._where, self._folder
        shared, own = f"{self._where}:parameters", f"{self._where}:models"
        copy.parameters = _check_parameters(method, self.parameters, shared, own_only=False)
        for i, entry in enumerate(copy.models or []):
            entry.parameters = _check_parameters(method, entry.parameters, f"{own}[{i}].parameters", own_only=True)
        for i, part in enumerate(copy.slices or []):
            place = f"{self._where}:slices[{i}]"
            part.parameters = _check_parameters(method, part.parameters, f"{place}.parameters", own_only=False)
            for j, source in enumerate(part.sources):
                source.parameters = _check_parameters(
                    method, source.parameters, f"{place}.sources[{j}].parameters", own_only=True
                )
        return copy, method


def _check_parameters(method: Method, given: Parameters, where: str, *, own_only: bool) -> Parameters:
    known = {parameter.name: parameter for parameter in method.parameters}
    result = {}
    for name, value in given.items():
        if name not in known:
            raise InputError(
                f"{method.name} has no parameter '{name}'", where=f"{where}.{name}", fix=nearest(name, known)
            )
        if own_only and not known[name].per_model:
            raise InputError(
                f"'{name}' holds for the whole merge, not for one model",
                where=f"{where}.{name}",
                fix="Move it to `parameters` of the recipe or slice",
            )
        result[name] = check_value(known[name], value, f"{where}.{name}")
    return result


def _replace_models(value: Any, replace: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        named = {"model", "base", "tokenizer", "config"}
        return {
            key: replace(inner) if key in named and isinstance(inner, str) else _replace_models(inner, replace)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_replace_models(inner, replace) for inner in value]
    return value


def is_recipe_file(name: str) -> bool:
    """Whether a model's name is that of a recipe file, by its ending."""
    return name.lower().endswith((".yaml", ".yml"))


def _named_recipes(data: dict[str, Any]) -> dict[str, Any]:
    """`data` with every recipe that stands where a model's name goes moved to `recipes`, under a telling name."""
    inside = dict(data["recipes"]) if isinstance(data.get("recipes"), dict) else {}

    def named(value: Any) -> Any:
        if not isinstance(value, dict | Recipe):
            return value
        title = _title(value)
        names = [title, *(f"{title} #{n}" for n in range(2, len(inside) + 3))]
        name = next(name for name in names if inside.get(name, value) == value)
        inside[name] = value
        return name

    def entry(value: Any) -> Any:
        if isinstance(value, Recipe) or (isinstance(value, dict) and "method" in value):
            return {"model": named(value)}
        return {**value, "model": named(value["model"])} if isinstance(value, dict) and "model" in value else value

    def part(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        sources = value.get("sources")
        changed = {"sources": [entry(source) for source in sources]} if isinstance(sources, list) else {}
        return {**value, **changed, **({"base": named(value["base"])} if "base" in value else {})}

    result = dict(data)
    if "base" in data:
        result["base"] = named(data["base"])
    for key, change in (("models", entry), ("slices", part)):
        if isinstance(data.get(key), list):
            result[key] = [change(value) for value in data[key]]
    return {**result, "recipes": inside} if inside else result


def _title(recipe: Any) -> str:
    """What a recipe without a name is called: its method and the last parts of its models' names."""
    if isinstance(recipe, Recipe):
        return f"{recipe.method}({', '.join(Path(name).name for name in recipe.model_names())})"
    if not isinstance(recipe, dict):
        return Path(str(recipe)).name
    parts = [part for part in recipe.get("slices") or [] if isinstance(part, dict)]
    entries = [*(recipe.get("models") or []), *(source for part in parts for source in part.get("sources") or [])]
    models = [entry.get("model", entry) if isinstance(entry, dict) else entry for entry in entries]
    titles = [_title(model) for model in ([recipe["base"]] if recipe.get("base") else []) + models]
    return f"{recipe.get('method', 'recipe')}({', '.join(dict.fromkeys(titles))})"
