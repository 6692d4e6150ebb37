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
from genepool.merging.chat_templates import check_template
from genepool.merging.lines_scaling import Lines
from genepool.merging.method import Method
from genepool.merging.parameters import check_value
from genepool.merging.recipe_parts import ModelEntry, Module, Parameters, RecipePart, Slice, TensorRule, entries_of
from genepool.merging.registry import find_method
from genepool.merging.tokenizer_section import UNION, TokenizerSection
from genepool.schema import Strict, validate_part

# Of the format; a file of a newer one is refused.
RECIPE_VERSION = 1


class Recipe(Strict):
    """A merge, complete: give it to `plan_merge` or `genepool merge`.

    Values of parameters are a scalar, a gradient over the layers (`[0.2, 0.8]`), or a list of conditions
    (`[{role: attention, layers: [0, 3], value: 0.4}, {value: 0.6}]`) of which the first that matches wins.
    """

    page = "reference/recipe"

    genepool: Literal[1] = Field(1, description="Version of this format; marks a file as genepool's own.")
    method: str = Field(description="Name of the merge method; `genepool methods` lists them.")
    base: str | None = Field(
        None, min_length=1, description="The model all others were fine-tuned from; named like any model."
    )
    models: list[ModelEntry] | None = Field(None, description="The models, each over all its layers.")
    slices: list[Slice] | None = Field(
        None, description="Instead of `models`: layers of the output from bottom to top."
    )
    modules: dict[str, Module] | None = Field(
        None,
        description="Instead of both: parts of the models by name (`text`, `vision`, `audio`, `encoder`, `decoder`, "
        "`connector`, `other`, or the path of a module), each merged by itself. What none covers is the base's, or "
        "the first model's.",
    )
    tensors: list[TensorRule] = Field(
        default_factory=list, description="Tensors that are not merged like the rest; the first rule that fits counts."
    )
    rest: str | None = Field(
        None,
        min_length=1,
        description="Merge only the tensors that all models have in one shape; all others, the config and the labels "
        "are this model's (`base`, or any model by name). When absent, models that differ are an error.",
    )
    ema: Literal["merge", "drop", "use"] = Field(
        "merge",
        description="What becomes of EMA copies that a checkpoint holds beside its weights (`model_ema.*`, `ema.*`, "
        "`ema_model.*`, `*.ema`). `merge` merges them as tensors of their own, which all models must have. `drop` "
        "leaves them out. `use` takes them in place of the weights; a model without copies takes part with its "
        "weights. After both, the result has no copies.",
    )
    parameters: Parameters = Field(default_factory=dict, description="Parameters for the whole merge.")
    statistics: str | None = Field(
        None,
        min_length=1,
        description="For `fisher` and `regmean`: the file with what calibration found out about the models, such as "
        "the router.safetensors that `genepool compose fisher --keep` writes. A relative path starts at the file's "
        "folder.",
    )
    lines: Lines | None = Field(
        None, description="LiNeS: scale the merge's change to the base from layer to layer; for methods with a base."
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None,
        description="What the result is stored as; the widest type of the inputs when absent. Arithmetic is float32.",
    )
    tokenizer: str | TokenizerSection = Field(
        "base",
        description="Whose tokenizer goes along: `base`, or one of the models by name; `union`: one with the tokens "
        "of all models. Or a section with `source`, `tokens` and `pad_to_multiple_of`. `union` and a section line the "
        "rows of the models up by their tokens.",
    )
    config: str = Field(
        "base",
        description="`base`, or one of the models by name: whose config.json goes along, with its processor and all "
        "other files but the tokenizer's. The configs' differences are told; weights are merged whatever they say.",
    )
    vocabulary: Literal["same", "padded", "aligned", "unchecked"] = Field(
        "same",
        description="`same` refuses models whose tokenizers give one token different ids. `padded` also takes models "
        "with further rows at the end: the most rows are kept, and a row that a model lacks is the base's. `aligned` "
        "takes any vocabularies: rows are lined up by their tokens to those of `tokenizer`. `unchecked` merges rows of "
        "one number whatever they stand for.",
    )
    chat_template: str | None = Field(
        None,
        description="Replaces the tokenizer's chat template: a Jinja template, a name (`alpaca`, `chatml`, `exaone`, "
        "`llama3`, `mistral`), or `auto`: the one that most models have.",
    )
    nonfinite: Literal["refuse", "allow"] = Field(
        "refuse",
        description="`refuse` stops at the first tensor with NaN or infinity, unless it is a buffer of the "
        "architecture and the same in all models (it is carried); `allow` computes with them.",
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

    @field_validator("tokenizer", mode="before")
    @classmethod
    def _section(cls, value: Any) -> Any:
        return validate_part(TokenizerSection, value, "") if isinstance(value, dict) else value

    @field_validator("chat_template")
    @classmethod
    def _template(cls, value: str | None) -> str | None:
        return None if value is None else check_template(value)

    @field_validator("models", mode="before")
    @classmethod
    def _plain_names(cls, value: Any) -> Any:
        return entries_of(value)

    @field_validator("base", "rest", mode="before")
    @classmethod
    def _path_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    @model_validator(mode="after")
    def _complete(self) -> Recipe:
        given = [part for part in (self.models, self.slices, self.modules) if part is not None]
        if len(given) != 1:
            raise ValueError("a recipe has one of `models`, `slices` and `modules`")
        if not given[0]:
            raise ValueError("the list of models is empty")
        if self.tokenizer_source == UNION or isinstance(self.tokenizer, TokenizerSection):
            if "vocabulary" in self.model_fields_set and self.vocabulary != "aligned":
                raise ValueError(f"a tokenizer of joined tokens contradicts `vocabulary: {self.vocabulary}`")
            self.vocabulary = "aligned"
        return self

    @property
    def tokenizer_source(self) -> str:
        """Whose tokens the result has: `base`, `union`, or a model by name."""
        return self.tokenizer if isinstance(self.tokenizer, str) else self.tokenizer.source

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
        for part in self.parts():
            names += [part.base] if part.base else []
            names += [entry.model for entry in part.entries]
        names += [self.model_called(word) for word in self._named_apart().values()]
        return list(dict.fromkeys(names))

    def _named_apart(self) -> dict[int, str]:
        """The words of rules (by their number) and of `rest` (-1) that stand for models."""
        words = dict(enumerate(rule.source for rule in self.tensors))
        if self.rest is not None:
            words[-1] = self.rest
        return {number: word for number, word in words.items() if word not in ("drop", "merge")}

    def parts(self) -> list[RecipePart]:
        """The lists of models and the slices of the recipe, those of modules included, in order."""
        found = self._parts(self, None, "", (self.parameters,))
        for name, module in (self.modules or {}).items():
            found += self._parts(module, name, f"modules.{name}.", (module.parameters, self.parameters))
        return found

    def _parts(
        self, of: Recipe | Module, module: str | None, place: str, levels: tuple[Parameters, ...]
    ) -> list[RecipePart]:
        found = []
        if of.models is not None:
            found.append(RecipePart(f"{place}models", module, self.base, tuple(of.models), levels))
        for i, part in enumerate(of.slices or []):
            where = f"{place}slices[{i}].sources"
            own = (part.parameters, *levels)
            found.append(RecipePart(where, module, part.base or self.base, tuple(part.sources), own))
        return found

    def model_called(self, word: str) -> str:
        """The model that `rest` or a rule's `from` names: `base` is the base, where there is one."""
        return self.base if word == "base" and self.base else word

    def place_of_absent_base(self) -> str:
        """Where the recipe says `base` of a base that it has not ("rest"); empty where it does not."""
        if self.base or any("base" in (part.base, *(one.model for one in part.entries)) for part in self.parts()):
            return ""
        words = self._named_apart()
        return next((f"tensors[{n}].from" if n >= 0 else "rest" for n, word in words.items() if word == "base"), "")

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
        data = self._replaced(self.model_dump(by_alias=True, exclude={"recipes", "tokenizer", "config"}), rename)
        copy = Recipe.model_validate(data)
        copy.tokenizer = self._tokenizer_renamed(rename)
        copy.vocabulary = self.vocabulary
        copy.config = self.config if self.config == "base" else rename(self.config)
        copy.statistics = self.statistics and rename(self.statistics)
        copy._where, copy._folder = self._where, self._folder
        copy.recipes = {rename(name): inner.renamed(rename) for name, inner in self.recipes.items()}
        return copy

    def _tokenizer_renamed(self, rename: Callable[[str], str]) -> str | TokenizerSection:
        if isinstance(self.tokenizer, TokenizerSection):
            return self.tokenizer.renamed(rename)
        return self.tokenizer if self.tokenizer in ("base", UNION) else rename(self.tokenizer)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without what is left at its default: what is written beside a result."""
        return {"genepool": 1, **self.model_dump(mode="json", by_alias=True, exclude_defaults=True)}

    def digest(self, fingerprints: Mapping[str, str]) -> str:
        """SHA-256, hex, of the recipe with every model replaced by its fingerprint.

        Two recipes with the same digest merge to the same weights, wherever their models lie.
        """
        # The recipes inside are covered by the fingerprints of what they make, a file of statistics by its own.
        left_out = ("chat_template", "lenient", "recipes", "statistics")
        data = {k: v for k, v in self.to_dict().items() if k not in left_out}
        data = self._replaced(data, lambda name: fingerprints.get(name, name))
        if "tokenizer" in data:
            tokenizer = self._tokenizer_renamed(lambda name: fingerprints.get(name, name))
            data["tokenizer"] = tokenizer if isinstance(tokenizer, str) else tokenizer.model_dump(mode="json")
        text = json.dumps(data, sort_keys=True)
        return hashlib.sha256(f"recipe\x1f{text}".encode()).hexdigest()

    def _replaced(self, data: dict[str, Any], replace: Callable[[str], str]) -> dict[str, Any]:
        """Plain data of this recipe with every model's name passed through `replace`."""
        result: dict[str, Any] = _replace_models(data, replace)
        for number, word in self._named_apart().items():
            if word == "base" and self.base:
                continue
            if number < 0:
                result["rest"] = replace(word)
            else:
                result["tensors"][number]["from"] = replace(word)
        return result

    def checked(self) -> tuple[Recipe, Method]:
        """The recipe with its parameters checked against the method and in normal form, and the method.

        Raises:
            InputError: unknown method or parameter, a value of the wrong kind or out of range, or too few or too
                many models.
        """
        method = find_method(self.method, f"{self._where}:method")
        sliced = all(part.base for part in self.parts())
        if method.base == "required" and not sliced:
            raise InputError(
                f"{method.name} needs a base",
                where=f"{self._where}:base",
                fix="Add `base: MODEL`, the model that they were fine-tuned from",
            )
        if self.lines is not None and (method.base == "unused" or not sliced):
            raise InputError(
                f"`lines` scales the change to a base, and {method.name} has none here",
                where=f"{self._where}:lines",
                fix="Use a method with a base and add `base: MODEL`, or remove `lines`",
            )
        copy = self.model_copy(deep=True)
        copy._where, copy._folder = self._where, self._folder
        copy.parameters = _check_parameters(method, self.parameters, f"{self._where}:parameters", own_only=False)
        _check_lists(method, copy, f"{self._where}:")
        for name, module in (copy.modules or {}).items():
            place = f"{self._where}:modules.{name}."
            module.parameters = _check_parameters(method, module.parameters, f"{place}parameters", own_only=False)
            _check_lists(method, module, place)
        return copy, method


def _check_lists(method: Method, part: Recipe | Module, where: str) -> None:
    """Puts the parameters of models, slices and sources into normal form."""
    for i, entry in enumerate(part.models or []):
        entry.parameters = _check_parameters(method, entry.parameters, f"{where}models[{i}].parameters", own_only=True)
    for i, one in enumerate(part.slices or []):
        place = f"{where}slices[{i}]"
        one.parameters = _check_parameters(method, one.parameters, f"{place}.parameters", own_only=False)
        for j, source in enumerate(one.sources):
            own = f"{place}.sources[{j}].parameters"
            source.parameters = _check_parameters(method, source.parameters, own, own_only=True)


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
        named = {"model", "base", "config"}
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

    def lists(of: dict[str, Any]) -> dict[str, Any]:
        changes = (("models", entry), ("slices", part))
        return {key: [change(value) for value in of[key]] for key, change in changes if isinstance(of.get(key), list)}

    result = {**data, **lists(data)}
    for key in ("base", "rest"):
        if key in data:
            result[key] = named(data[key])
    if isinstance(modules := data.get("modules"), dict):
        result["modules"] = {
            name: {**module, **lists(module)} if isinstance(module, dict) else module
            for name, module in modules.items()
        }
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
