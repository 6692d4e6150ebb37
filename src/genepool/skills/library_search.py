"""Finding skills in a library: by words, and by what they do to the weights."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genepool.checked import is_text
from genepool.errors import InputError
from genepool.skills.library import Library, describe
from genepool.skills.library_entry import LibraryEntry
from genepool.skills.sketch import cosines
from genepool.weights import Change, SkillFile, open_change
from genepool.weights.skill_file import is_skill

if TYPE_CHECKING:
    from genepool.skills.sketch import Array
    from genepool.skills.transfer import Ranking
    from genepool.weights import Weights

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Hit:
    """A skill that was found, and how well it answers: BM25 of words, or the estimated cosine of changes."""

    kept: LibraryEntry
    score: float


def search_text(library: Library, text: str, limit: int = 20) -> list[Hit]:
    """Skills whose name, description, tags, scores or base have any of the words, or words that begin so.

    Raises:
        InputError: there is no word in the text.
    """
    words = _WORD.findall(text) if is_text(text) else []
    if not words:
        raise InputError(
            "the text has no word to search for", where="--text", fix="Give a word, such as --text reverse"
        )
    # In quotation marks nothing is an operator of FTS5.
    query = " OR ".join(f'"{word}"*' for word in words)
    return [Hit(kept, score) for kept, score in library.catalogue.matching(query, limit)]


def search_similar(library: Library, reference: str, limit: int = 20) -> list[Hit]:
    """Skills by the estimated cosine of their change with another's, the closest first. No skill file is read.

    Args:
        library: where to look.
        reference: a skill of the library, by name or digest, or else a skill file.
        limit: how many at most.

    Raises:
        InputError: nothing of that name is there.
    """
    own, target = sketch_of(library, reference)
    known = {kept.digest: kept for kept in library.catalogue.all()}
    rest = [(known[d], whole) for d, whole in library.catalogue.sketches() if d != own and d in known]
    if not rest:
        return []
    import numpy as np

    found = cosines(target, np.stack([whole for _, whole in rest]))
    best = np.argsort(-found, kind="stable")[:limit]
    return [Hit(rest[i][0], float(found[i])) for i in best.tolist()]


def sketch_of(library: Library, reference: str) -> tuple[str, Array]:
    """(digest, whole sketch) of a skill of the library, or of a file elsewhere."""
    path = Path(os.path.expanduser(reference))
    if library.get(reference) is None and is_skill(path):
        skill = SkillFile(path)
        return skill.digest(), describe(path, "", "")[1].whole
    kept = library.find(reference)
    stored = library.catalogue.sketch(kept.digest)
    if stored is None:
        raise InputError(f"{kept.name} has no sketch", where=library.folder, fix="Run genepool library check")
    return kept.digest, stored.whole


def changes_of(library: Library, reference: str) -> Change:
    """The change of a skill of the library, or of a file elsewhere, to be read."""
    path = Path(os.path.expanduser(reference))
    if library.get(reference) is None and is_skill(path):
        return open_change(path)
    return library.open(reference).change


def by_task(
    library: Library,
    path: str | Path,
    base: str,
    limit: int = 20,
    *,
    cheap: bool = False,
    examples: int = 100,
    split: str = "train",
    device: str = "cpu",
    dtype: str = "float32",
    trusted: Collection[str | Path] = (),
    allow_pickle: bool = False,
) -> tuple[list[Hit], Ranking]:
    """Skills by how much they would help a task, told from some of its examples.

    Args:
        library: whose skills.
        path: one task: a file of examples, or a folder.
        base: the model they are put on; those of other bases are left out.
        limit: how many at most.
        cheap: by the gradient of the base's loss alone; see `genepool.skills.transfer.rank_skills`.
        examples: how many are read.
        split: which, where the task has several.
        device: torch's name of the device.
        dtype: what the model computes in.
        trusted: files of tasks that may run code.
        allow_pickle: also open a base in PyTorch's .bin and .pt files, through `torch.load(weights_only=True)`.

    Returns:
        The skills with their scores, and the whole ranking.

    Raises:
        InputError: there are no skills or no examples, or none of the skills fits the base.
    """
    # Not at the top: other ways of searching need no model.
    from genepool.skills.transfer import rank_skills
    from genepool.tasks import load_tasks
    from genepool.weights import open_weights

    found = load_tasks(path, trusted=trusted)
    if len(found) != 1:
        raise InputError(f"got {len(found)} tasks, expected one", where=path, fix="Name one of them")
    opened = open_weights(base, allow_pickle=allow_pickle)
    kept = {one.name: one for one in library.catalogue.all()}
    if not kept:
        raise InputError("has no skills", where=library.folder, fix="Add one with genepool library add")
    files: dict[str, str | Path | Weights] = {name: library.path(one.digest) for name, one in kept.items()}
    asked = list(found[0].examples(split))[:examples]
    ranking = rank_skills(opened, files, asked, task=found[0], cheap=cheap, device=device, dtype=dtype)
    return [Hit(kept[skill.name], skill.score) for skill in ranking.skills][:limit], ranking


def filtered(skills: Sequence[LibraryEntry], base: str | None, tag: str | None) -> list[LibraryEntry]:
    """Those of a base (its name, or the beginning of its fingerprint) and with a tag, where these are given."""

    def of_base(kept: LibraryEntry) -> bool:
        return base is None or kept.base_name == base or (len(base) >= 4 and kept.base_fingerprint.startswith(base))

    return [kept for kept in skills if of_base(kept) and (tag is None or tag in kept.tags)]
