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
from genepool.merging.chat_templates import find_template
from genepool.merging.config_differences import ConfigDifference, config_differences
from genepool.merging.filters import Elsewhere, filters_of, matched_elsewhere
from genepool.merging.method import Method, Scope
from genepool.merging.outputs import Input, Layout, OutputTensor
from genepool.merging.parameters import REQUIRED, Parameter, Site, constant_value, resolve
from genepool.merging.recipe import Recipe
from genepool.merging.statistics import Statistics
from genepool.merging.survey import Survey
from genepool.merging.tokenizer_section import UNION
from genepool.merging.untying import untied_config, untied_names
from genepool.weights import TensorInfo, Weights
from genepool.weights.architecture import architecture_of
from genepool.weights.carried import CarriedFiles, carried_files
from genepool.weights.config_layers import with_depth
from genepool.weights.control import Control, joined_control
from genepool.weights.dequantised import dequantised_in
from genepool.weights.naming import Renaming, renaming_of
from genepool.weights.tensor_info import dtype_code
from genepool.weights.vocabulary.rows import generation_settings, token_ids, with_special_ids
from genepool.weights.writer import config_for

if TYPE_CHECKING:
    from genepool.merging.merged_weights import MergedWeights
    from genepool.weights.vocabulary.joining import JoinedVocabulary


