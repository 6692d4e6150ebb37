"""Texts of jinja2 templates that may come from strangers: rendered in a sandbox, in bounded time and length.

What `template.yaml` draws examples with, and what checks an answer by a template. Uses jinja2.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from genepool.bounded import SECONDS, TEXT_BYTES, bounded
from genepool.errors import InputError, one_line

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

_LONGEST = 100_000
# Seconds that the texts of a template may take on average; they take a twentieth of it.
_EACH = 0.001


class TemplateTexts:
    """Renders templates, compiled once each.

    Args:
        where: the file or option that they stand in, for errors.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        # A text may take seconds, but not every one of thousands: what it takes is earned back at a fixed rate.
        self._left = SECONDS

    def check(self, key: str, source: str) -> None:
        """Refuses what is no template.

        Args:
            key: what the template is of, for errors.
            source: the template.

        Raises:
            InputError: it is none.
        """
        from jinja2 import TemplateError

        where = f"{self._where}:{key}"
        with bounded("the template", where=where, fix="Write a simpler one", memory=TEXT_BYTES):
            try:
                self._compiled(source)
            except (TemplateError, RecursionError) as error:
                raise InputError(one_line(error), where=where, fix="Correct the template") from None

    def text(self, key: str, source: str, values: Mapping[str, Any]) -> str:
        """A template with its values.

        Args:
            key: what the template is of, for errors.
            source: the template.
            values: its variables.

        Raises:
            InputError: it is wrong, or takes too long, or its text is too long.
        """
        from jinja2 import TemplateError

        where, began = f"{self._where}:{key}", time.process_time()
        left, fix = max(self._left, _EACH), "Write a simpler one"
        with bounded("the template", where=where, fix=fix, seconds=left, memory=TEXT_BYTES):
            try:
                text: str = self._compiled(source).render(values)
            except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
                raise InputError(one_line(error), where=where, fix="Correct the template") from None
        self._left = min(self._left + _EACH - (time.process_time() - began), SECONDS)
        if len(text) > _LONGEST:
            raise InputError(
                f"the text has {len(text):,} letters, expected at most {_LONGEST:,}",
                where=where,
                fix="Draw shorter texts",
            )
        return text

    def _compiled(self, source: str) -> Any:
        if source not in self._templates:
            self._templates[source] = self._environment.from_string(source)
        return self._templates[source]

    @cached_property
    def _templates(self) -> dict[str, Any]:
        return {}

    @cached_property
    def _environment(self) -> SandboxedEnvironment:
        from jinja2 import StrictUndefined
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        class Careful(ImmutableSandboxedEnvironment):
            """The sandbox keeps templates from Python; this one also from the plainest ways of filling the memory."""

            intercepted_binops = frozenset(["*", "**", "%"])

            def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
                size = max((len(side) for side in (left, right) if hasattr(side, "__len__")), default=0)
                times = max((side for side in (left, right) if isinstance(side, int)), default=0)
                if operator == "*" and size * times > _LONGEST:
                    raise ValueError("the text or list is too long")
                if operator == "**" and (abs(left) > 10**6 or abs(right) > 64):
                    raise ValueError("the power is too large")
                if operator == "%" and isinstance(left, str):
                    raise ValueError("% does not format texts here. Join them with ~")
                return super().call_binop(context, operator, left, right)

        return Careful(undefined=StrictUndefined, keep_trailing_newline=True)
