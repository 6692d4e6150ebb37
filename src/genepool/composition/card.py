"""What goes beside a composition: the model card and `genepool.json`, which says how it was made."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from genepool.composition.composition import Composition


def composition_card(composition: Composition) -> str:
    """README.md, with the metadata the hub understands.

    Args:
        composition: what it is the card of.
    """
    composer, skills, record = composition.composer, composition.skills, composition.record
    base = Path(skills.reference).name if Path(skills.reference).exists() else skills.reference
    front = {"base_model": base, "base_model_relation": "merge", "tags": ["genepool", "composition", composer.name]}
    lines = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        "",
        f"# {', '.join(_plain(name) for name in skills.names or [composer.name])} on {_plain(base)}",
        "",
        f"Composed by genepool {version('genepool')} with `{composer.name}` ({composer.source}).",
        "",
    ]
    if "steps" in record:
        examples = sum(one["learn"] + one["held"] for one in record.get("examples", {}).values())
        lines += [
            f"{record.get('steps', 0):,} steps (the state of step {record.get('best_step', 0):,} is this one), "
            f"{examples:,} examples, seed {record.get('seed', 0)}.",
            "",
        ]
    for warning in record.get("warnings", []):
        lines += [f"Warning: {_plain(str(warning))}", ""]
    if skills.skills:
        lines += ["| skill | sha256 |", "|---|---|"]
        lines += [f"| {_plain(skill.name)} | {skill.fingerprint[:12]} |" for skill in skills.skills]
    return "\n".join([*lines, ""])


def composition_record(composition: Composition) -> dict[str, Any]:
    """`genepool.json` of a fold: what made it, for programs."""
    skills = composition.skills
    return {
        "schema": 1,
        "genepool": version("genepool"),
        "method": composition.composer.name,
        "parameters": composition.composer.options.model_dump(mode="json"),
        "base": {"name": skills.reference, "fingerprint": skills.base.fingerprint()},
        "skills": [{"name": one.name, "path": one.reference, "fingerprint": one.fingerprint} for one in skills.skills],
        "record": composition.record,
    }


def _plain(text: str) -> str:
    """A name within a table of Markdown."""
    return " ".join(text.split()).replace("|", "\\|")
