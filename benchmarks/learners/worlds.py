"""Where learners are asked: strings that a small Llama learns, and digits that a small vision transformer learns.

The first has a base and four skills; in the others the base is untrained, and each task is about other digits. Of each
seed the base is made anew. Uses the testbeds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.claims.worlds import CACHE
from benchmarks.composition.bed import TINY
from genepool.seeding import numpy_generator
from genepool.staging import staged_folder
from genepool.testbed import build

KIND = TINY[1]
#: Tasks of strings in both orders; the second one is the first one backwards.
ORDERS = {"forwards": ("reverse", "sort", "upper", "caesar"), "backwards": ("caesar", "upper", "sort", "reverse")}
#: Two digits a task, in both orders.
PAIRS = {"digits upwards": ("01", "23", "45", "67", "89"), "digits downwards": ("89", "67", "45", "23", "01")}
#: Six digits with all of their images, then one after the other with a few images each.
SHOTS = {
    "few images upwards": ("012345", "6", "7", "8", "9"),
    "few images downwards": ("456789", "3", "2", "1", "0"),
}
#: Images of each later digit.
SHOWN = 5
#: Steps of each task, examples of a step, rank of the factors, test examples that each task is asked after every task.
STEPS, BATCH, RANK, ASKED = 40, 32, 8, 128
#: The learning rate of strings, the default of a training of this width; and that of digits, which the testbed has.
RATE, DIGITS_RATE = 7.4e-3, 4e-3
#: Steps of a task of two digits, and of one after six digits.
PAIR_STEPS, SHOT_STEPS = 60, 150


@dataclass(frozen=True)
class LearningWorld:
    """A base and tasks in two orders.

    Attributes:
        name: of it.
        orders: of the tasks.
        place: seed, order -> (base, folder of the tasks); made where it is not there yet.
        settings: of a training, by its keys.
        same_examples: whether all seeds are asked the same test examples.
    """

    name: str
    orders: Mapping[str, tuple[str, ...]]
    place: Callable[[int, str], tuple[Path, Path]]
    settings: Mapping[str, Any]
    same_examples: bool = False


def _strings(seed: int, order: str) -> tuple[Path, Path]:
    bed = CACHE / "beds" / f"{KIND.name}-{seed}"
    build(bed, seed=seed, overwrite=True, **KIND.options)
    return bed / "base", bed / "tasks"


def _digits(seed: int, order: str) -> tuple[Path, Path]:
    from safetensors.torch import save_file

    from genepool.tasks.models.digits.network import Shape
    from genepool.testbed.digits.builder import schedule_for
    from genepool.testbed.digits.images import Images, load_images, write_items
    from genepool.testbed.digits.model import new_base
    from genepool.testbed.digits.rearranging import AS_IT_IS

    bed = CACHE / "beds" / f"untrained-digits-{seed}-{order.replace(' ', '-')}"
    if bed.is_dir():
        return bed / "base", bed / "tasks"
    size = schedule_for(tiny=True, tasks=0)
    model = new_base(Shape(size.hidden, size.layers, size.heads, size.feed_forward), seed)
    with staged_folder(bed) as unfinished:
        (unfinished / "base").mkdir()
        save_file(model.state_dict(), unfinished / "base" / "model.safetensors", metadata={"format": "pt"})
        (unfinished / "base" / "config.json").write_text(json.dumps(model.shape.config(), indent=2) + "\n")
        for name in (PAIRS | SHOTS)[order]:
            folder = unfinished / "tasks" / name
            folder.mkdir(parents=True)
            for split, images in load_images().items():
                chosen = [at for at, digit in enumerate(images.digits) if str(digit) in name]
                if len(name) == 1 and split == "train":
                    chosen = sorted(numpy_generator(seed, "shown", name).choice(chosen, SHOWN, replace=False).tolist())
                some = Images(tuple(images.pixels[at] for at in chosen), tuple(images.digits[at] for at in chosen))
                write_items(folder / f"{split}.jsonl", AS_IT_IS, split, some)
            (folder / "task.yaml").write_text("metric: exact_match\nmax_new_tokens: 1\n")
    return bed / "base", bed / "tasks"


_SHARED = {"batch": BATCH, "test": ASKED, "threads": 1}
_OF_DIGITS = {**_SHARED, "form": "full", "learning_rate": DIGITS_RATE}

STRINGS = LearningWorld(
    "strings", ORDERS, _strings,
    {**_SHARED, "lora": {"rank": RANK}, "steps": STEPS, "every": STEPS, "learning_rate": RATE},
)  # fmt: skip
DIGITS = LearningWorld(
    "digits", PAIRS, _digits, {**_OF_DIGITS, "steps": PAIR_STEPS, "every": PAIR_STEPS}, same_examples=True
)
FEW = LearningWorld(
    "few images", SHOTS, _digits, {**_OF_DIGITS, "steps": SHOT_STEPS, "every": SHOT_STEPS}, same_examples=True
)
WORLDS = (STRINGS, DIGITS, FEW)
