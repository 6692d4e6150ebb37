"""Models that belong together: which of them is the base, what the others are, and whether they fit.

Opens headers, and a few rows of one tensor that tell whether models share an origin. Uses weights, merging and tasks;
the files of a project are written for what is found here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genepool.checked import is_text, printable
from genepool.errors import InputError, listed
from genepool.merging import Recipe, plan_merge
from genepool.projects.lineage import origin_of_skill, origins_of
from genepool.tasks import open_model
from genepool.tasks.models import Model
from genepool.tasks.models.image_classifier import ImageClassifier
from genepool.tasks.models.sequence_classifier import SequenceClassifier
from genepool.weights import BaseWithChange, Weights, find_addition, hub, infer_roles, open_weights
from genepool.weights.class_head import head_for
from genepool.weights.roles import layer_counts

Form = Literal["model", "adapter", "skill"]
_SAY_IT = "Name the base with --base MODEL"


@dataclass(frozen=True)
class Member:
    """A model that was made from the base.

    Attributes:
        model: what the user calls it, where an adapter or skill may stand alone beside its base.
        name: a short name of its own, for tables.
        form: a whole model, or an adapter or skill on the base.
        alone: whether `model` names the adapter or skill without the base.
    """

    model: str
    name: str
    form: Form
    alone: bool = False


@dataclass(frozen=True)
class Family:
    """A base and what was made from it.

    Attributes:
        base: what the user, or else the members, call it.
        members: the others, in the order they were named.
        layers: of its longest stack; 1 when it has none.
        kind: what kind of model they are; without a head, what a training makes of them.
        config: the base's config.json.
        why: how the base was found, as a clause.
        headless: whether they can be asked only once a training has given them a head.
    """

    base: str
    members: tuple[Member, ...]
    layers: int
    kind: type[Model]
    config: Mapping[str, Any]
    why: str
    headless: bool = False

    def asked(self, member: Member) -> str:
        """What a member is called where a model is asked."""
        return f"{self.base}+{member.model}" if member.alone else member.model


@dataclass(frozen=True)
class _Named:
    """A model as it was named, before it is known what it is to the others."""

    text: str
    form: Form
    base: str
    origins: tuple[str, ...]


def find_family(models: Sequence[str], base: str | None = None, *, allow_pickle: bool = False) -> Family:
    """Opens the headers of models, finds their base, and checks that they can be merged.

    Args:
        models: folders, files, hub names, BASE+ADAPTER, BASE+SKILL, or adapters and skills alone.
        base: the model they were made from, where the user says it.
        allow_pickle: also open PyTorch's .bin and .pt files, through `torch.load(weights_only=True)`.

    Raises:
        InputError: a model cannot be opened, is named twice, there is one alone, no base is known, or they do not fit.
    """
    for text in (*models, *([base] if base is not None else [])):
        if not is_text(text):
            raise InputError("its name is not UTF-8, as recipes are", where=printable(text), fix="Rename the file")
    for number, text in enumerate(models):
        if any(_same(text, other) for other in models[:number]):
            raise InputError("named twice", where=text, fix="Name each model once")
    named = [_look(text, allow_pickle) for text in models]
    chosen, why = (base, "you said so") if base is not None else _find_base(named)
    rest = [one for one in named if not _same(one.text, chosen)]
    if not rest:
        raise InputError(
            "is the only model, and merging needs two",
            where=chosen,
            fix="Name what was made from it too, or make something first: genepool train TASK --base MODEL --out DIR",
        )
    opened = _open(chosen, rest, allow_pickle)
    _check(opened, chosen)
    members = tuple(
        Member(one.text, name, one.form, one.form != "model" and not one.base)
        for one, name in zip(rest, _short_names([one.text for one in rest]), strict=True)
    )
    weights = opened[chosen]
    layers = max(layer_counts(infer_roles({name: weights.info(name) for name in weights.names()})).values(), default=1)
    head = _head_to_make(weights.config)
    kind = head or open_model(weights).kind
    return Family(chosen, members, layers, kind, weights.config or {}, why, head is not None)


def _head_to_make(config: Mapping[str, Any] | None) -> type[Model] | None:
    """The kind that a training makes of a model that cannot be asked as it is; None of one that can."""
    for kind in (SequenceClassifier, ImageClassifier):
        if head_for(config, kind.reads) is not None:
            return kind
    return None


def _look(text: str, allow_pickle: bool) -> _Named:
    """What a name stands for, and what that says of its base."""
    alone = find_addition(text, allow_pickle=allow_pickle)
    if alone is not None:
        if alone.is_dir():
            return _Named(text, "adapter", "", origins_of(alone))
        return _Named(text, "skill", "", origin_of_skill(alone) if alone.suffix == ".safetensors" else ())
    weights = open_weights(text, allow_pickle=allow_pickle)
    if not isinstance(weights, BaseWithChange):
        return _Named(text, "model", "", origins_of(weights.folder, weights.config))
    form: Form = "skill" if weights.change.kind == "skill" else "adapter"
    root: Weights = weights
    while isinstance(root, BaseWithChange):
        root = root.base
    return _Named(text, form, root.name, ())


def _find_base(named: Sequence[_Named]) -> tuple[str, str]:
    """The base and how it was found."""
    roots = {one.base: one for one in reversed(named) if one.base}
    different = [one for at, one in enumerate(roots) if not any(_same(one, other) for other in list(roots)[:at])]
    if len(different) > 1:
        first, second = (roots[name].text for name in different[:2])
        raise InputError(f"{first} and {second} have different bases", where=second, fix="Name models of one base")
    if different:
        return different[0], f"{roots[different[0]].text} says so"
    said = list(_claims(named))
    of_given = {one.text for _, one, _ in said if one is not None}
    # A base that says itself what it was made from is not for others to be made from twice over.
    tops = [text for text in of_given if not any(who.text == text and one is not None for who, one, _ in said)]
    if len(tops) == 1:
        who = next(who for who, one, _ in said if one is not None and one.text == tops[0])
        return tops[0], f"{who.text} says so"
    models = [one for one in named if one.form == "model"]
    if len(models) == 1 and len(named) > 1:
        return models[0].text, "the others are adapters and skills, which need one"
    outside = {name: who for who, one, name in said if one is None}
    if len(tops) > 1 or (not outside and len(named) > 1):
        raise InputError(
            f"which of {listed(one.text for one in named)} is the base is not known", where="--base", fix=_SAY_IT
        )
    if len(outside) == 1:
        ((name, who),) = outside.items()
        return name, f"{who.text} says so"
    if outside:
        raise InputError(f"the models say that they were made from {listed(outside)}", where="--base", fix=_SAY_IT)
    if models:
        return models[0].text, "it is the only one"
    raise InputError("says of no model that it was made for it", where=named[0].text, fix=_SAY_IT)


def _claims(named: Sequence[_Named]) -> Iterator[tuple[_Named, _Named | None, str]]:
    """Who says it was made from what: the model, the one among those given that it means, else None, and the name.

    A name of another machine or of the hub means a given model that is called the same at its end.
    """
    for who in named:
        others = [one for one in named if one is not who]
        for alike in (_same, _ends_alike):
            meant = [(one, name) for name in who.origins for one in others if alike(one.text, name)]
            if meant or any(alike(who.text, name) for name in who.origins):
                break
        if meant:
            yield who, *meant[0]
        elif not any(_ends_alike(who.text, name) for name in who.origins):
            yield from ((who, None, name) for name in [name for name in who.origins if _can_be_opened(name)][:1])


def _same(one: str, other: str) -> bool:
    """Whether two names are of one model."""
    return one == other or _place(one) == _place(other)


def _ends_alike(one: str, other: str) -> bool:
    """Whether the last parts of two paths are the same: a copy elsewhere, most likely."""
    return Path(_place(one)).name.lower() == Path(_place(other)).name.lower()


def _can_be_opened(name: str) -> bool:
    """Whether a name that is no given model's is worth a try: a folder of a model, or a name of the hub."""
    path = Path(os.path.expanduser(name))
    return (path / "config.json").is_file() if os.path.exists(path) else hub.HUB_ID.fullmatch(name) is not None


