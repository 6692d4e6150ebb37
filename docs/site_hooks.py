"""What the site does differently from the folder: mkdocs calls the functions here when it builds.

The pages that people look for at the top of a repository (CONTRIBUTING, SECURITY, CHANGELOG) become pages of the site.
A page of the Python reference gets its body from mkdocstrings, which links every name to its definition. A page that
would load something from elsewhere ends the build.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
FROM_THE_TOP = {
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "vulnerabilities.md",
    "CHANGELOG.md": "changelog.md",
}
# `docs/reference/python_pages.py` writes this line; what follows it is for readers without the site.
_MODULE = re.compile(r"^<!-- mkdocstrings: (genepool[\w.]*) -->\n.*", re.DOTALL | re.MULTILINE)
_LOADED = re.compile(r"<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^>]*>|"
                     r"<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|icon|preload|preconnect|manifest))"
                     r"[^>]*\bhref=[\"']?(?:https?:)?//[^>]*>")  # fmt: skip


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages from the top of the repository."""
    for name, page in FROM_THE_TOP.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Points links to the top of the repository at those pages, and leaves a Python page to mkdocstrings."""
    up = "../" * page.file.src_uri.count("/")
    for name, target in FROM_THE_TOP.items():
        markdown = markdown.replace(f"]({up}../{name}", f"]({up}{target}").replace(f"]({name}", f"]({target}")
    return _MODULE.sub(r"::: \1\n", markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Holds the site to working without a network."""
    if found := _LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads something from elsewhere: {found[0]}")
    return output
