"""Chat templates by name: one Jinja file of this folder each, found by being there; and `auto`, which asks the models.

The files say the formats that the models' authors document, in the whitespace of those documents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from genepool.errors import InputError
from genepool.merging.chat_templates.parsing import template_problem
from genepool.weights.json_file import read_json

AUTO = "auto"
_SUFFIX = ".jinja"


@cache
def template_names() -> tuple[str, ...]:
    """The names that stand for a template."""
    files = (file.name for file in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX)))


def check_template(said: str) -> str:
    """What a recipe says, if it can stand for a template.

    Raises:
        ValueError: it is neither a name nor Jinja.
    """
    if said == AUTO or said in template_names():
        return said
    if "{" in said:
        if problem := template_problem(said):
            raise ValueError(f"{problem}. Correct the template")
        return said
    raise ValueError(f"'{said}' is not a Jinja template, `auto`, or one of: {', '.join(template_names())}")


def find_template(said: str | None, folders: Iterable[Path | None]) -> str | None:
    """The text of the template that a recipe names; None to leave the tokenizer's own.

    Args:
        said: a name, `auto`, or the template itself.
        folders: where the models' tokenizers lie. `auto` takes the template that most of them have, and of equally
            many the one that comes first.
    """
    if said is None:
        return None
    if said == AUTO:
        found = [text for folder in folders if folder is not None and (text := template_of(folder))]
        return Counter(found).most_common(1)[0][0] if found else None
    if said in template_names():
        return resources.files(__name__).joinpath(f"{said}{_SUFFIX}").read_text(encoding="utf-8")
    return said


def template_of(folder: Path) -> str | None:
    """The chat template of a tokenizer, without space around it; of several the default.

    Raises:
        InputError: a file that cannot be read.
    """
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise InputError(f"cannot be read ({error})", where=file, fix="Fetch it again") from None
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (folder / name).is_file() and (text := _text(read_json(folder / name).get("chat_template"))):
            return text
    return None


def _text(value: Any) -> str | None:
    """The template of a setting: itself, or of a list of named ones the default."""
    if isinstance(value, list):
        named = {one.get("name"): one.get("template") for one in value if isinstance(one, dict)}
        value = named.get("default")
    return value.strip() if isinstance(value, str) else None
