"""Composes from a recipe to a folder: what `genepool compose` calls.

The folder appears whole. What a fit needs to go on is kept in `.OUT.fit` beside it, and removed when the folder is
there. Uses every other module of this room.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genepool import locking, progress, staging
from genepool.composition.card import composition_card, composition_record
from genepool.composition.composer import Composer, make_composer
from genepool.composition.composition import Composition
from genepool.composition.finished import ASKED, RECORD_FILE, asked_of, finished_record, form_of
from genepool.composition.peft_export import write_lora
from genepool.composition.recipe import Composing
from genepool.composition.residence import Residence
from genepool.composition.saved_model import MARKER, save_composition
from genepool.composition.skill_set import SkillSet, check_finite, open_skills
from genepool.composition.world import World
from genepool.errors import InputError
from genepool.own_inputs import refuse_own_input
from genepool.tasks import Task, load_tasks
from genepool.weights import Change, write_checkpoint

RECIPE_FILE = "compose.yaml"


@dataclass(frozen=True)
class Composed:
    """What came of a composition.

    Attributes:
        out: the folder.
        form: "checkpoint", "adapter" or "composition".
        method: the composer's name.
        skills: the base and the skills.
        record: how it was fitted, as plain data.
        resumed: whether it was finished before this call, and nothing was done.
    """

    out: Path
    form: str
    method: str
    skills: SkillSet
    record: Mapping[str, Any]
    resumed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """What `genepool compose --json` prints."""
        return {
            "out": str(self.out),
            "form": self.form,
            "finished_before": self.resumed,
            "method": self.method,
            "base": {"name": self.skills.reference, "fingerprint": self.skills.base.fingerprint()},
            "skills": [{"name": one.name, "fingerprint": one.fingerprint} for one in self.skills.skills],
            "record": dict(self.record),
        }


def compose(
    recipe: Composing,
    out: str | Path,
    *,
    device: str = "cpu",
    trusted: Collection[str | Path] = (),
    allow_pickle: bool = False,
    overwrite: bool = False,
) -> Composed:
    """Fits a composition, or goes on with a fit that was stopped, and writes it; does nothing where it is finished.

    Args:
        recipe: the composition.
        out: the folder to write.
        device: torch's name of the device.
        trusted: files of tasks that may run code.
        allow_pickle: also open PyTorch's .bin and .pt files, tensors only.
        overwrite: replace what is at `out`.

    Raises:
        InputError: something the recipe names is wrong, or nothing can be learned from it. Nothing is written.
        KeyboardInterrupt: Ctrl-C; the same call goes on.
    """
    out = Path(out)
    composer = make_composer(recipe.method, recipe.options, "--set")
    composer.check_count(len(recipe.skills), "compose")
    work = out.with_name(f".{out.name}.fit")
    filled = out.is_dir() and any(out.iterdir())
    if filled and not overwrite:
        _clear_left(work)
    if not (filled and (out / RECORD_FILE).is_file()) and not (out / MARKER).is_file():
        staging.check_free(out, overwrite=overwrite)
    named = [recipe.base, *recipe.skills, *composer.models().values()]
    refuse_own_input(out, [*named, *([recipe.tasks] if recipe.tasks else [])])
    skills, tasks = _opened(recipe, composer, trusted, allow_pickle)
    world = World(
        skills,
        tasks,
        examples=recipe.examples,
        seed=recipe.seed,
        device=device,
        dtype=recipe.dtype,
        work=work,
        chosen=bool(recipe.task),
    )
    asked = asked_of(recipe, composer, world)

    def finished() -> Composed | None:
        record = None if overwrite else finished_record(out, asked)
        return None if record is None else Composed(out, form_of(out), composer.name, skills, record, resumed=True)

    if found := finished():
        # What a kill left that came right after the result was published.
        locking.clear_lock(out)
        return found
    staging.check_free(out, overwrite=overwrite)
    with locking.locked(work):
        # Whoever held the lock until now may have published there.
        if found := finished():
            shutil.rmtree(work, ignore_errors=True)
            return found
        _check_still_free(out, work, overwrite=overwrite)
        check_finite(skills)
        composition = _fitted(composer, world, work)
        composition.record[ASKED] = asked
        form = _write(composition, recipe, out, overwrite)
        shutil.rmtree(work, ignore_errors=True)
    return Composed(out, form, composer.name, skills, composition.record)


def _fitted(composer: Composer[Any], world: World, work: Path) -> Composition:
    """Fits; of a fit that was begun here and cannot be done, nothing is left to go on from."""
    begun = work.exists()
    try:
        return composer.fit(world)
    except InputError:
        if not begun:
            shutil.rmtree(work, ignore_errors=True)
        raise


def _check_still_free(out: Path, work: Path, *, overwrite: bool) -> None:
    try:
        staging.check_free(out, overwrite=overwrite)
    except InputError:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _clear_left(work: Path) -> None:
    """Removes what a kill right after the output was published leaves of its fit, unless another process fits there."""
    locking.clear_lock(work)
    if not work.exists():
        return
    # Whoever cannot lock it is not the one to say so: why the output cannot be written is said next.
    with suppress(InputError), locking.locked(work):
        shutil.rmtree(work, ignore_errors=True)


def plan_composing(
    recipe: Composing, *, trusted: Collection[str | Path] = (), allow_pickle: bool = False
) -> tuple[Residence, list[Task]]:
    """What a fit would hold in memory, and the tasks that it would ask; headers and task files only.

    Args:
        recipe: the composition.
        trusted: files of tasks that may run code.
        allow_pickle: also open PyTorch's .bin and .pt files, tensors only.

    Raises:
        InputError: something the recipe names is wrong, or not even the network fits, with the figures.
    """
    composer = make_composer(recipe.method, recipe.options)
    composer.check_count(len(recipe.skills), "compose")
    skills, tasks = _opened(recipe, composer, trusted, allow_pickle)
    return composer.plan(skills, recipe.dtype), tasks


def _opened(
    recipe: Composing, composer: Composer[Any], trusted: Collection[str | Path], allow_pickle: bool
) -> tuple[SkillSet, list[Task]]:
    with progress.bar("opening the base, the skills and the tasks"):
        skills = open_skills(recipe.base, recipe.skills, members=composer.members, allow_pickle=allow_pickle)
        if recipe.tasks is None:
            return skills, []
        return skills, load_tasks(recipe.tasks, recipe.task or None, trusted=trusted)


def _write(composition: Composition, recipe: Composing, out: Path, overwrite: bool) -> str:
    """Writes what a recipe asks for; what it is."""
    if not recipe.fold or composition.composer.out == "module":
        save_composition(composition, out, bundle=recipe.bundle, overwrite=overwrite)
        return "composition"
    change = composition.fold()
    files = {
        RECIPE_FILE: recipe.text(),
        RECORD_FILE: json.dumps(composition_record(composition), indent=2, ensure_ascii=False) + "\n",
        "README.md": composition_card(composition),
    }
    if composition.composer.out == "adapter" and _is_low_rank(change):
        _write_adapter(change, composition.skills, out, files, overwrite)
        return "adapter"
    write_checkpoint(change.applied(composition.name), out, overwrite=overwrite, extra_files=files)
    return "checkpoint"


def _is_low_rank(change: Change) -> bool:
    """Whether every matrix changes by a product of two factors."""
    return all(len(change.shape(name)) < 2 or change.factors(name) is not None for name in change.names())


def _write_adapter(change: Change, skills: SkillSet, out: Path, files: dict[str, str], overwrite: bool) -> None:
    """Writes a change whose tensors are products as a PEFT adapter, without loss.

    Raises:
        InputError: a tensor changes that no adapter holds.
    """
    with staging.staged_folder(out, overwrite=overwrite) as folder:
        write_lora(change, skills, folder)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
