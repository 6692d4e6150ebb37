"""A library keeps skills once each, finds them, refuses what it cannot hold, and says so in one line."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from made_skills import InMemory, skill, tensors, write

from genepool.errors import InputError
from genepool.report.skill_map import Disc, skill_map
from genepool.skills.catalogue import Catalogue
from genepool.skills.library import Library
from genepool.skills.library_check import check
from genepool.skills.library_export import export, import_skill
from genepool.skills.library_search import search_similar, search_text
from genepool.skills.sketch import sketch
from genepool.weights import Form, Scaled, Sum, open_change, store

Cli = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENEPOOL_LIBRARY", str(tmp_path / "library"))
    Library.create()
    return tmp_path / "library"


@pytest.fixture
def library(folder: Path) -> Iterator[Library]:
    with Library(folder) as opened:
        yield opened


def _asked(cli: Cli, *arguments: Any) -> dict[str, Any]:
    answer = cli("library", *arguments, "--json")
    assert answer.code == 0, answer.err
    (line,) = answer.out.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def _files(library: Library) -> list[str]:
    return sorted(str(path.relative_to(library.files)) for path in library.files.rglob("*") if path.is_file())


# ---------------------------------------------------------------------- the whole way, by command line


def test_the_whole_way_by_command_line(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENEPOOL_LIBRARY", str(tmp_path / "kept"))
    assert _asked(cli, "init")["created"]
    assert not _asked(cli, "init")["created"]
    made = skill(tmp_path / "reverse.safetensors", 1, description="Turns words round", licence="mit")
    first = _asked(cli, "add", made, "--tag", "strings", "--tag", "toy", "--score", "reverse=0.93")
    assert first["added"]
    assert first["skill"]["name"] == "reverse"
    assert first["skill"]["scores"] == {"reverse": 0.93}
    again = _asked(cli, "add", made, "--name", "another")
    assert not again["added"]
    assert again["skill"]["name"] == "reverse"
    half = tmp_path / "half.safetensors"
    assert cli("skill", "scale", made, "-f", "0.5", "--out", half).code == 0
    _asked(cli, "add", half, "--name", "half")
    _asked(cli, "add", skill(tmp_path / "sort.safetensors", 2), "--tag", "strings")

    assert [kept["name"] for kept in _asked(cli, "list")["skills"]] == ["half", "reverse", "sort"]
    assert [kept["name"] for kept in _asked(cli, "list", "--tag", "strings")["skills"]] == ["reverse", "sort"]
    assert _asked(cli, "list", "--base", "other")["skills"] == []
    assert len(_asked(cli, "list", "--base", "org/base")["skills"]) == 3
    assert "reverse" in cli("library", "list").out

    shown = _asked(cli, "show", first["skill"]["digest"][:8], "--tree")
    assert shown["name"] == "reverse"
    assert [line["name"] for line in shown["descendants"]] == ["half"]
    tree = cli("library", "show", "half", "--tree")
    assert re.search(r"made of\n  reverse \(", tree.out)
    against = _asked(cli, "show", "half", "--against", "reverse")["against"]
    assert against["cosine"] == pytest.approx(1.0)
    assert against["sign_agreement"] == 1.0
    assert "1.000" in cli("library", "show", "half", "--against", tmp_path / "reverse.safetensors").out

    (best, *_) = _asked(cli, "search", "--text", "turning WORD")["hits"]
    assert best["name"] == "half"
    likes = _asked(cli, "search", "--like", "half")["hits"]
    assert likes[0]["name"] == "reverse"
    assert likes[0]["score"] == pytest.approx(1.0)
    assert _asked(cli, "search", "--like", half)["hits"] == likes
    assert cli("library", "search").code == 2
    assert cli("library", "search", "--text", "a", "--like", "b").code == 2
    assert "sort" in cli("library", "search", "--like", "reverse").out

    refused = cli("library", "rm", "reverse")
    assert refused.code == 2
    assert "half descends from reverse" in refused.err
    assert cli("library", "rm", "half").code == 0
    assert cli("library", "rm", "reverse").code == 0
    assert cli("library", "check").out.endswith("1 skills, all whole\n")
    unknown = cli("library", "show", "sorting")
    assert unknown.code == 2
    assert "Did you mean 'sort'?" in unknown.err


def test_export_and_import(tmp_path: Path, cli: Cli, folder: Path) -> None:
    made = skill(tmp_path / "s.safetensors", 1, licence="apache-2.0", scores={"old": 0.5})
    _asked(cli, "add", made, "--name", "zurück/逆", "--tag", "strings", "--description", "Reverses | strings")
    child = tmp_path / "c.safetensors"
    store(Scaled(open_change(made), 2.0), child, None, "scale", {"factor": 2.0})
    _asked(cli, "add", child, "--name", "twice", "--score", "reverse=0.875", "--description", 'Twice: the "strength"')
    _asked(cli, "export", "twice", "--out", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "lineage.json", "skill.safetensors",
    ]  # fmt: skip
    _, front, body = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "genepool", "base_model": "org/base", "base_model_relation": "adapter", "license": "apache-2.0",
    }  # fmt: skip
    assert "| reverse | 0.875 |" in body
    assert 'Twice: the "strength"' in body
    assert "zurück/逆 (" in body
    assert cli("library", "export", "twice", "--out", tmp_path / "out").code == 2
    assert cli("library", "export", "twice", "--out", tmp_path / "out", "--overwrite").code == 0

    _asked(cli, "export", "zurück/逆", "--out", tmp_path / "parent")
    other = tmp_path / "other"
    _asked(cli, "init", "--library", other)
    assert _asked(cli, "import", tmp_path / "out", "--library", other)["added"]
    assert not _asked(cli, "import", tmp_path / "out", "--library", other)["added"]
    tree = cli("library", "show", "twice", "--tree", "--library", other)
    assert "not in the library" in tree.out
    assert _asked(cli, "import", tmp_path / "parent", "--library", other)["skill"]["name"] == "zurück/逆"
    theirs, ours = (
        {kept["name"]: {**kept, "added": ""} for kept in _asked(cli, "list", "--library", each)["skills"]}
        for each in (other, folder)
    )
    assert theirs == ours
    _asked(cli, "import", skill(tmp_path / "lone.safetensors", 9), "--library", other)

    lineage = tmp_path / "out" / "lineage.json"
    said = json.loads(lineage.read_text())
    for wrong in ("[", "[]", json.dumps({**said, "tags": [1]}), json.dumps({**said, "digest": "0" * 64})):
        lineage.write_text(wrong)
        assert cli("library", "import", tmp_path / "out", "--library", other).code == 2
    lineage.unlink()
    assert not _asked(cli, "import", tmp_path / "out", "--library", other)["added"]
    assert cli("library", "import", tmp_path, "--library", other).code == 2


def test_a_map(tmp_path: Path, cli: Cli, folder: Path) -> None:
    assert cli("library", "map", "--out", tmp_path / "m.svg").code == 2
    for seed, name in enumerate(["one", "<script>&", "x" * 80]):
        _asked(cli, "add", skill(tmp_path / f"{seed}.safetensors", seed), "--name", name, "--tag", f"t{seed}")
    drawn = _asked(cli, "map", "--out", tmp_path / "m.svg")
    assert len(drawn["skills"]) == 3
    root = ElementTree.parse(tmp_path / "m.svg").getroot()
    titles = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert any(title and title.startswith("<script>&\n") for title in titles)
    assert cli("library", "map", "--out", tmp_path / "m.svg").code == 2
    assert cli("library", "map", "--out", tmp_path / "m.html", "--by", "tag").code == 0
    page = (tmp_path / "m.html").read_text()
    assert "prefers-color-scheme:dark" in page
    assert "<script" not in page
    assert not re.findall(r"(?:src|href)=", page)
    assert cli("library", "map", "--out", tmp_path / "m.png").code == 2
    assert cli("library", "map", "--out", tmp_path).code == 2


def test_names_on_a_map_do_not_cover_each_other() -> None:
    discs = [Disc(f"skill {i}", 0.01 * i, 0.0, i, f"base {i % 9}") for i in range(200)]
    drawn = ElementTree.fromstring(skill_map(discs, "many", "base"))
    assert len(drawn.findall("{*}g[1]/{*}circle")) == 200
    assert 0 < len(drawn.findall("{*}g[2]/{*}text")) < 200
    assert skill_map([Disc("", 0, 0, 0, "")], "one", "tag")
    assert skill_map([], "none", "tag")


# ---------------------------------------------------------------------- properties

_names = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp")), min_size=1, max_size=200)


@pytest.mark.slow
@given(name=_names.filter(str.strip), tags=st.lists(_names.filter(str.strip), max_size=3), words=st.text(max_size=30))
def test_any_text_is_a_name_and_comes_back(name: str, tags: list[str], words: str) -> None:
    words = words.replace("\0", "").encode("utf-8", "ignore").decode()
    with tempfile.TemporaryDirectory() as place:
        Library.create(place)
        made = skill(Path(place) / "s.safetensors")
        with Library(place) as library:
            kept, added = library.add(made, name=name, tags=tags, description=words)
            assert added
            found = library.find(name)
            assert found == kept
            assert (found.name, found.description, found.tags) == (name, words, tuple(dict.fromkeys(tags)))
            assert library.find(kept.digest[:7]).digest == kept.digest
            assert not check(library)
            export(library, name, Path(place) / "out")
            Library.create(Path(place) / "other")
            with Library(Path(place) / "other") as other:
                assert import_skill(other, Path(place) / "out")[0] == library.find(name).__class__(
                    **{**vars(kept), "added": other.catalogue.all()[0].added}
                )


@given(st.text(max_size=40))
def test_no_text_breaks_the_search(text: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        Library.create(place)
        with Library(place) as library:
            try:
                assert search_text(library, text) == []
            except InputError as error:
                assert "no word" in str(error)
            with pytest.raises(InputError):
                library.find(text)


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["add", "rm"])), max_size=12),
)
def test_any_sequence_of_adding_and_removing_leaves_what_it_should(steps: list[tuple[int, str]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        Library.create(place)
        expected: set[int] = set()
        made = [skill(Path(place) / f"{i}.safetensors", i) for i in range(5)]
        with Library(place) as library:
            for i, what in steps:
                if what == "add":
                    assert library.add(made[i])[1] == (i not in expected)
                    expected.add(i)
                elif i in expected:
                    library.remove(str(i))
                    expected.discard(i)
            assert {kept.name for kept in library.catalogue.all()} == {str(i) for i in expected}
            assert len(_files(library)) == len(expected)
            assert not check(library)


def test_search_ranks_the_closest_first(library: Library, tmp_path: Path) -> None:
    one, noise = tensors(0), tensors(1)
    for share in (0.0, 0.3, 0.6, 0.9):
        mixed = {name: share * one[name] + (1 - share) * noise[name] for name in one}
        library.add(write(tmp_path / f"{share}.safetensors", mixed))
    # The same change in another form is as close as can be.
    library.add(write(tmp_path / "sparse.safetensors", one, Form("sparse", "F32")))
    target = write(tmp_path / "target.safetensors", one)
    hits = search_similar(library, str(target))
    assert [hit.kept.name for hit in hits] == ["sparse", "0.9", "0.6", "0.3", "0.0"]
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)
    assert len(search_similar(library, str(target), 2)) == 2
    stored = library.catalogue.sketch(library.find("sparse").digest)
    assert stored is not None
    expected = sketch(InMemory(one))
    torch.testing.assert_close(torch.tensor(stored.whole), torch.tensor(expected.whole))
    assert stored.layers.keys() == expected.layers.keys()
    assert stored.squared == pytest.approx(expected.squared)


def test_words_are_found_stemmed_and_by_their_beginnings(library: Library, tmp_path: Path) -> None:
    library.add(skill(tmp_path / "a.safetensors", 1, description="Reverses strings"), name="alpha", tags=["text/tools"])
    library.add(skill(tmp_path / "b.safetensors", 2, description="Sorts numbers"), name="beta", scores={"sort_9": 0.5})
    for text, names in {
        "reversing": ["alpha"], "STRING": ["alpha"], "numb": ["beta"], "tools": ["alpha"], "sort_9": ["beta"],
        'sort" OR alpha NEAR(': ["alpha", "beta"], "org": ["alpha", "beta"], "nothing": [],
    }.items():  # fmt: skip
        assert sorted(hit.kept.name for hit in search_text(library, text)) == names, text
    assert search_text(library, "beta reverse")[0].kept.name == "beta"


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x7fb", "a\u2028b", "\ud800", "n" * 201])
def test_names_that_are_none(library: Library, tmp_path: Path, name: str) -> None:
    made = skill(tmp_path / "s.safetensors")
    with pytest.raises(InputError, match="the name"):
        library.add(made, name=name)
    with pytest.raises(InputError, match="a tag "):
        library.add(made, tags=[name])
    with pytest.raises(InputError, match="the name of a scored task"):
        library.add(made, scores={name: 1.0})
    assert not library.catalogue.all()
    assert not _files(library)


def test_a_name_is_taken_once(library: Library, tmp_path: Path) -> None:
    library.add(skill(tmp_path / "s.safetensors", 1), name="x")
    with pytest.raises(InputError, match="another skill is called 'x'"):
        library.add(skill(tmp_path / "t.safetensors", 2), name="x")
    assert len(_files(library)) == 1


@pytest.mark.parametrize(
    ("score", "part"),
    [
        ("reverse", "expected TASK=SCORE"),
        ("=1", "expected TASK=SCORE"),
        ("a=x", "expected TASK=SCORE"),
        ("a=inf", "from 0 to 1, got inf"),
    ],
)
def test_scores_that_are_none(folder: Path, tmp_path: Path, cli: Cli, score: str, part: str) -> None:
    answer = cli("library", "add", skill(tmp_path / "s.safetensors"), "--score", score)
    assert answer.code == 2
    assert part in answer.err


def test_broken_skills_are_refused(library: Library, tmp_path: Path) -> None:
    whole = skill(tmp_path / "whole.safetensors").read_bytes()
    broken = tmp_path / "broken.safetensors"
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        broken.write_bytes(whole[:size])
        with pytest.raises(InputError, match="broken.safetensors"):
            library.add(broken)
    bad = write(tmp_path / "fine.safetensors", {"w": torch.ones(4, 4)}).read_bytes()
    broken.write_bytes(bad[:-4] + torch.tensor(float("nan")).numpy().tobytes())
    with pytest.raises(InputError, match="broken.safetensors: the change of w is NaN"):
        library.add(broken)
    for what, text in {
        "lineage": '{"a": NaN}', "scores": '{"a": "b"}', "training": '{"a": "\\ud800"}', "scores ": "",
    }.items():  # fmt: skip
        _with_metadata(broken, {what.strip(): text or '{"a": 1e999}'})
        with pytest.raises(InputError, match="broken.safetensors"):
            library.add(broken)
    _with_metadata(broken, {"description": "\ud800"})
    with pytest.raises(InputError, match="description is not text"):
        library.add(broken)
    with pytest.raises(InputError, match="no such file"):
        library.add(tmp_path / "nowhere.safetensors")
    assert not library.catalogue.all()
    assert not _files(library)


def _with_metadata(path: Path, metadata: dict[str, str]) -> None:
    """A skill file with strings in its header that `Header` would not write."""
    path.unlink()
    data = skill(path).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] |= metadata
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def test_what_is_no_library(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENEPOOL_LIBRARY", raising=False)
    nothing = cli("library", "list")
    assert nothing.code == 2
    assert "is not a library" in nothing.err
    catalogue = tmp_path / "library" / "catalogue.sqlite"
    catalogue.parent.mkdir()
    catalogue.write_text("my notes, which are rather long and not a database at all" * 20)
    for command in ("list", "init"):
        other = cli("library", command)
        assert other.code == 2
        assert "not a catalogue" in other.err
    catalogue.unlink()
    with sqlite3.connect(catalogue) as database:
        database.execute("CREATE TABLE mine (x)")
    for command in ("list", "init"):
        foreign = cli("library", command)
        assert foreign.code == 2
        assert "is a database of another program" in foreign.err
    catalogue.write_bytes(b"")
    assert "created only in part" in cli("library", "list").err
    assert cli("library", "init").code == 0
    assert cli("library", "list").code == 0


def test_a_newer_catalogue_is_left_alone(folder: Path, cli: Cli) -> None:
    with sqlite3.connect(folder / "catalogue.sqlite") as database:
        database.execute("PRAGMA user_version = 2")
    for command in ("list", "init"):
        answer = cli("library", command)
        assert answer.code == 2
        assert "newer genepool (library version 2, this one knows 1)" in answer.err
    with sqlite3.connect(folder / "catalogue.sqlite") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_a_damaged_catalogue_is_one_clear_line(folder: Path, tmp_path: Path, cli: Cli) -> None:
    _asked(cli, "add", skill(tmp_path / "s.safetensors"))
    path = folder / "catalogue.sqlite"
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    answer = cli("library", "list")
    assert answer.code == 2
    assert "damaged" in answer.err
    assert cli("library", "check").code in (1, 2)


def test_a_full_disk_leaves_nothing(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = skill(tmp_path / "s.safetensors")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="no space left"):
            library.add(made)
    assert not _files(library)
    # The catalogue may not grow by another page: what SQLite says on a full disk.
    (pages,) = library.catalogue._db.execute("PRAGMA page_count").fetchone()
    library.catalogue._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(InputError, match="no space left"):
        for seed in range(30):
            library.add(skill(tmp_path / f"{seed}.safetensors", seed))
    library.catalogue._db.execute("PRAGMA max_page_count = 100000")
    kinds = {problem.kind for problem in check(library, repair=True)}
    assert kinds == {"orphan"}
    assert not check(library)


def test_a_lock_that_stays_is_one_clear_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = skill(tmp_path / "s.safetensors")
    with Library(folder) as library:
        library.catalogue._db.execute("PRAGMA busy_timeout = 1")
        other = sqlite3.connect(folder / "catalogue.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(InputError, match="keeps writing"):
            library.add(made)
        assert library.catalogue.all() == []
        other.execute("ROLLBACK")
        other.close()
        assert library.add(made)[1]


_AS_NOBODY = """
import os, sys, tempfile
from genepool.cli.main import run
folder, made, cache = sys.argv[1:]
os.environ["GENEPOOL_CACHE"] = cache
def codes(*commands):
    return [run(["library", *words, "--library", folder]) for words in commands]
