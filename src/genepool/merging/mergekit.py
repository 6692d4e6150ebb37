"""Reads mergekit's recipes as mergekit 0.1.5 reads them, and writes them out as recipes of ours.

Its defaults, per-tensor scope and order of arithmetic become explicit parameters, so the engine never asks which
dialect a recipe came from. Known keys that do nothing here warn; unknown keys are errors. docs/reference/mergekit.md
lists every key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import model_validator

from genepool import progress
from genepool.errors import InputError, nearest
from genepool.merging.recipe import Recipe
from genepool.merging.registry import find_method
from genepool.schema import Strict, keys_of, validate

# Every method of its registry, with its defaults.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "linear": {"normalize": True},
    "task_arithmetic": {"lambda": 1.0, "normalize": False},
    "ties": {
        "density": 1.0, "lambda": 1.0, "normalize": True, "rescale": "none", "scope": "tensor", "zero_sign": "positive",
    },
    "dare_linear": {"density": 1.0, "lambda": 1.0, "normalize": False, "rescale": "l1"},
    "dare_ties": {
        "density": 1.0, "trim_density": 1.0, "lambda": 1.0, "normalize": False, "rescale": "l1", "scope": "tensor",
        "zero_sign": "positive",
    },
    "breadcrumbs": {"density": 1.0, "gamma": 0.01, "lambda": 1.0, "normalize": False, "rescale": "none"},
    "breadcrumbs_ties": {"density": 1.0, "gamma": 0.01, "lambda": 1.0, "normalize": False, "rescale": "none"},
    "della": {"density": 1.0, "epsilon": 0.15, "lambda": 1.0, "normalize": True, "rescale": "l1"},
    "della_linear": {"density": 1.0, "epsilon": 0.15, "lambda": 1.0, "normalize": False, "rescale": "l1"},
    "sce": {"select_topk": 1.0, "alike_below": 1e-6},
    "nearswap": {},
    "arcee_fusion": {},
    "ram": {"epsilon": 1e-5},
    "ramplus_tl": {"epsilon": 1e-5, "r": 0.1, "alpha": 0.2},
    "slerp": {},
    "nuslerp": {"nuslerp_flatten": True, "nuslerp_row_wise": False},
    "multislerp": {"normalize_weights": True, "eps": 1e-8},
    "karcher": {"max_iter": 10, "tol": 1e-5},
    "model_stock": {"filter_wise": False, "clamp": False, "cosine_floor": 1e-6},
    "passthrough": {},
}  # fmt: skip
# Parameters mergekit knows for some method; ones a method has no use for are accepted there in silence.
_KNOWN_PARAMETERS = frozenset(
    {
        "weight", "density", "gamma", "epsilon", "lambda", "normalize", "rescale", "int8_mask", "t", "scale",
        "filter_wise", "select_topk", "eps", "max_iter", "tol", "nuslerp_flatten", "nuslerp_row_wise", "r", "alpha",
        "normalize_weights",
    }
)  # fmt: skip
# Parameters of our methods that mergekit has no key for.
_OURS_ALONE = frozenset({"scope", "zero_sign", "trim_density", "clamp", "cosine_floor", "alike_below", "merges"})

# What its architectures call the parts of a model, where that is not our word.
_MODULES = {
    "text_decoder": "text",
    "vision_tower": "vision",
    "vision_model": "vision",
    "audio_tower": "audio",
    "multi_modal_projector": "connector",
    "shared": "other",
    "default": "other",
}

Parameters = dict[str, Any]


class _Model(Strict):
    model: Any
    parameters: Parameters | None = None


class _Source(_Model):
    layer_range: tuple[int, int]


class _Slice(Strict):
    sources: list[_Source]
    base_model: Any = None
    residual_weight: Any = None
    parameters: Parameters | None = None


class _Module(Strict):
    slices: list[_Slice] | None = None
    models: list[_Model] | None = None
    parameters: Parameters | None = None

    @model_validator(mode="after")
    def _one_list(self) -> _Module:
        if (self.models is None) == (self.slices is None):
            raise ValueError("a module has either `models` or `slices`")
        return self


class _Config(Strict):
    page = "reference/mergekit"

    merge_method: str
    models: list[_Model] | None = None
    slices: list[_Slice] | None = None
    modules: dict[str, _Module] | None = None
    base_model: Any = None
    parameters: Parameters | None = None
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: Any = None
    tokenizer: dict[str, Any] | None = None
    chat_template: str | None = None
    name: str | None = None

    @model_validator(mode="after")
    def _one_list(self) -> _Config:
        if sum(part is not None for part in (self.models, self.slices, self.modules)) != 1:
            raise ValueError("a recipe has exactly one of `models`, `slices` and `modules`")
        return self


#: Every key of its recipes.
KEYS = keys_of(_Config)


def translate_documents(documents: list[Any], where: str) -> Recipe:
    """One recipe from the documents of a file for its `mergekit-multi`: the one without `name` is the result.

    The others are merges by name, in any order, that it and each other may use as models.

    Raises:
        InputError: as `translate`; two documents of one name; none or several without a name.
    """
    by_name: dict[str | None, Recipe] = {}
    for number, document in enumerate(documents, 1):
        if not isinstance(document, dict):
            raise InputError(
                "is not a recipe", where=f"{where}:document {number}", fix="Write it as `key: value` lines"
            )
        name = document.get("name")
        place = f"{where}:{name or f'document {number}'}"
        if name is not None and not isinstance(name, str):
            raise InputError(f"got {name!r}, expected text", where=f"{place}.name", fix="Put it in quotes")
        if name in by_name:
            what = f"two documents are called '{name}'" if name else "two documents without a name"
            raise InputError(what, where=where, fix="Give each document but the last a `name` of its own")
        by_name[name] = translate({key: value for key, value in document.items() if key != "name"}, place)
    result = by_name.pop(None, None)
    if result is None:
        raise InputError(
            "every document has a name, and the document of the result must have no name",
            where=where,
            fix="Remove its `name:`",
        )
    recipes = {name: recipe for name, recipe in by_name.items() if name is not None}
    used: set[str] = set()
    waiting = [result]
    while waiting:
        pieces = {piece for name in waiting.pop().model_names() for piece in (name, *name.split("+"))}
        new = (pieces & recipes.keys()) - used
        used |= new
        waiting += [recipes[name] for name in new]
    for name in recipes.keys() - used:
        progress.message(f"warning: {where}:{name}: no document uses it, and it is not written.")
    return result.model_copy(update={"recipes": {name: recipes[name] for name in recipes if name in used}})


def translate(data: dict[str, Any], where: str) -> Recipe:
    """A recipe of ours that computes what mergekit computes for `data` in float32.

    Raises:
        InputError: an unknown key or method, or a feature that is not here yet, named.
    """
    config = validate(_Config, data, where)
    method = config.merge_method
    if method not in _DEFAULTS:
        raise InputError(
            f"unknown merge method '{method}'", where=f"{where}:merge_method", fix=nearest(method, _DEFAULTS)
        )
    reader = _Reader(method, where)
    base = reference(config.base_model, f"{where}:base_model")
    outer = _over(_DEFAULTS[method], reader.shared_and_own(config.parameters, "parameters"))
    result: dict[str, Any] = {
        "genepool": 1,
        "method": method,
        "dtype": _dtype(config, where),
        **_tokenizer(config, base, where),
        "chat_template": config.chat_template,
        "lenient": True,
    }
    if base:
        result["base"] = base
    if config.modules is not None and (len(config.modules) > 1 or "default" not in config.modules):
        modules: dict[str, Any] = {}
        named: dict[str, str] = {}
        for name, module in config.modules.items():
            place = f"modules.{name}."
            part = _MODULES.get(name, name)
            if (other := named.setdefault(part, name)) != name:
                raise InputError(
                    f"'{other}' and '{name}' both stand for the part `{part}`",
                    where=f"{where}:modules.{name}",
                    fix="Keep one of them",
                )
            own = reader.shared_and_own(module.parameters, f"{place}parameters")
            listed = reader.lists(module, base, _over(outer, own), place)
            # What holds for a part stands above what holds for all, condition by condition.
            modules[part] = {**listed, "parameters": _over(outer, own) if own else {}}
        result |= {"modules": modules, "parameters": outer}
    else:
        whole = next(iter(config.modules.values())) if config.modules else _Module.model_construct(**_lists(config))
        outer = _over(outer, reader.shared_and_own(whole.parameters, "modules.parameters"))
        result |= {**reader.lists(whole, base, outer, ""), "parameters": outer}
    return validate(Recipe, {key: value for key, value in result.items() if value is not None}, where)


def _lists(config: _Config) -> dict[str, Any]:
    return {"slices": config.slices, "models": config.models, "parameters": None}


class _Reader:
    """Turns lists and parameter maps of one recipe into ours."""

    def __init__(self, method: str, where: str) -> None:
        self.name, self.where = method, where
        self.method = find_method(method)
        self.known = {p.name for p in self.method.parameters} - _OURS_ALONE

    def shared_and_own(self, given: Parameters | None, place: str) -> Parameters:
        return {
            name: self._value(name, value)
            for name, value in (given or {}).items()
            if self._has_effect(name, f"{self.where}:{place}.{name}")
        }

    def own(self, given: Parameters | None, place: str) -> Parameters:
        kept = {}
        for name, value in self.shared_and_own(given, place).items():
            if not self.method.parameter(name).per_model:
                progress.message(f"warning: {self.where}:{place}.{name}: has no effect under a model, as in mergekit.")
            else:
                kept[name] = value
        return kept

    def require_weights(self, entries: list[dict[str, Any]], outer: Parameters, place: str) -> None:
        """It has no default weight: every model it averages or adds must be given one."""
        if "weight" not in self.known or "weight" in outer:
            return
        for entry in entries:
            if "weight" not in entry["parameters"]:
                raise InputError(
                    f"{entry['model']} has no weight",
                    where=f"{self.where}:{place}",
                    fix="Add `weight:` to its parameters or to those of the recipe",
                )

    def _has_effect(self, name: str, place: str) -> bool:
        if name in self.known:
            return True
        if name not in _KNOWN_PARAMETERS:
            raise InputError(f"unknown parameter '{name}'", where=place, fix=nearest(name, _KNOWN_PARAMETERS))
        progress.message(f"warning: {place}: has no effect on {self.name}.")
        return False

    def _value(self, name: str, value: Any) -> Any:
        if name == "rescale":
            return _map_leaves(value, lambda leaf: "l1" if _truth(leaf) else "none")
        if name in ("normalize", "filter_wise", "nuslerp_flatten", "nuslerp_row_wise", "normalize_weights"):
            return _map_leaves(value, _truth)
        if name == "density":
            # It takes densities beyond [0, 1] for the nearest end.
            return _map_leaves(value, _clamped)
        return value

    def lists(self, part: _Module, base: str | None, outer: Parameters, place: str) -> dict[str, Any]:
        """The models or slices of a recipe or a module of it."""
        if part.models is not None:
            models = self.models(part.models, base, f"{place}models")
            self.require_weights(models, outer, f"{place}models")
            return {"models": models}
        slices = [self.slice(one, f"{place}slices[{i}]", base) for i, one in enumerate(part.slices or [])]
        for i, one in enumerate(slices):
            sources = [source for source in one["sources"] if source["model"] != one.get("base", base)]
            self.require_weights(sources, outer | one["parameters"], f"{place}slices[{i}].sources")
        return {"slices": slices}

    def models(self, entries: list[_Model], base: str | None, place: str) -> list[dict[str, Any]]:
        result = []
        for i, entry in enumerate(entries):
            name = reference(entry.model, f"{self.where}:{place}[{i}].model")
            if name == base and self.method.base != "unused":
                continue
            result.append({"model": name, "parameters": self.own(entry.parameters, f"{place}[{i}].parameters")})
        if base and self.method.base == "unused" and base not in [entry["model"] for entry in result]:
            # A base that is not listed is one more input of its linear merge.
            result.append({"model": base, "parameters": {}})
        return result

    def slice(self, part: _Slice, place: str, base: str | None) -> dict[str, Any]:
        sources = [
            {
                "model": reference(source.model, f"{self.where}:{place}.sources[{j}].model"),
                "layer_range": source.layer_range,
                "parameters": self.own(source.parameters, f"{place}.sources[{j}].parameters"),
            }
            for j, source in enumerate(part.sources)
        ]
        result: dict[str, Any] = {
            "sources": sources,
            "parameters": self.shared_and_own(part.parameters, f"{place}.parameters"),
        }
        if (own_base := reference(part.base_model, f"{self.where}:{place}.base_model")) is not None:
            result["base"] = own_base
        base = own_base or base
        if base and self.method.base == "required" and base not in [source["model"] for source in sources]:
            raise InputError(
                f"the base {base} is not among the sources",
                where=f"{self.where}:{place}.sources",
                fix="Add it with its own layer_range",
            )
        return result


def reference(value: Any, where: str) -> str | None:
    """Its model strings, and the mapping form {model: {path, revision}, lora: {path}} they parse to."""
    if value is None:
        return None
    if isinstance(value, dict):
        model = value.get("model", {})
        path = model if isinstance(model, str) else model.get("path", "")
        if not isinstance(model, str) and model.get("revision"):
            path += f"@{model['revision']}"
        if lora := value.get("lora"):
            path += "+" + (lora if isinstance(lora, str) else lora.get("path", ""))
        return str(path)
    if not isinstance(value, str):
        raise InputError(f"got {value!r}, expected the name of a model", where=where, fix="Write its path or hub name")
    return value


def _dtype(config: _Config, where: str) -> str | None:
    chosen = config.out_dtype or config.dtype
    if chosen in (None, "auto"):
        return None
    if chosen not in ("float32", "float16", "bfloat16"):
        raise InputError(
            f"got {chosen!r}, expected float32, float16 or bfloat16", where=f"{where}:dtype", fix="Write one of them"
        )
    return chosen


def _tokenizer(config: _Config, base: str | None, where: str) -> dict[str, Any]:
    """What ours says of the tokenizer; without the keys mergekit copies the base's and leaves all rows in place."""
    if config.tokenizer is not None and config.tokenizer_source is not None:
        raise InputError("got both `tokenizer` and `tokenizer_source`", where=where, fix="Keep one of them")
    if config.tokenizer is None and config.tokenizer_source is None:
        return {}

    def named(value: Any, key: str) -> Any:
        name = reference(value, f"{where}:{key}")
        return "base" if name is not None and name == base else name

    if config.tokenizer is None:
        return {"tokenizer": named(config.tokenizer_source, "tokenizer_source"), "vocabulary": "aligned"}
    section = dict(config.tokenizer)
    if section.get("source") is not None:
        section["source"] = named(section["source"], "tokenizer.source")
    if isinstance(tokens := section.get("tokens"), dict):
        section["tokens"] = {
            token: _token(entry, f"{where}:tokenizer.tokens.{token}") for token, entry in tokens.items()
        }
    return {"tokenizer": section, "vocabulary": "aligned"}


