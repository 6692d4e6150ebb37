"""The one door for merge methods: what a method declares, what it is given, and the registry that finds it.

A method is a pure function of some rows of one tensor's inputs and its parameters. One that needs to know something of
the tensor or of the whole vector first (a threshold, an angle) declares a survey: a fixed number of streaming passes
that each build a small summary. Adding a method is one file in `methods/` with a class that carries `@register`; one of
a user's own is the same file anywhere else (`genepool.plugins`).
"""

from __future__ import annotations

import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from genepool.faithful import HeldAgainst, recorded
from genepool.merging.group import TensorGroup
from genepool.merging.parameters import Parameter, Site
from genepool.merging.statistics import StatisticKind
from genepool.merging.survey import Survey

if TYPE_CHECKING:
    import numpy as np

# What a method merges: the models' tensors or their differences to a base; `statistics` of calibration inputs beside
# them, which `Method.statistic` names. `factors` (of low-rank changes) is a kind that no method here takes yet.
Inputs = Literal["tensors", "deltas", "factors", "statistics"]
# The smallest part of a tensor that can be merged by itself: any entries, whole rows, whole matrices (the last two
# axes; a fused tensor of experts has many), or nothing less than all of it.
Grain = Literal["entry", "row", "matrix", "tensor"]
Scope = Literal["tensor", "model"]


_BASE_IN_WORDS = {
    "required": " and their base",
    "optional": ", with or without a base",
    "counted": ", of which one may be the base",
    "unused": "",
}

_STATISTIC_IN_WORDS = {
    None: "",
    "fisher": " with their Fisher information",
    "gram": " with the Gram matrices of inputs",
}