reading = ["list"], ["show", "s", "--tree"], ["search", "--text", "s"], ["search", "--like", "s"], ["check"]
# Once as whoever we are, so that every module is loaded: nobody may be kept from reading them.
codes(*reading)
with tempfile.TemporaryDirectory() as other:
    run(["library", "init", "--library", other])
    run(["library", "add", made, "--library", other])
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
print(codes(*reading, ["add", made], ["rm", "s"]), file=sys.stderr)
"""


@pytest.mark.slow
def test_a_library_that_may_not_be_written_to_can_be_read() -> None:
    place = Path(tempfile.mkdtemp())
    try:
        place.chmod(0o755)
        folder = place / "library"
        Library.create(folder)
        with Library(folder) as library:
            library.add(skill(place / "s.safetensors", 1))
        made = skill(place / "t.safetensors", 2)
        for path in [*folder.rglob("*"), folder]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        done = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, str(folder), str(made), str(place / "cache")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        *lines, codes = done.stderr.splitlines()
        assert codes == "[0, 0, 0, 0, 0, 2, 2]", done.stderr
        assert "cannot be written here" in lines[-2]
        assert "cannot be written to here" in lines[-1]
    finally:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)
        shutil.rmtree(place)


def test_a_disk_without_locks_can_be_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Library(folder) as library:
        library.add(skill(tmp_path / "s.safetensors"))
    connect = sqlite3.connect

    def locked_out(address: str, **options: Any) -> sqlite3.Connection:
        if "immutable" in str(address):
            return connect(address, **options)
        # What cannot be opened says so in the same way as what cannot be locked.
        return connect(str(address).replace("catalogue", "nowhere"), **options)

    monkeypatch.setattr(sqlite3, "connect", locked_out)
    with Library(folder) as library:
        assert [kept.name for kept in library.catalogue.all()] == ["s"]
        with pytest.raises(InputError, match="cannot be written"):
            library.remove("s")
    (folder / "catalogue.sqlite-journal").write_text("unfinished")
    with pytest.raises(InputError, match="rolled back first"):
        Library(folder)


# ---------------------------------------------------------------------- lineage


def test_lineage_is_a_tree_both_ways(library: Library, tmp_path: Path) -> None:
    one, two = (open_change(skill(tmp_path / f"{i}.safetensors", i)) for i in (1, 2))
    both, more = tmp_path / "both.safetensors", tmp_path / "more.safetensors"
    store(Sum([one, two]), both, None, "sum")
    store(Sum([open_change(both), one]), more, None, "sum")
    for path in (tmp_path / "1.safetensors", both, more):
        library.add(path)
    from genepool.skills.library_tree import ancestors, descendants, tree_lines

    up = tree_lines(ancestors(library, library.find("more")))
    assert [re.sub(r"[0-9a-f]{12}", "#", line) for line in up] == [
        "both (#, sum)", "  1 (#, extract)" if "extract" in up[1] else "  1 (#)", "  #, not in the library",
        "1 (#, see above)",
    ]  # fmt: skip
    down = descendants(library, library.find("1"))
    assert [(line.depth, line.name, line.again) for line in down] == [
        (1, "both", False), (2, "more", False), (1, "more", True),
    ]  # fmt: skip
    with pytest.raises(InputError, match="both and more descend from 1"):
        library.remove("1")
    for name in ("more", "both", "1"):
        library.remove(name)
    assert not _files(library)


def test_a_long_line_of_descent_is_no_reason_to_fail(library: Library, tmp_path: Path) -> None:
    from dataclasses import replace

    from genepool.skills.library_tree import ancestors

    first, _ = library.add(skill(tmp_path / "s.safetensors"))
    drawn = library.catalogue.sketch(first.digest)
    assert drawn is not None
    with library.catalogue.writing():
        for i in range(1, 1500):
            lineage = {"parents": [first.digest if i == 1 else f"{i - 1:064x}"]}
            library.catalogue.insert(replace(first, digest=f"{i:064x}", name=f"g{i}", lineage=lineage), drawn)
    assert len(ancestors(library, library.find("g1499"))) == 1499


# ---------------------------------------------------------------------- check


def test_check_finds_and_repairs(library: Library, tmp_path: Path, cli: Cli) -> None:
    for i in range(6):
        library.add(skill(tmp_path / f"{i}.safetensors", i, name=f"skill {i}"))
    child = tmp_path / "child.safetensors"
    store(Scaled(open_change(tmp_path / "5.safetensors"), 2.0), child, None, "scale", words={"name": "child"})
    library.add(child)
    assert cli("library", "check").code == 0
    paths = [library.path(library.find(f"skill {i}").digest) for i in range(6)]
    # A damaged file, a missing one, an orphan, one under a wrong name, no skill, half a copy; a missing ancestor.
    paths[0].write_bytes(paths[0].read_bytes()[:-4] + b"1234")
    paths[1].unlink()
    library.drop_row(library.find("skill 2"))
    os.rename(paths[3], library.files / "moved.safetensors")
    (library.files / "no skill.safetensors").write_text("hello")
    (library.files / "1-2.partial").write_text("half")
    paths[5].unlink()
    library.close()

    found = cli("library", "check", "--json")
    assert found.code == 1
    problems = json.loads(found.out)["problems"]
    assert sorted(problem["kind"] for problem in problems) == [
        "damaged", "missing", "missing", "missing", "orphan", "orphan", "orphan", "partial",
    ]  # fmt: skip
    assert not any(problem["repaired"] for problem in problems)
    assert json.loads(cli("library", "check", "--json").out)["problems"] == problems

    repaired = cli("library", "check", "--repair")
    assert repaired.code == 1
    assert "skill 5: its file is missing" in repaired.out
    assert "child descends from it" in repaired.out
    with Library(library.folder) as again:
        assert [kept.name for kept in again.catalogue.all()] == [
            "child", "skill 2", "skill 3", "skill 4", "skill 5",
        ]  # fmt: skip
        assert sorted(path.name for path in (again.files / "damaged").iterdir()) == sorted(
            [paths[0].name, "no skill.safetensors"]
        )
        # Adding it again brings the missing file back.
        assert not again.add(tmp_path / "5.safetensors")[1]
        assert not check(again)
        assert again.add(tmp_path / "0.safetensors")[1]
    assert cli("library", "check").code == 0


def test_an_orphan_whose_name_is_taken_gets_another(library: Library, tmp_path: Path) -> None:
    library.add(skill(tmp_path / "a.safetensors", 1, name="x"))
    first = library.find("x")
    library.drop_row(first)
    library.add(skill(tmp_path / "b.safetensors", 2, name="x"))
    assert len(check(library, repair=True)) == 1
    assert [kept.name for kept in library.catalogue.all()] == ["x", f"x ({first.short})"]


def test_a_copy_in_work_is_left_alone(library: Library, tmp_path: Path) -> None:
    made = skill(tmp_path / "s.safetensors")
    with library._copied(made) as (partial, _), Library(library.folder) as other:
        assert not check(other, repair=True)
        assert partial.is_file()
    assert not _files(library)


def test_the_catalogue_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "catalogue.sqlite"
    monkeypatch.setattr("genepool.skills.catalogue._SCHEMA", "CREATE TABLE a (x);\nnonsense;\n")
    with pytest.raises(InputError):
        Catalogue.create(path)
    monkeypatch.undo()
    assert Catalogue.create(path)
    assert not Catalogue.create(path)


@pytest.mark.slow
def test_searching_by_a_task(tiny_testbed: Any, tmp_path: Path, cli: Callable[..., Any]) -> None:
    library = tmp_path / "library"
    assert cli("library", "init", "--library", library).code == 0
    for name in ("sort", "reverse", "upper"):
        file = tmp_path / f"{name}.safetensors"
        found = cli("skill", "extract", tiny_testbed.full[name], "--base", tiny_testbed.base, "--out", file)
        assert found.code == 0, found.err
        assert cli("library", "add", file, "--library", library).code == 0
    asked = ("library", "search", "--tasks", tiny_testbed.tasks / "reverse", "--library", library, "--examples", 40)
    for more in ([], ["--cheap"]):
        answer = cli(*asked, "--base", tiny_testbed.base, *more, "--json")
        assert answer.code == 0, answer.err
        told = json.loads(answer.out)
        assert told["hits"][0]["name"] == "reverse"
        assert told["examples"] == 40
        assert cli(*asked, "--base", tiny_testbed.base, *more).code == 0
    assert "--base" in cli(*asked).err
    assert "expected one" in cli(*asked[:3], tiny_testbed.tasks, *asked[4:], "--base", tiny_testbed.base).err
    assert "one thing to search by" in cli(*asked, "--base", tiny_testbed.base, "--text", "x").err
