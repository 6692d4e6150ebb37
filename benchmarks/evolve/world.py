"""A text testbed of one seed with two specialists of each of four skills, the second trained on other data."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

from genepool import progress
from genepool.testbed import Testbed, build
from genepool.testbed.data import Mixture, task_items
from genepool.testbed.schedule import schedule_for
from genepool.testbed.skills import DEFAULT_SKILLS, SKILLS

CACHE = Path(__file__).parent.parent.parent / ".cache" / "evolve"
# Far from every testbed's own seed.
_OTHER = 10_000


@dataclass(frozen=True)
class World:
    """A testbed and who lives in it.

    Attributes:
        seed: of the testbed.
        bed: base, first specialists, adapters and tasks.
        parents: name -> folder: both specialists of each skill.
        folder: where studies of it may lie.
    """

    seed: int
    bed: Testbed
    parents: dict[str, Path]
    folder: Path

    @property
    def tasks(self) -> tuple[str, ...]:
        """The four skills, which are the tasks that everyone is scored on."""
        return DEFAULT_SKILLS


def world(seed: int, *, tiny: bool) -> World:
    """Builds it, or finds it built."""
    folder = CACHE / f"{'tiny' if tiny else 'text'}-{seed}"
    bed = build(folder / "bed", seed=seed, tiny=tiny)
    parents = {f"{skill}-1": Path(bed.full[skill]) for skill in DEFAULT_SKILLS}
    for skill in DEFAULT_SKILLS:
        parents[f"{skill}-2"] = folder / "second" / skill
        if not (folder / "second" / skill / "model.safetensors").is_file():
            _train_second(seed, tiny, skill, Path(bed.base), folder / "second" / skill)
    return World(seed, bed, dict(sorted(parents.items())), folder)


def _train_second(seed: int, tiny: bool, skill: str, base: Path, out: Path) -> None:
    from genepool.staging import staged_folder
    from genepool.testbed import training

    schedule, other = schedule_for("elicit", tiny=tiny, skills=len(DEFAULT_SKILLS)), seed + _OTHER
    mixture = Mixture([SKILLS[name] for name in DEFAULT_SKILLS], schedule.lengths, other, teach_base=True)
    items = task_items(skill, [SKILLS[skill]], "train", other, schedule.lengths)
    with training.one_torch_thread(), progress.bar(f"training a second {skill}", schedule.full.steps, "steps") as bar:
        model = copy.deepcopy(training.load_base(base))
        batches = mixture.specialist_batches(skill, items, schedule.full.replay)
        training.train(model, batches, schedule.full, after_step=bar.advance)
        with staged_folder(out, overwrite=True) as folder:
            training.save_model(model, folder, schedule)
