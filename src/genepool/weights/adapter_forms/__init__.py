"""Forms of adapters beside PEFT's own kinds, one file each, found by being there.

`genepool train --form NAME` makes one (`genepool.training.form_training`); `BASE+FOLDER` names a model that has one.
What a form declares is in `genepool.weights.formed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genepool.errors import InputError, nearest
from genepool.folder_classes import classes_of
from genepool.schema import validate
from genepool.weights.formed.adapter_form import FormOfAdapter


def adapter_forms() -> dict[str, type[FormOfAdapter]]:
    """Every form by name, in alphabetical order."""
    return {kind.name: kind for kind in sorted(classes_of(__name__, FormOfAdapter), key=lambda kind: kind.name)}


def find_form(name: str, where: str) -> type[FormOfAdapter]:
    """The form of this name.

    Raises:
        InputError: there is none; the nearest name is suggested.
    """
    known = adapter_forms()
    if name not in known:
        raise InputError(f"there is no form '{name}'", where=where, fix=nearest(name, known))
    return known[name]


def make_form(name: str, options: Mapping[str, Any], tasks: Sequence[str], where: str) -> FormOfAdapter:
    """A form with options.

    Args:
        name: its name.
        options: those that are not the defaults.
        tasks: what it is trained on.
        where: the file and key of the options, for errors.

    Raises:
        InputError: there is no such form, or an option is unknown or wrong.
    """
    kind = find_form(name, where)
    return kind(validate(kind.Options, dict(options), where), tasks)
