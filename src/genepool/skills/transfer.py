"""Which of many skills would help a task most, told from a few of its examples and far cheaper than by training.

One model is held in memory. Each skill is put into it in place, reads the examples once, and is taken out again to the
last bit. Without any of that, the gradient of the base's loss on the examples, from one backward pass, can be compared
with every skill's change, read block by block. Prompts are those the task itself would ask.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from genepool import progress
from genepool.errors import InputError, nearest
from genepool.skills.transfer_scores import h_score, logme, mean_ranks, tmi
from genepool.tasks import DEFAULT_BATCH, Example, LanguageModel, Task, open_model
from genepool.tasks.models import load_as
from genepool.threads import torch_threads
from genepool.training import EncodedExamples, answer_likelihoods, descend, encode_examples, target_objective
from genepool.weights import Weights, open_weights
from genepool.weights.tensor_info import shape_text

if TYPE_CHECKING:
    import torch

_Found = TypeVar("_Found")
# What a user names where a skill is wanted, or has opened.
_Skill = str | Path | Weights

#: What a skill is scored by; see `RankedSkill`.
COMPONENTS = ("likelihood", "exact", "alignment", "tmi", "logme", "h_score")
#: Those a ranking is made of unless others are asked for: what `benchmarks.skills.transfer --choose` takes by a rule.
ENSEMBLE = ("likelihood",)
_FEATURE_SCORES: Mapping[str, Callable[[Any, Any], float]] = {"tmi": tmi, "logme": logme, "h_score": h_score}
# Entries of a change in memory at a time.
_BLOCK_ENTRIES = 1 << 22


@dataclass(frozen=True)
class RankedSkill:
    """One skill and what speaks for it.

    Attributes:
        name: what the user calls it.
        score: mean of its normalised ranks in the components used: 1 when it is the best in all, 0 the worst.
        parts: component -> its value, higher being better in all:
            likelihood: log-likelihood of the right answer per token, mean over the examples, of base + skill;
            exact: share of examples all of whose answer's tokens are the likeliest at their places;
            alignment: -<g, d> / |d| of the change d and the gradient g of the base's loss (minus its likelihood): how
                fast the loss falls when one starts from the base into the skill's direction;
            tmi, logme, h_score: of the last hidden states of base + skill, see `transfer_scores`.
    """

    name: str
    score: float
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Ranking:
    """Skills, the most promising first.

    Attributes:
        skills: those that fit the base.
        components: what their scores are made of.
        base: likelihood and exact of the base alone: a skill below it is expected to do harm.
        skipped: skill -> why it could not be put on the base.
        left_out: component that was asked for -> why it could not be computed.
        examples: how many were read.
        classes: what the features were told apart by, "answer" or "first token"; "" when they were not.
    """

    skills: tuple[RankedSkill, ...]
    components: tuple[str, ...]
    base: Mapping[str, float]
    skipped: Mapping[str, str]
    left_out: Mapping[str, str]
    examples: int
    classes: str

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints; null where a value is not a number."""
        return {
            "skills": [{"name": s.name, "score": s.score, "parts": _numbers(s.parts)} for s in self.skills],
            "components": list(self.components),
            "base": _numbers(self.base),
            "skipped": dict(self.skipped),
            "left_out": dict(self.left_out),
            "examples": self.examples,
            "classes": self.classes,
        }


def rank_skills(
    base: _Skill,
    skills: Sequence[_Skill] | Mapping[str, _Skill],
    examples: Sequence[Example],
    *,
    task: Task | None = None,
    components: Sequence[str] | None = None,
    cheap: bool = False,
    batch_size: int = DEFAULT_BATCH,
    threads: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    allow_pickle: bool = False,
) -> Ranking:
    """Ranks skills by how much each would help a task, from 20 to 200 of its examples.

    Memory is that of one model, and for `alignment` of the gradients of the tensors that some skill changes.

    Args:
        base: the model the skills are put on.
        skills: skill files, PEFT adapters or fine-tunes of the base, under names of their own or those given.
        examples: of the task, never of its test split; the first answer of each counts.
        task: how they are asked (template, examples shown before); as bare prompts when None.
        components: of `COMPONENTS`, what the ranking is made of; `ENSEMBLE` when None.
        cheap: alignment alone, which asks no model but the base: for libraries of a thousand skills.
        batch_size: examples per batch.
        threads: torch's threads while computing; as they are when None.
        device: torch's name of the device.
        dtype: what the model computes in.
        allow_pickle: also open PyTorch's .bin and .pt files, through `torch.load(weights_only=True)`.

    Returns:
        The ranking. Skills that do not fit the base are named there with the reason.

    Raises:
        InputError: the base or the examples cannot be used, no skill fits, or a component is unknown.
    """
    if cheap and components is not None:
        raise InputError(
            "cheap uses alignment alone, and components are named", where="components", fix="Leave out one of the two"
        )
    asked = ("alignment",) if cheap else tuple(dict.fromkeys(ENSEMBLE if components is None else components))
    for name in asked:
        if name not in COMPONENTS:
            raise InputError(f"there is no component '{name}'", where="components", fix=nearest(name, COMPONENTS))
    if not asked:
        raise InputError("no component is named", where="components", fix=f"Known here: {', '.join(COMPONENTS)}")
    named = _named(skills)
    opened = base if isinstance(base, Weights) else open_weights(base, allow_pickle=allow_pickle)
    with torch_threads(threads):
        with progress.bar(f"loading {opened.name}"):
            model = load_as(LanguageModel, open_model(opened), "ranking skills", device=device, dtype=dtype)
        encoded = encode_examples(model, examples, task, batch_size)
        return _Judge(opened, model, encoded, allow_pickle).rank(named, asked)


