"""Generated tasks: the same from the same seed, fresh for ever, splits that never meet; wrong templates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genepool.errors import InputError
from genepool.tasks import Example, generated_task, load_tasks
from genepool.tasks.generated import GeneratedSplits, Variable

SUMS = """
variables:
  a: {integer: [0, 99]}
  b: {integer: [0, 99]}
prompt: "{{ a }}+{{ b }}="
answer: "{{ a + b }}"
tags: ["{{ 'large' if a + b > 99 else 'small' }}"]
counts: {train: 20, valid: 30, test: 40}
"""
MIX = """
variables:
  word: {letters: [3, 5], alphabet: abcd}
mix:
  input: word
  k: [1, 3]
  skills:
    reverse: {says: R, does: "{{ text[::-1] }}"}
    upper: {says: U, does: "{{ text | upper }}"}
    first: {says: F, does: "{{ text[:1] }}"}
prompt: "{{ says | join(',') }}:{{ word }}="
counts: {test: 60}
"""
# What each skill of the mix does, said again in Python.
DOES: dict[str, Callable[[str], str]] = {
    "R": lambda text: text[::-1],
    "U": str.upper,
    "F": lambda text: text[:1],
}


@pytest.fixture
def template(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        folder = tmp_path / "tasks" / "t"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "template.yaml").write_text(text)
        return tmp_path / "tasks"

    return write


def test_examples_are_right_distinct_and_the_same_again(template: Callable[[str], Path]) -> None:
    (task,), (again,) = load_tasks(template(SUMS)), load_tasks(template(SUMS))
    for split, count in (("train", 20), ("valid", 30), ("test", 40)):
        examples = task.examples(split)
        assert examples == again.examples(split)
        assert len({example.key for example in examples}) == len({e.id for e in examples}) == len(examples) == count
        for example in examples:
            a, b = map(int, example.prompt.rstrip("=").split("+"))
            assert example.answers == (str(a + b),)
            assert example.tags == ("large" if a + b > 99 else "small",)


@pytest.mark.slow
def test_fresh_draws_are_fresh_and_splits_never_meet(template: Callable[[str], Path]) -> None:
    (task,) = load_tasks(template(SUMS))
    keys: dict[str, set[str]] = {
        split: {example.key for number in range(40) for example in task.examples(f"{split}@{number}")}
        for split in ("train", "valid", "test")
    }
    assert not keys["train"] & keys["valid"]
    assert not keys["train"] & keys["test"]
    assert not keys["valid"] & keys["test"]
    # Of 10,000 sums 2,500 are validation's; forty draws of thirty see many more than one draw.
    assert len(keys["valid"]) > 600
    assert task.examples("valid@0") == task.examples("valid")
    assert task.examples("valid@1") != task.examples("valid@2")
    (other,) = load_tasks(template(SUMS + "seed: 1\n"))
    assert other.examples("test") != task.examples("test")
    for wrong in ("valid@", "valid@-1", "valid@x", "dev"):
        with pytest.raises(InputError, match="no split"):
            task.examples(wrong)


def test_a_mix_combines_its_skills_in_the_order_it_says(template: Callable[[str], Path]) -> None:
    (task,) = load_tasks(template(MIX))
    sizes = set()
    for example in task.examples("test"):
        says, word = example.prompt.rstrip("=").split(":")
        result = word
        for mark in says.split(","):
            result = DOES[mark](result)
        assert example.answers == (result,)
        assert [tag[0].upper() for tag in example.tags] == says.split(",")
        sizes.add(len(example.tags))
    assert sizes == {1, 2, 3}


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 30))
def test_a_function_draws_as_well(seed: int, count: int) -> None:
    def draw(generator: np.random.Generator) -> dict[str, Any]:
        number = int(generator.integers(10**6))
        return {"prompt": f"{number}?", "answer": str(number)} if number % 3 else {}

    task = generated_task("t", draw, counts={"test": count}, seed=seed)
    examples = task.examples("test@7")
    assert len(examples) == count
    assert all(int(example.answer) % 3 for example in examples)
    assert generated_task("t", draw, counts={"test": count}, seed=seed).examples("test@7") == examples


def test_what_runs_out_says_how_many_there_were(template: Callable[[str], Path]) -> None:
    (task,) = load_tasks(
        template('variables: {a: {integer: [0, 9]}}\nprompt: "{{ a }}"\nanswer: x\ncounts: {test: 10}\n')
    )
    with pytest.raises(InputError, match=r"got \d different examples for test, expected 10"):
        task.examples("test")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt: a\nansver: b", "Did you mean 'answer'?"),
        ('prompt: "{{ a }}"\nanswer: b', "template.yaml:prompt: 'a' is undefined"),
        ('prompt: "{{ a"\nanswer: b', "template.yaml:prompt"),
        ('prompt: a\nanswer: "{{ 1 / 0 }}"', "division by zero"),
        ("prompt: a\nanswer: b\nvariables: {a: {integer: [3, 1]}}", "Write the lower end first"),
        ("prompt: a\nanswer: b\nvariables: {a: {integer: [1, 3], choice: [a]}}", "Give one"),
        ("prompt: a\nanswer: b\nvariables: {text: {integer: [1, 3]}}", "cannot be a variable's name"),
        ("prompt: a\nanswer: b\nvariables: {a: {choice: []}}", "choice"),
        ("prompt: a\nanswer: b\ncounts: {dev: 3}", "no split 'dev'"),
        ("prompt: a\nanswer: b\ncounts: {test: 0}", "must be from 1 to 1,000,000"),
        ("prompt: a\nanswer: b\ncounts: {test: 1000001}", "must be from 1 to 1,000,000"),
        ("prompt: a\nanswer: b\nvariables: {a: {integer: [0, 9223372036854775808]}}", "from -2^63"),
        ("prompt: a\nanswer: b\nvariables: {a: {number: [-1.0e+308, 1.0e+308]}}", "too far apart"),
        (MIX.replace("[1, 3]", "4"), "from 1 to 3, the number of skills"),
        (MIX.replace("input: word", "input: wrd"), "works on 'wrd'"),
        ("""prompt: "{{ ''.__class__ }}"\nanswer: b""", "unsafe"),
        ("""prompt: "{{ 'a' * 1000000000 }}"\nanswer: b""", "is too long"),
        ("""prompt: "{{ 9 ** 9999999 }}"\nanswer: b""", "is too large"),
        ("""prompt: "{{ '%999999999d' % 1 }}"\nanswer: b""", "Join them with ~"),
    ],
)
def test_a_wrong_template_is_told_when_it_is_loaded(template: Callable[[str], Path], text: str, said: str) -> None:
    tasks = template(text)
    with pytest.raises(InputError) as caught:
        load_tasks(tasks)
    assert said in str(caught.value)
    assert str(tasks / "t" / "template.yaml") in str(caught.value)


def test_a_template_beside_files_is_refused(template: Callable[[str], Path]) -> None:
    tasks = template(SUMS)
    (tasks / "t" / "test.jsonl").write_text('{"prompt": "a", "answer": "b"}')
    with pytest.raises(InputError, match="the task has example files and a template"):
        load_tasks(tasks)


# ---------------------------------------------------------------------- further examples


def splits_of(path: Path) -> GeneratedSplits:
    (task,) = load_tasks(path)
    assert isinstance(task.splits, GeneratedSplits)
    return task.splits


def fresh(splits: GeneratedSplits, count: int, skills: Sequence[str] = (), cell: str = "") -> list[Example]:
    only = splits.cells[cell] if cell else None
    drawn = [splits.fresh(np.random.default_rng(number), "x", skills, only) for number in range(count)]
    return [one for one in drawn if one is not None]


def test_a_further_example_combines_the_skills_that_are_wanted(template: Callable[[str], Path]) -> None:
    splits = splits_of(template(MIX))
    assert splits.skills == ("reverse", "upper", "first")
    found = fresh(splits, 60, ("upper", "reverse"))
    # Half of all examples are for training.
    assert 15 < len(found) < 45
    for one in found:
        word = one.prompt.split(":")[1][:-1]
        assert one.prompt.startswith("U,R:")
        assert one.answers == (word[::-1].upper(),)
        assert one.tags == ("upper", "reverse")
    with pytest.raises(InputError, match="the mix has no skill 'uper'. Did you mean 'upper'?"):
        splits.fresh(np.random.default_rng(0), "x", ("uper",))
    kept = splits_of(template(MIX.replace("k: [1, 3]", "k: [1, 3]\n  shuffled: false")))
    assert {one.tags for one in fresh(kept, 9, ("upper", "reverse"))} == {("reverse", "upper")}


def test_further_examples_are_of_no_other_split(template: Callable[[str], Path]) -> None:
    splits = splits_of(template(SUMS))
    known = {one.key for split in ("valid", "test") for number in range(3) for one in splits[f"{split}@{number}"]}
    assert not known & {one.key for one in fresh(splits, 300)}


def test_parts_of_what_a_template_draws(template: Callable[[str], Path]) -> None:
    splits = splits_of(template(SUMS))
    assert list(splits.cells)[:4] == ["a=0..24", "a=25..49", "a=50..74", "a=75..99"]
    found = fresh(splits, 40, cell="a=75..99")
    assert found
    assert all(int(one.prompt.split("+")[0]) >= 75 for one in found)
    assert list(splits_of(template(MIX)).cells) == ["word=3", "word=4", "word=5"]


@pytest.mark.parametrize(
    ("variable", "parts"),
    [
        (Variable(integer=(3, 3)), []),
        (Variable(integer=(1, 6)), ["1", "2..3", "4", "5..6"]),
        (Variable(number=(0.0, 1.0)), ["0..0.25", "0.25..0.5", "0.5..0.75", "0.75..1"]),
        (Variable(number=(1.0, 1.0)), []),
        (Variable(choice=["a"]), []),
        (Variable(choice=["a", "b", "c", "d", "e"]), ["a", "b", "c", "d..e"]),
        (Variable(letters=(0, 2), alphabet="xy"), ["0", "1", "2"]),
    ],
)
def test_parts_of_a_variable(variable: Variable, parts: list[str]) -> None:
    found = variable.parts()
    assert list(found) == parts
    for part in found.values():
        assert part.draw(np.random.default_rng(0)) is not None


def test_a_python_function_draws_further_examples_too() -> None:
    task = generated_task("sums", lambda draw: {"prompt": f"{draw.integers(100)}+1=", "answer": "?"})
    assert isinstance(task.splits, GeneratedSplits)
    assert (task.splits.skills, task.splits.cells, task.splits.digest) == ((), {}, "")
    assert fresh(task.splits, 20)


def test_a_template_is_known_by_what_it_says(template: Callable[[str], Path]) -> None:
    digests = [splits_of(template(text)).digest for text in (SUMS, SUMS, SUMS.replace("99]}\n  b", "98]}\n  b"))]
    assert digests[0] == digests[1] != digests[2]
