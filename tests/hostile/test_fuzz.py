"""No file from elsewhere breaks a command: `make harden` tries 40 mutations of every kind, more when it is told."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.fuzzing import MEGABYTES, Case, Fuzzer, tried_headers
from tests.hostile.hostile_files import KINDS
from tests.hostile.kinds import Kind
from tests.hostile.mutations import ODD, mutated
from tests.hostile.tried_files import COUNTS, PAGE, counted, table_of, with_table

FACTOR = int(os.environ.get("GENEPOOL_HARDEN", "1"))
MUTATIONS, HEADERS = 40 * FACTOR, 50_000 * FACTOR


@pytest.mark.harden
@pytest.mark.xdist_group("hostile")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_no_file_breaks_a_command(kind: Kind, fuzzer: Fuzzer, record_property: Callable[[str, object], None]) -> None:
    wrong = {f"seed {seed}: {Case(kind, seed).typed}": fuzzer.run(Case(kind, seed)).wrong for seed in range(MUTATIONS)}
    record_property("mutated files", len(wrong))
    assert not (found := {case: said for case, said in wrong.items() if said}), found


@pytest.mark.harden
def test_no_header_breaks_the_reader(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """The header of a file of weights is read before anything else of it; here without a command around it."""
    tried = list(tried_headers(range(HEADERS), tmp_path))
    record_property("mutated headers", len(tried))
    assert not [one for one in tried if one.wrong or one.seconds > 1 or one.megabytes > MEGABYTES]


def test_the_page_shows_what_was_counted() -> None:
    page = PAGE.read_text()
    assert page == with_table(page, json.loads(COUNTS.read_text()))
    with pytest.raises(ValueError, match="once each"):
        with_table(page + page, {})


def test_of_equal_cases_the_last_counts() -> None:
    one = {
        "kind": "recipe",
        "seed": 1,
        "code": 3,
        "seconds": 1.0,
        "megabytes": 9.0,
        "usual": 4.0,
        "wrong": "exit code 3",
    }
    ended = {**one, "seed": 2, "code": -9, "seconds": None, "megabytes": None}
    kinds = counted([one, ended, {**one, "code": 2, "wrong": ""}])
    assert kinds["recipe"] == {"tried": 2, "0": 0, "1": 0, "2": 1, "seconds": 1.0, "idle": 9, "good": 5, "wrong": 1}
    rows = [line for line in table_of(kinds).splitlines() if line.startswith(("| recipe", "| **all", "| gates"))]
    assert rows == [
        "| gates | 0 | 0 | 0 | 0 | 0.00 | 0 | 0 | 0 |",
        "| recipe | 2 | 0 | 0 | 1 | 1.00 | 9 | 5 | 1 |",
        "| **all but the headers** | 2 | 0 | 0 | 1 | 1.00 | 9 | 5 | 1 |",
    ]


@pytest.mark.parametrize("form", ["json", "jsonl", "yaml", "safetensors", "tensors", "jinja", "bytes"])
def test_a_seed_is_a_mutation(form: str, tmp_path: Path) -> None:
    """The same again, so that a failure can be looked at; and nearly always another file."""
    good = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    data = struct.pack("<Q", len(good)) + good + bytes(8) if form in ("safetensors", "tensors") else good
    file, seen = tmp_path / "file", set()
    for seed in range(50):
        file.write_bytes(data)
        mutated(file, form, seed)
        found = file.read_bytes()
        assert _again(data, form, seed, tmp_path) == found
        seen.add(found)
    assert len(seen - {data}) > 25
    assert len(ODD) == len({repr(one) for one in ODD}), "an odd value stands twice"


def _again(data: bytes, form: str, seed: int, folder: Path) -> bytes:
    other = folder / "other"
    other.write_bytes(data)
    mutated(other, form, seed)
    return other.read_bytes()