# What of a config is about the labels of a classifier.
_LABELS = ("id2label", "label2id", "num_labels", "problem_type")


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
        joined: the vocabulary that the models were brought into; None where they keep theirs.
        statistics: of the models, for a method that needs them.
    """

    def __init__(
        self,
        recipe: Recipe,
        method: Method,
        sources: Mapping[str, Weights],
        layout: Layout,
        joined: JoinedVocabulary | None = None,
        statistics: Statistics | None = None,
    ) -> None:
        self.recipe, self.method, self.sources, self.layout, self.joined = recipe, method, sources, layout, joined
        self.statistics = statistics
        self._settings: dict[str, ResolvedParameters] = {}
        self._parts = recipe.parts()
        self._check_constants()
        if type(method).check is not Method.check:
            for out in layout.merged:
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
        from genepool.merging.stored_arrays import StoredArrays

        survey = self.new_model_survey()
        surveys = survey.reads(StoredArrays(self).takes_all) if survey else 0
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
        for depth in self.layout.depths:
            result = with_depth(result, depth.stack, depth.origin)
        if self.layout.labels is not None:
            theirs = self.sources[self.layout.labels].config or {}
            result = {key: value for key, value in result.items() if key not in _LABELS}
            result |= {key: theirs[key] for key in _LABELS if key in theirs}
        if self._has_other_ids:
            result = with_special_ids(result, self._their_ids, self._moved_ids)
        untied = untied_names(self.reference, result, self.infos)
        return untied_config(result, untied, self.stored) if untied else result

    @property
    def _has_other_ids(self) -> bool:
        """Whether tokens have other ids in the result than in the model whose config goes along."""
        return self.joined is not None and self.tokenizer_of != self.config_of

    def generation_config(self) -> dict[str, Any] | None:
        """What generation_config.json says, where the tokenizer's model has none and the config's would be wrong."""
        if not self._has_other_ids:
            return None
        return generation_settings(self.reference.folder, self.tokenizer_folder, self._their_ids, self._moved_ids)

    @property
    def _their_ids(self) -> dict[str, Any]:
        """What the tokenizer's model says in ids of tokens."""
        return token_ids(self.sources[self.tokenizer_of].config or {})

    @property
    def _moved_ids(self) -> dict[int, int]:
        """Id of a token of the model whose config goes along -> its id in the result."""
        assert self.joined is not None
        ids = self.joined.tokenizer.ids
        return {before: ids[token] for token, before in self.joined.ids[self.config_of].items() if token in ids}

    @cached_property
    def depths(self) -> dict[str, int]:
        """Number of layers of every stack of the output that is merged layer by layer."""
        found: dict[str, int] = {}
        for out in self.layout.merged:
            if out.role.layer is not None:
                found[out.role.stack] = max(found.get(out.role.stack, 0), out.role.layer + 1)
        return found

    @property
    def depth(self) -> int | None:
        """Number of layers of the deepest of them; None when there are none."""
        return max(self.depths.values(), default=None)

    @property
    def reference(self) -> Weights:
        """The model whose config goes along."""
        return self.sources[self.config_of]

    @property
    def config_of(self) -> str:
        """Its name: the one `config` names, else the model that the output is like."""
        return self.recipe.config if self.recipe.config != "base" else self.layout.reference

    @property
    def tokenizer_of(self) -> str:
        """The model whose tokenizer goes along: the one `tokenizer` names, else the model that the output is like."""
        source = self.recipe.tokenizer_source
        return self.layout.reference if source in ("base", UNION) else source

    @cached_property
    def tokenizer_folder(self) -> Path | None:
        """Where the tokenizer is copied from."""
        return self.joined.tokenizer.folder if self.joined else self.sources[self.tokenizer_of].tokenizer_folder

    @cached_property
    def chat_template(self) -> str | None:
        """What replaces the tokenizer's chat template; None to leave it."""
        folders = [weights.tokenizer_folder for weights in self.sources.values()]
        return find_template(self.recipe.chat_template, folders)

    @cached_property
    def control(self) -> Control | None:
        """The control prefix of the models that have one, which must be the same."""
        found = None
        for name, weights in self.sources.items():
            found = joined_control(found, weights.control, name)
        return found

    @cached_property
    def carried(self) -> CarriedFiles:
        """The files that go along with the result, and those that stay behind."""
        return carried_files(self.reference.folder, self.tokenizer_folder)

    @cached_property
    def config_differences(self) -> tuple[ConfigDifference, ...]:
        """Settings that mean something for the weights and that not all models have alike."""
        return config_differences(
            self.sources, depth=not self.layout.depths, vocabulary=self.recipe.vocabulary not in ("padded", "aligned")
        )

    def describe(self) -> dict[str, Any]:
        """What will be read, computed and written, as plain data: the answer of `genepool plan --json`.

        Returns:
            passes, bytes_read (over all passes), bytes_written, peak_bytes (an upper estimate of what computing takes
            per thread), renamed (the models whose files have another layout), steps: one mapping per output tensor with
            its inputs and its resolved parameters; `like`, the model that the output is like; what of which model is
            `kept` as it is and `left_out`; and what `goes_along` says.
        """
        from genepool.merging.engine import Engine

        engine = Engine(self)
        kept, merged = self.bytes_kept, self.bytes_per_pass
        return {
            "method": self.method.name,
            "passes": self.passes,
            "bytes_read": merged * self.passes + kept,
            "bytes_written": sum(info.nbytes for info in self.stored.values()),
            "peak_bytes": max((engine.working_bytes(out) for out in self.layout.outputs), default=0),
            "renamed": {name: renaming.to_dict() for name, renaming in self.renamings().items()},
            **self.goes_along(),
            "like": self.layout.reference,
            "kept": self.layout.kept,
            "left_out": self.layout.left_out,
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
            config_of and tokenizer_of (models), vocabulary (`JoinedVocabulary.to_dict`, where the models were brought
            into one), config_differences (key -> model -> value), carried (names of files), left (file or folder -> why
            it stays behind), dequantised (quantised model -> what is done on reading).
        """
        return {
            "config_of": self.config_of,
            "tokenizer_of": self.tokenizer_of,
            **({"vocabulary": self.joined.to_dict()} if self.joined and self.joined.is_changed else {}),
            "config_differences": {one.key: dict(one.values) for one in self.config_differences},
            "carried": sorted(self.carried.files),
            "left": dict(self.carried.left),
            "dequantised": self.dequantised,
        }

    @cached_property
    def dequantised(self) -> dict[str, str]:
        """The quantised models -> what is done on reading them, as a clause."""
        return {one.name: one.told() for weights in self.sources.values() for one in dequantised_in(weights)}

    @property
    def bytes_per_pass(self) -> int:
        """Bytes of everything that is merged, as it is stored."""
        return sum(self._bytes_of(given) for out in self.layout.merged for given in out.reads)

    @property
    def bytes_kept(self) -> int:
        """Bytes of everything that is copied."""
        return sum(self._bytes_of(out.kept) for out in self.layout.outputs if out.kept is not None)

    def _bytes_of(self, given: Input) -> int:
        return self.sources[given.model].info(given.tensor).nbytes

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
            "kept": f"{out.kept.model}:{out.kept.tensor}" if out.kept else None,
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
        return self.settings(self.layout.merged[0])

    def _resolved(self, out: OutputTensor) -> ResolvedParameters:
        if out.kept is not None:
            return ResolvedParameters({}, ())
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
        part = self._parts[out.part]
        shared: list[Mapping[str, Any]] = list(part.levels)
        entries = {entry.model: entry.parameters for entry in part.entries}
        return shared, [[entries[given.model], *shared] for given in out.inputs]

    def _value(self, levels: list[Mapping[str, Any]], parameter: Parameter, site: Site, out: OutputTensor) -> Any:
        value = resolve(levels, parameter, site)
        if value is REQUIRED:
            raise InputError(
                f"{self.method.name} needs '{parameter.name}', which has no value for {out.name}",
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
            shared_levels, input_levels = self._levels(self.layout.merged[0])
            varied = any(not constant_value(levels, parameter) for levels in [shared_levels, *input_levels])
            if varied or len(self._parts) > 1:
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
        numel = sum(out.info.numel for out in self.layout.merged if out.info.is_float)
        return self.method.survey(settings.shared, settings.per_model, numel)

    def site(self, out: OutputTensor) -> Site:
        """Where an output tensor is, for parameters that vary."""
        depth = self.depths.get(out.role.stack, self.depth)
        filters = self._elsewhere.get(out.name, frozenset())
        return Site(out.name, out.role.part, out.role.layer, out.position, depth, filters)

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
        known = "" if self.statistics is None else f"\x1f{self.statistics.tensors.fingerprint()}"
        text = f"{self.recipe.digest(prints)}\x1f{dtypes}{self.method.code}{known}"
        return hashlib.sha256(text.encode()).hexdigest()
