"""From a recipe to a plan: opens headers, lines the models up, and finds whatever is wrong before any work is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from genepool import progress
from genepool.errors import InputError, listed
from genepool.merging.compatibility import check_origin
from genepool.merging.config_differences import difference_notes
from genepool.merging.heads import with_heads
from genepool.merging.layout import Aligner
from genepool.merging.method import Method
from genepool.merging.nesting import with_recipe_files
from genepool.merging.plan import Plan
from genepool.merging.plausibility import check_densities, check_gradients, check_layers
from genepool.merging.recipe import Recipe, is_recipe_file
from genepool.merging.recipe_parts import ModelEntry
from genepool.merging.statistics import Statistics, open_statistics
from genepool.merging.tokenizer_section import UNION
from genepool.merging.vocabulary import in_one_vocabulary
from genepool.weights import BaseWithChange, Weights, open_weights
from genepool.weights.architecture import why_unknown
from genepool.weights.carried import ELSEWHERE, TOO_MUCH, UNNAMED_CODE
from genepool.weights.ema import without_copies
from genepool.weights.naming import in_layout_of
from genepool.weights.quantised import refuse_quantised


def plan_merge(
    recipe: Recipe,
    sources: Mapping[str, Weights] | None = None,
    *,
    like: Plan | None = None,
    statistics: tuple[Weights, Mapping[str, str]] | None = None,
    allow_pickle: bool = False,
) -> Plan:
    """Decides everything about a merge from the headers of its models.

    Args:
        recipe: what to merge.
        sources: models that are already open (or resident in memory), by the names the recipe uses; the rest is
            opened.
        like: an earlier plan of a recipe with the same models and slices. Its models and layout are used again, and
            only the parameters are looked at: what a search over parameters needs.
        statistics: those of the models that the method needs, in place of the file that the recipe names: tensors, and
            the fingerprint that stands in their names for each model.
        allow_pickle: the recipe may name PyTorch's .bin and .pt files, which are loaded with `weights_only`.

    Raises:
        InputError: the recipe, a model, or how they fit together is wrong.
    """
    if like is not None:
        checked, method = recipe.checked()
        own = _without_base_among_models(checked, method)
        return Plan(own, method, like.sources, like.layout, like.joined, like.statistics)
    return _Planner(sources or {}, allow_pickle).plan(with_recipe_files(recipe), {}, statistics)


@dataclass
class _Inner:
    """A recipe that is an input: what it may name, and its result once it is planned."""

    name: str
    recipe: Recipe
    scope: dict[str, _Inner] = field(default_factory=dict)
    weights: Weights | None = None


class _Planner:
    """Plans a recipe and the recipes inside it; models and inner merges are opened once, however often named."""

    def __init__(self, given: Mapping[str, Weights], allow_pickle: bool) -> None:
        self.given, self.allow_pickle = given, allow_pickle
        self._opened: dict[tuple[str, str | None, str], Weights] = {}
        self._chain: list[_Inner] = []

    def plan(
        self,
        recipe: Recipe,
        around: Mapping[str, _Inner],
        statistics: tuple[Weights, Mapping[str, str]] | None = None,
    ) -> Plan:
        checked, method = recipe.checked()
        checked = _without_base_among_models(checked, method)
        opened = self._open(checked, method, around)
        _check_counts(checked, method)
        for key, chosen in (("tokenizer", checked.tokenizer_source), ("config", checked.config)):
            if chosen != "base" and (key, chosen) != ("tokenizer", UNION) and chosen not in opened:
                raise InputError(
                    f"'{chosen}' is not one of the models",
                    where=f"{checked.where}:{key}",
                    fix="Write `base`, or one of: " + ", ".join(opened),
                )
        opened, joined = in_one_vocabulary(checked, opened)
        has_base = any(part.base is not None for part in checked.parts())
        uses_base = method.base == "required" or (method.base in ("optional", "counted") and has_base)
        aligner = Aligner(checked, opened, uses_base)
        layout = aligner.layout()
        check_layers(checked, aligner.roles)
        if method.inputs == "deltas":
            check_origin(layout, opened, checked.where)
        _say_unknown(opened)
        plan = Plan(checked, method, opened, layout, joined, _statistics(checked, method, opened, statistics))
        if plan.statistics is not None:
            plan.statistics.check(layout.merged)
        if lost := plan.missing():
            progress.message(
                f"warning: the result is not whole: it lacks {listed(lost, 3)}, which a loader draws at random."
            )
        for text in plan.unmatched_filters():
            progress.message(f"warning: {checked.where}: filter {text!r} means no tensor, and so has no effect.")
        _say_what_goes_along(plan)
        if not checked.lenient:
            check_gradients(checked, aligner.roles)
            check_densities(plan)
        return plan

    def _open(self, recipe: Recipe, method: Method, around: Mapping[str, _Inner]) -> dict[str, Weights]:
        own = {name: _Inner(name, inner) for name, inner in recipe.recipes.items()}
        visible = {**around, **own}
        for name, inner in own.items():
            # What came from a file of its own knows nothing of the recipe that names it.
            inner.scope = {} if is_recipe_file(name) else visible

        def known(name: str) -> Weights | None:
            if name in self.given:
                return self.given[name]
            return self._merged(visible[name], recipe) if name in visible else None

        opened: dict[str, Weights] = {}
        averaged: list[str] = []
        for name in recipe.model_names():
            found, key = known(name), (name, recipe.base, recipe.ema)
            if found is None and not self._uses_inner(name, visible):
                found = self._opened.get(key)
            if found is None:
                base = opened.get(recipe.base) if recipe.base else None
                try:
                    found = open_weights(
                        name, relative_to=recipe.folder, base=base, allow_pickle=self.allow_pickle, known=known
                    )
                except InputError:
                    if name != "base" or not (place := recipe.place_of_absent_base()):
                        raise
                    raise InputError(
                        "got `base`, and the recipe has no base",
                        where=f"{recipe.where}:{place}",
                        fix="Add `base: MODEL`, or name one of the models",
                    ) from None
                refuse_quantised(found, name, "Merge the unquantised checkpoint, and quantise the result")
                if not self._uses_inner(name, visible):
                    self._opened[key] = found
            opened[name] = found if recipe.ema == "merge" else without_copies(found, recipe.ema)
            if opened[name] is not found:
                averaged.append(name)
        if recipe.ema != "merge":
            _say_averaged(recipe, list(opened), averaged)
        opened = with_heads(recipe, method, opened, partial(self._reopened, recipe, known, opened))
        # The base, or the first model, decides under which names and in which shapes tensors are merged and written.
        reference = next(iter(opened.values()))
        return {name: in_layout_of(weights, reference) for name, weights in opened.items()}

    def _reopened(
        self,
        recipe: Recipe,
        known: Callable[[str], Weights | None],
        opened: Mapping[str, Weights],
        name: str,
        base: Weights,
    ) -> Weights:
        """A model on another base, where it is a change of one; all others as they are."""
        if known(name) is not None or not isinstance(opened[name], BaseWithChange):
            return opened[name]
        return open_weights(name, relative_to=recipe.folder, base=base, allow_pickle=self.allow_pickle, known=known)

    @staticmethod
    def _uses_inner(name: str, visible: Mapping[str, _Inner]) -> bool:
        """Whether a name like `inner+adapter` means one thing in this recipe and another in the next."""
        return any(piece in visible for piece in name.split("+"))

    def _merged(self, inner: _Inner, by: Recipe) -> Weights:
        if inner.weights is None:
            if any(inner is open_one for open_one in self._chain):
                circle = [*self._chain[self._chain.index(inner) :], inner]
                raise InputError(
                    f"recipes name each other in a circle: {' -> '.join(step.name for step in circle)}",
                    where=by.where,
                    fix="Name a model in one of them instead",
                )
            self._chain.append(inner)
            inner.weights = self.plan(inner.recipe, inner.scope).weights()
            inner.weights.name = inner.name
            self._chain.pop()
        return inner.weights


def _statistics(
    recipe: Recipe,
    method: Method,
    opened: Mapping[str, Weights],
    given: tuple[Weights, Mapping[str, str]] | None,
) -> Statistics | None:
    """The statistics that a method needs; None for one that needs none.

    Raises:
        InputError: they are not named, are none of these models, or are named in vain.
    """
    where = f"{recipe.where}:statistics"
    if method.statistic is None:
        if recipe.statistics is not None:
            raise InputError(f"{method.name} uses no statistics", where=where, fix="Remove the key")
        return None
    if given is not None:
        return Statistics(*given, method.statistic)
    if recipe.statistics is None:
        raise InputError(
            f"{method.name} needs {method.statistic} statistics of the models",
            where=where,
            fix=f"Name a file of them; `genepool compose {method.name} --keep` writes router.safetensors, which is one",
        )
    models = {entry.model for part in recipe.parts() for entry in part.entries}
    keys = {name: opened[name].fingerprint() for name in opened if name in models}
    return Statistics(open_statistics(recipe.statistics, recipe.folder), keys, method.statistic)


def _say_averaged(recipe: Recipe, models: list[str], averaged: list[str]) -> None:
    """Says which models the copies are left out of, or used of; where none has any, the key says nothing.

    Raises:
        InputError: none has any.
    """
    if not averaged:
        raise InputError(
            f"{listed(models)} hold no EMA copies" if len(models) > 1 else f"{models[0]} holds no EMA copies",
            where=f"{recipe.where}:ema",
            fix="Remove the key",
        )
    if recipe.ema == "drop":
        progress.message(f"note: the EMA copies of {listed(averaged)} are left out.")
        return
    others = [name for name in models if name not in averaged]
    beside = (
        f"; of {listed(others)}, which {'have' if len(others) > 1 else 'has'} none, the weights are" if others else ""
    )
    progress.message(f"note: the EMA copies of {listed(averaged)} are used in place of the weights{beside}.")


def _say_unknown(sources: Mapping[str, Weights]) -> None:
    """Says of which models no loader is known, so that nothing but stored tensors can be lined up."""
    why: dict[str, list[str]] = {}
    for name, weights in sources.items():
        if weights.config is not None and (reason := why_unknown(weights.config)):
            why.setdefault(reason, []).append(name)
    for reason, names in why.items():
        progress.message(f"note: {listed(names)}: {reason}; merged tensor by tensor, as stored.")


def _say_what_goes_along(plan: Plan) -> None:
    """Says what a user would not expect of weights, config and files beside them; the plan and the card say all."""
    for name, what in plan.dequantised.items():
        progress.message(f"note: {name} is {what}.")
    chosen, tokenizer = plan.config_of, plan.tokenizer_of
    for note in difference_notes(plan.config_differences, chosen, tokenizer):
        progress.message(f"note: {note}.")
    carried = plan.carried
    if carried.code:
        progress.message(
            f"note: {listed(carried.code)} of {chosen} are copied, as its config names them, and never run."
        )
    if carried.missing:
        progress.message(f"note: the config of {chosen} names {listed(carried.missing)}, which it does not hold.")
    unexpected = [name for name, why in carried.left.items() if why in (ELSEWHERE, UNNAMED_CODE, TOO_MUCH)]
    if unexpected:
        progress.message(f"note: {listed(unexpected)} of {chosen} stay behind; `genepool plan` says why.")


def _without_base_among_models(recipe: Recipe, method: Method) -> Recipe:
    """A base that is also listed as a model has a task vector of zero: it is the base, not one more model."""
    if recipe.base is None or method.base == "unused":
        return recipe

    def others(entries: list[ModelEntry] | None) -> list[ModelEntry] | None:
        return None if entries is None else [entry for entry in entries if entry.model != recipe.base]

    modules = recipe.modules and {
        name: module.model_copy(update={"models": others(module.models)}) for name, module in recipe.modules.items()
    }
    copy = recipe.model_copy(update={"models": others(recipe.models), "modules": modules})
    return copy.located(recipe.where, recipe.folder)


def _check_counts(recipe: Recipe, method: Method) -> None:
    for part in recipe.parts():
        low, high = method.models
        if method.base == "counted" and part.base is not None:
            low, high = low - 1, None if high is None else high - 1
        base = part.base if method.base != "unused" else None
        names = [entry.model for entry in part.entries if not (part.ranges and entry.model == base)]
        count = len(names)
        if count < low or (high is not None and count > high):
            wanted = f"exactly {low}" if low == high else (f"at least {low}" if count < low else f"at most {high}")
            raise InputError(
                f"{method.name} takes {wanted} model{'s' if (low, high) != (1, 1) else ''}"
                f"{' besides the base' if base else ''}, got {count}",
                where=f"{recipe.where}:{part.place}",
                fix="Add or remove models",
            )
        for name in names if not part.ranges else ():
            if names.count(name) > 1:
                raise InputError(
                    f"{name} is listed twice", where=f"{recipe.where}:{part.place}", fix="Give it a larger weight"
                )
