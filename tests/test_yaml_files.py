"""One reader of YAML for recipes, studies, trainings, tasks and gates: a key that stands twice is refused by all."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.schema import Strict, parsed_documents, read_yaml

# What is typed, with the file that says a key twice, the key and its second line.
TWICE = {
    "recipe": (
        "genepool: 1\nmethod: linear\nmodels:\n  - model: a\n    weight: 1\n    weight: 2\n",
        "models.0.weight",
        6,
    ),
    "mergekit": ("merge_method: linear\nmodels: []\nmerge_method: ties\n", "merge_method", 3),
    "study": ("study: 1\nbase: b\nskills: [s]\nbudget: {evaluations: 1, evaluations: 2}\n", "budget.evaluations", 4),
    "training": ("train: 1\nbase: b\ntasks: [t]\nlora:\n  rank: 4\n  rank: 5\n", "lora.rank", 6),
}


@pytest.mark.parametrize("kind", TWICE)
def test_a_key_that_stands_twice_is_refused_in_a_plan(kind: str, tmp_path: Path, cli: Callable[..., Any]) -> None:
    text, key, line = TWICE[kind]
    (tmp_path / "file.yaml").write_text(text)
    answer = cli("plan", tmp_path / "file.yaml")
    assert answer.code == 2
    assert f"file.yaml:{key}: the key '{key.rpartition('.')[2]}' stands twice" in answer.err
    assert f"and {line}. Remove one of them." in answer.err


def test_gates_and_tasks_refuse_it_too(tmp_path: Path, cli: Callable[..., Any]) -> None:
    (tmp_path / "gates.yaml").write_text("gates:\n  - {task: each, at_least: 0, at_least: -1}\n")
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "test.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    (tmp_path / "task" / "task.yaml").write_text("strip: true\nmetric: contains\nstrip: false\n")
    gated = cli("compare", "a", "b", "--tasks", tmp_path / "task", "--gate", tmp_path / "gates.yaml")
    assert gated.code == 2
    assert "gates.yaml:gates.0.at_least: the key 'at_least' stands twice, on lines 2 and 2" in gated.err
    asked = cli("evaluate", "a", "--tasks", tmp_path / "task")
    assert asked.code == 2
    assert "task.yaml:strip: the key 'strip' stands twice, on lines 1 and 3" in asked.err


def test_the_way_out_is_a_page_that_there_is(tmp_path: Path, cli: Callable[..., Any]) -> None:
    for module in ("evolution.study", "evolution.strategies", "training.recipe", "composition.recipe", "measure.gates"):
        importlib.import_module(f"genepool.{module}")
    pages = {one.page for one in _subclasses(Strict) if one.page}
    assert {"reference/recipe", "reference/study", "reference/training", "reference/task"} < pages
    for page in pages:
        assert (Path(__file__).parent.parent / "docs" / f"{page}.md").is_file(), page
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("genepool: 1\nmethod: linear\nmodels: [a, b]\ndtype: float3\n")
    answer = cli("plan", recipe)
    assert answer.code == 2
    assert answer.err.strip().endswith("The page reference/recipe of the documentation lists what it takes.")


def _subclasses(cls: Any) -> list[Any]:
    return [one for sub in cls.__subclasses__() for one in (sub, *_subclasses(sub))]


def test_what_is_merged_in_may_be_said_again(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("one: &one {a: 1, b: 2}\ntwo: {<<: *one, b: 3}\n")
    assert read_yaml(file)["two"] == {"a": 1, "b": 3}
    # The same key of two types is two keys.
    file.write_text("1: a\n'1': b\n")
    assert read_yaml(file) == {1: "a", "1": "b"}
    file.write_text("1: a\n0x1: b\n")
    with pytest.raises(InputError, match="stands twice"):
        read_yaml(file)


#: Values that PyYAML answers with whatever Python raises on the way, or that mean more than they say.
ODD = (
    "!!int abc", "!!int '0b'", "!!float x", "!!float '1:2:x'", "!!bool maybe", "!!timestamp foo", "2001-99-99",
    '!!binary "%%%"', "!!int ''", "!!set [a]", "!!omap [a]", "!!map []", "!!seq {}", "!!python/name:os.system", "*nope",
    "&a [*a]", "? [a]\n : b", '"\\ud800"', "1e400", ".nan", "9" * 5_000, "[a", "!!merge x", "=",
)  # fmt: skip


@pytest.mark.parametrize("key", ["method", "weight", "normalize"])
def test_odd_values_are_one_line(key: str, tmp_path: Path, cli: Callable[..., Any]) -> None:
    for value in ODD:
        said = {"method": "linear", "weight": "1", "normalize": "true", key: value}
        lines = ["genepool: 1", f"method: {said['method']}", "models:", "  - model: m", f"    weight: {said['weight']}"]
        (tmp_path / "r.yaml").write_text("\n".join([*lines, f"normalize: {said['normalize']}", ""]))
        answer = cli("plan", tmp_path / "r.yaml")
        assert (answer.code, answer.out) == (2, ""), value
        assert answer.err.count("\n") == 1, value


def test_half_a_surrogate_pair_is_no_text_anywhere() -> None:
    """Not as a value, nor as a key: no message could name it, and no file hold it."""
    for text in (r'a: "\ud800"', r'"\udc80": 1', r'a: ["b", {"c": "d\udfff"}]', r'!!str "\ud800"'):
        with pytest.raises(InputError, match="file.yaml:1: is not valid YAML .it holds half a surrogate pair"):
            parsed_documents(text, Path("file.yaml"))
    assert parsed_documents(r'a: "\ud83d\ude00"', Path("file.yaml")) == [{"a": "\U0001f600"}]


@given(
    st.text(max_size=40), st.sampled_from(["int", "float", "bool", "timestamp", "binary", "null", "set", "omap", "str"])
)
def test_whatever_a_tag_is_put_on_is_read_or_refused(text: str, tag: str) -> None:
    try:
        parsed_documents(f"!!{tag} {json.dumps(text)}", Path("file.yaml"))
    except InputError as error:
        assert str(error).startswith("file.yaml")


@pytest.mark.slow
def test_a_word_without_end_is_cut_in_the_line(tmp_path: Path, cli: Callable[..., Any]) -> None:
    (tmp_path / "r.yaml").write_text(f"genepool: 1\nmethod: linear\nmodels: [{'m' * 200_000}]\n")
    answer = cli("plan", tmp_path / "r.yaml")
    assert answer.code == 2
    assert "mmm... (200,0" in answer.err
    assert len(answer.err) < 1_000
