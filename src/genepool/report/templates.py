"""Self-contained HTML: template, style sheet and script put together, everything escaped.

A page loads nothing: a content policy in it forbids every request and every script but its own. Uses jinja2, colours
and words of the report; every page and every section is filled in here.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from genepool.report import bars, colour, text, text_diff
from genepool.report.kinds import KIND_OF_ONE, KINDS

#: Sizes of a figure's view box in pixels: on a screen, and on a phone.
WIDE = {"width": 960.0, "height": 400.0}
NARROW = {"width": 380.0, "height": 300.0}


def render_page(template: str, title: str, *, sections: Sequence[str] = (), **values: Any) -> str:
    """A page: a template filled in, with the style sheet, script and policy that all pages share.

    Args:
        template: its file name in `assets/`; it extends `page.html.j2`.
        title: of the page.
        sections: names of sections whose own style sheet and script, where they have them, belong on the page.
        values: what the template names.
    """
    script = _with_sections("report.js", sections)
    return str(
        fill(
            f"assets/{template}",
            title=title,
            style=Markup(_style(sections)),
            script=Markup(script),
            policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_digest(script)}'",
            **values,
        )
    )


def fill(template: str, **values: Any) -> Markup:
    """A template filled in: its path below the report's folder, and what it names."""
    return Markup(_environment().get_template(template).render(**values))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters.update(
        percent=text.percent,
        points=text.points,
        interval=text.interval,
        points_interval=text.points_interval,
        verdict=text.verdict,
        duration=text.duration,
        count=text.count,
        divergence=text.divergence,
        compact=text.compact,
        exact=text.exact,
        shortened=text.shortened,
        breakable=_breakable,
        marked=text_diff.marked,
        step=colour.step,
        curve_class=colour.curve_class,
        diverging_bar=bars.diverging_bar,
        interval_mark=bars.interval_mark,
        tilt=bars.tilt,
    )
    environment.globals.update(STEPS=colour.STEPS, CURVES=len(colour.CURVES), kinds=KINDS, kind_of_one=KIND_OF_ONE)
    return environment


def _finalize(value: Any) -> Any:
    # Every plain text of the page passes here before it is escaped; markup made by the figures has been cleaned.
    return text.clean(value) if type(value) is str else value


def _breakable(name: str) -> Markup:
    """A name that may wrap behind an underscore, a slash or a plus rather than anywhere."""
    return Markup(re.sub(r"([_/+])(?=\w)", r"\1<wbr>", str(escape(text.clean(name)))))


def _style(sections: Sequence[str]) -> str:
    css = _with_sections("report.css", sections)
    css = css.replace("/* colours */", f"{colour.scale_css()}\n{colour.curves_css()}")
    return re.sub(r"/\*.*?\*/\s*", "", css, flags=re.DOTALL)


def _with_sections(name: str, sections: Sequence[str]) -> str:
    """A shared asset with what sections have of its kind (`NAME.js` of `report.js`) in the place marked for it."""
    ending = name.rpartition(".")[2]
    own = [f"sections/{section}.{ending}" for section in sections]
    found = [_asset(path) for path in own if (files("genepool.report") / path).is_file()]
    return _asset(f"assets/{name}").replace("/* sections */\n", "\n".join(found))


def _asset(path: str) -> str:
    return (files("genepool.report") / path).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
