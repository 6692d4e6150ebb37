"""The world that compositions are tested in: tiny models of random weights, made within a second."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))

import compose_world
import text_world


@pytest.fixture(scope="session")
def small_bed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, full/{first,second,third}, tasks/{first,second,third,plain}."""
    return compose_world.build(tmp_path_factory.mktemp("composition"))


@pytest.fixture(scope="session")
def text_bed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, lora/{one,two}, tasks/{one,two}: a tiny Llama and adapters of it."""
    return text_world.build(tmp_path_factory.mktemp("composed-text"))


@pytest.fixture
def compose(cli: Callable[..., Any], small_bed: Path, tmp_path: Path) -> Callable[..., Any]:
    """`compose("out", *options, method="adamerging", skills=("first", "second"))`."""

    def call(
        out: str,
        *options: Any,
        method: str = "adamerging",
        skills: tuple[Any, ...] = ("first", "second"),
        **settings: Any,
    ) -> Any:
        named = [small_bed / "full" / one if isinstance(one, str) else one for one in skills]
        return cli(
            "compose", method, *named, "--base", small_bed / "base", "--tasks", small_bed / "tasks",
            "--examples", 8, "--out", tmp_path / out, "-q", *compose_world.quick(**settings), *options,
        )  # fmt: skip

    return call


@pytest.fixture
def own_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers as a metric is gone after it."""
    from genepool.tasks import metrics

    monkeypatch.setattr(metrics, "_registry", dict(metrics.all_metrics()))
