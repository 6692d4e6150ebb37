"""Whether all that the files of a saved composition say is what the composition is made of.

What is read by name and nothing else may be edited unseen: a key that is misspelt, a tensor of what no option asks for,
names of skills in another order than their tensors. Used by `saved_model`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from genepool.composition.composition import Composition, Saved
from genepool.errors import InputError, listed, nearest

_AGAIN = "Compose it again"
# Of a list of names, how many an error shows.
_NAMES = 5


def all_labels(composition: Composition) -> dict[str, list[str]]:
    """The labels of a composition, with those of its skills: in the order that its tensors have them in."""
    return {"skills": composition.skills.names, **{name: list(values) for name, values in composition.labels.items()}}


def check_keys(said: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Refuses a key that no version writes.

    Raises:
        InputError: there is one; it is named.
    """
    for key in said:
        if key not in known:
            raise InputError(f"unknown key '{key}'", where=where, fix=nearest(key, known))


def check_parts(composition: Composition, saved: Saved, named: object, place: Path, *, bundled: bool) -> None:
    """Refuses tensors that the composition has no use for, and labels that are not its own.

    Args:
        composition: as it was restored.
        saved: what its files say.
        named: the names of the tensors, as `composition.json` has them; None where it has none.
        place: that file.
        bundled: its skills lie beside it as copies, which may no longer name tensors that they do not move.

    Raises:
        InputError: there is one; the tensor, or the key of the labels, is named.
    """
    hashes = {skill.fingerprint: skill.fingerprint for skill in composition.skills.skills}
    wanted = composition.saved_tensors(hashes)
    base = set(composition.skills.memory_base.names()) if bundled else set()
    for name in sorted(saved.tensors):
        if name not in wanted and not any(part in base for part in _ends(name)):
            raise InputError(
                "the composition has no such tensor, by its options and its skills",
                where=f"{saved.where}:{name}",
                fix=_AGAIN,
            )
    if named is not None and named != sorted(saved.tensors):
        what = f"names other tensors than {Path(saved.where).name} holds"
        raise InputError(what, where=f"{place}:tensors", fix=_AGAIN)
    own = all_labels(composition) if saved.labels else {}
    for key, names in saved.labels.items():
        if key not in own:
            raise InputError(f"unknown label '{key}'", where=f"{place}:labels", fix=nearest(key, own))
        # Of tensors it may name more than the copies of skills do; the method has looked at them.
        if key != "tensors" and list(names) != list(own[key]):
            raise InputError(
                f"names {_shown(names)}, and the composition has {_shown(own[key])}",
                where=f"{place}:labels.{key}",
                fix=_AGAIN,
            )


def _ends(name: str) -> list[str]:
    """A tensor's name without what stands before its slashes: what it may be about."""
    parts = name.split("/")
    return ["/".join(parts[at:]) for at in range(1, len(parts))]


def _shown(names: Sequence[str]) -> str:
    return listed(list(names), _NAMES) if names else "none"
