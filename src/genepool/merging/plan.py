"""The plan of a merge: everything decided, nothing read. It can be shown, or computed tensor by tensor.

Made by `genepool.merging.planning`, written to disk by `genepool.merging.run`. `Plan.weights()` is the merged model as
lazy `Weights`, which is how merges nest and how candidates are evaluated without touching the disk.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError
from genepool.merging.layout import Layout, OutputTensor
from genepool.merging.method import Method, Survey, TensorGroup
from genepool.merging.parameters import REQUIRED, Parameter, Site, constant_value, resolve
from genepool.merging.recipe import Recipe
from genepool.weights import TensorInfo, Weights
from genepool.weights.tensor_info import dtype_code, torch_dtype
from genepool.weights.writer import config_for

if TYPE_CHECKING:
    import torch

# Copies of the largest tensor in float32 that a merge holds at once beside its inputs: sums, signs, divisors.
_WORKING_COPIES = 4


@dataclass(frozen=True)
class Settings:
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
        self._lock = threading.Lock()
        self._surveyed = False
        self._survey: Survey | None = None
        self._check_constants()

    # ------------------------------------------------------------------ what it will do

    @cached_property
    def infos(self) -> dict[str, TensorInfo]:
        """Shape and stored type of every output tensor, in the order of writing."""
        stored = dtype_code(self.recipe.dtype) if self.recipe.dtype else None
        return {
            out.name: out.info.with_dtype(stored) if stored and out.info.is_float else out.info
            for out in self.layout.outputs
        }

    @property
    def passes(self) -> int:
        """How often the inputs are streamed past in all: surveys, and the merge itself."""
        survey = self._new_survey()
        return 1 + (survey.passes if survey else 0)

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """config.json of the result: the base's, with depth, head and stored type as they will be."""
        source = self.reference.config
        if source is None:
            return None
        result = config_for(source, self.infos.values()) or {}
        if self.layout.untied:
            result["tie_word_embeddings"] = False
        if self.layout.layers is not None:
            _set_depth(result, self.layout.layers, self.layout.layer_origin)
        return result

    @property
    def reference(self) -> Weights:
        """The model whose config goes along: the base, or the first model."""
        return self.sources[self.recipe.base or self.recipe.model_names()[0]]

    @property
    def tokenizer_folder(self) -> Path | None:
        """Where the tokenizer is copied from."""
        chosen = self.recipe.tokenizer
        return self.reference.folder if chosen == "base" else self.sources[chosen].folder

    def describe(self) -> dict[str, Any]:
        """What will be read, computed and written, as plain data: the answer of `genepool plan --json`.

        Returns:
            passes, bytes_read (over all passes), bytes_written, peak_bytes (an upper estimate of working memory),
            and steps: one mapping per output tensor with its inputs and its resolved parameters.
        """
        per_pass = sum(
            self.sources[given.model].info(given.tensor).nbytes
            for out in self.layout.outputs
            for given in (*out.inputs, *((out.base,) if out.base else ()))
        )
        largest = max((info.numel * 4 for info in self.infos.values()), default=0)
        copies = max(len(out.inputs) for out in self.layout.outputs) + 1 + _WORKING_COPIES
        return {
            "method": self.method.name,
            "passes": self.passes,
            "bytes_read": per_pass * self.passes,
            "bytes_written": sum(info.nbytes for info in self.infos.values()),
            "peak_bytes": largest * copies,
            "steps": [self._describe_step(out) for out in self.layout.outputs],
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

    def settings(self, out: OutputTensor) -> Settings:
        """Every parameter of the method at one tensor.

        Raises:
            InputError: a required parameter is not given there.
        """
        shared_levels, input_levels = self._levels(out)
        site = self._site(out)
        shared = {p.name: self._value(shared_levels, p, site, out) for p in self.method.parameters if not p.per_model}
        own = [p for p in self.method.parameters if p.per_model]
        per_model = []
        for given, layer, levels in zip(out.inputs, out.input_layers, input_levels, strict=True):
            input_site = Site(given.tensor, out.role.part, layer, out.position)
            per_model.append({p.name: self._value(levels, p, input_site, out) for p in own})
        return Settings(shared, tuple(per_model))

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
        first = self.settings(self.layout.outputs[0])
        for name in self.method.whole_model_parameters(first.shared):
            parameter = self.method.parameter(name)
            shared_levels, input_levels = self._levels(self.layout.outputs[0])
            varied = any(not constant_value(levels, parameter) for levels in [shared_levels, *input_levels])
            if varied or (self.recipe.slices is not None and len(self.recipe.slices) > 1):
                raise InputError(
                    f"'{name}' varies over the model, but {self.method.name} looks at the whole vector at once",
                    where=f"{self.recipe.where}:parameters",
                    fix="Give one value, or set `scope: tensor`"
                    if name != "zero_sign"
                    else "Set `scope: tensor` and `zero_sign: positive`",
                )

    # ------------------------------------------------------------------ computing

    def weights(self) -> MergedWeights:
        """The merged model, computed tensor by tensor when it is read."""
        return MergedWeights(self)

    def prepare(self) -> None:
        """Makes the survey passes, once, if the method needs them."""
        with self._lock:
            if self._surveyed:
                return
            survey = self._new_survey()
            if survey is not None:
                self._stream(survey)
            self._survey, self._surveyed = survey, True

    def compute(self, out: OutputTensor) -> torch.Tensor:
        """One output tensor in its stored type.

        Raises:
            InputError: an input holds NaN or infinity, or a non-float tensor differs between models.
        """
        self.prepare()
        stored = self.infos[out.name].dtype
        if not out.info.is_float:
            return self._copied(out)
        group = self._group(out)
        if self.method.kind == "deltas" and all(group.read_delta(i) is None for i in group.models):
            # No model touches this tensor: the base's bytes, not the rounding of an addition of zero.
            return group.base.to(torch_dtype(stored))
        result = self.method.merge(group, self._survey)
        return result.to(torch_dtype(stored))

    def _stream(self, survey: Survey) -> None:
        from genepool import progress

        outputs = [out for out in self.layout.outputs if out.info.is_float]
        with progress.bar(f"surveying for {self.method.name}", survey.passes * len(outputs), "tensors") as bar:
            for number in range(survey.passes):
                for out in outputs:
                    survey.observe(number, self._group(out))
                    bar.advance()
                survey.finish(number)

    def _new_survey(self) -> Survey | None:
        settings = self.settings(self.layout.outputs[0])
        numel = sum(out.info.numel for out in self.layout.outputs if out.info.is_float)
        return self.method.survey(settings.shared, settings.per_model, numel)

    def _site(self, out: OutputTensor) -> Site:
        return Site(out.name, out.role.part, out.role.layer, out.position)

    def _group(self, out: OutputTensor) -> TensorGroup:
        import torch

        settings = self.settings(out)
        base = self.sources[out.base.model] if out.base else None

        def read_model(i: int) -> torch.Tensor:
            given = out.inputs[i]
            return require_finite(
                self.sources[given.model].read(given.tensor).to(torch.float32), given.model, given.tensor
            )

        def read_base() -> torch.Tensor | None:
            if base is None or out.base is None:
                return None
            return require_finite(base.read(out.base.tensor).to(torch.float32), out.base.model, out.base.tensor)

        def read_delta(i: int) -> torch.Tensor | None:
            given = out.inputs[i]
            assert base is not None
            assert out.base is not None
            if given.tensor == out.base.tensor:
                delta = self.sources[given.model].delta(given.tensor, base)
            else:
                # Another layer of the same model, or a head that stands for a tied embedding.
                delta = read_model(i) - base.read(out.base.tensor).to(torch.float32)
            if delta is None or is_finite(delta):
                return delta
            # A difference is spoilt by either side: name the one that is.
            require_finite(base.read(out.base.tensor), out.base.model, out.base.tensor)
            return require_finite(delta, given.model, given.tensor)

        return TensorGroup(
            out.name,
            self._site(out),
            settings.shared,
            settings.per_model,
            self.recipe.seed,
            read_base,
            read_model,
            read_delta,
            tuple(range(len(out.inputs))),
        )

    def _copied(self, out: OutputTensor) -> torch.Tensor:
        """Integer and boolean tensors are not merged: the base's is kept, or the one all models agree on."""
        import torch

        if out.base is not None:
            return self.sources[out.base.model].read(out.base.tensor)
        first, *others = (self.sources[given.model].read(given.tensor) for given in out.inputs)
        if not all(torch.equal(first, other) for other in others):
            raise InputError(
                f"tensors of type {out.info.dtype} cannot be averaged, and the models' differ",
                where=f"{self.recipe.where}:{out.name}",
                fix="Name a base: its tensor is then kept",
            )
        return first

    def fingerprint(self) -> str:
        """Identity of the result without computing it: a hash of the recipe and the sources' fingerprints."""
        prints = {name: weights.fingerprint() for name, weights in self.sources.items()}
        dtypes = json.dumps(sorted({info.dtype for info in self.infos.values()}))
        return hashlib.sha256(f"{self.recipe.digest(prints)}\x1f{dtypes}".encode()).hexdigest()


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no entry is NaN or infinite."""
    import torch

    # One sum is the cheapest look at every value; only when it is odd is each value asked.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def require_finite(tensor: torch.Tensor, model: str, name: str) -> torch.Tensor:
    """`tensor` itself.

    Raises:
        InputError: it holds NaN or infinity.
    """
    if not is_finite(tensor):
        raise InputError(
            "holds NaN or infinity",
            where=f"{model}:{name}",
            fix="Its training diverged or the file is damaged: leave this model out",
        )
    return tensor


class MergedWeights(Weights):
    """The result of a merge as `Weights`: nothing is computed before it is read, nothing touches the disk."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.name = f"{plan.method.name}({', '.join(plan.recipe.model_names()[1:])})"
        self.folder, self.config = plan.reference.folder, plan.config
        self._outputs = {out.name: out for out in plan.layout.outputs}

    def names(self) -> tuple[str, ...]:
        return tuple(self._outputs)

    def info(self, name: str) -> TensorInfo:
        return self.plan.infos[name]

    def read(self, name: str) -> torch.Tensor:
        return self.plan.compute(self._outputs[name])

    def fingerprint(self) -> str:
        return self.plan.fingerprint()


def _set_depth(config: dict[str, Any], layers: int, origin: list[int]) -> None:
    """Writes a new number of layers into a config, and rebuilds its per-layer lists."""
    keys = [key for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") if key in config]
    before = config[keys[0]] if keys else None
    for key in keys:
        config[key] = layers
    for name, value in config.items():
        if isinstance(value, list) and len(value) == before and "layer" in name:
            config[name] = [value[i] for i in origin]
