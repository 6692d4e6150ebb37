"""The model card of what was trained: what it is, how it was made, what it gained and what was forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_OF_REWARDS = [
    "It is a reward model: `member_0` and those beside it are adapters, and `heads.safetensors` has a vector for each "
    "that turns the last hidden state after an answer into its reward. Below, a pair counts as right where the chosen "
    "answer is rewarded more than the rejected one; before, where the base finds it likelier.",
    "",
]
_OF_STEPS = [
    "It is a process reward model: `member_0` is an adapter, and `heads.safetensors` has a vector that turns the last "
    "hidden state after a step of an answer into the logit of how good the step is. Below, a prompt counts as right "
    "where the best of its steps has the highest one; before, where the base finds it the likeliest.",
    "",
]


def card(told: dict[str, Any]) -> str:
    """The card of an adapter or a form of one, as the hub reads it.

    Args:
        told: what `train.json` says.
    """
    base = str(told["base"]["path"])
    name = Path(base).name if Path(base).exists() else base
    form = told["result"] == "form"
    library = {"library_name": "genepool", "tags": ["genepool", str(told["form"])]}
    kept = library if form else {"library_name": "peft", "tags": ["genepool", "lora"]}
    front = yaml.safe_dump({"base_model": name, **kept}, sort_keys=False)
    lines = [
        f"---\n{front}---",
        "",
        f"# {', '.join(_plain(row['task']) for row in told['target'])}",
        "",
        f"Trained by genepool from {_plain(name)}: {told['objective']}, {told['steps']:,} steps (the state of step "
        f"{told['best_step']:,} is this one), learning rate {told['learning_rate']:.3g}, "
        f"{told['examples']['train']:,} examples, seed {told['seed']}.",
        "",
        *([f"It is a form of adapter, {told['form']}: ask it as `BASE+FOLDER` with genepool.", ""] if form else []),
        *(_of_rewards(told) if told["result"] == "reward_model" else []),
        *([f"The base has no head: before is {_plain(head['before'])}.", ""] if (head := told.get("head")) else []),
        *_asked(told.get("control")),
        "| task | n | before | after | difference | 95% | gained | lost | |",
        "|---|--:|--:|--:|--:|---|--:|--:|---|",
    ]
    for taught, rows in ((True, told["target"]), (False, told["others"])):
        for row in rows:
            moved = row["difference"]
            lines.append(
                f"| {_plain(row['task'])}{' (taught)' if taught else ''} | {row['n']:,} | {row['before']:.3f} "
                f"| {row['after']:.3f} | {moved['mean']:+.3f} | {moved['lo']:+.3f} to {moved['hi']:+.3f} "
                f"| {row['gained']:,} | {row['lost']:,} | {row['verdict']} |"
            )
    return "\n".join([*lines, ""])


def _of_rewards(told: dict[str, Any]) -> list[str]:
    return _OF_STEPS if told["objective"] == "process_reward" else _OF_REWARDS


def _asked(control: dict[str, Any] | None) -> list[str]:
    """How to ask a model that has a control prefix."""
    if control is None:
        return []
    told = []
    if control["prefix"]:
        banned = " and ".join(f"`{text}`" for text in control["banned"])
        told.append(
            f"Put the control prefix `{control['prefix']}` between the prompt and the answer, and ban {banned} from "
            "what is written. genepool does both by itself."
        )
    if back := control.get("backspace"):
        told.append(
            f"The token `{back}` takes the token before it back: remove both, and read the rest again. genepool does "
            "so by itself."
        )
    return [*told, ""]


def _plain(text: str) -> str:
    """A name within a table of Markdown."""
    return " ".join(text.split()).replace("|", "\\|")
