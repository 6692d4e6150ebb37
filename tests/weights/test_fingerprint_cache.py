"""Fingerprints of files are computed once, and anew once a file may have changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from genepool.weights import fingerprint_cache, open_weights
from genepool.weights.fingerprint_cache import cache_folder, cached, lookup

DIGESTS = ("0" * 64, "1" * 64)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were just written count as written long ago."""
    monkeypatch.setattr(fingerprint_cache, "_TICK", -(10**18))


def test_what_was_just_written_is_not_remembered_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint_cache, "_TICK", 10**15)
    file = tmp_path / "file"
    file.write_text("one")
    assert cached([file], lambda: DIGESTS[0]) == DIGESTS[0]
    assert lookup([file]) is None


@pytest.mark.usefixtures("settled")
def test_a_file_is_hashed_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    assert lookup([file]) is None
    assert cached([file], lambda: DIGESTS[0]) == DIGESTS[0]
    assert lookup([file]) == DIGESTS[0]
    assert cached([file], lambda: pytest.fail("hashed again")) == DIGESTS[0]


def test_a_rewrite_in_place_with_the_old_time_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    before = file.stat()
    cached([file], lambda: DIGESTS[0])
    with open(file, "r+") as open_file:
        open_file.write("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert cached([file], lambda: DIGESTS[1]) == DIGESTS[1]


def test_what_changes_while_it_is_hashed_is_not_remembered(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")

    def compute() -> str:
        file.write_text("longer")
        return DIGESTS[0]

    assert cached([file], compute) == DIGESTS[0]
    assert lookup([file]) is None


@pytest.mark.usefixtures("settled")
def test_files_that_cannot_be_looked_at_are_hashed_every_time(tmp_path: Path) -> None:
    assert cached([tmp_path / "gone"], lambda: DIGESTS[0]) == DIGESTS[0]
    assert cached([tmp_path / "gone"], lambda: DIGESTS[1]) == DIGESTS[1]
    strange = tmp_path / os.fsdecode(b"a\xff")
    strange.write_text("one")
    assert cached([strange], lambda: DIGESTS[0]) == lookup([strange]) == DIGESTS[0]


def test_a_checkpoint_rewritten_with_its_old_time_has_another_fingerprint(
    tmp_path: Path, save_model: Callable[..., Path]
) -> None:
    folder = save_model("model", {"model.norm.weight": torch.ones(4)})
    file = folder / "model.safetensors"

    def fingerprint() -> Any:
        return open_weights(folder).fingerprint()

    first, times = fingerprint(), file.stat()
    save_file({"model.norm.weight": torch.zeros(4)}, tmp_path / "other.safetensors")
    file.write_bytes((tmp_path / "other.safetensors").read_bytes())
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint() != first


def test_what_a_kill_left_goes_when_the_next_fingerprint_is_taken(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("weights")
    left = cache_folder() / "fingerprints" / f".{'0' * 64}.partial"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    cached([tmp_path / "x"], lambda: "1" * 64)
    assert not left.exists()


@pytest.mark.usefixtures("settled")
def test_recheck_hashes_a_file_once_more(tmp_path: Path) -> None:
    """What no time of change tells: a disk that went bad, or a file system that keeps none."""
    file = tmp_path / "file"
    file.write_text("one")
    cached([file], lambda: DIGESTS[0])
    fingerprint_cache.recheck(True)
    try:
        assert lookup([file]) is None
        assert cached([file], lambda: DIGESTS[1]) == DIGESTS[1]
        assert cached([file], lambda: pytest.fail("hashed twice in one process")) == DIGESTS[1]
    finally:
        fingerprint_cache.recheck(False)
    assert lookup([file]) == DIGESTS[1]


@pytest.mark.usefixtures("settled")
def test_recheck_through_the_command(tmp_path: Path, cli: Callable[..., Any], save_model: Callable[..., Path]) -> None:
    base, tuned = save_model("base", {"w": torch.ones(2, 2)}), save_model("tuned", {"w": torch.zeros(2, 2)})

    def fingerprint(*first: str) -> str:
        out = tmp_path / "skill.safetensors"
        assert cli(*first, "skill", "extract", tuned, "--base", base, "--out", out, "--overwrite").code == 0
        with safe_open(out, "pt") as opened:
            return str(opened.metadata()["base_fingerprint"])

    right = fingerprint()
    for entry in (cache_folder() / "fingerprints").iterdir():
        entry.write_text(DIGESTS[0])
    assert fingerprint() == DIGESTS[0]
    assert fingerprint("--recheck") == right
    assert fingerprint() == right