def _place(name: str) -> str:
    path = Path(os.path.expanduser(name))
    return os.path.realpath(path) if os.path.exists(path) else name.removeprefix("hf://")


def _open(base: str, rest: Sequence[_Named], allow_pickle: bool) -> dict[str, Weights]:
    try:
        opened = open_weights(base, allow_pickle=allow_pickle)
    except InputError as error:
        raise InputError(f"the base cannot be opened: {error.where}: {error.what}", where=base, fix=_SAY_IT) from error
    return {base: opened} | {one.text: open_weights(one.text, base=opened, allow_pickle=allow_pickle) for one in rest}


def _check(opened: Mapping[str, Weights], base: str) -> None:
    """Refuses what cannot be merged, as the plan of a merge does."""
    recipe = Recipe(method="task_arithmetic", base=base, models=[name for name in opened if name != base])
    plan_merge(recipe.located(listed(opened), None), opened)


def _short_names(texts: Sequence[str]) -> list[str]:
    """The last part of each path, with as much before it as tells them apart."""
    parts = [
        [part for part in re.split(r"[+/\\@]", text.removesuffix(".safetensors")) if part not in ("", ".", "..")]
        for text in texts
    ]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["-".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'-'.join(one)}-{number}" for number, one in enumerate(parts, 1)]
