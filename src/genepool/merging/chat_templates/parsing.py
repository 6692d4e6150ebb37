"""Whether a chat template can be parsed, asked of Jinja alone; nothing of it is run.

transformers adds loop controls and a tag that marks what an assistant writes, so a template may use both.
"""

from __future__ import annotations

import re

#: A template of many tools and roles takes 20,000 characters.
MOST_CHARACTERS = 1_000_000
# Marks a block for masks of the loss and changes nothing of the text.
_GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")


def template_problem(template: str) -> str:
    """Why a chat template is none, in a clause with its line; empty where it can be parsed."""
    import jinja2

    if len(template) > MOST_CHARACTERS:
        return f"it has {len(template):,} characters, expected at most {MOST_CHARACTERS:,}"
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=False)
    try:
        environment.parse(_GENERATION.sub("", template))
    except jinja2.TemplateSyntaxError as error:
        said = (error.message or "it cannot be parsed").rstrip(".").replace(". ", "; ")
        return f"line {error.lineno} is not Jinja ({said[:1].lower()}{said[1:]})"
    except RecursionError:
        return "it is nested too deeply"
    return ""
