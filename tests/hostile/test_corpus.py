"""The smallest inputs that ever failed, one line of `corpus.jsonl` each: they must not fail again.

A line holds the `kind`, the command (`typed`), the content of the kind's file as `text` (or `bytes`, in base64), and in
`was` what went wrong.
"""

from __future__ import annotations

import base64
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.fuzzing import LEDGERS, End, names
from tests.hostile.hostile_files import KINDS
from tests.hostile.kinds import World, words
from tests.hostile.run_files import RUN_KINDS

CORPUS = [json.loads(line) for line in (Path(__file__).parent / "corpus.jsonl").read_text().splitlines()]
_KINDS = {kind.name: kind for kind in KINDS}


def _marked(line: dict[str, Any]) -> Any:
    """A line of the corpus; what a composition or a run has to be made for takes seconds."""
    kind = _KINDS[line["kind"]]
    slow = "/by_" in f"/{kind.file}" or kind in RUN_KINDS
    return pytest.param(line, marks=[pytest.mark.slow] if slow else [])


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The good files, made in this process; each when it is first asked for."""
    folder = tmp_path_factory.mktemp("good")

    def run(line: str) -> None:
        from genepool.cli.main import run

        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            assert run(shlex.split(line)) == 0, line

    return World(folder, run)


@pytest.mark.xdist_group("hostile")
@pytest.mark.parametrize("line", [_marked(line) for line in CORPUS], ids=lambda line: f"{line['kind']}: {line['was']}")
def test_what_once_failed_gets_one_line(
    line: dict[str, Any], good: World, cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = _KINDS[line["kind"]]
    for name in kind.copied():
        part = good.part(name)
        (shutil.copytree if part.is_dir() else shutil.copy)(part, tmp_path / name)
    content = line["text"].encode() if "text" in line else base64.b64decode(line["bytes"])
    kind.path(tmp_path).write_bytes(content)
    if kind.seal is not None:
        kind.seal(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = names(tmp_path)
    answer = cli(*words(line["typed"], good.folder))
    left = [name for name in names(tmp_path) - before if not name.startswith(LEDGERS)]
    assert not End(answer.code, answer.err, left=tuple(left)).wrong(len(content), 0), answer.err
    assert answer.code == line.get("code", 2), answer.err
