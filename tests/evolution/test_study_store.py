"""The study file: durable, idempotent, and plain about damage and change."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genepool.checked import differences
from genepool.errors import InputError
from genepool.evolution.candidates import Verdict
from genepool.evolution.store import StudyStore

XS = [np.array(x).tobytes() for x in ([0.1, 1 / 3], [0.25, 0.7])]
GENOMES = [{"a": 0.1, "b": 0.333333}, {"a": 0.25, "b": 0.7}]


def begun(path: Path) -> StudyStore:
    store = StudyStore(path / "study.sqlite")
    store.begin({"seed": 1}, {"numpy": np.__version__})
    return store


def test_what_was_written_is_there_after_opening_again(tmp_path: Path) -> None:
    with begun(tmp_path) as store:
        first, second = store.asked("s", 0, XS, GENOMES, 5)
        good = Verdict(
            0.5,
            {"t": 0.5},
            np.array([0, 1], "<f4").tobytes(),
            seconds=1.5,
            cpu_seconds=1.0,
            examples=3,
            fingerprint="f",
        )
        store.finish(second, Verdict(None, error="broke"))
        store.finish(first, good)
        store.told(0, np.array([0.5, -0.5]), 2.0)
    with begun(tmp_path) as store:
        assert store.finished() == [(first, good), (second, Verdict(None, error="broke"))]
        assert store.finished(1) == []
        assert store.get("seconds", 0) == 2.0
        assert [c.genome for c, _ in store.finished()] == GENOMES
        assert store.finished()[0][1].example_scores().tolist() == [0.0, 1.0]
        assert store.candidate("0.1") == second
        assert [store.candidate(name) for name in ("1.0", "a", "0.-1", "")] == [None] * 4


def test_looks_of_a_race_and_the_final_judgement_are_results_of_their_own(tmp_path: Path) -> None:
    with begun(tmp_path) as store:
        candidate = store.asked("s", 0, XS, GENOMES, 0)[0]
        stages = [replace(candidate, look=8), replace(candidate, look=16), candidate, replace(candidate, final=True)]
        for i, one in enumerate(stages):
            assert store.result(one) is None
            store.finish(one, Verdict(i / 4))
        assert [store.result(one) for one in stages] == [Verdict(i / 4) for i in range(4)]
        assert store.finished() == [(candidate, Verdict(0.5))]


def test_ids_depend_on_the_study_the_strategy_and_the_place_alone(tmp_path: Path) -> None:
    def ids(folder: str, settings: dict[str, int], strategy: str, generation: int) -> list[str]:
        (tmp_path / folder).mkdir()
        with StudyStore(tmp_path / folder / "s.sqlite") as store:
            store.begin(settings, {})
            return [candidate.id for candidate in store.asked(strategy, generation, XS, GENOMES, 0)]

    reference = ids("a", {"x": 1}, "s", 0)
    assert ids("b", {"x": 1}, "s", 0) == reference
    others = [ids("c", {"x": 2}, "s", 0), ids("d", {"x": 1}, "t", 0), ids("e", {"x": 1}, "s", 1)]
    assert len({*reference, *(i for some in others for i in some)}) == 8


def test_the_first_result_stands(tmp_path: Path) -> None:
    with begun(tmp_path) as store:
        candidate = store.asked("s", 0, XS, GENOMES, 0)[0]
        store.finish(candidate, Verdict(0.5))
        store.finish(candidate, Verdict(0.9))
        assert store.finished()[0][1].fitness == 0.5
        for bad in (float("nan"), float("inf")):
            with pytest.raises(ValueError, match="finite"):
                store.finish(candidate, Verdict(bad))


def test_asking_again_checks_every_bit_and_adds_what_is_missing(tmp_path: Path) -> None:
    with begun(tmp_path) as store:
        store.asked("s", 0, XS[:1], GENOMES[:1], 0)
        assert len(store.asked("s", 0, XS, GENOMES, 0)) == 2
        other = [XS[0], np.array([np.nextafter(0.25, 1), 0.7]).tobytes()]
        with pytest.raises(InputError, match=r"no longer proposes candidate 1 of generation 0.*another kind of proc"):
            store.asked("s", 0, other, GENOMES, 0)


def test_a_library_that_changed_the_search_is_named(tmp_path: Path) -> None:
    with StudyStore(tmp_path / "study.sqlite") as store:
        store.begin({}, {"numpy": "1.0", "no-such-library": "3"})
        store.asked("s", 0, XS, GENOMES, 0)
        with pytest.raises(
            InputError, match=f"no-such-library was 3 and is missing, numpy was 1.0 and is {np.__version__}"
        ):
            store.asked("s", 0, XS[::-1], GENOMES, 0)


def test_a_changed_study_is_refused_with_the_keys_that_differ(tmp_path: Path) -> None:
    old = {"seed": 1, "search": {"w": {"low": 0.0, "high": 1.0}}, "models": {"a": "0" * 64}, "names": ["x", "y"]}
    new = {"seed": 1, "search": {"w": {"low": 0.0, "high": 2.0}}, "models": {"a": "1" * 64}, "names": ["x", "z"]}
    with StudyStore(tmp_path / "study.sqlite") as store:
        store.begin(old, {})
        store.begin(old, {})
        with pytest.raises(InputError) as caught:
            store.begin(new, {})
    line = str(caught.value)
    for clause in (
        "search.w.high was 1.0 and is 2.0",
        "models.a was 000000000000 and is 111111111111",
        'names[1] was "y" and is "z"',
        "--overwrite",
    ):
        assert clause in line
    assert "seed" not in line
    assert differences({"a": 1}, {"b": [1]}) == ["a was 1 and is null", "b was null and is [1]"]


def test_told_twice_is_told_once_and_another_fitness_is_refused(tmp_path: Path) -> None:
    with begun(tmp_path) as store:
        store.told(0, np.array([0.1, 0.2]), 1.0)
        store.told(0, np.array([0.1, 0.2]), 9.0)
        assert store.get("seconds", 0) == 1.0
        with pytest.raises(InputError, match="generation 0 differ from those that"):
            store.told(0, np.array([0.1, 0.3]), 1.0)


def test_files_that_are_no_study(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite"
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 20)
    with pytest.raises(InputError, match=r"study.sqlite: cannot be used as a study file"):
        StudyStore(path)
    with pytest.raises(InputError, match="cannot be used"):
        StudyStore(tmp_path / "no" / "such" / "folder.sqlite")


def test_a_study_from_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    with begun(tmp_path) as store:
        store.set("format", 99)
    with pytest.raises(InputError, match="study version 99, this one knows 3"):
        StudyStore(tmp_path / "study.sqlite")


def test_a_crash_in_mid_write_leaves_the_last_whole_state(tmp_path: Path) -> None:
    with begun(tmp_path) as store:
        candidates = store.asked("s", 0, XS, GENOMES, 0)
        store.finish(candidates[0], Verdict(0.5))
    log = tmp_path / "study.sqlite-wal"
    assert not log.exists()
    database = sqlite3.connect(tmp_path / "study.sqlite", isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    database.execute("DELETE FROM results")
    torn = log.read_bytes() if log.exists() else b""
    database.close()
    log.write_bytes(torn[: len(torn) // 2] + b"\0" * 100)
    with begun(tmp_path) as store:
        assert len(store.finished()) == 1
        store.finish(candidates[1], Verdict(0.7))
        assert len(store.finished()) == 2
