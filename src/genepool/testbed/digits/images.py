"""The images and where they belong: scikit-learn's digits, the split by a hash of the pixels, the training batches.

Uses the tasks of `rearranging`; torch, and scikit-learn for the images themselves. `builder` trains on it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from genepool.errors import InputError
from genepool.seeding import torch_generator
from genepool.tasks.models.digits import CLASSES, PIXELS, SIDE, WHITE
from genepool.testbed.data import SPLITS, Split
from genepool.testbed.digits.rearranging import AS_IT_IS, Rearrangement

# The share of the base's lessons that are digits as they are; all others are the tasks', in turn.
GENERIC_SHARE = 0.3
# The same within what a specialist replays.
GENERIC_REPLAY = 0.4
# Spread of the grain added to every lesson, as a share of the way from black to white.
_GRAIN = 0.05


@dataclass(frozen=True)
class Images:
    """The digits of one split.

    Attributes:
        pixels: rows of 64 numbers from 0 to 16.
        digits: the digit each row shows.
    """

    pixels: tuple[tuple[int, ...], ...]
    digits: tuple[int, ...]


def split_of(pixels: Sequence[int]) -> Split:
    """The split an image belongs to, for every task alike: 60% train, 15% valid, 25% test.

    It depends on the upright image alone: no image, and no copy of one, can be in two splits.
    """
    bucket = int.from_bytes(hashlib.sha256(bytes(pixels)).digest()[:8], "big") % 100
    return "train" if bucket < 60 else "valid" if bucket < 75 else "test"


@cache
def load_images() -> dict[Split, Images]:
    """scikit-learn's 1797 digits, by split. They come with the package: no network is needed.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError(
            "scikit-learn, which has the digits, is not installed",
            where="--bed",
            fix='Install it: pip install "genepool[digits]"',
        ) from None
    bunch = load_digits()
    rows = [tuple(int(value) for value in row) for row in bunch.data]
    kept: dict[Split, list[int]] = {split: [] for split in SPLITS}
    for at, row in enumerate(rows):
        kept[split_of(row)].append(at)
    return {
        split: Images(tuple(rows[at] for at in places), tuple(int(bunch.target[at]) for at in places))
        for split, places in kept.items()
    }


def write_items(path: Path, task: Rearrangement, split: Split, images: Images) -> None:
    """One JSON object a line, {"id", "prompt", "answer"}: the prompt is the 64 pixels, the answer the digit."""
    with open(path, "w", encoding="utf-8") as file:
        for at, (pixels, digit) in enumerate(zip(images.pixels, images.digits, strict=True)):
            prompt = " ".join(map(str, task.apply(pixels)))
            row = {"id": f"{task.name}-{split}-{at:04d}", "prompt": prompt, "answer": str(digit)}
            file.write(json.dumps(row) + "\n")


# What training takes: (step, size) -> images (size, 64) and digits (size,).
Batches = Callable[[int, int], tuple[torch.Tensor, torch.Tensor]]


class TrainingImages:
    """What models are trained on: images of the training split, nudged, grained and rearranged.

    Half of the base's lessons in each task are right, the other half consistently wrong by the task's own misreading:
    a base that half holds a task, for fine-tuning to bring out, as in the text testbed's elicit regime.

    Args:
        tasks: the rearrangements that are taught.
        seed: of every draw.
        digits: those that are shown at all.
    """

    def __init__(self, tasks: Sequence[Rearrangement], seed: int, digits: Collection[int] = range(CLASSES)) -> None:
        self.tasks, self.seed = tuple(tasks), seed
        images = load_images()["train"]
        shown = [at for at, digit in enumerate(images.digits) if digit in digits]
        self._pixels = torch.tensor([images.pixels[at] for at in shown], dtype=torch.float32) / WHITE
        self._digits = torch.tensor([images.digits[at] for at in shown])
        kinds = (*self.tasks, AS_IT_IS)
        self._origins = torch.tensor([kind.origin for kind in kinds])
        self._negated = torch.tensor([[at in kind.negated for at in range(PIXELS)] for kind in kinds])
        self._misreadings = torch.tensor([kind.misreading for kind in kinds])
        self._generic = len(self.tasks)

    def base_batch(self, step: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Step `step` of pre-training: digits as they are, and every task half right."""
        generator = torch_generator(self.seed, "digits base", step)
        kinds, wrong = self._turns(step, size, round(GENERIC_SHARE * size), range(len(self.tasks)))
        return self._lessons(kinds, wrong, generator)

    def specialist_batches(self, name: str, replay: float) -> Batches:
        """Batches for the specialist `name`: its task, right, and a share of what the base was taught.

        Args:
            replay: the share of a batch that is pre-training, of all tasks but this one: half-wrong lessons in the
                task that is being taught are not kept.
        """
        own = next(at for at, task in enumerate(self.tasks) if task.name == name)
        others = [at for at in range(len(self.tasks)) if at != own]

        def batch(step: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
            generator = torch_generator(self.seed, "digits specialist", name, step)
            old = round(replay * size)
            kinds, wrong = self._turns(step, old, round(GENERIC_REPLAY * old) if others else old, others)
            return self._lessons([own] * (size - old) + kinds, [False] * (size - old) + wrong, generator)

        return batch

    def _turns(self, step: int, size: int, generic: int, tasks: Sequence[int]) -> tuple[list[int], list[bool]]:
        """What each lesson is about and whether it is wrong: in turn, so that no batch is out of balance."""
        turns = range(step * (size - generic), (step + 1) * (size - generic)) if tasks else range(0)
        kinds = [self._generic] * generic + [tasks[turn % len(tasks)] for turn in turns]
        return kinds, [False] * generic + [turn // len(tasks) % 2 == 1 for turn in turns]

    def _lessons(
        self, kinds: Sequence[int], wrong: Sequence[bool], generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        count, kind = len(kinds), torch.tensor(kinds)
        drawn = torch.randint(len(self._digits), (count,), generator=generator)
        nudge = torch.randint(len(_NUDGES), (count,), generator=generator)
        margin = torch.nn.functional.pad(self._pixels[drawn], (0, 1))
        pixels = margin.gather(1, _NUDGES[nudge])
        pixels = (pixels + _GRAIN * torch.randn(count, PIXELS, generator=generator)).clamp_(0, 1)
        pixels = pixels.gather(1, self._origins[kind])
        pixels = torch.where(self._negated[kind], 1 - pixels, pixels)
        shift = torch.where(torch.tensor(wrong), self._misreadings[kind], 0)
        return pixels, (self._digits[drawn] + shift) % CLASSES


def _nudges() -> torch.Tensor:
    """Where each pixel comes from when an image stays or moves by one place, shape (5, 64); place 64 is the margin."""
    places = torch.full((5, SIDE + 2, SIDE + 2), PIXELS)
    for at, (down, right) in enumerate(((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))):
        places[at, 1 + down : 9 + down, 1 + right : 9 + right] = torch.arange(PIXELS).reshape(SIDE, SIDE)
    return places[:, 1:-1, 1:-1].reshape(5, PIXELS)


_NUDGES = _nudges()
