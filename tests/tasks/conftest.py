"""Tiny models for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import write_model

from genepool.merging import registry
from genepool.tasks import metrics


@pytest.fixture
def tiny_model(tmp_path: Path) -> Callable[..., Path]:
    """`tiny_model("name", seed=1, kind="gpt2", merging=True, tie_word_embeddings=True)` -> its folder."""

    def write(name: str = "model", **changes: Any) -> Path:
        return write_model(tmp_path / name, **changes)

    return write


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers as a metric or a merge method is gone after it."""
    monkeypatch.setattr(metrics, "_registry", dict(metrics.all_metrics()))
    monkeypatch.setattr(registry, "_registry", dict(registry.all_methods()))
