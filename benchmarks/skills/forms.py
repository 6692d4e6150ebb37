"""Bytes against what is kept: every form of a skill, on the testbed.

`python -m benchmarks.skills.forms [--tiny] [--seeds 2]`: each full fine-tune of a testbed is stored in every form and
asked its own skill's test split again. Bytes are those of the files, as shares of the dense change in bfloat16 without
a header. The gain kept is (base + skill - base) / (fine-tune - base).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.measuring import table
from benchmarks.merge.side_by_side import machine
from genepool import progress
from genepool.skills import Dare, Graft, TopK, compress, smallest
from genepool.skills.localising import MaskScorer
from genepool.tasks import LanguageModel, load_tasks
from genepool.testbed import build
from genepool.threads import torch_threads
from genepool.training.batches import encode_examples
from genepool.weights import Change, Form, ModelDifference, WrittenChange, open_weights, store
from genepool.weights.skill_file import SkillFile

CACHE = Path(__file__).parent.parent.parent / ".cache"
TESTED, LEARNED = 512, 256
Make = Callable[[Change, Path, int, MaskScorer], WrittenChange]


@dataclass
class Kept:
    """One form's figures, one entry a skill and seed."""

    bytes: list[float]
    error: list[float]
    score: list[float]
    gain: list[float]


def _form(form: Form) -> Make:
    return lambda changes, out, dense, bench: store(changes, out, form, "extract")


def _packed(share: int) -> Make:
    return lambda changes, out, dense, bench: compress(changes, out, dense // share, {})


def _localised(by: str) -> Make:
    def make(changes: Change, out: Path, dense: int, bench: MaskScorer) -> WrittenChange:
        scores = bench.learn(changes, steps=60) if by == "graft" else None

        def at(density: float) -> Change:
            return TopK(changes, density) if scores is None else Graft(changes, scores, density)

        left = smallest(changes, at, bench.score, bench.score(None))
        DENSITIES.setdefault(by, []).append(left.density)
        return store(left.changes, out, Form("sparse"), "localise")

    return make


DENSITIES: dict[str, list[float]] = {}
ROWS: dict[str, Make] = {
    "dense, float32": _form(Form("dense")),
    "dense, bfloat16": _form(Form("dense", "BF16")),
    "groups, 8 bits": _form(Form("packed", bits=8)),
    "groups, 4 bits": _form(Form("packed", bits=4)),
    "groups, 2 bits": _form(Form("packed", bits=2)),
    "signs": _form(Form("packed", packing="signs")),
    "low-rank, 16": _form(Form("low-rank", rank=16)),
    "low-rank, 4": _form(Form("low-rank", rank=4)),
    "singular, 16 directions": _form(Form("packed", packing="singular", rank=16)),
    "budget of 1/8": _packed(8),
    "budget of 1/16": _packed(16),
    "budget of 1/32": _packed(32),
    "budget of 1/64": _packed(64),
    "10% by chance, rescaled (DARE)": lambda c, out, dense, bench: store(Dare(c, 0.1), out, Form("sparse"), "drop"),
    "the largest 10%": lambda c, out, dense, bench: store(TopK(c, 0.1), out, Form("sparse"), "project"),
    "localised by magnitude": _localised("magnitude"),
    "localised by a learned mask": _localised("graft"),
}


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.skills.forms", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="the tiny testbed")
    parser.add_argument("--seeds", type=int, default=2, help="how many testbeds, from seed 0 on")
    asked = parser.parse_args()
    kind = "tiny" if asked.tiny else "text"
    found = {name: Kept([], [], [], []) for name in ROWS}
    alone: list[tuple[float, float]] = []
    for seed in range(asked.seeds):
        bed = build(CACHE / "transfer" / f"{kind}-{seed}", seed=seed, tiny=asked.tiny, overwrite=True)
        for skill, path in bed.full.items():
            with torch_threads(1):
                alone.append(_measure(bed.base, path, bed.tasks / skill, found))
            progress.message(f"seed {seed}, {skill}: measured")
    lines = [
        [
            name,
            f"1/{1 / np.mean(kept.bytes):.1f}" if np.mean(kept.bytes) < 1 else f"{np.mean(kept.bytes):.2f}",
            f"{np.mean(kept.error):.1%}",
            f"{np.mean(kept.score):.3f}",
            f"{min(kept.score):.3f}",
            f"{np.mean(kept.gain):.1%}",
        ]
        for name, kept in found.items()
    ]
    base, whole = np.mean(alone, 0)
    shares = "; ".join(f"by {by} {np.mean(v):.2%} ({min(v):.2%} to {max(v):.2%})" for by, v in DENSITIES.items())
    note = (
        f"{machine()}. {kind} testbeds of {asked.seeds} seeds, {len(alone)} fine-tunes, {TESTED} test items each: the "
        f"base {base:.3f}, the fine-tunes {whole:.3f}. Entries that keep 95% of the gain on validation: {shares}."
    )
    header = ("stored as", "of the dense bytes", "change lost", "score", "lowest score", "gain kept")
    print(table("What is kept in how many bytes", note, header, lines))


def _measure(base_path: Path, tuned: Path, tasks: Path, found: dict[str, Kept]) -> tuple[float, float]:
    base = open_weights(base_path)
    changes = ModelDifference(open_weights(tuned), base)
    model, task = LanguageModel.load(base), load_tasks(tasks)[0]
    test = MaskScorer(model, changes, encode_examples(model, task.examples("test")[:TESTED], task))
    alone, whole = test.score(None), test.score(changes)
    dense = sum(2 * base.info(name).numel for name in changes.names() if changes.moves(name))
    with tempfile.TemporaryDirectory() as folder, progress.silenced():
        for name, make in ROWS.items():
            learning = MaskScorer(model, changes, encode_examples(model, task.examples("valid")[:LEARNED], task))
            out = Path(folder) / f"{len(list(Path(folder).iterdir()))}.safetensors"
            written = make(changes, out, dense, learning)
            learning.put(None)
            score = test.score(SkillFile(out))
            test.put(None)
            kept = found[name]
            kept.bytes.append(written.nbytes / dense)
            kept.error.append(_lost(changes, out))
            kept.score.append(score)
            kept.gain.append((score - alone) / (whole - alone))
    return alone, whole


def _lost(changes: Change, path: Path) -> float:
    """Share of the fine-tune's change that the file has not, or has otherwise."""
    file = SkillFile(path)
    size = lost = 0.0
    for name in changes.names():
        exact = changes.whole(name)
        back = file.whole(name).reshape(exact.shape) if name in file.names() else 0 * exact
        size += float(exact.square().sum())
        lost += float((exact - back).square().sum())
    return float((lost / size) ** 0.5)


if __name__ == "__main__":
    main()
