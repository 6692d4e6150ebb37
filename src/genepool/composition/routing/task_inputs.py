"""What the base sees of the inputs of each task: features, and the skill that each input belongs to.

Inputs of tasks that belong to no skill are the base's own. Used by the composers that send inputs to whole models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from genepool import progress
from genepool.composition.routing.routed_model import input_vectors
from genepool.composition.world import World
from genepool.errors import InputError, listed

#: What the base is called among the choices.
BASE = "the base"
# Pairs that a warning names.
_PAIRS = 5


@dataclass(frozen=True)
class SeenInputs:
    """Inputs as the base sees them.

    Attributes:
        features: the base's mean last hidden state of each, shape (inputs, width), float64.
        owners: the skill that each belongs to; the number of skills for the base, shape (inputs,).
        tasks: the task of each, by its number in the world, shape (inputs,).
        names: of all owners that have inputs, by number.
        counts: how many inputs there are, by task.
    """

    features: np.ndarray
    owners: np.ndarray
    tasks: np.ndarray
    names: Mapping[int, str]
    counts: Mapping[str, int]


def seen_inputs(world: World, *, owned: bool = True) -> SeenInputs:
    """The inputs of every task of a world. Its network must hold the base.

    Args:
        world: the skills and the tasks.
        owned: every skill must have a task of its name.

    Raises:
        InputError: there is no task, or a skill has none, so nothing is known of its inputs.
    """
    skills = world.skills
    known = {task.owner for task in world.tasks}
    if not world.tasks:
        raise InputError("no task tells what inputs look like", where="--tasks", fix="Name tasks")
    for number, skill in enumerate(skills.skills):
        if owned and number not in known:
            raise world.lacks_task(skill.name, "nothing is known of the inputs of this skill", skill.reference)
    base = len(skills.skills)
    features, owners, tasks, counts = [], [], [], {}
    with progress.bar("reading inputs by the base", len(world.tasks), "tasks") as bar:
        for number, composed in enumerate(world.tasks):
            prompts = [composed.task.prompt_for(one, world.network) for one in composed.examples]
            features.append(input_vectors(world.network, prompts).double().numpy())
            owners += [base if composed.owner is None else composed.owner] * len(prompts)
            tasks += [number] * len(prompts)
            counts[composed.task.name] = len(prompts)
            bar.advance()
    names = dict(enumerate(skills.names)) | ({base: BASE} if None in known else {})
    return SeenInputs(np.concatenate(features), np.array(owners), np.array(tasks), names, counts)


def warn_of_chance(chosen: np.ndarray, owners: np.ndarray, names: Mapping[int, str]) -> list[str]:
    """Says which owners a router cannot tell apart: of their inputs it gets no more right than whoever always guesses.

    Args:
        chosen: the owner that each input was sent to by a router that had not learned from it, shape (inputs,).
        owners: its own, shape (inputs,).
        names: of the owners, by number.

    Returns:
        Warnings, for the record; none where it tells all apart.
    """
    alike = []
    for one, other in combinations(names, 2):
        asked = np.isin(owners, (one, other)) & np.isin(chosen, (one, other))
        if count := int(asked.sum()):
            share = float((owners[asked] == one).mean())
            right = float((chosen[asked] == owners[asked]).mean())
            # Within the standard error of the share that always naming the more frequent one gets right.
            if right < max(share, 1 - share) + 0.5 / count**0.5:
                alike.append(f"{names[one]} from {names[other]}")
    if not alike:
        return []
    warning = f"The router tells {listed(alike, _PAIRS)} no better than by chance."
    progress.message(f"warning: {warning} Give more --examples, or tasks whose inputs differ")
    return [warning]


def warn_of_one_way(sent: Mapping[str, int], declined: int) -> list[str]:
    """Says so where a router does not choose.

    Args:
        sent: how many inputs went to each owner.
        declined: how many went to nobody.

    Returns:
        Warnings, for the record; none where it chooses.
    """
    used = [name for name, count in sent.items() if count]
    if len(used) > 1:
        return []
    what = f"always answers by {used[0]}" if used else "never answers"
    count = sum(sent.values()) + declined
    warning = f"The router {what}: of {count} inputs that it did not learn from, it sent none elsewhere."
    progress.message(f"warning: {warning} Give more --examples, or tasks whose inputs differ")
    return [warning]
