"""Merges recipes by mergekit in one process: pairs of a file and an output folder, as `mergekit-yaml` merges them.

Run by the Python of mergekit's own environment; uses nothing of genepool. Starting mergekit takes far longer than a
merge of tiny models.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.options import MergeOptions


def main() -> None:
    words = sys.argv[1:]
    for file, out in zip(words[::2], words[1::2], strict=True):
        LoaderCache().loaders.clear()
        config = MergeConfiguration.model_validate(yaml.safe_load(Path(file).read_text(encoding="utf-8")))
        run_merge(config, out, MergeOptions(quiet=True, write_model_card=False))


if __name__ == "__main__":
    main()