def _named(skills: Sequence[_Skill] | Mapping[str, _Skill]) -> dict[str, _Skill]:
    if isinstance(skills, Mapping):
        named = dict(skills)
    else:
        named = {}
        for skill in skills:
            name = skill.name if isinstance(skill, Weights) else str(skill)
            if name in named:
                raise InputError("is named twice", where=name, fix="Name each skill once")
            named[name] = skill
    if not named:
        raise InputError("no skill is named", where="skills", fix="Name at least one")
    return named


# ---------------------------------------------------------------------- reading


class _Judge:
    """One resident model, the base, which every skill is put into and taken out of."""

    def __init__(self, base: Weights, model: LanguageModel, examples: EncodedExamples, allow_pickle: bool) -> None:
        self.base, self.model, self.examples, self.allow_pickle = base, model, examples, allow_pickle
        self.parameters: dict[str, torch.nn.Parameter] = dict(model.model.named_parameters())
        self.skipped: dict[str, str] = {}

    def rank(self, named: Mapping[str, _Skill], asked: Sequence[str]) -> Ranking:
        """See `rank_skills`."""
        left_out = self._left_out(asked)
        used = tuple(name for name in asked if name not in left_out)
        if not used:
            raise InputError(
                f"no component can be computed: {next(iter(left_out.values()))}", fix="Ask for likelihood as well"
            )
        aligned, reading = "alignment" in used, used != ("alignment",)
        parts: dict[str, dict[str, float]] = {name: {} for name in named}
        with progress.bar("ranking skills", len(named) * (aligned + reading), "skills") as bar:
            moved = set().union(*self._each(bar, named, self._moved, 0).values())
            bar.note("the base")
            base, _ = self._read(False)
            if aligned:
                gradient = self._gradient(moved)
                for name, value in self._each(bar, named, lambda skill: self._alignment(skill, gradient), 1).items():
                    parts[name]["alignment"] = value
                # As large as the model, and done with.
                gradient.clear()
            if reading:
                for name, values in self._each(bar, named, lambda skill: self._parts(skill, used), 1).items():
                    parts[name].update(values)
        ranked = [name for name in named if name not in self.skipped]
        if not ranked:
            why = next(iter(self.skipped.values()))
            raise InputError(f"no skill can be ranked: {why}", fix="Name skills of this base")
        scores = mean_ranks([[parts[name][part] for name in ranked] for part in used])
        # Equal scores keep the order the skills were given in.
        order = np.argsort(-scores, kind="stable")
        return Ranking(
            tuple(RankedSkill(ranked[i], float(scores[i]), parts[ranked[i]]) for i in order),
            used,
            base,
            self.skipped,
            left_out,
            len(self.examples.answers),
            self.examples.classes[0] if set(used) & set(_FEATURE_SCORES) else "",
        )

    def _left_out(self, asked: Sequence[str]) -> dict[str, str]:
        kind, classes, counted = self.examples.classes
        if len(np.unique(classes[counted])) >= 2:
            return {}
        why = f"fewer than two classes ({kind} of the examples) have two examples each"
        return {name: why for name in asked if name in _FEATURE_SCORES}

    def _each(
        self, bar: progress.Bar, named: Mapping[str, _Skill], work: Callable[[Weights], _Found], steps: int
    ) -> dict[str, _Found]:
        """What `work` makes of each skill; those it refuses are skipped from then on.

        Each is opened anew and let go: a thousand at once would be more files than a process may hold open.
        """
        found = {}
        for name, skill in named.items():
            bar.note(name)
            if name not in self.skipped:
                try:
                    found[name] = work(self._fitting(skill))
                except InputError as error:
                    self.skipped[name] = str(error)
            bar.advance(steps)
        return found

    def _fitting(self, skill: _Skill) -> Weights:
        """A skill, opened, whose changed tensors are all the model's."""
        weights = skill
        if not isinstance(weights, Weights):
            weights = open_weights(weights, base=self.base, allow_pickle=self.allow_pickle)
        held = {weights.aliases().get(name, name) for name in self.parameters}
        for name in sorted({*self.base.names(), *weights.names()}):
            theirs, ours = (w.info(name).shape if name in w else None for w in (weights, self.base))
            if theirs is not None and theirs == ours:
                if weights.aliases().get(name, name) in held or not weights.moves(name, self.base):
                    continue
                what = f"changes {name}, which has another name or layout in memory"
            elif theirs is None or ours is None:
                what = f"{'lacks' if theirs is None else 'has'} the tensor {name}, unlike {self.base.name}"
            else:
                what = f"{name} is {shape_text(theirs)} where {self.base.name} has {shape_text(ours)}"
            raise InputError(what, where=weights.name, fix="Name a skill of this base")
        return weights

    def _moved(self, skill: Weights) -> set[str]:
        return {name for name in self.parameters if name in self.base and skill.moves(name, self.base)}

    def _read(self, featured: bool) -> tuple[dict[str, float], list[Any]]:
        """likelihood and exact of the model as it is, and where asked for each example's feature, (d,)."""
        import torch

        likelihood, exact = (np.zeros(len(self.examples.answers)) for _ in range(2))
        features: list[Any] = [None] * len(likelihood)
        states: list[torch.Tensor] = []
        # What the head reads is the last hidden state, whatever the architecture calls it.
        head = self.model.model.get_output_embeddings()
        listener = head.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0])) if featured else None
        try:
            with torch.inference_mode(), self.model.watched():
                for batch in self.examples.batches:
                    states.clear()
                    logprobs, hits = answer_likelihoods(self.model, batch)
                    likelihood[batch.numbers] = batch.means(logprobs.double()).cpu().numpy()
                    exact[batch.numbers] = (batch.means(hits.double()) == 1).cpu().numpy()
                    for row, i in enumerate(batch.numbers if featured else ()):
                        features[i] = states[0][row, batch.last[row]].double().cpu().numpy()
        finally:
            if listener is not None:
                listener.remove()
        return {"likelihood": float(likelihood.mean()), "exact": float(exact.mean())}, features

    def _parts(self, skill: Weights, used: Sequence[str]) -> dict[str, float]:
        """All that is told by reading the examples with the skill."""
        wanted = [name for name in used if name in _FEATURE_SCORES]
        with self._applied(skill):
            found, features = self._read(bool(wanted))
        if wanted:
            _, classes, counted = self.examples.classes
            rows = np.array(features)[counted]
            found |= {name: _FEATURE_SCORES[name](rows, classes[counted]) for name in wanted}
        return found

    def _gradient(self, moved: Collection[str]) -> dict[str, torch.Tensor]:
        """The gradient of the base's loss, minus its likelihood, by the tensors that some skill changes."""
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in moved)
        descend(target_objective("likelihood"), self.model, self.examples)
        gradient = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        for parameter in self.parameters.values():
            parameter.requires_grad_(False).grad = None
        return gradient

    def _alignment(self, skill: Weights, gradient: Mapping[str, torch.Tensor]) -> float:
        """-<g, d> / |d|, the change read block by block; 0 for a skill that changes nothing."""
        import torch

        product, square = 0.0, 0.0
        for name, slope in gradient.items():
            for start, stop in self._blocks(skill, name):
                change = skill.delta_rows(name, self.base, start, stop)
                if change is None:
                    break
                flat = change.to(slope.device).reshape(-1)
                along = slope.reshape(skill.info(name).matrix)[start:stop].float().reshape(-1)
                product += float(torch.dot(along, flat))
                square += float(torch.dot(flat, flat))
        return -product / square**0.5 if square != 0 else 0.0

    @contextmanager
    def _applied(self, skill: Weights) -> Iterator[None]:
        """The model holds base + skill inside the block, and the base again after it, to the last bit."""
        moved = sorted(self._moved(skill))
        try:
            for name in moved:
                self._fill(name, skill)
            yield
        finally:
            for name in moved:
                self._fill(name, self.base)

    def _fill(self, name: str, weights: Weights) -> None:
        target = self.parameters[name].data.view(weights.info(name).matrix)
        for start, stop in self._blocks(weights, name):
            target[start:stop].copy_(weights.read_rows(name, start, stop))

    @staticmethod
    def _blocks(weights: Weights, name: str) -> Iterator[tuple[int, int]]:
        rows, columns = weights.info(name).matrix
        step = max(1, _BLOCK_ENTRIES // max(1, columns))
        return ((start, min(start + step, rows)) for start in range(0, rows, step))


def _numbers(parts: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in parts.items()}
