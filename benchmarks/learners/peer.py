"""`python -m benchmarks.learners.peer`: learners beside those of the same name in Avalanche, on two digits a task.

Needs `pip install avalanche-lib`. Network, images, steps, optimiser and learning rates are those of our arms, and so
are the settings of a method; what is left is how each of the two carries the method out. Adds lines to peer.jsonl, from
which the page is written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.by_arm import mean_with_interval, whole_lines
from benchmarks.learners.cells import SequenceCells
from benchmarks.learners.claims import SEEDS
from benchmarks.learners.worlds import ASKED, BATCH, DIGITS, DIGITS_RATE, PAIR_STEPS, PAIRS
from genepool import progress
from genepool.tasks import load_tasks
from genepool.tasks.models import open_model
from genepool.tasks.models.digits import encode_pixels
from genepool.training.optimiser import Optimisation

FILE = Path(__file__).parent / "peer.jsonl"
#: Images of each task that replay keeps; weight and temperature of learning without forgetting, which are our defaults.
KEPT, LWF = 8, {"alpha": 0.5, "temperature": 2}
#: Our arm of each method.
ARMS = {"sequential": "digits: sequential", "replay": f"digits: replay {KEPT}", "lwf": "digits: lwf"}


@dataclass(frozen=True)
class PeerCell:
    """What the peer came to, with one method, order and seed.

    Attributes:
        average: mean score over the tasks in the end.
        backward: mean of what all but the last task are in the end minus what they were when they were learned.
        seconds: of the processor, without the questions.
        version: of the peer.
    """

    average: float
    backward: float
    seconds: float
    version: str


def measured(method: str, order: str, seed: int) -> PeerCell:
    """One cell.

    Args:
        method: a name of `ARMS`.
        order: of the tasks.
        seed: of the network and of every draw.
    """
    from avalanche.benchmarks import tensors_benchmark

    base, folder = DIGITS.place(seed, order)
    model = open_model(str(base)).load()
    tasks = [load_tasks(folder, [name])[0] for name in PAIRS[order]]
    network = model.model.requires_grad_(True)
    torch.manual_seed(seed)

    def images(split: str, at: int) -> tuple[torch.Tensor, torch.Tensor]:
        examples = list(tasks[at].examples(split))
        pixels = torch.stack([encode_pixels(tasks[at].prompt_for(one, model)) for one in examples])
        return pixels, torch.tensor([int(one.answer) for one in examples])

    tests = [tuple(one[:ASKED] for one in images("test", at)) for at in range(len(tasks))]
    lessons = [images("train", at) for at in range(len(tasks))]
    scenario = tensors_benchmark(train_tensors=lessons, test_tensors=tests, task_labels=[0] * len(tasks))
    strategy = _strategy(method, network, len(tasks))
    learned, seconds = [], 0.0
    for at, experience in enumerate(scenario.train_stream):
        began = time.process_time()
        strategy.train(experience)
        seconds += time.process_time() - began
        learned.append(_score(network, *tests[at]))
    last = [_score(network, *test) for test in tests]
    backward = float(np.mean(np.subtract(last[:-1], learned[:-1])))
    return PeerCell(float(np.mean(last)), backward, seconds, version("avalanche-lib"))


def _strategy(method: str, network: torch.nn.Module, tasks: int) -> Any:
    from avalanche.training.plugins import ReplayPlugin
    from avalanche.training.plugins.strategy_plugin import SupervisedPlugin
    from avalanche.training.storage_policy import ExperienceBalancedBuffer
    from avalanche.training.supervised import LwF, Naive

    class OurSteps(SupervisedPlugin):  # type: ignore[misc, unused-ignore]
        """As many steps a task as ours, at the same learning rates, with gradients as short."""

        settings = Optimisation(PAIR_STEPS, DIGITS_RATE, warmup=round(0.03 * PAIR_STEPS))

        def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
            self.step = 0
            # Ours begins every task with moments of zero.
            strategy.optimizer.state.clear()

        def before_update(self, strategy: Any, **kwargs: Any) -> None:
            torch.nn.utils.clip_grad_norm_(strategy.model.parameters(), self.settings.clip)
            for group in strategy.optimizer.param_groups:
                group["lr"] = self.settings.rate(self.step)
            self.step += 1

        def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
            if self.step == PAIR_STEPS:
                strategy.stop_training()

    settings = OurSteps.settings
    adam = torch.optim.AdamW(network.parameters(), lr=DIGITS_RATE, betas=settings.betas, weight_decay=0.0)
    shared: dict[str, Any] = {
        "model": network, "optimizer": adam, "criterion": torch.nn.CrossEntropyLoss(), "train_epochs": PAIR_STEPS,
        "train_mb_size": BATCH, "evaluator": None,
    }  # fmt: skip
    if method == "lwf":
        return LwF(**shared, **LWF, plugins=[OurSteps()])
    if method == "replay":
        half = BATCH // 2
        kept = ExperienceBalancedBuffer(KEPT * tasks, adaptive_size=False, num_experiences=tasks)
        replay = ReplayPlugin(KEPT * tasks, batch_size=half, batch_size_mem=half, storage_policy=kept)
        return Naive(**shared, plugins=[replay, OurSteps()])
    return Naive(**shared, plugins=[OurSteps()])


def _score(network: torch.nn.Module, pixels: torch.Tensor, digits: torch.Tensor) -> float:
    network.eval()
    with torch.inference_mode():
        return float((network(pixels).argmax(-1) == digits).float().mean())


def known() -> dict[tuple[str, str, int], PeerCell]:
    """What was measured, by method, order and seed."""
    rows = [json.loads(line) for line in whole_lines(FILE)]
    return {
        (row["method"], row["order"], row["seed"]): PeerCell(
            row["average"], row["backward"], row["seconds"], row["version"]
        )
        for row in rows
    }


def table(cells: SequenceCells) -> list[str]:
    """Lines of a table of what the peer came to beside our arms; none where the peer was not measured."""
    found = known()
    rows = []
    for method, arm in ARMS.items():
        for order in PAIRS:
            theirs = [cell for (name, where, _), cell in found.items() if (name, where) == (method, order)]
            ours = [cells[arm, order, seed] for seed in cells.seeds([arm], [order]) if seed < SEEDS]
            if theirs and ours:
                means = [
                    _mean([getattr(one, what) for one in some]) for what in ("average", "backward")
                    for some in (ours, theirs)
                ]  # fmt: skip
                rows.append(f"| {method} | {order} | {' | '.join(means)} |")
    versions = ", ".join(sorted({cell.version for cell in found.values()}))
    return [_HEAD.format(versions=versions), *rows] if rows else []


def _mean(values: Sequence[float]) -> str:
    return mean_with_interval(list(values), SEEDS)


_HEAD = """\
## Beside Avalanche

The same network, images, steps, optimiser and learning rates, and the same settings of a method, through Avalanche
{versions} (`python -m benchmarks.learners.peer`). Draws differ, and the last batch of its epochs is shorter. After
one task it rehearses the 8 images that are kept, ours 16 of them with repeats. Learning without forgetting begins with
the second task there; ours compares with the untrained network in the first one too.

| method | order | average | Avalanche's | backward | Avalanche's |
|---|---|--:|--:|--:|--:|"""


def measure(tell: Callable[[str], None] = progress.message) -> None:
    """Measures what is not there yet."""
    there = known()
    for method in ARMS:
        for order in PAIRS:
            for seed in range(SEEDS):
                if (method, order, seed) in there:
                    continue
                cell = measured(method, order, seed)
                row = {"method": method, "order": order, "seed": seed, **vars(cell)}
                with open(FILE, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                tell(f"seed {seed}, {order}, {method}: {cell.average:.3f}, {cell.backward:.3f}")


if __name__ == "__main__":
    progress.set_quiet(False)
    with torch.random.fork_rng():
        measure()
