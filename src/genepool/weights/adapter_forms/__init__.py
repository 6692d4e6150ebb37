"""Forms of adapters beside PEFT's own kinds, one file each, found by being there.

`genepool train --form NAME` makes one (`genepool.training.form_training`); `BASE+FOLDER` names a model that has one.
What a form declares is in `genepool.weights.formed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genepool.folder_classes import classes_by_name, of_name
from genepool.schema import validate
from genepool.weights.formed.adapter_form import FormOfAdapter


def adapter_forms() -> dict[str, type[FormOfAdapter]]:
    """Every form by name, in alphabetical order."""
    return classes_by_name(__name__, FormOfAdapter)


def find_form(name: str, where: str) -> type[FormOfAdapter]:
    """The form of this name.

    Raises:
        InputError: there is none; the nearest name is suggested.
    """
    return of_name(adapter_forms(), "form", name, where)


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
