"""The two tables of a registry whose things are found by being there: what they are, and their options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genepool.schema import described_options


def things_table(registry: Mapping[str, Any], does: str) -> list[str]:
    """A row for each thing.

    Args:
        registry: classes by name, with a docstring, `when` and `source`.
        does: the heading of what the docstring's first line says.
    """
    return [
        f"| name | {does} | when | source |",
        "|---|---|---|---|",
        *(
            f"| `{name}` | {one.__doc__.splitlines()[0]} | {one.when} | {one.source} |"
            for name, one in registry.items()
        ),
        "",
    ]


def options_table(registry: Mapping[str, Any], what: str) -> list[str]:
    """A row for each option.

    Args:
        registry: classes by name, with `Options`.
        what: the heading of their names.
    """
    return [
        f"| {what} | option | type | default | meaning |",
        "|---|---|---|---|---|",
        *(
            f"| `{name}` | `{one['name']}` | {' or '.join(one['type'].split(' | '))} | `{one['default']}` "
            f"| {one['description']} |"
            for name, kind in registry.items()
            for one in described_options(kind.Options)
        ),
        "",
    ]
