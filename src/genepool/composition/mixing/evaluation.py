"""Models of one base that can be asked in common batches: what `genepool evaluate --mixed` hands to `tasks`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from genepool.composition.mixing.shared_network import SharedNetwork
from genepool.composition.skill_set import ComposedSkill, SkillSet
from genepool.tasks.evaluate import AskedTogether
from genepool.tasks.models import Source, WeightsSource, open_model
from genepool.tasks.network import Network
from genepool.weights import BaseWithChange, Weights


def of_one_base(sources: Sequence[Source], device: str, dtype: str) -> list[AskedTogether]:
    """Groups of two models and more that share a base: adapters and skills of low rank on it, and the base itself.

    Others are left to be asked one by one: whole fine-tunes, skills that change norms or embeddings, compositions, and
    models that are asked with control tokens.

    Args:
        sources: the models.
        device, dtype: as `Source.load`.
    """
    groups: dict[str, list[tuple[int, BaseWithChange]]] = {}
    for place, source in enumerate(sources):
        weights = source.weights if isinstance(source, WeightsSource) else None
        if isinstance(weights, BaseWithChange) and weights.control is None:
            groups.setdefault(weights.base.fingerprint(), []).append((place, weights))
    found = []
    for fingerprint, members in groups.items():
        skills = _skill_set(sources, members)
        alone = _not_mixed(skills)
        beside = [(place, number) for number, (place, _) in enumerate(members) if number not in alone]
        bases = [(place, -1) for place, source in enumerate(sources) if _is_base(source, fingerprint)]
        if beside and len(beside) + len(bases) > 1:
            found.append(AskedTogether((*bases, *beside), partial(SharedNetwork, skills, device, dtype)))
    return found


def _is_base(source: Source, fingerprint: str) -> bool:
    return isinstance(source, WeightsSource) and source.fingerprint == fingerprint


def _skill_set(sources: Sequence[Source], members: Sequence[tuple[int, BaseWithChange]]) -> SkillSet:
    base: Weights = members[0][1].base
    skills = [ComposedSkill(one.name, one.name, sources[place], one.change) for place, one in members]
    return SkillSet(base, base.name, tuple(skills))


def _not_mixed(skills: SkillSet) -> set[int]:
    """Numbers of the skills that do not run beside the base, told without loading it."""
    from genepool.composition.mixing.attached import why_not_mixed

    kind = open_model(skills.base).kind
    network = kind.outline(skills.base) if issubclass(kind, Network) else None
    everyone = set(range(len(skills.skills)))
    return everyone if network is None else set(why_not_mixed(skills.vectors(), network))
