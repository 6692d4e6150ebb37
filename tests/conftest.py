"""Fixtures every room's tests share: the command line in-process, tiny checkpoints, the tiny testbed."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings

from genepool import progress

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# As the command does: torch and transformers leave a million objects that looking for garbage goes through.
gc.set_threshold(10_000, 20, 20)

# Examples are drawn from a fixed seed, so a red build is red again on the next run.
settings.register_profile(
    "genepool", derandomize=True, deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("genepool")


class Answer(NamedTuple):
    """What one command answered."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _own_cache_and_ledger(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """No test reads or writes the user's cache or ledger, and none leaves progress switched off for the next."""
    # Beside the test's folder, not in it: what a class is asked may be written down while a test looks what is left.
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path_factory.getbasetemp() / "caches" / tmp_path.name))
    monkeypatch.setenv("GENEPOOL_LEDGER", str(tmp_path / "ledger.sqlite"))
    yield
    progress.set_quiet(False)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Runs one genepool command in this process: `cli("merge", recipe, out).code`."""
    from genepool.cli.main import run

    def call(*arguments: Any) -> Answer:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return call


@pytest.fixture
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress tells every piece of work as it begins, however short: what is silent now was told to be."""
    speak = progress._speak_up
    monkeypatch.setattr(progress, "_speak_up", lambda _: speak(0))
    monkeypatch.setattr(progress, "_tick", lambda _: None)


@pytest.fixture
def save_model(tmp_path: Path) -> Callable[..., Path]:
    """Writes tensors as a model folder: `save_model("a", {"w": tensor}, tie_word_embeddings=True)`."""
    import json

    from safetensors.torch import save_file

    def save(name: str, tensors: dict[str, Any], **config: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
        return folder

    return save


@pytest.fixture(scope="session")
def tiny_testbed() -> Any:
    """The tiny testbed, trained once and kept in the repository's cache between runs."""
    from genepool.testbed import build

    folder = Path(__file__).parent.parent / ".cache" / "testbed-tiny"
    # Ours alone: when the schedule changes, the old one is replaced.
    return build(folder, tiny=True, overwrite=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The fast tests of a file stay in one process, so its fixtures are made once; a slow test goes where a core is."""
    for item in items:
        if not any(item.get_closest_marker(name) for name in ("slow", "harden", "xdist_group")):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


def pytest_collection_finish() -> None:
    """What the test files imported stays, and no search for garbage looks at it again."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Says how many kills, interrupts, races and mutations the tests counted, in all processes."""
    reports = [one for kind in terminalreporter.stats.values() for one in kind if getattr(one, "when", "") == "call"]
    for what, over, well in (
        ("kills", "commands", "nothing lost"),
        ("interrupts", "commands", "each ended in one line"),
        ("races", "commands", "no mixed output"),
        ("mutated files", "kinds of file", "each got its result or one line"),
        ("mutated headers", "reader", "each was read or refused"),
    ):
        number: Counter[str] = Counter()
        for report in reports:
            for name, counted in report.user_properties:
                # The name of the command is the test's parameter.
                number[report.nodeid.partition("[")[2]] += counted if name == what else 0
        counting = [report for report in reports if any(name == what for name, _ in report.user_properties)]
        failed = sum(report.failed for report in counting)
        if total := number.total():
            end = f"{failed} tests failed" if failed else well
            terminalreporter.write_line(f"{what}: {total:,} over {sum(map(bool, number.values()))} {over}, {end}")
