"""`genepool skill negate`: a skill turned round, to unlearn it."""

from __future__ import annotations

from genepool.cli import options
from genepool.cli.skill.common import BaseOption, OutOption, SkillArgument, store_scaled


def negate(
    skill: SkillArgument,
    out: OutOption,
    base: BaseOption = None,
    allow_pickle: options.AllowPickleOption = False,
    overwrite: options.OverwriteOption = False,
    json_output: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Negate a skill: a base with the result added unlearns what the skill taught.

    [bold]Example[/bold]

        genepool skill negate reverse.safetensors --out forget-reverse.safetensors
    """
    options.begin(quiet)
    options.refuse_own_input(out, skill, base)
    store_scaled(skill, base, -1.0, out, "negate", overwrite, json_output, allow_pickle)
