"""`genepool train` beside TRL 1.16: SFT, DPO and GRPO, low-rank factors and every tensor, in turn.

The rule, written before the figures: in every row genepool takes at least as many steps a second, and its process holds
no more memory. Steps a second are those of the processor, one thread each, since the machine may be shared; on an
accelerator they are those of the clock.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measuring import Figures, measure, table, tell
from benchmarks.training.world import SAMPLES, SHAPES, WARM, Shape, write

METHODS, FORMS, WHO = ("sft", "dpo", "grpo"), ("lora", "full"), ("ours", "peer")
_WORDS = {"sft": "SFT", "dpo": "DPO", "grpo": "GRPO", "lora": "factors", "full": "every tensor"}


@dataclass
class Runs:
    """The runs of one side of a row.

    Attributes:
        steps: what a step took in each, as `world.Clock` writes it.
        processes: what the whole process used.
    """

    steps: list[dict[str, Any]] = field(default_factory=list)
    processes: list[Figures] = field(default_factory=list)

    def step_seconds(self, device: str) -> float:
        """The median of a step: of the processor, or with an accelerator of the clock."""
        return float(statistics.median(one["cpu" if device == "cpu" else "wall"] for one in self.steps))

    def memory(self, device: str) -> float:
        """The median of the peak: of the process's own memory, or of an accelerator's, in GB."""
        if device == "cpu":
            return statistics.median(one.anonymous for one in self.processes)
        return float(statistics.median(one["device_memory"] for one in self.steps))


def run(shape_name: str = "small", device: str = "cpu", rounds: int = 2) -> str:
    """The table.

    Args:
        shape_name: the model, one of `world.SHAPES`.
        device: torch's name of the device.
        rounds: runs of each side of each row.
    """
    shape = SHAPES[shape_name]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, shape)
        seen: dict[tuple[str, str], dict[str, Runs]] = {
            (method, form): {who: Runs() for who in WHO} for form in FORMS for method in METHODS
        }
        for number in range(rounds):
            for (method, form), sides in seen.items():
                for who, runs in sides.items():
                    asked = [shape_name, device, method, form, str(folder), str(folder / "told.json")]
                    runs.processes.append(measure([sys.executable, "-m", f"benchmarks.training.{who}", *asked]))
                    runs.steps.append(json.loads((folder / "told.json").read_text()))
                    tell(
                        f"round {number + 1}: {method} {form} {who}: {runs.step_seconds(device):.3f} s a step, "
                        f"{runs.memory(device):.2f} GB"
                    )
        rows = [_row(method, form, sides, shape, device) for (method, form), sides in seen.items()]
    return table("Training beside TRL", _note(shape, device, rounds), _titles(device), rows)


def _row(method: str, form: str, sides: dict[str, Runs], shape: Shape, device: str) -> list[str]:
    ours, theirs = (sides[who].step_seconds(device) for who in WHO)
    held, peer = (sides[who].memory(device) for who in WHO)
    verdict = "holds" if ours <= theirs and held <= peer else "**fails**"
    speeds = [f"{1 / ours:.2f}", f"{1 / theirs:.2f}"]
    if device != "cpu":
        speeds = [f"{_tokens(method, shape) / one:,.0f}" for one in (ours, theirs)]
    return [
        f"{_WORDS[method]}, {_WORDS[form]}", *speeds, f"{theirs / ours:.2f}",
        f"{held:.2f}", f"{peer:.2f}", f"{held / peer:.2f}", verdict,
    ]  # fmt: skip


def _tokens(method: str, shape: Shape) -> int:
    """Tokens of a step: of both answers of a pair with their prompts, of all samples with theirs."""
    return shape.batch * (shape.prompt + shape.answer) * (2 if method == "dpo" else 1)


def _titles(device: str) -> tuple[str, ...]:
    speed, memory = ("steps/CPU s", "GB") if device == "cpu" else ("tokens/s", "GB of the device")
    return ("", f"genepool {speed}", f"TRL {speed}", "ratio", f"genepool {memory}", f"TRL {memory}", "ratio", "rule")


def _note(shape: Shape, device: str, rounds: int) -> str:
    config = shape.config
    return (
        f"A {shape.kind} of random weights in {shape.dtype}: width {config['hidden_size']}, "
        f"{config['num_hidden_layers']} layers, a vocabulary of {config['vocab_size']:,}; on {device}. Prompts of "
        f"{shape.prompt} tokens and answers of {shape.answer}; {shape.batch} examples, pairs or samples "
        f"({SAMPLES} of a prompt) in a step, {shape.steps} steps, of which the first {WARM} are not timed. "
        f"{'One run' if rounds == 1 else f'Medians of {rounds} runs'} of each, in turn."
    )