def _token(entry: Any, where: str) -> Any:
    """What is said of one token, its models by their names."""
    if not isinstance(entry, dict) or entry.get("source") is None:
        return entry
    source = entry["source"]
    if isinstance(source, dict) and "kind" in source:
        model = reference(source.get("model"), f"{where}.source.model")
        return {**entry, "source": {**source, "model": model}}
    return {**entry, "source": reference(source, f"{where}.source")}


def _over(below: Parameters, above: Parameters) -> Parameters:
    """One level of parameters laid over another, which is asked where no condition of the first one matches."""
    result = dict(below)
    for name, value in above.items():
        if _is_conditional(value) and name in below:
            rest = below[name]
            value = _as_list(value) + (_as_list(rest) if _is_conditional(rest) else [{"value": rest}])
        result[name] = value
    return result


def _is_conditional(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _truth(leaf: Any) -> Any:
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if isinstance(leaf, str) and leaf.lower() in words:
        return words[leaf.lower()]
    return bool(leaf) if leaf in (0, 1) else leaf


def _clamped(leaf: Any) -> Any:
    return min(1.0, max(0.0, leaf)) if isinstance(leaf, int | float) else leaf


def _map_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _map_leaves(inner, change) if key == "value" else inner for key, inner in value.items()}
    if isinstance(value, list):
        return [_map_leaves(inner, change) for inner in value]
    return change(value)
