"""Writes the examples of the Countdown task: `python recipes/countdown/generate.py`.

A prompt, its three numbers and its target, belongs to one split by its hash, whatever derivation is shown: no prompt
that is tested was trained on.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from random import Random

HERE = Path(__file__).parent
COUNTS = {"train": 280, "valid": 80, "test": 150}
HIGHEST, LARGEST = 9, 27


def split_of(prompt: str) -> str:
    """60% train, 15% valid, 25% test."""
    bucket = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big") % 100
    return "train" if bucket < 60 else "valid" if bucket < 75 else "test"


def example(generator: Random) -> tuple[str, str] | None:
    """A prompt and one right derivation; None where a number in between is no number from 1 to 27."""
    first, second, third = (generator.randint(1, HIGHEST) for _ in range(3))
    steps: list[str] = []
    left = first
    for right in (second, third):
        operator = generator.choice("+-")
        result = left + right if operator == "+" else left - right
        if not 1 <= result <= LARGEST:
            return None
        steps.append(f"{left}{operator}{right}={result}")
        left = result
    numbers = " ".join(map(str, sorted((first, second, third))))
    return f"{numbers}>{left}:", ";".join(steps)


def files() -> dict[str, str]:
    """File name -> text: one JSON object a line, no prompt twice."""
    generator = Random(0)
    found: dict[str, dict[str, str]] = {split: {} for split in COUNTS}
    while any(len(found[split]) < count for split, count in COUNTS.items()):
        drawn = example(generator)
        if drawn is not None and len(found[split := split_of(drawn[0])]) < COUNTS[split]:
            found[split].setdefault(*drawn)
    return {
        f"{split}.jsonl": "".join(
            json.dumps({"id": f"{split}-{number}", "prompt": prompt, "answer": answer}) + "\n"
            for number, (prompt, answer) in enumerate(examples.items())
        )
        for split, examples in found.items()
    }


if __name__ == "__main__":
    for name, text in files().items():
        (HERE / name).write_text(text, encoding="utf-8")
