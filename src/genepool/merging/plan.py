"""The plan of a merge: everything decided, nothing read. It can be shown, or computed tensor by tensor.

Made by `genepool.merging.planning`, computed by `genepool.merging.engine`, written to disk by `genepool.merging.run`.
`Plan.weights()` is the merged model as lazy `Weights`, which is how merges nest and how candidates are evaluated
without touching the disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.merging.config_differences import ConfigDifference, config_differences
from genepool.merging.filters import Elsewhere, filters_of, matched_elsewhere
from genepool.merging.layout import Layout, OutputTensor
from genepool.merging.method import Method, Scope
from genepool.merging.parameters import REQUIRED, Parameter, Site, constant_value, resolve
from genepool.merging.recipe import Recipe
from genepool.merging.survey import Survey
from genepool.merging.untying import untied_config, untied_names
from genepool.weights import TensorInfo, Weights
from genepool.weights.architecture import architecture_of
from genepool.weights.carried import CarriedFiles, carried_files
from genepool.weights.naming import Renaming, renaming_of
from genepool.weights.tensor_info import dtype_code
from genepool.weights.writer import config_for

if TYPE_CHECKING:
    from genepool.merging.merged_weights import MergedWeights


@dataclass(frozen=True)
class ResolvedParameters:
    """The parameters of one output tensor, resolved."""

    shared: Mapping[str, Any]
    per_model: tuple[Mapping[str, Any], ...]


class Plan:
    """A merge that is ready to run. Made by `plan_merge`.

    Attributes:
        recipe: the recipe, checked.
        method: its method.
        sources: the models, opened, by the names the recipe uses.
        layout: which tensors go into which.
    """

    def __init__(self, recipe: Recipe, method: Method, sources: Mapping[str, Weights], layout: Layout) -> None:
        self.recipe, self.method, self.sources, self.layout = recipe, method, sources, layout
        self._settings: dict[str, ResolvedParameters] = {}
        self._check_constants()
        if type(method).check is not Method.check:
            for out in layout.outputs:
                settings = self.settings(out)
                method.check(self.site(out), settings.shared, settings.per_model)

    # ------------------------------------------------------------------ what it will do

    @cached_property
    def infos(self) -> dict[str, TensorInfo]:
        """Shape and stored type of every output tensor, in the order of writing."""
        stored = dtype_code(self.recipe.dtype) if self.recipe.dtype else None
        return {
            out.name: out.info.with_dtype(stored) if stored and out.info.is_float else out.info
            for out in self.layout.outputs
        }

    @cached_property
    def stored(self) -> dict[str, TensorInfo]:
        """What the files will hold: `infos`, and the second names under which the reference stores a tensor."""
        return self.infos | {name: self.infos[first] for name, first in self.layout.copies.items()}

    @property
    def passes(self) -> int:
        """How often the inputs are streamed past in all: surveys, LiNeS' norms, and the merge itself."""
        survey = self.new_model_survey()
        surveys = survey.passes if survey else 0
        if self.recipe.lines is None or self.recipe.lines.alpha is not None:
            return 1 + surveys
        # The norms are those of the merged tensors: whatever is known of each tensor alone is found out twice.
        return 2 + (surveys if self.scope == "model" else 2 * surveys)

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """config.json of the result: the base's, with depth, head and stored type as they will be."""
        source = self.reference.config
        if source is None:
            return None
        result = config_for(source, self.infos.values()) or {}
        if self.layout.layers is not None:
            _set_depth(result, self.layout.layers, self.layout.layer_origin)
        untied = untied_names(self.reference, result, self.infos)
        return untied_config(result, untied, self.stored) if untied else result

    @cached_property
    def depth(self) -> int | None:
        """Number of layers of the output's main stack; None when it has none."""
        return max((out.role.layer + 1 for out in self.layout.outputs if out.role.layer is not None), default=None)

    @property
    def reference(self) -> Weights:
        """The model whose config goes along."""
        return self.sources[self.recipe.config_model()]

    @property
    def tokenizer_folder(self) -> Path | None:
        """Where the tokenizer is copied from."""
        return self.sources[self.recipe.tokenizer_model()].tokenizer_folder

    @cached_property
    def carried(self) -> CarriedFiles:
        """The files that go along with the result, and those that stay behind."""
        return carried_files(self.reference.folder, self.tokenizer_folder)

    @cached_property
    def config_differences(self) -> tuple[ConfigDifference, ...]:
        """Settings that mean something for the weights and that not all models have alike."""
        return config_differences(
            self.sources, depth=self.recipe.slices is None, vocabulary=self.recipe.vocabulary != "padded"
        )

    def describe(self) -> dict[str, Any]:
        """What will be read, computed and written, as plain data: the answer of `genepool plan --json`.

        Returns:
            passes, bytes_read (over all passes), bytes_written, peak_bytes (an upper estimate of what computing takes
            per thread), renamed (the models whose files have another layout), steps: one mapping per output tensor
            with its inputs and its resolved parameters; and what `goes_along` says.
        """
        from genepool.merging.engine import Engine

        engine = Engine(self)
        per_pass = sum(
            self.sources[given.model].info(given.tensor).nbytes
            for out in self.layout.outputs
            for given in (*out.inputs, *((out.base,) if out.base else ()))
        )
        return {
            "method": self.method.name,
            "passes": self.passes,
            "bytes_read": per_pass * self.passes,
            "bytes_written": sum(info.nbytes for info in self.stored.values()),
            "peak_bytes": max((engine.working_bytes(out) for out in self.layout.outputs), default=0),
            "renamed": {name: renaming.as_json() for name, renaming in self.renamings().items()},
            **self.goes_along(),
            "steps": [self._describe_step(out) for out in self.layout.outputs],
        }

    def missing(self) -> tuple[str, ...]:
        """Names in memory that no tensor of the result fills, as the class of its config says."""
        architecture = architecture_of(self.config)
        return () if architecture is None else architecture.naming([out.name for out in self.layout.outputs]).missing

    def renamings(self) -> dict[str, Renaming]:
        """What is called otherwise in the file of a model than in the result, by the names the recipe uses."""
        found = {name: renaming_of(weights) for name, weights in self.sources.items()}
        return {name: renaming for name, renaming in found.items() if renaming is not None}

    def goes_along(self) -> dict[str, Any]:
        """What is beside the weights, as plain data.

        Returns:
            config_of and tokenizer_of (models), config_differences (key -> model -> value), carried (names of files),
            left (file or folder -> why it stays behind).
        """
        return {
            "config_of": self.recipe.config_model(),
            "tokenizer_of": self.recipe.tokenizer_model(),
            "config_differences": {one.key: dict(one.values) for one in self.config_differences},
            "carried": sorted(self.carried.files),
            "left": dict(self.carried.left),
        }

    def _describe_step(self, out: OutputTensor) -> dict[str, Any]:
        settings = self.settings(out)
        return {
            "tensor": out.name,
            "shape": list(out.info.shape),
            "dtype": self.infos[out.name].dtype,
            "part": out.role.part,
            "layer": out.role.layer,
            "base": f"{out.base.model}:{out.base.tensor}" if out.base else None,
            "inputs": [f"{given.model}:{given.tensor}" for given in out.inputs],
            "parameters": dict(settings.shared),
            "model_parameters": [dict(values) for values in settings.per_model],
        }

    # ------------------------------------------------------------------ parameters

    def settings(self, out: OutputTensor) -> ResolvedParameters:
        """Every parameter of the method at one tensor.

        Raises:
            InputError: a required parameter is not given there.
        """
        if out.name not in self._settings:
            self._settings[out.name] = self._resolved(out)
        return self._settings[out.name]

    @property
    def _first_settings(self) -> ResolvedParameters:
        return self.settings(self.layout.outputs[0])

    def _resolved(self, out: OutputTensor) -> ResolvedParameters:
        shared_levels, input_levels = self._levels(out)
        site = self.site(out)
        shared = {p.name: self._value(shared_levels, p, site, out) for p in self.method.parameters if not p.per_model}
        own = [p for p in self.method.parameters if p.per_model]
        per_model = []
        for given, layer, levels in zip(out.inputs, out.input_layers, input_levels, strict=True):
            filters = self._elsewhere.get(given.tensor, frozenset())
            input_site = Site(given.tensor, out.role.part, layer, out.position, None, filters)
            per_model.append({p.name: self._value(levels, p, input_site, out) for p in own})
        return ResolvedParameters(shared, tuple(per_model))

    def _levels(self, out: OutputTensor) -> tuple[list[Mapping[str, Any]], list[list[Mapping[str, Any]]]]:
        shared: list[Mapping[str, Any]] = [self.recipe.parameters]
        if self.recipe.slices is not None:
            part = self.recipe.slices[out.part]
            shared = [part.parameters, *shared]
            entries = {source.model: source.parameters for source in part.sources}
        else:
            return shared, [[entry.parameters, *shared] for entry in self.recipe.models or []]
        return shared, [[entries[given.model], *shared] for given in out.inputs]

    def _value(self, levels: list[Mapping[str, Any]], parameter: Parameter, site: Site, out: OutputTensor) -> Any:
        value = resolve(levels, parameter, site)
        if value is REQUIRED:
            raise InputError(
                f"{self.method.name} needs '{parameter.name}', and nothing gives it for {out.name}",
                where=f"{self.recipe.where}:parameters",
                fix=f"Add `{parameter.name}:` to the parameters",
            )
        return value

    def _check_constants(self) -> None:
        """Refuses parameters that vary over the model where the method looks at the whole vector at once."""
        if self.scope != "model":
            return
        for name in self.method.whole_model_parameters(self._first_settings.shared):
            parameter = self.method.parameter(name)
            shared_levels, input_levels = self._levels(self.layout.outputs[0])
            varied = any(not constant_value(levels, parameter) for levels in [shared_levels, *input_levels])
            if varied or (self.recipe.slices is not None and len(self.recipe.slices) > 1):
                raise InputError(
                    f"'{name}' varies over the model, but {self.method.name} looks at the whole vector at once",
                    where=f"{self.recipe.where}:parameters",
                    fix="Give one value, or set `scope: tensor`",
                )

    # ------------------------------------------------------------------ computing

    def weights(self, device: str = "cpu") -> MergedWeights:
        """The merged model, computed tensor by tensor when it is read."""
        from genepool.merging.merged_weights import MergedWeights

        return MergedWeights(self, device)

    @cached_property
    def scope(self) -> Scope:
        """What the method's survey looks over: each tensor, or the whole vector."""
        return self.method.scope(self._first_settings.shared)

    def new_model_survey(self) -> Survey | None:
        """A fresh survey of the whole vector, if the method needs one."""
        settings = self._first_settings
        numel = sum(out.info.numel for out in self.layout.outputs if out.info.is_float)
        return self.method.survey(settings.shared, settings.per_model, numel)

    def site(self, out: OutputTensor) -> Site:
        """Where an output tensor is, for parameters that vary."""
        filters = self._elsewhere.get(out.name, frozenset())
        return Site(out.name, out.role.part, out.role.layer, out.position, self.depth, filters)

    @cached_property
    def _elsewhere(self) -> Elsewhere:
        return matched_elsewhere(self.recipe, self.layout, self.sources, self.reference)

    def unmatched_filters(self) -> list[str]:
        """Texts of conditions that mean no tensor in any layout."""
        held = {text for texts in self._elsewhere.values() for text in texts}
        names = [name for out in self.layout.outputs for name in (out.name, *(given.tensor for given in out.inputs))]
        return [t for t in sorted(filters_of(self.recipe) - held) if not any(t in name for name in names)]

    def fingerprint(self) -> str:
        """Identity of the result without computing it: a hash of the recipe and the sources' fingerprints."""
        prints = {name: weights.fingerprint() for name, weights in self.sources.items()}
        dtypes = json.dumps(sorted({info.dtype for info in self.infos.values()}))
        text = f"{self.recipe.digest(prints)}\x1f{dtypes}{self.method.code}"
        return hashlib.sha256(text.encode()).hexdigest()


def _set_depth(config: dict[str, Any], layers: int, origin: list[int]) -> None:
    """Writes a new number of layers into a config, and rebuilds its per-layer lists."""
    keys = [key for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") if key in config]
    before = config[keys[0]] if keys else None
    for key in keys:
        config[key] = layers
    for name, value in config.items():
        if isinstance(value, list) and len(value) == before and "layer" in name:
            config[name] = [value[i] for i in origin]
