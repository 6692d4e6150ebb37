"""Models on the Hugging Face hub, through its own client and its own cache, which is asked first. Used by `opening`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from genepool import progress
from genepool.errors import InputError, one_line
from genepool.weights.formats import usable_formats

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Of the files that are carried along; code is among them, which is copied and never run.
_COMPANIONS = (
    "*.json", "*.jinja", "*.model", "*.txt", "*.spm", "*.codes", "*.tokenizer", "*.py", "LICENSE*", "NOTICE*",
)  # fmt: skip


def fetch(name: str, revision: str | None = None, *, allow_pickle: bool = False) -> Path:
    """The local snapshot of a hub model.

    Args:
        name: `org/model`.
        revision: a branch, tag or commit; the default branch when None.
        allow_pickle: take PyTorch files too where the model has no safetensors.

    Raises:
        InputError: there is no such model or revision, no network, or no access.
    """
    folder = _snapshot(name, revision, _patterns(False))
    safe = {suffix for kind in usable_formats(False) for suffix in kind.suffixes}
    if allow_pickle and not any(path.suffix in safe for path in folder.iterdir()):
        folder = _snapshot(name, revision, _patterns(True))
    return folder


def _patterns(allow_pickle: bool) -> tuple[str, ...]:
    return (*_COMPANIONS, *(pattern for kind in usable_formats(allow_pickle) for pattern in kind.hub_files))


def _snapshot(name: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from tqdm import tqdm  # type: ignore[import-untyped]
    except ImportError:
        raise InputError(
            "is a hub model, and huggingface_hub is not installed", where=name, fix="pip install 'genepool[hub]'"
        ) from None

    with progress.bar(f"fetching {name} from the hub", unit="bytes") as bar:

        class Counted(tqdm):  # type: ignore[misc]
            """The hub's own bars stay silent; the bytes it writes advance ours."""

            def __init__(self, *args: Any, **settings: Any) -> None:
                # It has a bar of files, one of bytes received and one of bytes written.
                self._counts = settings.get("unit") == "B" and not str(settings.get("desc")).startswith("Download")
                super().__init__(*args, **{**settings, "disable": True})

            def update(self, n: float | None = 1) -> bool | None:
                if self._counts:
                    bar.advance(n or 0)
                return None

        try:
            return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns), tqdm_class=Counted))
        except Exception as error:
            # The hub client raises a different class for each of: no network, no such model, gated, bad revision.
            raise InputError(
                f"is not a local folder, and the hub has not delivered it ({type(error).__name__}: {one_line(error)})",
                where=name,
                fix="Check the path, or the network and the model's name",
            ) from None