class Method(ABC):
    """One merge method. Instances hold no state.

    Class attributes:
        name: as written in recipes.
        source: the paper, with its identifier.
        when: one sentence on when to use it.
        formula: what it computes, in the notation of the reference page.
        inputs: "tensors" when it merges the models' tensors, "deltas" when it merges their differences to a base,
            "statistics" when it averages either by what `group.statistic` says.
        statistic: what that is; None for methods that need the models alone.
        base: whether a base is "required", "optional" or "unused"; "counted" when it is optional and, if there is one,
            is the first of the models.
        models: smallest and largest number of models, the base not counted unless it says so; None for no limit.
        parameters: what it can be told.
        grain: the smallest part of a tensor it can merge by itself; see `grain_of`.
        on_arrays: whether `merge` and the survey work on numpy arrays as on tensors, because all they use are kernels
            and operators that both have. Files are then merged without torch (`genepool.merging.stored_arrays`).
        copies: float32 tensors it holds at once beside its inputs, for the estimate of memory.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    when: ClassVar[str]
    formula: ClassVar[str]
    inputs: ClassVar[Inputs]
    base: ClassVar[Literal["required", "optional", "counted", "unused"]]
    models: ClassVar[tuple[int, int | None]] = (1, None)
    parameters: ClassVar[tuple[Parameter, ...]] = ()
    statistic: ClassVar[StatisticKind | None] = None
    grain: ClassVar[Grain] = "entry"
    on_arrays: ClassVar[bool] = False
    copies: ClassVar[int] = 4

    @abstractmethod
    def merge(self, group: TensorGroup, survey: Any) -> Any:
        """The merged rows, float32, `(rows, columns)`; a tensor, or an array where the inputs are arrays.

        Args:
            group: the inputs of some rows of one tensor; of all its rows when the grain is "tensor", of one matrix when
                it is "matrix".
            survey: what `survey` returned, finished; None when it returned None.
        """

    def breaks(self, group: TensorGroup, survey: Any) -> list[int]:
        """The rows within a block before which it must be divided for `merge_stored`, in order."""
        return []

    def merge_stored(self, group: TensorGroup, survey: Any, out: np.ndarray[Any, Any]) -> bool:
        """Merges the bits of files to the bits of the result, where a method has a loop that does it at once.

        Args:
            group: as for `merge`; `group.stored` holds the bits.
            survey: as for `merge`.
            out: as many entries as the rows have, uint16 for bfloat16 or uint32 for float32; written into.

        Returns:
            Whether it was done; if not, `merge` is asked.

        Raises:
            NotFinite: something that was read or computed is NaN, infinite or too large.
        """
        return False

    def survey(self, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]], numel: int) -> Survey | None:
        """The summary this method needs before it merges, or None.

        With scope "tensor" one is made for each tensor and sees that tensor; with scope "model" one is made for the
        merge and sees every float tensor.

        Args:
            shared: the parameters, resolved for the tensor, or for the whole model.
            per_model: the same for each model.
            numel: number of entries it will see.
        """
        return None

    def scope(self, shared: Mapping[str, Any]) -> Scope:
        """What a survey looks over: its parameter `scope` if it has one, else each tensor."""
        return "model" if shared.get("scope") == "model" else "tensor"

    def whole_model_parameters(self, shared: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of parameters that must not vary over the model, given the shared ones: those its survey reads."""
        return ()

    def check(self, site: Site, shared: Mapping[str, Any], per_model: Sequence[Mapping[str, Any]]) -> None:
        """Refuses what a parameter's limits cannot tell, such as more layers than there are; called while planning.

        Args:
            site: where the tensor is.
            shared: the parameters, resolved for the tensor.
            per_model: the same for each model.

        Raises:
            InputError: the parameters do not fit together or the model.
        """
        return None

    def grain_of(self, site: Site, shape: tuple[int, ...], shared: Mapping[str, Any]) -> Grain:
        """The grain at one tensor; methods that treat matrices apart from the rest override it."""
        return self.grain

    def held_entries(self, grain: Grain, rows: int, columns: int, models: int) -> int:
        """Float32 entries in memory while some rows are merged: inputs, base and copies.

        Methods that read one model at a time say so here.
        """
        return rows * columns * (models + 1 + self.copies)

    def needs(self) -> str:
        """What it merges, in words: how many models, and whether a base."""
        low, high = self.models
        count = f"{low} or more" if high is None else (str(low) if low == high else f"{low} to {high}")
        models = f"{count} model{'' if count == '1' else 's'}{_STATISTIC_IN_WORDS[self.statistic]}"
        return models + _BASE_IN_WORDS[self.base]

    def to_dict(self) -> dict[str, Any]:
        """What `genepool methods --json` prints of it."""
        defaults = {p.name: p.default for p in self.parameters if not p.per_model}
        own = {p.name: p.default for p in self.parameters if p.per_model}
        survey = self.survey(defaults, [own, own], 1)
        return {
            "name": self.name,
            "source": self.source,
            "when": self.when,
            "formula": self.formula,
            "needs": {
                "inputs": self.inputs,
                "base": self.base,
                "models": list(self.models),
                "statistic": self.statistic,
            },
            "passes": 1 + (survey.reads(self.on_arrays) if survey else 0),
            "parameters": [parameter.to_dict() for parameter in self.parameters],
            "faithful": [one.to_dict() for one in self.comparisons],
        }

    @property
    def comparisons(self) -> tuple[HeldAgainst, ...]:
        """Whom it was held against; nobody, for a method from outside the package."""
        inside = type(self).__module__.startswith("genepool.")
        return recorded("genepool.merging").get(self.name, ()) if inside else ()

    @property
    def code(self) -> str:
        """Identity of a method from outside the package: a hash of the file that defines it. Empty for built-in ones.

        What was merged or evaluated with another version of the file is not taken for the same.
        """
        if type(self).__module__.startswith("genepool."):
            return ""
        try:
            return hashlib.sha256(Path(inspect.getfile(type(self))).read_bytes()).hexdigest()
        except (TypeError, OSError):
            # Typed into an interpreter: there is no file.
            return f"{type(self).__module__}.{type(self).__qualname__}"

    def parameter(self, name: str) -> Parameter:
        """The declaration of one parameter."""
        return next(p for p in self.parameters if p.name == name)
